"""How a job is held through what goes wrong in Temporal, which a double stands in for here."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import pytest
from msgspec import to_builtins
from msgspec.structs import replace
from temporalio.api.common.v1 import Payloads
from temporalio.api.history.v1 import (
    HistoryEvent,
    WorkflowExecutionSignaledEventAttributes,
    WorkflowExecutionStartedEventAttributes,
)
from temporalio.client import (
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHistory,
    WorkflowQueryFailedError,
)
from temporalio.exceptions import TerminatedError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from batchcancel.cluster import access, contact, submission, takeover
from batchcancel.cluster.books import Books
from batchcancel.cluster.contact import Contact
from batchcancel.cluster.converter import DATA_CONVERTER
from batchcancel.cluster.messages import (
    Account,
    Ended,
    Memo,
    Progress,
    Score,
    Shard,
    ShardReport,
    ShardRequest,
    Task,
)
from batchcancel.cluster.orders import Orders, read_orders
from batchcancel.cluster.packing import Answer, Ask, Packer, pack, unpack_asks
from batchcancel.cluster.submission import Submission
from batchcancel.cluster.workflow import AccountRun
from batchcancel.errors import EngineError, LedgerWriteError, SettingsError
from batchcancel.job import Job
from batchcancel.model import Reason, ResolvedBy, RunState, RunSummary
from batchcancel.settings import load_settings
from batchcancel.settings.engine import EngineOptions

ACCOUNT = Account(env="sandbox", host="127.0.0.1:9", merchant_id="m")
NAME = f"batchcancel/{ACCOUNT}"
CREDENTIALS = {
    "BATCHCANCEL_MERCHANT_ID": "m",
    "BATCHCANCEL_KEY_ID": "00000000-0000-4000-8000-000000000001",
    "BATCHCANCEL_SHARED_SECRET": "b3BlbnMgbm90aGluZw==",
}
AWAY = RPCError("of the server", RPCStatusCode.UNAVAILABLE, b"")
NOT_THERE = RPCError("of the server", RPCStatusCode.NOT_FOUND, b"")


def all_canceled(shard: Shard) -> ShardReport:
    """Cancel every invoice of a shard, as a worker does."""
    packer = Packer()
    for ask in unpack_asks(shard.rows):
        packer.add(
            Answer(
                number=ask.number,
                reason=Reason.CANCELED,
                resolved_by=ResolvedBy.RESPONSE,
                invoice_status="CANCELED",
                http_status=200,
                attempts=1,
                lookups=0,
                amount="1.50",
                balance="0.00",
                currency="USD",
                correlation_id=None,
                submitted_at=None,
                at="2026-11-26T20:41:21.123Z",
                latency_ms=1.0,
                message=None,
            )
        )
    return ShardReport(answers=packer.packed())


def told(task: Task, *signals: tuple[Any, ...]) -> WorkflowHistory:
    """Write a history: what a workflow began with, and signals by their names and arguments."""
    convert = DATA_CONVERTER.payload_converter.to_payloads
    began = HistoryEvent(
        workflow_execution_started_event_attributes=WorkflowExecutionStartedEventAttributes(
            input=Payloads(payloads=convert([task]))
        )
    )
    heard = [
        HistoryEvent(
            workflow_execution_signaled_event_attributes=WorkflowExecutionSignaledEventAttributes(
                signal_name=name, input=Payloads(payloads=convert(given))
            )
        )
        for name, *given in signals
    ]
    return WorkflowHistory("w", [began, *heard])


@dataclass
class Temporal:
    """A server that has one workflow at most, and does to each call what it is told to, once."""

    fates: dict[str, list[BaseException]] = field(default_factory=dict)
    """What the next calls of a name raise before the call does anything."""
    calls: list[str] = field(default_factory=list)
    memo: Memo | None = None
    """Of the workflow; None if there is none."""
    status: WorkflowExecutionStatus = WorkflowExecutionStatus.RUNNING
    close_time: datetime | None = None
    activities: Mapping[str, Callable[..., Awaitable[Any]]] = field(default_factory=dict)
    """Of the worker that listens."""
    namespace = "default"
    asked: Counter[str] = field(default_factory=Counter)
    """How often each invoice was given to a worker."""
    on_start: Callable[[], None] = lambda: None
    """Done just before a workflow would start."""
    on_task: Callable[[Any], None] = lambda _task: None
    """Told what a workflow is given at its start."""
    work_on: Callable[[Shard], ShardReport] = all_canceled
    """What workers do."""
    is_stuck: bool = False
    """Whether no shard is ever handed out."""
    is_canceled: bool = False
    """Whether somebody has asked for the end of the workflow that is there."""
    is_handed_over: bool = False
    """Whether another coordinator has come to it."""
    is_paused: bool = False
    rate: float | None = None
    shards: tuple[bytes, ...] = ()
    """What shards of an earlier coordinator hold, packed."""
    late: list[ShardReport] = field(default_factory=list)
    """What shards of an earlier coordinator hand in before it ends."""
    fatal: Exception | None = None
    """What the SDK gives up with when somebody would listen."""
    on_end: Callable[[], None] = lambda: None
    """Done just before the workflow is told to end."""
    is_deaf: bool = False
    """Whether it does not end when it is told to."""

    def __post_init__(self) -> None:
        self.workflow_service = SimpleNamespace(describe_namespace=self._describe_namespace)
        self.has_ended = asyncio.Event()

    async def _describe_namespace(self, _request: object, **_limits: object) -> None:
        self._meet("describe_namespace")

    def _meet(self, call: str) -> None:
        self.calls.append(call)
        if self.fates.get(call):
            raise self.fates[call].pop(0)

    def get_workflow_handle(self, name: str, run_id: str | None = None) -> Temporal:
        assert run_id in {None, "r"}
        assert name == NAME
        return self

    @property
    def id(self) -> str:
        return NAME

    async def start_workflow(self, *given: Any, memo: dict[str, Memo], **_others: object) -> Temporal:
        self.on_start()
        task = given[1] if given else None
        self.on_task(task)
        if self.memo is None or self.status is not WorkflowExecutionStatus.RUNNING:
            self.memo, self.status = memo["job"], WorkflowExecutionStatus.RUNNING
            self.has_ended.clear()
            self.is_canceled = self.is_handed_over = False
            if task is not None and task.is_canceled:
                self.is_canceled = True
                self.has_ended.set()
        self._meet("start_workflow")
        return self

    async def describe(self, **_: object) -> Any:
        self._meet("describe")
        if self.memo is None:
            raise NOT_THERE

        async def memo_value(_name: str, type_hint: type) -> Memo | None:
            assert type_hint is Memo
            return self.memo

        return SimpleNamespace(
            status=self.status,
            close_time=self.close_time,
            run_id="r",
            task_queue="old-queue",
            memo_value=memo_value,
            raw_description=SimpleNamespace(
                pending_activities=[], workflow_execution_info=SimpleNamespace(first_run_id="r")
            ),
        )

    async def result(self) -> Any:
        """Be the workflow, one shard after the other, until there are no more or somebody ends it.

        What it came to is given without its type, as by a handle that was found by its name.
        """
        self._meet("result")
        for number, report in enumerate(self.late):
            await self._bring(number, report)
        self.late.clear()
        offset = 0
        while not self.has_ended.is_set():
            if self.is_stuck:
                await self.has_ended.wait()
                break
            issue = await self.activities["give"](ShardRequest(offset=offset))
            if not issue.shards and issue.is_end:
                break
            for shard in issue.shards:
                self.asked.update(ask.invoice_id for ask in unpack_asks(shard.rows))
                offset = shard.number + 1
                await self._bring(shard.number, self.work_on(shard))
        self.status = WorkflowExecutionStatus.COMPLETED
        return to_builtins(
            Ended(
                is_canceled=self.is_canceled,
                score=Score(to_settle=0),
                is_handed_over=self.is_handed_over,
            )
        )

    async def fetch_history(self) -> WorkflowHistory:
        """Tell what was asked of the workflow, as the server does."""
        self._meet("fetch_history")
        task = Task(shard_queue="q", is_paused=self.is_paused, rate=self.rate, score=Score(to_settle=0))
        signals = [("cancel", self.is_canceled), ("hand_over", self.is_handed_over)]
        return told(task, *((name,) for name, is_told in signals if is_told))

    async def _bring(self, number: int, report: ShardReport) -> None:
        """Bring a report, again and again if it is not taken: so does the workflow."""
        while True:
            try:
                await self.activities["take"](number, report)
            except Exception:  # noqa: BLE001 - whatever it is
                await asyncio.sleep(0.01)
            else:
                return

    async def query(self, what: object, **_: object) -> Progress | list[bytes]:
        self._meet("query")
        if what is AccountRun.shards_out:
            return list(self.shards)
        return Progress(
            state="ending" if self.has_ended.is_set() else "paused" if self.is_paused else "running",
            score=Score(to_settle=0),
            shards_out=0,
            window=1,
            rate=self.rate,
        )

    async def signal(self, what: object) -> None:
        self._meet("signal")
        if what is AccountRun.hand_over:
            self.is_handed_over = True
        elif what is AccountRun.end and not self.is_deaf:
            self.on_end()
            self.has_ended.set()

    async def terminate(self, *_details: object, reason: str | None = None) -> None:
        self._meet("terminate")
        self.calls.append(reason or "")
        self.status = WorkflowExecutionStatus.TERMINATED
        self.close_time = datetime.now(UTC)
        self.has_ended.set()


class Listener:
    """Stands in for the SDK's worker on a queue."""

    def __init__(
        self,
        engine: Temporal,
        *,
        activities: list[Any],
        sticky_queue_schedule_to_start_timeout: timedelta,
        on_fatal_error: Callable[[BaseException], Awaitable[None]],
        **_: object,
    ) -> None:
        assert sticky_queue_schedule_to_start_timeout <= timedelta(seconds=2), "a take-over waits for it"
        self._on_fatal_error = on_fatal_error
        self._engine = engine
        self._activities = {one.__name__: one for one in activities}

    async def __aenter__(self) -> None:
        self._engine.calls.append("listen")
        if self._engine.fatal is not None:
            await self._on_fatal_error(self._engine.fatal)
            raise self._engine.fatal
        self._engine.activities = self._activities

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, where: TracebackType | None
    ) -> None:
        self._engine.activities = {}


@pytest.fixture
def temporal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Temporal]:
    """Stand in for the server; nobody waits for the clock."""
    monkeypatch.setattr(contact, "Worker", Listener)
    monkeypatch.setattr(contact, "_AGAIN_S", 0.01)
    monkeypatch.setattr(submission, "_AGAIN_S", 0.01)
    monkeypatch.setattr(access, "_LOOK_S", 0.01)
    monkeypatch.setattr(access, "_PATIENCE_S", 0.05)
    one = Temporal()
    yield one
    assert not any(one.fates.values()), "each fate was met"


@dataclass
class Bench:
    """A manifest of twenty invoices, and jobs over it."""

    folder: Path
    temporal: Temporal
    with_job: Callable[[Job], None] = lambda _job: None
    """Told of each job before it runs."""

    def held(self) -> Submission:
        return Submission(self.temporal, EngineOptions(), window=2, shard_rows=10)  # type: ignore[arg-type]  # a double

    def job(self, **flags: Any) -> Job:
        manifest = self.folder / "ids.csv"
        if not manifest.exists():
            manifest.write_text("\n".join(["invoice_id", *map(str, range(2600, 2620))]) + "\n", "utf-8")
        settings = load_settings(
            [manifest],
            environ=CREDENTIALS,
            env="sandbox",
            base_url="http://127.0.0.1:9",
            ledger=str(self.folder / "ledger.jsonl"),
            **flags,
        )
        return Job(settings, open_workforce=self.held().open_workforce)

    async def run(self, **flags: Any) -> RunSummary:
        async with asyncio.timeout(10), self.job(**flags) as job:
            self.with_job(job)
            return await job.run()

    async def stopped(self, **flags: Any) -> str:
        """Run a job that has to stop for safety; return why."""
        summary = await self.run(**flags)
        assert (summary.state, summary.tally.open) == (RunState.STOPPED, 20)
        return summary.why or ""


@pytest.fixture
def bench(tmp_path: Path, temporal: Temporal) -> Bench:
    """Give a folder for jobs."""
    return Bench(tmp_path, temporal)


def memo(**values: Any) -> Memo:
    """Show what a job of somebody else shows."""
    shown = {
        "run_id": "01J0000000000000000000000X",
        "ledger": "/elsewhere/ledger.jsonl",
        "host": "other-host",
        "operator": "somebody",
        "manifest": (),
        "started_at": "2026-11-26T20:00:00.000Z",
    }
    return Memo(**shown | values)


# --- before a job ---------------------------------------------------------------------------------


async def test_nobody_has_the_quota(bench: Bench) -> None:
    """Or a job that has ended, or the job's own earlier coordinator."""
    async with bench.job() as job:
        await bench.held().ensure_free(job)
        bench.temporal.memo = memo()
        bench.temporal.status = WorkflowExecutionStatus.COMPLETED
        await bench.held().ensure_free(job)


async def test_a_job_that_has_the_quota_is_named(bench: Bench) -> None:
    """With its ledger, its host and who began it."""
    bench.temporal.memo = memo()
    async with bench.job() as job:
        with pytest.raises(EngineError, match=r"/elsewhere/ledger.jsonl on other-host, of somebody"):
            await bench.held().ensure_free(job)


async def test_server_that_goes_away_meanwhile_is_told(bench: Bench) -> None:
    """Before anything was sent."""
    bench.temporal.fates["describe"] = [AWAY]
    async with bench.job() as job:
        with pytest.raises(EngineError, match="can't be reached"):
            await bench.held().ensure_free(job)


async def test_simulator_inside_the_process_is_refused(bench: Bench) -> None:
    """No worker can call it."""
    settings = load_settings([bench.folder / "ids.csv"], environ={}, env="sandbox")
    inside = SimpleNamespace(settings=settings, merchant_id="m", earlier_run_ids=frozenset())
    with pytest.raises(SettingsError, match="--base-url"):
        await bench.held().ensure_free(inside)  # type: ignore[arg-type]  # a double


# --- the start ------------------------------------------------------------------------------------


async def test_a_server_that_is_away_is_asked_again(bench: Bench) -> None:
    """At the look for an earlier job, at the start and at the end: each is met, and nothing is done twice."""
    bench.temporal.fates = {"describe": [AWAY, AWAY], "start_workflow": [AWAY], "result": [AWAY]}
    summary = await bench.run()
    assert summary.state is RunState.COMPLETE
    assert bench.temporal.calls.count("start_workflow") == 2
    assert bench.temporal.asked == dict.fromkeys(map(str, range(2600, 2620)), 1)


async def test_a_start_whose_answer_was_lost_is_known_again(bench: Bench) -> None:
    """The server has the workflow, and says so to who asks for it once more."""
    bench.temporal.fates["start_workflow"] = [AWAY, WorkflowAlreadyStartedError(NAME, "AccountRun")]
    summary = await bench.run()
    assert (summary.state, summary.tally.results) == (RunState.COMPLETE, {Reason.CANCELED: 20})


@pytest.mark.parametrize(
    ("others", "words"),
    [
        pytest.param(memo(), "Another job (/elsewhere/ledger.jsonl on other-host", id="it runs"),
        pytest.param(None, "Another job uses this quota", id="it has ended already"),
    ],
)
async def test_a_job_that_came_between_is_left_alone(bench: Bench, others: Memo | None, words: str) -> None:
    """Between the look and the start; ours stops with a sentence, and nothing was handed out."""

    def come_between() -> None:
        bench.temporal.memo = memo()
        bench.temporal.fates["start_workflow"] = [WorkflowAlreadyStartedError(NAME, "AccountRun")]
        if others is None:
            bench.temporal.fates["describe"] = [NOT_THERE]

    bench.temporal.on_start = come_between
    assert words in await bench.stopped()
    assert not bench.temporal.asked
    assert "terminate" not in bench.temporal.calls


# --- while it is held -----------------------------------------------------------------------------


async def test_a_workflow_that_is_terminated_stops_the_job(bench: Bench) -> None:
    """Rows stay open."""
    bench.temporal.fates["result"] = [WorkflowFailureError(cause=TerminatedError("by somebody"))]
    assert "ended in Temporal" in await bench.stopped()


async def test_a_job_that_another_coordinator_has_taken_is_not_told_as_done(bench: Bench) -> None:
    """Somebody has copied the ledger to another host, and begun there too."""
    bench.temporal.is_stuck = True

    async def take() -> None:
        await bench.temporal.signal(AccountRun.hand_over)
        await bench.temporal.signal(AccountRun.end)

    def take_soon(_job: Job) -> None:
        asyncio.get_running_loop().call_later(0.1, lambda: taking.append(asyncio.create_task(take())))

    taking: list[asyncio.Task[None]] = []
    bench.with_job = take_soon
    assert "which has a copy of this ledger, has taken the job over" in await bench.stopped()


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(zlib.compress(b'[0,"a reason of the future"]'), id="unknown words"),
        pytest.param(b"packed in another way", id="packed otherwise"),
    ],
)
async def test_answers_of_a_newer_worker_stop_the_job(bench: Bench, answers: bytes) -> None:
    """What they say is not shown; they stay in Temporal, from where a newer coordinator takes them."""
    bench.temporal.work_on = lambda _shard: ShardReport(answers=answers, worker="w")
    said = await bench.stopped()
    assert "it may be newer. They wait in Temporal" in said
    assert "future" not in said
    assert "signal" in bench.temporal.calls
    assert "terminate" not in bench.temporal.calls


async def test_what_a_full_disk_leaves_stays_in_temporal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards hand in what they have, and the next coordinator takes it."""

    async def fail(*_: object) -> None:
        raise LedgerWriteError("There is no room.")

    monkeypatch.setattr(Books, "write", fail)
    with pytest.raises(LedgerWriteError):
        await bench.run()
    assert bench.temporal.calls[-2:] == ["signal", "query"], "it has taken its shards back"
    assert "terminate" not in bench.temporal.calls


async def test_a_server_that_the_sdk_gives_up_stops_the_job(bench: Bench) -> None:
    """Such as one that falls silent in that very moment; it is no defect of the program."""
    bench.temporal.fatal = RuntimeError("of the SDK, with its own words")
    assert await bench.stopped() == "Temporal can't be listened to any more."


@pytest.mark.parametrize("call", ["start_workflow", "result"])
async def test_what_is_not_there_any_more_stops_the_job(bench: Bench, call: str) -> None:
    """The namespace was deleted, or the workflow: a job with open rows is not complete."""
    bench.temporal.fates[call] = [NOT_THERE]
    assert "ended in Temporal" in await bench.stopped()


async def test_a_refusal_that_lasts_stops_the_job(bench: Bench) -> None:
    """Wherever it is: its workers end likewise."""
    refusal = RPCError("Bearer secret", RPCStatusCode.UNAUTHENTICATED, b"")
    bench.temporal.is_stuck = True

    async def refuse(_request: object, **_limits: object) -> None:
        raise refusal

    bench.temporal.workflow_service = SimpleNamespace(describe_namespace=refuse)
    said = await bench.stopped()
    assert "refuses this client" in said
    assert said.endswith("run the same command again.")
    assert "secret" not in said


@pytest.mark.parametrize("fate", [[], [AWAY]], ids=["ended", "server away"])
async def test_a_job_that_nobody_waits_for_is_terminated(bench: Bench, fate: list[BaseException]) -> None:
    """If that can be had in a second; its workers stop at the end of their leases anyway."""
    bench.temporal.is_stuck = True
    bench.temporal.is_deaf = True
    bench.temporal.fates["terminate"] = fate

    def abort_soon(job: Job) -> None:
        for _ in range(2):
            asyncio.get_running_loop().call_later(0.1, job.stop, "for the test")

    bench.with_job = abort_soon
    summary = await bench.run()
    assert (summary.state, summary.tally.open) == (RunState.INTERRUPTED, 20)
    assert bench.temporal.calls.count("terminate") == 1


async def test_a_job_that_ends_without_temporal_leaves_its_workflow_to_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporal may be back in that very moment."""
    monkeypatch.setattr(submission, "_END_WITHOUT_S", 0.05)
    bench.temporal.is_stuck = bench.temporal.is_deaf = True

    def part(job: Job) -> None:
        asyncio.get_running_loop().call_later(0.1, job.stop, "SIGTERM")

    async def be_away(_request: object, **_limits: object) -> None:
        raise AWAY

    bench.temporal.workflow_service = SimpleNamespace(describe_namespace=be_away)
    bench.with_job = part
    summary = await bench.run()
    assert (summary.state, summary.tally.open) == (RunState.INTERRUPTED, 20)
    assert "terminate" not in bench.temporal.calls


async def test_a_job_that_is_cancelled_leaves_its_workflow_to_the_next(bench: Bench) -> None:
    """Its shards hand in what they have."""
    bench.temporal.is_stuck = True
    running = asyncio.create_task(bench.run())
    async with asyncio.timeout(10):
        while "result" not in bench.temporal.calls:
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert bench.temporal.calls[-2:] == ["signal", "query"]
    assert "terminate" not in bench.temporal.calls


# --- an earlier coordinator -----------------------------------------------------------------------


async def interrupted(bench: Bench, *, limit: int = 5) -> Memo:
    """Have a job end early; return what its workflow would show if it had not."""
    shown: list[Memo] = []
    bench.temporal.on_start = lambda: None
    begin = bench.temporal.start_workflow

    async def start(*_: object, memo: dict[str, Memo], **_others: object) -> Temporal:
        shown.append(memo["job"])
        return await begin(memo=memo)

    bench.temporal.start_workflow = start  # type: ignore[method-assign]  # this one time
    await bench.run(limit=limit)
    bench.temporal.start_workflow = begin  # type: ignore[method-assign]  # as it was
    bench.temporal.calls.clear()
    bench.temporal.asked.clear()
    bench.temporal.memo, bench.temporal.status = shown[0], WorkflowExecutionStatus.RUNNING
    bench.temporal.has_ended.clear()
    return shown[0]


async def test_an_earlier_coordinator_s_workflow_is_asked_to_end(bench: Bench) -> None:
    """Its shards hand in what they have, here nothing, and the rest is asked about anew."""
    await interrupted(bench)
    summary = await bench.run()
    assert (summary.state, summary.tally.settled_earlier) == (RunState.COMPLETE, 5)
    assert bench.temporal.calls[:6] == ["describe", "signal", "signal", "listen", "query", "result"]
    assert "terminate" not in bench.temporal.calls
    assert bench.temporal.asked == dict.fromkeys(map(str, range(2605, 2620)), 1)


@pytest.mark.parametrize(
    ("call", "fate"),
    [
        pytest.param("query", WorkflowQueryFailedError("no"), id="it does not tell its shards"),
        pytest.param("result", WorkflowFailureError(cause=TerminatedError("no")), id="it fails at its end"),
    ],
)
async def test_an_earlier_workflow_that_fails_is_ended_and_its_leases_waited_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, call: str, fate: BaseException
) -> None:
    """What its shards had not handed in is asked about again, once no worker can be at it any more."""
    waited = await _waits(monkeypatch)
    await interrupted(bench)
    bench.temporal.fates[call] = [fate]
    summary = await bench.run()
    assert summary.state is RunState.COMPLETE
    assert "another coordinator has come in its place" in bench.temporal.calls
    assert 3.5 < max(waited) <= 5


async def test_an_earlier_workflow_that_takes_too_long_is_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shards drain for 8 s at most; who takes a minute will not come any more."""
    monkeypatch.setattr(takeover, "_LIMIT_S", 0.05)
    waited = await _waits(monkeypatch)
    await interrupted(bench)
    bench.temporal.is_stuck = True
    bench.temporal.is_deaf = True
    bench.temporal.on_start = lambda: setattr(bench.temporal, "is_stuck", False)
    summary = await bench.run()
    assert summary.state is RunState.COMPLETE
    assert "another coordinator has come in its place" in bench.temporal.calls
    assert 3.5 < max(waited) <= 5


async def test_a_workflow_of_any_earlier_run_is_taken_over(bench: Bench) -> None:
    """Whoever was taking it over may have been killed, or a 'run' has come between."""
    shown = await interrupted(bench)
    bench.temporal.memo = None
    await bench.run(limit=5)
    bench.temporal.memo = shown
    async with bench.job() as job:
        await bench.held().ensure_free(job)
    summary = await bench.run()
    assert (summary.state, summary.tally.settled_earlier) == (RunState.COMPLETE, 10)


async def test_a_cancel_that_nobody_heard_ends_the_next_one(bench: Bench) -> None:
    """Whoever brings 'submit' back, as a scheduler does, must not undo what a person has asked for."""
    await interrupted(bench)
    bench.temporal.is_canceled = True
    summary = await bench.run()
    assert (summary.state, summary.why) == (RunState.STOPPED, "'batchcancel cancel' asked for it.")
    assert bench.temporal.asked == {}


async def test_what_somebody_has_asked_of_it_holds_on_with_another_manifest(bench: Bench) -> None:
    """The nightly export came anew: that is no reason to undo what a person has asked for."""
    await interrupted(bench)
    (bench.folder / "ids.csv").write_text("invoice_id\n1\n2600\n2619\n", encoding="utf-8")
    bench.temporal.is_paused, bench.temporal.rate = True, 3.0
    assert await begun_with(bench) == (True, 3.0, False)


async def begun_with(bench: Bench, **flags: Any) -> tuple[bool, float | None, bool]:
    """Run a job to its end; return what its workflow begins with: paused, the rate, canceled."""
    seen: list[Task] = []
    bench.temporal.on_task = seen.append
    await bench.run(**flags)
    (task,) = seen
    return task.is_paused, task.rate, task.is_canceled


async def test_what_somebody_asks_of_it_while_it_is_taken_over_holds_on(bench: Bench) -> None:
    """It was told as done, to whoever asked for it."""
    await interrupted(bench)

    def ask() -> None:
        bench.temporal.is_paused, bench.temporal.rate = True, 7.0

    bench.temporal.on_end = ask
    assert await begun_with(bench) == (True, 7.0, False)


@pytest.mark.parametrize("fate", ["it fails at its end", "it does not end", "it tells nothing"])
async def test_what_somebody_has_asked_of_one_that_can_t_be_gone_on_with_holds_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    """Its history tells what it can't."""
    monkeypatch.setattr(takeover, "_LIMIT_S", 0.05)
    await _waits(monkeypatch)
    await interrupted(bench)
    temporal = bench.temporal
    temporal.is_paused, temporal.rate, temporal.is_canceled = True, 3.0, True
    temporal.is_stuck = temporal.is_deaf = fate == "it does not end"
    if fate == "it fails at its end":
        temporal.fates["result"] = [WorkflowFailureError(cause=TerminatedError("no"))]
    elif fate == "it tells nothing":
        temporal.fates["query"] = [WorkflowQueryFailedError("no")]
    assert await begun_with(bench) == (True, 3.0, True)
    assert "another coordinator has come in its place" in temporal.calls
    assert temporal.asked == {}


@pytest.mark.parametrize("status", [WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.TERMINATED])
@pytest.mark.parametrize(
    ("has_end", "is_handed_over", "begins"),
    [
        pytest.param(False, True, (True, 3.0, True), id="killed, and so was the one that took it over"),
        pytest.param(True, True, (True, 3.0, True), id="ended without Temporal, and the next one was killed"),
        pytest.param(False, False, (False, None, True), id="killed when it was to hear of it"),
        pytest.param(True, False, (False, None, None), id="heard of it, unless it was cut short"),
    ],
)
async def test_what_no_coordinator_has_lived_to_hear_holds_on(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    status: WorkflowExecutionStatus,
    begins: tuple[bool, float | None, bool | None],
    *,
    has_end: bool,
    is_handed_over: bool,
) -> None:
    """The workflow has ended by now, and its history tells; who has heard of it has written that."""
    await _waits(monkeypatch)
    await interrupted(bench)
    temporal = bench.temporal
    temporal.status, temporal.is_handed_over = status, is_handed_over
    temporal.close_time = datetime.now(UTC)
    temporal.is_paused, temporal.rate, temporal.is_canceled = True, 3.0, True
    if not has_end:
        ledger = bench.folder / "ledger.jsonl"
        ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-1]))
    is_paused, rate, is_canceled = begins
    if is_canceled is None:
        is_canceled = status is WorkflowExecutionStatus.TERMINATED
    assert await begun_with(bench) == (is_paused, rate, is_canceled)


@pytest.mark.parametrize(
    ("rate", "begins"), [(2.0, 2.0), (50.0, 3.0)], ids=["less is asked for by now", "more is"]
)
async def test_the_lower_rate_counts(bench: Bench, rate: float, begins: float) -> None:
    """Of what somebody has set for the job, and what this one is given."""
    await interrupted(bench)
    bench.temporal.rate = 3.0
    assert await begun_with(bench, rate=rate) == (False, begins, False)


async def test_nothing_is_taken_over_from_another_ledger_s_job(bench: Bench) -> None:
    """It has ended, and what was asked of it was asked of it alone."""
    temporal = bench.temporal
    temporal.memo, temporal.status = memo(), WorkflowExecutionStatus.COMPLETED
    temporal.is_paused = temporal.is_canceled = temporal.is_handed_over = True
    assert await begun_with(bench) == (False, None, False)


async def test_answers_that_are_being_written_when_it_is_too_late_are_not_asked_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is slow, and the earlier workflow is given up meanwhile."""
    monkeypatch.setattr(takeover, "_LIMIT_S", 0.05)
    await _waits(monkeypatch)
    await interrupted(bench)
    temporal, write = bench.temporal, Books.write
    temporal.shards = (pack([Ask(19, "2619")]),)
    temporal.late = [all_canceled(SimpleNamespace(rows=temporal.shards[0]))]  # type: ignore[arg-type]  # its rows

    async def write_slowly(books: Books, *row: Any) -> None:
        if "terminate" not in temporal.calls:
            await asyncio.sleep(0.3)
        await write(books, *row)

    monkeypatch.setattr(Books, "write", write_slowly)
    summary = await bench.run()
    assert "terminate" in temporal.calls
    assert (summary.state, summary.tally.results) == (RunState.COMPLETE, {Reason.CANCELED: 15})
    assert temporal.asked == dict.fromkeys(map(str, range(2605, 2619)), 1)


async def test_a_second_ctrl_c_while_it_takes_over_has_shards_taken_back(bench: Bench) -> None:
    """What they have stays in Temporal; nothing is listened to or begun any more."""
    await interrupted(bench)
    query = bench.temporal.query

    async def query_late(*what: object, **how: object) -> Any:
        await asyncio.sleep(0.3)
        return await query(*what, **how)

    def stop_twice(job: Job) -> None:
        for _ in range(2):
            asyncio.get_running_loop().call_later(0.1, job.stop, "SIGINT")

    bench.temporal.query = query_late  # type: ignore[method-assign]  # slower
    bench.with_job = stop_twice
    summary = await bench.run()
    assert (summary.state, summary.tally.open) == (RunState.INTERRUPTED, 15)
    assert bench.temporal.calls.count("listen") == 1
    assert [one for one in bench.temporal.calls if one != "describe_namespace"][-2:] == ["signal", "query"]
    assert not {"terminate", "start_workflow"} & set(bench.temporal.calls)


async def test_answers_that_can_t_be_read_stay_in_temporal(bench: Bench) -> None:
    """A newer worker gave them: the job stops and says so, and a newer coordinator takes them."""
    await interrupted(bench)
    bench.temporal.late = [ShardReport(answers=b"packed in another way", worker="w")]
    summary = await bench.run()
    assert (summary.state, summary.tally.settled_earlier) == (RunState.STOPPED, 5)
    assert "it may be newer. They wait in Temporal" in (summary.why or "")
    assert not {"terminate", "start_workflow"} & set(bench.temporal.calls)


async def test_a_workflow_that_can_t_be_done_again_is_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server says this of it for as long as it is asked."""
    monkeypatch.setattr(takeover, "_LIMIT_S", 0.1)
    waited = await _waits(monkeypatch)
    await interrupted(bench)
    query = bench.temporal.query

    async def refuse(*_: object, **__: object) -> Any:
        raise RPCError("in failed state", RPCStatusCode.FAILED_PRECONDITION, b"")

    bench.temporal.query = refuse  # type: ignore[method-assign]  # until it is terminated
    bench.temporal.on_start = lambda: setattr(bench.temporal, "query", query)
    summary = await bench.run()
    assert summary.state is RunState.COMPLETE
    assert "another coordinator has come in its place" in bench.temporal.calls
    assert 3.5 < max(waited) <= 5


async def test_time_in_which_temporal_is_away_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shards of an earlier coordinator are not given up because of that."""
    monkeypatch.setattr(contact, "_AGAIN_S", 0.02)
    coordinator = SimpleNamespace(aborting=asyncio.Event(), away_s=1.0)
    way = Contact(Temporal(), coordinator)  # type: ignore[arg-type]  # doubles
    async with way.within(0.1):
        await asyncio.sleep(0.3)
    coordinator.away_s = 0.0
    with pytest.raises(TimeoutError):
        async with way.within(0.1):
            await asyncio.sleep(0.3)


async def test_a_job_of_another_ledger_is_not_taken_over(bench: Bench) -> None:
    """Between the check before the run and its begin."""
    bench.temporal.memo = memo()
    assert "Another job" in await bench.stopped()
    assert bench.temporal.calls == ["describe"]


@pytest.mark.parametrize(
    ("status", "ago_s", "least_s", "most_s"),
    [
        pytest.param(WorkflowExecutionStatus.TERMINATED, 1.0, 3.5, 4.1, id="cut short a second ago"),
        pytest.param(WorkflowExecutionStatus.TERMINATED, 60.0, 0.0, 0.0, id="cut short long ago"),
        pytest.param(WorkflowExecutionStatus.TERMINATED, -60.0, 5.0, 5.0, id="by a clock that is ahead"),
        pytest.param(WorkflowExecutionStatus.COMPLETED, 1.0, 0.0, 0.0, id="at its end"),
    ],
)
async def test_leases_of_a_job_that_was_cut_short_are_waited_out(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    status: WorkflowExecutionStatus,
    ago_s: float,
    least_s: float,
    most_s: float,
) -> None:
    """Its workers may not know it yet; those of a job that came to its end have none."""
    waited = await _waits(monkeypatch)
    bench.temporal.memo = memo()
    bench.temporal.status = status
    bench.temporal.close_time = datetime.now(UTC) - timedelta(seconds=ago_s)
    summary = await bench.run()
    assert summary.state is RunState.COMPLETE
    assert least_s <= max(waited) <= most_s


async def _waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note how long is waited for leases, and wait for nothing."""
    waited: list[float] = []

    async def wait(_self: Contact, seconds: float) -> None:
        waited.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(Contact, "wait", wait)
    return waited


async def test_what_the_server_refuses_for_good_is_not_asked_again(bench: Bench) -> None:
    """Such as a name that is too long for it: it would say the same for ever."""
    bench.temporal.fates["start_workflow"] = [RPCError("too long", RPCStatusCode.INVALID_ARGUMENT, b"")]
    async with asyncio.timeout(20):
        summary = await bench.run()
    assert summary.state is RunState.STOPPED
    assert summary.why is not None
    assert "INVALID_ARGUMENT" in summary.why
    assert bench.temporal.calls.count("start_workflow") == 1


# --- what was asked -------------------------------------------------------------------------------


TASK = Task(shard_queue="q", score=Score(to_settle=0))


@pytest.mark.parametrize(
    ("task", "signals", "orders"),
    [
        pytest.param(TASK, [], Orders(), id="nothing"),
        pytest.param(TASK, [("pause",), ("end",)], Orders(is_paused=True), id="paused, and told to end"),
        pytest.param(TASK, [("pause",), ("resume",)], Orders(), id="resumed"),
        pytest.param(TASK, [("set_rate", 7.0), ("set_rate", 5)], Orders(rate=5.0), id="rates"),
        pytest.param(TASK, [("set_rate", float("nan")), ("set_rate", -1.0)], Orders(), id="no rates"),
        pytest.param(TASK, [("set_rate", "fast"), ("set_rate",)], Orders(), id="no numbers"),
        pytest.param(TASK, [("cancel",)], Orders(is_canceled=True), id="canceled"),
        pytest.param(TASK, [("of a newer version", "x")], Orders(), id="what nobody knows here"),
        pytest.param(
            replace(TASK, is_paused=True, rate=3.0, is_canceled=True),
            [("resume",)],
            Orders(rate=3.0, is_canceled=True),
            id="what it began with",
        ),
    ],
)
def test_a_history_tells_what_was_asked(task: Task, signals: list[tuple[Any, ...]], orders: Orders) -> None:
    """In its order; what the workflow itself would not take, this does not."""
    assert read_orders(told(task, *signals)) == (orders, False)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("asked", (Orders(rate=5.0), False)),
        ("canceled", (Orders(is_canceled=True), False)),
        ("handed-over", (Orders(), True)),
    ],
)
def test_real_histories_tell_it_too(name: str, said: tuple[Orders, bool]) -> None:
    """As the server has written them."""
    path = Path(__file__).parents[1] / "vectors" / "cluster" / f"0.1.0-{name}.json"
    assert read_orders(WorkflowHistory.from_json("w", path.read_text(encoding="utf-8"))) == said
