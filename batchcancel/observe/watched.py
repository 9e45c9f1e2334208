"""What is watched: how far it is, how it goes, and what a person who watches can do with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from batchcancel.model import PauseCause, Vitals


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many invoices have one thing in common, of those that are done."""

    key: str
    """What it is called in JSON."""
    text: str
    """What it is called by people, after the number."""
    number: int
    style: str
    """How rich writes it, where there are any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Something that goes on, as far as those who watch it have to do with it."""

    total: int
    """Invoices that are to be done."""
    counted_as: str
    """What the counts are called together, in JSON."""
    counts: Callable[[], tuple[Count, ...]]
    """Tells what became of those that are done, each in one count; always the same ones, zero or not."""
    cancels: bool
    """Whether invoices are canceled, so that there is money to tell of, or only looked at."""
    vitals: Callable[[], Vitals]
    """Tells what it is doing at the moment."""
    pause: Callable[[], object]
    resume: Callable[[], object]
    stop: Callable[[], object]
    """Stops as Ctrl-C does; a second call stops at once."""
    goes_on: bool = False
    """Whether it goes on without whoever watches: ``stop`` ends only the watching."""

    def toggle_pause(self) -> None:
        """Pause it, or let it go on."""
        is_paused = self.vitals().held_by is PauseCause.BY_HAND
        (self.resume if is_paused else self.pause)()
