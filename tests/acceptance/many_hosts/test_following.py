"""Jobs of many hosts, seen on terminals."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import (
        StartTerminal,
        Terminal,
    )
    from tests.acceptance.many_hosts.conftest import Hosts, Server, StartHosts


SLOW: Final = ("--latency-ms", "50")
COUNTED: Final = re.compile(r"([\d,]+) of ([\d,]+)")


def done_in(lines: list[str]) -> int:
    """Return how many invoices a view says are done; 0 if it is not there."""
    found = COUNTED.search("\n".join(line for line in lines if " % " in line))
    return 0 if found is None else int(found[1].replace(",", ""))


def has(word: str) -> Callable[[list[str]], bool]:
    """Tell whether a view has a piece of its own that reads so, at the end of a line or not."""
    return lambda lines: any(word in line.split("   ") for line in lines)


@pytest.fixture
def follow(
    command_path: Path, clean_environment: dict[str, str], start_terminal: StartTerminal
) -> Callable[..., Terminal]:
    """Follow jobs in terminals."""

    def start(hosts: Hosts, *arguments: str, columns: int = 80) -> Terminal:
        return start_terminal(
            [command_path, "status", "--follow", "--address", hosts.address, *arguments],
            env=clean_environment,
            folder=hosts.folder,
            columns=columns,
        )

    return start


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_followed_job_is_seen_moving_before_its_first_shard_ends(
    server: Server, start_hosts: StartHosts, follow: Callable[..., Terminal], columns: int
) -> None:
    """In the view of a run; q leaves the job alone, with code 0 and the terminal as it was."""
    hosts = start_hosts(server, *SLOW)
    hosts.write_manifest(3000)  # a shard lasts for ten seconds
    hosts.worker()
    hosts.worker()
    submit = hosts.submit("--rate", "120")
    hosts.simulator.wait_for("cancel", 30)
    terminal = follow(hosts, hosts.job(), columns=columns)
    first = done_in(terminal.wait_for(lambda lines: done_in(lines) > 0))
    lines = terminal.wait_for(lambda lines: done_in(lines) > first)
    assert rows_of(hosts) == [], "no shard has ended"
    assert not has("0 in flight")(lines)
    for words in ("in flight", "limit 120 a second", "2 workers on 1 host", "p pause", "q leave"):
        assert sum(words in line for line in lines) == 1, lines
    assert all(len(line) < columns for line in lines)
    terminal.press("q")
    assert terminal.end() == 0
    assert "goes on" in "".join(terminal.history())
    assert terminal.attributes() == terminal.before
    assert not terminal.screen.cursor.hidden
    count = hosts.simulator.posts().total()
    hosts.simulator.wait_for("cancel", count + 100)
    hosts.end(hosts.start("cancel", hosts.job()))
    hosts.end(submit, 7)


def test_p_pauses_all_workers_of_a_followed_job_and_lets_them_go_on(
    server: Server, start_hosts: StartHosts, follow: Callable[..., Terminal]
) -> None:
    """No POST reaches the service while it is paused; at its end the view says what it came to."""
    hosts = start_hosts(server, *SLOW)
    ids = hosts.write_manifest(600)
    hosts.worker()
    submit = hosts.submit("--rate", "100")
    hosts.simulator.wait_for("cancel", 50)
    terminal = follow(hosts, hosts.job())
    terminal.wait_for("p pause")
    terminal.press("p")
    terminal.wait_for("p go on")
    terminal.wait_for(lambda lines: has("paused")(lines) and has("0 in flight")(lines))
    arrived = hosts.simulator.posts().total()
    terminal.wait_for(lambda lines: done_in(lines) == arrived)
    time.sleep(1.5)
    assert hosts.simulator.posts().total() == arrived < 500
    assert [one["state"] for one in hosts.jobs(hosts.job())] == ["paused"]
    terminal.press("p")
    terminal.wait_for("p pause")
    assert terminal.end() == 0
    shown = "".join(terminal.history())
    assert "ended, 600 of 600 invoices: 594 canceled, 6 already paid" in shown
    assert "q leave" not in shown
    hosts.end(submit)
    assert hosts.check_truth(ids) == 0


@pytest.mark.parametrize("is_canceled", [True, False], ids=["canceled", "terminated"])
def test_follower_of_a_job_that_somebody_ends_ends_as_its_coordinator_does(
    server: Server, start_hosts: StartHosts, follow: Callable[..., Terminal], *, is_canceled: bool
) -> None:
    """With 7 after a cancel, with 4 if its workflow was terminated; in the view and in lines."""
    hosts = start_hosts(server, *SLOW)
    hosts.write_manifest(2000)
    hosts.worker()
    submit = hosts.submit("--rate", "100")
    hosts.simulator.wait_for("cancel", 20)
    name = hosts.job()
    terminal, lines = follow(hosts, name), hosts.start("status", "--follow", name)
    terminal.wait_for("q leave")
    hosts.wait_until(lambda: b"running" in hosts.said(lines, "out"))
    if is_canceled:
        hosts.end(hosts.start("cancel", name))
    else:
        server.terminate(name)
    code = 7 if is_canceled else 4
    assert terminal.end() == code
    hosts.end(lines, code)
    hosts.end(submit, code)
    assert terminal.attributes() == terminal.before


def test_ctrl_c_ends_a_view_and_not_its_job(
    server: Server, start_hosts: StartHosts, follow: Callable[..., Terminal]
) -> None:
    """With 130; and what is written to a file is lines, as ever."""
    hosts = start_hosts(server, *SLOW)
    hosts.write_manifest(1200)  # long enough for a slow machine to find it
    hosts.worker()
    submit = hosts.submit("--rate", "100")
    hosts.simulator.wait_for("cancel", 20)
    name = hosts.job()
    terminal, lines = follow(hosts, name), hosts.start("status", "--follow", name)
    terminal.wait_for("q leave")
    terminal.press("\x03")
    assert terminal.end() == 130
    assert "goes on" in "".join(terminal.history())
    hosts.end(submit)
    written = hosts.end(lines).splitlines()
    assert len(written) >= 3
    assert written[0].startswith(f"{name}: running, ")
    assert written[-1].startswith(f"{name}: ended, 1,200 of 1,200 invoices")
    assert all("\x1b" not in line for line in written)


def test_view_outlives_the_coordinator_of_its_job(
    server: Server, start_hosts: StartHosts, follow: Callable[..., Terminal]
) -> None:
    """It says that nobody answers, goes on with the one that comes in its place, and ends as that does."""
    hosts = start_hosts(server, *SLOW)
    ids = hosts.write_manifest(1000)
    hosts.worker()
    submit = hosts.submit("--rate", "100")
    hosts.simulator.wait_for("cancel", 50)
    terminal = follow(hosts, hosts.job(), columns=200)
    terminal.wait_for("q leave")
    submit.kill()
    submit.wait()
    terminal.wait_for("does not answer")
    terminal.wait_for("q leave")
    again = hosts.submit("--rate", "120")  # so that there is something to see of it
    terminal.wait_for("goes on with another 'batchcancel submit'")
    terminal.wait_for("q leave")
    assert terminal.end() == 0
    assert "ended, " in "".join(terminal.history())
    assert terminal.attributes() == terminal.before
    hosts.end(again)
    assert hosts.check_truth(ids) == 0


def test_submit_shows_what_its_workers_do_and_its_keys_reach_them(
    server: Server,
    start_hosts: StartHosts,
    start_terminal: StartTerminal,
    command_path: Path,
    clean_environment: dict[str, str],
) -> None:
    """Counts and requests in flight between two shards; p pauses all workers, others may too; q drains."""
    hosts = start_hosts(server, *SLOW)
    hosts.write_manifest(3000)
    hosts.worker()
    hosts.worker()
    flags = ["--ledger", "ledger.jsonl", "--window", "4", "--rate", "100", "--address", hosts.address]
    terminal = start_terminal(
        [command_path, "submit", "ids.csv", *flags, *hosts.simulator.flags],
        env=clean_environment | hosts.simulator.env,
        folder=hosts.folder,
    )
    first = done_in(terminal.wait_for(lambda lines: done_in(lines) > 0))
    lines = terminal.wait_for(lambda lines: done_in(lines) > first)
    assert "canceled so far" in "".join(lines)
    assert not has("0 in flight")(lines)
    assert rows_of(hosts) == [], "no shard has ended"

    terminal.press("p")
    terminal.wait_for(lambda lines: has("paused")(lines) and has("0 in flight")(lines))
    arrived = hosts.simulator.posts().total()
    time.sleep(1.5)
    assert hosts.simulator.posts().total() == arrived
    hosts.end(hosts.start("resume", hosts.job()))
    terminal.wait_for("p pause")
    hosts.simulator.wait_for("cancel", arrived + 20)
    terminal.press("q")
    assert terminal.end() == 130
    assert Counter(row["invoice_id"] for row in rows_of(hosts)) == hosts.simulator.posts()
    assert terminal.attributes() == terminal.before


def rows_of(hosts: Hosts) -> list[dict[str, Any]]:
    """Return the results that are in the ledger."""
    return [row for row in hosts.read_ledger(hosts.folder / "ledger.jsonl") if row["type"] == "result"]
