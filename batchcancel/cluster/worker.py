"""The process that works on shards: as many at a time as it has room for, until it is told to go."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from typing import Final

from msgspec.structs import replace
from temporalio import activity
from temporalio.client import AsyncActivityCancelledError, AsyncActivityHandle
from temporalio.client import Client as Engine
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from batchcancel.api import Client, ServiceClock
from batchcancel.cluster.connection import account_of
from batchcancel.cluster.lease import HEARTBEAT_EVERY_S, Lease
from batchcancel.cluster.messages import PROTOCOL, Account, Shard, ShardReport
from batchcancel.cluster.shard import ShardRun
from batchcancel.cluster.workflow import CUT_OFF, AccountRun
from batchcancel.errors import BatchCancelError
from batchcancel.job.connect import build_client
from batchcancel.job.keys import load_keys
from batchcancel.model import Event
from batchcancel.pipeline import DRAIN_S
from batchcancel.settings import Settings

_HAND_OVER_S: Final = DRAIN_S + 4.0
"""How long a worker that goes may take to hand in what its shards have."""
_HEARTBEAT_CALL_S: Final = 1.5
_AGAIN_S: Final = 0.2
_LATE_FOR_S: Final = 600.0
"""How long a worker that was cut off tries to hand in what it had; its rest is long done by then."""
_LATE_EVERY_S: Final = 0.2
_LATE_CALL_S: Final = 1.0
"""The workflow does not wait long; left alone, the SDK's own back-off may sleep for longer than that."""
_SDK_HEARTBEAT_S: Final = 3.0
"""How often the SDK passes heartbeats on besides; by itself it would wait for half a minute or more."""
_MOST_CONNECTIONS: Final = 500
_CLOCK: Final[Callable[[], float]] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds that go on while the host is suspended, as Temporal's do; not so but on Linux."""


class ShardWorker:
    """Work on the shards of one account, with the worker's own credentials."""

    def __init__(
        self,
        settings: Settings,
        *,
        on_event: Callable[[Event], None] = lambda _event: None,
        on_stop: Callable[[str], None] = lambda _why: None,
    ) -> None:
        """Read the keys; nothing is opened.

        Args:
            settings: Where to call and as whom.
            on_event: Told of everything that happens to requests; must not block.
            on_stop: Told why a shard, or a merchant's part of one, could not be worked on to its end.

        Raises:
            SettingsError: A file of keys can't be used, or the simulator in this process would be called.
        """
        self._settings = settings
        self._on_event = on_event
        self._on_stop = on_stop
        self._keys = load_keys(settings)
        self.account: Final[Account] = account_of(settings, merchant_id=self._keys.identity.merchant_id)
        self._clock = ServiceClock(time.time)
        self._engine: Engine
        self._name = f"{platform.node()}, process {os.getpid()}"
        self._resources = AsyncExitStack()
        self._clients: dict[float, Client] = {}
        """By the time-out of a request, which is each job's own."""
        self._known: set[str | None] = set()
        """The merchants whose key the service has taken, so that no shard has to find that out again."""
        self._at_work: set[ShardRun] = set()
        self._late: set[asyncio.Task[None]] = set()
        """What is still to be handed in of shards that were given up."""

    async def run(self, engine: Engine, queue: str, *, slots: int, leaving: asyncio.Event) -> None:
        """Work on shards until told to go, then hand in what there is.

        Args:
            engine: A connection to Temporal.
            queue: The account's.
            slots: Shards at a time, at most.
            leaving: Set once no new shard is to be taken.
        """
        self._engine = engine
        async with self._resources:
            async with self._worker(queue, slots):
                await leaving.wait()
            for task in self._late:
                task.cancel()
            await asyncio.gather(*self._late, return_exceptions=True)

    def abort(self, why: str) -> None:
        """Have every shard hand in what it has without waiting for what is in flight."""
        for run in self._at_work:
            run.abort(why)

    @asynccontextmanager
    async def _worker(self, queue: str, slots: int) -> AsyncIterator[None]:
        worker = Worker(
            self._engine,
            task_queue=queue,
            activities=[self.run_shard],
            max_concurrent_activities=slots,
            max_heartbeat_throttle_interval=timedelta(seconds=_SDK_HEARTBEAT_S),
            default_heartbeat_throttle_interval=timedelta(seconds=_SDK_HEARTBEAT_S),
            graceful_shutdown_timeout=timedelta(seconds=_HAND_OVER_S),
        )
        async with worker:
            yield

    @activity.defn
    async def run_shard(self, shard: Shard) -> ShardReport:
        """Bring the invoices of a shard to their ends, or to where somebody stops it."""
        try:
            report = await self._work_on(shard)
        except ApplicationError as exc:
            self._on_stop(exc.message)
            raise
        if report.stop is not None:
            self._on_stop(report.stop.why)
        for stopped in report.stopped_merchants:
            self._on_stop(f"{stopped.merchant_id or self.account.merchant_id}: {stopped.why}")
        return report

    async def _work_on(self, shard: Shard) -> ShardReport:
        self._check_shard(shard)
        lease = Lease(_CLOCK)
        try:
            run = await self._open(shard, lease)
        except Exception as exc:  # noqa: BLE001 - as below
            raise _told(exc, b"") from None
        handle = self._engine.get_async_activity_handle(task_token=activity.info().task_token)
        beats = _Heartbeats(handle, run, lease, _CLOCK)
        self._at_work.add(run)
        try:
            report = await _to_its_end(run, beats)
        except Exception as exc:  # noqa: BLE001 - it goes on as what Temporal may keep of it
            raise _told(exc, run.answers()) from None
        finally:
            self._at_work.discard(run)
        if not lease.holds:
            self._hand_in_late(shard.number, report)
            raise ApplicationError("the worker was cut off", report.answers, type=CUT_OFF, non_retryable=True)
        return report

    async def _open(self, shard: Shard, lease: Lease) -> ShardRun:
        return ShardRun(
            shard,
            settings=self._settings,
            keys=self._keys,
            client=await self._client_for(shard.conditions.timeout),
            clock=self._clock,
            lease=lease,
            worker=self._name,
            known=self._known,
            on_event=self._on_event,
        )

    def _hand_in_late(self, number: int, report: ShardReport) -> None:
        """Tell the workflow itself what a shard has that Temporal may have given up, once it can be told."""
        info = activity.info()
        job = self._engine.get_workflow_handle(info.workflow_id or "", run_id=info.workflow_run_id)

        async def hand_in() -> None:
            give_up_at = asyncio.get_running_loop().time() + _LATE_FOR_S
            while asyncio.get_running_loop().time() < give_up_at:
                try:
                    await job.signal(
                        AccountRun.hand_in, args=[number, report], rpc_timeout=timedelta(seconds=_LATE_CALL_S)
                    )
                except RPCError as exc:
                    if exc.status is RPCStatusCode.NOT_FOUND:
                        return
                    await asyncio.sleep(_LATE_EVERY_S)
                else:
                    return

        task = asyncio.create_task(hand_in())
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _client_for(self, timeout_s: float) -> Client:
        if timeout_s not in self._clients:
            options = replace(self._settings.options, timeout=timeout_s, concurrency=_MOST_CONNECTIONS)
            client = build_client(
                replace(self._settings, options=options),
                self._keys,
                str(self._settings.base_url),
                self._clock,
                on_event=self._on_event,
            )
            self._clients[timeout_s] = client
            await self._resources.enter_async_context(client)
        return self._clients[timeout_s]

    def _check_shard(self, shard: Shard) -> None:
        """Refuse what this worker does not understand, and the invoices of anyone else.

        Raises:
            ApplicationError: A newer version made the shard, or it is another account's.
        """
        if shard.protocol > PROTOCOL:
            raise ApplicationError(
                f"This worker ({self._name}) has batchcancel {version('batchcancel')}, which is older than "
                "that of the job. Update it.",
                type="ClusterError",
                non_retryable=True,
            )
        wanted = shard.account
        if wanted != self.account:
            raise ApplicationError(
                f"This worker ({self._name}) works for {self.account}, and the shard is for {wanted}. Let "
                "each have a task queue of its own.",
                type="ClusterError",
                non_retryable=True,
            )


async def _to_its_end(run: ShardRun, beats: _Heartbeats) -> ShardReport:
    """Run a shard to its end; a cancellation is a reason to stop and to report, none to throw away."""

    async def run_it() -> ShardReport:
        async with beats.going_on():
            report = await run.run()
            await beats.confirm()
            return report

    running = asyncio.create_task(run_it())
    while True:
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            if running.cancelled():
                raise
            details = activity.cancellation_details()
            if details is not None and (details.cancel_requested or details.paused or details.reset):
                run.stop("the shard is taken back")
            else:
                run.abort("Temporal has given this worker up, or its time to go is over")


class _Heartbeats:
    """Tell Temporal what a shard has so far, and learn from it whether to go on.

    Each is sent and confirmed by itself: what the SDK sends in an activity's name tells nobody whether it
    arrived, and the lease hangs on that. The SDK hears of each too, for it gives up an activity that it hears
    nothing of; it sends fewer on.
    """

    def __init__(
        self, handle: AsyncActivityHandle, run: ShardRun, lease: Lease, clock: Callable[[], float]
    ) -> None:
        self._handle = handle
        self._run = run
        self._lease = lease
        self._clock = clock

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Send heartbeats for the length of the block; the lease holds when it begins, or was refused."""
        await self._send()
        tasks = [
            asyncio.create_task(work)
            for work in (self._keep_sending(), self._stop_when_over(), self._stop_when_leaving())
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def confirm(self) -> None:
        """Return once Temporal has all answers, or the lease is over.

        The report itself may not arrive: then this heartbeat tells what was done.
        """
        while self._lease.holds and not await self._send():  # noqa: ASYNC110 - Temporal is asked
            await asyncio.sleep(_AGAIN_S)

    async def _keep_sending(self) -> None:
        while self._lease.holds:
            await asyncio.sleep(HEARTBEAT_EVERY_S)
            await self._send()

    async def _send(self) -> bool:
        """Send a heartbeat; return whether it arrived."""
        sent_at = self._clock()
        details = (self._run.answers(), self._run.pulse())  # the workflow takes the answers from there
        activity.heartbeat(*details)
        try:
            await self._handle.heartbeat(*details, rpc_timeout=timedelta(seconds=_HEARTBEAT_CALL_S))
        except AsyncActivityCancelledError:
            self._run.stop("the shard is taken back")
        except RPCError as exc:
            if exc.status is RPCStatusCode.NOT_FOUND:
                self._lease.end()
            return False
        self._lease.renew(sent_at)
        return True

    async def _stop_when_over(self) -> None:
        while left_s := self._lease.left_s:  # noqa: ASYNC110 - a clock ends it, not an event
            await asyncio.sleep(left_s)
        self._run.abort("Temporal has given this worker up, or can't be reached")

    async def _stop_when_leaving(self) -> None:
        await activity.wait_for_worker_shutdown()
        self._run.stop("the worker is going")


def _told(exc: Exception, answers: bytes) -> ApplicationError:
    """Return what Temporal may keep of a failure: a defect's own words may hold what nobody may read."""
    is_ours = isinstance(exc, BatchCancelError)
    why = str(exc) if is_ours else f"a defect in the program ({type(exc).__name__})"
    return ApplicationError(why, answers, type=type(exc).__name__, non_retryable=True)
