"""Which rows the page's table holds, and how they lie in the page.

Up to ``MAX_ROWS`` all of them. Beyond that the errors, which people look for, and a random sample of
the rest; the seed is fixed, so that the same ledgers give the same page.
"""

from __future__ import annotations

import base64
import gzip
import random
from typing import Any, Final

import msgspec
from msgspec import Struct

from batchcancel.model import Outcome
from batchcancel.report.exports import Answer
from batchcancel.report.words import printable, show_time

MAX_ROWS: Final = 50_000
COLUMNS: Final = (
    "Invoice",
    "Merchant",
    "Outcome",
    "Reason",
    "Amount",
    "Balance",
    "Currency",
    "Requests",
    "Decided at (UTC)",
    "Latency ms",
    "Message",
)
"""Of the table, in the order in which the page's script finds them."""
_LARGE_ROWS: Final = 5_000
_MOST_BYTES: Final = (820_000, 3_800_000)
"""Of the rows in the page, up to ``_LARGE_ROWS`` and beyond: what else is there needs at most 180 kB."""
_SHRINK: Final = 0.98


class TableData(Struct, frozen=True, kw_only=True):
    """The rows of the table, ready for the page."""

    encoded: str
    """Columns of JSON, compressed, in base64: nothing in it can end the element that holds it."""
    rows: int
    errors: int
    """Of them."""
    all_errors: int
    """That there are."""
    all_rows: int


class Sample:
    """Takes every answer in order; ``close`` picks those that are shown."""

    def __init__(self) -> None:
        self._seen = 0
        self._errors = _Reservoir()
        self._others = _Reservoir()

    def add(self, answer: Answer) -> None:
        """Take the next answer."""
        is_error = answer.record.outcome is Outcome.ERROR
        (self._errors if is_error else self._others).add(self._seen, answer)
        self._seen += 1

    def close(self, *, has_merchants: bool) -> TableData:
        """Pick the rows and write them down.

        Args:
            has_merchants: Whether the page tells whose invoice a row is.

        Returns:
            As many rows as the page may hold in bytes, the errors before the others.
        """
        all_rows = self._seen
        errors = self._errors.rows
        others = self._others.rows[: max(0, MAX_ROWS - len(errors))]
        limit = _MOST_BYTES[all_rows > _LARGE_ROWS]
        while True:
            rows = sorted(errors + others)
            encoded = _encoded([row for _, row in rows], has_merchants=has_merchants)
            if len(encoded) <= limit:
                break
            keep = limit / len(encoded) * _SHRINK
            # Rows are in random order within each kind, so that the first ones are a sample.
            if others:
                others = others[: max(0, int(len(rows) * keep) - len(errors))]
            else:
                errors = errors[: int(len(errors) * keep)]
        return TableData(
            encoded=encoded,
            rows=len(rows),
            errors=len(errors),
            all_errors=self._errors.seen,
            all_rows=all_rows,
        )


class _Reservoir:
    """A uniform random sample of as many rows as are offered, in random order; each with its number."""

    def __init__(self) -> None:
        self._random = random.Random(0)  # noqa: S311 - a sample, no secret
        self._rows: list[tuple[int, tuple[Any, ...]]] = []
        self.seen = 0

    def add(self, number: int, answer: Answer) -> None:
        """Offer the next row, with its number among all rows."""
        self.seen += 1
        if len(self._rows) < MAX_ROWS:
            self._rows.append((number, _row(answer)))
        elif (place := self._random.randrange(self.seen)) < MAX_ROWS:
            self._rows[place] = (number, _row(answer))

    @property
    def rows(self) -> list[tuple[int, tuple[Any, ...]]]:
        """What was picked, shuffled."""
        self._random.shuffle(self._rows)
        return self._rows


def _row(answer: Answer) -> tuple[Any, ...]:
    """Return an answer's values in the order of ``COLUMNS``."""
    one = answer.record
    return (
        printable(one.invoice_id, most=256) or "(empty)",
        printable(answer.merchant_id, most=128),
        one.outcome.value,
        one.reason.value,
        printable(one.amount or "", most=42),
        # Mostly the same text: said once.
        "=" if one.balance == one.amount else printable(one.balance or "", most=42),
        printable(one.currency or "", most=12),
        one.attempts + one.lookups,
        show_time(one.at),
        one.latency_ms,
        printable(one.message or ""),
    )


def _encoded(rows: list[tuple[Any, ...]], *, has_merchants: bool) -> str:
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in COLUMNS]
    if not has_merchants:
        columns[COLUMNS.index("Merchant")] = []
    text = msgspec.json.encode(columns)
    return base64.b64encode(gzip.compress(text, mtime=0)).decode()
