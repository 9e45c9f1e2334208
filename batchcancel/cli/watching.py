"""What commands that go through invoices give to whoever watches: how far they are, and their keys."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

from batchcancel.cli.signals import Stops
from batchcancel.manifest import Check
from batchcancel.model import Outcome, Vitals
from batchcancel.observe.watched import Count, Watched

GOOD: Final = "green"
SETTLED: Final = "cyan"
"""How an answer is written that nobody has to do anything about."""
DOUBTFUL: Final = "yellow"
BAD: Final = "red"

_STYLES: Final = {
    Outcome.CANCELED: GOOD,
    Outcome.ALREADY_PAID: SETTLED,
    Outcome.PARTIALLY_PAID: SETTLED,
    Outcome.ERROR: BAD,
}


class Pausable(Protocol):
    """What a key pauses; ``job.Job`` is one."""

    def pause(self) -> None:
        """Let nothing leave until ``resume``."""
        ...

    def resume(self) -> None:
        """Let requests leave again."""
        ...


def watch(
    pausable: Pausable,
    stops: Stops,
    *,
    total: int,
    counted_as: str,
    counts: Callable[[], tuple[Count, ...]],
    vitals: Callable[[], Vitals],
) -> Watched:
    """Return what there is to watch; q is Ctrl-C in all but the name.

    Args:
        pausable: What the key p pauses.
        stops: What the key q stops.
        total: Invoices that are to be done.
        counted_as: What the counts are called together, in JSON.
        counts: Tells what became of those that are done.
        vitals: Tells what is going on at the moment.
    """
    return Watched(
        total=total,
        counted_as=counted_as,
        counts=counts,
        cancels=stops.cancels,
        vitals=vitals,
        pause=pausable.pause,
        resume=pausable.resume,
        stop=partial(stops.stop, signal.SIGINT, key="q"),
    )


def count(word: str, number: int, style: str) -> Count:
    """Count invoices by a word of the JSON form, which people read without its underscores."""
    return Count(key=word, text=word.replace("_", " "), number=number, style=style)


def count_outcomes(outcomes: Mapping[Outcome, int]) -> tuple[Count, ...]:
    """Count the invoices of a run by outcome."""
    return tuple(count(word, number, _STYLES[word]) for word, number in outcomes.items())


def most_rows(check: Check, *, limit: int | None) -> int:
    """Return how many of a manifest's invoices will be done if nothing but the limit stops it."""
    return check.to_settle if limit is None else check.to_settle - check.open + min(check.open, limit)
