"""The process that holds a job: it has the ledger, and its own queue on which nobody else listens."""

from __future__ import annotations

import asyncio
import platform
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, Final

from temporalio import activity
from temporalio.client import Client as Engine
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowQueryFailedError
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from batchcancel.cluster.access import while_let_in
from batchcancel.cluster.connection import (
    account_of,
    lost,
    shard_queue_of,
    workflow_id_of,
)
from batchcancel.cluster.coordinator import Coordinator
from batchcancel.cluster.messages import Account, Ended, Issue, Memo, Receipt, ShardReport, ShardRequest, Task
from batchcancel.cluster.packing import unpack_asks
from batchcancel.cluster.running import (
    LOOK_EVERY_S,
    MEMO,
    RunningJob,
    ended_of,
    find_job,
    pulses_in,
    seconds_of_leases,
)
from batchcancel.cluster.workflow import AccountRun
from batchcancel.errors import ClusterError, EngineError
from batchcancel.job import Job
from batchcancel.job.workforce import Work, Workforce
from batchcancel.settings.engine import EngineOptions

_LOOK: Final = timedelta(seconds=2)
_AGAIN_S: Final = 1.0
"""How long to wait before Temporal is asked again after it could not be reached."""
_END_WITHOUT_S: Final = 12.0
"""How long a job that is to end waits for a Temporal that does not answer. Shards drain for 8 s at most; the
next coordinator takes what they have."""
_FOR_GOOD: Final = frozenset({RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.UNIMPLEMENTED})
"""What a server says that would say the same of the same call."""
_TAKE_OVER_S: Final = 60.0
"""How long an earlier coordinator's shards may take to hand in what they have: they drain for 8 s at most."""
_CANCELED: Final = "'batchcancel cancel' asked for it."
_ENDED: Final = (
    "The job was ended in Temporal, by somebody or by a limit of the server. What its workers had not "
    "handed in stays open: run the same command again."
)


class Submission:
    """Hand a job over to workers, and hold it until its end."""

    def __init__(self, engine: Engine, options: EngineOptions, *, window: int, shard_rows: int) -> None:
        """Prepare.

        Args:
            engine: A connection to Temporal.
            options: Where workers listen, if that does not go by the account.
            window: Shards that may be out at the same time, at most.
            shard_rows: Invoices of one shard, at most.
        """
        self._engine = engine
        self._options = options
        self._window = window
        self._shard_rows = shard_rows
        self._work: Work
        self._account: Account
        self._set_rate: float | None = None
        """Requests a second that somebody has set for an earlier coordinator's job; None if nobody has."""

    async def ensure_free(self, job: Job) -> None:
        """Make sure, before a job begins, that no other one has the quota; its own earlier one is no other.

        Raises:
            EngineError: One has, or Temporal can't be asked.
            SettingsError: The job is for the simulator in this process, which no worker can call.
        """
        account = account_of(job.settings, merchant_id=job.merchant_id)
        try:
            running = await find_job(self._engine, account)
        except RPCError as exc:
            raise lost(exc.status, self._options) from None
        if running is not None and running.memo.run_id not in job.earlier_run_ids:
            raise EngineError(_in_use(running))

    @asynccontextmanager
    async def open_workforce(self, work: Work) -> AsyncIterator[Workforce]:
        """Get workers ready for a job: an ``OpenWorkforce``."""
        self._work = work
        self._account = account_of(work.settings, merchant_id=work.record.merchant_id)
        yield Coordinator(
            work,
            account=self._account,
            window=self._window,
            shard_rows=self._shard_rows,
            drive=self._drive,
        )

    # --- driving ----------------------------------------------------------------------------------

    async def _drive(self, coordinator: Coordinator) -> None:
        """Have shards worked on to the end of the job.

        Raises:
            SafetyStopError: Another job has the quota, or Temporal has ended this one, or lets us in no more.
        """
        ending = asyncio.create_task(_end_without(coordinator))
        try:
            await while_let_in(
                self._engine, self._options, self._hold(coordinator), on_away=coordinator.note_engine
            )
        except EngineError as exc:
            raise ClusterError(f"{exc} Then run the same command again.") from None
        finally:
            ending.cancel()

    async def _hold(self, coordinator: Coordinator) -> None:
        await self._take_over(coordinator)
        queue = f"batchcancel-job/{secrets.token_hex(8)}"
        async with self._worker(queue, coordinator.next_shards, coordinator.commit_part):
            handle = await self._persistently(coordinator, lambda: self._start(queue, coordinator))
            if handle is not None:
                await self._watch(handle, coordinator)
            elif not coordinator.aborting.is_set():
                coordinator.fail(ClusterError(_ENDED))

    async def _start(self, queue: str, coordinator: Coordinator) -> WorkflowHandle[Any, Any]:
        record = self._work.record
        memo = Memo(
            run_id=record.run_id,
            ledger=str(self._work.settings.ledger.absolute()),
            host=platform.node(),
            operator=record.operator,
            manifest=tuple(file.sha256 for file in record.manifest),
            started_at=record.started_at,
        )
        try:
            return await self._engine.start_workflow(
                AccountRun.run,
                Task(
                    shard_queue=shard_queue_of(self._account, self._options),
                    is_paused=coordinator.is_paused,
                    rate=self._set_rate,
                    score=coordinator.score(),
                ),
                id=workflow_id_of(self._account),
                task_queue=queue,
                memo={MEMO: memo},
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                task_timeout=timedelta(seconds=10),
            )
        except WorkflowAlreadyStartedError:
            running = await find_job(self._engine, self._account)
            if running is not None and running.memo.run_id == record.run_id:  # the answer was lost
                return running.handle
            raise ClusterError(_in_use(running)) from None

    async def _watch(self, handle: WorkflowHandle[Any, Any], coordinator: Coordinator) -> None:
        """Return once the workflow has ended, or nobody waits for it any more."""
        ending = asyncio.create_task(self._end_when_stopping(handle, coordinator))
        result = asyncio.create_task(self._result(handle, coordinator))
        passing_on = asyncio.create_task(self._pass_on(handle, coordinator))
        listening = asyncio.create_task(self._listen(handle, coordinator))
        aborting = asyncio.create_task(coordinator.aborting.wait())
        try:
            await asyncio.wait({result, aborting}, return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                await _terminate(handle, "nobody waits for it any more")
        except asyncio.CancelledError:
            await _terminate(handle, "its coordinator was cancelled")
            raise
        finally:
            tasks = {ending, result, passing_on, listening, aborting}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if not result.cancelled():
            result.result()

    async def _result(self, handle: WorkflowHandle[Any, Any], coordinator: Coordinator) -> None:
        try:
            ended: Ended | None = await self._persistently(coordinator, handle.result)
        except WorkflowFailureError:
            coordinator.fail(ClusterError(_ENDED))
            return
        if ended is not None and ended.is_canceled:
            coordinator.stop_as_asked(_CANCELED)
        elif ended is None and not coordinator.aborting.is_set():  # the server knows of none
            coordinator.fail(ClusterError(_ENDED))

    async def _end_when_stopping(self, handle: WorkflowHandle[Any, Any], coordinator: Coordinator) -> None:
        await coordinator.stopping.wait()
        await self._persistently(coordinator, lambda: handle.signal(AccountRun.end))

    async def _pass_on(self, handle: WorkflowHandle[Any, Any], coordinator: Coordinator) -> None:
        while True:
            wish = await coordinator.wishes.get()
            await self._persistently(coordinator, partial(handle.signal, wish.value))

    async def _listen(self, handle: WorkflowHandle[Any, Any], coordinator: Coordinator) -> None:
        """Keep up with what workers say, and with others who pause the job; nothing hangs on it."""
        was_paused = coordinator.is_paused
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                found = await handle.describe(rpc_timeout=_LOOK)
                progress = await handle.query(AccountRun.progress, rpc_timeout=_LOOK)
            except (RPCError, WorkflowQueryFailedError):
                coordinator.pulses.note((), out=coordinator.score().out)
                continue
            coordinator.pulses.note(pulses_in(found), out=coordinator.score().out)
            is_paused = progress.state == "paused"
            if is_paused is not was_paused:  # as it was before, it may not have heard of a wish yet
                coordinator.note_pause(is_paused=is_paused)
            was_paused = is_paused

    async def _persistently(self, coordinator: Coordinator, call: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Call Temporal until it answers; None once nobody waits for that any more."""
        while not coordinator.aborting.is_set():
            try:
                return await call()
            except RPCError as exc:
                if exc.status is RPCStatusCode.NOT_FOUND:
                    return None
                if exc.status in _FOR_GOOD:
                    raise ClusterError(f"Temporal does not take the job: {exc.status.name}.") from None
                await _sleep_until(coordinator.aborting, _AGAIN_S)
        return None

    @asynccontextmanager
    async def _worker(
        self,
        queue: str,
        next_shards: Callable[[ShardRequest], Any],
        commit_part: Callable[[int, ShardReport], Any],
    ) -> AsyncIterator[None]:
        """Listen on a coordinator's queue for the length of the block."""

        @activity.defn(name="next_shards")
        async def give(request: ShardRequest) -> Issue:
            issue: Issue = await next_shards(request)
            return issue

        @activity.defn(name="commit_part")
        async def take(number: int, report: ShardReport) -> Receipt:
            receipt: Receipt = await commit_part(number, report)
            return receipt

        worker = Worker(self._engine, task_queue=queue, workflows=[AccountRun], activities=[give, take])
        async with worker:
            yield

    # --- an earlier coordinator's shards ----------------------------------------------------------

    async def _take_over(self, coordinator: Coordinator) -> None:
        """Take what the shards of an earlier coordinator of this ledger have, and end its workflow.

        Where that can't be had, as with other manifests than then, it is asked about again; where the service
        has acted, a look-up says so.
        """
        running = await self._persistently(coordinator, lambda: find_job(self._engine, self._account))
        if running is None:
            await self._outwait_leases(coordinator)
            return
        # Of any earlier run: another coordinator may have died while it was taking this one over. Nobody has
        # the ledger but this process, so that its coordinator is gone.
        if running.memo.run_id not in self._work.opened.ledger.history.run_ids:
            raise ClusterError(_in_use(running))
        manifest = tuple(file.sha256 for file in self._work.record.manifest)
        if running.memo.manifest == manifest and await self._take_in(running, coordinator):
            return
        await self._persistently(
            coordinator, lambda: running.handle.terminate("another coordinator has come in its place")
        )
        await self._outwait_leases(coordinator)

    async def _inherit(self, running: RunningJob, coordinator: Coordinator) -> None:
        """Keep to what somebody has asked of an earlier coordinator's job: a pause, another rate."""
        progress = await self._persistently(coordinator, lambda: running.handle.query(AccountRun.progress))
        if progress is not None:
            self._set_rate = progress.rate
            coordinator.note_pause(is_paused=coordinator.is_paused or progress.state == "paused")

    async def _outwait_leases(self, coordinator: Coordinator) -> None:
        """Return once no worker is at work any more for a job that was cut short."""
        left_s = await self._persistently(coordinator, lambda: seconds_of_leases(self._engine, self._account))
        await _sleep_until(coordinator.aborting, left_s or 0.0)

    async def _take_in(self, running: RunningJob, coordinator: Coordinator) -> bool:
        """Stand in for an earlier coordinator until its shards have handed in what they have.

        Returns:
            Whether they have; not if its workflow can't be gone on with.
        """
        is_ready = asyncio.Event()

        async def give_none(_request: ShardRequest) -> Issue:
            return Issue(shards=(), is_end=True, window=1, score=coordinator.score())

        async def take(_number: int, report: ShardReport) -> Receipt:
            await is_ready.wait()
            return await coordinator.commit_adopted(report)

        async with self._worker(running.queue, give_none, take):
            try:
                packed = await self._persistently(
                    coordinator, lambda: running.handle.query(AccountRun.shards_out)
                )
                # A pass over the manifest takes as long as it takes.
                await coordinator.adopt(ask for rows in packed or () for ask in unpack_asks(rows))
                await self._inherit(running, coordinator)
                is_ready.set()
                async with asyncio.timeout(_TAKE_OVER_S):
                    await self._persistently(coordinator, lambda: running.handle.signal(AccountRun.end))
                    ended = await self._persistently(coordinator, running.handle.result)
            except (TimeoutError, WorkflowFailureError, WorkflowQueryFailedError):
                return False
        if ended is not None and ended_of(ended).is_canceled:  # told when nobody was there to hear it
            coordinator.stop_as_asked(_CANCELED)
        return True


async def _end_without(coordinator: Coordinator) -> None:
    """Have nobody wait any more for a job that is to end, once Temporal has not answered for a while."""
    await coordinator.stopping.wait()
    while coordinator.away_s < _END_WITHOUT_S:  # noqa: ASYNC110 - a clock ends it, not an event
        await asyncio.sleep(_AGAIN_S)
    coordinator.abort("Temporal does not answer")


async def _terminate(handle: WorkflowHandle[Any, Any], why: str) -> None:
    with suppress(RPCError, TimeoutError):
        async with asyncio.timeout(_AGAIN_S):
            await handle.terminate(why)


async def _sleep_until(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _in_use(running: RunningJob | None) -> str:
    whose = ""
    if running is not None:
        memo = running.memo
        whose = f" ({memo.ledger} on {memo.host}, of {memo.operator}, since {memo.started_at})"
    return f"Another job{whose} uses this quota. One at a time may: 'batchcancel status' tells how far it is."
