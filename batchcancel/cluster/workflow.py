"""``AccountRun``: moves shards and answers between coordinator and workers, and outlives both.

One runs for each API quota. It knows nothing of invoices: what it moves it does not look into. Pure: this
module is imported again in Temporal's sandbox, and whatever it does is done again from the history.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.exceptions import TimeoutError as ActivityTimeoutError

with workflow.unsafe.imports_passed_through():
    from batchcancel.cluster.lease import HEARTBEAT_TIMEOUT_S
    from batchcancel.cluster.messages import (
        Ended,
        Issue,
        Progress,
        Receipt,
        Shard,
        ShardReport,
        ShardRequest,
        Stop,
        Task,
    )

CUT_OFF: Final = "CutOff"
"""The type of the failure of a worker that was out of Temporal's reach for too long."""
MOST_SHARDS: Final = 300
"""After so many a workflow goes on as a new one: histories may not grow without an end."""
MOST_HISTORY_BYTES: Final = 10_000_000
"""Likewise. Temporal warns at this size, and ends a workflow at five times as much."""

_OWN_CALL: Final = timedelta(seconds=10)
"""A call of the coordinator is given up after that long and made again: it may be another one by then."""
_LATE_HAND_IN: Final = timedelta(seconds=4)
"""A worker that was given up may be back: after a restart of the server all of them are, with what they did
until their leases ended. It is waited for that long before anyone else is asked."""
_SHARD: Final = timedelta(days=2)
_RETRY: Final = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), backoff_coefficient=2, maximum_interval=timedelta(seconds=5)
)
_ONCE: Final = RetryPolicy(maximum_attempts=1)
"""A shard is not tried again as it was: what is known of it is written first, the rest is a new one."""


@workflow.defn
class AccountRun:
    """The shards of one job, as many at a time as there may be."""

    @workflow.init
    def __init__(self, task: Task) -> None:
        self._task = task
        self._offset = task.offset
        self._rate = task.rate
        self._is_paused = task.is_paused
        self._is_ending = self._is_canceled = task.is_canceled
        self._is_handed_over = task.is_handed_over
        self._is_renewing = False
        self._is_at_end = False
        self._has_got_rest = False
        """Whether a shard has left invoices since the coordinator was last asked for more."""
        self._has_to_wait = False
        """Whether the coordinator has nothing more until a shard comes back."""
        self._window = 1
        self._score = task.score
        self._shards: dict[int, Shard] = {}
        """Those that are out: with a worker, ready for one, or with their answers on the way back."""
        self._ready: deque[Shard] = deque()
        """Those that no worker has yet."""
        self._at_work: dict[int, workflow.ActivityHandle[ShardReport]] = {}
        self._handed_in: dict[int, ShardReport] = {}
        """What came from workers that had been given up."""
        self._carriers: set[asyncio.Task[None]] = set()
        self._defect: BaseException | None = None
        """What no carrier should have met."""

    @workflow.run
    async def run(self, task: Task) -> Ended:
        """Move shards until there are no more, or somebody ends it."""
        while True:
            if self._defect is not None:  # its own words may hold what no history may
                kind = type(self._defect).__name__
                raise ApplicationError(f"a defect in the program ({kind})", type=kind, non_retryable=True)
            if self._wants_more:
                await self._fetch()
            elif not self._shards and (self._is_ending or self._is_at_end):
                return Ended(
                    is_canceled=self._is_canceled,
                    score=self._score,
                    is_handed_over=self._is_handed_over,
                )
            elif not self._shards and self._is_renewing:
                workflow.continue_as_new(
                    Task(
                        shard_queue=task.shard_queue,
                        offset=self._offset,
                        is_paused=self._is_paused,
                        is_handed_over=self._is_handed_over,
                        rate=self._rate,
                        score=self._score,
                    )
                )
            else:
                await workflow.wait_condition(
                    lambda: self._wants_more or self._is_through or self._defect is not None
                )

    # --- what others ask of it --------------------------------------------------------------------

    @workflow.signal
    def pause(self) -> None:
        """Take every shard back, and give out no more."""
        self._is_paused = True
        self._recall()

    @workflow.signal
    def resume(self) -> None:
        """Give out shards again."""
        self._is_paused = False

    @workflow.signal
    def set_rate(self, rate: float) -> None:
        """Share out another rate, requests a second, from now on: shards that are out come back first."""
        if 0 < rate < math.inf:  # whoever may use the namespace may send a signal
            self._rate = rate
            self._recall()

    @workflow.signal
    def hand_in(self, number: int, report: ShardReport) -> None:
        """Take the answers of a worker that was out of reach for so long that it was given up."""
        if number in self._shards:
            self._handed_in[number] = report

    @workflow.signal
    def cancel(self) -> None:
        """End because somebody wants that who watches it: what it returns tells the coordinator."""
        self._is_canceled = True
        self.end()

    @workflow.signal
    def hand_over(self) -> None:
        """Take in that another coordinator has come in the place of its own, and will end it."""
        self._is_handed_over = True

    @workflow.signal
    def end(self) -> None:
        """Take every shard back, and end."""
        self._is_ending = True
        self._recall()

    @workflow.query
    def progress(self) -> Progress:
        """Tell how far the job is."""
        state = "ending" if self._is_ending else "paused" if self._is_paused else "running"
        return Progress(
            state=state,
            score=self._score,
            shards_out=len(self._shards),
            window=self._window,
            rate=self._rate,
            is_handed_over=self._is_handed_over,
        )

    @workflow.query
    def shards_out(self) -> list[bytes]:
        """Return the packed invoices of every shard whose answers are not durable yet."""
        return [shard.rows for shard in self._shards.values()]

    # --- shards -----------------------------------------------------------------------------------

    @property
    def _gives_none(self) -> bool:
        return self._is_paused or self._is_ending or self._is_renewing

    @property
    def _wants_more(self) -> bool:
        is_there_more = not self._is_at_end and not self._has_to_wait
        return is_there_more and not self._gives_none and len(self._ready) < (self._window + 1) // 2

    @property
    def _is_through(self) -> bool:
        return not self._shards and (self._is_ending or self._is_at_end or self._is_renewing)

    async def _fetch(self) -> None:
        """Ask the coordinator for the next shards, and send each on its way."""
        asked_with = self._rate
        self._has_got_rest = False
        issue = await workflow.execute_activity(
            "next_shards",
            ShardRequest(offset=self._offset, rate=asked_with),
            result_type=Issue,
            start_to_close_timeout=_OWN_CALL,
            retry_policy=_RETRY,
        )
        self._score = issue.score
        self._window = issue.window
        # Answers may have overtaken this one, and left invoices that it does not know of.
        self._is_at_end = issue.is_end and not self._has_got_rest
        for shard in issue.shards:
            self._shards[shard.number] = shard
            self._offset = shard.number + 1
        self._ready.extend(issue.shards)
        self._has_to_wait = not issue.shards
        if self._gives_none or self._rate != asked_with:
            self._give_back()
        self._set_to_work()
        if self._has_to_wait and not self._shards:
            await workflow.sleep(1)
            self._has_to_wait = False

    def _set_to_work(self) -> None:
        """Send shards that are ready to workers, as many as may be worked on."""
        while self._ready and len(self._at_work) < self._window:
            shard = self._ready.popleft()
            self._at_work[shard.number] = workflow.start_activity(
                "run_shard",
                shard,
                result_type=ShardReport,
                task_queue=self._task.shard_queue,
                start_to_close_timeout=_SHARD,
                heartbeat_timeout=timedelta(seconds=HEARTBEAT_TIMEOUT_S),
                retry_policy=_ONCE,
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            )
            self._spawn(self._carry(shard))

    def _give_back(self) -> None:
        """Let the coordinator hand out again what no worker has yet: with another share, or never."""
        while self._ready:
            self._spawn(self._settle(self._ready.popleft(), ShardReport()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        carrier = asyncio.create_task(work)
        self._carriers.add(carrier)
        carrier.add_done_callback(self._land)

    def _land(self, carrier: asyncio.Task[None]) -> None:
        """Let go of a carrier; what it met would leave its shard out for ever, and the job waiting for it."""
        self._carriers.discard(carrier)
        if not carrier.cancelled() and (met := carrier.exception()) is not None:
            self._defect = met

    async def _carry(self, shard: Shard) -> None:
        """Bring a shard's answers from its worker to the coordinator."""
        report = await self._await_report(shard)
        self._set_to_work()
        await self._settle(shard, report)

    async def _settle(self, shard: Shard, report: ShardReport) -> None:
        """Bring what there is of a shard to the coordinator."""
        receipt = await workflow.execute_activity(
            "commit_part",
            args=[shard.number, report],
            result_type=Receipt,
            start_to_close_timeout=_OWN_CALL,
            retry_policy=_RETRY,
        )
        del self._shards[shard.number]
        self._handed_in.pop(shard.number, None)
        self._score = receipt.score
        self._has_to_wait = False
        if receipt.leaves_rest:
            self._is_at_end = False
            self._has_got_rest = True
        if receipt.takes_back:
            self._give_back()
        if receipt.is_over and not self._is_ending:
            self._is_ending = True
            self._recall()
        self._renew_in_time()

    async def _await_report(self, shard: Shard) -> ShardReport:
        """Wait for the worker of a shard; whatever becomes of it, return what is known of the shard."""
        handle = self._at_work[shard.number]
        try:
            report: ShardReport = await handle
        except asyncio.CancelledError:
            if not handle.cancelled():
                raise
            return ShardReport()  # taken back in the very moment in which it was sent on its way
        except ActivityError as exc:
            report = _report_of(exc)
            if isinstance(exc.cause, ActivityTimeoutError):
                with suppress(asyncio.TimeoutError):
                    await workflow.wait_condition(
                        lambda: shard.number in self._handed_in, timeout=_LATE_HAND_IN
                    )
            return self._handed_in.pop(shard.number, report)
        finally:
            del self._at_work[shard.number]
        return report

    def _recall(self) -> None:
        """Have every worker hand in what it has; what it has not, is handed out again."""
        for handle in self._at_work.values():
            handle.cancel()
        self._give_back()

    def _renew_in_time(self) -> None:
        info = workflow.info()
        is_long = self._offset - self._task.offset >= MOST_SHARDS
        is_large = info.get_current_history_size() >= MOST_HISTORY_BYTES
        if not self._is_renewing and (is_long or is_large or info.is_continue_as_new_suggested()):
            self._is_renewing = True
            self._recall()


def _report_of(failure: ActivityError) -> ShardReport:
    """Return what is known of a shard whose worker did not bring it to an end."""
    cause = failure.cause
    if isinstance(cause, ActivityTimeoutError):  # killed, frozen or cut off: its last heartbeat tells
        return ShardReport(answers=_bytes_of(cause.last_heartbeat_details))
    if isinstance(cause, ApplicationError):
        stop = None if cause.type == CUT_OFF else Stop(kind=cause.type or "", why=cause.message)
        return ShardReport(answers=_bytes_of(cause.details), stop=stop)
    return ShardReport()  # taken back before any worker had it


def _bytes_of(details: object) -> bytes:
    match details:
        case [bytes() as answers, *_]:
            return answers
        case _:
            return b""
