"""One run over some manifests, from opening everything to its summary."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from time import time
from types import TracebackType
from typing import Final, Self

from msgspec.structs import replace

from batchcancel.api import Client, Expiry, ServiceClock
from batchcancel.errors import ConservationError, LedgerFaultError, LedgerWriteError, SettingsError
from batchcancel.job.account import Account, count
from batchcancel.job.connect import base_url_of, build_client
from batchcancel.job.course import COMPLETE, Course, Ending
from batchcancel.job.keys import Keys, load_keys
from batchcancel.job.lanes import build_fleet, to_cancel
from batchcancel.job.opening import Opened, open_all
from batchcancel.job.planned import is_fresh, with_answers
from batchcancel.job.workforce import OpenWorkforce, Work, Workforce
from batchcancel.ledger import RunRecord
from batchcancel.ledger.plan import Plan
from batchcancel.manifest import Check
from batchcancel.model import (
    Event,
    GroupCommitted,
    ManifestRow,
    Outcome,
    Result,
    RunState,
    RunSummary,
    Tally,
    Vitals,
)
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
        self,
        settings: Settings,
        *,
        on_event: Callable[[Event], None] = lambda _event: None,
        open_workforce: OpenWorkforce | None = None,
    ) -> None:
        """Prepare; nothing is opened.

        Args:
            settings: What to do, from ``load_settings``.
            on_event: Told of requests, retries, pauses and committed rows; must not block or raise.
            open_workforce: Who does the work; None for this process.
        """
        self.settings = settings
        self._on_event = on_event
        self._open_workforce = open_workforce or self._open_fleet
        self._resources = AsyncExitStack()
        self._opened: Opened
        self._keys: Keys
        self._base_url: str
        self._clock = ServiceClock(time)
        self._client: Client
        self._course = Course(settings)
        self.takes_from_plan = False
        """Whether there is a plan that is young enough to take answers from."""
        self._summary: RunSummary | None = None
        self._account: Account | None = None
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
    def plan(self) -> Plan | None:
        """The plan that was named; None without. ``takes_from_plan`` tells whether it is young enough."""
        return self._opened.plan

    @property
    def torn_bytes(self) -> int:
        """Bytes of an unfinished last write; a run cuts them off and keeps them in ``LEDGER.torn``."""
        tail = self._opened.ledger.history.tail
        return 0 if tail is None else tail.size_bytes

    @property
    def earlier_run_ids(self) -> frozenset[str]:
        """The runs that had begun in the ledger before this one."""
        return self._opened.ledger.history.run_ids

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

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """Rows of this run that are on disk by now, by outcome; all four are there, zero or not."""
        return dict.fromkeys(Outcome, 0) if self._account is None else self._account.outcomes

    def vitals(self) -> Vitals:
        """Tell what the run is doing at the moment; costs microseconds a merchant, whatever the run's size.

        May be asked at any time once everything is open, before the run and after it too.
        """
        vitals = self._course.vitals(to_settle=self.check.to_settle)
        if self._account is None or vitals.workers is not None:  # who knows also what is with workers
            return vitals
        return replace(vitals, amounts_canceled=self._account.amounts_canceled)

    def pause(self) -> None:
        """Let nothing leave until ``resume``, whatever its kind; what is in flight comes back.

        Before the run it begins paused; a run that is stopping, or paused already, is left as it is. Time
        paused counts against no invoice's time and no outage, but against ``--max-duration``. A stop ends
        a paused run at once.
        """
        self._course.pause()

    def resume(self) -> None:
        """Let requests leave again; a run that is not paused is left as it is."""
        self._course.resume()

    def stop(self, why: str) -> None:
        """Let no new cancelation leave and drain what is in flight, 8 seconds at most.

        A second call aborts: what is in flight is not waited for and is written as ``unknown``.

        Args:
            why: What interrupts the run, such as the name of a signal.
        """
        self._course.stop(why)

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
        self._account = account = Account(self.settings, merchant_id=self.merchant_id)
        if not self.has_rows:
            self._summary = account.close(None, COMPLETE, Tally())
            return self._summary
        record = account.open(self.check, base_url=self._base_url)
        await self._opened.ledger.begin(
            record, on_commit=partial(self._note_commit, account), on_failure=self._note_ledger_failure
        )
        try:
            ending = await self._work(record, account)
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
        self._summary = account.close(record.run_id, ending, tally, self._course.stopped_merchants())
        return self._summary

    async def _end(self, ending: Ending) -> None:
        """Write every row that waits, then the ``end`` row."""
        why = ending.why if ending.state is RunState.STOPPED else None
        await self._opened.ledger.end(state=ending.state, counts=count(self._tally()), why=why)

    def _tally(self) -> Tally:
        return self._course.tally(rows=self.check.rows, settled_earlier=self.check.settled)

    # --- opening ------------------------------------------------------------------------------

    async def _open(self) -> None:
        settings = self.settings
        if settings.options.dry_run:
            raise SettingsError("--dry-run looks only, and a job cancels: 'batchcancel plan' is what looks.")
        self._keys = load_keys(settings)
        self._course.own_merchant_id = self.merchant_id
        self._opened = await open_all(settings, merchant_id=self.merchant_id, resources=self._resources)
        plan = self._opened.plan
        self.takes_from_plan = plan is not None and is_fresh(plan.record, max_age_s=settings.plan_max_age_s)
        self._base_url = await base_url_of(
            settings, merchants=self.check.merchants, resources=self._resources
        )
        self._client = build_client(
            settings, self._keys, self._base_url, self._clock, on_event=self._on_event
        )

    # --- running ------------------------------------------------------------------------------

    async def _work(self, record: RunRecord, account: Account) -> Ending:
        """Send what is to be sent."""
        work = Work(
            settings=self.settings,
            opened=self._opened,
            record=record,
            ledger_began_at=self._opened.ledger.history.first_started_at or record.started_at,
            read_rows=self._rows,
            amounts_canceled=lambda: account.amounts_canceled,
            stop_as_asked=self._course.stop_as_asked,
            on_event=self._on_event,
        )
        async with self._open_workforce(work) as workforce:
            return await self._course.run(
                workforce, self._rows(), count=self.check.rows, settled_earlier=self.check.settled
            )

    @asynccontextmanager
    async def _open_fleet(self, work: Work) -> AsyncIterator[Workforce]:
        """Have this process do the work."""
        async with self._client as client:
            purpose = to_cancel(
                work.opened, self.settings.options, self._clock, ledger_began_at=work.ledger_began_at
            )
            yield build_fleet(self.settings, purpose, client, self._keys, on_event=self._on_event)

    def _rows(self) -> AsyncIterator[ManifestRow]:
        """Return the rows, with their answers where a plan has them."""
        opened = self._opened
        rows = opened.manifest.rows()
        if opened.plan is None or not self.takes_from_plan:
            return rows
        return with_answers(rows, opened.plan, ledger_began_at=opened.ledger.history.first_started_at)

    async def _note_commit(self, account: Account, group: GroupCommitted) -> None:
        account.note(group.results)
        self._on_event(group)
        if self._deliver is not None and group.results:
            await self._deliver.put(group.results)

    def _note_ledger_failure(self, failure: LedgerWriteError) -> None:
        self._course.fail(failure)

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
