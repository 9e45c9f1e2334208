"""Several merchants in one run: a pipeline for each, over one stream of rows.

What stops one merchant (its key refused, an outage of its own) stops its own rows only; everything
else, such as a threshold, a changed manifest or a signal, stops all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from batchcancel.errors import (
    CredentialsRefusedError,
    OutageTooLongError,
    RunStoppingError,
    SafetyStopError,
)
from batchcancel.model import (
    Event,
    ManifestRow,
    MerchantStopped,
    PauseCause,
    PauseEnded,
    PauseStarted,
    Reason,
    StoppedMerchant,
    Tally,
    Vitals,
)
from batchcancel.pace import Pace
from batchcancel.pipeline.crew import Crew
from batchcancel.pipeline.entrance import Entrance
from batchcancel.pipeline.pipeline import MAX_WAITING, Pipeline, cause_of, precedence

OpenLane = Callable[[str | None, Callable[[Exception], None]], "Lane"]
"""Builds a merchant's lane, whose pipeline tells of each failure at once."""

OF_A_MERCHANT: Final = (CredentialsRefusedError, OutageTooLongError)
"""What concerns one merchant where the rows of several are under way."""


@dataclass(slots=True, kw_only=True, eq=False)
class Lane:
    """One merchant's part of a run."""

    merchant_id: str | None
    """None for the run's own merchant."""
    pace: Pace
    pipeline: Pipeline
    to_ask: int
    """Invoices that are to be asked about, as the check counted them."""
    is_known: bool = False
    """Whether the service has taken its key before, so that no read has to come first."""
    rows: asyncio.Queue[ManifestRow | None] = field(default_factory=asyncio.Queue)
    """Rows that were read for it and not taken yet; None ends them."""
    is_over: bool = False
    stopped_by: SafetyStopError | None = None
    """What stopped this merchant alone."""

    def stop(self, why: str) -> None:
        """Let no new cancelation leave; its reader, if it waits for a row, is told that none comes."""
        self.pipeline.stop(why)
        self.rows.put_nowait(None)

    @property
    def left_open(self) -> int:
        """Invoices that were to be asked about and have no row of this run."""
        tally = self.pipeline.tally()
        return self.to_ask - (tally.done - tally.results.get(Reason.INVALID_ID, 0))


class Fleet:
    """The pipelines of a run, one a merchant; a run for one merchant has just one."""

    def __init__(
        self,
        merchants: Collection[str | None],
        *,
        open_lane: OpenLane,
        entrance: Entrance,
        on_event: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        """Prepare; nothing is read and nothing sent.

        Args:
            merchants: Whose rows there are, one or more; None is the run's own merchant.
            open_lane: Builds the lane of one, when its first row comes.
            entrance: What all pipelines share.
            on_event: Told of each merchant that was stopped alone; must not block.
        """
        self._merchants = merchants
        self._open_lane = open_lane
        self._entrance = entrance
        self._on_event = on_event
        self._lanes: dict[str | None, Lane] = {}
        self._room = asyncio.Semaphore(MAX_WAITING)
        self._crew = Crew(on_failure=self._take_failure)
        self._failures: list[Exception] = []
        self._stopped_for: str | None = None
        """Why everything stops; None as long as it does not."""
        self._clock = asyncio.get_running_loop().time
        self._paused_since: float | None = None
        """When ``pause`` was called, unless that is over."""

    @property
    def merchant_count(self) -> int:
        """How many merchants there are rows of."""
        return len(self._merchants)

    @property
    def is_at_limit(self) -> bool:
        """Whether invoices were left because the limit was reached."""
        return self._entrance.is_at_limit

    @property
    def stopped_merchants(self) -> tuple[StoppedMerchant, ...]:
        """The merchants that were stopped while others went on, in the order of the manifest."""
        return tuple(
            StoppedMerchant(merchant_id=lane.merchant_id, open=lane.left_open, why=str(lane.stopped_by))
            for lane in self._lanes.values()
            if lane.stopped_by is not None
        )

    def tally(self) -> Tally:
        """Count what became of the rows that were read so far."""
        parts = [lane.pipeline.tally() for lane in self._lanes.values()]
        results: Counter[Reason] = Counter()
        for part in parts:
            results.update(part.results)
        return Tally(
            rows=sum(part.rows for part in parts),
            results=dict(results),
            cancelable=sum(part.cancelable for part in parts),
            settled_earlier=sum(part.settled_earlier for part in parts),
            duplicates=sum(part.duplicates for part in parts),
            excluded=sum(part.excluded for part in parts),
            open=sum(part.open for part in parts),
        )

    def vitals(self, *, to_settle: int, set_rate: float | None) -> Vitals:
        """Tell what is going on at the moment, in microseconds.

        Args:
            to_settle: Invoices that the run is to give a row, as the check counted them.
            set_rate: The rate for all merchants together, which stands for theirs until one has begun;
                None for no limit.
        """
        every = tuple(self._lanes.values())
        lanes = [lane for lane in every if not lane.is_over] or every
        quotas = {lane.pace.quota for lane in lanes}
        holds = [lane.pace.held_by for lane in lanes]
        return Vitals(
            in_flight=sum(lane.pace.in_flight for lane in lanes),
            allowed_rate=_sum_rates((quota.allowed_rate for quota in quotas), most=set_rate),
            set_rate=_sum_rates((quota.set_rate for quota in quotas), most=set_rate),
            held_by=holds[0] if holds and None not in holds else None,
            rows_left=to_settle - sum(lane.pipeline.rows_written for lane in every),
            is_stopping=self._stopped_for is not None,
        )

    def pause(self) -> None:
        """Let nothing leave until ``resume``; what is in flight comes back.

        A fleet that is stopping, or paused already, is left as it is.
        """
        if self._paused_since is None and self._stopped_for is None:
            self._paused_since = self._clock()
            for lane in self._lanes.values():
                lane.pace.pause()
            self._on_event(PauseStarted(cause=PauseCause.BY_HAND, wait_s=None))

    def resume(self) -> None:
        """End what ``pause`` has begun, if it has."""
        if self._paused_since is not None:
            paused_s = self._clock() - self._paused_since
            for quota in {lane.pace.quota for lane in self._lanes.values()}:
                quota.note_pause(paused_s)
            for lane in self._lanes.values():
                lane.pace.resume()
            self._end_pause()

    def stop(self, why: str) -> None:
        """Let no new cancelation leave and drain what is in flight; see ``Pipeline.stop``.

        A pause is over by that, but who waits because of it goes home instead of asking.
        """
        self._end_pause()
        if self._stopped_for is None:
            self._stopped_for = why
            self._room.release()  # wakes the reader, which reads on no more
        for lane in self._lanes.values():
            lane.stop(why)

    def abort(self, why: str) -> None:
        """Stop without waiting for what is in flight; see ``Pipeline.abort``."""
        self.stop(why)
        for lane in self._lanes.values():
            lane.pipeline.abort(why)

    def fail(self, failure: Exception) -> None:
        """Stop for a failure that ``run`` raises at its end; at once if the ledger is what failed."""
        self._failures.append(failure)
        self.stop(cause_of(failure))
        for lane in self._lanes.values():
            lane.pipeline.fail(failure)

    async def run(self, rows: AsyncIterator[ManifestRow]) -> None:
        """Bring every row to its end, or to where a stop leaves it.

        Before the first row of a merchant with anything to ask, one signed read has to be taken, unless its
        key is known to be. If cancelled, every pipeline aborts and the cancellation is raised again.

        Raises:
            LedgerFaultError: The sink can't take rows any more.
            SafetyStopError: The run had to stop; what could be drained is drained. Not for what stopped
                one merchant of several: ``stopped_merchants`` tells of that.
            Exception: A defect; what could be drained is drained.
        """
        self._crew.spawn(self._feed(rows))
        try:
            await self._crew.wait()
        except asyncio.CancelledError:
            self._crew.cancel()
            await self._crew.settle()
            raise
        if self._failures:
            raise min(self._failures, key=precedence)

    # --- tasks ------------------------------------------------------------------------------------

    def _take_failure(self, failure: Exception) -> None:
        """Stop everyone for what a pipeline or the reader has raised at its end."""
        self._failures.append(failure)
        self.stop(cause_of(failure))

    async def _feed(self, rows: AsyncIterator[ManifestRow]) -> None:
        """Hand each row to its merchant's pipeline; when too many are ahead, wait."""
        if self._is_alone:
            await self._work(self._lane_of(next(iter(self._merchants))), rows)
            return
        try:
            async for row in rows:
                if self._stopped_for is not None or self.is_at_limit:
                    return
                await self._hand_over(self._lane_of(row.merchant_id), row)
        finally:
            for lane in self._lanes.values():
                lane.rows.put_nowait(None)

    async def _hand_over(self, lane: Lane, row: ManifestRow) -> None:
        if not lane.is_over:
            await self._room.acquire()
            if not lane.is_over:
                lane.rows.put_nowait(row)
                return
            self._room.release()
        lane.pipeline.pass_over(row)  # its merchant was stopped

    def _lane_of(self, merchant_id: str | None) -> Lane:
        lane = self._lanes.get(merchant_id)
        if lane is None:
            lane = self._open_lane(merchant_id, lambda failure: self._note_failure(merchant_id, failure))
            self._lanes[merchant_id] = lane
            if self._paused_since is not None:
                lane.pace.pause()
            if self._stopped_for is not None:
                lane.stop(self._stopped_for)
            if not self._is_alone:
                self._crew.spawn(self._work(lane, self._rows_of(lane)))
        return lane

    async def _work(self, lane: Lane, rows: AsyncIterator[ManifestRow]) -> None:
        """Run one merchant's pipeline to its end, or until what concerns this merchant alone."""
        try:
            if lane.to_ask and not lane.is_known:
                await lane.pace.greet()
            await lane.pipeline.run(rows)
        except RunStoppingError:
            pass
        except SafetyStopError as exc:
            if not self._contain(lane, exc):
                raise
        finally:
            lane.is_over = True
            while not lane.rows.empty():
                if (row := lane.rows.get_nowait()) is not None:
                    self._room.release()
                    lane.pipeline.pass_over(row)

    async def _rows_of(self, lane: Lane) -> AsyncIterator[ManifestRow]:
        while (row := await lane.rows.get()) is not None:
            self._room.release()
            yield row

    def _end_pause(self) -> None:
        if self._paused_since is not None:
            lasted_s = self._clock() - self._paused_since
            self._paused_since = None
            self._on_event(PauseEnded(cause=PauseCause.BY_HAND, lasted_s=lasted_s))

    # --- failures ---------------------------------------------------------------------------------

    @property
    def _is_alone(self) -> bool:
        return len(self._merchants) == 1

    def _note_failure(self, merchant_id: str | None, failure: Exception) -> None:
        """Stop everyone at once for what one pipeline has met, unless it is that merchant's own affair."""
        lane = self._lanes[merchant_id]
        if self._contain(lane, failure):
            lane.stop(cause_of(failure))
        else:
            self.stop(cause_of(failure))

    def _contain(self, lane: Lane, failure: Exception) -> bool:
        """Tell whether a failure is one merchant's own affair, and note it if it is.

        As long as canaries are tried it is everyone's: they have to end well before others are touched.
        """
        if lane.stopped_by is failure:
            return True
        if not isinstance(failure, OF_A_MERCHANT) or self._is_alone or self._entrance.is_trying:
            return False
        lane.stopped_by = failure
        self._on_event(MerchantStopped(merchant_id=lane.merchant_id, why=str(failure)))
        return True


def _sum_rates(rates: Iterable[float | None], *, most: float | None) -> float | None:
    """Add up the rates of quotas, which may have a limit together; None for no limit."""
    total = 0.0
    for rate in rates:
        if rate is None:
            return most
        total += rate
    if not total:
        return most  # nobody has begun
    return total if most is None else min(total, most)
