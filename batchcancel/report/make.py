"""From ledgers to everything that a report can be, in two passes over their lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from batchcancel.errors import LedgerFaultError, ReportError
from batchcancel.ledger.reader import ResultRecord, RunRecord
from batchcancel.model import Outcome
from batchcancel.report.exports import Answer, CsvExport, Export, JsonlExport, ledger_name
from batchcancel.report.figures import Account, Figures
from batchcancel.report.files import NewFile, check_target, writing
from batchcancel.report.reading import Entry, Ledgers, open_ledgers
from batchcancel.report.sample import Sample

if TYPE_CHECKING:
    from batchcancel.report.sample import TableData

_INSTALL: Final = "pip install -c constraints.txt '.[report]' in the project's folder installs them"


class Outputs(Struct, frozen=True, kw_only=True):
    """Which files a report writes besides its summary; None for none."""

    html: Path | None = None
    csv: Path | None = None
    xlsx: Path | None = None
    jsonl: Path | None = None
    outcomes: frozenset[Outcome] = frozenset(Outcome)
    """Which rows the exports have; the page has all."""
    force: bool = False
    """Whether files that are there may be replaced."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file that is to be written."""
        return tuple(one for one in (self.html, self.csv, self.xlsx, self.jsonl) if one is not None)


class Written(Struct, frozen=True, kw_only=True):
    """One file that was written."""

    path: Path
    rows: int
    """Of the table, where it is a page."""
    size_bytes: int


class Report(Struct, frozen=True, kw_only=True):
    """What ledgers come to, and what was written."""

    figures: Figures
    written: tuple[Written, ...]


def make_report(
    ledgers: Sequence[Path], outputs: Outputs, *, watch: Callable[[Entry], None] = lambda _entry: None
) -> Report:
    """Read ledgers and write what is asked for. Blocks; changes no ledger.

    Every file appears whole, after all of them could be written, or not at all.

    Args:
        ledgers: At least one.
        outputs: What to write, and where.
        watch: Told of every record, in the order of the ledgers.

    Raises:
        LedgerMismatchError: A file is no ledger, of a newer version, or of another account.
        LedgerDamagedError, LedgerFaultError: A ledger is damaged, or can't be read.
        ReportError: A file can't be written or must not be replaced, or the extra is not installed.
    """
    check_outputs(outputs, inputs=ledgers)
    rows = shown = 0
    with open_ledgers(ledgers) as read, writing(outputs.paths) as files:
        account = Account(read)
        sample = None if outputs.html is None else Sample()
        with ExitStack() as stack:
            exports = [stack.enter_context(one) for one in _exports(outputs, read, files)]
            for answer in _answers(read, account, watch):
                if sample is not None:
                    sample.add(answer)
                if answer.record.outcome in outputs.outcomes:
                    rows += 1
                    for export in exports:
                        export.write(answer)
        if account.figures.invoices != read.answers:
            raise LedgerFaultError("A ledger was changed while it was read, otherwise than by a run.")
        if outputs.html is not None and sample is not None:
            table = sample.close(has_merchants=bool(account.figures.merchants))
            shown = table.rows
            files[outputs.html].temporary.write_bytes(_page(account.figures, table))
    return Report(
        figures=account.figures,
        written=tuple(
            Written(path=path, rows=shown if path == outputs.html else rows, size_bytes=path.stat().st_size)
            for path in outputs.paths
        ),
    )


def check_outputs(outputs: Outputs, *, inputs: Sequence[Path]) -> None:
    """Refuse what can't be written before anything is read.

    Raises:
        ReportError: A file must not be replaced, two have one name, or the extra is not installed.
    """
    for path in outputs.paths:
        check_target(path, force=outputs.force, inputs=inputs)
    if len({one.absolute() for one in outputs.paths}) < len(outputs.paths):
        raise ReportError("Two outputs have the same name. Name each file once.")
    try:
        if outputs.html is not None:
            from batchcancel.report import page  # noqa: F401, PLC0415 - the extra's libraries
        if outputs.xlsx is not None:
            from batchcancel.report import xlsx  # noqa: F401, PLC0415 - likewise
    except ModuleNotFoundError as exc:
        raise ReportError(
            f"An HTML page and XLSX need libraries that are not installed ({exc.name}); {_INSTALL}."
        ) from exc


def _answers(read: Ledgers, account: Account, watch: Callable[[Entry], None]) -> Iterator[Answer]:
    """Yield every invoice's answer; the account and the watcher are told of all that lies between too."""
    names = [ledger_name(file.path) for file in read.files]
    run: RunRecord | None = None
    for entry in read.entries():
        account.take(entry)
        watch(entry)
        if isinstance(entry.record, RunRecord):
            run = entry.record
        elif entry.is_answer and isinstance(entry.record, ResultRecord) and run is not None:
            yield Answer(
                record=entry.record,
                merchant_id=entry.record.merchant_id or run.merchant_id,
                ref=run.ref,
                ledger=names[entry.ledger],
            )


def _exports(outputs: Outputs, read: Ledgers, files: Mapping[Path, NewFile]) -> Iterator[Export]:
    if outputs.csv is not None:
        yield CsvExport(files[outputs.csv], read.columns)
    if outputs.xlsx is not None:
        from batchcancel.report.xlsx import XlsxExport  # noqa: PLC0415 - needs the extra

        yield XlsxExport(files[outputs.xlsx], read.columns)
    if outputs.jsonl is not None:
        yield JsonlExport(files[outputs.jsonl])


def _page(figures: Figures, table: TableData) -> bytes:
    from batchcancel.report.page import render_page  # noqa: PLC0415 - needs the extra

    return render_page(figures, table)
