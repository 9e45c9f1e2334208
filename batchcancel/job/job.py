"""One run over some manifests, from opening everything to its summary."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import datetime
from time import time
from types import TracebackType
from typing import Final, Self

from batchcancel.api import Client, ServiceClock
from batchcancel.errors import (
    ConservationError,
    LedgerFaultError,
    LedgerMismatchError,
    LedgerWriteError,
    RunStoppingError,
    SafetyStopError,
)
from batchcancel.job.account import Account, count
from batchcancel.job.connect import base_url_of, build_client, credentials_of
from batchcancel.ledger import Ledger, RunRecord
from batchcancel.manifest import Check, Format, Manifest, ManifestOptions, open_manifest
from batchcancel.model import (
    Event,
    GroupCommitted,
    Result,
    RunState,
    RunSummary,
    Tally,
)
from batchcancel.pace import Pace
from batchcancel.pipeline import Pipeline
from batchcancel.retry import Retrier
from batchcancel.settings import Settings

_MOST_REPEATED: Final = 512
"""Most POSTs that a run after a kill may repeat: requests in flight and rows not on disk yet."""
_CLOCK_DOUBT_S: Final = 2.0
"""How far a reading of the service's clock may be off: its ``Date`` header counts whole seconds."""
_GROUPS_AHEAD: Final = 4
"""Groups of results that wait for the caller of ``results`` before the run waits."""


class Job:
    """One run over the manifests of its settings: an async context manager.

    Entering opens and locks the ledger and checks the manifests; ``check`` then tells what is there,
    and nothing has been sent. Then either iterate ``results`` or await ``run``, once. Leaving closes
    everything; a run that is still going on is stopped and drained first.
    """

    def __init__(
        self, settings: Settings, *, on_event: Callable[[Event], None] = lambda _event: None
    ) -> None:
        """Prepare; nothing is opened.

        Args:
            settings: What to do, from ``load_settings``.
            on_event: Told of requests, retries, pauses and committed rows; must not block or raise.
        """
        self.settings = settings
        self.check: Check
        self._on_event = on_event
        self._resources = AsyncExitStack()
        self._ledger: Ledger
        self._manifest: Manifest
        self._base_url: str
        self._clock = ServiceClock(time)
        self._client: Client
        self._pace: Pace | None = None
        self._pipeline: Pipeline | None = None
        self._stopped: str | None = None
        self._summary: RunSummary | None = None
        self._account: Account
        self._deliver: asyncio.Queue[tuple[Result, ...] | None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Open and check everything; send nothing.

        Raises:
            UsageError: A manifest can't be read, or the ledger is another environment's or merchant's.
            LedgerInUseError: Another run holds the ledger.
            LedgerFaultError: The ledger can't be opened, or is damaged.
        """
        try:
            await self._open()
        except BaseException:
            await self._resources.aclose()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave_results()
        await self._resources.aclose()

    @property
    def merchant_id(self) -> str:
        """The merchant whose invoices are canceled."""
        return credentials_of(self.settings).merchant_id

    @property
    def torn_bytes(self) -> int:
        """Bytes of an unfinished last write; a run cuts them off and keeps them in ``LEDGER.torn``."""
        tail = self._ledger.history.tail
        return 0 if tail is None else tail.size_bytes

    @property
    def has_rows(self) -> bool:
        """Whether the manifests have any data row; without one, a run does nothing at all."""
        return self.check.rows > 0

    @property
    def summary(self) -> RunSummary:
        """The run at its end."""
        if self._summary is None:
            raise RuntimeError("the run has not ended yet")
        return self._summary

    def stop(self, why: str) -> None:
        """Let no new cancelation leave and drain what is in flight, 8 seconds at most.

        A second call aborts: what is in flight is not waited for and is written as ``unknown``.

        Args:
            why: For the ledger's ``end`` row, such as the name of a signal.
        """
        first, self._stopped = self._stopped is None, self._stopped or why
        if self._pipeline is not None:
            self._pipeline.stop(why) if first else self._pipeline.abort(why)
        elif self._pace is not None:
            self._pace.stop()

    async def results(self) -> AsyncIterator[Result]:
        """Run, and yield every result once it is on disk, in the order of the ledger.

        A slow caller slows the run down. Leaving the loop early stops the run as ``stop`` does.
        ``summary`` is there after the last result.

        Raises:
            BatchCancelError: As ``run`` does.
        """
        self._deliver = asyncio.Queue(maxsize=_GROUPS_AHEAD)
        self._running = asyncio.create_task(self._run_and_deliver(self._deliver))
        try:
            while (group := await self._deliver.get()) is not None:
                for result in group:
                    yield result
            await self._running
        finally:
            await self._leave_results()

    async def run(self) -> RunSummary:
        """Cancel every invoice of the manifests that has no answer yet.

        Returns once every row is on disk and the ledger ends with this run's ``end`` row. A safety
        stop is no exception here: the summary's state is ``stopped`` and says why.

        If cancelled, what is in flight is abandoned, written as ``unknown`` where the service may have
        acted, the ledger is ended, and the cancellation is raised again.

        Raises:
            LedgerWriteError: The ledger can't be written any more; what is on disk is true.
            ConservationError: The rows do not add up: a defect.
        """
        self._account = Account(self.settings, merchant_id=self.merchant_id)
        if not self.has_rows:
            self._summary = self._account.close(None, RunState.COMPLETE, None, Tally())
            return self._summary
        record = self._account.open(self.check, base_url=self._base_url)
        await self._ledger.begin(record, on_commit=self._note_commit, on_failure=self._note_ledger_failure)
        try:
            state, why = await self._work(record)
        except LedgerFaultError:
            raise  # there is nothing left to write an end to
        except asyncio.CancelledError:
            await self._end(RunState.INTERRUPTED, None)
            raise
        except Exception:
            # Swallows nothing: whatever the defect is, the ledger is closed first, then it comes out.
            await self._end(RunState.STOPPED, "a defect in the program")
            raise
        tally = self._tally()
        if not tally.is_conserved:
            await self._end(RunState.STOPPED, "a defect in the program")
            raise ConservationError(f"The rows do not add up, which is a defect: {tally}.")
        await self._end(state, why)
        self._summary = self._account.close(record.run_id, state, why, tally)
        return self._summary

    async def _end(self, state: RunState, why: str | None) -> None:
        """Write every row that waits, then the ``end`` row."""
        why = why if state is RunState.STOPPED else None
        await self._ledger.end(state=state, counts=count(self._tally()), why=why)

    def _tally(self) -> Tally:
        rows = self.check.rows
        return self._pipeline.tally(rows=rows) if self._pipeline else Tally(rows=rows, open=rows)

    # --- opening ------------------------------------------------------------------------------

    async def _open(self) -> None:
        settings, options = self.settings, self.settings.options
        self._base_url = await base_url_of(settings, self._resources)
        self._client = build_client(settings, self._base_url, self._clock, self._on_event)
        self._ledger = await self._resources.enter_async_context(
            await Ledger.open(settings.ledger, max_pending=_MOST_REPEATED - options.concurrency)
        )
        self._check_identity()
        self._manifest = await self._resources.enter_async_context(
            open_manifest(
                settings.manifests,
                options=ManifestOptions(
                    column=options.column,
                    format=Format(options.format) if options.format else None,
                    encoding=options.encoding,
                    keep=options.keep,
                ),
                spool_dir=settings.ledger.parent,
            )
        )
        self.check = await self._manifest.check(is_settled=self._ledger.history.is_settled)

    def _check_identity(self) -> None:
        """Refuse a ledger of another environment or merchant: ids mean something else there."""
        history, settings = self._ledger.history, self.settings
        if history.env is not None and history.env != settings.environment:
            raise LedgerMismatchError(
                f"{settings.ledger} belongs to {history.env}, and this run is for {settings.environment}. "
                "Name another ledger with --ledger."
            )
        if history.merchant_id is not None and history.merchant_id != self.merchant_id:
            raise LedgerMismatchError(
                f"{settings.ledger} belongs to another merchant than this run's. "
                "Name another ledger with --ledger."
            )

    # --- running ------------------------------------------------------------------------------

    async def _work(self, record: RunRecord) -> tuple[RunState, str | None]:
        """Send what is to be sent; a safety stop and an interruption are ways to end."""
        options = self.settings.options
        try:
            async with self._client:
                self._pace = pace = Pace(
                    self._client.send,
                    concurrency=options.concurrency,
                    rate=self.settings.rate,
                    max_outage_s=options.max_outage,
                    on_event=self._on_event,
                )
                self._client.before_repeat = pace.take_turn
                if self._stopped is not None:
                    pace.stop()
                if self.check.open:
                    await pace.greet()
                first_run = self._ledger.history.first_started_at or record.started_at
                self._pipeline = Pipeline(
                    retrier=Retrier(
                        pace,
                        max_attempts=options.max_attempts,
                        ledger_began_at=_seconds(first_run) + self._clock.offset_s - _CLOCK_DOUBT_S,
                        on_event=self._on_event,
                    ),
                    pace=pace,
                    sink=self._ledger,
                    standing=self._ledger.history,
                    concurrency=options.concurrency,
                    on_event=self._on_event,
                )
                pace.unfinished = self._pipeline.unfinished
                await self._pipeline.run(self._manifest.rows())
        except SafetyStopError as exc:
            return RunState.STOPPED, str(exc)
        except RunStoppingError:
            pass
        if self._stopped is not None:
            return RunState.INTERRUPTED, self._stopped
        return RunState.COMPLETE, None

    async def _note_commit(self, group: GroupCommitted) -> None:
        for result in group.results:
            self._account.note(result)
        self._on_event(group)
        if self._deliver is not None and group.results:
            await self._deliver.put(group.results)

    def _note_ledger_failure(self, failure: LedgerWriteError) -> None:
        if self._pipeline is not None:
            self._pipeline.fail(failure)

    # --- results ------------------------------------------------------------------------------

    async def _run_and_deliver(self, queue: asyncio.Queue[tuple[Result, ...] | None]) -> None:
        try:
            await self.run()
        finally:
            await queue.put(None)

    async def _leave_results(self) -> None:
        """End a run whose caller has left the loop.

        The generator's own end and the job's may come here at the same time; one of them does the work.
        """
        if self._running is None or self._running.done():
            return
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._let_go(self._running))
        await asyncio.shield(self._leaving)

    async def _let_go(self, running: asyncio.Task[None]) -> None:
        """Stop, and take what is still delivered so that nothing waits for room."""
        self.stop("the caller left")
        assert self._deliver is not None  # noqa: S101 - it is there as long as the run is
        while not running.done():
            taking = asyncio.create_task(self._deliver.get())
            await asyncio.wait({taking, running}, return_when=asyncio.FIRST_COMPLETED)
            taking.cancel()
        await running


def _seconds(utc: str) -> float:
    return datetime.fromisoformat(utc).timestamp()
