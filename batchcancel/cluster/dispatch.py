"""Shards out: a coordinator's rows in their order, those that shards left again, canaries first."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Final

from batchcancel.cluster.books import Books, OpenInvoice, ShardOut
from batchcancel.cluster.messages import (
    FIRST_PROTOCOL,
    PROTOCOL,
    Account,
    Conditions,
    Issue,
    Shard,
    ShardRequest,
)
from batchcancel.cluster.packing import MOST_ROWS, pack
from batchcancel.cluster.shares import Share, Shares
from batchcancel.job.workforce import Work
from batchcancel.model import ManifestRow, RequestKind, Skip, Standing
from batchcancel.pipeline.unasked import unasked
from batchcancel.retry import Case, LeftOpen, Settled

_LEAST_ROWS: Final = 100
"""Invoices of a shard that is slow, or near the end of a job."""
_MOST_BYTES: Final = 1_200_000
"""Of packed invoices that are out, but for the last shard: Temporal refuses a message of 2 MB."""
_LASTS_S: Final = 15.0
"""How long a shard takes at most at the rate of its share, if one request an invoice is enough."""


class Dispatch:
    """Gather invoices into shards and give those out, as many as may be out."""

    def __init__(
        self,
        work: Work,
        books: Books,
        shares: Shares,
        *,
        account: Account,
        shard_rows: int,
        on_failure: Callable[[Exception], None],
    ) -> None:
        """Prepare; nothing is read.

        Args:
            work: What is to be done.
            books: Where it is kept who has what.
            shares: What part of the quota each shard gets.
            account: Whose invoices they are.
            shard_rows: Invoices of one shard, at most.
            on_failure: Told of rows that can't be read.
        """
        options = work.settings.options
        self._books = books
        self._shares = shares
        self._account = account
        self._shard_rows = shard_rows
        self._on_failure = on_failure
        self._to_ask = work.opened.check.open
        self._conditions = Conditions(
            timeout=options.timeout,
            max_attempts=options.max_attempts,
            max_outage=options.max_outage,
            max_errors=options.max_errors,
            max_error_rate=options.max_error_rate,
            max_mismatch=options.max_mismatch,
            ledger_began_at=work.ledger_began_at,
        )
        self._rows: AsyncIterator[ManifestRow] | None = None
        self._issuing = asyncio.Lock()
        self._gathering: set[asyncio.Task[Issue]] = set()
        self._next_number = 0

    def begin(self, rows: AsyncIterator[ManifestRow]) -> None:
        """Take rows from here on."""
        self._rows = rows

    async def end(self) -> None:
        """Return once nothing is gathered any more."""
        await asyncio.gather(*self._gathering, return_exceptions=True)

    async def next_shards(self, request: ShardRequest) -> Issue:
        """Give out the next shards; see ``Coordinator.next_shards``."""
        task = asyncio.create_task(self._give_out(request))
        self._gathering.add(task)
        task.add_done_callback(self._gathering.discard)
        return await asyncio.shield(task)

    async def _give_out(self, request: ShardRequest) -> Issue:
        out = self._books.out
        async with self._issuing:
            if request.rate is not None and request.rate != self._shares.rate:
                self._shares.set_rate(request.rate)
            given = [out.shard for number, out in sorted(out.items()) if number >= request.offset]
            if request.offset < self._next_number:
                return self._issue(given)
            # As many again lie ready, so that no worker waits for the coordinator between two shards.
            while self._has_room_for_one() and not self._books.stopping.is_set():
                try:
                    shard = await self._next_shard()
                except Exception as exc:  # noqa: BLE001 - the run ends with it, see Coordinator.run
                    self._on_failure(exc)
                    break
                if shard is None:
                    break
                given.append(shard)
            return self._issue(given)

    def _has_room_for_one(self) -> bool:
        """Tell whether one more shard may be out: one message may have to carry all of them."""
        out = self._books.out.values()
        return len(out) < 2 * self._shares.window and sum(len(one.shard.rows) for one in out) < _MOST_BYTES

    def _issue(self, shards: list[Shard]) -> Issue:
        is_more = self._rows is not None or self._books.again
        return Issue(
            shards=tuple(shards),
            is_end=self._books.stopping.is_set() or not is_more,
            window=self._shares.window,
            score=self._books.score(),
        )

    async def _next_shard(self) -> Shard | None:
        """Gather a shard; None if there are no invoices for now. A failure leaves them in hand."""
        invoices: list[OpenInvoice] = []
        try:
            return await self._gather(invoices)
        except BaseException:
            self._books.take_back(invoices)
            raise

    async def _gather(self, invoices: list[OpenInvoice]) -> Shard | None:
        share = self._shares.next()
        most, most_of_each = self._shard_size(share), _most_rows(share.merchant_rate)
        rows_of: Counter[str | None] = Counter()
        while len(invoices) < most and not self._books.stopping.is_set():
            invoice = await self._next_invoice()
            if invoice is None:
                break
            invoices.append(invoice)
            merchant_id = invoice.case.row.merchant_id
            rows_of[merchant_id] += 1
            is_full = rows_of[merchant_id] >= most_of_each
            if is_full or self._books.entrance.holds_back or self._ends_shard(invoice):
                break
        if not invoices:
            return None
        merchants = frozenset(rows_of)
        is_plain = merchants == {None} and share.merchant_rate is None
        shard = Shard(
            protocol=FIRST_PROTOCOL if is_plain else PROTOCOL,
            number=self._next_number,
            account=self._account,
            conditions=self._conditions,
            rows=pack(invoice.ask for invoice in invoices),
            count=len(invoices),
            rate=share.rate,
            merchant_rate=share.merchant_rate,
            concurrency=share.concurrency,
            is_canary=invoices[0].case.is_canary,
        )
        self._books.out[shard.number] = ShardOut(
            shard=shard,
            invoices={invoice.number: invoice for invoice in invoices},
            merchants=merchants,
        )
        self._next_number += 1
        return shard

    def _shard_size(self, share: Share) -> int:
        """Return how many invoices the next shard has at most.

        A slow one has fewer, for its answers are not on disk before its end; and all have fewer towards the
        end of the job, so that they end together.
        """
        left = self._to_ask - self._books.written - self._books.with_shards
        return min(self._shard_rows, max(_LEAST_ROWS, left // self._shares.window), _most_rows(share.rate))

    async def _next_invoice(self) -> OpenInvoice | None:
        """Return the next invoice that is to be asked about; None if there is none for now."""
        if self._may_hand_out_again():
            return self._books.again.popleft()
        while self._rows is not None and not self._books.entrance.holds_back:
            try:
                row = await anext(self._rows, None)
            except Exception as exc:  # noqa: BLE001 - the run ends with it, see Coordinator.run
                self._rows = None
                self._on_failure(exc)
                return None
            if row is None:
                self._rows = None
                return None
            number = self._books.counts.rows_read
            self._books.counts.rows_read += 1
            try:
                invoice = await self._admit(number, row)
            except BaseException:
                self._books.counts.left_open += 1
                raise
            if invoice is not None:
                return invoice
        return None

    def _may_hand_out_again(self) -> bool:
        """Tell whether an invoice may be handed out once more: canaries go first, while they are tried."""
        books = self._books
        if not books.again or books.again[0].case.is_canary or not books.entrance.is_trying:
            return bool(books.again)
        # There may be fewer invoices than canaries were asked for.
        return self._rows is None and not any(out.shard.is_canary for out in books.out.values())

    def _ends_shard(self, invoice: OpenInvoice) -> bool:
        """Tell whether a shard ends here: those that are tried first have one of their own."""
        return (
            self._may_hand_out_again() and self._books.again[0].case.is_canary is not invoice.case.is_canary
        )

    async def _admit(self, number: int, row: ManifestRow) -> OpenInvoice | None:
        """Take an invoice in hand, if its row and the gates let it through."""
        books = self._books
        if number in books.taken_early:
            books.taken_early.remove(number)  # counted then
            return None
        if row.duplicate_of is None and row.standing is Standing.SETTLED:
            books.counts.settled_earlier += 1
            return None
        ending = unasked(row)
        if ending is not None:
            await self._end_unasked(ending)
            return None
        if row.merchant_id in books.stopped:
            books.counts.left_open += 1
            return None
        is_in_doubt = row.standing is Standing.TO_LOOK_UP
        case = Case(row=row, next=RequestKind.CANCEL, doubted_earlier=is_in_doubt)
        invoice = OpenInvoice(number=number, case=case)
        if await books.entrance.admit(case, stopping=books.stopping):
            return invoice
        await books.leave(invoice)
        if books.entrance.is_at_limit:
            self._rows = None
        return None

    async def _end_unasked(self, ending: Settled | Skip | LeftOpen) -> None:
        match ending:
            case Settled(result):
                await self._books.write(result)
            case Skip():
                await self._books.skip(ending)
            case LeftOpen():
                self._books.counts.left_open += 1


def _most_rows(rate: float | None) -> int:
    """Return how many invoices of a shard share a rate (requests a second, None for no limit) at most."""
    return MOST_ROWS if rate is None else max(_LEAST_ROWS, int(rate * _LASTS_S))
