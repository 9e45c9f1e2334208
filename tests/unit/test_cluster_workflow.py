"""What becomes of a shard in the workflow, without a server: its calls are answered at once, or never."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ApplicationError

from batchcancel.cluster.messages import (
    Account,
    Conditions,
    Ended,
    Issue,
    Receipt,
    Score,
    Shard,
    ShardReport,
    Task,
)
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


async def test_a_job_that_was_canceled_before_it_began_ends_at_once() -> None:
    """Nothing is asked for: nobody was there to hear it when it was said."""
    task = Task(shard_queue="q", is_canceled=True, score=Score(to_settle=1))
    ended = await AccountRun(task).run(task)
    assert ended == Ended(is_canceled=True, score=Score(to_settle=1))


async def test_what_somebody_has_asked_goes_on_in_the_next_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that another coordinator has come."""
    continued: list[Task] = []

    def go_on(task: Task) -> None:
        continued.append(task)
        raise ApplicationError("it ends here")

    monkeypatch.setattr(workflow, "continue_as_new", go_on)
    run = AccountRun(TASK)
    run.set_rate(7.0)
    run.pause()
    run.hand_over()
    run._is_renewing = True
    with pytest.raises(ApplicationError, match="it ends here"):
        await run.run(TASK)
    assert continued == [
        Task(shard_queue="q", is_paused=True, is_handed_over=True, rate=7.0, score=Score(to_settle=1))
    ]


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


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), 0.0, -1.0])
async def test_a_rate_that_is_none_is_not_taken(settled: list[Any], rate: float) -> None:
    """Whoever may use the namespace may send a signal; the coordinator could do nothing with such a rate."""
    run = holding(SHARD)
    run.set_rate(rate)
    assert run._rate is None
    assert settled == []
    run.set_rate(10.0)
    assert run._rate == 10.0


async def test_answers_that_overtake_an_end_are_not_forgotten(
    monkeypatch: pytest.MonkeyPatch, settled: list[Any]
) -> None:
    """The coordinator had said that there was nothing more; then a shard left something."""
    take = workflow.execute_activity
    run = holding(SHARD)

    async def answer(name: str, *_: object, **more: Any) -> Any:
        if name == "commit_part":
            return await take(name, **more)
        await run._settle(run._shards[0], ShardReport())
        return Issue(shards=(), is_end=True, window=1, score=Score(to_settle=1))

    async def sleep(_seconds: float) -> None:
        return

    monkeypatch.setattr(workflow, "execute_activity", answer)
    monkeypatch.setattr(workflow, "sleep", sleep)
    run._ready.clear()
    await run._fetch()
    assert settled == [[0, ShardReport()]]
    assert not run._is_at_end
