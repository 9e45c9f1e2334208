"""What it costs to start: help, and one invoice."""

from __future__ import annotations

from typing import Final

from benchmarks.figures import figure
from benchmarks.process import COMMAND, run
from benchmarks.setting import Report, Setting, say, write_manifest

_COMMANDS: Final = {
    "batchcancel --help": ["--help"],
    "batchcancel run --help": ["run", "--help"],
    "one invoice in the sandbox": ["run", "invoices.csv", "--env", "sandbox", "--progress", "none"],
}


def measure(setting: Setting) -> Report:
    """Run each command in turn, round after round."""
    folder = setting.new_folder("startup")
    write_manifest(folder / "invoices.csv", 1)
    measured: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    for _ in range(setting.rounds):
        for name, arguments in _COMMANDS.items():
            measured[name].append(run([COMMAND, *arguments], folder=folder).cpu_s)
            for ledger in folder.glob("*.ledger.jsonl"):
                ledger.unlink()
    say("startup: done")
    return Report(
        title="CPU time of a whole process, seconds",
        header=("", "CPU, s"),
        rows=[(name, figure(cpu_s).text(".3f")) for name, cpu_s in measured.items()],
        notes=[],
        figures={name: {"cpu_s": figure(cpu_s)} for name, cpu_s in measured.items()},
    )
