"""A run in plain numbers: what its events add up to, counted as cheaply as can be."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from decimal import Decimal
from itertools import accumulate
from typing import Final

from batchcancel.model import (
    Event,
    GroupCommitted,
    PauseCause,
    PauseEnded,
    PauseStarted,
    Reason,
    RequestFinished,
    RequestKind,
    Result,
)

KINDS: Final = (RequestKind.CANCEL, RequestKind.LOOK_UP, RequestKind.PROBE)
"""The requests of a run; the others are sent by commands that nobody measures."""
LATENCY_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0)
"""From loopback to past the default ``--timeout``: what timed out at 30 s is above 30 and below 60."""
SYNC_BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
GROUP_BOUNDS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
MOST_CURRENCIES: Final = 40
"""A currency is three letters from outside: there could be 17,576 of them, and each is a time series."""


class Histogram:
    """How many values fell below each of some bounds, and what all of them come to."""

    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Begin with nothing.

        Args:
            bounds: Rising; a value that equals one counts as below it.
        """
        self.bounds = bounds
        self.sum = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def note(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulated(self) -> list[int]:
        """Return how many values are at or below each bound, and last how many there are."""
        return list(accumulate(self._counts))


class Requests:
    """Requests of one kind."""

    __slots__ = ("latency_s", "statuses")

    def __init__(self) -> None:
        self.latency_s = Histogram(LATENCY_BOUNDS_S)
        self.statuses: defaultdict[int | None, int] = defaultdict(int)
        """By HTTP status; None where no reply came."""


class Counts:
    """A listener that counts; every number is there from the start, at zero.

    One thread counts and others may read meanwhile: what they read is of one moment or the next.
    """

    def __init__(self) -> None:
        self.requests: Final = {kind: Requests() for kind in KINDS}
        self.settled: Final = Counter(dict.fromkeys(Reason, 0))
        self.attempts = 0
        """POSTs of the invoices that have a row, refused ones signed afresh and 429s not counted."""
        self.lookups = 0
        self.amounts: Final[dict[str, Decimal]] = {}
        """Total amount of what this run canceled, by currency."""
        self.without_amount = 0
        """Invoices that this run canceled and whose amount is in no sum."""
        self.group_rows: Final = Histogram(GROUP_BOUNDS)
        self.sync_s: Final = Histogram(SYNC_BOUNDS_S)
        self.written_bytes = 0
        self.pauses: Final = dict.fromkeys(PauseCause, 0)
        self.pause_s: Final = dict.fromkeys(PauseCause, 0.0)
        """Of the pauses that are over."""

    def __call__(self, event: Event) -> None:
        """Count an event. Every request comes through here: it takes half a microsecond."""
        match event:
            case RequestFinished():
                requests = self.requests[event.kind]
                requests.statuses[event.http_status] += 1
                requests.latency_s.note(event.latency_ms / 1000)
            case GroupCommitted():
                self._note_group(event)
            case PauseStarted():
                self.pauses[event.cause] += 1
            case PauseEnded():
                self.pause_s[event.cause] += event.lasted_s
            case _:
                pass  # told by the log alone

    def _note_group(self, group: GroupCommitted) -> None:
        results = group.results
        self.group_rows.note(len(results))
        self.sync_s.note(group.sync_s)
        self.written_bytes += group.size_bytes
        self.settled.update([result.reason for result in results])
        self.attempts += sum([result.attempts for result in results])
        self.lookups += sum([result.lookups for result in results])
        for result in results:
            if result.reason is Reason.CANCELED:
                self._note_canceled(result)

    def _note_canceled(self, result: Result) -> None:
        amount, currency, amounts = result.amount, result.currency, self.amounts
        if amount is None or currency is None:
            self.without_amount += 1
        elif currency in amounts:
            amounts[currency] += Decimal(amount)
        elif len(amounts) < MOST_CURRENCIES:
            amounts[currency] = Decimal(amount)
        else:
            self.without_amount += 1
