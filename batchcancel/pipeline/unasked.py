"""How a row ends that no request is sent for. Pure."""

from __future__ import annotations

from msgspec import UNSET

from batchcancel.model import ManifestRow, Reason, Result, Skip, SkipReason, Standing, utc_text
from batchcancel.retry import LeftOpen, Settled


def unasked(row: ManifestRow) -> Settled | Skip | LeftOpen | None:
    """Return how a row ends that no request is sent for; None if one is."""
    if row.duplicate_of is not None:
        return _skip(row, SkipReason.DUPLICATE)
    match row.standing:
        case Standing.EXCLUDED:
            return _skip(row, SkipReason.EXCLUDED)
        case Standing.HELD_BACK:
            return LeftOpen()
        case _ if row.planned is not None:
            return Settled(row.planned)
        case _:
            return None if row.valid else Settled(_error(row, Reason.INVALID_ID))


def in_doubt(row: ManifestRow) -> Result:
    """Return what is written of an invoice that others may have canceled, if this run does not look."""
    return _error(row, Reason.UNKNOWN)


def _error(row: ManifestRow, reason: Reason) -> Result:
    return Result(
        row=row.row,
        file=row.file or UNSET,
        merchant_id=row.merchant_id or UNSET,
        invoice_id=row.invoice_id,
        outcome=reason.outcome,
        reason=reason,
        resolved_by=None,
        at=utc_text(),
        keep=row.keep or UNSET,
    )


def _skip(row: ManifestRow, why: SkipReason) -> Skip:
    return Skip(
        row=row.row,
        file=row.file or UNSET,
        merchant_id=row.merchant_id or UNSET,
        invoice_id=row.invoice_id,
        why=why,
        of_row=UNSET if row.duplicate_of is None else row.duplicate_of,
        of_file=row.duplicate_of_file or UNSET,
    )
