"""The ledger's invoices, looked up one by one: a census first, then every look-up through ``job.Reading``.

The ledger is read three times, or four for a sample, and never held: what is in hand are the rows that
the pipeline has. Look-ups begin in the order of the ledger, and comparisons come as replies do.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from msgspec import Struct

from batchcancel.errors import ConservationError, LedgerMismatchError
from batchcancel.job.course import Ending
from batchcancel.job.reading import Reading
from batchcancel.ledger.reader import ResultRecord, RunRecord, opened, read_records
from batchcancel.manifest.ids import is_merchant_id, is_valid_id
from batchcancel.model import ManifestRow, Reason, Result, RunState, Sighting, Skip
from batchcancel.report.reading import Ledgers
from batchcancel.tasks.reconcile.comparison import Comparison, compare, not_asked
from batchcancel.tasks.reconcile.sample import Draw, Sample

_BATCH_ROWS: Final = 1000
"""Rows per trip to a thread: enough to make the trip cheap, few enough to hold."""


class Census(Struct, frozen=True, kw_only=True):
    """What a ledger holds answers of, and what of it is asked about."""

    invoices: int
    """That have a row."""
    invalid: int
    """Of them those without a valid id: nobody is asked about them."""
    unfit: int
    """Those whose row names nothing that may be sent, though it says otherwise."""
    to_ask_of: dict[str | None, int]
    """Those that are asked about, by merchant; None is the ledger's own."""
    in_sample_of: dict[str | None, int]
    """Those of them that are in the sample; all of them without one."""

    @property
    def to_ask(self) -> int:
        """Invoices that can be asked about."""
        return sum(self.to_ask_of.values())

    @property
    def in_sample(self) -> int:
        """Invoices that are asked about."""
        return sum(self.in_sample_of.values())


class _Row(ManifestRow, frozen=True, kw_only=True, weakref=True):
    """An invoice on its way through the pipeline, with what the ledger says of it."""

    answer: ResultRecord


class Reconciliation:
    """Compares a ledger with the service."""

    def __init__(
        self,
        read: Ledgers,
        *,
        sample: Sample | None = None,
        on_comparison: Callable[[Comparison], None],
    ) -> None:
        """Count what there is to ask; nothing is sent. Blocks.

        Args:
            read: The ledger, which has a run.
            sample: How to draw the part that is looked at; None for everything.
            on_comparison: Takes each comparison, at once those of rows that can't be asked about.

        Raises:
            LedgerFaultError: The ledger can't be read.
        """
        assert read.first_run is not None  # noqa: S101 - for the types: without a run there is no row
        self._read = read
        self._run = read.first_run
        self._sample = sample
        self._on_comparison = on_comparison
        self._in_hand: WeakValueDictionary[int, _Row] = WeakValueDictionary()
        """By its number each row that the pipeline has; what it lets go of is forgotten."""
        self.compared = 0
        """Invoices that were asked about and compared so far."""
        self.census = self._count()

    async def look_up(self, reading: Reading) -> Ending:
        """Look every invoice up, or those of the sample; returns once each has been compared.

        Args:
            reading: Opened, for the merchants of the census.

        Returns:
            How it ended: a safety stop, a limit and a stop are ways to end.

        Raises:
            LedgerFaultError: The ledger can't be read.
            ConservationError: Not every invoice was compared although nothing stopped it: a defect.
        """
        census = self.census
        ending = await reading.look_up(
            self._rows(), self, open_of=census.in_sample_of, count=census.in_sample
        )
        if ending.state is RunState.COMPLETE and self.compared != census.in_sample:
            raise ConservationError(
                f"Of {census.in_sample} invoices {self.compared} were compared, which is a defect."
            )
        return ending

    async def see(self, sighting: Sighting) -> None:
        """Compare what was seen of one invoice with its row."""
        answer = self._in_hand[sighting.row].answer
        self.compared += 1
        self._on_comparison(compare(answer, sighting, merchant_id=self._whose(answer)))

    async def append(self, record: Result | Skip) -> None:
        """Take a row that nobody is asked about: there is none among those that are handed over."""
        raise ConservationError(f"Row {record.row} was not asked about, which is a defect.")

    # --- the ledger's rows --------------------------------------------------------------------

    def _count(self) -> Census:
        counts: Counter[str | None] = Counter()
        invalid = unfit = 0
        for answer in self._answers():
            if answer.reason is Reason.INVALID_ID:
                invalid += 1
            elif _is_fit(answer):
                counts[self._merchant_of(answer)] += 1
            else:
                unfit += 1
                self._on_comparison(not_asked(answer, merchant_id=self._whose(answer)))
        in_sample = counts
        if self._sample is not None:
            in_sample = Counter(self._merchant_of(answer) for answer in self._drawn(of=counts.total()))
        return Census(
            invoices=self._read.answers,
            invalid=invalid,
            unfit=unfit,
            to_ask_of=dict(counts),
            in_sample_of=dict(in_sample),
        )

    def _answers(self) -> Iterator[ResultRecord]:
        for entry in self._read.entries():
            if entry.is_answer and isinstance(entry.record, ResultRecord):
                yield entry.record

    def _drawn(self, *, of: int) -> Iterator[ResultRecord]:
        """Yield the answers that are asked about, out of ``of`` that can be."""
        draw = None if self._sample is None else Draw(self._sample, of=of)
        for answer in self._answers():
            is_fit = answer.reason is not Reason.INVALID_ID and _is_fit(answer)
            if is_fit and (draw is None or draw.takes_next()):
                yield answer

    async def _rows(self) -> AsyncIterator[ManifestRow]:
        rows = (
            _Row(
                row=number,
                invoice_id=answer.invoice_id,
                merchant_id=self._merchant_of(answer),
                answer=answer,
            )
            for number, answer in enumerate(self._drawn(of=self.census.to_ask))
        )
        while batch := await asyncio.to_thread(lambda: list(islice(rows, _BATCH_ROWS))):
            for row in batch:
                self._in_hand[row.row] = row
                yield row

    def _whose(self, answer: ResultRecord) -> str:
        return answer.merchant_id or self._run.merchant_id

    def _merchant_of(self, answer: ResultRecord) -> str | None:
        """Return whose invoice it is; None if it is that of the ledger's own merchant."""
        whose = self._whose(answer)
        return None if whose == self._run.merchant_id else whose


def first_run_of(ledger: Path) -> RunRecord | None:
    """Read a ledger's first line; None if it is no run record, which the whole reading tells of.

    Raises:
        LedgerMismatchError: There is no such file, or a newer version wrote it.
        LedgerFaultError: It can't be read.
    """
    with opened(ledger) as fd:
        for _, record in read_records(fd, ledger):
            return record if isinstance(record, RunRecord) else None
    return None


def merchant_column_of(ledger: Path) -> str | None:
    """Return the column by which a ledger's runs told merchants apart, so that a portfolio asks for them.

    Raises:
        LedgerMismatchError, LedgerFaultError: As ``first_run_of`` says.
    """
    run = first_run_of(ledger)
    column = None if run is None else run.options.get("merchant_column")
    return column if isinstance(column, str) and column else None


def check_account(run: RunRecord, *, env: str, merchant_id: str, ledger: str) -> None:
    """Refuse a ledger of another environment or merchant: ids mean something else there.

    Args:
        run: The ledger's first run.
        env: What is called.
        merchant_id: Who asks; the portfolio where that is who has signed.
        ledger: The ledger's name, for people.

    Raises:
        LedgerMismatchError: It is one.
    """
    if run.env != env:
        raise LedgerMismatchError(
            f"{ledger} belongs to another environment than {env}: say the one of its runs with --env."
        )
    if run.merchant_id != merchant_id:
        raise LedgerMismatchError(
            f"{ledger} belongs to another merchant than the one whose credentials these are. "
            "Use those of its runs."
        )


def _is_fit(answer: ResultRecord) -> bool:
    """Tell whether a row can be asked about: a ledger may have been written by anybody."""
    return is_valid_id(answer.invoice_id) and (not answer.merchant_id or is_merchant_id(answer.merchant_id))
