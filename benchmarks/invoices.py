"""Settled invoices a second: batchcancel, and other ways to do the same."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.figures import Figure, figure, ratio
from benchmarks.process import ROOT, BenchmarkError, Command, Ended, run
from benchmarks.setting import CREDENTIALS, Report, Setting, run_job, say, write_manifest
from benchmarks.target import Target, fast_target

_SDK_SHARE: Final = 10
"""The SDK settles so many times fewer rows, or nobody would wait for it; its rate is the same for more."""
_WRK_S: Final = 3
# As many bytes as the others send, and a new id each time.
_WRK_SCRIPT: Final = """\
wrk.method = "POST"
wrk.body = "{}"
wrk.headers["Content-Type"] = "application/json;charset=utf-8"
wrk.headers["Authorization"] = "Bearer " .. string.rep("x", 800)
local number = 0
request = function()
    number = number + 1
    return wrk.format(nil, string.format("/invoicing/v2/invoices/INV-%08d/cancelation", number))
end
"""


@dataclass(frozen=True, slots=True)
class _Measured:
    per_s: float
    cpu_us: float | None = None
    """An invoice's CPU time in the client, its whole process counted; None where that is not the point."""
    wall_s: float | None = None


class _Yardsticks:
    """Every way there is to do the work, against one target."""

    def __init__(self, setting: Setting, target: Target, folder: Path) -> None:
        self._setting = setting
        self._target = target
        self._folder = folder
        self._manifest = folder / "invoices.csv"
        self._short_manifest = folder / "short.csv"
        self._script = folder / "post.lua"
        write_manifest(self._manifest, setting.rows)
        write_manifest(self._short_manifest, max(1, setting.rows // _SDK_SHARE))
        self._script.write_text(_WRK_SCRIPT, encoding="utf-8")

    def ways(self) -> dict[str, Callable[[], _Measured]]:
        """Return what is there to be measured, by name."""
        ways: dict[str, Callable[[], _Measured]] = {
            "batchcancel": lambda: self._job("--progress", "none"),
            "batchcancel, progress plain": lambda: self._job("--progress", "plain"),
            "bare": lambda: self._script_in("bare", sys.executable, self._manifest),
            "usual": lambda: self._script_in("usual", sys.executable, self._manifest),
        }
        if (python := self._setting.sdk_python) is not None:
            ways["sdk"] = lambda: self._script_in("sdk", python, self._short_manifest)
        if (wrk := self._setting.wrk) is not None:
            ways["wrk"] = lambda: self._wrk(wrk)
        return ways

    def _job(self, *flags: str) -> _Measured:
        ended = run_job(
            manifest=self._manifest,
            base_url=self._target.base_url,
            concurrency=self._setting.concurrency,
            folder=self._folder,
            flags=flags,
        )
        return _measured(ended, self._setting.rows, ended.json()["duration_s"])

    def _script_in(self, name: str, python: str | Path, manifest: Path) -> _Measured:
        command: Command = [python, "-m", f"benchmarks.yardsticks.{name}", manifest, "--folder", self._folder]
        most = ["--concurrency", str(self._setting.concurrency)]
        ended = run([*command, "--base-url", self._target.base_url, *most], folder=ROOT, env=CREDENTIALS)
        told, rows = ended.json(), manifest.read_bytes().count(b"\n") - 1
        if told["settled"] != rows:
            raise BenchmarkError(f"{name} settled {told['settled']} of {rows} invoices.")
        return _measured(ended, rows, told["duration_s"])

    def _wrk(self, wrk: Path) -> _Measured:
        command: Command = [wrk, "-t1", f"-c{self._setting.concurrency}", f"-d{_WRK_S}s", "-s", self._script]
        output = run([*command, self._target.base_url], folder=self._folder).output
        per_s = re.search(r"Requests/sec: +([0-9.]+)", output)
        if per_s is None or "Non-2xx" in output:
            raise BenchmarkError(f"wrk did not get good replies: {output}")
        return _Measured(float(per_s[1]))


def _measured(ended: Ended, rows: int, duration_s: float) -> _Measured:
    return _Measured(rows / duration_s, cpu_us=ended.cpu_s / rows * 1e6, wall_s=ended.wall_s)


def measure(setting: Setting) -> Report:
    """Let every yardstick do the work in turn, round after round."""
    with fast_target(setting.new_folder("invoices-target"), nginx=setting.nginx) as target:
        ways = _Yardsticks(setting, target, setting.new_folder("invoices")).ways()
        measured: dict[str, list[_Measured]] = {name: [] for name in ways}
        for number in range(setting.rounds):
            for name, way in ways.items():
                measured[name].append(way())
                say(f"invoices, round {number + 1}: {name} {measured[name][-1].per_s:,.0f} a second")
    return _report(setting, target, measured)


def _report(setting: Setting, target: Target, measured: dict[str, list[_Measured]]) -> Report:
    ours = [one.per_s for one in measured["batchcancel"]]
    rows: list[tuple[str, ...]] = []
    figures: dict[str, object] = {}
    for name, rounds in measured.items():
        per_s = [one.per_s for one in rounds]
        times = ratio(ours, per_s)
        cpu_us = _figure([one.cpu_us for one in rounds])
        wall_s = _figure([one.wall_s for one in rounds])
        rows.append(
            (
                name,
                figure(per_s).text(),
                cpu_us.text() if cpu_us else "",
                wall_s.text(".2f") if wall_s else "",
                times.text(".2f"),
            )
        )
        figures[name] = {
            "per_s": figure(per_s),
            "cpu_us_an_invoice": cpu_us,
            "process_wall_s": wall_s,
            "batchcancel_is_times_as_fast": times,
        }
    return Report(
        title=f"Settled invoices a second, {setting.rows:,} rows, target {target.name}",
        header=("", "a second", "CPU us an invoice", "process, s", "batchcancel is x times"),
        rows=rows,
        notes=_notes(setting),
        figures={"target": target.name, "yardsticks": figures},
    )


def _figure(measured: list[float | None]) -> Figure | None:
    there = [one for one in measured if one is not None]
    return figure(there) if there else None


def _notes(setting: Setting) -> list[str]:
    notes = ["A second is counted without start-up, CPU time with it."]
    if setting.nginx is None:
        notes.append("Not nginx but the benchmarks' own server was called: uvloop, one process.")
    if setting.sdk_python is None:
        notes.append("The official SDK was left out: no --sdk-python was given.")
    else:
        notes.append(f"The official SDK settled a {_SDK_SHARE}th of the rows.")
    if setting.wrk is None:
        notes.append("wrk was left out.")
    return notes
