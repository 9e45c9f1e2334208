"""Who does the work of a run, seen from the run: this process, or workers on other hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from msgspec import Struct

from batchcancel.job.opening import Opened
from batchcancel.ledger import RunRecord
from batchcancel.model import Event, ManifestRow, StoppedMerchant, Tally, Vitals
from batchcancel.settings import Settings


class Workforce(Protocol):
    """Who brings rows to their ends: ``pipeline.Fleet`` in this process, or others on other hosts."""

    @property
    def merchant_count(self) -> int:
        """How many merchants there are rows of."""
        ...

    @property
    def is_at_limit(self) -> bool:
        """Whether invoices were left because the limit was reached."""
        ...

    @property
    def stopped_merchants(self) -> tuple[StoppedMerchant, ...]:
        """The merchants that were stopped while others went on."""
        ...

    async def run(self, rows: AsyncIterator[ManifestRow]) -> None:
        """Bring every row to its end; see ``Fleet.run``."""
        ...

    def pause(self) -> None:
        """Let nothing leave until ``resume``; see ``Fleet.pause``."""
        ...

    def resume(self) -> None:
        """End what ``pause`` has begun, if it has."""
        ...

    def stop(self, why: str) -> None:
        """Let no new cancelation leave and drain what is in flight."""
        ...

    def abort(self, why: str) -> None:
        """Stop without waiting for what is in flight."""
        ...

    def fail(self, failure: Exception) -> None:
        """Stop for a failure that ``run`` raises at its end."""
        ...

    def tally(self) -> Tally:
        """Count what became of the rows that were read so far."""
        ...

    def vitals(self, *, to_settle: int, set_rate: float | None) -> Vitals:
        """Tell what is going on at the moment."""
        ...


class Work(Struct, frozen=True, kw_only=True):
    """What a run has to be done, once it has begun in its ledger."""

    settings: Settings
    opened: Opened
    record: RunRecord
    """What the ledger says of the run."""
    ledger_began_at: str
    """When the ledger's first run began, as the ledger writes it."""
    read_rows: Callable[[], AsyncIterator[ManifestRow]]
    """Begins a pass over the rows of the manifests, in their order."""
    amounts_canceled: Callable[[], dict[str, str]]
    """Tells the total amount of the invoices that were canceled, by currency; their rows are on disk."""
    stop_as_asked: Callable[[str], None]
    """Ends the run where somebody asked for its end, with a sentence that says so."""
    on_event: Callable[[Event], None]


OpenWorkforce = Callable[[Work], AbstractAsyncContextManager[Workforce]]
"""Gets a workforce ready for some work, and lets it go at the end of the block."""
