"""The fan-out: rows in, results out, bounded everywhere, with stop and drain.

As many workers as there may be requests in flight share one reader. A worker stays with its invoice
for as long as nothing has to be waited for; an invoice that waits moves to a task of its own, holds
no slot and delays nobody. The pipeline knows neither HTTP nor files.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Final, Protocol

from msgspec import UNSET

from batchcancel.errors import BatchCancelError, LedgerFaultError, SafetyStopError
from batchcancel.model import (
    Event,
    ManifestRow,
    Reason,
    Result,
    Skip,
    StopRequested,
    Tally,
    utc_text,
)
from batchcancel.pace import Pace
from batchcancel.retry import Case, LeftOpen, Retrier, Settled, Waiting

MAX_WAITING: Final = 10_000
"""Invoices that may wait for their next attempt; beyond that the reader waits."""
DRAIN_S: Final = 8.0
"""How long a stop lets requests in flight come back."""


_Ending = Settled | Skip | LeftOpen


class Sink(Protocol):
    """Where rows go; ``ledger.Ledger`` is the real one."""

    async def append(self, record: Result | Skip) -> None:
        """Take a row once there is room for it; if cancelled, it has not been taken."""
        ...


class Standing(Protocol):
    """What earlier runs found; ``ledger.History`` is the real one."""

    def is_settled(self, key: str) -> bool:
        """Tell whether an invoice, by ``ManifestRow.key``, has a final answer."""
        ...

    def needs_look_up(self, key: str) -> bool:
        """Tell whether the service may have acted on an invoice without an answer."""
        ...


class Pipeline:
    """One pass of a manifest's rows through the service into the ledger."""

    def __init__(
        self,
        *,
        retrier: Retrier,
        pace: Pace,
        sink: Sink,
        standing: Standing,
        concurrency: int,
        on_event: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        """Prepare; nothing is read and nothing sent."""
        self._retrier = retrier
        self._pace = pace
        self._sink = sink
        self._standing = standing
        self._concurrency = concurrency
        self._on_event = on_event
        self._reading = asyncio.Lock()
        self._room_to_wait = asyncio.Semaphore(MAX_WAITING)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop_requested = asyncio.Event()
        self._failures: list[Exception] = []
        self._exhausted = False
        self._rows_read = 0
        self._in_hand: dict[Case, _Ending | None] = {}
        self._results: Counter[Reason] = Counter()
        self._settled_earlier = 0
        self._duplicates = 0
        self._left_open = 0

    def unfinished(self) -> int:
        """Return how many invoices are in hand; more than can matter while rows are still unread."""
        return len(self._in_hand) + (0 if self._exhausted else MAX_WAITING)

    def tally(self, *, rows: int) -> Tally:
        """Count what became of the rows so far.

        Args:
            rows: Data rows of the manifest, as its check counted them; what was not read is open.
        """
        return Tally(
            rows=rows,
            results=dict(self._results),
            settled_earlier=self._settled_earlier,
            duplicates=self._duplicates,
            open=self._left_open + len(self._in_hand) + rows - self._rows_read,
        )

    def stop(self, why: str) -> None:
        """Let no new cancelation leave and drain what is in flight, for at most ``DRAIN_S``."""
        if not self._stop_requested.is_set():
            self._stop_requested.set()
            self._pace.stop()
            self._on_event(StopRequested(why=why))

    def abort(self, why: str) -> None:
        """Stop without waiting for what is in flight; what may have acted is written ``unknown``."""
        self.stop(why)
        for task in self._tasks:
            task.cancel()

    def fail(self, failure: Exception) -> None:
        """Stop for a failure that ``run`` raises at its end; at once if the ledger is what failed."""
        self._failures.append(failure)
        why = str(failure) if isinstance(failure, BatchCancelError) else type(failure).__name__
        if isinstance(failure, LedgerFaultError):
            self.abort(why)
        else:
            self.stop(why)

    async def run(self, rows: AsyncIterator[ManifestRow]) -> None:
        """Bring every row to its end, or to where a stop leaves it.

        Returns once every result is handed to the sink. If cancelled, aborts as ``abort`` does,
        waits for that, and raises the cancellation again.

        Raises:
            LedgerFaultError: The sink can't take rows any more.
            SafetyStopError: The run had to stop; what could be drained is drained.
            Exception: A defect; what could be drained is drained.
        """
        for _ in range(self._concurrency):
            self._spawn(self._work(rows))
        deadline = asyncio.create_task(self._enforce_drain())
        try:
            while self._tasks:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.abort("the run was cancelled")
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._close_rest()
            raise
        finally:
            deadline.cancel()
        if not any(isinstance(failure, LedgerFaultError) for failure in self._failures):
            await self._close_rest()
        if self._failures:
            raise min(self._failures, key=_precedence)

    # --- tasks --------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(failure := task.exception(), Exception):
            self.fail(failure)

    async def _enforce_drain(self) -> None:
        await self._stop_requested.wait()
        await asyncio.sleep(DRAIN_S)
        self.abort("the time to drain is over")

    async def _work(self, rows: AsyncIterator[ManifestRow]) -> None:
        while (row := await self._next_row(rows)) is not None:
            if row.duplicate_of is None and self._standing.is_settled(row.key):
                self._settled_earlier += 1
                continue
            case = self._retrier.open_case(row, look_up_first=self._standing.needs_look_up(row.key))
            self._in_hand[case] = None
            if row.duplicate_of is not None:
                await self._close(case, _skip(row, row.duplicate_of))
            elif not row.valid:
                await self._close(case, Settled(_invalid(row)))
            else:
                await self._cancel_invoice(case)

    async def _next_row(self, rows: AsyncIterator[ManifestRow]) -> ManifestRow | None:
        async with self._reading:
            if self._exhausted or self._pace.is_stopping:
                return None
            row = await anext(rows, None)
            self._exhausted = row is None
            self._rows_read += row is not None
            return row

    async def _cancel_invoice(self, case: Case) -> None:
        step = await self._retrier.advance(case)
        if isinstance(step, Waiting):
            await self._room_to_wait.acquire()
            self._spawn(self._outwait(case, step))
        else:
            await self._close(case, step)

    async def _outwait(self, case: Case, waiting: Waiting) -> None:
        try:
            await self._close(case, await self._retrier.persist(case, waiting))
        finally:
            self._room_to_wait.release()

    # --- endings ------------------------------------------------------------------------------

    async def _close(self, case: Case, ending: _Ending) -> None:
        """Hand an invoice's ending to the sink; until that is done the invoice stays in hand."""
        self._in_hand[case] = ending
        match ending:
            case Settled(result):
                await self._sink.append(result)
                self._results[result.reason] += 1
            case Skip():
                await self._sink.append(ending)
                self._duplicates += 1
            case LeftOpen():
                self._left_open += 1
        del self._in_hand[case]

    async def _close_rest(self) -> None:
        """Give every invoice that a stop caught in hand the ending that is known of it."""
        for case, ending in list(self._in_hand.items()):
            await self._close(case, ending or self._retrier.abandon(case))


def _precedence(failure: Exception) -> int:
    """Order failures as their exit codes take precedence: ledger, defect, safety stop."""
    if isinstance(failure, LedgerFaultError):
        return 0
    return 2 if isinstance(failure, SafetyStopError) else 1


def _invalid(row: ManifestRow) -> Result:
    return Result(
        row=row.row,
        file=row.file or UNSET,
        invoice_id=row.invoice_id,
        outcome=Reason.INVALID_ID.outcome,
        reason=Reason.INVALID_ID,
        resolved_by=None,
        at=utc_text(),
        keep=row.keep or UNSET,
    )


def _skip(row: ManifestRow, of_row: int) -> Skip:
    return Skip(
        row=row.row,
        file=row.file or UNSET,
        invoice_id=row.invoice_id,
        why="duplicate",
        of_row=of_row,
        of_file=row.duplicate_of_file or UNSET,
    )
