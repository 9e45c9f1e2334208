"""The job's side of many hosts: manifest to shards, answers to ledger. It stands where a fleet would.

It knows nothing of the engine: whoever drives it asks for shards, brings their reports, and hears of a stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from enum import StrEnum
from time import monotonic
from typing import Final

from batchcancel.cluster.adoption import Adoption
from batchcancel.cluster.books import Books
from batchcancel.cluster.dispatch import Dispatch
from batchcancel.cluster.intake import Intake
from batchcancel.cluster.messages import Account, Issue, Receipt, Score, ShardReport, ShardRequest
from batchcancel.cluster.packing import Ask
from batchcancel.cluster.pulses import Pulses
from batchcancel.cluster.shares import Shares
from batchcancel.errors import LedgerFaultError
from batchcancel.job.workforce import Work
from batchcancel.model import (
    ManifestRow,
    PauseCause,
    PauseEnded,
    PauseStarted,
    StoppedMerchant,
    StopRequested,
    Tally,
    Vitals,
)
from batchcancel.pipeline.pipeline import cause_of, precedence

_NO_WORKER_S: Final = 10.0
"""A worker that is there takes a shard at once."""


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
        self._work = work
        self._drive = drive
        options = work.settings.options
        self._shares = Shares(
            window,
            rate=work.settings.rate,
            merchant_rate=options.rate_per_merchant,
            concurrency=options.concurrency,
        )
        self._books = Books(work, self._shares, on_failure=self.fail)
        self._dispatch = Dispatch(
            work,
            self._books,
            self._shares,
            account=account,
            shard_rows=shard_rows,
            on_failure=self.fail,
        )
        self._intake = Intake(
            work, self._books, self._shares, on_failure=self.fail, on_unwritten=self.give_up
        )
        self._adoption = Adoption(work, self._books, self._shares, on_failure=self.give_up)
        self._failures: list[Exception] = []
        self._held_since: dict[PauseCause, float] = {}
        """What holds the whole job, and since when."""
        self._idle_since: float | None = None
        """Since when no worker has any of the shards that are out."""
        self.pulses = Pulses()
        """What workers say of the shards that are out; whoever drives it keeps it fresh."""
        self.wishes: asyncio.Queue[Wish] = asyncio.Queue()
        """What whoever drives it is to pass on, in that order."""
        self.stopping = self._books.stopping
        """Set once no shard is to go on."""
        self.aborting = asyncio.Event()
        """Set once nobody waits for a shard any more."""

    # --- a workforce ------------------------------------------------------------------------------

    @property
    def merchant_count(self) -> int:
        """How many merchants there are rows of."""
        return len(self._work.opened.check.merchants)

    @property
    def is_paused(self) -> bool:
        """Whether somebody has paused the job."""
        return PauseCause.BY_HAND in self._held_since

    @property
    def away_s(self) -> float:
        """For how long Temporal has not answered, as far as ``note_engine`` was told; 0 if it does."""
        since = self._held_since.get(PauseCause.ENGINE_AWAY)
        return 0.0 if since is None else monotonic() - since

    @property
    def is_at_limit(self) -> bool:
        """Whether invoices were left because the limit was reached."""
        return self._books.entrance.is_at_limit

    @property
    def stopped_merchants(self) -> tuple[StoppedMerchant, ...]:
        """The merchants that were stopped while others went on, in that order."""
        return self._books.stopped_merchants

    async def run(self, rows: AsyncIterator[ManifestRow]) -> None:
        """Have every row brought to its end, or to where a stop leaves it.

        Raises:
            LedgerFaultError: The ledger can't take rows any more.
            SafetyStopError: The job had to stop.
            Exception: A defect.
        """
        self._dispatch.begin(rows)
        try:
            await self._drive(self)
        except Exception as exc:  # noqa: BLE001 - raised below, once what is in hand is accounted for
            self.fail(exc)
        await self._dispatch.end()
        await self._intake.settle()
        await self._adoption.settle()
        if not any(isinstance(failure, LedgerFaultError) for failure in self._failures):
            await self._books.close()
        if self._failures:
            raise min(self._failures, key=precedence)

    def pause(self) -> None:
        """Have shards taken back, and no more worked on until ``resume``."""
        if not self.is_paused and not self.stopping.is_set():
            self.wishes.put_nowait(Wish.PAUSE)
            self.note_pause(is_paused=True)

    def resume(self) -> None:
        """End what ``pause`` has begun, if it has."""
        if self.is_paused:
            self.wishes.put_nowait(Wish.RESUME)
            self.note_pause(is_paused=False)

    def note_pause(self, *, is_paused: bool) -> None:
        """Take in that the job is paused or goes on, whoever asked for it."""
        self._note_hold(PauseCause.BY_HAND, holds=is_paused)

    def note_engine(self, is_away: bool) -> None:  # noqa: FBT001 - a callback
        """Take in that Temporal, through which workers are reached, does not answer, or does again."""
        self._note_hold(PauseCause.ENGINE_AWAY, holds=is_away)

    def note_workers(self, are_at_work: bool | None) -> None:  # noqa: FBT001 - a look's own answer
        """Take in whether any worker has a shard of those that are out; None if none is out."""
        if are_at_work is not False:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = monotonic()
        is_long = self._idle_since is not None and monotonic() >= self._idle_since + _NO_WORKER_S
        self._note_hold(PauseCause.NO_WORKER, holds=is_long)

    def _note_hold(self, cause: PauseCause, *, holds: bool) -> None:
        if holds and cause not in self._held_since:
            self._held_since[cause] = monotonic()
            self._work.on_event(PauseStarted(cause=cause, wait_s=None))
        elif not holds and cause in self._held_since:
            lasted_s = monotonic() - self._held_since.pop(cause)
            self._work.on_event(PauseEnded(cause=cause, lasted_s=lasted_s))

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

    def give_up(self, failure: Exception) -> None:
        """Stop at once for answers that can't be written: they stay in Temporal, for the next coordinator."""
        self.fail(failure)
        self.aborting.set()

    @property
    def has_failed(self) -> bool:
        """Whether it stops for a failure."""
        return bool(self._failures)

    def stop_as_asked(self, why: str) -> None:
        """End the job because somebody asked for its end."""
        self._work.stop_as_asked(why)

    def tally(self) -> Tally:
        """Count what became of the rows that were read so far."""
        return self._books.tally()

    def vitals(self, *, to_settle: int, set_rate: float | None) -> Vitals:  # noqa: ARG002 - of the protocol
        """Tell what is going on, as far as workers have said so; the rate may be another one by now."""
        return self.pulses.vitals(
            self.score(),
            window=self._shares.window,
            held_by=PauseCause.BY_HAND if self.is_paused else next(iter(self._held_since), None),
            is_stopping=self.stopping.is_set(),
        )

    def score(self) -> Score:
        """Tell how far the job is."""
        return self._books.score()

    # --- what whoever drives it asks and brings ---------------------------------------------------

    async def next_shards(self, request: ShardRequest) -> Issue:
        """Give out the next shards: those that may be worked on at the same time, and those that lie ready.

        Asked again with the same offset, it gives the same: the answer may have been lost. While invoices
        are tried that ``--canary`` asks for it may give none, which is no end.

        If cancelled, the shards are gathered all the same, for whoever asks again.
        """
        return await self._dispatch.next_shards(request)

    async def commit_part(self, number: int, report: ShardReport) -> Receipt:
        """Write the answers of a shard; returns once they are durable.

        Brought again, the same report writes nothing: whoever brings it may not have heard that it was
        written. Invoices without an answer are handed out again, unless the job is stopping.

        If cancelled, the rows are written all the same.
        """
        return await self._intake.commit_part(number, report)

    async def adopt(self, asks: Iterable[Ask]) -> None:
        """Get ready for the answers of an earlier coordinator's shards: this takes one pass over the rows.

        Args:
            asks: The invoices of its shards. Its manifests may have been other ones: an invoice that this
                run's do not name gets no row.
        """
        await self._adoption.begin(asks)

    async def settle_adopted(self) -> None:
        """Return once no answer of an earlier coordinator's shards is written any more."""
        await self._adoption.settle()

    async def commit_adopted(self, number: int, report: ShardReport) -> Receipt:
        """Write the answers of an earlier coordinator's shard; returns once they are durable.

        What that one has written already, or this one, is not written again. If cancelled, the rows are
        written all the same.

        Args:
            number: Of the shard, as that one has counted them.
            report: What it has.

        Raises:
            ClusterError: The answers can't be read.
            LedgerFaultError: The ledger can't take rows any more.
        """
        return await self._adoption.commit(number, report)
