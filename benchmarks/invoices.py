"""Settled invoices a second: batchcancel, and other ways to do the same."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.figures import Figure, figure, ratio
from benchmarks.process import BenchmarkError, Command, Ended, run
from benchmarks.setting import Report, Setting, count_rows, run_job, run_yardstick, say, write_manifest
from benchmarks.target import Target, fast_target

_OWN: Final = "batchcancel"
_SDK: Final = "sdk"
_FORMS: Final = (",.0f", ".2f", ",.0f", ".2f")
"""How each column is written."""
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
class _Rounds:
    """What one way took, round by round."""

    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """An invoice's CPU time in the client, without its start-up; empty for what is no client."""


class _Yardsticks:
    """Every way there is to do the work, against one target."""

    def __init__(self, setting: Setting, target: Target, folder: Path) -> None:
        self._setting = setting
        self._target = target
        self._folder = folder
        self._script = folder / "post.lua"
        self._script.write_text(_WRK_SCRIPT, encoding="utf-8")

    def clients(self) -> dict[str, Callable[[Path], Ended]]:
        """Return whatever can cancel a manifest's invoices, by name."""
        clients: dict[str, Callable[[Path], Ended]] = {
            _OWN: lambda manifest: self._job(manifest, "none"),
            f"{_OWN}, progress plain": lambda manifest: self._job(manifest, "plain"),
            "bare": lambda manifest: self._yardstick("bare", sys.executable, manifest),
            "usual": lambda manifest: self._yardstick("usual", sys.executable, manifest),
        }
        if (python := self._setting.sdk_python) is not None:
            clients[_SDK] = lambda manifest: self._yardstick(_SDK, python, manifest)
        return clients

    def wrk_per_s(self, wrk: Path) -> float:
        """Return the requests a second that wrk gets answered.

        Raises:
            BenchmarkError: It got other answers than the clients do.
        """
        command: Command = [wrk, "-t1", f"-c{self._setting.concurrency}", f"-d{_WRK_S}s", "-s", self._script]
        output = run([*command, self._target.base_url], folder=self._folder).output
        per_s = re.search(r"Requests/sec: +([0-9.]+)", output)
        if per_s is None or "Non-2xx" in output:
            raise BenchmarkError(f"wrk did not get good replies: {output}")
        return float(per_s[1])

    def _job(self, manifest: Path, progress: str) -> Ended:
        return run_job(
            manifest=manifest,
            base_url=self._target.base_url,
            concurrency=self._setting.concurrency,
            folder=self._folder,
            flags=("--progress", progress),
        )

    def _yardstick(self, name: str, python: str | Path, manifest: Path) -> Ended:
        return run_yardstick(
            name,
            python=python,
            manifest=manifest,
            base_url=self._target.base_url,
            concurrency=self._setting.concurrency,
            folder=self._folder,
        )


def measure(setting: Setting) -> Report:
    """Let every yardstick do the work in turn, round after round."""
    folder = setting.new_folder("invoices")
    one, some, all_ = folder / "one.csv", folder / "some.csv", folder / "all.csv"
    write_manifest(one, 1)
    write_manifest(some, max(1, setting.rows // _SDK_SHARE))
    write_manifest(all_, setting.rows)
    with fast_target(setting.new_folder("invoices-target"), nginx=setting.nginx) as target:
        yardsticks = _Yardsticks(setting, target, folder)
        clients = yardsticks.clients()
        # One invoice tells what the start costs, and brings every program into the system's cache.
        starts_s = {name: client(one).cpu_s for name, client in clients.items()}
        measured = {name: _Rounds() for name in clients}
        for number in range(setting.rounds):
            for name, client in clients.items():
                manifest, rounds = some if name == _SDK else all_, measured[name]
                ended, rows = client(manifest), count_rows(manifest)
                rounds.per_s.append(rows / ended.json()["duration_s"])
                rounds.cpu_us.append((ended.cpu_s - starts_s[name]) / rows * 1e6)
                say(f"invoices, round {number + 1}: {name} {rounds.per_s[-1]:,.0f} a second")
            if setting.wrk is not None:
                measured.setdefault("wrk", _Rounds()).per_s.append(yardsticks.wrk_per_s(setting.wrk))
    return _report(setting, target, measured)


def _report(setting: Setting, target: Target, measured: dict[str, _Rounds]) -> Report:
    own = measured[_OWN]
    rows: list[tuple[str, ...]] = []
    figures: dict[str, dict[str, Figure | None]] = {}
    for name, rounds in measured.items():
        found = {
            "per_s": figure(rounds.per_s),
            "batchcancel_is_times_as_fast": ratio(own.per_s, rounds.per_s),
            "cpu_us_an_invoice": figure(rounds.cpu_us) if rounds.cpu_us else None,
            "cpu_is_times_batchcancels": ratio(rounds.cpu_us, own.cpu_us) if rounds.cpu_us else None,
        }
        texts = (one.text(form) if one else "" for one, form in zip(found.values(), _FORMS, strict=True))
        rows.append((name, *texts))
        figures[name] = found
    return Report(
        title=f"Settled invoices a second, {setting.rows:,} rows, target {target.name}",
        header=("", "a second", "batchcancel is x times", "CPU us an invoice", "x times batchcancel's"),
        rows=rows,
        notes=_notes(setting),
        figures={"target": target.name, "yardsticks": figures},
    )


def _notes(setting: Setting) -> list[str]:
    notes = ["Both without start-up. CPU time is what to look at where the machine was not idle."]
    if setting.nginx is None:
        notes.append("Not nginx but the benchmarks' own server was called: uvloop, one process.")
    if setting.sdk_python is None:
        notes.append("The official SDK was left out: no --sdk-python was given.")
    else:
        notes.append(f"The official SDK settled a {_SDK_SHARE}th of the rows.")
    if setting.wrk is None:
        notes.append("wrk was left out.")
    return notes
