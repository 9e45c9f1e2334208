"""What it costs to be watched: the live view, metrics and the log, each pair of jobs in turn."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.figures import Figure, figure, ratio
from benchmarks.process import Ended
from benchmarks.setting import Report, Setting, count_rows, run_job, say, write_manifest
from benchmarks.target import Target, fast_target, free_port

_ALONE: Final = "nobody watches"
_METRICS: Final = "metrics"
_ALL: Final = "live view, metrics, log at warning"
_PAIRS_A_ROUND: Final = 2
_SCRAPE_EVERY_S: Final = 1.0
_MOST: Final = 1.05
"""The goal: five hundredths of an invoice's CPU time."""


@dataclass(frozen=True, slots=True)
class _Rounds:
    """What one way took, round by round."""

    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """An invoice's CPU time, without the start-up."""


class _Jobs:
    """A job, watched in several ways, against one target."""

    def __init__(self, setting: Setting, target: Target, folder: Path) -> None:
        self._setting = setting
        self._target = target
        self._folder = folder
        self._port = free_port()
        self.scrapes = 0
        """How often the metrics came when they were asked for."""

    def run(self, name: str, manifest: Path) -> Ended:
        """Cancel a manifest's invoices while somebody watches in the named way."""
        metrics = ("--metrics-file", self._folder / "job.prom", "--metrics-port", str(self._port))
        with self._scraping(wanted=name != _ALONE):
            return run_job(
                manifest=manifest,
                base_url=self._target.base_url,
                concurrency=self._setting.concurrency,
                folder=self._folder,
                flags=("--progress", "bar" if name == _ALL else "none", *(() if name == _ALONE else metrics)),
                on_terminal=name == _ALL,
            )

    @contextmanager
    def _scraping(self, *, wanted: bool) -> Iterator[None]:
        """Ask for the metrics every second, as Prometheus would at its most eager."""
        is_over = threading.Event()
        thread = threading.Thread(target=self._scrape, args=(is_over,))
        if wanted:
            thread.start()
        try:
            yield
        finally:
            is_over.set()
            if wanted:
                thread.join()

    def _scrape(self, is_over: threading.Event) -> None:
        while not is_over.wait(_SCRAPE_EVERY_S):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as reply:
                    self.scrapes += bool(reply.read())
            except OSError:
                continue  # the job has not begun, or has just ended


def measure(setting: Setting) -> Report:
    """Let the same job be watched and not watched in turn."""
    folder = setting.new_folder("observers")
    one, all_ = folder / "one.csv", folder / "all.csv"
    write_manifest(one, 1)
    write_manifest(all_, setting.rows)
    measured = {name: _Rounds() for name in (_ALONE, _METRICS, _ALL)}
    with fast_target(setting.new_folder("observers-target"), nginx=setting.nginx) as target:
        jobs = _Jobs(setting, target, folder)
        starts_s = {name: jobs.run(name, one).cpu_s for name in measured}
        for number in range(setting.rounds * _PAIRS_A_ROUND):
            # Every other time in the other order, so that whoever comes first has no advantage.
            for name in list(measured)[:: -1 if number % 2 else 1]:
                ended, rows = jobs.run(name, all_), count_rows(all_)
                rounds = measured[name]
                rounds.per_s.append(rows / ended.json()["duration_s"])
                rounds.cpu_us.append((ended.cpu_s - starts_s[name]) / rows * 1e6)
                say(f"observers, round {number + 1}: {name} {rounds.per_s[-1]:,.0f} a second")
    return _report(setting, target, measured, starts_s, jobs.scrapes)


def _report(
    setting: Setting, target: Target, measured: dict[str, _Rounds], starts_s: dict[str, float], scrapes: int
) -> Report:
    alone = measured[_ALONE]
    rows: list[tuple[str, ...]] = []
    figures: dict[str, dict[str, Figure | float]] = {}
    for name, rounds in measured.items():
        found = {
            "per_s": figure(rounds.per_s),
            "time_is_times_alone": ratio(alone.per_s, rounds.per_s),
            "cpu_us_an_invoice": figure(rounds.cpu_us),
            "cpu_is_times_alone": ratio(rounds.cpu_us, alone.cpu_us),
        }
        forms = (",.0f", ".3f", ",.1f", ".3f")
        texts = [one.text(form) for one, form in zip(found.values(), forms, strict=True)]
        rows.append((name, *texts, f"{starts_s[name]:.2f}"))
        figures[name] = {**found, "start_cpu_s": starts_s[name]}
    return Report(
        title=f"What watching costs, {setting.rows:,} rows, target {target.name}",
        header=("", "a second", "time is x alone's", "CPU us an invoice", "x alone's", "CPU s of a start"),
        rows=rows,
        notes=[
            f"{len(alone.per_s)} pairs, in turn. The goal is {_MOST} times the CPU time of an unwatched job.",
            f"The metrics: a file, and a port scraped every {_SCRAPE_EVERY_S:g} s, {scrapes} times in all.",
        ],
        figures={"target": target.name, "ways": figures, "scrapes": scrapes},
    )
