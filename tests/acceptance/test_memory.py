"""Long manifests and ledgers: what a run needs of memory and disk to compare a million ids."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from batchcancel.ledger.record import RunRecord, encode_result, encode_run
from batchcancel.model import Reason, Result
from batchcancel.sandbox import SANDBOX_MERCHANT_ID

if TYPE_CHECKING:
    from tests.acceptance.conftest import Simulator, StartRun

LEDGER: Final = "ledger.jsonl"
ROWS, REPEATED, SETTLED = 1_000_000, 100_000, 300_000
MOST_KB: Final = 120_000
"""About 60,000 are the libraries. Dictionaries of this many ids and answers take 150,000 more."""


def write_manifest(folder: Path) -> None:
    """Write a million rows, the last of which repeat the first."""
    distinct = ROWS - REPEATED
    with (folder / "ids.txt").open("w", encoding="ascii") as file:
        file.writelines(f"INV-{number % distinct}\n" for number in range(ROWS))


def write_ledger(path: Path) -> None:
    """Write the ledger of a run that canceled the first rows and was killed."""
    run = RunRecord(
        run_id="r1",
        started_at="2026-01-01T00:00:00.000Z",
        version="0",
        env="sandbox",
        base_url="http://127.0.0.1:1",
        merchant_id=SANDBOX_MERCHANT_ID,
        operator="o",
        host="h",
        pid=1,
        ref=None,
        manifest=(),
        options={},
    )
    reason = Reason.CANCELED
    with path.open("wb") as file:
        file.write(encode_run(run))
        for row in range(SETTLED):
            result = Result(
                row=row + 1,
                invoice_id=f"INV-{row}",
                outcome=reason.outcome,
                reason=reason,
                resolved_by=None,
                at="2026-01-01T00:00:00.000Z",
            )
            file.write(encode_result("r1", result))


def peak_kb(process: subprocess.Popen[str]) -> int:
    """Read the most memory that a process ever had resident; 0 once it is gone."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def test_memory_hardly_follows_the_number_of_rows(
    command_path: Path, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    """A million rows, a tenth of them repeated, a third of them settled: all are counted, none is held."""
    write_manifest(tmp_path)
    write_ledger(tmp_path / LEDGER)
    # What measures the coverage needs memory of its own.
    env = {name: value for name, value in clean_environment.items() if not name.startswith("COVERAGE_")}
    arguments = ("--ledger", LEDGER, "--env", "sandbox", "--limit", "20", "--json")
    with subprocess.Popen(
        [command_path, "run", "ids.txt", *arguments],
        cwd=tmp_path,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        memory_kb = 0
        while process.poll() is None:
            memory_kb = max(memory_kb, peak_kb(process))
            time.sleep(0.02)
        out, err = process.communicate()
    assert process.returncode == 7, err
    assert f"{ROWS - REPEATED - SETTLED:,} invoices to cancel" in err
    assert f"{SETTLED:,} settled earlier, {REPEATED:,} repeated" in err
    summary: dict[str, Any] = json.loads(out)
    assert summary["outcomes"]["canceled"] == 20
    assert 0 < memory_kb < MOST_KB


def test_no_room_to_compare_many_ids_is_exit_2(
    simulator: Simulator, start_run: StartRun, tmp_path: Path
) -> None:
    """Nothing is sent, and no ledger is left behind."""
    with (tmp_path / "ids.txt").open("w", encoding="ascii") as file:
        file.writelines(f"{number}\n" for number in range(300_000))
    with start_run(simulator, "ids.txt", "--ledger", LEDGER, file_size_bytes=4_000_000) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "compared in a file in" in err
    assert "File too large" in err
    assert simulator.requests() == []
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name.startswith("ledger")) == []
