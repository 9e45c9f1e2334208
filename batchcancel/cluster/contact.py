"""A coordinator's ways to Temporal: calls that are made until they are answered, and a queue of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, Final, TypeVar

from temporalio import activity
from temporalio.client import Client as Engine
from temporalio.client import WorkflowHandle, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from batchcancel.cluster.coordinator import Coordinator
from batchcancel.cluster.messages import Issue, Receipt, ShardReport, ShardRequest
from batchcancel.cluster.workflow import AccountRun
from batchcancel.errors import ClusterError

_Answer = TypeVar("_Answer")

_AGAIN_S: Final = 1.0
"""How long to wait before Temporal is asked again after it could not be reached."""
_RECALL_S: Final = 4.0
"""How long a job may take to take its shards back: its workflow may first have to be done again here."""
_STICKY: Final = timedelta(seconds=2)
"""How long a workflow's next step waits for the process that did the last one before any other may do it: the
first thing that a take-over waits for. By itself Temporal waits for 10 s."""
_FOR_GOOD: Final = frozenset({RPCStatusCode.INVALID_ARGUMENT, RPCStatusCode.UNIMPLEMENTED})
"""What a server says that would say the same of the same call."""


class Contact:
    """What one coordinator asks of Temporal, for as long as anybody waits for it."""

    def __init__(self, engine: Engine, coordinator: Coordinator) -> None:
        """Prepare; nothing is asked.

        Args:
            engine: A connection to Temporal.
            coordinator: Whose questions they are; once it aborts, nobody waits for an answer any more.
        """
        self.engine: Final = engine
        self._coordinator = coordinator

    async def ask(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer | None:
        """Make a call until Temporal answers.

        Args:
            call: Makes it.

        Returns:
            The answer; None if what is asked about is not there, or nobody waits any more.

        Raises:
            ClusterError: Temporal would refuse it for ever.
        """
        while not self._coordinator.aborting.is_set():
            try:
                return await self._until_aborting(call())
            except RPCError as exc:
                if exc.status is RPCStatusCode.NOT_FOUND:
                    return None
                if exc.status in _FOR_GOOD:
                    raise ClusterError(f"Temporal does not take the job: {exc.status.name}.") from None
                await self.wait(_AGAIN_S)
        return None

    async def _until_aborting(self, answer: Awaitable[_Answer]) -> _Answer | None:
        answering = asyncio.ensure_future(answer)
        aborting = asyncio.create_task(self._coordinator.aborting.wait())
        try:
            await asyncio.wait({answering, aborting}, return_when=asyncio.FIRST_COMPLETED)
            return answering.result() if answering.done() else None
        finally:
            answering.cancel()
            aborting.cancel()

    async def wait(self, seconds: float) -> None:
        """Return after some time, or once nobody waits any more."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._coordinator.aborting.wait()

    async def recall(self, handle: WorkflowHandle[Any, Any]) -> None:
        """Have a job take its shards back, if that can be had in seconds.

        For the length of this somebody has to listen on its queue.
        """
        with suppress(RPCError, WorkflowQueryFailedError, TimeoutError):
            async with asyncio.timeout(_RECALL_S):
                await handle.signal(AccountRun.end)
                await handle.query(AccountRun.progress)  # which is answered once it has done that

    @asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[None]:
        """Give the block so much time in which Temporal answers.

        Raises:
            TimeoutError: It is over.
        """
        async with asyncio.timeout(seconds) as limit:
            waiting = asyncio.create_task(self._put_off_while_away(limit))
            try:
                yield
            finally:
                waiting.cancel()

    async def _put_off_while_away(self, limit: asyncio.Timeout) -> None:
        while (when := limit.when()) is not None:
            await asyncio.sleep(_AGAIN_S)
            if self._coordinator.away_s:
                limit.reschedule(when + _AGAIN_S)

    @asynccontextmanager
    async def listen(
        self,
        queue: str,
        next_shards: Callable[[ShardRequest], Awaitable[Issue]],
        commit_part: Callable[[int, ShardReport], Awaitable[Receipt]],
    ) -> AsyncIterator[None]:
        """Move a job's workflow, and do what it asks of its coordinator, for the length of the block.

        Args:
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

        fatal: list[BaseException] = []

        async def note(failure: BaseException) -> None:
            fatal.append(failure)

        try:
            async with Worker(
                self.engine,
                task_queue=queue,
                workflows=[AccountRun],
                activities=[give, take],
                sticky_queue_schedule_to_start_timeout=_STICKY,
                on_fatal_error=note,
            ):
                yield
        except Exception as exc:
            if exc in fatal:  # the SDK has given up: a server that is silent may bring it to that
                raise ClusterError("Temporal can't be listened to any more.") from None
            raise
