"""What an earlier coordinator of a ledger left in Temporal: its shards hand in what they have, and it ends.

Whoever has the ledger takes over: it is locked, so that the coordinator which began the job is gone.
"""

from __future__ import annotations

import asyncio
from typing import Final

from temporalio.client import WorkflowFailureError, WorkflowQueryFailedError

from batchcancel.cluster.contact import Contact
from batchcancel.cluster.coordinator import Coordinator
from batchcancel.cluster.lease import HEARTBEAT_TIMEOUT_S
from batchcancel.cluster.messages import Account, Issue, Receipt, ShardReport, ShardRequest
from batchcancel.cluster.orders import Orders, orders_left
from batchcancel.cluster.packing import unpack_asks
from batchcancel.cluster.running import REPLACED, RunningJob, find_job, in_use, seconds_of_leases
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

    async def run(self) -> Orders:
        """Take what the shards have, and end the workflow.

        What can't be had is asked about again; where the service has acted, a look-up says so. Returns early
        once the coordinator aborts: what is still in Temporal then stays there for the next one.

        Returns:
            What somebody has asked of the job, which holds on.

        Raises:
            ClusterError: Another ledger's job has the quota, or Temporal would refuse a call for ever.
        """
        contact = self._contact
        running = await contact.ask(lambda: find_job(contact.engine, self._account))
        if running is None:
            left_s = await contact.ask(lambda: seconds_of_leases(contact.engine, self._account))
            await contact.wait(left_s or 0.0)
        else:
            # Of any earlier run: another coordinator may have died while it was taking this one over.
            if running.memo.run_id not in self._history.run_ids:
                raise ClusterError(in_use(running))
            if not await self._take_in(running):
                await contact.ask(lambda: running.handle.terminate(reason=REPLACED))
                await contact.wait(HEARTBEAT_TIMEOUT_S)  # its workers may not know it yet
        orders = await contact.ask(lambda: orders_left(contact.engine, self._account, self._history))
        return orders or Orders()

    async def _take_in(self, running: RunningJob) -> bool:
        """Have the shards hand in what they have; return whether it has ended by that."""
        handle, ask = running.handle, self._contact.ask
        is_ready = asyncio.Event()

        async def give_none(_request: ShardRequest) -> Issue:
            return Issue(shards=(), is_end=True, window=1, score=self._coordinator.score())

        async def take(number: int, report: ShardReport) -> Receipt:
            await is_ready.wait()
            return await self._coordinator.commit_adopted(number, report)

        # Both before it is moved again. By the first, whoever follows the job goes on with this coordinator;
        # by the second, no shard that waited for a worker is begun: its rows may be none of this run's.
        await ask(lambda: handle.signal(AccountRun.hand_over))
        await ask(lambda: handle.signal(AccountRun.end))
        try:
            async with self._contact.listen(running.queue, give_none, take):
                async with self._contact.within(_LIMIT_S):
                    packed = await ask(lambda: handle.query(AccountRun.shards_out))
                if self._coordinator.aborting.is_set():
                    await self._contact.recall(handle)
                    return False
                # A pass over the manifest takes as long as it takes.
                await self._coordinator.adopt(ask for rows in packed or () for ask in unpack_asks(rows))
                is_ready.set()
                async with self._contact.within(_LIMIT_S):
                    return await ask(handle.result) is not None
        except (TimeoutError, WorkflowFailureError, WorkflowQueryFailedError):
            return False
        finally:
            await self._coordinator.settle_adopted()
