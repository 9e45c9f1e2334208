"""``batchcancel list``: a manifest made from the service's own list."""

from __future__ import annotations

from batchcancel.tasks.listing.collect import Found, Unsettled, collect, for_one_merchant
from batchcancel.tasks.listing.paging import Steadiness
from batchcancel.tasks.listing.rows import Row, format_of, write_rows, write_rows_to
from batchcancel.tasks.listing.wanted import CANCELABLE, STATUSES, Fit, Wanted

__all__ = [
    "CANCELABLE",
    "STATUSES",
    "Fit",
    "Found",
    "Row",
    "Steadiness",
    "Unsettled",
    "Wanted",
    "collect",
    "for_one_merchant",
    "format_of",
    "write_rows",
    "write_rows_to",
]
