"""A followed job whose coordinator is replaced by another; a double stands in for Temporal."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace
from temporalio.client import Client as Engine
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import TerminatedError
from temporalio.service import RPCError, RPCStatusCode

from batchcancel.cluster.following import FollowedJob
from batchcancel.cluster.messages import Ended, Memo, Progress, Score
from batchcancel.cluster.running import REPLACED, RunningJob
from batchcancel.errors import ClusterError, EngineError

MEMO = Memo(
    run_id="run-1",
    ledger="/here/ledger.jsonl",
    host="host-1",
    operator="somebody",
    manifest=(),
    started_at="2026-11-26T20:00:00.000Z",
)
NEXT = replace(MEMO, run_id="run-2", host="host-2")
HANDED_OVER = Ended(is_canceled=False, score=Score(to_settle=9), is_handed_over=True)


@dataclass
class Execution:
    """One workflow: that of one coordinator."""

    number: int
    memo: Memo = MEMO
    ending: Ended | str | None = None
    """What it came to; the reason if it was terminated, None while it runs."""

    @property
    def name(self) -> str:
        return f"first-{self.number}"

    @property
    def status(self) -> WorkflowExecutionStatus:
        if self.ending is None:
            return WorkflowExecutionStatus.RUNNING
        is_whole = isinstance(self.ending, Ended)
        return WorkflowExecutionStatus.COMPLETED if is_whole else WorkflowExecutionStatus.TERMINATED


@dataclass
class Temporal:
    """A server with the executions of one name, and every handle on them."""

    executions: list[Execution] = field(default_factory=lambda: [Execution(1)])
    id: str = "batchcancel/test/host/m"
    is_mute: bool = False
    """Whether no coordinator answers."""
    is_handed_over: bool = False
    """Whether another one has come to the latest execution, whose score it gives."""

    def get_workflow_handle(self, _name: str, run_id: str) -> Any:
        (one,) = (one for one in self.executions if one.name == run_id)

        async def result(**_: object) -> Ended:
            if isinstance(one.ending, str):
                raise WorkflowFailureError(cause=TerminatedError(one.ending))
            assert one.ending is not None
            return one.ending

        return SimpleNamespace(result=result)

    async def describe(self, **_: object) -> Any:
        one = self.executions[-1]

        async def memo_value(_name: str, type_hint: type) -> Memo:
            assert type_hint is Memo
            return one.memo

        return SimpleNamespace(
            status=one.status,
            run_id=one.name,
            task_queue="q",
            memo_value=memo_value,
            raw_description=SimpleNamespace(
                pending_activities=[], workflow_execution_info=SimpleNamespace(first_run_id=one.name)
            ),
        )

    async def query(self, *_: object, **__: object) -> Progress:
        if self.is_mute:
            raise RPCError("nobody polls", RPCStatusCode.DEADLINE_EXCEEDED, b"")
        return Progress(
            state="running",
            score=Score(to_settle=99 if self.is_handed_over else self.executions[-1].number),
            shards_out=0,
            window=1,
            rate=None,
            is_handed_over=self.is_handed_over,
        )

    async def signal(self, *_: object, **__: object) -> None:
        """Hear of a pause."""

    def followed(self) -> FollowedJob:
        """Follow the first one."""
        handle = cast("Any", self)
        job = RunningJob(handle=handle, memo=MEMO, queue="q", run_id="first-1", first_run_id="first-1")
        return FollowedJob(cast("Engine", self), job)

    def succeed(self, ending: Ended | str, *, by: Memo = NEXT) -> None:
        """End the latest one, and begin another."""
        self.executions[-1].ending = ending
        self.executions.append(Execution(len(self.executions) + 1, by))


@pytest.mark.parametrize("ending", [HANDED_OVER, REPLACED], ids=["handed over", "could not be gone on with"])
async def test_a_job_goes_on_with_the_coordinator_that_has_taken_it_over(ending: Ended | str) -> None:
    """Who follows it is told once whose it is now, and sees that one's counts and end."""
    temporal = Temporal()
    job = temporal.followed()
    assert await job.look_patiently() is None
    temporal.succeed(ending)
    assert (await job.look_patiently() or "").endswith(
        "with another 'batchcancel submit', of somebody on host-2."
    )
    assert await job.look_patiently() is None
    assert (job.ended, job.progress.score.to_settle, job.memo.run_id) == (None, 2, "run-2")
    temporal.executions[-1].ending = Ended(is_canceled=False, score=Score(to_settle=2))
    await job.look_patiently()
    assert job.ended == temporal.executions[-1].ending


async def test_several_take_overs_between_two_looks_are_one() -> None:
    """Also if the last one has ended already."""
    temporal = Temporal()
    job = temporal.followed()
    await job.look()
    temporal.succeed(HANDED_OVER)
    temporal.succeed(HANDED_OVER, by=replace(MEMO, run_id="run-3"))
    temporal.executions[-1].ending = ended = Ended(is_canceled=True, score=Score(to_settle=3))
    await job.look()
    assert (job.ended, job.memo.run_id) == (ended, "run-3")


async def test_counts_stay_as_they_were_while_it_is_taken_over() -> None:
    """The score is that of the next coordinator then, of which the total is another one."""
    temporal = Temporal()
    job = temporal.followed()
    await job.look()
    temporal.is_handed_over = True
    await job.look()
    assert job.progress.score.to_settle == 1
    late = temporal.followed()
    await late.look()
    assert late.progress.score.to_settle == 99, "nothing else is known"


async def test_one_that_has_begun_and_does_not_answer_yet_is_told_of_once_it_does() -> None:
    """Until then the counts are those of the one before, under its name."""
    temporal = Temporal()
    job = temporal.followed()
    await job.look()
    temporal.succeed(HANDED_OVER)
    temporal.is_mute = True
    assert "does not answer" in (await job.look_patiently() or "")
    assert (job.memo.run_id, job.progress.score.to_settle) == ("run-1", 1)
    temporal.is_mute = False
    assert "goes on with another" in (await job.look_patiently() or "")
    assert (job.memo.run_id, job.progress.score.to_settle) == ("run-2", 2)


async def test_whoever_presses_a_key_just_then_is_told_too() -> None:
    """The look after the key finds the next one; the next look says so."""
    temporal = Temporal()
    job = temporal.followed()
    await job.look()
    temporal.succeed(HANDED_OVER)
    await job.tell("pause")
    assert job.memo.run_id == "run-2"
    assert "goes on with another" in (await job.look_patiently() or "")


@pytest.mark.parametrize(
    "others",
    [
        pytest.param(None, id="none yet"),
        pytest.param(replace(MEMO, ledger="/elsewhere/ledger.jsonl"), id="another ledger's job since"),
    ],
)
async def test_a_coordinator_that_has_not_begun_is_waited_for(others: Memo | None) -> None:
    """It may have to wait for the leases of workers, or be stopped before it has begun."""
    temporal = Temporal()
    job = temporal.followed()
    await job.look()
    temporal.executions[-1].ending = HANDED_OVER
    if others is not None:
        temporal.succeed(HANDED_OVER, by=others)
    with pytest.raises(EngineError, match="takes over test/host/m and has not begun"):
        await job.look()
    assert "It is asked again" in (await job.look_patiently() or "")
    temporal.executions.append(Execution(3, NEXT))
    assert "goes on with another" in (await job.look_patiently() or "")
    assert job.progress.score.to_settle == 3


@pytest.mark.parametrize(
    "ending", [replace(HANDED_OVER, is_canceled=True), "by hand"], ids=["canceled", "ended"]
)
async def test_the_end_of_a_job_is_none_of_its_coordinator(ending: Ended | str) -> None:
    """A cancel that the next one hears ends it, and so does whoever terminates it in Temporal."""
    temporal = Temporal()
    job = temporal.followed()
    await job.look()
    temporal.executions[-1].ending = ending
    if isinstance(ending, Ended):
        await job.look()
        assert job.ended == ending
    else:
        with pytest.raises(ClusterError, match="was ended in Temporal"):
            await job.look()
