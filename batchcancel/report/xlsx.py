"""XLSX exports: the only user of xlsxwriter, which the extra ``report`` installs."""

from __future__ import annotations

import tempfile
from types import TracebackType
from typing import Any, Final, Self

import xlsxwriter
from xlsxwriter.exceptions import XlsxWriterException

from batchcancel.report.exports import AMOUNTS, COLUMNS, Answer, keep_headers, neutral
from batchcancel.report.files import NewFile
from batchcancel.report.words import parse_amount

_MOST_ROWS: Final = 1_048_576
"""Of a sheet, its header included."""
_LONGEST_TEXT: Final = 32_767
"""Characters that a cell can hold."""
_EXACT_DIGITS: Final = 15
"""A number of a spreadsheet is a double, which holds every decimal of so many digits."""
_WIDTHS: Final = {"invoice_id": 18, "at": 25, "message": 40, "run_id": 37, "correlation_id": 26}


class XlsxExport:
    """A workbook whose rows are written as they come, on as many sheets as they need.

    Ids and all other texts are text cells, so that leading zeros and long digits stay. An amount is a
    number, shown with the decimals that it has in the ledger; one of more than 15 digits, which a
    spreadsheet would round, is text.
    """

    def __init__(self, file: NewFile, columns: tuple[str, ...]) -> None:
        """Prepare.

        Args:
            file: Where to.
            columns: The kept columns.
        """
        self._path = file.temporary
        self._columns = columns
        self._row = _MOST_ROWS
        self._sheets = 0
        self._formats: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Xlsxwriter leaves its own files behind where it fails: let them be in a folder that is removed.
        self._folder = tempfile.TemporaryDirectory(dir=self._path.parent, prefix=".xlsx.")
        self._book = xlsxwriter.Workbook(
            self._path, {"constant_memory": True, "tmpdir": self._folder.name, "use_zip64": True}
        )
        self._bold = self._book.add_format({"bold": True})
        self._begin_sheet()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._book.close()
        except XlsxWriterException as failure:
            # It wraps the disk's own words, which say what to do.
            raise OSError(None, str(failure)) from failure
        finally:
            self._folder.cleanup()

    def write(self, answer: Answer) -> None:
        """Write the next answer."""
        if self._row >= _MOST_ROWS:
            self._begin_sheet()
        kept = answer.record.keep or {}
        for column, (name, cell) in enumerate(zip(COLUMNS, answer.cells(), strict=True)):
            self._write_cell(column, cell, is_amount=name in AMOUNTS)
        for column, name in enumerate(self._columns, start=len(COLUMNS)):
            self._write_cell(column, kept.get(name))
        self._row += 1

    def _begin_sheet(self) -> None:
        self._sheets += 1
        number = "" if self._sheets == 1 else f" {self._sheets}"
        self._sheet = self._book.add_worksheet(f"Invoices{number}")
        headers = [*COLUMNS, *keep_headers(self._columns)]
        for column, header in enumerate(headers):
            self._sheet.set_column(column, column, _WIDTHS.get(header, 14))
        self._sheet.freeze_panes(1, 1)
        for column, header in enumerate(headers):
            self._sheet.write_string(0, column, neutral(header)[:_LONGEST_TEXT], self._bold)
        self._row = 1

    def _write_cell(self, column: int, cell: Any, *, is_amount: bool = False) -> None:  # noqa: ANN401 - text, numbers or None
        if cell is None or cell == "":
            return
        if isinstance(cell, bool):
            self._sheet.write_boolean(self._row, column, cell)
        elif isinstance(cell, int | float):
            self._sheet.write_number(self._row, column, cell)
        elif is_amount and (number := exact_number(cell)) is not None:
            self._sheet.write_number(self._row, column, number, self._format_of(cell))
        else:
            self._sheet.write_string(self._row, column, neutral(cell)[:_LONGEST_TEXT])

    def _format_of(self, amount: str) -> Any:  # noqa: ANN401 - a format of xlsxwriter
        """Return the format that shows as many decimals as the ledger has."""
        decimals = len(amount.partition(".")[2])
        if decimals not in self._formats:
            shown = "#,##0" + ("." + "0" * decimals if decimals else "")
            self._formats[decimals] = self._book.add_format({"num_format": shown})
        return self._formats[decimals]


def exact_number(amount: str) -> float | None:
    """Return an amount as a spreadsheet's number; None if that would lose a digit."""
    value = parse_amount(amount)
    if value is None or len(value.as_tuple().digits) > _EXACT_DIGITS:
        return None
    return float(value)
