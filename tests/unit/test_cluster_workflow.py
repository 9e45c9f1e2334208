"""What becomes of a shard in the workflow, without a server: its calls are answered at once, or never."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ApplicationError

from batchcancel.cluster.messages import Account, Conditions, Receipt, Score, Shard, ShardReport, Task
from batchcancel.cluster.workflow import AccountRun

SHARD = Shard(
    number=0,
    account=Account(env="test", host="h", merchant_id="m"),
    conditions=Conditions(
        timeout=30,
        max_attempts=5,
        max_outage=600,
        max_errors=None,
        max_error_rate=50,
        max_mismatch=None,
        ledger_began_at="2026-11-01T02:00:00.000Z",
    ),
    rows=b"",
    count=1,
    rate=None,
    concurrency=1,
)
TASK = Task(shard_queue="q", score=Score(to_settle=1))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Have no worker answer, and the coordinator take everything; return what it took."""
    taken: list[Any] = []

    async def never() -> None:
        await asyncio.Event().wait()

    async def take(name: str, *, args: list[Any], **_: object) -> Receipt:
        assert name == "commit_part"
        taken.append(args)
        return Receipt(is_over=False, leaves_rest=True, score=Score(to_settle=1))

    info = SimpleNamespace(get_current_history_size=lambda: 0, is_continue_as_new_suggested=lambda: False)
    monkeypatch.setattr(workflow, "start_activity", lambda *_, **__: asyncio.create_task(never()))
    monkeypatch.setattr(workflow, "execute_activity", take)
    monkeypatch.setattr(workflow, "info", lambda: info)
    return taken


def holding(shard: Shard) -> AccountRun:
    """Return a workflow that has a shard which is ready for a worker."""
    run = AccountRun(TASK)
    run._shards[shard.number] = shard
    run._ready.append(shard)
    return run


@pytest.mark.parametrize("turns", [0, 1, 5], ids=["as it leaves", "a turn later", "later"])
async def test_a_shard_that_is_taken_back_comes_back_whenever_that_is(settled: list[Any], turns: int) -> None:
    """The SDK does not tell of a call that was withdrawn before it began as it does of others."""
    run = holding(SHARD)
    run._set_to_work()
    for _ in range(turns):
        await asyncio.sleep(0)
    run.pause()
    async with asyncio.timeout(5):
        while run._shards:
            await asyncio.sleep(0)
    assert settled == [[0, ShardReport()]]


async def test_a_defect_ends_the_job_instead_of_leaving_a_shard_out(
    monkeypatch: pytest.MonkeyPatch, settled: list[Any]
) -> None:
    """What it says of itself does not get into the history."""

    async def fail(*_: object, **__: object) -> Receipt:
        raise KeyError("Jane Doe")

    async def wait(holds: Any) -> None:
        while not holds():
            await asyncio.sleep(0)

    monkeypatch.setattr(workflow, "execute_activity", fail)
    monkeypatch.setattr(workflow, "wait_condition", wait)
    run = holding(SHARD)
    run.pause()
    with pytest.raises(ApplicationError) as raised:
        async with asyncio.timeout(5):
            await run.run(TASK)
    assert str(raised.value) == "KeyError: a defect in the program (KeyError)"
    assert settled == []
