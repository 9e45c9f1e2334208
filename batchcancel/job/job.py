"""One run over some manifests, from opening everything to its summary."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from time import time
from types import TracebackType
from typing import Final, Self

from msgspec.structs import replace

from batchcancel.api import Client, Expiry, ServiceClock
from batchcancel.errors import (
    ConservationError,
    LedgerFaultError,
    LedgerWriteError,
    SafetyStopError,
)
from batchcancel.job.account import COMPLETE, Account, Ending, count
from batchcancel.job.connect import base_url_of, build_client
from batchcancel.job.keys import Keys, load_keys
from batchcancel.job.lanes import build_fleet
from batchcancel.job.opening import Opened, open_all
from batchcancel.ledger import RunRecord
from batchcancel.manifest import Check
from batchcancel.model import (
    Event,
    GroupCommitted,
    PauseCause,
    Reason,
    Result,
    RunState,
    RunSummary,
    StoppedMerchant,
    Tally,
    Vitals,
)
from batchcancel.pipeline import Fleet
from batchcancel.settings import Settings

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
        self._on_event = on_event
        self._resources = AsyncExitStack()
        self._opened: Opened
        self._keys: Keys
        self._base_url: str
        self._clock = ServiceClock(time)
        self._client: Client
        self._fleet: Fleet | None = None
        self._is_paused = False
        """Whether it is paused by hand, or is to begin so."""
        self._stopped: Ending | None = None
        self._summary: RunSummary | None = None
        self._account: Account
        self._deliver: asyncio.Queue[tuple[Result, ...] | None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Open and check everything; send nothing.

        Raises:
            UsageError: A file of keys or a manifest can't be read or is not what was expected, or the
                ledger is another environment's or merchant's.
            LedgerInUseError: Another run holds the ledger.
            LedgerFaultError: The ledger can't be opened, is damaged, or has no room.
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
        return self._keys.identity.merchant_id

    @property
    def expiries(self) -> tuple[Expiry, ...]:
        """Until when each certificate is valid that the run signs or encrypts with."""
        return self._keys.expiries

    @property
    def check(self) -> Check:
        """What the check of the manifests found."""
        return self._opened.check

    @property
    def torn_bytes(self) -> int:
        """Bytes of an unfinished last write; a run cuts them off and keeps them in ``LEDGER.torn``."""
        tail = self._opened.ledger.history.tail
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

    def vitals(self) -> Vitals:
        """Tell what the run is doing at the moment; costs microseconds a merchant, whatever the run's size.

        May be asked at any time once everything is open, before the run and after it too.
        """
        to_settle, set_rate = self.check.to_settle, self.settings.rate
        if self._fleet is not None:
            vitals = self._fleet.vitals(to_settle=to_settle, set_rate=set_rate)
            return replace(vitals, amounts_canceled=self._account.amounts_canceled)
        return Vitals(
            in_flight=0,
            allowed_rate=set_rate,
            set_rate=set_rate,
            held_by=PauseCause.BY_HAND if self._is_paused else None,
            rows_left=to_settle,
            is_stopping=self._stopped is not None,
        )

    def pause(self) -> None:
        """Let nothing leave until ``resume``, whatever its kind; what is in flight comes back.

        Before the run it begins paused; a run that is stopping, or paused already, is left as it is. Time
        paused counts against no invoice's time and no outage, but against ``--max-duration``. A stop ends
        a paused run at once.
        """
        self._is_paused = True
        if self._fleet is not None:
            self._fleet.pause()

    def resume(self) -> None:
        """Let requests leave again; a run that is not paused is left as it is."""
        self._is_paused = False
        if self._fleet is not None:
            self._fleet.resume()

    def stop(self, why: str) -> None:
        """Let no new cancelation leave and drain what is in flight, 8 seconds at most.

        A second call aborts: what is in flight is not waited for and is written as ``unknown``.

        Args:
            why: What interrupts the run, such as the name of a signal.
        """
        is_first = self._stopped is None or self._stopped.as_asked
        self._stop(Ending(state=RunState.INTERRUPTED, why=why))
        if not is_first and self._fleet is not None:
            self._fleet.abort(why)

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
            self._summary = self._account.close(None, COMPLETE, Tally())
            return self._summary
        record = self._account.open(self.check, base_url=self._base_url)
        await self._opened.ledger.begin(
            record, on_commit=self._note_commit, on_failure=self._note_ledger_failure
        )
        try:
            ending = await self._work(record)
        except LedgerFaultError:
            raise  # there is nothing left to write an end to
        except asyncio.CancelledError:
            await self._end(Ending(state=RunState.INTERRUPTED))
            raise
        except Exception:
            # Swallows nothing: whatever the defect is, the ledger is closed first, then it comes out.
            await self._end(Ending(state=RunState.STOPPED, why="a defect in the program"))
            raise
        tally = self._tally()
        if not tally.is_conserved:
            await self._end(Ending(state=RunState.STOPPED, why="a defect in the program"))
            raise ConservationError(f"The rows do not add up, which is a defect: {tally}.")
        await self._end(ending)
        self._summary = self._account.close(record.run_id, ending, tally, self._stopped_merchants())
        return self._summary

    def _stop(self, ending: Ending) -> None:
        """Stop for a reason from outside; an interruption counts more than a limit."""
        if self._stopped is None or self._stopped.as_asked:
            self._stopped = ending
        if self._fleet is not None:
            self._fleet.stop(str(ending.why))

    async def _end(self, ending: Ending) -> None:
        """Write every row that waits, then the ``end`` row."""
        why = ending.why if ending.state is RunState.STOPPED else None
        await self._opened.ledger.end(state=ending.state, counts=count(self._tally()), why=why)

    def _tally(self) -> Tally:
        rows = self.check.rows
        return self._fleet.tally(rows=rows) if self._fleet else Tally(rows=rows, open=rows)

    # --- opening ------------------------------------------------------------------------------

    async def _open(self) -> None:
        settings = self.settings
        self._keys = load_keys(settings)
        self._opened = await open_all(settings, merchant_id=self.merchant_id, resources=self._resources)
        self._base_url = await base_url_of(
            settings, merchants=self.check.merchants, resources=self._resources
        )
        self._client = build_client(settings, self._keys, self._base_url, self._clock, self._on_event)

    # --- running ------------------------------------------------------------------------------

    async def _work(self, record: RunRecord) -> Ending:
        """Send what is to be sent; a safety stop, a limit and an interruption are ways to end."""
        options = self.settings.options
        try:
            async with self._client, self._time_limit(options.max_duration):
                first_run = self._opened.ledger.history.first_started_at or record.started_at
                self._fleet = build_fleet(
                    self.settings,
                    self._opened,
                    self._client,
                    self._keys,
                    self._clock,
                    ledger_began_at=first_run,
                    on_event=self._on_event,
                )
                if self._is_paused:
                    self._fleet.pause()
                if self._stopped is not None:
                    self._fleet.stop(str(self._stopped.why))
                await self._fleet.run(self._opened.manifest.rows())
        except SafetyStopError as exc:
            return Ending(state=RunState.STOPPED, why=str(exc))
        return self._ending()

    def _ending(self) -> Ending:
        """Tell how a run ended that nothing went wrong in, but for single merchants perhaps."""
        if stopped_merchants := self._stopped_merchants():
            first, count, total = stopped_merchants[0], len(stopped_merchants), len(self.check.merchants)
            why = f"{count:,} of {total:,} merchants were stopped. {first.merchant_id}: {first.why}"
            return Ending(state=RunState.STOPPED, why=why)
        stopped = self._stopped
        if stopped is None and self._fleet is not None and self._fleet.is_at_limit:
            why = f"--limit {self.settings.options.limit} was reached."
            stopped = Ending(state=RunState.STOPPED, why=why, as_asked=True)
        tally = self._tally()
        is_through = not tally.open and not tally.results.get(Reason.UNKNOWN)
        if stopped is None or (stopped.as_asked and is_through):
            return COMPLETE
        return stopped

    def _stopped_merchants(self) -> tuple[StoppedMerchant, ...]:
        """Name the merchants that were stopped while others went on."""
        stopped = () if self._fleet is None else self._fleet.stopped_merchants
        return tuple(replace(one, merchant_id=one.merchant_id or self.merchant_id) for one in stopped)

    @asynccontextmanager
    async def _time_limit(self, seconds: float | None) -> AsyncIterator[None]:
        """Stop the run once it has lasted that long; None for never."""
        if seconds is None:
            yield
            return
        why = f"--max-duration {seconds:g} is over."
        timer = asyncio.get_running_loop().call_later(
            seconds, self._stop, Ending(state=RunState.STOPPED, why=why, as_asked=True)
        )
        try:
            yield
        finally:
            timer.cancel()

    async def _note_commit(self, group: GroupCommitted) -> None:
        for result in group.results:
            self._account.note(result)
        self._on_event(group)
        if self._deliver is not None and group.results:
            await self._deliver.put(group.results)

    def _note_ledger_failure(self, failure: LedgerWriteError) -> None:
        if self._fleet is not None:
            self._fleet.fail(failure)

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
