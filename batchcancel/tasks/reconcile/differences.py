"""The file of differences: one line an invoice, for people, ``grep`` and spreadsheets.

Tab-separated UTF-8 with a header. The first column is the mark, in the manner of ``rclone check
--combined``: ``=`` both sides agree, ``*`` they differ, ``-`` the service doesn't know the invoice, ``!``
it could not be read. ``COLUMNS`` are the format; new ones may follow after the last. An empty cell means
that nothing is known. Whatever could end a line or a cell stands as its escape, and text that a
spreadsheet would take for a formula gets an apostrophe before it.
"""

from __future__ import annotations

from typing import IO, Final

from batchcancel.report.exports import neutral
from batchcancel.report.words import printable
from batchcancel.tasks.reconcile.comparison import Comparison

COLUMNS: Final = (
    "mark",
    "invoice_id",
    "merchant_id",
    "ledger",
    "service",
    "note",
    "ledger_amount",
    "ledger_currency",
    "service_amount",
    "service_currency",
)
HEADER: Final = "\t".join(COLUMNS) + "\n"


def line_of(one: Comparison) -> str:
    """Write one comparison, its newline included."""
    cells = (
        one.invoice_id,
        one.merchant_id,
        one.ledger,
        one.service,
        one.note,
        one.ledger_amount,
        one.ledger_currency,
        one.service_amount,
        one.service_currency,
    )
    return "\t".join((one.mark, *map(_cell, cells))) + "\n"


class Differences:
    """Writes comparisons in the order in which they come."""

    def __init__(self, file: IO[str]) -> None:
        """Write the header.

        Args:
            file: Open for text in UTF-8; the caller closes it.
        """
        self._file = file
        file.write(HEADER)

    def write(self, one: Comparison) -> None:
        """Write one comparison.

        Raises:
            OSError: The file takes no more.
        """
        self._file.write(line_of(one))


def _cell(text: str | None) -> str:
    return "" if text is None else neutral(printable(text, most=256))
