"""Ever longer manifests: time a row, memory, and how long a ledger of that length takes to read back."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.plot import Panel, plot
from benchmarks.process import COMMAND, BenchmarkError, Command, clean_environment
from benchmarks.setting import CREDENTIALS, Report, Setting, say
from benchmarks.target import Target, fast_target

_SIZES: Final = (100_000, 1_000_000, 10_000_000)
_BLOCK_ROWS: Final = 100_000
_SAMPLE_S: Final = 0.1
_POINTS: Final = 300
"""Of a plot: more can't be told apart."""
_REFUSED: Final = 2
_MEMORY: Final = re.compile(r"^(VmRSS|VmHWM):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sample:
    """A process at one moment."""

    at_s: float
    """Since it began."""
    resident_mb: float
    peak_mb: float
    """VmHWM: the most memory that it has had resident so far."""
    ledger_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A process that was watched to its end."""

    exit_code: int
    wall_s: float
    cpu_s: float
    samples: list[Sample]

    @property
    def peak_mb(self) -> float:
        """The most memory that it ever had resident, but for what it took in its last tenth of a second.

        What the system tells at a process's end would not do: it counts in whoever started it.
        """
        return self.samples[-1].peak_mb if self.samples else 0.0


def measure(setting: Setting) -> Report:
    """Check, run and resume manifests of every size up to the one that was asked for."""
    folder = setting.new_folder("scale")
    (folder / "target").mkdir()
    sizes = [size for size in _SIZES if size < setting.scale_rows] + [setting.scale_rows]
    rows: list[tuple[str, ...]] = []
    figures: dict[str, object] = {}
    with fast_target(folder / "target", nginx=setting.nginx) as target:
        for size in sizes:
            figures[f"{size}"] = found = _measure_size(setting, target, folder, size)
            rows.append((f"{size:,}", *(f"{found[name]:,.{digits}f}" for name, digits in _COLUMNS.items())))
    return Report(
        title=f"Manifests of growing length, concurrency {setting.concurrency}, target {target.name}",
        header=("rows", *(name.replace("_", " ") for name in _COLUMNS)),
        rows=rows,
        notes=[
            "check: the pass over the manifest, duplicates included, whole process. run: every invoice",
            "canceled. resume: the ledger read back, every row found settled, nothing asked.",
        ],
        figures=figures,
    )


_COLUMNS: Final = {
    "check_rows_per_s": 0,
    "check_peak_mb": 0,
    "run_rows_per_s": 0,
    "run_cpu_us_a_row": 1,
    "run_peak_mb": 0,
    "resume_s": 1,
    "resume_cpu_us_a_row": 1,
    "resume_peak_mb": 0,
}


def _measure_size(setting: Setting, target: Target, folder: Path, size: int) -> dict[str, float]:
    manifest, ledger = folder / "manifest.csv", folder / "run.ledger.jsonl"
    _write_long_manifest(manifest, size)
    ledger.unlink(missing_ok=True)
    command: Command = [
        *(COMMAND, "run", manifest, "--env", "sandbox", "--base-url", target.base_url, "--ledger", ledger),
        *("--concurrency", str(setting.concurrency), "--progress", "none", "--json"),
    ]
    check = _watch([*command, "--expect-count", "0"], folder, expected=_REFUSED)
    run = _watch(command, folder, expected=0, ledger=ledger)
    say(f"scale: {size:,} rows canceled in {run.wall_s:.0f} s")
    resume = _watch(command, folder, expected=0)
    if ledger.stat().st_size < size:
        raise BenchmarkError(f"The ledger has fewer bytes than the manifest has rows, {size:,}.")
    if setting.plot is not None and size == setting.scale_rows:
        setting.plot.write_text(_drawn(run, size, ledger.stat().st_size / 1e6), encoding="utf-8")
    ledger.unlink()
    return {
        "check_rows_per_s": size / check.wall_s,
        "check_peak_mb": check.peak_mb,
        "run_rows_per_s": size / run.wall_s,
        "run_cpu_us_a_row": run.cpu_s / size * 1e6,
        "run_peak_mb": run.peak_mb,
        "resume_s": resume.wall_s,
        "resume_cpu_us_a_row": resume.cpu_s / size * 1e6,
        "resume_peak_mb": resume.peak_mb,
    }


def _write_long_manifest(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("invoice_id\n")
        for start in range(0, rows, _BLOCK_ROWS):
            file.writelines(f"INV-{number:08d}\n" for number in range(start, min(start + _BLOCK_ROWS, rows)))


def _watch(command: Command, folder: Path, *, expected: int, ledger: Path | None = None) -> Watched:
    """Run the command to its end, and look at it ten times a second.

    Raises:
        BenchmarkError: It ended with another exit code than was expected.
    """
    began_at = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=folder,
        env=clean_environment(folder, CREDENTIALS),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        samples: list[Sample] = []
        has_ended = threading.Event()
        watcher = threading.Thread(target=_sample, args=(process.pid, ledger, samples, has_ended))
        watcher.start()
        assert process.stderr is not None  # noqa: S101 - it is a pipe
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        has_ended.set()
        watcher.join()
    if process.returncode != expected:
        raise BenchmarkError(f"batchcancel ended with {process.returncode}: {said[-2000:]}")
    return Watched(
        exit_code=process.returncode,
        wall_s=time.perf_counter() - began_at,
        cpu_s=usage.ru_utime + usage.ru_stime,
        samples=samples,
    )


def _sample(pid: int, ledger: Path | None, samples: list[Sample], has_ended: threading.Event) -> None:
    began_at = time.perf_counter()
    while not has_ended.wait(_SAMPLE_S):
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        except OSError:
            return  # it has just ended
        kilobytes = {name: int(size) for name, size in _MEMORY.findall(status)}
        size = ledger.stat().st_size if ledger is not None and ledger.exists() else 0
        if kilobytes:
            samples.append(
                Sample(
                    at_s=time.perf_counter() - began_at,
                    resident_mb=kilobytes["VmRSS"] / 1024,
                    peak_mb=kilobytes["VmHWM"] / 1024,
                    ledger_mb=size / 1e6,
                )
            )


def _drawn(run: Watched, rows: int, ledger_mb: float) -> str:
    """Draw rate and memory over time; how many rows are settled is told by the ledger's size."""
    step = max(1, len(run.samples) // _POINTS)
    kept = run.samples[::step]
    rate = [
        (later.at_s, (later.ledger_mb - earlier.ledger_mb) / ledger_mb * rows / (later.at_s - earlier.at_s))
        for earlier, later in itertools.pairwise(kept)
    ]
    return plot(
        f"{rows:,} invoices in one run: {run.wall_s:,.0f} s, at most {run.peak_mb:.0f} MB of memory",
        [
            Panel("settled invoices a second", rate),
            Panel("resident memory, MB", [(one.at_s, one.resident_mb) for one in kept]),
        ],
    )
