"""The process that holds a job: it has the ledger, and its own queue on which nobody else listens."""

from __future__ import annotations

import asyncio
import platform
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, Final

from temporalio.client import Client as Engine
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowQueryFailedError
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from batchcancel.cluster.access import while_let_in
from batchcancel.cluster.connection import (
    account_of,
    lost,
    shard_queue_of,
    workflow_id_of,
)
from batchcancel.cluster.contact import Contact
from batchcancel.cluster.coordinator import Coordinator
from batchcancel.cluster.messages import Account, Memo, Task
from batchcancel.cluster.running import (
    LOOK_EVERY_S,
    MEMO,
    ended_of,
    find_job,
    has_worker,
    in_use,
    pulses_in,
)
from batchcancel.cluster.takeover import TakeOver
from batchcancel.cluster.workflow import AccountRun
from batchcancel.errors import ClusterError, EngineError
from batchcancel.job import Job
from batchcancel.job.workforce import Work, Workforce
from batchcancel.settings.engine import EngineOptions

_LOOK: Final = timedelta(seconds=2)
_AGAIN_S: Final = 1.0
"""How often is looked whether Temporal has been away for too long."""
_TERMINATE_S: Final = 1.0
"""How long a workflow that nobody waits for may take to be terminated."""
_END_WITHOUT_S: Final = 6.0
"""How long a job that is to end waits for a Temporal that is known to be away, which takes 6 s. Shards drain
for 8 s at most; the next coordinator takes what they have."""
_CANCELED: Final = "'batchcancel cancel' asked for it."
_ENDED: Final = (
    "The job was ended in Temporal, by somebody or by a limit of the server. What its workers had not "
    "handed in stays open: run the same command again."
)
_TAKEN_OVER: Final = (
    "Another coordinator, which has a copy of this ledger, has taken the job over. Some answers are in that "
    "copy now and not here: decide which of the two goes on."
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
        self._contact: Contact

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
            raise EngineError(in_use(running))

    @asynccontextmanager
    async def open_workforce(self, work: Work) -> AsyncIterator[Workforce]:
        """Get workers ready for a job: an ``OpenWorkforce``."""
        self._work = work
        self._account = account_of(work.settings, merchant_id=work.record.merchant_id)
        coordinator = Coordinator(
            work,
            account=self._account,
            window=self._window,
            shard_rows=self._shard_rows,
            drive=self._drive,
        )
        self._contact = Contact(self._engine, coordinator)
        yield coordinator

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
        history = self._work.opened.ledger.history
        orders = await TakeOver(self._contact, self._account, coordinator, history=history).run()
        if coordinator.aborting.is_set():
            return
        coordinator.note_pause(is_paused=coordinator.is_paused or orders.is_paused)
        if orders.is_canceled:
            coordinator.stop_as_asked(_CANCELED)
        queue = f"batchcancel-job/{secrets.token_hex(8)}"
        task = Task(
            shard_queue=shard_queue_of(self._account, self._options),
            is_paused=coordinator.is_paused,
            is_canceled=orders.is_canceled,
            rate=_lower(orders.rate, self._work.settings.rate),
            score=coordinator.score(),
        )
        async with self._contact.listen(queue, coordinator.next_shards, coordinator.commit_part):
            handle = await self._contact.ask(lambda: self._start(queue, task))
            if handle is not None:
                await self._watch(handle, coordinator)
            elif not coordinator.aborting.is_set():
                coordinator.fail(ClusterError(_ENDED))

    async def _start(self, queue: str, task: Task) -> WorkflowHandle[Any, Any]:
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
                task,
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
            raise ClusterError(in_use(running)) from None

    async def _watch(self, handle: WorkflowHandle[Any, Any], coordinator: Coordinator) -> None:
        """Return once the workflow has ended, or nobody waits for it any more."""
        ending = asyncio.create_task(self._end_when_stopping(handle, coordinator))
        result = asyncio.create_task(self._result(handle, coordinator))
        passing_on = asyncio.create_task(self._pass_on(handle, coordinator))
        watching = asyncio.create_task(self._keep_up(handle, coordinator))
        aborting = asyncio.create_task(coordinator.aborting.wait())
        try:
            await asyncio.wait({result, aborting}, return_when=asyncio.FIRST_COMPLETED)
            if coordinator.aborting.is_set():
                await self._let_go(handle, coordinator)
        except asyncio.CancelledError:
            await self._contact.recall(handle)
            raise
        finally:
            tasks = {ending, result, passing_on, watching, aborting}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if not result.cancelled():
            result.result()
            coordinator.pulses.note((), out=())  # no worker has anything of it any more

    async def _let_go(self, handle: WorkflowHandle[Any, Any], coordinator: Coordinator) -> None:
        """Leave a workflow to the next coordinator; one that a person wants to stop at once is cut short."""
        if coordinator.has_failed or coordinator.away_s:
            await self._contact.recall(handle)
            return
        with suppress(RPCError, TimeoutError):
            async with asyncio.timeout(_TERMINATE_S):
                await handle.terminate(reason="nobody waits for it any more")

    async def _result(self, handle: WorkflowHandle[Any, Any], coordinator: Coordinator) -> None:
        try:
            result = await self._contact.ask(handle.result)
        except WorkflowFailureError:
            coordinator.fail(ClusterError(_ENDED))
            return
        if result is None:
            if not coordinator.aborting.is_set():  # the server knows of none
                coordinator.fail(ClusterError(_ENDED))
        elif (ended := ended_of(result)).is_canceled:
            coordinator.stop_as_asked(_CANCELED)
        elif ended.is_handed_over:
            coordinator.fail(ClusterError(_TAKEN_OVER))

    async def _end_when_stopping(self, handle: WorkflowHandle[Any, Any], coordinator: Coordinator) -> None:
        await coordinator.stopping.wait()
        await self._contact.ask(lambda: handle.signal(AccountRun.end))

    async def _pass_on(self, handle: WorkflowHandle[Any, Any], coordinator: Coordinator) -> None:
        while True:
            wish = await coordinator.wishes.get()
            await self._contact.ask(partial(handle.signal, wish.value))

    async def _keep_up(self, handle: WorkflowHandle[Any, Any], coordinator: Coordinator) -> None:
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
            coordinator.note_workers(has_worker(found))
            is_paused = progress.state == "paused"
            if is_paused is not was_paused:  # as it was before, it may not have heard of a wish yet
                coordinator.note_pause(is_paused=is_paused)
            was_paused = is_paused


async def _end_without(coordinator: Coordinator) -> None:
    """Have nobody wait any more for a job that is to end, once Temporal has not answered for a while."""
    await coordinator.stopping.wait()
    while coordinator.away_s < _END_WITHOUT_S:  # noqa: ASYNC110 - a clock ends it, not an event
        await asyncio.sleep(_AGAIN_S)
    coordinator.abort("Temporal does not answer")


def _lower(rate: float | None, asked_for: float | None) -> float | None:
    """Return what somebody has set for the job, unless less is asked for by now; None if nobody has."""
    return rate if rate is None or asked_for is None else min(rate, asked_for)
