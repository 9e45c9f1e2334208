"""Record histories of ``AccountRun`` against a real server, for ``tests/unit/test_cluster_replay.py``.

    temporal server start-dev --headless &
    python -m tests.cluster.record --version 0.1.0

What stands in ``tests/vectors/cluster`` stays there when the workflow changes: a job that an older
coordinator began may be taken over by a newer one, which does again what the history says.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from batchcancel.cluster.connection import connect
from batchcancel.cluster.converter import DATA_CONVERTER
from batchcancel.cluster.messages import (
    Account,
    Conditions,
    Issue,
    Receipt,
    Score,
    Shard,
    ShardReport,
    ShardRequest,
    Task,
)
from batchcancel.cluster.packing import Ask, pack
from batchcancel.cluster.workflow import MOST_SHARDS, AccountRun
from batchcancel.settings.engine import EngineOptions

_VECTORS: Final = Path(__file__).parents[1] / "vectors" / "cluster"
_SCORE: Final = Score(to_settle=9)
_CONDITIONS: Final = Conditions(
    timeout=30,
    max_attempts=5,
    max_outage=600,
    max_errors=None,
    max_error_rate=50,
    max_mismatch=None,
    ledger_began_at="2026-11-01T02:00:00.000Z",
)


class Stage:
    """A coordinator and its workers, who do as they are told."""

    def __init__(self, *fates: str, first: int = 0, has_workers: bool = True) -> None:
        """Prepare.

        Args:
            fates: Of one shard each: ``done``, ``rest`` (something is left), ``silent`` (its worker is never
                heard of again), ``waits`` (until it is taken back) or ``fails``.
            first: The first shard's number.
            has_workers: Whether anyone listens where the shards are sent to.
        """
        self.has_workers = has_workers
        self._fates = {first + place: fate for place, fate in enumerate(fates)}
        self._numbers = deque(self._fates)
        self._has_rest = False
        self.is_waiting = asyncio.Event()

    @activity.defn
    async def next_shards(self, _request: ShardRequest) -> Issue:
        """Give out two at a time."""
        shards = [self._shard(self._numbers.popleft()) for _ in range(min(2, len(self._numbers)))]
        if self._has_rest and not shards:
            self._has_rest = False
            number = max(self._fates) + 1
            self._fates[number] = "done"
            shards = [self._shard(number)]
        return Issue(shards=tuple(shards), is_end=not self._numbers, window=2, score=_SCORE)

    @activity.defn
    async def commit_part(self, number: int, report: ShardReport) -> Receipt:
        """Write nothing."""
        leaves_rest = self._fates[number] != "done" or not report.worker
        self._has_rest |= leaves_rest
        return Receipt(is_over=report.stop is not None, leaves_rest=leaves_rest, score=_SCORE)

    @activity.defn
    async def run_shard(self, shard: Shard) -> ShardReport:
        """Meet the shard's fate."""
        match self._fates[shard.number]:
            case "silent":
                await asyncio.sleep(3600)
            case "fails":
                raise ApplicationError("a defect in the program (ValueError)", b"", type="ValueError")
            case "waits":
                self.is_waiting.set()
                try:
                    while True:
                        activity.heartbeat(b"")
                        await asyncio.sleep(0.5)
                except asyncio.CancelledError:
                    return ShardReport(worker="w")
        return ShardReport(worker="w")

    def _shard(self, number: int) -> Shard:
        return Shard(
            number=number,
            account=Account(env="test", host="apitest.visaacceptance.com", merchant_id="example_merchant"),
            conditions=_CONDITIONS,
            rows=pack([Ask(number, str(2600 + number))]),
            count=1,
            rate=10.0,
            concurrency=2,
        )


Handle = WorkflowHandle[Any, Any]


async def _whole(stage: Stage, handle: Handle) -> None:
    """Let it come to its end."""


async def _asked(stage: Stage, handle: Handle) -> None:
    """Have somebody pause it, change its rate, and let it go on."""
    await stage.is_waiting.wait()
    await handle.signal(AccountRun.set_rate, 5.0)
    await handle.signal(AccountRun.pause)
    await asyncio.sleep(3)
    await handle.signal(AccountRun.resume)


async def _canceled(stage: Stage, handle: Handle) -> None:
    """Have somebody end it."""
    await stage.is_waiting.wait()
    await handle.signal(AccountRun.cancel)


async def _handed_over(stage: Stage, handle: Handle) -> None:
    """Have another coordinator come."""
    await stage.is_waiting.wait()
    await handle.signal(AccountRun.hand_over)
    await handle.signal(AccountRun.end)


async def _ended_before_it_began(stage: Stage, handle: Handle) -> None:
    """Have somebody end it while no worker has any of its shards."""
    while "run_shard" not in await _pending(handle):
        await asyncio.sleep(0.1)
    await handle.signal(AccountRun.cancel)


async def _pending(handle: Handle) -> set[str]:
    described = await handle.describe()
    return {one.activity_type.name for one in described.raw_description.pending_activities}


async def _late(stage: Stage, handle: Handle) -> None:
    """Have a worker that was given up come back."""
    await asyncio.sleep(6)
    await handle.signal(AccountRun.hand_in, args=[0, ShardReport(worker="late")])


_STORIES: Final[dict[str, tuple[Callable[[Stage, Handle], Awaitable[None]], Callable[[], Stage]]]] = {
    "whole": (_whole, lambda: Stage("done", "rest", "done")),
    "asked": (_asked, lambda: Stage("waits", "waits", "done")),
    "canceled": (_canceled, lambda: Stage("done", "waits")),
    "handed-over": (_handed_over, lambda: Stage("done", "waits")),
    "untouched": (_ended_before_it_began, lambda: Stage("done", "done", has_workers=False)),
    "given-up": (_late, lambda: Stage("silent", "silent", "done")),
    "failed": (_whole, lambda: Stage("done", "fails", "done", "done")),
    "renewed": (_whole, lambda: Stage(*["done"] * 12, first=MOST_SHARDS)),
}


async def _record(client: Client, name: str, version: str) -> None:
    story, build = _STORIES[name]
    stage, queue = build(), f"record-{name}"
    worker = Worker(
        client,
        task_queue=queue,
        identity="recorder",
        workflows=[AccountRun],
        activities=[stage.next_shards, stage.commit_part, stage.run_shard],
        max_heartbeat_throttle_interval=timedelta(seconds=1),
        default_heartbeat_throttle_interval=timedelta(seconds=1),
    )
    shard_queue = queue if stage.has_workers else f"{queue}-nobody"
    async with worker:
        handle = await client.start_workflow(
            AccountRun.run, Task(shard_queue=shard_queue, score=_SCORE), id=f"record/{name}", task_queue=queue
        )
        first = client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
        await asyncio.gather(story(stage, handle), handle.result())
    history = await first.fetch_history()
    # A stack trace names files of this machine, and nothing is decided by it.
    text = re.sub(r'"stackTrace": "(?:[^"\\]|\\.)*"', '"stackTrace": ""', history.to_json())
    (_VECTORS / f"{version}-{name}.json").write_text(text, encoding="utf-8")


async def _main(address: str, version: str, names: list[str]) -> None:
    await connect(EngineOptions(address=address))  # a sentence, if it is not there
    client = await Client.connect(address, data_converter=DATA_CONVERTER, identity="recorder")
    _VECTORS.mkdir(exist_ok=True)
    for name in names:
        await _record(client, name, version)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="localhost:7233")
    parser.add_argument("--version", required=True, help="of the workflow that is recorded")
    parser.add_argument("--story", action="append", choices=_STORIES, help="which; all of them without")
    arguments = parser.parse_args()
    asyncio.run(_main(arguments.address, arguments.version, arguments.story or list(_STORIES)))
