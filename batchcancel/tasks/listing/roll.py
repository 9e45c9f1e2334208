"""The invoices that were met, each by the last word that was heard of it."""

from __future__ import annotations

from datetime import datetime

from batchcancel.model import Invoice, Reason, Sighting
from batchcancel.tasks.listing.rows import Row, row_of
from batchcancel.tasks.listing.wanted import Fit, Wanted, judge


class Roll:
    """Keeps those that fit, and those of which something that counts is not known.

    Memory is a row for each of these; nothing is kept of the others.
    """

    def __init__(self, wanted: Wanted) -> None:
        """Begin empty."""
        self._wanted = wanted
        self.rows: dict[str, Row] = {}
        """What fits, by id, in the order in which it was met first."""
        self.doubtful: dict[str, Fit] = {}
        self.undated: dict[str, Row] = {}
        """What fits but for its date of creation, which is not known: to be looked up."""

    def take(self, invoice: Invoice) -> None:
        """Take an invoice as the list shows it; one without a readable id is not for here."""
        if invoice.id is None:
            return
        fit = judge(invoice, self._wanted)
        self._forget(invoice.id)
        match fit:
            case Fit.FITS:
                self.rows[invoice.id] = row_of(invoice)
            case Fit.NO_CREATION:
                self.undated[invoice.id] = row_of(invoice)
            case Fit.OTHER:
                pass
            case _:
                self.doubtful[invoice.id] = fit

    def take_look_up(self, sighting: Sighting) -> None:
        """Take what a look-up said of an undated invoice: its date, and what has become of it meanwhile."""
        row = self.undated.pop(sighting.invoice_id)
        if sighting.reason is Reason.NOT_FOUND:
            return
        fit = judge(
            Invoice(
                id=row.id,
                status=sighting.invoice_status,
                amount=row.amount,
                currency=row.currency,
                due_date=row.due,
                created_at=_seconds(sighting.created_at),
            ),
            self._wanted,
        )
        if fit is Fit.FITS:
            self.rows[row.id] = row
        elif fit is not Fit.OTHER:
            self.doubtful[row.id] = Fit.NO_CREATION

    def merge(self, later: Roll) -> None:
        """Take what was heard later, also of invoices that are here already."""
        for met in (later.rows, later.doubtful, later.undated):
            for invoice_id in met:
                self._forget(invoice_id)
        self.rows |= later.rows
        self.doubtful |= later.doubtful
        self.undated |= later.undated

    def _forget(self, invoice_id: str) -> None:
        for met in (self.rows, self.doubtful, self.undated):
            met.pop(invoice_id, None)


def _seconds(text: str | None) -> float | None:
    """Return a time of a sighting as Unix seconds; None where it is not known."""
    return None if text is None else datetime.fromisoformat(text).timestamp()
