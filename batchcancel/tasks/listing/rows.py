"""The rows of a list, as ``run`` reads them: CSV with a header, or JSONL.

No cell needs protection from spreadsheets: an id begins with a letter or a digit, a status is one that
was asked for, a date, an amount and a currency were read as such. Nothing about a customer is here.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from sys import intern
from typing import Final, TextIO

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from batchcancel.errors import ReportError
from batchcancel.manifest import Format, ManifestOptions
from batchcancel.manifest.options import is_named_by_format, resolve_formats
from batchcancel.model import Invoice
from batchcancel.report.files import writing

FORMATS: Final = (Format.CSV, Format.JSONL)


class Row(Struct, frozen=True, kw_only=True, gc=False):
    """One invoice of the list; None where the service does not say."""

    id: str
    status: str
    due: str | None
    """ISO date."""
    amount: str | None
    """The total, a decimal with its digits as received."""
    currency: str | None


COLUMNS: Final = Row.__struct_fields__


def row_of(invoice: Invoice) -> Row:
    """Make a row of an invoice whose id and status are known; what many have in common is held once."""
    assert invoice.id is not None and invoice.status is not None  # noqa: PT018, S101 - it was judged to fit
    return Row(
        id=invoice.id,
        status=intern(invoice.status),
        due=None if invoice.due_date is None else intern(invoice.due_date),
        amount=invoice.amount,
        currency=None if invoice.currency is None else intern(invoice.currency),
    )


def format_of(path: Path | None) -> Format:
    """Tell a list's format by its file's name, as ``run`` will; CSV where the name says nothing.

    Raises:
        ReportError: ``run`` would take a file of that name for something else.
    """
    if path is None or not is_named_by_format(str(path)):
        return Format.CSV
    format_ = resolve_formats((str(path),), ManifestOptions())[0]
    if format_ not in FORMATS:
        raise ReportError(
            f"{path} would be read as {format_}: give it a name that ends in .csv or .jsonl, or say --format."
        )
    return format_


def write_rows_to(path: Path, rows: Iterable[Row], format_: Format) -> None:
    """Write a list into a file, which appears whole or not at all; packed if its name ends in .gz.

    Raises:
        ReportError: It can't be written.
    """
    with writing([path]) as files, _opened(files[path].temporary, path.name) as out:
        write_rows(out, rows, format_)


def write_rows(out: TextIO, rows: Iterable[Row], format_: Format) -> None:
    """Write a list, header first where there is one.

    Raises:
        OSError: It can't be written.
    """
    if format_ is Format.JSONL:
        encode = msgspec.json.Encoder().encode
        out.writelines(f"{encode(row).decode()}\n" for row in rows)
        return
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(astuple, rows))


@contextmanager
def _opened(temporary: Path, name: str) -> Iterator[TextIO]:
    if not name.lower().endswith(".gz"):
        with temporary.open("w", encoding="ascii", newline="") as out:
            yield out
        return
    with (
        temporary.open("wb") as plain,
        gzip.GzipFile(fileobj=plain, mode="wb", filename="", mtime=0) as packed,
        TextIOWrapper(packed, encoding="ascii", newline="") as out,
    ):
        yield out
