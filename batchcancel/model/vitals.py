"""What a run is doing at one moment, for those who ask while it goes on."""

from __future__ import annotations

from msgspec import Struct

from batchcancel.model.events import PauseCause
from batchcancel.model.words import Outcome


class Workers(Struct, frozen=True, kw_only=True):
    """Those who work on a run from elsewhere, where not this process does."""

    hosts: int
    """Hosts on which there is work at the moment."""
    processes: int
    """Processes that have some."""
    answered: dict[Outcome, int]
    """Invoices that have an answer, by outcome: in rows of this run, or still with a worker."""


class Vitals(Struct, frozen=True, kw_only=True):
    """A run at one moment. With several merchants it is all of them together, those that ended left out."""

    in_flight: int
    """Requests of every kind that have left and not come back."""
    allowed_rate: float | None
    """Requests a second that may leave now, whatever holds them back for the moment; None for no limit."""
    set_rate: float | None
    """What was asked for: less is allowed after refusals only. None for no limit."""
    held_by: PauseCause | None
    """Why nothing leaves at the moment; None if something may. One merchant of several may wait alone."""
    rows_left: int
    """Invoices to settle that have no row of this run yet."""
    amounts_canceled: dict[str, str] = {}
    """Total amount of the invoices that this run has canceled, by currency; their rows are on disk, or
    still with workers elsewhere."""
    is_stopping: bool
    """Whether no new cancelation leaves any more, or no new look-up: what is in flight is drained."""
    workers: Workers | None = None
    """None where this process does the work itself."""
