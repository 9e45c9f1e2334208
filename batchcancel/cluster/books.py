"""What a coordinator knows of its rows: who has them, and what became of them."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from batchcancel.cluster.messages import MerchantStop, Receipt, Score, Shard
from batchcancel.cluster.packing import Ask, match_of
from batchcancel.cluster.shares import Shares
from batchcancel.job.lanes import gates_of
from batchcancel.job.workforce import Work
from batchcancel.model import (
    ManifestRow,
    MerchantStopped,
    Outcome,
    Reason,
    RequestKind,
    Result,
    Skip,
    SkipReason,
    StoppedMerchant,
    Tally,
)
from batchcancel.pipeline import Entrance
from batchcancel.retry import Case


@dataclass(slots=True, kw_only=True)
class OpenInvoice:
    """An invoice that has no row of this run yet."""

    number: int
    case: Case
    unknown: Result | None = None
    """What is written of it if nobody asks again: a cancelation may have been acted on."""

    @property
    def ask(self) -> Ask:
        """What a worker is told of it."""
        row = self.case.row
        return Ask(
            number=self.number,
            invoice_id=row.invoice_id,
            merchant_id=row.merchant_id,
            is_in_doubt=self.case.doubted_earlier,
            match=match_of(row),
        )


@dataclass(slots=True, kw_only=True, eq=False)
class ShardOut:
    """A shard that is out."""

    shard: Shard
    invoices: dict[int, OpenInvoice]
    merchants: frozenset[str | None]
    """Whose invoices there were when it was given out."""
    committing: asyncio.Task[Receipt] | None = None
    is_counted: bool = False
    """Whether its answers are counted among the rows."""


@dataclass(slots=True, kw_only=True)
class _Counts:
    """What became of the rows so far."""

    rows_read: int = 0
    results: Counter[Reason] = field(default_factory=Counter)
    settled_earlier: int = 0
    skips: Counter[SkipReason] = field(default_factory=Counter)
    left_open: int = 0


class Books:
    """Keep count of the rows of a job, and write those that have an answer."""

    def __init__(self, work: Work, shares: Shares, *, on_failure: Callable[[Exception], None]) -> None:
        """Begin with every row unread. Needs a running event loop.

        Args:
            work: What is to be done.
            shares: What the job may send at the moment.
            on_failure: Told why the job has to stop, if the gates say so.
        """
        self._on_failure = on_failure
        self._on_event = work.on_event
        self._amounts_canceled = work.amounts_canceled
        self._shares = shares
        self._check = work.opened.check
        self._to_settle = work.opened.check.to_settle
        self._began_at = monotonic()
        self.ledger: Final = work.opened.ledger
        self.entrance: Final = Entrance(gates_of(work.settings.options))
        self.counts: Final = _Counts()
        self.out: Final[dict[int, ShardOut]] = {}
        """Shards that are out, by number."""
        self.again: Final[deque[OpenInvoice]] = deque()
        """Invoices that shards have left."""
        self.aside: Final[list[OpenInvoice]] = []
        """Invoices that may have been acted on, and are not to be asked about any more."""
        self.taken_early: Final[set[int]] = set()
        """Rows that an earlier coordinator's shards had, counted before they are read, by number."""
        self._settled_of: Counter[str | None] = Counter()
        """Results of invoices that were asked about, by merchant."""
        self.stopped: Final[dict[str | None, str]] = {}
        """The merchants whose rows are left while those of others go on, and why."""
        self.stopping: Final = asyncio.Event()
        """Set once no shard is to go on."""

    @property
    def in_hand(self) -> int:
        """Invoices that were taken in hand, and have neither a row nor been left open."""
        return self.with_shards + len(self.again) + len(self.aside)

    @property
    def with_shards(self) -> int:
        """Invoices of shards that are out."""
        return sum(len(out.invoices) for out in self.out.values())

    @property
    def written(self) -> int:
        """Results so far."""
        return self.counts.results.total()

    async def write(self, result: Result, case: Case | None = None) -> None:
        """Write a row, and stop the job if the gates say so.

        Args:
            result: The row.
            case: Its invoice, if this coordinator has handed it out.

        Raises:
            LedgerFaultError: The ledger can't take rows any more.
        """
        await self.ledger.append(result)
        self.counts.results[result.reason] += 1
        if result.reason is not Reason.INVALID_ID:
            self._settled_of[result.merchant_id or None] += 1
        if case is None:
            case = Case(
                row=ManifestRow(row=result.row, invoice_id=result.invoice_id), next=RequestKind.CANCEL
            )
        failure = self.entrance.note(case, result)
        if failure is not None and not self.stopping.is_set():
            self._on_failure(failure)

    def take_early(self, number: int, merchant_id: str | None, *, is_to_settle: bool) -> None:
        """Count a row that others had asked about, as if it were read by now.

        Args:
            number: Its place.
            merchant_id: Whose it is.
            is_to_settle: Whether the check counts it among those that are given a result.
        """
        self.taken_early.add(number)
        if not is_to_settle:
            self._to_settle += 1
            self._settled_of[merchant_id] -= 1  # its result adds one

    def take_back(self, invoices: Iterable[OpenInvoice]) -> None:
        """Take invoices that are to be handed out again; canaries come first."""
        left = list(invoices)
        self.again.extendleft(one for one in reversed(left) if one.case.is_canary)
        self.again.extend(one for one in left if not one.case.is_canary)

    async def skip(self, skip: Skip) -> None:
        """Write that nobody is asked about a row.

        Raises:
            LedgerFaultError: The ledger can't take rows any more.
        """
        await self.ledger.append(skip)
        self.counts.skips[skip.why] += 1

    async def leave(self, invoice: OpenInvoice) -> None:
        """Let an invoice be; write that a cancelation may have been acted on, if that is so.

        Raises:
            LedgerFaultError: The ledger can't take rows any more.
        """
        if invoice.unknown is None:
            self.counts.left_open += 1
        else:
            await self.write(invoice.unknown, invoice.case)

    async def stop_merchants(self, stops: Iterable[MerchantStop]) -> bool:
        """Hand out no more of some merchants' invoices, and let those be that shards have left.

        Returns:
            Whether one of them was not stopped before.

        Raises:
            LedgerFaultError: The ledger can't take rows any more.
        """
        is_news = False
        for stop in stops:
            if stop.merchant_id not in self.stopped:
                is_news = True
                self.stopped[stop.merchant_id] = stop.why
                self._on_event(MerchantStopped(merchant_id=stop.merchant_id, why=stop.why))
        if not self.stopped:
            return is_news
        kept: list[OpenInvoice] = []
        left: list[OpenInvoice] = []
        for invoice in self.again:
            (left if invoice.case.row.merchant_id in self.stopped else kept).append(invoice)
        # Taken out all at once: while a row is written, shards are gathered from what is there.
        self.again.clear()
        self.again.extend(kept)
        for invoice in left:
            await self.leave(invoice)
        return is_news

    @property
    def stopped_merchants(self) -> tuple[StoppedMerchant, ...]:
        """The merchants that were stopped while others went on, in that order."""
        return tuple(
            StoppedMerchant(
                merchant_id=merchant_id,
                open=self._check.open_of.get(merchant_id, 0) - self._settled_of[merchant_id],
                why=why,
            )
            for merchant_id, why in self.stopped.items()
        )

    async def close(self) -> None:
        """Let every invoice be that is in hand: nobody works on one any more.

        Raises:
            LedgerFaultError: The ledger can't take rows any more.
        """
        with_shards = [one for out in self.out.values() for one in out.invoices.values()]
        left = [*self.again, *self.aside, *with_shards]
        for one in (self.again, self.aside, self.out):
            one.clear()
        for invoice in left:
            await self.leave(invoice)

    def tally(self) -> Tally:
        """Count what became of the rows that were read so far, or taken before they were."""
        counts = self.counts
        return Tally(
            rows=counts.rows_read + len(self.taken_early),
            results=dict(counts.results),
            settled_earlier=counts.settled_earlier,
            duplicates=counts.skips[SkipReason.DUPLICATE],
            excluded=counts.skips[SkipReason.EXCLUDED],
            open=counts.left_open + self.in_hand,
        )

    def score(self) -> Score:
        """Tell how far the job is."""
        outcomes: Counter[Outcome] = Counter()
        for reason, count in self.counts.results.items():
            outcomes[reason.outcome] += count
        return Score(
            to_settle=self._to_settle,
            outcomes={outcome.value: outcomes[outcome] for outcome in Outcome},
            duration_s=round(monotonic() - self._began_at, 3),
            rate=self._shares.rate,
            is_cut=self._shares.is_cut,
            amounts_canceled=self._amounts_canceled(),
            out=tuple(number for number, out in self.out.items() if not out.is_counted),
        )
