"""The main job by the installed command, against the simulator in its own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import RunCommand, Simulator, StartSimulator

LEDGER = "invoices.sandbox.ledger.jsonl"


def write_manifest(folder: Path, ids: list[str]) -> Path:
    """Write ids as a CSV."""
    path = folder / "invoices.csv"
    path.write_text("".join(f"{line}\n" for line in ["invoice_id", *ids]), encoding="utf-8")
    return path


def read_ledger(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Read the ledger's records, all or of one type."""
    records = [json.loads(line) for line in (folder / LEDGER).read_text(encoding="utf-8").splitlines()]
    return [record for record in records if kind in {None, record["type"]}]


def posts(simulator: Simulator) -> Counter[str]:
    """Count the cancelations that reached the service, by invoice."""
    return Counter(
        request["invoice_id"] for request in simulator.requests() if request["operation"] == "cancel"
    )


@pytest.fixture
def start_run(command_path: Path, clean_environment: dict[str, str], tmp_path: Path) -> Callable[..., Any]:
    """Start a run as a process of its own, ended by its id whatever happens."""

    @contextmanager
    def start(simulator: Simulator, *flags: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [command_path, "run", "invoices.csv", *simulator.flags, *flags],
            env=clean_environment | simulator.env,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    return start


def wait_for_posts(simulator: Simulator, count: int) -> None:
    """Return once that many cancelations have reached the service."""
    give_up_at = time.monotonic() + 30
    while posts(simulator).total() < count:
        assert time.monotonic() < give_up_at, "the run sends nothing"
        time.sleep(0.01)


def test_summary_and_ledger_tell_the_same(run_command: RunCommand, tmp_path: Path) -> None:
    """Every outcome appears, the JSON summary agrees with the rows, and the end row closes the file."""
    ids = ["2675", "0042", "PAID-1", "PARTIAL-1", "CANCELED-1", "MISSING-1", "2675", "b@d"]
    ended = run_command("run", write_manifest(tmp_path, ids), "--env", "sandbox", "--json", "--ref", "T-1")
    assert ended.returncode == 3
    summary = json.loads(ended.stdout)
    assert summary["outcomes"] == {"canceled": 3, "already_paid": 1, "partially_paid": 1, "error": 2}
    assert (summary["rows"], summary["duplicates"], summary["open"]) == (8, 1, 0)
    results = read_ledger(tmp_path, "result")
    assert Counter(row["outcome"] for row in results) == summary["outcomes"]
    assert {row["invoice_id"]: row["reason"] for row in results} == {
        "2675": "canceled",
        "0042": "canceled",
        "PAID-1": "paid",
        "PARTIAL-1": "partial",
        "CANCELED-1": "already_canceled",
        "MISSING-1": "not_found",
        "b@d": "invalid_id",
    }
    first, last = read_ledger(tmp_path)[0], read_ledger(tmp_path)[-1]
    assert (first["type"], first["ref"], first["env"]) == ("run", "T-1", "sandbox")
    assert (last["type"], last["state"], last["counts"]["rows"]) == ("end", "complete", 8)
    assert read_ledger(tmp_path, "skip")[0]["of_row"] == 1


def test_second_run_asks_nothing_that_has_an_answer(
    run_command: RunCommand, simulator: Simulator, tmp_path: Path
) -> None:
    """Final answers cost no request, not even the signed read; open errors are asked again."""
    manifest = write_manifest(tmp_path, ["1", "2", "PAID-1", "MISSING-1", "bad id"])
    assert run_command("run", manifest, *simulator.flags, env=simulator.env).returncode == 3
    before = len(simulator.requests())
    again = run_command("run", manifest, *simulator.flags, env=simulator.env)
    assert again.returncode == 0
    assert "nothing was asked" in again.stdout
    assert len(simulator.requests()) == before

    write_manifest(tmp_path, ["3", "1", "2", "UNKNOWNSTATUS-1"])
    grown = run_command("run", manifest, *simulator.flags, env=simulator.env)
    assert grown.returncode == 3
    assert posts(simulator)["3"] == 1
    once_more = run_command("run", manifest, *simulator.flags, env=simulator.env)
    assert once_more.returncode == 3
    assert (posts(simulator)["UNKNOWNSTATUS-1"], posts(simulator)["1"]) == (2, 1)


def test_lost_replies_cost_one_post_and_one_look_up(
    run_command: RunCommand, simulator: Simulator, tmp_path: Path
) -> None:
    """The cancelation is found by looking, never by asking again."""
    ids = ["RESET-AFTER-1", "EMPTY-1", "TRUNCATED-1", "WRONGTYPE-1"]
    ended = run_command("run", write_manifest(tmp_path, ids), *simulator.flags, env=simulator.env)
    assert ended.returncode == 0
    for invoice_id in ids:
        asked = [
            request["operation"] for request in simulator.requests() if request["invoice_id"] == invoice_id
        ]
        assert asked == ["cancel", "get"], invoice_id
    assert {row["resolved_by"] for row in read_ledger(tmp_path, "result")} == {"lookup"}


def test_a_reply_for_another_invoice_is_not_believed(run_command: RunCommand, tmp_path: Path) -> None:
    """CANCELED for a wrong id, and pages of HTML, lead to a look-up and never to a canceled row."""
    manifest = write_manifest(tmp_path, ["MISMATCH-1", "HTML-1"])
    ended = run_command("run", manifest, "--env", "sandbox", "--max-attempts", "2")
    assert ended.returncode == 3
    assert {row["reason"] for row in read_ledger(tmp_path, "result")} == {"unknown"}


def test_concurrency_and_rate_are_kept_by_all_requests_together(
    run_command: RunCommand, start_simulator: StartSimulator, tmp_path: Path
) -> None:
    """Look-ups count like cancelations, from the first second on."""
    simulator = start_simulator("--latency-ms", "150")
    ids = [f"{'PAID-' if number % 3 == 0 else ''}{number}" for number in range(90)]
    ended = run_command(
        "run",
        write_manifest(tmp_path, ids),
        *simulator.flags,
        "--rate",
        "40",
        "--concurrency",
        "5",
        env=simulator.env,
    )
    assert ended.returncode == 0
    requests = simulator.requests()
    assert max(request["in_flight"] for request in requests) <= 5
    times = sorted(request["at"] for request in requests)
    worst = max(sum(at <= other < at + 1 for other in times) for at in times)
    assert worst <= 40 * 1.1 + 1
    assert len(requests) == 90 + 30 + 1


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)],
    ids=["SIGHUP", "SIGINT", "SIGTERM"],
)
def test_a_signal_drains_and_the_next_run_finishes(
    run_command: RunCommand,
    start_simulator: StartSimulator,
    start_run: Callable[..., Any],
    tmp_path: Path,
    signum: signal.Signals,
    code: int,
) -> None:
    """What was in flight has its answer, nothing new left, and every invoice is asked exactly once."""
    simulator = start_simulator("--latency-ms", "300")
    manifest = write_manifest(tmp_path, [str(number) for number in range(60)])
    with start_run(simulator, "--concurrency", "4") as process:
        wait_for_posts(simulator, 6)
        process.send_signal(signum)
        out, err = process.communicate(timeout=15)
    assert process.returncode == code, err
    assert f"Interrupted ({signum.name})" in out
    assert read_ledger(tmp_path)[-1]["state"] == "interrupted"
    first = len(read_ledger(tmp_path, "result"))
    assert first == posts(simulator).total() < 60
    ended = run_command("run", manifest, *simulator.flags, env=simulator.env)
    assert ended.returncode == 0, ended.stderr
    assert posts(simulator) == Counter({str(number): 1 for number in range(60)})


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_before_anything_was_sent_leaves_no_trace(
    command_path: Path,
    clean_environment: dict[str, str],
    tmp_path: Path,
    signum: signal.Signals,
    code: int,
) -> None:
    """Interrupted while it waits for the manifest to come in, a run ends at once without a ledger."""
    arguments = ["run", "-", "--format", "txt", "--env", "sandbox", "--ledger", LEDGER]
    with subprocess.Popen(
        [command_path, *arguments],
        env=clean_environment,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        give_up_at = time.monotonic() + 20
        while not (tmp_path / LEDGER).exists():
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        process.send_signal(signum)
        assert process.stderr is not None
        assert process.wait(10) == code
        assert "Traceback" not in process.stderr.read()
    assert not (tmp_path / LEDGER).exists()


def test_a_second_signal_aborts_and_the_next_run_looks_up_first(
    run_command: RunCommand, simulator: Simulator, start_run: Callable[..., Any], tmp_path: Path
) -> None:
    """What was in flight is unknown; the service had canceled it, and that is found without a POST."""
    manifest = write_manifest(tmp_path, ["SLOW-1", "HANG-1"])
    with start_run(simulator) as process:
        wait_for_posts(simulator, 2)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=5)
    assert process.returncode == 143
    assert {row["reason"] for row in read_ledger(tmp_path, "result")} == {"unknown"}
    ended = run_command("run", manifest, *simulator.flags, env=simulator.env)
    assert ended.returncode == 0, ended.stderr
    assert set(posts(simulator).values()) == {1}
    latest = {row["invoice_id"]: row for row in read_ledger(tmp_path, "result")}
    assert {(row["outcome"], row["resolved_by"]) for row in latest.values()} == {("canceled", "lookup")}


@pytest.mark.parametrize("after_posts", [1, 10, 40], ids=lambda count: f"after-{count}-posts")
def test_a_killed_run_is_finished_by_the_next(
    run_command: RunCommand,
    start_simulator: StartSimulator,
    start_run: Callable[..., Any],
    tmp_path: Path,
    after_posts: int,
) -> None:
    """Kill -9: every invoice ends in one final row, and few cancelations are repeated."""
    simulator = start_simulator("--latency-ms", "50")
    ids = [str(number) for number in range(80)]
    manifest = write_manifest(tmp_path, ids)
    with start_run(simulator, "--concurrency", "4") as process:
        wait_for_posts(simulator, after_posts)
        process.kill()
        process.wait(5)
    ended = run_command("run", manifest, *simulator.flags, env=simulator.env)
    assert ended.returncode == 0, ended.stderr
    assert Counter(row["invoice_id"] for row in read_ledger(tmp_path, "result")) == Counter(ids)
    assert {row["reason"] for row in read_ledger(tmp_path, "result")} == {"canceled"}
    # In flight, plus what was answered within the 50 ms of a group and the write after it.
    assert posts(simulator).total() - len(ids) <= 4 + 4 * 2


def test_a_torn_last_write_is_cut_kept_and_said(run_command: RunCommand, tmp_path: Path) -> None:
    """Half a line at the end is no row: that invoice is asked again."""
    manifest = write_manifest(tmp_path, ["1", "2"])
    assert run_command("run", manifest, "--env", "sandbox").returncode == 0
    ledger = tmp_path / LEDGER
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[:2]) + lines[2][:40])
    ended = run_command("run", manifest, "--env", "sandbox")
    assert ended.returncode == 0
    assert f"{LEDGER}.torn" in ended.stderr
    assert (tmp_path / f"{LEDGER}.torn").read_bytes() == lines[2][:40]
    assert len(read_ledger(tmp_path, "result")) == 2


def test_a_closed_standard_output_loses_nothing(
    command_path: Path, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    """The reader of the summary has gone away; the ledger is complete and the exit code is the run's."""
    write_manifest(tmp_path, ["1", "2"])
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(
        [command_path, "run", "invoices.csv", "--env", "sandbox"],
        env=clean_environment,
        cwd=tmp_path,
        stdout=writing,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        os.close(writing)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in err) == (0, False)
    assert read_ledger(tmp_path)[-1]["state"] == "complete"


def test_a_summary_that_cant_be_written_does_not_spoil_the_run(
    command_path: Path, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    """Standard output on a full disk is said; the ledger is complete and the exit code is the run's."""
    write_manifest(tmp_path, ["1"])
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [command_path, "run", "invoices.csv", "--env", "sandbox"],
            env=clean_environment,
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            check=False,
            timeout=30,
        )
    assert ended.returncode == 0
    assert "standard output can't be written" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert read_ledger(tmp_path)[-1]["state"] == "complete"


def test_streams_that_are_closed_from_the_start_are_no_error(
    command_path: Path, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    """A cron job may close both; the ledger and the exit code are what counts."""
    write_manifest(tmp_path, ["1", "MISSING-1"])
    ended = subprocess.run(
        ["/bin/sh", "-c", f"exec '{command_path}' run invoices.csv --env sandbox >&- 2>&-"],
        env=clean_environment,
        cwd=tmp_path,
        check=False,
        timeout=30,
    )
    assert ended.returncode == 3
    assert read_ledger(tmp_path)[-1]["state"] == "complete"


def test_a_pipe_as_a_manifest_needs_a_ledgers_name(run_command: RunCommand, tmp_path: Path) -> None:
    """Its own name would be another one at the next run."""
    os.mkfifo(tmp_path / "63")
    ended = run_command("run", "63", "--format", "txt", "--env", "sandbox")
    assert ended.returncode == 2
    assert "--ledger" in ended.stderr


@pytest.mark.parametrize("auth", ["jwt", "http_signature"])
def test_each_way_to_sign_is_accepted_by_the_simulator(
    run_command: RunCommand, simulator: Simulator, tmp_path: Path, auth: str
) -> None:
    """Both kinds of signature pass the checks that were written without the client's code."""
    manifest = write_manifest(tmp_path, ["1", "PAID-1"])
    env = {**simulator.env, "BATCHCANCEL_AUTH": auth}
    ended = run_command("run", manifest, *simulator.flags, env=env)
    assert ended.returncode == 0
    assert ("March 2027" in ended.stderr) is (auth == "http_signature")
    assert {request["http_status"] for request in simulator.requests()} == {200, 400, 404}


def test_a_meta_key_signs_for_the_merchant(
    run_command: RunCommand, start_simulator: StartSimulator, tmp_path: Path
) -> None:
    """A portfolio's key cancels the transacting merchant's invoices, in both ways to sign."""
    portfolio = {"BATCHCANCEL_PORTFOLIO_ID": "some_portfolio"}
    simulator = start_simulator(env=portfolio)
    for number, auth in enumerate(("jwt", "http_signature")):
        manifest = write_manifest(tmp_path, [str(number)])
        env = {**simulator.env, **portfolio, "BATCHCANCEL_AUTH": auth}
        assert run_command("run", manifest, *simulator.flags, env=env).returncode == 0


def test_progress_in_lines_for_programs(run_command: RunCommand, tmp_path: Path) -> None:
    """With --progress json the last line on standard error is the final count."""
    manifest = write_manifest(tmp_path, ["1", "2", "PAID-1"])
    ended = run_command("run", manifest, "--env", "sandbox", "--progress", "json")
    last = json.loads(ended.stderr.splitlines()[-1])
    assert (last["done"], last["total"], last["ended"]) == (3, 3, True)
    assert last["outcomes"] == {"canceled": 2, "already_paid": 1, "partially_paid": 0, "error": 0}
    assert list(last["amounts_canceled"]) == ["USD"]


def test_progress_counts_to_the_limit(run_command: RunCommand, tmp_path: Path) -> None:
    """What is left for the next run is not waited for; an invalid id costs nothing of it."""
    manifest = write_manifest(tmp_path, ["b d", *map(str, range(50))])
    ended = run_command("run", manifest, "--env", "sandbox", "--progress", "json", "--limit", "20")
    last = json.loads(ended.stderr.splitlines()[-1])
    assert (ended.returncode, last["done"], last["total"]) == (7, 21, 21)


def test_kept_columns_and_file_names_reach_the_ledger(run_command: RunCommand, tmp_path: Path) -> None:
    """--keep carries a column, and with two manifests each row names its file."""
    for name, ids in (("a.csv", "1,x\n2,y\n"), ("b.csv", "2,z\n3,=1+1\n")):
        (tmp_path / name).write_text("id,note\n" + ids, encoding="utf-8")
    ended = run_command("run", "a.csv", "b.csv", "--env", "sandbox", "--keep", "note", "--ledger", LEDGER)
    assert ended.returncode == 0
    kept = {
        row["invoice_id"]: (row["file"], row["row"], row["keep"]) for row in read_ledger(tmp_path, "result")
    }
    assert kept == {
        "1": ("a.csv", 1, {"note": "x"}),
        "2": ("a.csv", 2, {"note": "y"}),
        "3": ("b.csv", 2, {"note": "=1+1"}),
    }
    (skip,) = read_ledger(tmp_path, "skip")
    assert (skip["file"], skip["row"], skip["of_file"], skip["of_row"]) == ("b.csv", 1, "a.csv", 2)
