"""Signals beyond the first one: storms of them, and a process that is stopped and goes on."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import ReadLedger, RunCommand, StartRun, StartSimulator

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LEDGER = "ledger.jsonl"


def write_manifest(folder: Path, count: int) -> list[str]:
    """Write ``ids.txt`` and return its ids."""
    ids = [f"{'RESET-AFTER-' if number % 7 == 0 else ''}{number}" for number in range(count)]
    (folder / "ids.txt").write_text("\n".join(ids), encoding="utf-8")
    return ids


@pytest.mark.parametrize("seed", range(3), ids=lambda seed: f"seed-{seed}")
def test_a_storm_of_signals_leaves_a_ledger_that_resumes(
    run_command: RunCommand,
    start_simulator: StartSimulator,
    start_run: StartRun,
    read_ledger: ReadLedger,
    tmp_path: Path,
    seed: int,
) -> None:
    """Ten signals in a second: the first one is the exit code, no row is wrong, none is lost."""
    chance = random.Random(seed)  # noqa: S311 - has to be repeatable, not secret
    storm = [*ENDING, *(chance.choice(ENDING) for _ in range(7))]
    chance.shuffle(storm)
    simulator = start_simulator("--latency-ms", "100", "--jitter-ms", "100")
    ids = write_manifest(tmp_path, 150)
    with start_run(simulator, "ids.txt", "--ledger", LEDGER, "--concurrency", "8") as process:
        simulator.wait_for("cancel", 12)
        for signum in storm:
            process.send_signal(signum)
            time.sleep(chance.uniform(0, 0.1))
        _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + storm[0], err
    assert "Traceback" not in err
    first = read_ledger(tmp_path / LEDGER)
    assert first[-1]["state"] == "interrupted"
    assert {row["reason"] for row in first if row["type"] == "result"} <= {"canceled", "unknown"}
    asked = simulator.posts()
    rows = Counter(row["invoice_id"] for row in first if row["type"] == "result")
    # Whatever has left has its row, so that the next run knows whom to look up first.
    assert rows == asked
    resumed = run_command("run", "ids.txt", "--ledger", LEDGER, *simulator.flags, env=simulator.env)
    assert resumed.returncode == 0, resumed.stderr
    latest = {
        row["invoice_id"]: row["reason"] for row in read_ledger(tmp_path / LEDGER) if row["type"] == "result"
    }
    assert latest == dict.fromkeys(ids, "canceled")
    assert simulator.posts() == Counter(ids)


@pytest.mark.parametrize(
    ("signum", "after_s"),
    [(signal.SIGTERM, 0.05), (signal.SIGINT, 0.3), (signal.SIGHUP, 0.7)],
    ids=["SIGTERM-at-once", "SIGINT-a-bit-later", "SIGHUP-later-still"],
)
def test_a_signal_while_it_starts_is_the_end_and_no_loss(
    run_command: RunCommand,
    start_simulator: StartSimulator,
    start_run: StartRun,
    tmp_path: Path,
    signum: signal.Signals,
    after_s: float,
) -> None:
    """Whether Python was still importing or the first request had left, the next run finishes."""
    simulator = start_simulator("--latency-ms", "50")
    ids = write_manifest(tmp_path, 40)
    with start_run(simulator, "ids.txt", "--ledger", LEDGER, "--concurrency", "2") as process:
        time.sleep(after_s)
        process.send_signal(signum)
        process.communicate(timeout=20)
    # Before the program has taken the signal over, the system or Python itself ends the process.
    assert process.returncode in {128 + signum, -signum}
    resumed = run_command("run", "ids.txt", "--ledger", LEDGER, *simulator.flags, env=simulator.env)
    assert resumed.returncode == 0, resumed.stderr
    assert simulator.posts() == Counter(ids)


def test_a_signal_after_the_last_row_does_not_say_that_nothing_was_sent(
    start_simulator: StartSimulator,
    command_path: Path,
    clean_environment: dict[str, str],
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> None:
    """Everything is on disk, and the summary waits for a reader that takes nothing."""
    simulator = start_simulator()
    write_manifest(tmp_path, 20)
    unread, full = os.pipe()
    fcntl.fcntl(full, fcntl.F_SETPIPE_SZ, 4096)
    os.write(full, b"x" * 4096)
    with subprocess.Popen(
        [command_path, "run", "ids.txt", "--ledger", LEDGER, *simulator.flags],
        env=clean_environment | simulator.env,
        cwd=tmp_path,
        stdout=full,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            give_up_at = time.monotonic() + 30
            while '"type":"end"' not in _text(tmp_path / LEDGER):
                assert time.monotonic() < give_up_at, "the run has not ended"
                time.sleep(0.05)
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=10)
        finally:
            process.kill()
            os.close(unread)
            os.close(full)
    assert process.returncode in {128 + signal.SIGTERM, -signal.SIGTERM}
    assert "nothing was sent" not in err
    assert read_ledger(tmp_path / LEDGER)[-1]["state"] == "complete"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.mark.parametrize("timeout_s", ["30", "1"], ids=["replies-still-count", "replies-timed-out"])
def test_a_run_that_was_stopped_for_a_while_goes_on(
    start_simulator: StartSimulator,
    start_run: StartRun,
    read_ledger: ReadLedger,
    tmp_path: Path,
    timeout_s: str,
) -> None:
    """SIGSTOP, seconds, SIGCONT, twice: each invoice is asked once and every row is right."""
    simulator = start_simulator("--latency-ms", "40")
    ids = write_manifest(tmp_path, 120)
    with start_run(
        simulator, "ids.txt", "--ledger", LEDGER, "--concurrency", "6", "--timeout", timeout_s
    ) as process:
        for posts in (10, 50):
            simulator.wait_for("cancel", posts)
            process.send_signal(signal.SIGSTOP)
            time.sleep(1.5)
            process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    results = [row for row in read_ledger(tmp_path / LEDGER) if row["type"] == "result"]
    assert Counter(row["invoice_id"] for row in results) == Counter(ids)
    assert {row["reason"] for row in results} == {"canceled"}
    assert simulator.posts() == Counter(ids)
