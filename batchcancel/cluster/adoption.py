"""The invoices of an earlier coordinator's shards, found again in this run's manifests, and their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, NamedTuple

from batchcancel.cluster.books import Books
from batchcancel.cluster.messages import Receipt, ShardReport
from batchcancel.cluster.packing import Answer, Ask, match_of, unpack_answers
from batchcancel.cluster.shares import Shares
from batchcancel.job.workforce import Work
from batchcancel.model import AnswersUnclaimed, ManifestRow, Reason, Standing
from batchcancel.pipeline.unasked import in_doubt


class _Found(NamedTuple):
    """An invoice of theirs."""

    number: int
    """Its row's place in this run's manifests, from 0."""
    row: ManifestRow
    is_expected: bool
    """Whether what the invoice has to be like is the same as then."""


class Adoption:
    """Write what an earlier coordinator's shards have, each answer once.

    What stopped one of them is not taken over: the shards after it meet the same by themselves, or do not.
    """

    def __init__(self, work: Work, books: Books, shares: Shares) -> None:
        """Prepare.

        Args:
            work: What is to be done.
            books: Where it is kept what has an answer before it is read.
            shares: Learn from refusals.
        """
        self._work = work
        self._books = books
        self._shares = shares
        self._found: dict[int, _Found] = {}
        """Those without an answer, by the number that they had there."""
        self._unclaimed: set[int] = set()
        """The numbers there of what no row of these manifests names."""
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
                self._find(ask, number, row)
            number += 1
        self._unclaimed.update(ask.number for ask in wanted.values())

    def _find(self, ask: Ask, number: int, row: ManifestRow) -> None:
        self._found[ask.number] = _Found(number, row, is_expected=ask.match == match_of(row))
        if ask.is_in_doubt and row.standing is not Standing.TO_LOOK_UP:
            self._books.doubted_earlier[number] = in_doubt(row)

    async def commit(self, number: int, report: ShardReport) -> Receipt:
        """Write the answers of a shard; see ``Coordinator.commit_adopted``."""
        if number not in self._commits:
            self._commits[number] = asyncio.create_task(self._commit(report))
        await asyncio.shield(self._commits[number])
        return Receipt(is_over=True, leaves_rest=False, score=self._books.score())

    async def _commit(self, report: ShardReport) -> None:
        answers = unpack_answers(report.answers)
        self._shares.learn(report.refused_at)
        if unclaimed := self._unclaimed.intersection(answer.number for answer in answers):
            self._unclaimed -= unclaimed
            self._work.on_event(AnswersUnclaimed(count=len(unclaimed)))
        for answer in answers:
            found = self._found.get(answer.number)
            if found is not None and (found.is_expected or answer.reason is not Reason.MISMATCH):
                await self._take(answer, found)
        await self._books.ledger.flush()

    async def _take(self, answer: Answer, found: _Found) -> None:
        books, result = self._books, answer.result_for(found.row)
        if result.reason is Reason.UNKNOWN and not books.stopping.is_set():
            books.doubted_earlier[found.number] = result  # there is time to look
            return
        del self._found[answer.number]
        books.doubted_earlier.pop(found.number, None)
        books.answered_earlier.add(found.number)
        await books.write(result)
        books.entrance.count_in()
