"""Metrics and notices of the installed command: at every end that a run may come to."""

from __future__ import annotations

import os
import re
import signal
import stat
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from tests.acceptance.conftest import RunCommand, Simulator, StartRun, StartSimulator
    from tests.conftest import ReceivingServer, StartReceiver

LEDGER: Final = "ledger.jsonl"
FILE: Final = "nightly.prom"
TOKEN: Final = "t0ken-of-the-check"


@pytest.fixture
def receiver(start_receiver: StartReceiver) -> ReceivingServer:
    """Hear of health checks."""
    return start_receiver(200)


@pytest.fixture
def hook(start_receiver: StartReceiver) -> ReceivingServer:
    """Hear of JSON."""
    return start_receiver(204)


def told(receiver: ReceivingServer, hook: ReceivingServer) -> dict[str, str]:
    """Return the variables that name both."""
    return {"BATCHCANCEL_PING_URL": receiver.url, "BATCHCANCEL_NOTIFY_URL": hook.url}


def write_manifest(folder: Path, *ids: str) -> Path:
    """Write a plain list."""
    path = folder / "ids.txt"
    path.write_text("".join(f"{one}\n" for one in ids), encoding="utf-8")
    return path


def metrics(text: str) -> dict[tuple[str, ...], float]:
    """Read metrics by name and the values of their labels, but for the job's name."""
    return {
        (
            sample.name.removeprefix("batchcancel_"),
            *(sample.labels[key] for key in sample.labels if key != "name"),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def metrics_in(path: Path) -> dict[tuple[str, ...], float]:
    """Read a metrics file."""
    return metrics(path.read_text(encoding="utf-8"))


def end_of(hook: ReceivingServer) -> dict[str, Any]:
    """Return the last JSON that was heard; it is about an end."""
    body: dict[str, Any] = hook.heard[-1].body
    assert body["event"] == "end"
    return body


# --- every end ------------------------------------------------------------------------------------


ENDS: Final = [
    pytest.param(("1", "2"), 0, ["/start", ""], "complete", id="0 done"),
    pytest.param(("1", "MISSING-2"), 3, ["/start", "/fail"], "complete", id="3 errors"),
    pytest.param(("1", "2", "--expect-count=5"), 2, ["/fail"], None, id="2 a gate"),
    pytest.param(("FORBIDDEN-1", "2", "--max-errors=0"), 4, ["/start", "/fail"], "stopped", id="4 safety"),
    pytest.param(("1", "2", "--limit=1"), 7, ["/start", ""], "stopped", id="7 as asked"),
]
"""Ids and flags, the exit code, what the health check hears, and the state in the JSON."""


@pytest.mark.parametrize(("arguments", "code", "paths", "state"), ENDS)
def test_file_and_notices_tell_how_it_ended(
    run_command: RunCommand,
    receiver: ReceivingServer,
    hook: ReceivingServer,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    paths: list[str],
    state: str | None,
) -> None:
    """The file's last word, the health check's and the receiver's are of the exit code."""
    ids = [one for one in arguments if not one.startswith("--")]
    flags = [one for one in arguments if one not in ids]
    manifest = write_manifest(tmp_path, *ids)
    command = ("run", manifest, "--env", "sandbox", "--concurrency", "1", "--metrics-file", FILE)
    ended = run_command(*command, *flags, env=told(receiver, hook))
    assert ended.returncode == code, ended.stderr
    found = metrics_in(tmp_path / FILE)
    assert (found["last_run_exit_code",], found["run_active",]) == (code, 0)
    assert (("last_success_timestamp_seconds",) in found) == (code == 0)
    assert receiver.paths == paths
    assert (end_of(hook)["exit_code"], end_of(hook)["state"]) == (code, state)
    assert [heard.body["event"] for heard in hook.heard] == [*["start"] * (len(paths) - 1), "end"]
    assert TOKEN not in ended.stdout + ended.stderr


def test_options_that_are_wrong_are_told(
    run_command: RunCommand, receiver: ReceivingServer, tmp_path: Path
) -> None:
    """Exit 2 before there is a run: the check hears of it all the same, since that option is right."""
    ended = run_command(
        "run", write_manifest(tmp_path, "1"), "--env", "test", env={"BATCHCANCEL_PING_URL": receiver.url}
    )
    assert ended.returncode == 2
    assert "Credentials are missing" in ended.stderr
    assert receiver.paths == ["/fail"]


def test_a_dry_run_tells_nobody(
    run_command: RunCommand, receiver: ReceivingServer, hook: ReceivingServer, tmp_path: Path
) -> None:
    """It changes nothing, and a check must not take it for the nightly run."""
    command = ("run", write_manifest(tmp_path, "1"), "--env", "sandbox", "--dry-run", "--metrics-file", FILE)
    ended = run_command(*command, env=told(receiver, hook))
    assert ended.returncode == 0, ended.stderr
    assert (receiver.paths, hook.paths) == ([], [])
    assert not (tmp_path / FILE).exists()


def test_a_flag_that_does_not_belong_here_is_told(
    run_command: RunCommand, receiver: ReceivingServer, tmp_path: Path
) -> None:
    """Exit 2 of the command line itself, for a run all the same."""
    command = ("run", write_manifest(tmp_path, "1"), "--env", "sandbox", "--out", "plan.jsonl")
    ended = run_command(*command, env={"BATCHCANCEL_PING_URL": receiver.url})
    assert ended.returncode == 2, ended.stderr
    assert receiver.paths == ["/fail"]


def test_a_ledger_in_use_is_the_other_run_s_affair(
    run_command: RunCommand,
    start_run: StartRun,
    start_simulator: StartSimulator,
    receiver: ReceivingServer,
    hook: ReceivingServer,
    tmp_path: Path,
) -> None:
    """Exit 5 tells nobody, and neither its file nor its port is touched."""
    simulator = start_simulator("--latency-ms", "300")
    manifest = write_manifest(tmp_path, *map(str, range(12)))
    flags = ("--ledger", LEDGER, "--concurrency", "1", "--metrics-file", FILE, "--metrics-port", "0")
    environment = simulator.env | told(receiver, hook)
    with start_run(simulator, manifest, *flags, env=environment) as process:
        simulator.wait_for("cancel", 2)
        before = (tmp_path / FILE).stat().st_ino
        second = run_command("run", manifest, *simulator.flags, *flags, env=environment)
        assert second.returncode == 5, second.stderr
        assert (tmp_path / FILE).stat().st_ino == before
        assert receiver.paths == ["/start"]
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert receiver.paths == ["/start", ""]
    assert metrics_in(tmp_path / FILE)["last_run_exit_code",] == 0


def test_a_signal_is_told_as_a_failure(
    start_run: StartRun,
    start_simulator: StartSimulator,
    receiver: ReceivingServer,
    hook: ReceivingServer,
    tmp_path: Path,
) -> None:
    """Rows remain, and nobody may know why it was sent."""
    simulator = start_simulator("--latency-ms", "200")
    manifest = write_manifest(tmp_path, *map(str, range(100)))
    flags = ("--ledger", LEDGER, "--metrics-file", FILE)
    with start_run(simulator, manifest, *flags, env=simulator.env | told(receiver, hook)) as process:
        simulator.wait_for("cancel", 5)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 143, err
    assert receiver.paths == ["/start", "/fail"]
    assert (end_of(hook)["exit_code"], end_of(hook)["state"]) == (143, "interrupted")
    found = metrics_in(tmp_path / FILE)
    assert found["last_run_exit_code",] == 143
    assert found["rows_left",] == end_of(hook)["counts"]["open"] > 0


def test_a_ledger_that_is_damaged_is_told(
    run_command: RunCommand, receiver: ReceivingServer, hook: ReceivingServer, tmp_path: Path
) -> None:
    """Exit 6 at the opening: there is no summary, and the file says so too."""
    manifest = write_manifest(tmp_path, "1", "2", "3")
    command = ("run", manifest, "--env", "sandbox", "--ledger", LEDGER, "--metrics-file", FILE)
    assert run_command(*command).returncode == 0
    success_at = metrics_in(tmp_path / FILE)["last_success_timestamp_seconds",]
    lines = (tmp_path / LEDGER).read_bytes().splitlines(keepends=True)
    (tmp_path / LEDGER).write_bytes(lines[0] + b"damage\n" + b"".join(lines[1:]))
    ended = run_command(*command, env=told(receiver, hook))
    assert ended.returncode == 6, ended.stderr
    assert receiver.paths == ["/fail"]
    assert (end_of(hook)["exit_code"], end_of(hook)["counts"]) == (6, None)
    found = metrics_in(tmp_path / FILE)
    assert (found["last_run_exit_code",], found["last_success_timestamp_seconds",]) == (6, success_at)


def test_the_end_is_told_in_numbers(
    run_command: RunCommand, receiver: ReceivingServer, hook: ReceivingServer, tmp_path: Path
) -> None:
    """Counts and money of the summary, the run's id of the ledger, and no invoice's."""
    manifest = write_manifest(tmp_path, "INV-1", "INV-2", "PAID-1", "MISSING-1", "INV-2", "b@d")
    ended = run_command("run", manifest, "--env", "sandbox", "--ledger", LEDGER, env=told(receiver, hook))
    assert ended.returncode == 3
    start, end = (heard.body for heard in hook.heard)
    assert (start["env"], start["to_settle"]) == ("sandbox", 5)
    assert end["counts"] == {
        "rows": 6,
        "canceled": 2,
        "already_paid": 1,
        "partially_paid": 0,
        "error": 2,
        "settled_earlier": 0,
        "duplicates": 1,
        "excluded": 0,
        "open": 0,
    }
    ledger = (tmp_path / LEDGER).read_text(encoding="utf-8")
    assert f'"run_id":"{end["run_id"]}"' in ledger
    assert all(re.fullmatch(r"[A-Z]{3}", code) for code in end["amounts_canceled"])
    assert end["amounts_canceled"]
    for word in ("INV-", "PAID-", "MISSING", "b@d", "merchant"):
        assert word not in str(end), word


# --- nobody there ---------------------------------------------------------------------------------


def test_nobody_there_changes_nothing_but_the_log(run_command: RunCommand, tmp_path: Path) -> None:
    """A dead health check is a warning with its host; the token is nowhere, the exit code stays."""
    address = f"http://127.0.0.1:1/{TOKEN}"
    command = ("run", write_manifest(tmp_path, "1"), "--env", "sandbox", "--ledger", LEDGER)
    flags = ("--ping-url", address, "--notify-url", address, "--log-format", "json", "--log-file", "run.log")
    ended = run_command(*command, *flags)
    assert ended.returncode == 0, ended.stderr
    log = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert log.count('"event": "notice.failed"') == 4
    assert log.count('"host": "127.0.0.1"') == 4
    ledger = (tmp_path / LEDGER).read_text(encoding="utf-8")
    assert TOKEN not in ended.stdout + ended.stderr + log + ledger
    assert '"options":{"env":"sandbox","ledger":"ledger.jsonl"' in ledger


def test_a_slow_health_check_does_not_hold_the_run_up(
    run_command: RunCommand, start_receiver: StartReceiver, tmp_path: Path
) -> None:
    """The invoices are through long before it answers."""
    slow, hook = start_receiver(200, delay_s=2.0), start_receiver(200)
    began_at = time.time()
    ended = run_command(
        "run", write_manifest(tmp_path, "1"), "--env", "sandbox", "--json", env=told(slow, hook)
    )
    assert ended.returncode == 0
    assert hook.heard[-1].body["duration_s"] < 1.0
    assert time.time() - began_at < 10
    assert slow.paths == ["/start", ""]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_the_end_is_told_changes_no_exit_code(
    start_run: StartRun, simulator: Simulator, start_receiver: StartReceiver, tmp_path: Path, signum: int
) -> None:
    """The run is over and was good; who does not want to wait for a slow receiver need not."""
    slow = start_receiver(200, delay_s=4.0)
    manifest = write_manifest(tmp_path, "1")
    environment = simulator.env | {"BATCHCANCEL_NOTIFY_URL": slow.url}
    began_at = time.monotonic()
    with start_run(simulator, manifest, "--ledger", LEDGER, env=environment) as process:
        while not any(heard.body["event"] == "end" for heard in slow.heard):
            assert time.monotonic() < began_at + 20
            time.sleep(0.01)
        process.send_signal(signum)
        _, err = process.communicate(timeout=3)
    assert process.returncode == 0, err
    assert "Traceback" not in err


# --- file and port --------------------------------------------------------------------------------


def test_the_next_run_carries_on_when_the_last_one_succeeded(run_command: RunCommand, tmp_path: Path) -> None:
    """A failed night leaves the time of the good one, or no alert could tell how long it has been."""
    command = ("run", tmp_path / "ids.txt", "--env", "sandbox", "--ledger", LEDGER, "--metrics-file", FILE)
    write_manifest(tmp_path, "1")
    assert run_command(*command).returncode == 0
    success_at = metrics_in(tmp_path / FILE)["last_success_timestamp_seconds",]
    assert abs(success_at - time.time()) < 60
    write_manifest(tmp_path, "1", "MISSING-2")
    assert run_command(*command).returncode == 3
    found = metrics_in(tmp_path / FILE)
    assert (found["last_success_timestamp_seconds",], found["last_run_exit_code",]) == (success_at, 3)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o644
    assert 'name="nightly"' in (tmp_path / FILE).read_text(encoding="utf-8")


def test_a_file_s_name_may_be_any(run_command: RunCommand, tmp_path: Path) -> None:
    """A name that is no UTF-8 is a label all the same, which has to be; quotes and line ends are escaped."""
    for name in (os.fsdecode(b"\xff"), 'a"\nb\\'):
        file = tmp_path / f"{name}.prom"
        command = ("run", write_manifest(tmp_path, "1"), "--env", "sandbox", "--metrics-file", file)
        ended = run_command(*command)
        assert ended.returncode == 0, ended.stderr
        found = {
            sample.labels["name"]
            for family in text_string_to_metric_families(file.read_text(encoding="utf-8"))
            for sample in family.samples
        }
        assert found == {os.fsencode(name).decode(errors="replace")}


def test_a_manifest_without_rows_is_a_success(run_command: RunCommand, tmp_path: Path) -> None:
    """There was nothing to do, and it was done."""
    (tmp_path / "none.csv").write_text("invoice_id\n", encoding="utf-8")
    assert run_command("run", "none.csv", "--env", "sandbox", "--metrics-file", FILE).returncode == 0
    found = metrics_in(tmp_path / FILE)
    assert (found["last_run_exit_code",], found["rows_left",]) == (0, 0)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        pytest.param(("--metrics-file", "gone/m.prom"), "No such file or directory", id="no folder"),
        pytest.param(
            ("--metrics-file", "ids.txt"), "that is the ledger or a file that is read", id="manifest"
        ),
        pytest.param(("--metrics-file", "other.txt"), "is no file of metrics", id="another file"),
        pytest.param(("--metrics-port", "65536"), "from 0 to 65,535", id="no port"),
    ],
)
def test_metrics_that_can_t_be_are_refused_before_anything_is_sent(
    run_command: RunCommand, simulator: Simulator, tmp_path: Path, flags: tuple[str, ...], said: str
) -> None:
    """Exit 2, nothing sent, no ledger, and what was there is as it was."""
    manifest = write_manifest(tmp_path, "1")
    (tmp_path / "other.txt").write_text("mine\n", encoding="utf-8")
    ended = run_command("run", manifest, *simulator.flags, "--ledger", LEDGER, *flags, env=simulator.env)
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) <= 3
    assert simulator.requests() == []
    assert not (tmp_path / LEDGER).exists()
    assert (tmp_path / "other.txt").read_text(encoding="utf-8") == "mine\n"
    assert manifest.read_text(encoding="utf-8") == "1\n"


def test_a_port_that_is_taken_is_refused_before_anything_is_sent(
    run_command: RunCommand, simulator: Simulator, receiver: ReceivingServer, tmp_path: Path
) -> None:
    """Exit 2, and the file says so, too."""
    port = receiver.url.split("/")[2].rpartition(":")[2]
    flags = ("--metrics-port", port, "--metrics-file", FILE, "--ledger", LEDGER)
    ended = run_command("run", write_manifest(tmp_path, "1"), *simulator.flags, *flags, env=simulator.env)
    assert ended.returncode == 2, ended.stderr
    assert f"can't be served at port {port} of 127.0.0.1: Address already in use." in ended.stderr
    assert simulator.requests() == []
    assert metrics_in(tmp_path / FILE)["last_run_exit_code",] == 2


def test_a_file_that_can_t_be_written_any_more_is_one_warning(
    start_run: StartRun, start_simulator: StartSimulator, tmp_path: Path
) -> None:
    """Its folder is gone when the run ends; the exit code is that of the invoices."""
    simulator = start_simulator("--latency-ms", "100")
    manifest = write_manifest(tmp_path, *map(str, range(20)))
    folder = tmp_path / "metrics"
    folder.mkdir()
    flags = ("--ledger", LEDGER, "--concurrency", "2", "--metrics-file", folder / FILE)
    with start_run(simulator, manifest, *flags) as process:
        simulator.wait_for("cancel", 2)
        (folder / FILE).unlink()
        folder.rmdir()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert err.count("metrics.failed") == 1
    assert "No such file or directory" in err


def test_a_running_job_is_served(
    start_run: StartRun, start_simulator: StartSimulator, tmp_path: Path
) -> None:
    """On loopback, at a free port that it names; the numbers move, and at the end nobody listens."""
    simulator = start_simulator("--latency-ms", "100")
    manifest = write_manifest(tmp_path, *map(str, range(120)))
    flags = ("--ledger", LEDGER, "--concurrency", "4", "--rate", "20", "--metrics-port", "0")
    with start_run(simulator, manifest, *flags) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+/metrics", said)
        assert url is not None, said
        settled: list[float] = []
        while len(settled) < 3:
            simulator.wait_for("cancel", 10 * (len(settled) + 1))
            time.sleep(1.0)
            with urllib.request.urlopen(url[0]) as reply:  # noqa: S310 - our own
                found = metrics(reply.read().decode())
            settled.append(found["invoices_settled_total", "canceled", "canceled"])
            assert found["run_active",] == 1
            assert found["set_requests_per_second",] == 20
        assert 0 < settled[0] < settled[1] < settled[2]
        assert found["rows_left",] <= 120 - settled[1]
        assert found["requests_total", "cancel", "200"] >= settled[2]
        process.communicate(timeout=30)
    assert process.returncode == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url[0])  # noqa: S310 - as above
