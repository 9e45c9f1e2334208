"""The job's side of many hosts: manifest to shards, answers to ledger. It stands where a fleet would.

It knows nothing of the engine: whoever drives it asks for shards, brings their reports, and hears of a stop.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic
from typing import Final

from batchcancel.cluster.messages import (
    FIRST_PROTOCOL,
    PROTOCOL,
    Account,
    Conditions,
    Issue,
    MerchantStop,
    Receipt,
    Score,
    Shard,
    ShardReport,
    ShardRequest,
    Stop,
)
from batchcancel.cluster.packing import MOST_TEXT, Answer, Ask, pack, unpack_answers
from batchcancel.cluster.shares import Share, Shares
from batchcancel.errors import ClusterError, LedgerFaultError, SafetyStopError
from batchcancel.job.lanes import gates_of
from batchcancel.job.workforce import Work
from batchcancel.model import (
    ManifestRow,
    MerchantStopped,
    Outcome,
    PauseCause,
    PauseEnded,
    PauseStarted,
    Reason,
    RequestKind,
    Result,
    Skip,
    SkipReason,
    Standing,
    StoppedMerchant,
    StopRequested,
    Tally,
    Vitals,
)
from batchcancel.pipeline import Entrance
from batchcancel.pipeline.fleet import OF_A_MERCHANT
from batchcancel.pipeline.pipeline import cause_of, precedence
from batchcancel.pipeline.unasked import unasked
from batchcancel.retry import Case, LeftOpen, Settled

_LEAST_ROWS: Final = 100
"""Invoices of a shard that is slow, or near the end of a job."""
_LASTS_S: Final = 15.0
"""How long a shard takes at most at the rate of its share, if one request an invoice is enough."""
_OF_A_MERCHANT: Final = frozenset(kind.__name__ for kind in OF_A_MERCHANT)
_SAFETY_STOPS: Final = {kind.__name__: kind for kind in SafetyStopError.__subclasses__()}


@dataclass(slots=True, kw_only=True)
class _Open:
    """An invoice that has no row of this run yet."""

    number: int
    case: Case
    unknown: Result | None = None
    """What is written of it if nobody asks again: a cancelation may have been acted on."""

    @property
    def ask(self) -> Ask:
        row = self.case.row
        return Ask(
            number=self.number,
            invoice_id=row.invoice_id,
            merchant_id=row.merchant_id,
            is_in_doubt=self.case.doubted_earlier,
            match=row.match and {name: text[:MOST_TEXT] for name, text in row.match.items()},
        )


@dataclass(slots=True, kw_only=True, eq=False)
class _Out:
    """A shard that is out."""

    shard: Shard
    invoices: dict[int, _Open]
    merchants: frozenset[str | None]
    committing: asyncio.Task[Receipt] | None = None


@dataclass(slots=True, kw_only=True)
class _Counts:
    """What became of the rows so far."""

    rows_read: int = 0
    results: Counter[Reason] = field(default_factory=Counter)
    settled_earlier: int = 0
    skips: Counter[SkipReason] = field(default_factory=Counter)
    left_open: int = 0


class Wish(StrEnum):
    """What a person at the coordinator asks of all workers; the names of the workflow's signals."""

    PAUSE = "pause"
    RESUME = "resume"


class Coordinator:
    """Hand the rows of a run out in shards, and write what comes back; a ``Workforce`` of the job's."""

    def __init__(
        self,
        work: Work,
        *,
        account: Account,
        window: int,
        shard_rows: int,
        drive: Callable[[Coordinator], Awaitable[None]],
    ) -> None:
        """Prepare. Needs a running event loop.

        Args:
            work: What is to be done.
            account: Whose invoices they are.
            window: Shards that may be out at the same time, at most.
            shard_rows: Invoices of one shard, at most.
            drive: Has shards worked on until there are no more or ``stopping`` is set, at once once
                ``aborting`` is.
        """
        options = work.settings.options
        self._work = work
        self._account = account
        self._shard_rows = shard_rows
        self._drive = drive
        self._shares = Shares(
            window,
            rate=work.settings.rate,
            merchant_rate=options.rate_per_merchant,
            concurrency=options.concurrency,
        )
        self._merchants = work.opened.check.merchants
        self._stopped: dict[str | None, str] = {}
        """The merchants whose rows are left while those of others go on, and why."""
        self._settled_of: Counter[str | None] = Counter()
        """Results of invoices that were asked about, by merchant."""
        self._conditions = Conditions(
            timeout=options.timeout,
            max_attempts=options.max_attempts,
            max_outage=options.max_outage,
            max_errors=options.max_errors,
            max_error_rate=options.max_error_rate,
            max_mismatch=options.max_mismatch,
            ledger_began_at=work.ledger_began_at,
        )
        self._entrance = Entrance(gates_of(options))
        self._ledger = work.opened.ledger
        self._began_at = monotonic()
        self._rows: AsyncIterator[ManifestRow] | None = None
        self._issuing = asyncio.Lock()
        self._gathering: set[asyncio.Task[Issue]] = set()
        self._next_number = 0
        self._out: dict[int, _Out] = {}
        self._again: deque[_Open] = deque()
        """Invoices that shards have left."""
        self._adopting = asyncio.Lock()
        self._adopted: dict[int, ManifestRow] = {}
        """Rows of an earlier coordinator's shards that have no answer yet, by number."""
        self._answered_earlier: set[int] = set()
        """Rows that such shards answered before they were read here, by number."""
        self._doubted_earlier: set[int] = set()
        """Rows of such shards whose cancelation may have been acted on, by number."""
        self._counts = _Counts()
        self._failures: list[Exception] = []
        self._paused_since: float | None = None
        self.wishes: asyncio.Queue[Wish] = asyncio.Queue()
        """What whoever drives it is to pass on, in that order."""
        self.stopping = asyncio.Event()
        """Set once no shard is to go on."""
        self.aborting = asyncio.Event()
        """Set once nobody waits for a shard any more."""

    # --- a workforce ------------------------------------------------------------------------------

    @property
    def merchant_count(self) -> int:
        """How many merchants there are rows of."""
        return len(self._merchants)

    @property
    def is_paused(self) -> bool:
        """Whether somebody here has paused the job."""
        return self._paused_since is not None

    @property
    def is_at_limit(self) -> bool:
        """Whether invoices were left because the limit was reached."""
        return self._entrance.is_at_limit

    @property
    def stopped_merchants(self) -> tuple[StoppedMerchant, ...]:
        """The merchants that were stopped while others went on, in that order."""
        open_of = self._work.opened.check.open_of
        return tuple(
            StoppedMerchant(
                merchant_id=merchant_id,
                open=open_of.get(merchant_id, 0) - self._settled_of[merchant_id],
                why=why,
            )
            for merchant_id, why in self._stopped.items()
        )

    async def run(self, rows: AsyncIterator[ManifestRow]) -> None:
        """Have every row brought to its end, or to where a stop leaves it.

        Raises:
            LedgerFaultError: The ledger can't take rows any more.
            SafetyStopError: The job had to stop.
            Exception: A defect.
        """
        self._rows = rows
        await self._drive(self)
        await asyncio.gather(*self._gathering, return_exceptions=True)
        if not any(isinstance(failure, LedgerFaultError) for failure in self._failures):
            await self._write_what_is_unknown()
        if self._failures:
            raise min(self._failures, key=precedence)

    def pause(self) -> None:
        """Have shards taken back, and no more worked on until ``resume``."""
        if self._paused_since is None and not self.stopping.is_set():
            self._paused_since = monotonic()
            self.wishes.put_nowait(Wish.PAUSE)
            self._work.on_event(PauseStarted(cause=PauseCause.BY_HAND, wait_s=None))

    def resume(self) -> None:
        """End what ``pause`` has begun, if it has."""
        if self._paused_since is not None:
            lasted_s = monotonic() - self._paused_since
            self._paused_since = None
            self.wishes.put_nowait(Wish.RESUME)
            self._work.on_event(PauseEnded(cause=PauseCause.BY_HAND, lasted_s=lasted_s))

    def stop(self, why: str) -> None:
        """Have no new cancelation leave: shards that are out hand in what they have."""
        if not self.stopping.is_set():
            self.stopping.set()
            self._work.on_event(StopRequested(why=why))

    def abort(self, why: str) -> None:
        """Wait for no shard any more; what they have not handed in stays open."""
        self.stop(why)
        self.aborting.set()

    def fail(self, failure: Exception) -> None:
        """Stop for a failure that ``run`` raises at its end; at once if the ledger is what failed."""
        self._failures.append(failure)
        if isinstance(failure, LedgerFaultError):
            self.abort(cause_of(failure))
        else:
            self.stop(cause_of(failure))

    def stop_as_asked(self, why: str) -> None:
        """End the job because somebody asked for its end."""
        self._work.stop_as_asked(why)

    def tally(self, *, rows: int) -> Tally:
        """Count what became of the rows so far."""
        counts = self._counts
        in_hand = sum(len(out.invoices) for out in self._out.values()) + len(self._again)
        return Tally(
            rows=rows,
            results=dict(counts.results),
            settled_earlier=counts.settled_earlier,
            duplicates=counts.skips[SkipReason.DUPLICATE],
            excluded=counts.skips[SkipReason.EXCLUDED],
            open=counts.left_open + in_hand + rows - counts.rows_read - len(self._answered_earlier),
        )

    def vitals(self, *, to_settle: int, set_rate: float | None) -> Vitals:
        """Tell what is going on; what only workers know, such as requests in flight, is left at 0."""
        return Vitals(
            in_flight=0,
            allowed_rate=self._shares.rate,
            set_rate=set_rate,
            held_by=PauseCause.BY_HAND if self.is_paused else None,
            rows_left=to_settle - self._counts.results.total(),
            is_stopping=self.stopping.is_set(),
        )

    def score(self) -> Score:
        """Tell how far the job is."""
        outcomes: Counter[Outcome] = Counter()
        for reason, count in self._counts.results.items():
            outcomes[reason.outcome] += count
        return Score(
            to_settle=self._work.opened.check.to_settle,
            outcomes={outcome.value: outcomes[outcome] for outcome in Outcome},
            duration_s=round(monotonic() - self._began_at, 3),
        )

    # --- shards out -------------------------------------------------------------------------------

    async def next_shards(self, request: ShardRequest) -> Issue:
        """Give out the next shards: those that may be worked on at the same time, and those that lie ready.

        Asked again with the same offset, it gives the same: the answer may have been lost. While invoices
        are tried that ``--canary`` asks for it may give none, which is no end.

        If cancelled, the shards are gathered all the same, for whoever asks again.
        """
        task = asyncio.create_task(self._give_out(request))
        self._gathering.add(task)
        task.add_done_callback(self._gathering.discard)
        return await asyncio.shield(task)

    async def _give_out(self, request: ShardRequest) -> Issue:
        async with self._issuing:
            if request.rate is not None and request.rate != self._shares.rate:
                self._shares.set_rate(request.rate)
            given = [out.shard for number, out in sorted(self._out.items()) if number >= request.offset]
            if request.offset < self._next_number:
                return self._issue(given)
            # As many again lie ready, so that no worker waits for the coordinator between two shards.
            while len(self._out) < 2 * self._shares.window and not self.stopping.is_set():
                shard = await self._next_shard()
                if shard is None:
                    break
                given.append(shard)
            return self._issue(given)

    def _issue(self, shards: list[Shard]) -> Issue:
        is_more = self._rows is not None or self._again
        return Issue(
            shards=tuple(shards),
            is_end=self.stopping.is_set() or not is_more,
            window=self._shares.window,
            score=self.score(),
        )

    async def _next_shard(self) -> Shard | None:
        """Gather a shard's invoices; None if there are none for now."""
        invoices: list[_Open] = []
        share = self._shares.next()
        most = self._shard_size(share)
        while len(invoices) < most and not self.stopping.is_set():
            invoice = await self._next_invoice()
            if invoice is None:
                break
            invoices.append(invoice)
            if self._entrance.holds_back or _ends_shard(invoice, self._again):
                break
        if not invoices:
            return None
        is_of_many = any(invoice.case.row.merchant_id is not None for invoice in invoices)
        shard = Shard(
            protocol=PROTOCOL if is_of_many else FIRST_PROTOCOL,
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
        self._out[shard.number] = _Out(
            shard=shard,
            invoices={invoice.number: invoice for invoice in invoices},
            merchants=frozenset(invoice.case.row.merchant_id for invoice in invoices),
        )
        self._next_number += 1
        return shard

    def _shard_size(self, share: Share) -> int:
        """Return how many invoices the next shard has at most.

        A slow one has fewer, for its answers are not on disk before its end; and all have fewer towards the
        end of the job, so that they end together.
        """
        left = self._work.opened.check.open - self._counts.results.total()
        left -= sum(len(out.invoices) for out in self._out.values())
        sizes = [self._shard_rows, max(_LEAST_ROWS, left // self._shares.window)]
        if share.rate is not None:
            sizes.append(max(_LEAST_ROWS, int(share.rate * _LASTS_S)))
        return min(sizes)

    async def _next_invoice(self) -> _Open | None:
        """Return the next invoice that is to be asked about; None if there is none for now."""
        if self._again:
            return self._again.popleft()
        while self._rows is not None and not self._entrance.holds_back:
            try:
                row = await anext(self._rows, None)
            except Exception as exc:  # noqa: BLE001 - the run ends with it, see run
                self._rows = None
                self.fail(exc)
                return None
            if row is None:
                self._rows = None
                return None
            number = self._counts.rows_read
            self._counts.rows_read += 1
            if (invoice := await self._admit(number, row)) is not None:
                return invoice
        return None

    async def _admit(self, number: int, row: ManifestRow) -> _Open | None:
        """Take an invoice in hand, if its row and the gates let it through."""
        if number in self._answered_earlier:
            self._answered_earlier.remove(number)  # counted when its answer came
            return None
        if row.duplicate_of is None and row.standing is Standing.SETTLED:
            self._counts.settled_earlier += 1
            return None
        ending = unasked(row)
        if ending is not None:
            await self._end_unasked(ending)
            return None
        if row.merchant_id in self._stopped:
            self._counts.left_open += 1
            return None
        is_in_doubt = row.standing is Standing.TO_LOOK_UP or number in self._doubted_earlier
        case = Case(row=row, next=RequestKind.CANCEL, doubted_earlier=is_in_doubt)
        if await self._entrance.admit(case, stopping=self.stopping):
            return _Open(number=number, case=case)
        self._counts.left_open += 1
        if self._entrance.is_at_limit:
            self._rows = None
        return None

    async def _end_unasked(self, ending: Settled | Skip | LeftOpen) -> None:
        match ending:
            case Settled(result):
                await self._ledger.append(result)
                self._counts.results[result.reason] += 1
                self._hold_against(None, result)
            case Skip():
                await self._ledger.append(ending)
                self._counts.skips[ending.why] += 1
            case LeftOpen():
                self._counts.left_open += 1

    # --- answers in -------------------------------------------------------------------------------

    async def commit_part(self, number: int, report: ShardReport) -> Receipt:
        """Write the answers of a shard; returns once they are durable.

        Brought again, the same report writes nothing: whoever brings it may not have heard that it was
        written. Invoices without an answer are handed out again, unless the job is stopping.

        If cancelled, the rows are written all the same.
        """
        out = self._out.get(number)
        if out is None:
            return self._receipt(leaves_rest=bool(self._again))
        if out.committing is None:
            out.committing = asyncio.create_task(self._commit(out, report))
        return await asyncio.shield(out.committing)

    async def adopt(self, asks: Iterable[Ask]) -> None:
        """Get ready for the answers of an earlier coordinator's shards: this takes one pass over the rows.

        Args:
            asks: The invoices of its shards, out of the same manifests.
        """
        wanted = {ask.number: (ask.merchant_id, ask.invoice_id) for ask in asks}
        if not wanted:
            return
        last = max(wanted)
        number = 0
        async for row in self._work.read_rows():
            is_open = unasked(row) is None and row.standing is not Standing.SETTLED
            if is_open and wanted.get(number) == (row.merchant_id, row.invoice_id):
                self._adopted[number] = row
            number += 1
            if number > last:
                return

    async def commit_adopted(self, report: ShardReport) -> Receipt:
        """Write the answers of an earlier coordinator's shard; returns once they are durable.

        What that one has written already, or this one, is not written again. If cancelled, the rest of the
        rows is written when the report is brought again.
        """
        async with self._adopting:
            for answer in unpack_answers(report.answers):
                row = self._adopted.get(answer.number)
                if row is None:
                    continue
                if answer.reason is Reason.UNKNOWN and not self.stopping.is_set():
                    self._doubted_earlier.add(answer.number)
                    continue
                result = answer.result_for(row)
                await self._ledger.append(result)
                del self._adopted[answer.number]
                self._answered_earlier.add(answer.number)
                self._note(None, result)
            await self._ledger.flush()
        return Receipt(is_over=True, leaves_rest=False, score=self.score())

    async def _commit(self, out: _Out, report: ShardReport) -> Receipt:
        try:
            for answer in unpack_answers(report.answers):
                await self._take(out, answer)
            await self._ledger.flush()
        except LedgerFaultError as exc:
            self.fail(exc)
            raise
        except ClusterError as exc:  # none of them was taken: their invoices stay open
            self.fail(exc)
        for stop in self._stops_of_merchants(out, report):
            self._stop_merchant(stop)
        if report.stop is not None and not self._is_of_one_merchant(out, report.stop):
            self.fail(_failure_of(report))
        self._shares.learn(report.refused_at)
        del self._out[out.shard.number]
        self._again.extend(out.invoices.values())
        await self._leave_stopped()
        return self._receipt(leaves_rest=bool(self._again))

    async def _take(self, out: _Out, answer: Answer) -> None:
        invoice = out.invoices.get(answer.number)
        if invoice is None:
            return
        result = answer.result_for(invoice.case.row)
        if result.reason is Reason.UNKNOWN and not self.stopping.is_set() and not invoice.case.is_canary:
            # The shard was to end, and the reply had not come: there is time to look.
            invoice.case.doubted_earlier = True
            invoice.unknown = result
            return
        await self._ledger.append(result)
        del out.invoices[answer.number]
        self._note(invoice.case, result)

    def _note(self, case: Case | None, result: Result) -> None:
        """Count a row, and stop if the gates say so."""
        self._counts.results[result.reason] += 1
        self._settled_of[result.merchant_id or None] += 1
        self._hold_against(case, result)

    def _hold_against(self, case: Case | None, result: Result) -> None:
        if case is None:
            case = Case(
                row=ManifestRow(row=result.row, invoice_id=result.invoice_id), next=RequestKind.CANCEL
            )
        failure = self._entrance.note(case, result)
        if failure is not None and not self.stopping.is_set():
            self.fail(failure)

    def _receipt(self, *, leaves_rest: bool) -> Receipt:
        return Receipt(is_over=self.stopping.is_set(), leaves_rest=leaves_rest, score=self.score())

    # --- what is left -----------------------------------------------------------------------------

    def _is_of_one_merchant(self, out: _Out, stop: Stop) -> bool:
        """Tell whether a shard was stopped by what concerns its one merchant, while there are others.

        As long as canaries are tried it concerns everyone: they have to end well before others are touched.
        """
        is_own = stop.kind in _OF_A_MERCHANT and len(out.merchants) == 1
        return is_own and len(self._merchants) > 1 and not self._entrance.is_trying

    def _stops_of_merchants(self, out: _Out, report: ShardReport) -> Iterator[MerchantStop]:
        yield from report.stopped_merchants
        if report.stop is not None and self._is_of_one_merchant(out, report.stop):
            (merchant_id,) = out.merchants
            yield MerchantStop(merchant_id=merchant_id, why=report.stop.why)

    def _stop_merchant(self, stop: MerchantStop) -> None:
        """Hand out no more of a merchant's invoices."""
        if stop.merchant_id not in self._stopped:
            self._stopped[stop.merchant_id] = stop.why
            self._work.on_event(MerchantStopped(merchant_id=stop.merchant_id, why=stop.why))

    async def _leave_stopped(self) -> None:
        """Leave the invoices of merchants that were stopped."""
        if not self._stopped:
            return
        again = [*self._again]
        self._again.clear()
        for invoice in again:
            if invoice.case.row.merchant_id in self._stopped:
                await self._leave(invoice)
            else:
                self._again.append(invoice)

    async def _write_what_is_unknown(self) -> None:
        """Write that a cancelation may have been acted on, of invoices that nobody looks up any more."""
        left = [*self._again, *(one for out in self._out.values() for one in out.invoices.values())]
        self._again.clear()
        self._out.clear()
        for invoice in left:
            await self._leave(invoice)

    async def _leave(self, invoice: _Open) -> None:
        if invoice.unknown is None:
            self._counts.left_open += 1
        else:
            await self._ledger.append(invoice.unknown)
            self._note(invoice.case, invoice.unknown)


def _ends_shard(invoice: _Open, again: deque[_Open]) -> bool:
    """Tell whether a shard ends here: those that are tried first have one of their own."""
    return bool(again) and again[0].case.is_canary is not invoice.case.is_canary


def _failure_of(report: ShardReport) -> SafetyStopError:
    """Return the error that a worker met, as one of this process."""
    assert report.stop is not None  # noqa: S101 - asked for such reports only
    kind = _SAFETY_STOPS.get(report.stop.kind, ClusterError)
    return kind(f"{report.stop.why} (worker {report.worker})" if report.worker else report.stop.why)
