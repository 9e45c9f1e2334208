"""What an earlier coordinator of a ledger left in Temporal: its shards hand in what they have, and it ends.

Whoever has the ledger takes over: it is locked, so that the coordinator which began the job is gone.
"""

from __future__ import annotations

import asyncio
from typing import Final

from temporalio.client import WorkflowFailureError, WorkflowQueryFailedError

from batchcancel.cluster.contact import Contact
from batchcancel.cluster.coordinator import Coordinator
from batchcancel.cluster.messages import Account, Ended, Issue, Progress, Receipt, ShardReport, ShardRequest
from batchcancel.cluster.packing import unpack_asks
from batchcancel.cluster.running import (
    REPLACED,
    RunningJob,
    ended_of,
    find_ending,
    find_job,
    in_use,
    seconds_of_leases,
)
from batchcancel.cluster.workflow import AccountRun
from batchcancel.errors import ClusterError
from batchcancel.ledger import History

_LIMIT_S: Final = 60.0
"""How long a workflow may take to tell what it has out, and then to end: its shards drain for 8 s at most."""


class TakeOver:
    """Stand in for an earlier coordinator until nobody is at work for it any more."""

    def __init__(
        self, contact: Contact, account: Account, coordinator: Coordinator, *, history: History
    ) -> None:
        """Prepare; nothing is asked.

        Args:
            contact: The way to Temporal.
            account: Whose invoices they are.
            coordinator: Takes what the shards have.
            history: What the ledger said before this run.
        """
        self._contact = contact
        self._account = account
        self._coordinator = coordinator
        self._history = history
        self._has_failed = asyncio.Event()
        """Set once an answer can't be written."""
        self.rate: float | None = None
        """Requests a second that somebody has set for the job; None if nobody has."""
        self.is_canceled = False
        """Whether somebody has ended the job, and no coordinator has heard of it."""

    async def run(self) -> bool:
        """Take what the shards have, and end the workflow; what somebody has asked of the job holds on.

        What can't be had is asked about again; where the service has acted, a look-up says so.

        Returns:
            Whether the job may begin: not if answers came that can't be written. Those stay in Temporal.

        Raises:
            ClusterError: Another ledger's job has the quota.
        """
        contact = self._contact
        running = await contact.ask(lambda: find_job(contact.engine, self._account))
        if running is None:
            await self._inherit_from_the_dead()
        else:
            # Of any earlier run: another coordinator may have died while it was taking this one over.
            if running.memo.run_id not in self._history.run_ids:
                raise ClusterError(in_use(running))
            if await self._take_in(running):
                return True
            if self._has_failed.is_set():
                return False
            await contact.ask(lambda: running.handle.terminate(REPLACED))
        left_s = await contact.ask(lambda: seconds_of_leases(contact.engine, self._account))
        await contact.wait(left_s or 0.0)
        return True

    async def _take_in(self, running: RunningJob) -> bool:
        """Have the shards hand in what they have.

        Returns:
            Whether they have; not if the workflow can't be gone on with.
        """
        handle, ask = running.handle, self._contact.ask
        is_ready = asyncio.Event()

        async def give_none(_request: ShardRequest) -> Issue:
            return Issue(shards=(), is_end=True, window=1, score=self._coordinator.score())

        async def take(number: int, report: ShardReport) -> Receipt:
            await is_ready.wait()
            return await self._write(number, report)

        # Before anything can end it: whoever follows the job goes on with this coordinator then.
        await ask(lambda: handle.signal(AccountRun.hand_over))
        progress: Progress | None = None
        async with self._contact.listen(running.queue, give_none, take):
            try:
                async with self._contact.within(_LIMIT_S):
                    progress = await ask(lambda: handle.query(AccountRun.progress))
                    packed = await ask(lambda: handle.query(AccountRun.shards_out))
                # A pass over the manifest takes as long as it takes.
                await self._coordinator.adopt(ask for rows in packed or () for ask in unpack_asks(rows))
                is_ready.set()
                async with self._contact.within(_LIMIT_S):
                    await ask(lambda: handle.signal(AccountRun.end))
                    ended = await self._ending(running)
            except (TimeoutError, WorkflowFailureError, WorkflowQueryFailedError):
                if progress is not None:
                    self._inherit(progress)
                return False
        if ended is None:
            return False
        self._inherit(ended)
        return True

    async def _write(self, number: int, report: ShardReport) -> Receipt:
        try:
            return await self._coordinator.commit_adopted(number, report)
        except Exception as exc:
            self._coordinator.fail(exc)
            self._has_failed.set()
            raise

    async def _ending(self, running: RunningJob) -> Ended | None:
        """Wait for its end; None if there is none to wait for any more, or nobody waits."""
        result = asyncio.create_task(self._contact.ask(running.handle.result))
        others = {
            asyncio.create_task(self._has_failed.wait()),
            asyncio.create_task(self._coordinator.aborting.wait()),
        }
        try:
            await asyncio.wait({result, *others}, return_when=asyncio.FIRST_COMPLETED)
            ended = result.result() if result.done() else None
        finally:
            for task in (result, *others):
                task.cancel()
        return None if ended is None else ended_of(ended)

    # --- what somebody has asked of the job -------------------------------------------------------

    async def _inherit_from_the_dead(self) -> None:
        """Keep to what was asked of a job that has ended, if no coordinator has lived to hear of it."""
        contact, unended = self._contact, self._history.unended_run_ids
        ended = await contact.ask(lambda: find_ending(contact.engine, self._account, of_runs=unended))
        if ended is not None:
            self._inherit(
                ended if ended.is_handed_over else Ended(is_canceled=ended.is_canceled, score=ended.score)
            )

    def _inherit(self, job: Progress | Ended) -> None:
        self.rate = job.rate
        self.is_canceled = job.is_canceled
        self._coordinator.note_pause(is_paused=self._coordinator.is_paused or job.is_paused)
