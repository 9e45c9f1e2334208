"""What an earlier coordinator of a ledger left in Temporal: its shards hand in what they have, and it ends.

Whoever has the ledger takes over: it is locked, so that the coordinator which began the job is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from temporalio.client import Client as Engine
from temporalio.client import WorkflowFailureError, WorkflowQueryFailedError

from batchcancel.cluster.contact import listening, persistently, sleep_until
from batchcancel.cluster.coordinator import Coordinator
from batchcancel.cluster.messages import Account, Issue, Receipt, ShardReport, ShardRequest
from batchcancel.cluster.packing import unpack_asks
from batchcancel.cluster.running import REPLACED, RunningJob, ended_of, find_job, in_use, seconds_of_leases
from batchcancel.cluster.workflow import AccountRun
from batchcancel.errors import ClusterError

T = TypeVar("T")

_TAKE_OVER_S: Final = 60.0
"""How long an earlier coordinator's shards may take to hand in what they have: they drain for 8 s at most."""
CANCELED: Final = "'batchcancel cancel' asked for it."


class TakeOver:
    """Stand in for an earlier coordinator until nobody is at work for it any more."""

    def __init__(
        self, engine: Engine, account: Account, coordinator: Coordinator, *, earlier_run_ids: frozenset[str]
    ) -> None:
        """Prepare; nothing is asked.

        Args:
            engine: A connection to Temporal.
            account: Whose invoices they are.
            coordinator: Takes what the shards have.
            earlier_run_ids: The runs that had begun in the ledger before this one.
        """
        self._engine = engine
        self._account = account
        self._coordinator = coordinator
        self._earlier_run_ids = earlier_run_ids
        self.set_rate: float | None = None
        """Requests a second that somebody has set for the job; None if nobody has."""

    async def run(self) -> None:
        """Take what the shards have, and end the workflow; what somebody has asked of the job holds on.

        What can't be had is asked about again; where the service has acted, a look-up says so.

        Raises:
            ClusterError: Another ledger's job has the quota.
        """
        running = await self._persistently(lambda: find_job(self._engine, self._account))
        if running is not None:
            # Of any earlier run: another coordinator may have died while it was taking this one over.
            if running.memo.run_id not in self._earlier_run_ids:
                raise ClusterError(in_use(running))
            if await self._take_in(running):
                return
            await self._persistently(lambda: running.handle.terminate(REPLACED))
        await self._outwait_leases()

    async def _take_in(self, running: RunningJob) -> bool:
        """Have the shards hand in what they have.

        Returns:
            Whether they have; not if the workflow can't be gone on with.
        """
        coordinator = self._coordinator
        is_ready = asyncio.Event()

        async def give_none(_request: ShardRequest) -> Issue:
            return Issue(shards=(), is_end=True, window=1, score=coordinator.score())

        async def take(_number: int, report: ShardReport) -> Receipt:
            await is_ready.wait()
            return await coordinator.commit_adopted(report)

        async with listening(self._engine, running.queue, give_none, take):
            try:
                await self._inherit(running)
                packed = await self._persistently(lambda: running.handle.query(AccountRun.shards_out))
                # A pass over the manifest takes as long as it takes.
                await coordinator.adopt(ask for rows in packed or () for ask in unpack_asks(rows))
                is_ready.set()
                async with asyncio.timeout(_TAKE_OVER_S):
                    await self._persistently(lambda: running.handle.signal(AccountRun.hand_over))
                    ended = await self._persistently(running.handle.result)
            except (TimeoutError, WorkflowFailureError, WorkflowQueryFailedError):
                return False
        if ended is not None and ended_of(ended).is_canceled:  # told when nobody was there to hear it
            coordinator.stop_as_asked(CANCELED)
        return True

    async def _inherit(self, running: RunningJob) -> None:
        """Keep to what somebody has asked of the job: a pause, another rate."""
        progress = await self._persistently(lambda: running.handle.query(AccountRun.progress))
        if progress is not None:
            self.set_rate = progress.rate
            is_paused = self._coordinator.is_paused or progress.state == "paused"
            self._coordinator.note_pause(is_paused=is_paused)

    async def _outwait_leases(self) -> None:
        """Return once no worker is at work any more for a job that was cut short."""
        left_s = await self._persistently(lambda: seconds_of_leases(self._engine, self._account))
        await sleep_until(self._coordinator.aborting, left_s or 0.0)

    async def _persistently(self, call: Callable[[], Awaitable[T]]) -> T | None:
        return await persistently(call, aborting=self._coordinator.aborting)
