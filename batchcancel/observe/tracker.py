"""The course of what is watched: what is done, how fast it goes now, how long the rest will take. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from batchcancel.model import Event, MerchantStopped, PauseCause, PauseEnded, RequestFinished, Vitals
from batchcancel.observe.watched import Count, Watched

_WINDOW_S: Final = 15.0
"""The speed is that of so many seconds: long enough to be calm, short enough to be that of now."""
MARK_EVERY_S: Final = 0.5
"""How often ``Tracker.mark`` is to be called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is told of it at one moment; no invoice is named."""

    total: int
    """Invoices that are to be done."""
    counted_as: str
    """What the counts are called together, in JSON."""
    counts: tuple[Count, ...]
    """What became of those that are done."""
    cancels: bool
    """Whether invoices are canceled, or only looked at."""
    rate: float
    """Invoices a second, lately."""
    eta_s: float | None
    """Seconds until the rest is done at that rate; None if nothing is done lately, or will be."""
    merchants_stopped: int
    """Merchants whose rows were stopped while others went on."""
    vitals: Vitals
    goes_on: bool = False
    """Whether it goes on without whoever watches."""

    @property
    def done(self) -> int:
        """Invoices that are done."""
        return _sum(self.counts)

    @property
    def share(self) -> float:
        """What part of the invoices is done, from 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 1.0


class _Mark(NamedTuple):
    """When so many were done."""

    at: float
    done: int


class Tracker:
    """Note now and then how far it is; ask for the rest when somebody looks."""

    def __init__(self, watched: Watched, *, clock: Callable[[], float]) -> None:
        """Begin with what is done by now.

        Args:
            watched: What is tracked; asked only at a mark, and when somebody looks.
            clock: Monotonic seconds.
        """
        self._watched = watched
        self._clock = clock
        self._merchants_stopped = 0
        self._marks: deque[_Mark] = deque()
        """The last moments before more was done; the first one is the beginning of what counts as lately."""
        self._latest: _Mark
        self._begin()

    def listen(self, event: Event) -> None:
        """Take in an event."""
        if isinstance(event, RequestFinished):  # by far the most, and what comes of them is told later
            return
        match event:
            case MerchantStopped():
                self._merchants_stopped += 1
            case PauseEnded() if event.cause is not PauseCause.RATE_LIMITED:
                # What was before, and the silence, say nothing of how it goes on.
                self._begin()
            case _:
                pass

    def mark(self) -> None:
        """Note how far it is; to be called every ``MARK_EVERY_S`` seconds, or the speed is less exact."""
        mark = self._now()
        if mark.done != self._latest.done and self._latest is not self._marks[-1]:
            self._marks.append(self._latest)
        while len(self._marks) > 1 and self._marks[1].at <= mark.at - _WINDOW_S:
            self._marks.popleft()
        self._latest = mark

    def moment(self) -> Moment:
        """Return how far it is, and how it goes."""
        self.mark()
        watched, vitals = self._watched, self._watched.vitals()
        rate, left = self._rate(), max(0, watched.total - self._latest.done)
        goes_on = vitals.held_by in {None, PauseCause.RATE_LIMITED} and not vitals.is_stopping
        return Moment(
            total=watched.total,
            counted_as=watched.counted_as,
            counts=watched.counts(),
            cancels=watched.cancels,
            rate=rate,
            eta_s=left / rate if rate and goes_on else None,
            merchants_stopped=self._merchants_stopped,
            vitals=vitals,
            goes_on=watched.goes_on,
        )

    def _begin(self) -> None:
        self._latest = self._now()
        self._marks.clear()
        self._marks.append(self._latest)

    def _now(self) -> _Mark:
        return _Mark(self._clock(), _sum(self._watched.counts()))

    def _rate(self) -> float:
        first, latest = self._marks[0], self._latest
        return (latest.done - first.done) / max(latest.at - first.at, MARK_EVERY_S)


def _sum(counts: tuple[Count, ...]) -> int:
    return sum(one.number for one in counts)
