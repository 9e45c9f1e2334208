"""A run on uvloop, and on Python's own event loop where uvloop is not installed: the same to its user."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import ReadLedger, RunCommand, StartRun, StartSimulator

LEDGER: Final = "ledger.jsonl"


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest, clean_environment: dict[str, str], tmp_path: Path) -> str:
    """Name the loop that every command of the test runs on: without uvloop, it is Python's own."""
    if request.param == "asyncio":
        hiding = tmp_path / "hiding"
        hiding.mkdir()
        (hiding / "uvloop.py").write_text("raise ImportError\n", encoding="ascii")
        clean_environment["PYTHONPATH"] = str(hiding)
    return str(request.param)


def loop_of(process: subprocess.Popen[str]) -> str:
    """Tell which loop a process has loaded; Linux only."""
    loaded = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
    return "uvloop" if "/uvloop/loop." in loaded else "asyncio"


def write_manifest(folder: Path, ids: list[str]) -> None:
    """Write ids, one a line."""
    (folder / "ids.txt").write_text("\n".join(ids), encoding="ascii")


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_the_next_run_finishes(
    *,
    run_command: RunCommand,
    start_simulator: StartSimulator,
    start_run: StartRun,
    read_ledger: ReadLedger,
    tmp_path: Path,
    loop: str,
    signum: signal.Signals,
) -> None:
    """What was in flight has its answer, and every invoice is asked exactly once."""
    simulator = start_simulator("--latency-ms", "200")
    ids = [str(number) for number in range(30)]
    write_manifest(tmp_path, ids)
    with start_run(simulator, "ids.txt", "--ledger", LEDGER, "--concurrency", "4") as process:
        simulator.wait_for("cancel", 6)
        assert loop_of(process) == loop
        process.send_signal(signum)
        out, err = process.communicate(timeout=15)
    assert process.returncode == 128 + signum, err
    assert f"Interrupted ({signum.name})" in out
    rows = [row for row in read_ledger(tmp_path / LEDGER) if row["type"] == "result"]
    assert len(rows) == simulator.posts().total() < len(ids)
    ended = run_command("run", "ids.txt", "--ledger", LEDGER, *simulator.flags, env=simulator.env)
    assert ended.returncode == 0, ended.stderr
    assert simulator.posts() == Counter(ids)


def test_a_second_signal_aborts(
    start_simulator: StartSimulator,
    start_run: StartRun,
    read_ledger: ReadLedger,
    tmp_path: Path,
    loop: str,
) -> None:
    """What was in flight is unknown, at once; the first signal is the exit code."""
    simulator = start_simulator()
    write_manifest(tmp_path, ["SLOW-1", "HANG-1"])
    with start_run(simulator, "ids.txt", "--ledger", LEDGER) as process:
        simulator.wait_for("cancel", 2)
        assert loop_of(process) == loop
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=5)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    rows = [row for row in read_ledger(tmp_path / LEDGER) if row["type"] == "result"]
    assert {row["reason"] for row in rows} == {"unknown"}


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_anything_was_sent_leaves_no_trace(
    command_path: Path, clean_environment: dict[str, str], tmp_path: Path, loop: str, signum: signal.Signals
) -> None:
    """It interrupts the loop itself, which waits for a manifest that does not come."""
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
        assert loop_of(process) == loop
        process.send_signal(signum)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 128 + signum, err
    assert "Interrupted; nothing was sent." in err
    assert "Traceback" not in err
    assert not (tmp_path / LEDGER).exists()


Answer = Callable[[int, subprocess.Popen[str]], object]
"""Does something once the question stands there, with the terminal and the process."""


class AtTerminal(Protocol):
    """Answers what a run for production asks, at a terminal."""

    def __call__(self, answer: Answer) -> tuple[int, str]:
        """Start a run, answer its question, and return its exit code and what it showed."""
        ...


@pytest.fixture
def at_terminal(
    command_path: Path, clean_environment: dict[str, str], tmp_path: Path, loop: str
) -> AtTerminal:
    """Start a run that can reach nobody: its host has no address."""

    def run(answer: Answer) -> tuple[int, str]:
        write_manifest(tmp_path, ["1", "2", "3"])
        credentials = {
            "BATCHCANCEL_MERCHANT_ID": "m",
            "BATCHCANCEL_KEY_ID": "k",
            "BATCHCANCEL_SHARED_SECRET": "c2VjcmV0",
        }
        target = ["--env", "production", "--base-url", "https://no-such-host.invalid"]
        terminal, side_of_run = os.openpty()
        shown = b""
        with subprocess.Popen(
            [command_path, "run", "ids.txt", "--ledger", LEDGER, *target, "--max-outage", "0"],
            env=clean_environment | credentials,
            cwd=tmp_path,
            stdin=side_of_run,
            stdout=subprocess.DEVNULL,
            stderr=side_of_run,
            encoding="utf-8",
        ) as process:
            os.close(side_of_run)
            try:
                while b"to go on: " not in shown:
                    shown += os.read(terminal, 4096)
                assert loop_of(process) == loop
                answer(terminal, process)
                with suppress(OSError):  # the other side is closed
                    while more := os.read(terminal, 4096):
                        shown += more
                code = process.wait(10)
            finally:
                process.kill()
                os.close(terminal)
        return code, shown.decode()

    return run


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_question_sends_nothing(
    at_terminal: AtTerminal, tmp_path: Path, signum: signal.Signals
) -> None:
    """Nobody has to type a line first."""
    code, shown = at_terminal(lambda _, process: process.send_signal(signum))
    assert code == 128 + signum, shown
    assert "Interrupted; nothing was sent." in shown
    assert "Traceback" not in shown
    assert not (tmp_path / LEDGER).exists()


@pytest.mark.parametrize(("typed", "code"), [(b"4\n", 2), (b"3\n", 4)], ids=["another number", "the number"])
def test_the_number_that_is_typed_decides(at_terminal: AtTerminal, typed: bytes, code: int) -> None:
    """The right one lets the run begin, which then finds nobody at that host."""
    ended, shown = at_terminal(lambda terminal, _: os.write(terminal, typed))
    assert ended == code, shown


@pytest.mark.usefixtures("loop")
def test_lost_and_late_replies_end_as_they_should(
    run_command: RunCommand, read_ledger: ReadLedger, tmp_path: Path
) -> None:
    """The simulator runs in the same process: resets, hangs and replies for others, on the same loop."""
    ids = ["1", "RESET-BEFORE-1", "RESET-AFTER-1", "HANG-1", "SLOW-1", "2"]
    write_manifest(tmp_path, ids)
    ended = run_command("run", "ids.txt", "--ledger", LEDGER, "--env", "sandbox", "--timeout", "2")
    assert ended.returncode == 0, ended.stderr
    rows = {row["invoice_id"]: row for row in read_ledger(tmp_path / LEDGER) if row["type"] == "result"}
    assert {invoice_id: row["outcome"] for invoice_id, row in rows.items()} == dict.fromkeys(ids, "canceled")
    assert rows["HANG-1"]["resolved_by"] == rows["RESET-AFTER-1"]["resolved_by"] == "lookup"
