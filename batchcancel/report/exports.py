"""Tables for spreadsheets and programs: one row an invoice, its latest answer.

A spreadsheet takes text that begins with ``= + - @``, a tab or a carriage return for a formula, and a
formula can send the sheet's content away. Such text gets an apostrophe before it in CSV and XLSX, and
characters that move a terminal's cursor or reorder a line stand as escapes there. JSONL is for programs
and holds every text as the ledger does.
"""

from __future__ import annotations

import codecs
import csv
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TextIO

import msgspec
from msgspec import Struct

from batchcancel.ledger.reader import ResultRecord
from batchcancel.report.files import NewFile
from batchcancel.report.words import parse_amount

COLUMNS: Final = (
    "invoice_id",
    "merchant_id",
    "outcome",
    "reason",
    "final",
    "invoice_status",
    "amount",
    "balance",
    "currency",
    "resolved_by",
    "http_status",
    "attempts",
    "lookups",
    "at",
    "latency_ms",
    "submitted_at",
    "correlation_id",
    "message",
    "row",
    "file",
    "run_id",
    "ref",
    "ledger",
)
"""What every export has; the columns of ``--keep`` follow as ``keep.NAME``."""
AMOUNTS: Final = frozenset({"amount", "balance"})
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
"""Controls but for white space, and marks of direction: nobody sees them, and they change what is seen."""


class Answer(Struct, frozen=True, kw_only=True):
    """The latest row of an invoice, and where it comes from."""

    record: ResultRecord
    merchant_id: str
    """Whose invoice it is, the run's own merchant included."""
    ref: str | None
    ledger: str

    def cells(self) -> tuple[Any, ...]:
        """Return its values in the order of ``COLUMNS``; None where nothing is known."""
        one = self.record
        return (
            one.invoice_id,
            self.merchant_id,
            one.outcome.value,
            one.reason.value,
            one.reason.is_final,
            one.invoice_status,
            one.amount,
            one.balance,
            one.currency,
            None if one.resolved_by is None else one.resolved_by.value,
            one.http_status,
            one.attempts,
            one.lookups,
            one.at,
            one.latency_ms,
            one.submitted_at,
            one.correlation_id,
            one.message,
            one.row,
            one.file or None,
            one.run_id,
            self.ref,
            self.ledger,
        )


class Export(Protocol):
    """Writes answers into a file, one by one: a context manager."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what is written; nothing of it is held back any more."""
        ...

    def write(self, answer: Answer) -> None:
        """Write the next answer.

        Raises:
            OSError: It can't be written.
        """
        ...


def is_formula(text: str) -> bool:
    """Tell whether a spreadsheet may take a text for a formula, white space before it or not."""
    return text.startswith(_FORMULA_STARTS) or text.lstrip().startswith(_FORMULA_STARTS[:4])


def neutral(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula, and that shows whatever is in it."""
    shown = _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return f"'{shown}" if is_formula(shown) else shown


def keep_headers(columns: tuple[str, ...]) -> list[str]:
    """Name the kept columns so that none can stand for one of the report's own."""
    return [f"keep.{column}" for column in columns]


class CsvExport:
    """CSV as RFC 4180 has it, in UTF-8; with a byte order mark where there is more than ASCII.

    Excel guesses the encoding without one; programs that expect none would take it for a part of the first
    column's name.
    """

    def __init__(self, file: NewFile, columns: tuple[str, ...]) -> None:
        """Prepare.

        Args:
            file: Where to.
            columns: The kept columns.
        """
        self._path = file.temporary
        self._columns = columns
        self._is_ascii = True

    def __enter__(self) -> Self:
        self._file = self._path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._writer = csv.writer(_Watched(self._file, self._note))
        self._writer.writerow([*COLUMNS, *map(neutral, keep_headers(self._columns))])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None and not self._is_ascii:
            _mark(self._path)

    def write(self, answer: Answer) -> None:
        """Write the next answer."""
        kept = answer.record.keep or {}
        cells = list(map(_csv_cell, COLUMNS, answer.cells()))
        self._writer.writerow(cells + [neutral(kept.get(column, "")) for column in self._columns])

    def _note(self, text: str) -> None:
        self._is_ascii &= text.isascii()


class _Watched:
    """A text file that tells somebody of every text that is written into it."""

    def __init__(self, file: TextIO, watch: Callable[[str], None]) -> None:
        self._file = file
        self._watch = watch

    def write(self, text: str) -> int:
        """Write a text."""
        self._watch(text)
        return self._file.write(text)


def _mark(path: Path) -> None:
    """Put a byte order mark before a file."""
    marked = path.with_name(f"{path.name}.bom")
    try:
        with path.open("rb") as bare, marked.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(codecs.BOM_UTF8)
            shutil.copyfileobj(bare, file)
        marked.replace(path)
    finally:
        marked.unlink(missing_ok=True)


def _csv_cell(name: str, cell: Any) -> Any:  # noqa: ANN401 - text, numbers or None
    if not isinstance(cell, str):
        return ("no", "yes")[cell] if isinstance(cell, bool) else cell
    # A sum that is owed back begins with a minus and is no formula.
    return cell if name in AMOUNTS and parse_amount(cell) is not None else neutral(cell)


class JsonlExport:
    """One JSON object a line: ``COLUMNS`` as keys, amounts as decimal strings, and ``keep`` as an object."""

    def __init__(self, file: NewFile) -> None:
        """Prepare.

        Args:
            file: Where to.
        """
        self._path = file.temporary
        self._encoder = msgspec.json.Encoder()

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, answer: Answer) -> None:
        """Write the next answer."""
        row = dict(zip(COLUMNS, answer.cells(), strict=True)) | {"keep": answer.record.keep or {}}
        self._file.write(self._encoder.encode(row) + b"\n")


def ledger_name(path: Path) -> str:
    """Name a ledger in an export as JSON and UTF-8 can hold it."""
    return str(path).encode(errors="replace").decode()
