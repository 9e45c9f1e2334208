"""What can happen to the ledger's file under a running process: taken, filled up, removed, changed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import ReadLedger, RunCommand, Simulator, StartRun, StartSimulator

LEDGER = "ledger.jsonl"
TINY_BYTES = 512 * 1024


def write_manifest(folder: Path, count: int) -> list[str]:
    """Write ``ids.txt`` and return its ids."""
    ids = [str(number) for number in range(count)]
    (folder / "ids.txt").write_text("\n".join(ids), encoding="utf-8")
    return ids


def assert_each_has_one_true_row(records: list[dict[str, object]], ids: list[str]) -> None:
    """Every invoice has exactly one row, which says what the simulator did."""
    results = [record for record in records if record["type"] == "result"]
    assert Counter(row["invoice_id"] for row in results) == Counter(ids)
    assert {row["reason"] for row in results} == {"canceled"}


# --- two runs ------------------------------------------------------------------------------------


def test_a_second_run_on_the_ledger_is_refused_and_sends_nothing(
    run_command: RunCommand,
    start_simulator: StartSimulator,
    start_run: StartRun,
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> None:
    """Exit 5, by whatever name it reaches the file; the first run is not disturbed."""
    simulator, other = start_simulator("--latency-ms", "200"), start_simulator()
    ids = write_manifest(tmp_path, 400)  # 40 s of work, which no machine is too slow to interrupt
    ledger, soft, hard = tmp_path / LEDGER, tmp_path / "soft.jsonl", tmp_path / "hard.jsonl"
    detour = tmp_path / ".." / tmp_path.name / LEDGER
    with start_run(simulator, "ids.txt", "--ledger", LEDGER, "--concurrency", "2") as process:
        simulator.wait_for("cancel", 2)
        soft.symlink_to(ledger)
        hard.hardlink_to(ledger)
        for name in (ledger, detour, soft, hard):
            # It calls a simulator of its own, whose log shows that it sent nothing.
            ended = run_command("run", "ids.txt", "--ledger", name, *other.flags, env=other.env)
            assert ended.returncode == 5, f"{name}: {ended.stderr}"
        process.terminate()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 143, err
    assert other.requests() == []
    rest = run_command(
        "run", "ids.txt", "--ledger", ledger, "--concurrency", "64", *simulator.flags, env=simulator.env
    )
    assert rest.returncode == 0, rest.stderr
    assert_each_has_one_true_row(read_ledger(ledger), ids)
    assert simulator.posts() == Counter(ids)


def test_two_runs_that_are_killed_and_restarted_never_share_the_ledger(
    run_command: RunCommand,
    start_simulator: StartSimulator,
    start_run: StartRun,
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> None:
    """Of two that start at once, one is refused; whoever is killed, the other may go on where it was."""
    chance = random.Random(5)  # noqa: S311 - has to be repeatable, not secret
    concurrency, rounds = 4, 3
    simulator = start_simulator("--latency-ms", "50")
    ids = write_manifest(tmp_path, 200)
    arguments = ("ids.txt", "--ledger", LEDGER, "--concurrency", str(concurrency))
    for _ in range(rounds):
        before = simulator.posts().total()
        with start_run(simulator, *arguments) as one, start_run(simulator, *arguments) as two:
            simulator.wait_for("cancel", before + 1)
            time.sleep(chance.uniform(0, 0.3))
            loser = one if _ends_within(one, 10, beside=two) else two
            winner = two if loser is one else one
            assert loser.wait(10) == 5
            assert winner.poll() is None
            winner.kill()
    ended = run_command("run", *arguments, *simulator.flags, env=simulator.env)
    assert ended.returncode == 0, ended.stderr
    assert_each_has_one_true_row(read_ledger(tmp_path / LEDGER), ids)
    # In flight, plus what was answered within the 50 ms of a group and the write after it.
    assert simulator.posts().total() - len(ids) <= rounds * (concurrency + concurrency * 8)


def _ends_within(process: subprocess.Popen[str], seconds: float, *, beside: subprocess.Popen[str]) -> bool:
    """Wait until one of two processes has ended; tell whether it is this one."""
    give_up_at = time.monotonic() + seconds
    while process.poll() is None and beside.poll() is None:
        assert time.monotonic() < give_up_at, "neither of two runs on one ledger was refused"
        time.sleep(0.01)
    return process.poll() is not None


# --- no room -------------------------------------------------------------------------------------


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 512 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={TINY_BYTES}", "tmpfs", folder],  # noqa: S607 - the system's own
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here ({mounted.stderr.strip()}); the file size limit is tested")
    yield folder
    subprocess.run(["umount", folder], check=True)  # noqa: S607 - likewise


def fill(folder: Path) -> Path:
    """Fill a file system to its last byte; return the file that does it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 4096):
            pass
    return filler


def test_a_disk_that_is_full_from_the_start_costs_no_request(
    run_command: RunCommand, simulator: Simulator, read_ledger: ReadLedger, tiny_disk: Path, tmp_path: Path
) -> None:
    """Exit 6 before the first cancelation; once there is room the same command does it all."""
    ids = write_manifest(tmp_path, 200)
    command: tuple[str | Path, ...] = ("run", "ids.txt", "--ledger", tiny_disk / LEDGER, *simulator.flags)
    filler = fill(tiny_disk)
    refused = run_command(*command, env=simulator.env)
    assert refused.returncode == 6, refused.stderr
    assert simulator.posts().total() == 0
    filler.unlink()
    assert run_command(*command, env=simulator.env).returncode == 0
    assert_each_has_one_true_row(read_ledger(tiny_disk / LEDGER), ids)


def test_a_disk_that_fills_up_stops_the_run_with_what_is_on_it(
    run_command: RunCommand,
    start_simulator: StartSimulator,
    start_run: StartRun,
    read_ledger: ReadLedger,
    tiny_disk: Path,
    tmp_path: Path,
) -> None:
    """Exit 6 in the middle, nothing claimed that is not on disk, and it resumes once there is room."""
    simulator = start_simulator("--latency-ms", "20")
    ids = write_manifest(tmp_path, 400)
    ledger = tiny_disk / LEDGER
    with start_run(simulator, "ids.txt", "--ledger", ledger, "--concurrency", "4", "--json") as process:
        simulator.wait_for("cancel", 40)
        filler = fill(tiny_disk)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 6, err
    assert "No space left" in err
    _assert_stopped_and_resumes(
        simulator, out, ledger, ids, run_command, read_ledger, make_room=filler.unlink
    )


def test_a_file_that_may_not_grow_stops_the_run_with_what_is_in_it(
    run_command: RunCommand,
    start_simulator: StartSimulator,
    start_run: StartRun,
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> None:
    """The same by the system's limit of file sizes, which needs no right to mount."""
    simulator = start_simulator("--latency-ms", "20")
    ids = write_manifest(tmp_path, 400)
    ledger = tmp_path / LEDGER
    arguments = ("ids.txt", "--ledger", ledger, "--concurrency", "4", "--json")
    with start_run(simulator, *arguments, file_size_bytes=40_000) as process:
        out, err = process.communicate(timeout=30)
    assert process.returncode == 6, err
    _assert_stopped_and_resumes(simulator, out, ledger, ids, run_command, read_ledger)


def _assert_stopped_and_resumes(
    simulator: Simulator,
    out: str,
    ledger: Path,
    ids: list[str],
    run_command: RunCommand,
    read_ledger: ReadLedger,
    *,
    make_room: Callable[[], object] = lambda: None,
) -> None:
    """What was claimed is on disk, little was sent for nothing, and the next run finishes."""
    on_disk = [row["invoice_id"] for row in read_ledger(ledger) if row["type"] == "result"]
    assert 0 < len(on_disk) < len(ids)
    claimed = json.loads(out)["outcomes"]["canceled"] if out else 0
    assert claimed <= len(on_disk)
    asked = simulator.posts()
    assert set(on_disk) <= set(asked)
    assert asked.total() - len(on_disk) <= 512
    assert asked.total() < len(ids), "the run went on after its ledger had failed"
    make_room()
    ended = run_command("run", "ids.txt", "--ledger", ledger, *simulator.flags, env=simulator.env)
    assert ended.returncode == 0, ended.stderr
    assert_each_has_one_true_row(read_ledger(ledger), ids)
    assert all(count == 1 for invoice_id, count in simulator.posts().items() if invoice_id in set(on_disk))


# --- another hand --------------------------------------------------------------------------------


def _remove(ledger: Path) -> None:
    ledger.unlink()


def _replace(ledger: Path) -> None:
    copy = ledger.with_name("copy")
    copy.write_bytes(ledger.read_bytes())
    copy.replace(ledger)


def _truncate(ledger: Path) -> None:
    os.truncate(ledger, ledger.stat().st_size // 2)


def _append(ledger: Path) -> None:
    with ledger.open("ab") as file:
        file.write(b"x\n")


@pytest.mark.parametrize(
    "meddle",
    [
        pytest.param(_remove, id="removed"),
        pytest.param(_replace, id="replaced"),
        pytest.param(_truncate, id="truncated"),
        pytest.param(_append, id="appended-to"),
    ],
)
def test_a_ledger_that_another_hand_touches_stops_the_run_at_once(
    run_command: RunCommand,
    start_simulator: StartSimulator,
    start_run: StartRun,
    tmp_path: Path,
    meddle: Callable[[Path], None],
) -> None:
    """Exit 6 and hardly a request more; with the old file put back, the next run finishes."""
    simulator = start_simulator("--latency-ms", "50")
    ids = write_manifest(tmp_path, 400)
    ledger = tmp_path / LEDGER
    with start_run(simulator, "ids.txt", "--ledger", ledger, "--concurrency", "4") as process:
        simulator.wait_for("cancel", 40)
        with ledger.open("rb") as opened:
            meddle(ledger)
            asked = simulator.posts().total()
            meddled_at = time.monotonic()
            _, err = process.communicate(timeout=30)
            assert process.returncode == 6, err
            assert time.monotonic() - meddled_at < 15
            kept = opened.read()
    # A group waits 50 ms at most, and its write fails: some rounds of four go out until then.
    assert simulator.posts().total() - asked < 100
    assert "Traceback" not in err
    ledger.unlink(missing_ok=True)
    ledger.write_bytes(kept)
    settled = (
        {
            row["invoice_id"]
            for row in map(json.loads, kept.splitlines()[: kept.count(b"\n")])
            if row["type"] == "result"
        }
        if meddle in {_remove, _replace}
        else set()
    )
    ended = run_command("run", "ids.txt", "--ledger", ledger, *simulator.flags, env=simulator.env)
    assert ended.returncode == 0, ended.stderr
    latest = {
        row["invoice_id"]: row["reason"]
        for row in map(json.loads, ledger.read_text(encoding="utf-8").splitlines())
        if row["type"] == "result"
    }
    assert latest == dict.fromkeys(ids, "canceled")
    assert all(simulator.posts()[invoice_id] == 1 for invoice_id in settled)
