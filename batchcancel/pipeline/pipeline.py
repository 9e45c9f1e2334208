"""The fan-out: rows in, results out, bounded everywhere, with stop and drain.

As many workers as there may be requests in flight share one reader. A worker stays with its invoice
for as long as nothing has to be waited for; an invoice that waits moves to a task of its own, holds
no slot and delays nobody. The pipeline knows neither HTTP nor files.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

from batchcancel.errors import BatchCancelError, LedgerFaultError, RunStoppingError, SafetyStopError
from batchcancel.model import (
    Event,
    ManifestRow,
    Reason,
    Result,
    Sighting,
    Skip,
    SkipReason,
    Standing,
    StopRequested,
    Tally,
)
from batchcancel.pace import Pace
from batchcancel.pipeline.crew import Crew
from batchcancel.pipeline.entrance import Entrance
from batchcancel.pipeline.exposure import Exposure, Turnstile
from batchcancel.pipeline.unasked import unasked
from batchcancel.retry import Case, LeftOpen, Retrier, Seen, Settled, Step, Waiting

MAX_WAITING: Final = 10_000
"""Invoices that may wait for their next attempt; beyond that the reader waits."""
DRAIN_S: Final = 8.0
"""How long a stop lets requests in flight come back."""


_Ending = Settled | Seen | Skip | LeftOpen


class Sink(Protocol):
    """Where rows go; ``ledger.Ledger`` is the real one."""

    async def append(self, record: Result | Skip) -> None:
        """Take a row once there is room for it; if cancelled, it has not been taken."""
        ...


class Witness(Protocol):
    """Where sightings go, where nothing but looking is asked for."""

    async def see(self, sighting: Sighting) -> None:
        """Take what was seen of one invoice."""
        ...


class Onlooker(Sink, Witness, Protocol):
    """Where everything goes, where nothing but looking is asked for."""


class Pipeline:
    """One pass of a merchant's rows through the service into the ledger."""

    def __init__(  # noqa: PLR0913 (keyword-only, and each one is a part of its own)
        self,
        *,
        retrier: Retrier,
        pace: Pace,
        sink: Sink,
        workers: int,
        exposure: Exposure | Turnstile,
        entrance: Entrance,
        witness: Witness | None = None,
        on_failure: Callable[[Exception], None] = lambda _failure: None,
        on_event: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        """Prepare; nothing is read and nothing sent.

        Args:
            retrier: Brings one invoice to its end.
            pace: What the retrier sends through; told to stop.
            sink: Takes the rows.
            workers: Invoices that may be on their way at the same time, those that wait not counted.
            exposure: How many may be with the service; a turnstile where other pipelines share it.
            entrance: What has to hold while invoices are asked about; other pipelines may share it.
            witness: Takes what is seen; needed where the retrier only looks.
            on_failure: Told of each failure at once, while what is in flight is still drained.
            on_event: Told of a stop; must not block.
        """
        self._retrier = retrier
        self._pace = pace
        self._sink = sink
        self._workers = workers
        self._exposure = exposure
        self._entrance = entrance
        self._witness = witness
        self._on_failure = on_failure
        self._on_event = on_event
        self._clock = asyncio.get_running_loop().time
        self._is_reading = False
        self._row_read: asyncio.Future[None] | None = None
        """Done once the row is there that somebody is reading; None if nobody else waits for it."""
        self._room_to_wait = asyncio.Semaphore(MAX_WAITING)
        self._crew = Crew(on_failure=self.fail)
        self._stop_requested = asyncio.Event()
        self._failures: list[Exception] = []
        self._exhausted = False
        self.rows_read = 0
        """Rows that were taken in hand, in whatever way they ended."""
        self._in_hand: dict[Case, _Ending | None] = {}
        self._results: Counter[Reason] = Counter()
        self._cancelable = 0
        self._settled_earlier = 0
        self._skips: Counter[SkipReason] = Counter()
        self._left_open = 0

    def unfinished(self) -> int:
        """Return how many invoices are in hand; more than can matter while rows are still unread."""
        more_to_come = not self._exhausted and not self._entrance.holds_back
        return len(self._in_hand) + (MAX_WAITING if more_to_come else 0)

    @property
    def rows_written(self) -> int:
        """Results that the sink has taken."""
        return self._results.total() + self._cancelable

    def tally(self) -> Tally:
        """Count what became of the rows that were read so far."""
        return Tally(
            rows=self.rows_read,
            results=dict(self._results),
            cancelable=self._cancelable,
            settled_earlier=self._settled_earlier,
            duplicates=self._skips[SkipReason.DUPLICATE],
            excluded=self._skips[SkipReason.EXCLUDED],
            open=self._left_open + len(self._in_hand),
        )

    def pass_over(self, row: ManifestRow) -> None:
        """Count a row that nobody is asked about any more: it has its answer already, or stays open."""
        self.rows_read += 1
        if row.duplicate_of is None and row.standing is Standing.SETTLED:
            self._settled_earlier += 1
        else:
            self._left_open += 1

    def stop(self, why: str) -> None:
        """Let no new cancelation leave and drain what is in flight, for at most ``DRAIN_S``."""
        if not self._stop_requested.is_set():
            self._stop_requested.set()
            self._pace.stop()
            self._on_event(StopRequested(why=why))

    def abort(self, why: str) -> None:
        """Stop without waiting for what is in flight; what may have acted is written ``unknown``."""
        self.stop(why)
        self._crew.cancel()

    def fail(self, failure: Exception) -> None:
        """Stop for a failure that ``run`` raises at its end; at once if the ledger is what failed."""
        self._failures.append(failure)
        self._on_failure(failure)
        if isinstance(failure, LedgerFaultError):
            self.abort(cause_of(failure))
        else:
            self.stop(cause_of(failure))

    async def run(self, rows: AsyncIterator[ManifestRow]) -> None:
        """Bring every row to its end, or to where a stop leaves it.

        Returns once every result is handed to the sink. If cancelled, aborts as ``abort`` does,
        waits for that, and raises the cancellation again.

        Raises:
            LedgerFaultError: The sink can't take rows any more.
            SafetyStopError: The run had to stop; what could be drained is drained.
            Exception: A defect; what could be drained is drained.
        """
        for _ in range(self._workers):
            self._crew.spawn(self._work(rows))
        deadline = asyncio.create_task(self._enforce_drain())
        try:
            await self._crew.wait()
        except asyncio.CancelledError:
            self.abort("the run was cancelled")
            await self._crew.settle()
            await self._close_rest()
            raise
        finally:
            deadline.cancel()
        if not any(isinstance(failure, LedgerFaultError) for failure in self._failures):
            await self._close_rest()
        if self._failures:
            raise min(self._failures, key=precedence)

    # --- tasks --------------------------------------------------------------------------------

    async def _enforce_drain(self) -> None:
        await self._stop_requested.wait()
        await asyncio.sleep(DRAIN_S)
        self.abort("the time to drain is over")

    async def _work(self, rows: AsyncIterator[ManifestRow]) -> None:
        while (case := await self._next_case(rows)) is not None:
            await self._cancel_invoice(case)

    async def _next_case(self, rows: AsyncIterator[ManifestRow]) -> Case | None:
        """Read on to the next invoice that is to be asked about, and end the rows before it."""
        while not (self._exhausted or self._pace.is_stopping):
            if self._is_reading:
                await self._wait_for_row()
                continue
            row = await self._read(rows)
            if row is not None and (case := await self._admit(row)) is not None:
                return case
        return None

    async def _read(self, rows: AsyncIterator[ManifestRow]) -> ManifestRow | None:
        """Read a row; None at the end.

        Most rows are there already. A lock would hand each to the next worker in the queue, one turn of the
        event loop for every row; here whoever is running takes one.
        """
        self._is_reading = True
        try:
            row = await anext(rows, None)
        finally:
            self._is_reading = False
            if self._row_read is not None:
                self._row_read.set_result(None)
                self._row_read = None
        if row is None:
            self._exhausted = True
        else:
            self.rows_read += 1
        return row

    async def _wait_for_row(self) -> None:
        if self._row_read is None:
            self._row_read = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._row_read)  # many wait for it, and one that is cancelled must not end it

    async def _admit(self, row: ManifestRow) -> Case | None:
        """Take an invoice in hand, if its row and the gates let it through."""
        if row.duplicate_of is None and row.standing is Standing.SETTLED:
            self._settled_earlier += 1
            return None
        case = self._retrier.open_case(row, is_in_doubt=row.standing is Standing.TO_LOOK_UP)
        self._in_hand[case] = None
        ending = unasked(row)
        if ending is None:
            if await self._entrance.admit(case, stopping=self._stop_requested):
                return case
            self._exhausted |= self._entrance.is_at_limit
            ending = LeftOpen()
        await self._close(case, ending)
        return None

    async def _cancel_invoice(self, case: Case) -> None:
        step = await self._ask(case)
        if isinstance(step, Waiting):
            await self._room_to_wait.acquire()
            self._crew.spawn(self._outwait(case, step))
        else:
            await self._close(case, step)

    async def _ask(self, case: Case) -> Step:
        """Ask about an invoice until it is settled or has to wait, within what a kill may cost."""
        while True:
            if not self._pace.is_open:
                try:
                    await self._pace.wait_open()  # without a place, which another merchant may use meanwhile
                except RunStoppingError:
                    return self._retrier.abandon(case)
            came_at = self._clock()
            await self._exposure.enter(case)
            case.held_up_s += self._clock() - came_at
            if self._pace.is_open:
                break
            await self._exposure.park(case)  # a pause has begun meanwhile
        try:
            step = await self._retrier.advance(case, on_departure=self._exposure.note_departure)
            if isinstance(step, Waiting):
                await self._exposure.park(case)
        except BaseException:
            self._exposure.leave(case)
            raise
        return step

    async def _outwait(self, case: Case, waiting: Waiting) -> None:
        try:
            await self._close(case, await self._retrier.persist(case, waiting, ask=self._ask))
        finally:
            self._room_to_wait.release()

    # --- endings ------------------------------------------------------------------------------

    async def _close(self, case: Case, ending: _Ending) -> None:
        """Hand an invoice's ending to the sink; until that is done the invoice stays in hand."""
        self._in_hand[case] = ending
        if isinstance(ending, Settled):  # as nearly all are
            await self._sink.append(ending.result)
            self._note(case, ending.result)
        elif isinstance(ending, Seen):
            assert self._witness is not None  # noqa: S101 - who looks only has one
            await self._witness.see(ending.sighting)
            self._note_sighting(ending.sighting)
        elif isinstance(ending, Skip):
            await self._sink.append(ending)
            self._skips[ending.why] += 1
        else:
            self._left_open += 1
        del self._in_hand[case]
        self._exposure.leave(case)

    def _note(self, case: Case, result: Result) -> None:
        """Count a row, and stop if the gates say so."""
        self._results[result.reason] += 1
        failure = self._entrance.note(case, result)
        if failure is not None and not self._stop_requested.is_set():
            self.fail(failure)

    def _note_sighting(self, sighting: Sighting) -> None:
        if sighting.reason is None:
            self._cancelable += 1
        else:
            self._results[sighting.reason] += 1

    async def _close_rest(self) -> None:
        """Give every invoice that a stop caught in hand the ending that is known of it."""
        for case, ending in list(self._in_hand.items()):
            await self._close(case, ending or self._retrier.abandon(case))


def cause_of(failure: Exception) -> str:
    """Say why a failure stops a run; a defect's own words may hold what no log may."""
    return str(failure) if isinstance(failure, BatchCancelError) else type(failure).__name__


def precedence(failure: Exception) -> int:
    """Order failures as their exit codes take precedence: ledger, defect, safety stop."""
    if isinstance(failure, LedgerFaultError):
        return 0
    return 2 if isinstance(failure, SafetyStopError) else 1
