"""A coordinator's ways to Temporal: calls that are made until they are answered, and a queue of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

from temporalio import activity
from temporalio.client import Client as Engine
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from batchcancel.cluster.messages import Issue, Receipt, ShardReport, ShardRequest
from batchcancel.cluster.workflow import AccountRun
from batchcancel.errors import ClusterError

T = TypeVar("T")

_AGAIN_S: Final = 1.0
"""How long to wait before Temporal is asked again after it could not be reached."""
_FOR_GOOD: Final = frozenset({RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.UNIMPLEMENTED})
"""What a server says that would say the same of the same call."""


async def persistently(call: Callable[[], Awaitable[T]], *, aborting: asyncio.Event) -> T | None:
    """Call Temporal until it answers.

    Args:
        call: Makes the call.
        aborting: Set once nobody waits for the answer any more.

    Returns:
        The answer; None if what is asked about is not there, or nobody waits any more.

    Raises:
        ClusterError: Temporal would refuse it for ever.
    """
    while not aborting.is_set():
        try:
            return await call()
        except RPCError as exc:
            if exc.status is RPCStatusCode.NOT_FOUND:
                return None
            if exc.status in _FOR_GOOD:
                raise ClusterError(f"Temporal does not take the job: {exc.status.name}.") from None
            await sleep_until(aborting, _AGAIN_S)
    return None


async def sleep_until(event: asyncio.Event, seconds: float) -> None:
    """Return once an event is set, or after some time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


@asynccontextmanager
async def listening(
    engine: Engine,
    queue: str,
    next_shards: Callable[[ShardRequest], Awaitable[Issue]],
    commit_part: Callable[[int, ShardReport], Awaitable[Receipt]],
) -> AsyncIterator[None]:
    """Move a job's workflow, and do what it asks of its coordinator, for the length of the block.

    Args:
        engine: A connection to Temporal.
        queue: The coordinator's, on which nobody else listens.
        next_shards: Gives out shards.
        commit_part: Writes the answers of one.
    """

    @activity.defn(name="next_shards")
    async def give(request: ShardRequest) -> Issue:
        return await next_shards(request)

    @activity.defn(name="commit_part")
    async def take(number: int, report: ShardReport) -> Receipt:
        return await commit_part(number, report)

    async with Worker(engine, task_queue=queue, workflows=[AccountRun], activities=[give, take]):
        yield
