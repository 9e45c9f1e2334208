"""The course of a run: what is done, how fast it goes now, and how long the rest will take. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from batchcancel.model import (
    Event,
    GroupCommitted,
    MerchantStopped,
    Outcome,
    PauseCause,
    PauseEnded,
    RequestFinished,
    Vitals,
)

_WINDOW_S: Final = 15.0
"""The speed is that of so many seconds: long enough to be calm, short enough to be that of now."""
_MARK_EVERY_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is told of a run at one moment; no invoice of it is named."""

    total: int
    """Invoices that the run is to settle."""
    outcomes: dict[Outcome, int]
    """Those that have a row on disk; every outcome is there, zero or not."""
    rate: float
    """Rows a second, lately."""
    eta_s: float | None
    """Seconds until the rest is done at that rate; None if nothing is done lately, or will be."""
    merchants_stopped: int
    """Merchants whose rows were stopped while others went on."""
    vitals: Vitals

    @property
    def done(self) -> int:
        """Invoices that have their row on disk."""
        return sum(self.outcomes.values())

    @property
    def share(self) -> float:
        """What part of the invoices is done, from 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 1.0


class Tracker:
    """Count what events tell; ask for the rest when somebody looks."""

    def __init__(self, *, total: int, vitals: Callable[[], Vitals], clock: Callable[[], float]) -> None:
        """Begin with nothing done.

        Args:
            total: Invoices that the run is to settle.
            vitals: Tells what the run is doing; asked only when somebody looks.
            clock: Monotonic seconds.
        """
        self._total = total
        self._vitals = vitals
        self._clock = clock
        self._outcomes: Counter[Outcome] = Counter()
        self._merchants_stopped = 0
        self._marks: deque[tuple[float, int]] = deque()
        """When so many were done; the first one is the beginning of what counts as lately."""
        self._mark()

    def listen(self, event: Event) -> None:
        """Take in an event."""
        if isinstance(event, RequestFinished):  # by far the most, and what comes of them is told later
            return
        match event:
            case GroupCommitted():
                if self._clock() >= self._marks[-1][0] + _MARK_EVERY_S:
                    self._mark()
                for result in event.results:
                    self._outcomes[result.outcome] += 1
            case MerchantStopped():
                self._merchants_stopped += 1
            case PauseEnded() if event.cause is not PauseCause.RATE_LIMITED:
                # What was before, and the silence, say nothing of how it goes on.
                self._marks.clear()
                self._mark()
            case _:
                pass

    def moment(self) -> Moment:
        """Return how far it is, and how it goes."""
        vitals, done = self._vitals(), self._outcomes.total()
        rate, left = self._rate(done), max(0, self._total - done)
        goes_on = vitals.held_by in {None, PauseCause.RATE_LIMITED} and not vitals.is_stopping
        return Moment(
            total=self._total,
            outcomes={outcome: self._outcomes[outcome] for outcome in Outcome},
            rate=rate,
            eta_s=left / rate if rate and goes_on else None,
            merchants_stopped=self._merchants_stopped,
            vitals=vitals,
        )

    def _mark(self) -> None:
        self._marks.append((self._clock(), self._outcomes.total()))

    def _rate(self, done: int) -> float:
        now = self._clock()
        while len(self._marks) > 1 and self._marks[1][0] <= now - _WINDOW_S:
            self._marks.popleft()
        began_at, done_before = self._marks[0]
        return (done - done_before) / max(now - began_at, _MARK_EVERY_S)
