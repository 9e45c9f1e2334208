"""A job that runs: found by its account, and what other processes may ask of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client as Engine
from temporalio.client import (
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.service import RPCError, RPCStatusCode

from batchcancel.cluster.connection import (
    JOB_PREFIX,
    connect,
    lost,
    workflow_id_of,
)
from batchcancel.cluster.converter import DATA_CONVERTER
from batchcancel.cluster.lease import HEARTBEAT_TIMEOUT_S
from batchcancel.cluster.messages import Account, Ended, Memo, Progress, Pulse, Score
from batchcancel.cluster.workflow import AccountRun
from batchcancel.errors import EngineError
from batchcancel.settings.engine import EngineOptions

MEMO: Final = "job"
REPLACED: Final = "another coordinator has come in its place"
"""Why a workflow was terminated that its successor could not go on with."""
_ANSWER: Final = timedelta(seconds=5)
"""How long a job may take to say how it is."""
LOOK_EVERY_S: Final = 1.0
"""How often whoever watches a job looks at it: as often as workers say something."""
_ALL: Final = "WorkflowType = 'AccountRun' AND ExecutionStatus = 'Running'"


@asynccontextmanager
async def asking(options: EngineOptions) -> AsyncIterator[Engine]:
    """Connect to Temporal for the length of the block.

    Raises:
        EngineError: It can't be reached or refuses us, before or inside the block, or a job has ended between
            two questions about it.
    """
    engine = await connect(options)
    try:
        yield engine
    except RPCError as exc:
        if exc.status is RPCStatusCode.NOT_FOUND:
            raise EngineError("The job has ended meanwhile.") from None
        raise lost(exc.status, options) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningJob:
    """A job by its workflow, which may have ended by now."""

    handle: WorkflowHandle[Any, Any]
    memo: Memo
    queue: str
    """Its coordinator's."""
    run_id: str
    """Of the workflow, when it was found: what it came to is asked for by that."""
    first_run_id: str
    """Of the workflow that it is a continuation of; of another job under this name, it is another one."""

    @property
    def name(self) -> str:
        """What people call it: environment, host and merchant."""
        return self.handle.id.removeprefix(JOB_PREFIX)

    async def progress(self) -> Progress:
        """Ask it how far it is.

        Raises:
            EngineError: Its coordinator does not answer.
        """
        try:
            return await self.handle.query(AccountRun.progress, rpc_timeout=_ANSWER)
        except (RPCError, WorkflowQueryFailedError):
            raise EngineError(
                f"The job {self.name} is there, but its coordinator on {self.memo.host} does not answer. If "
                "it is gone, run the same 'batchcancel submit' there again: it goes on where it was."
            ) from None

    async def is_there(self) -> bool:
        """Ask whether it has not ended yet.

        Raises:
            RPCError: Temporal can't be asked.
        """
        found = await self.handle.describe()
        return found.status is WorkflowExecutionStatus.RUNNING and first_run_id_of(found) == self.first_run_id


async def find_job(engine: Engine, account: Account) -> RunningJob | None:
    """Return the job that uses an account's quota; None if none does.

    Raises:
        RPCError: Temporal can't be asked.
    """
    handle = engine.get_workflow_handle(workflow_id_of(account))
    try:
        found = await handle.describe()
    except RPCError as exc:
        if exc.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    return await _running(found, handle)


async def seconds_of_leases(engine: Engine, account: Account) -> float:
    """Return how long workers of a job that was cut short may still be at work: they may not know it yet.

    Raises:
        RPCError: Temporal can't be asked.
    """
    try:
        found = await engine.get_workflow_handle(workflow_id_of(account)).describe()
    except RPCError as exc:
        if exc.status is RPCStatusCode.NOT_FOUND:
            return 0.0
        raise
    if found.close_time is None or found.status is WorkflowExecutionStatus.COMPLETED:
        return 0.0
    ago_s = (datetime.now(UTC) - found.close_time).total_seconds()
    return min(max(HEARTBEAT_TIMEOUT_S - ago_s, 0.0), HEARTBEAT_TIMEOUT_S)


async def find_jobs(engine: Engine) -> list[RunningJob]:
    """Return every job that runs in the namespace, by name.

    Raises:
        RPCError: Temporal can't be asked.
    """
    jobs = []
    async for listed in engine.list_workflows(_ALL):
        handle = engine.get_workflow_handle(listed.id)
        if (job := await _running(await handle.describe(), handle)) is not None:
            jobs.append(job)
    return sorted(jobs, key=lambda job: job.name)


async def the_job(engine: Engine, name: str | None) -> RunningJob:
    """Return the job of a name, or the only one.

    Raises:
        EngineError: There is none, or there are several and none was named.
        RPCError: Temporal can't be asked.
    """
    jobs = await find_jobs(engine)
    found = [job for job in jobs if name is None or job.name == name.removeprefix(JOB_PREFIX)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(job.name for job in jobs) or "none"
    if not found:
        raise EngineError(f"No such job is running; running now: {names}.")
    raise EngineError(f"Several jobs are running: {names}. Name the one that is meant.")


async def _running(
    found: WorkflowExecutionDescription, handle: WorkflowHandle[Any, Any]
) -> RunningJob | None:
    return await job_in(found, handle) if found.status is WorkflowExecutionStatus.RUNNING else None


async def job_in(found: WorkflowExecutionDescription, handle: WorkflowHandle[Any, Any]) -> RunningJob:
    """Return the job of a workflow that was found, whether or not it has ended."""
    memo = await found.memo_value(MEMO, type_hint=Memo)
    return RunningJob(
        handle=handle,
        memo=memo,
        queue=found.task_queue,
        run_id=found.run_id,
        first_run_id=first_run_id_of(found),
    )


def first_run_id_of(found: WorkflowExecutionDescription) -> str:
    """Return the id that a workflow and all its continuations have in common."""
    return found.raw_description.workflow_execution_info.first_run_id


def ended_of(result: Any, score: Score | None = None) -> Ended:  # noqa: ANN401 - as the SDK decodes it
    """Return what a workflow came to.

    Args:
        result: What it returned.
        score: How far it was; an older coordinator's workflow does not say it.
    """
    if isinstance(result, bool):
        return Ended(is_canceled=result, score=score or Score(to_settle=0))
    return msgspec.convert(result, Ended)


def has_worker(found: WorkflowExecutionDescription) -> bool | None:
    """Tell whether a worker has any of a job's shards; None if none is out."""
    pending = found.raw_description.pending_activities
    states = [one.state for one in pending if one.activity_type.name == "run_shard"]
    if not states:
        return None
    return any(state != PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED for state in states)


def in_use(running: RunningJob | None) -> str:
    """Say that a job has the quota; None if it is not known any more which."""
    whose = ""
    if running is not None:
        memo = running.memo
        whose = f" ({memo.ledger} on {memo.host}, of {memo.operator}, since {memo.started_at})"
    return f"Another job{whose} uses this quota. One at a time may: 'batchcancel status' tells how far it is."


def pulses_in(found: WorkflowExecutionDescription) -> list[Pulse]:
    """Return how the shards go on; workers of another version may not say it, or say it otherwise."""
    pulses = []
    for shard in found.raw_description.pending_activities:
        match shard.heartbeat_details.payloads:
            case [_, payload, *_]:
                with suppress(msgspec.DecodeError, KeyError):  # the SDK's, for an encoding that it has not
                    pulses += DATA_CONVERTER.payload_converter.from_payloads([payload], [Pulse])
            case _:
                pass
    return pulses
