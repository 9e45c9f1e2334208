"""What a run is doing at one moment, for those who ask while it goes on."""

from __future__ import annotations

from msgspec import Struct

from batchcancel.model.events import PauseCause


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
    """Total amount of the invoices that this run has canceled, by currency; their rows are on disk."""
    is_stopping: bool
    """Whether no new cancelation leaves any more, or no new look-up: what is in flight is drained."""
