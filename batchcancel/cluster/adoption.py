"""The invoices of an earlier coordinator's shards, found again in this run's manifests, and their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from batchcancel.cluster.books import Books, OpenInvoice
from batchcancel.cluster.messages import Receipt, ShardReport
from batchcancel.cluster.packing import Answer, Ask, match_of, unpack_answers
from batchcancel.cluster.shares import Shares
from batchcancel.job.workforce import Work
from batchcancel.model import AnswersUnclaimed, ManifestRow, Reason, RequestKind, Result, Skip, Standing
from batchcancel.pipeline.unasked import in_doubt, unasked
from batchcancel.retry import Case, LeftOpen

_HAVE_A_ROW: Final = frozenset({Standing.TO_LOOK_UP, Standing.HELD_BACK})
"""Invoices of which the ledger says that they ended in an error, or in a doubt."""


class _Found(NamedTuple):
    """An invoice of theirs."""

    number: int
    """Its row's place in this run's manifests, from 0."""
    row: ManifestRow
    is_expected: bool
    """Whether what the invoice has to be like is the same as then."""

    @property
    def is_to_be_asked(self) -> bool:
        """Whether this run would ask about it: not if it is excluded by now, or held back."""
        return not isinstance(unasked(self.row), Skip | LeftOpen)


class Adoption:
    """Take what an earlier coordinator's shards have: answers are written, once; doubts are asked about.

    An error that the next run asks about again is no answer, and what stopped a shard is not taken over:
    those after it meet the same by themselves, or do not.
    """

    def __init__(
        self, work: Work, books: Books, shares: Shares, *, on_failure: Callable[[Exception], None]
    ) -> None:
        """Prepare.

        Args:
            work: What is to be done.
            books: Where it is kept what has an answer before it is read.
            shares: Learn from refusals.
            on_failure: Told of answers that can't be written: they stay where they are.
        """
        self._work = work
        self._books = books
        self._shares = shares
        self._on_failure = on_failure
        self._found: Final[dict[int, _Found]] = {}
        """Those without an answer, by the number that they had there."""
        self._doubts: Final[dict[int, OpenInvoice]] = {}
        """Those of them that may have been acted on, likewise."""
        self._unclaimed: Final[set[int]] = set()
        """The numbers there of what no row of these manifests names."""
        self._unclaimed_answers: set[int] = set()
        """Those of them that have an answer, until that is told."""
        self._commits: Final[dict[int, asyncio.Task[None]]] = {}
        """By shard."""

    async def begin(self, asks: Iterable[Ask]) -> None:
        """Get ready for the answers; see ``Coordinator.adopt``."""
        wanted = {(ask.merchant_id, ask.invoice_id): ask for ask in asks}
        number = 0
        rows = self._work.read_rows()
        while wanted and (row := await anext(rows, None)) is not None:
            # The first row of an id is the one that is asked about; the text of an invalid one names nothing.
            ask = wanted.pop((row.merchant_id, row.invoice_id), None) if row.valid else None
            if ask is not None and row.standing is not Standing.SETTLED:  # else it was written then
                found = _Found(number, row, is_expected=ask.match == match_of(row))
                self._found[ask.number] = found
                if ask.is_in_doubt and row.standing not in _HAVE_A_ROW:
                    self._doubt(ask.number, found, in_doubt(row))
            number += 1
        self._unclaimed.update(ask.number for ask in wanted.values())

    async def commit(self, number: int, report: ShardReport) -> Receipt:
        """Write the answers of a shard; see ``Coordinator.commit_adopted``."""
        if number not in self._commits:
            self._commits[number] = asyncio.create_task(self._commit(report))
        await asyncio.shield(self._commits[number])
        return Receipt(is_over=True, leaves_rest=False, score=self._books.score())

    async def settle(self) -> None:
        """Return once nothing is written any more; tell of what could not be."""
        await asyncio.gather(*self._commits.values(), return_exceptions=True)
        if self._unclaimed_answers:
            self._work.on_event(AnswersUnclaimed(count=len(self._unclaimed_answers)))
            self._unclaimed_answers.clear()

    async def _commit(self, report: ShardReport) -> None:
        try:
            answers = unpack_answers(report.answers)
            self._shares.learn(report.refused_at)
            final = (answer.number for answer in answers if answer.reason.is_final)
            self._unclaimed_answers |= self._unclaimed.intersection(final)
            for answer in answers:
                if (found := self._found.get(answer.number)) is not None:
                    await self._take(answer, found)
            await self._books.ledger.flush()
        except Exception as exc:
            self._on_failure(exc)
            raise

    async def _take(self, answer: Answer, found: _Found) -> None:
        if answer.reason is Reason.UNKNOWN:
            self._doubt(answer.number, found, answer.result_for(found.row))
        elif answer.reason.is_final and (found.is_expected or answer.reason is not Reason.MISMATCH):
            await self._write(answer, found)

    def _doubt(self, old_number: int, found: _Found, unknown: Result) -> None:
        """Have an invoice looked up before any other; or written in the end, if it is not to be asked."""
        if (doubt := self._doubts.get(old_number)) is not None:
            doubt.unknown = unknown
            return
        books = self._books
        case = Case(row=found.row, next=RequestKind.CANCEL, doubted_earlier=True)
        self._doubts[old_number] = doubt = OpenInvoice(number=found.number, case=case, unknown=unknown)
        may_be_asked = found.is_to_be_asked and books.entrance.let_in()
        (books.again if may_be_asked else books.aside).append(doubt)
        books.take_early(found.number, found.row.merchant_id, is_to_settle=found.is_to_be_asked)

    async def _write(self, answer: Answer, found: _Found) -> None:
        books = self._books
        del self._found[answer.number]
        doubt = self._doubts.pop(answer.number, None)
        if doubt is None:
            books.entrance.count_in()
            books.take_early(found.number, found.row.merchant_id, is_to_settle=found.is_to_be_asked)
        else:
            (books.again if doubt in books.again else books.aside).remove(doubt)
        await books.write(answer.result_for(found.row))
