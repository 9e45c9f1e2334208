"""What happened when: counts over time, how long replies took, and stretches without any answer.

A ledger holds one line an invoice, written when the invoice was decided. What is said here of requests
is therefore placed at that moment. A ledger does not hold why a run waited.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from typing import Final

from batchcancel.ledger.reader import ResultRecord

MAX_BINS: Final = 60
_WIDTHS_MS: Final = (
    *(100, 200, 1_000, 2_000, 10_000, 30_000, 60_000, 120_000, 600_000, 1_800_000),
    *(3_600_000, 7_200_000, 21_600_000, 86_400_000),
)
"""How long a bin may be, as people divide time; each is a multiple of the one before."""
QUIET_S: Final = 5.0
"""Seconds without any decided row that are told."""
_QUIET_SHOWN: Final = 10
_STEP: Final = 1.05
"""Each class of latencies ends 5 % above its beginning: percentiles are exact to that."""
_MOST_MS: Final = 1e9


@dataclass(slots=True)
class Bin:
    """One stretch of time."""

    settled: int = 0
    """Rows with an answer that needs no further run."""
    rows: int = 0
    posts: int = 0
    lookups: int = 0
    repeats: int = 0
    """Cancelations sent again: of each row all but the first."""
    quiet_s: float = 0.0
    """Seconds of stretches without any decided row."""

    def add(self, other: Bin) -> None:
        """Add the counts of another stretch."""
        self.settled += other.settled
        self.rows += other.rows
        self.posts += other.posts
        self.lookups += other.lookups
        self.repeats += other.repeats
        self.quiet_s += other.quiet_s


class Timeline:
    """Counts over time in at most ``MAX_BINS`` bins, which widen as time goes on."""

    def __init__(self, start_s: float) -> None:
        """Begin.

        Args:
            start_s: When the first bin begins, Unix seconds.
        """
        self._width_ms = _WIDTHS_MS[0]
        self.start_s = start_s
        self.bins: list[Bin] = []

    @property
    def width_s(self) -> float:
        """How long each bin is, in seconds."""
        return self._width_ms / 1000

    def at(self, when_s: float) -> Bin:
        """Return the bin of a moment; what lies before the start belongs to the first one."""
        index = max(0, int((when_s - self.start_s) / self.width_s))
        while index >= MAX_BINS:
            self._widen()
            index = int((when_s - self.start_s) / self.width_s)
        while len(self.bins) <= index:
            self.bins.append(Bin())
        return self.bins[index]

    def add_quiet(self, from_s: float, to_s: float) -> None:
        """Spread a quiet stretch over the bins that it covers."""
        self.at(to_s)
        first = max(0, int((from_s - self.start_s) / self.width_s))
        for index in range(first, len(self.bins)):
            begin_s = self.start_s + index * self.width_s
            covered_s = min(to_s, begin_s + self.width_s) - max(from_s, begin_s)
            self.bins[index].quiet_s += max(0.0, covered_s)

    def _widen(self) -> None:
        wider_ms = next((one for one in _WIDTHS_MS if one > self._width_ms), 2 * self._width_ms)
        together = wider_ms // self._width_ms
        self._width_ms = wider_ms
        narrow, self.bins = self.bins, [Bin() for _ in range(0, len(self.bins), together)]
        for index, one in enumerate(narrow):
            self.bins[index // together].add(one)


@dataclass(slots=True)
class Latencies:
    """How long the replies took that decided, in classes of 5 %."""

    classes: Counter[int] = field(default_factory=Counter)

    def add(self, latency_ms: float) -> None:
        """Count one reply."""
        if 0 <= latency_ms <= _MOST_MS:  # neither NaN nor absurd
            self.classes[math.ceil(math.log(max(latency_ms, 0.01), _STEP))] += 1

    @property
    def count(self) -> int:
        """Replies counted."""
        return self.classes.total()

    def percentile_ms(self, percent: float) -> float:
        """Return what that share of the replies did not take longer than, at most 5 % too high."""
        wanted, seen = self.count * percent / 100, 0
        for number, count in sorted(self.classes.items()):
            seen += count
            if seen >= wanted:
                return float(_STEP**number)
        return 0.0

    def histogram(self) -> list[tuple[float, int]]:
        """Return classes as people read them (… 10, 20, 50, 100 … ms): upper end and count, without gaps."""
        counts: Counter[int] = Counter()
        for number, count in self.classes.items():
            counts[_class_of(_STEP ** (number - 0.5))] += count
        if not counts:
            return []
        return [(_edge(index), counts[index]) for index in range(min(counts), max(counts) + 1)]


def _edge(index: int) -> float:
    """Return the upper end of a class in ms: 1, 2 and 5 times each power of ten."""
    power, step = divmod(index, 3)
    return float((1, 2, 5)[step] * 10.0**power)


def _class_of(latency_ms: float) -> int:
    index = 3 * math.floor(math.log10(latency_ms))
    while _edge(index) < latency_ms:
        index += 1
    return index


class RunActivity:
    """The course of one run."""

    def __init__(self, start_s: float) -> None:
        """Begin.

        Args:
            start_s: When the run began, Unix seconds.
        """
        self.timeline = Timeline(start_s)
        self.rows = 0
        self.quiet_count = 0
        self.quiet: list[tuple[float, float]] = []
        """The longest quiet stretches: seconds, and when each began."""
        self._latest_s = start_s

    def note(self, record: ResultRecord, at_s: float | None) -> None:
        """Take a row of the run; rows come in the order of the ledger."""
        self.rows += 1
        if at_s is None:
            return
        if at_s - self._latest_s >= QUIET_S:
            self._note_quiet(self._latest_s, at_s)
        self._latest_s = max(self._latest_s, at_s)
        at = self.timeline.at(at_s)
        at.rows += 1
        at.settled += record.reason.is_final
        at.posts += record.attempts
        at.lookups += record.lookups
        at.repeats += max(0, record.attempts - 1)

    def _note_quiet(self, from_s: float, to_s: float) -> None:
        self.quiet_count += 1
        self.timeline.add_quiet(from_s, to_s)
        stretch = (to_s - from_s, from_s)
        if len(self.quiet) < _QUIET_SHOWN:
            heappush(self.quiet, stretch)
        else:
            heappushpop(self.quiet, stretch)
