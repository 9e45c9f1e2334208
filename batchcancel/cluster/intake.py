"""Answers in: what the shards of a coordinator bring is written once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from batchcancel.cluster.books import Books, ShardOut
from batchcancel.cluster.messages import MerchantStop, Receipt, ShardReport, Stop
from batchcancel.cluster.packing import Answer, unpack_answers
from batchcancel.cluster.shares import Shares
from batchcancel.errors import ClusterError, LedgerFaultError, SafetyStopError
from batchcancel.job.workforce import Work
from batchcancel.model import Reason
from batchcancel.pipeline.fleet import OF_A_MERCHANT

_OF_A_MERCHANT: Final = frozenset(kind.__name__ for kind in OF_A_MERCHANT)
_SAFETY_STOPS: Final = {kind.__name__: kind for kind in SafetyStopError.__subclasses__()}


class Intake:
    """Write the answers of shards; returns of each once they are durable."""

    def __init__(
        self,
        work: Work,
        books: Books,
        shares: Shares,
        *,
        on_failure: Callable[[Exception], None],
        on_unwritten: Callable[[Exception], None],
    ) -> None:
        """Prepare.

        Args:
            work: What is to be done.
            books: Where it is kept who has what.
            shares: Learn from refusals.
            on_failure: Told of what stopped a worker.
            on_unwritten: Told of answers that can't be written: they stay where they are.
        """
        self._work = work
        self._books = books
        self._shares = shares
        self._on_failure = on_failure
        self._on_unwritten = on_unwritten
        self._commits: Final[set[asyncio.Task[Receipt]]] = set()

    async def commit_part(self, number: int, report: ShardReport) -> Receipt:
        """Write the answers of a shard; see ``Coordinator.commit_part``."""
        out = self._books.out.get(number)
        if out is None:
            return self._receipt(leaves_rest=bool(self._books.again))
        if out.committing is None:
            out.committing = asyncio.create_task(self._commit(out, report))
            self._commits.add(out.committing)
            out.committing.add_done_callback(self._commits.discard)
        return await asyncio.shield(out.committing)

    async def settle(self) -> None:
        """Return once nothing is written any more."""
        await asyncio.gather(*self._commits, return_exceptions=True)

    async def _commit(self, out: ShardOut, report: ShardReport) -> Receipt:
        books = self._books
        try:
            answers = unpack_answers(report.answers)
            out.is_counted = True
            for answer in answers:
                await self._take(out, answer)
            await books.ledger.flush()
        except Exception as exc:  # what was not taken stays in Temporal
            self._on_unwritten(exc)
            raise
        stops = [stop for stop in report.stopped_merchants if stop.merchant_id in out.merchants]
        if report.stop is not None:
            if self._is_of_one_merchant(out, report.stop):
                stops += [MerchantStop(merchant_id=one, why=report.stop.why) for one in out.merchants]
            else:
                self._on_failure(_failure_of(report))
        self._shares.learn(report.refused_at)
        del books.out[out.shard.number]
        books.take_back(out.invoices.values())
        try:
            is_news = await books.stop_merchants(stops)
        except LedgerFaultError as exc:
            self._on_unwritten(exc)
            raise
        return self._receipt(leaves_rest=bool(books.again), takes_back=is_news)

    def _is_of_one_merchant(self, out: ShardOut, stop: Stop) -> bool:
        """Tell whether a shard was stopped by what concerns its one merchant, while there are others.

        As long as canaries are tried it concerns everyone: they have to end well before others are touched.
        """
        is_own = stop.kind in _OF_A_MERCHANT and len(out.merchants) == 1
        return is_own and len(self._work.opened.check.merchants) > 1 and not self._books.entrance.is_trying

    async def _take(self, out: ShardOut, answer: Answer) -> None:
        invoice = out.invoices.get(answer.number)
        if invoice is None:
            return
        result, case = answer.result_for(invoice.case.row), invoice.case
        if result.reason is Reason.UNKNOWN and not self._books.stopping.is_set() and not case.is_canary:
            # The shard was to end, and the reply had not come: there is time to look.
            case.doubted_earlier = True
            invoice.unknown = result
            return
        await self._books.write(result, case)
        del out.invoices[answer.number]

    def _receipt(self, *, leaves_rest: bool, takes_back: bool = False) -> Receipt:
        return Receipt(
            is_over=self._books.stopping.is_set(),
            leaves_rest=leaves_rest,
            takes_back=takes_back,
            score=self._books.score(),
        )


def _failure_of(report: ShardReport) -> SafetyStopError:
    """Return the error that a worker met, as one of this process."""
    assert report.stop is not None  # noqa: S101 - asked for such reports only
    kind = _SAFETY_STOPS.get(report.stop.kind, ClusterError)
    return kind(f"{report.stop.why} (worker {report.worker})" if report.worker else report.stop.why)
