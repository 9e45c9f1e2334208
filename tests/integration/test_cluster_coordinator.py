"""The coordinator in a real job with its ledger; who drives it stands in for engine and workers."""

from __future__ import annotations

import asyncio
import json
import random
import string
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from batchcancel.cluster import coordinator as coordinator_module
from batchcancel.cluster.books import Books
from batchcancel.cluster.coordinator import Coordinator, Wish
from batchcancel.cluster.messages import (
    Account,
    Issue,
    MerchantStop,
    Pulse,
    Receipt,
    Shard,
    ShardReport,
    ShardRequest,
    Stop,
)
from batchcancel.cluster.packing import Answer, Ask, Packer, unpack_asks
from batchcancel.errors import (
    CanaryFailedError,
    ClusterError,
    CredentialsRefusedError,
    LedgerWriteError,
    OutageTooLongError,
    SafetyStopError,
)
from batchcancel.job import Job
from batchcancel.job.workforce import Work, Workforce
from batchcancel.ledger.disk import Disk
from batchcancel.model import (
    AnswersUnclaimed,
    Event,
    MatchField,
    PauseCause,
    PauseEnded,
    PauseStarted,
    Reason,
    ResolvedBy,
    Result,
    RunState,
    RunSummary,
    Tally,
)
from batchcancel.pipeline import Entrance
from batchcancel.retry import Case
from batchcancel.settings import load_settings

ACCOUNT = Account(env="sandbox", host="127.0.0.1:9", merchant_id="m")
CREDENTIALS = {
    "BATCHCANCEL_MERCHANT_ID": "m",
    "BATCHCANCEL_KEY_ID": "00000000-0000-4000-8000-000000000001",
    "BATCHCANCEL_SHARED_SECRET": "b3BlbnMgbm90aGluZw==",
}
Drive = Callable[[Coordinator], Awaitable[None]]


def answer(ask: Ask, reason: Reason = Reason.CANCELED) -> Answer:
    """Answer for one invoice as a worker does."""
    return Answer(
        number=ask.number,
        reason=reason,
        resolved_by=ResolvedBy.RESPONSE,
        invoice_status="CANCELED",
        http_status=200,
        attempts=1,
        lookups=0,
        amount="1.50",
        balance="0.00",
        currency="USD",
        correlation_id="4963015972176007901546",
        submitted_at=None,
        at="2026-11-26T20:41:21.123Z",
        latency_ms=1.0,
        message=None,
    )


def report(answers: Iterable[Answer], **more: Any) -> ShardReport:
    """Write a worker's report."""
    packer = Packer()
    for one in answers:
        packer.add(one)
    return ShardReport(answers=packer.packed(), **more)


def all_canceled(shard: Shard) -> ShardReport:
    """Cancel every invoice of a shard."""
    return report(map(answer, unpack_asks(shard.rows)))


@dataclass
class Hosts:
    """Engine and workers in one: take shards and bring reports, one after another."""

    work_on: Callable[[Shard], ShardReport] = all_canceled
    shards: list[Shard] = field(default_factory=list)
    offset: int = 0

    async def drive(self, coordinator: Coordinator) -> None:
        offset = self.offset
        while True:
            issue = await coordinator.next_shards(ShardRequest(offset=offset))
            if not issue.shards and issue.is_end:
                return
            assert issue.shards, "nothing is out, so there has to be something or an end"
            for shard in issue.shards:
                self.shards.append(shard)
                offset = shard.number + 1
                await coordinator.commit_part(shard.number, self.work_on(shard))

    @property
    def asked(self) -> Counter[str]:
        return Counter(ask.invoice_id for shard in self.shards for ask in unpack_asks(shard.rows))


@dataclass
class Bench:
    """A manifest, a ledger, and jobs over them."""

    folder: Path
    credentials: dict[str, str] = field(default_factory=CREDENTIALS.copy)
    events: list[Event] = field(default_factory=list)

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.jsonl"

    def write(self, *ids: str, header: str = "invoice_id") -> None:
        (self.folder / "ids.csv").write_text("\n".join([header, *ids]) + "\n", encoding="utf-8")

    async def run(
        self,
        drive: Drive,
        *,
        manifest: str = "ids.csv",
        window: int = 2,
        shard_rows: int = 10,
        **flags: Any,
    ) -> tuple[Job, RunSummary]:
        """Run a job to its end."""
        settings = load_settings(
            [self.folder / manifest],
            environ=self.credentials,
            env="sandbox",
            base_url="http://127.0.0.1:9",
            ledger=str(self.ledger),
            **flags,
        )

        @asynccontextmanager
        async def open_workforce(work: Work) -> AsyncIterator[Workforce]:
            yield Coordinator(work, account=ACCOUNT, window=window, shard_rows=shard_rows, drive=drive)

        async with Job(settings, open_workforce=open_workforce, on_event=self.events.append) as job:
            return job, await job.run()

    def rows(self) -> list[dict[str, Any]]:
        """Read the ledger."""
        return [json.loads(line) for line in self.ledger.read_text(encoding="utf-8").splitlines()]

    def results(self) -> Counter[str]:
        """Count the result rows by invoice."""
        return Counter(row["invoice_id"] for row in self.rows() if row["type"] == "result")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Give a folder for jobs."""
    return Bench(tmp_path)


def ids(count: int) -> list[str]:
    """Name so many invoices."""
    return [str(2600 + number) for number in range(count)]


async def test_every_row_ends_as_in_a_run(bench: Bench) -> None:
    """Duplicates, invalid ids and kept columns included; only what is to be asked about travels."""
    bench.write("2601,a", "2602,b", "2601,c", "bad id,d", header="invoice_id,team")
    hosts = Hosts()
    _, summary = await bench.run(hosts.drive, keep=["team"])
    assert hosts.asked == {"2601": 1, "2602": 1}
    assert summary.state is RunState.COMPLETE
    assert summary.tally.is_conserved
    assert (summary.tally.duplicates, summary.tally.results[Reason.INVALID_ID]) == (1, 1)
    assert summary.amounts_canceled == {"USD": "3.00"}
    first = next(row for row in bench.rows() if row["type"] == "result" and row["invoice_id"] == "2601")
    assert (first["row"], first["keep"], first["reason"]) == (1, {"team": "a"}, "canceled")
    assert b"team" not in b"".join(shard.rows for shard in hosts.shards)
    assert bench.rows()[-1]["type"] == "end"


async def test_settled_invoices_are_handed_out_to_nobody(bench: Bench) -> None:
    """The ledger is a run's, whoever works."""
    bench.write(*ids(30))
    await bench.run(Hosts().drive)
    hosts = Hosts()
    _, summary = await bench.run(hosts.drive)
    assert hosts.shards == []
    assert summary.tally.settled_earlier == 30


async def test_shards_are_given_again_to_who_asks_again(bench: Bench) -> None:
    """The answer may have been lost on its way; the same offset gets the same."""
    bench.write(*ids(60))
    seen: list[Issue] = []

    async def drive(coordinator: Coordinator) -> None:
        seen.append(await coordinator.next_shards(ShardRequest(offset=0)))
        seen.append(await coordinator.next_shards(ShardRequest(offset=0)))
        for shard in seen[0].shards[:2]:
            await coordinator.commit_part(shard.number, all_canceled(shard))
        seen.append(await coordinator.next_shards(ShardRequest(offset=4)))
        coordinator.stop("enough")

    _, summary = await bench.run(drive)
    assert [shard.number for shard in seen[0].shards] == [0, 1, 2, 3], "a window, and one that lies ready"
    assert seen[0].shards == seen[1].shards
    assert [shard.number for shard in seen[2].shards] == [4, 5]
    assert summary.tally.open == 40
    assert summary.tally.is_conserved


async def test_a_request_that_is_given_up_loses_no_invoice(bench: Bench) -> None:
    """A long manifest may take longer than the engine waits for an answer: it asks again."""
    bench.write(*ids(30))
    hosts = Hosts()

    async def drive(coordinator: Coordinator) -> None:
        for turns in range(20):
            asking = asyncio.create_task(coordinator.next_shards(ShardRequest(offset=0)))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
        await hosts.drive(coordinator)

    _, summary = await bench.run(drive)
    assert summary.tally.results == {Reason.CANCELED: 30}
    assert hosts.asked == dict.fromkeys(ids(30), 1)


async def test_a_report_that_is_brought_again_writes_nothing(bench: Bench) -> None:
    """At the same time, or later."""
    bench.write(*ids(10))

    async def drive(coordinator: Coordinator) -> None:
        (shard, *_) = (await coordinator.next_shards(ShardRequest(offset=0))).shards
        done = all_canceled(shard)
        await asyncio.gather(*(coordinator.commit_part(shard.number, done) for _ in range(3)))
        assert bench.results() == dict.fromkeys(ids(10), 1), "durable before it is acknowledged"
        receipt = await coordinator.commit_part(shard.number, done)
        assert receipt.score.done == 10

    await bench.run(drive, window=1)
    assert bench.results() == dict.fromkeys(ids(10), 1)


async def test_what_a_shard_leaves_is_handed_out_again(bench: Bench) -> None:
    """With a new number; what may have been acted on comes with a look-up first, and gets no row before."""
    bench.write(*ids(10))

    def work_on(shard: Shard) -> ShardReport:
        first, second, *_ = asks = unpack_asks(shard.rows)
        if shard.number == 0:
            return report([answer(first), answer(second, Reason.UNKNOWN)])
        assert first.invoice_id == "2601"
        assert [ask.is_in_doubt for ask in asks] == [True] + 8 * [False]
        return all_canceled(shard)

    hosts = Hosts(work_on)
    _, summary = await bench.run(hosts.drive, window=1)
    assert summary.tally.results == {Reason.CANCELED: 10}
    assert bench.results() == dict.fromkeys(ids(10), 1)
    assert [shard.count for shard in hosts.shards] == [10, 9]


async def test_what_may_have_been_acted_on_is_written_as_unknown_at_a_stop(bench: Bench) -> None:
    """Nobody looks it up any more, so the next run has to."""
    bench.write(*ids(10))

    async def drive(coordinator: Coordinator) -> None:
        (shard, *_) = (await coordinator.next_shards(ShardRequest(offset=0))).shards
        first, second, third, *_ = unpack_asks(shard.rows)
        await coordinator.commit_part(0, report([answer(first), answer(second, Reason.UNKNOWN)]))
        (shard, *_) = (await coordinator.next_shards(ShardRequest(offset=1))).shards
        coordinator.stop("SIGTERM")
        receipt = await coordinator.commit_part(1, report([answer(third, Reason.UNKNOWN)]))
        assert receipt.is_over

    _, summary = await bench.run(drive, window=1)
    assert summary.tally.results == {Reason.CANCELED: 1, Reason.UNKNOWN: 2}
    assert summary.tally.open == 7
    assert summary.tally.is_conserved


async def test_answers_to_what_was_not_asked_are_left_alone(bench: Bench) -> None:
    """A report is a worker's word on its own shard only."""
    bench.write(*ids(10))

    def work_on(shard: Shard) -> ShardReport:
        asks = unpack_asks(shard.rows)
        return report([*map(answer, asks), answer(asks[0]), answer(Ask(999, "2600"))])

    await bench.run(Hosts(work_on).drive)
    assert bench.results() == dict.fromkeys(ids(10), 1)


# --- by hand --------------------------------------------------------------------------------------


async def test_a_pause_by_hand_is_passed_on_once_and_told(bench: Bench) -> None:
    """Whoever drives it passes the wishes on, in their order."""
    bench.write(*ids(10))

    async def drive(coordinator: Coordinator) -> None:
        for _ in range(2):
            coordinator.pause()
        vitals = coordinator.vitals(to_settle=10, set_rate=None)
        assert (vitals.held_by, vitals.rows_left, vitals.is_stopping) == (PauseCause.BY_HAND, 10, False)
        for _ in range(2):
            coordinator.resume()
        assert coordinator.vitals(to_settle=10, set_rate=None).held_by is None
        wishes = [coordinator.wishes.get_nowait() for _ in range(coordinator.wishes.qsize())]
        assert wishes == [Wish.PAUSE, Wish.RESUME]
        coordinator.stop("SIGTERM")
        coordinator.pause()
        assert coordinator.wishes.empty()
        assert coordinator.vitals(to_settle=10, set_rate=None).is_stopping

    _, summary = await bench.run(drive)
    assert summary.tally.open == 10


async def test_an_absence_of_temporal_is_shown_unless_somebody_has_paused(bench: Bench) -> None:
    """A key that is pressed meanwhile does what it says."""
    bench.write(*ids(10))

    async def drive(coordinator: Coordinator) -> None:
        for _ in range(2):
            coordinator.note_engine(True)
        assert coordinator.vitals(to_settle=10, set_rate=None).held_by is PauseCause.ENGINE_AWAY
        coordinator.pause()
        assert coordinator.vitals(to_settle=10, set_rate=None).held_by is PauseCause.BY_HAND
        coordinator.resume()
        for _ in range(2):
            coordinator.note_engine(False)
        assert coordinator.vitals(to_settle=10, set_rate=None).held_by is None

    await bench.run(drive)
    told = [event for event in bench.events if isinstance(event, PauseStarted | PauseEnded)]
    assert [(type(event), event.cause) for event in told] == [
        (PauseStarted, PauseCause.ENGINE_AWAY),
        (PauseStarted, PauseCause.BY_HAND),
        (PauseEnded, PauseCause.BY_HAND),
        (PauseEnded, PauseCause.ENGINE_AWAY),
    ]


async def test_workers_that_are_missing_for_a_while_are_missed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has a shard is enough, and where no shard is out nobody is."""
    bench.write(*ids(10))
    now = 100.0
    monkeypatch.setattr(coordinator_module, "monotonic", lambda: now)

    async def drive(coordinator: Coordinator) -> None:
        nonlocal now
        held: list[PauseCause | None] = []
        for after_s, are_at_work in (
            (0, False),
            (9, False),
            (9, None),
            (9, False),
            (9, False),
            (1, False),
            (1, True),
        ):
            now += after_s
            coordinator.note_workers(are_at_work)
            held.append(coordinator.vitals(to_settle=10, set_rate=None).held_by)
        assert held == [None, None, None, None, None, PauseCause.NO_WORKER, None]

    await bench.run(drive)


async def test_a_pause_by_others_is_told_and_not_passed_on(bench: Bench) -> None:
    """The job has heard of it already; a key lets it go on."""
    bench.write(*ids(10))

    async def drive(coordinator: Coordinator) -> None:
        for _ in range(2):
            coordinator.note_pause(is_paused=True)
        assert coordinator.vitals(to_settle=10, set_rate=None).held_by is PauseCause.BY_HAND
        assert coordinator.wishes.empty()
        coordinator.resume()
        assert coordinator.wishes.get_nowait() is Wish.RESUME
        coordinator.note_pause(is_paused=False)
        assert coordinator.vitals(to_settle=10, set_rate=None).held_by is None
        assert coordinator.wishes.empty()

    await bench.run(drive)


async def test_answers_count_once_on_their_way_to_the_ledger(bench: Bench) -> None:
    """As their worker has them, then as rows; and money likewise."""
    bench.write(*ids(30))
    seen: list[tuple[int, dict[str, str], int]] = []
    on_the_way: list[set[int]] = []

    def look(coordinator: Coordinator) -> tuple[int, dict[str, str], int]:
        vitals = coordinator.vitals(to_settle=30, set_rate=None)
        assert vitals.workers is not None
        return sum(vitals.workers.answered.values()), vitals.amounts_canceled, vitals.rows_left

    async def drive(coordinator: Coordinator) -> None:
        issue = await coordinator.next_shards(ShardRequest(offset=0))
        assert [len(issue.shards), issue.score.out] == [3, (0, 1, 2)]
        pulses = [
            Pulse(
                shard=number,
                outcomes={"canceled": 10},
                amounts_canceled={"USD": "15.00"},
                in_flight=4,
                allowed_rate=None,
                set_rate=None,
                held_by=None,
                host="h",
                worker="h, process 1",
            )
            for number in (0, 1)
        ]
        coordinator.pulses.note(pulses, out=coordinator.score().out)
        seen.append(look(coordinator))
        for shard in issue.shards:
            committing = asyncio.create_task(coordinator.commit_part(shard.number, all_canceled(shard)))
            on_the_way.append(set())
            while not committing.done():
                await asyncio.sleep(0)
                on_the_way[-1].add(look(coordinator)[0])
            seen.append(look(coordinator))

    job, _ = await bench.run(drive)
    assert on_the_way == [{20}, {20}, {20, 30}]
    assert seen == [
        (20, {"USD": "30.00"}, 30),
        (20, {"USD": "30.00"}, 20),
        (20, {"USD": "30.00"}, 10),
        (30, {"USD": "45.00"}, 0),
    ]
    assert job.vitals().amounts_canceled == {"USD": "45.00"}


async def test_a_rate_that_was_set_is_shared_out_from_the_next_shard_on(bench: Bench) -> None:
    """The workflow says which one somebody has set."""
    bench.write(*ids(100))
    rates: list[float | None] = []

    async def drive(coordinator: Coordinator) -> None:
        for offset, rate in ((0, None), (4, 30.0)):
            issue = await coordinator.next_shards(ShardRequest(offset=offset, rate=rate))
            rates.append(issue.shards[0].rate)
            for shard in issue.shards:
                await coordinator.commit_part(shard.number, all_canceled(shard))
        coordinator.stop("enough")

    await bench.run(drive, rate=200.0)
    assert rates == [pytest.approx(100 - 1 / 1.1), pytest.approx(15 - 1 / 1.1)]


async def test_a_manifest_that_changes_meanwhile_stops_the_job(bench: Bench) -> None:
    """What was read before is finished."""
    bench.write(*ids(5000))

    async def drive(coordinator: Coordinator) -> None:
        bench.write(*ids(4000))
        issue = await coordinator.next_shards(ShardRequest(offset=0))
        assert issue.is_end

    _, summary = await bench.run(drive)
    assert summary.state is RunState.STOPPED
    assert "changed" in str(summary.why)


# --- gates ----------------------------------------------------------------------------------------


async def test_limit_ends_the_job_where_it_was_asked_to(bench: Bench) -> None:
    """The limit is the job's, not a shard's."""
    bench.write(*ids(100))
    hosts = Hosts()
    _, summary = await bench.run(hosts.drive, limit=25)
    assert hosts.asked.total() == 25
    assert summary.as_asked
    assert summary.tally.open == 75


async def test_canaries_have_a_shard_of_their_own_and_come_first(bench: Bench) -> None:
    """Nothing else is out until each of them is what its reply said."""
    bench.write(*ids(100))
    first: list[Issue] = []

    async def drive(coordinator: Coordinator) -> None:
        first.append(await coordinator.next_shards(ShardRequest(offset=0)))
        nothing = await coordinator.next_shards(ShardRequest(offset=1))
        assert (nothing.shards, nothing.is_end) == ((), False)
        await coordinator.commit_part(0, all_canceled(first[0].shards[0]))
        first.append(await coordinator.next_shards(ShardRequest(offset=1)))
        coordinator.stop("enough")

    await bench.run(drive, canary=3)
    assert [(shard.count, shard.is_canary) for shard in first[0].shards] == [(3, True)]
    assert [(shard.count, shard.is_canary) for shard in first[1].shards] == [(10, False)] * 4


async def test_a_canary_that_is_not_confirmed_stops_the_job(bench: Bench) -> None:
    """With exit code 4, and nothing else touched."""
    bench.write(*ids(100))
    hosts = Hosts(lambda shard: report([answer(unpack_asks(shard.rows)[0], Reason.UNKNOWN)]))
    _, summary = await bench.run(hosts.drive, canary=3)
    assert hosts.asked.total() == 3
    assert summary.state is RunState.STOPPED
    assert "--canary" in str(summary.why)


async def test_thresholds_are_the_job_s(bench: Bench) -> None:
    """Errors of several shards add up; the receipt recalls the others."""
    bench.write(*ids(200))
    hosts = Hosts(lambda shard: report(answer(ask, Reason.NOT_FOUND) for ask in unpack_asks(shard.rows)))
    _, summary = await bench.run(hosts.drive, max_errors=25)
    assert summary.state is RunState.STOPPED
    assert "--max-errors" in str(summary.why)
    assert hosts.asked.total() <= 40, "ten at a time: the third shard broke it, and no new one was given out"


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        pytest.param("CredentialsRefusedError", CredentialsRefusedError, id="a safety stop"),
        pytest.param("CanaryFailedError", CanaryFailedError, id="another one"),
        pytest.param("ValueError", ClusterError, id="a defect"),
    ],
)
async def test_a_worker_s_stop_stops_the_job(bench: Bench, kind: str, error: type[SafetyStopError]) -> None:
    """As if it had been met here, with the worker's name; what it has is written first."""
    bench.write(*ids(100))
    met: list[Exception] = []

    async def drive(coordinator: Coordinator) -> None:
        (shard, *_) = (await coordinator.next_shards(ShardRequest(offset=0))).shards
        (first, *_) = unpack_asks(shard.rows)
        stop = Stop(kind=kind, why="No.")
        receipt = await coordinator.commit_part(0, report([answer(first)], stop=stop, worker="h, process 1"))
        assert receipt.is_over
        met.extend(coordinator._failures)

    _, summary = await bench.run(drive)
    assert [type(one) for one in met] == [error]
    assert summary.why == "No. (worker h, process 1)"
    assert bench.results() == {"2600": 1}


async def test_a_ledger_that_fails_ends_the_job_without_an_answer(bench: Bench) -> None:
    """What can't be written is never acknowledged."""
    bench.write(*ids(10))

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    async def drive(coordinator: Coordinator) -> None:
        (shard, *_) = (await coordinator.next_shards(ShardRequest(offset=0))).shards
        coordinator._books.ledger._file._disk = Disk(sync=full)
        with pytest.raises(LedgerWriteError):
            await coordinator.commit_part(0, all_canceled(shard))
        assert coordinator.aborting.is_set()

    with pytest.raises(LedgerWriteError):
        await bench.run(drive, window=1)


# --- an earlier coordinator -----------------------------------------------------------------------


async def test_answers_of_an_earlier_coordinator_s_shards_are_written_once(bench: Bench) -> None:
    """They count for this run, their rows are handed out to nobody, and what is doubtful is looked up."""
    bench.write("2600", "bad id", *ids(30)[1:])
    old = [Ask(0, "2600"), Ask(2, "2601"), Ask(3, "2602"), Ask(4, "never in this manifest")]
    hosts = Hosts()

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt(old)
        done = report([answer(old[0]), answer(old[1], Reason.UNKNOWN), answer(old[3])])
        await coordinator.commit_adopted(0, done)
        assert bench.results() == {"2600": 1}
        await coordinator.commit_adopted(0, done)
        assert coordinator.tally().is_conserved
        await hosts.drive(coordinator)

    _, summary = await bench.run(drive)
    assert summary.state is RunState.COMPLETE
    assert summary.tally.is_conserved
    assert bench.results() == dict.fromkeys([*ids(30), "bad id"], 1)
    assert hosts.asked == dict.fromkeys(ids(30)[1:], 1)
    asks = [ask for shard in hosts.shards for ask in unpack_asks(shard.rows)]
    assert [ask.invoice_id for ask in asks if ask.is_in_doubt] == ["2601"]


async def test_what_an_earlier_coordinator_had_written_is_not_written_again(bench: Bench) -> None:
    """It was killed between its write and the word that it has written."""
    bench.write(*ids(10))
    await bench.run(Hosts().drive, limit=5)
    asks = [Ask(number, invoice_id) for number, invoice_id in enumerate(ids(10))]

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt(asks)
        await coordinator.commit_adopted(0, report(map(answer, asks)))
        await Hosts().drive(coordinator)

    _, summary = await bench.run(drive)
    assert not [event for event in bench.events if isinstance(event, AnswersUnclaimed)]
    assert bench.results() == dict.fromkeys(ids(10), 1)
    assert (summary.tally.settled_earlier, summary.tally.results) == (5, {Reason.CANCELED: 5})


async def test_what_was_answered_before_it_was_read_is_not_left_open(bench: Bench) -> None:
    """It is told to end during a take-over: nothing is read any more, and every row has its answer."""
    bench.write(*ids(10))
    await bench.run(Hosts().drive, limit=5)
    asks = [Ask(number, invoice_id) for number, invoice_id in enumerate(ids(10))]

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt(asks[5:8])
        coordinator.stop_as_asked("For the test.")
        await coordinator.commit_adopted(0, report(map(answer, asks[5:8])))

    _, summary = await bench.run(drive)
    assert summary.tally == Tally(rows=10, results={Reason.CANCELED: 3}, settled_earlier=5, open=2)


async def test_answers_find_their_rows_in_another_manifest(bench: Bench) -> None:
    """Its rows stand elsewhere, one is gone, and a mismatch counts only if it was held against the same."""
    bench.write("1,5.00", "2,6.00", "3,7.00", "2,6.00", header="invoice_id,total")
    old = [
        Ask(7, "3", match={MatchField.TOTAL: "9.99"}),
        Ask(8, "gone", match={MatchField.TOTAL: "1.00"}),
        Ask(0, "2", match={MatchField.TOTAL: "6.00"}),
    ]
    hosts = Hosts()

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt(old)
        reasons = (Reason.MISMATCH, Reason.CANCELED, Reason.MISMATCH)
        for _ in range(2):  # the word that it is written may be lost
            await coordinator.commit_adopted(0, report(map(answer, old, reasons)))
            await coordinator.settle_adopted()
        await hosts.drive(coordinator)

    _, summary = await bench.run(drive, match=("total=total",), max_mismatch=100.0)
    rows = {row["row"]: (row["invoice_id"], row["reason"]) for row in bench.rows() if row["type"] == "result"}
    assert rows == {1: ("1", "canceled"), 2: ("2", "mismatch"), 3: ("3", "canceled")}
    assert hosts.asked == {"1": 1, "3": 1}
    assert summary.tally.duplicates == 1
    assert [event for event in bench.events if isinstance(event, AnswersUnclaimed)] == [
        AnswersUnclaimed(count=1)
    ]


async def test_a_limit_counts_what_an_earlier_coordinator_s_shards_bring(bench: Bench) -> None:
    """Four rows were asked for, and three are there by that."""
    bench.write(*ids(10))
    old = [Ask(number, invoice_id) for number, invoice_id in enumerate(ids(3))]
    hosts = Hosts()

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt(old)
        await coordinator.commit_adopted(0, report(map(answer, old)))
        await hosts.drive(coordinator)

    _, summary = await bench.run(drive, limit=4)
    assert summary.tally == Tally(rows=10, results={Reason.CANCELED: 4}, open=6)
    assert summary.why == "--limit 4 was reached."
    assert hosts.asked == {ids(4)[-1]: 1}


def results_of(bench: Bench) -> list[tuple[str, str]]:
    """Return the result rows in their order: invoice and reason."""
    return [(row["invoice_id"], row["reason"]) for row in bench.rows() if row["type"] == "result"]


async def test_a_doubt_is_written_once_however_often_it_is_brought(bench: Bench) -> None:
    """The second time the job is stopping already, and there is no time to look any more."""
    bench.write(*ids(5))
    old = [Ask(0, "2600"), Ask(1, "2601")]

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt(old)
        for number in (0, 0, 1):
            await coordinator.commit_adopted(number, report([answer(old[0], Reason.UNKNOWN)]))
            coordinator.stop_as_asked("For the test.")

    _, summary = await bench.run(drive)
    assert results_of(bench) == [("2600", "unknown")]
    assert summary.tally == Tally(rows=5, results={Reason.UNKNOWN: 1}, open=4)


async def test_an_answer_ends_a_doubt_whichever_comes_first(bench: Bench) -> None:
    """Two shards had the invoice, for the first one had left it when its coordinator died."""
    bench.write(*ids(3))
    old = [Ask(0, "2600"), Ask(1, "2601")]
    hosts = Hosts()

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt(old)
        doubts = [answer(ask, Reason.UNKNOWN) for ask in old]
        await coordinator.commit_adopted(0, report([doubts[0], answer(old[1])]))
        await coordinator.commit_adopted(1, report([answer(old[0]), doubts[1]]))
        await hosts.drive(coordinator)

    _, summary = await bench.run(drive)
    assert sorted(results_of(bench)) == [(invoice_id, "canceled") for invoice_id in ids(3)]
    assert summary.tally.is_conserved
    assert hosts.asked == {"2602": 1}


async def test_an_id_that_may_not_be_sent_takes_no_answer(bench: Bench) -> None:
    """The text of its row may be another one's id."""
    (bench.folder / "ids.jsonl").write_text('{"id": true}\n{"id": "true"}\n', encoding="utf-8")
    old = [Ask(1, "true")]
    hosts = Hosts()

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt(old)
        await coordinator.commit_adopted(0, report(map(answer, old)))
        await hosts.drive(coordinator)

    _, summary = await bench.run(drive, manifest="ids.jsonl")
    assert summary.tally == Tally(rows=2, results={Reason.CANCELED: 1, Reason.INVALID_ID: 1})
    assert hosts.asked == {}


async def test_a_shard_that_is_brought_again_is_not_told_as_written_before_it_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workflow would forget it, and a kill would cost its answers."""
    bench.write(*ids(2))
    old = [Ask(0, "2600")]
    may_write, write = asyncio.Event(), Books.write

    async def write_late(books: Books, *row: Any) -> None:
        await may_write.wait()
        await write(books, *row)

    monkeypatch.setattr(Books, "write", write_late)

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt(old)
        done = report(map(answer, old))
        first, again = (asyncio.create_task(coordinator.commit_adopted(0, done)) for _ in range(2))
        await asyncio.sleep(0.1)
        first.cancel()
        assert not again.done()
        may_write.set()
        await again
        assert bench.results() == {"2600": 1}

    await bench.run(drive)


@pytest.mark.parametrize("is_stopped", [False, True])
async def test_a_doubt_that_an_earlier_coordinator_had_is_kept(bench: Bench, *, is_stopped: bool) -> None:
    """Its shard brings nothing of it: a look-up comes first, or it is written for the next run."""
    bench.write(*ids(2))
    hosts = Hosts()

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt([Ask(0, "2600", is_in_doubt=True), Ask(1, "2601")])
        await coordinator.commit_adopted(0, report([]))
        if is_stopped:
            coordinator.stop_as_asked("For the test.")
        await hosts.drive(coordinator)

    await bench.run(drive)
    asks = [ask for shard in hosts.shards for ask in unpack_asks(shard.rows)]
    assert [(ask.invoice_id, ask.is_in_doubt) for ask in asks] == (
        [] if is_stopped else [("2600", True), ("2601", False)]
    )
    assert results_of(bench)[0] == ("2600", "unknown" if is_stopped else "canceled")


async def test_an_answer_counts_more_than_what_is_not_to_be_asked_any_more(bench: Bench) -> None:
    """An error that is held back, and an id that is excluded by now; a doubt about them is written."""
    bench.write(*ids(6))
    (bench.folder / "never.txt").write_text("2602\n2603\n2604\n", encoding="utf-8")

    def refuse(shard: Shard) -> ShardReport:
        return report(answer(ask, Reason.REFUSED) for ask in unpack_asks(shard.rows)[:2])

    async def begin(coordinator: Coordinator) -> None:
        issue = await coordinator.next_shards(ShardRequest(offset=0))
        await coordinator.commit_part(0, refuse(issue.shards[0]))

    await bench.run(begin)
    old = [Ask(number, invoice_id) for number, invoice_id in enumerate(ids(4))]
    reasons = (Reason.CANCELED, Reason.UNKNOWN, Reason.CANCELED, Reason.UNKNOWN)
    hosts = Hosts()

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt(old)
        await coordinator.commit_adopted(0, report(map(answer, old, reasons)))
        await hosts.drive(coordinator)

        score = coordinator.score()
        assert (score.to_settle, score.done) == (5, 3), "two are in doubt, and written in the end"

    _, summary = await bench.run(drive, retry_errors="none", exclude=str(bench.folder / "never.txt"))
    assert results_of(bench)[2:] == [
        ("2600", "canceled"),
        ("2602", "canceled"),
        ("2605", "canceled"),
        ("2601", "unknown"),
        ("2603", "unknown"),
    ]
    assert hosts.asked == {"2605": 1}
    assert summary.tally.excluded == 1
    assert summary.tally.is_conserved


async def test_a_doubt_that_has_its_row_gets_no_second_one(bench: Bench) -> None:
    """An earlier run has written it, and this one ends before it could look."""
    bench.write(*ids(2))

    async def begin(coordinator: Coordinator) -> None:
        await coordinator.adopt([Ask(0, "2600", is_in_doubt=True)])

    await bench.run(begin)
    assert results_of(bench) == [("2600", "unknown")]
    await bench.run(begin)
    assert results_of(bench) == [("2600", "unknown")]


@pytest.mark.parametrize("canary", [1, 9])
async def test_canaries_go_before_what_an_earlier_coordinator_doubted(bench: Bench, canary: int) -> None:
    """There may be fewer invoices than canaries, and the job comes to its end."""
    bench.write(*ids(3))
    hosts = Hosts()

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt([Ask(0, "2600", is_in_doubt=True)])
        await hosts.drive(coordinator)

    async with asyncio.timeout(5):
        _, summary = await bench.run(drive, canary=canary)
    asked = [[ask.invoice_id for ask in unpack_asks(shard.rows)] for shard in hosts.shards]
    assert asked[0] == ids(3)[1 : 1 + canary]
    assert sorted(one for shard in asked for one in shard) == ids(3)
    assert summary.tally.is_conserved


async def test_canaries_that_come_back_go_before_doubts(bench: Bench) -> None:
    """A pause has taken their shard back, and the job goes on."""
    bench.write(*ids(5))
    hosts = Hosts()

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt([Ask(0, "2600", is_in_doubt=True)])
        issue = await coordinator.next_shards(ShardRequest(offset=0))
        await coordinator.commit_part(0, ShardReport())
        assert issue.shards[0].is_canary
        issue = await coordinator.next_shards(ShardRequest(offset=1))
        assert issue.shards
        assert all(shard.is_canary for shard in issue.shards)
        for shard in issue.shards:
            await coordinator.commit_part(shard.number, all_canceled(shard))
        hosts.offset = issue.shards[-1].number + 1
        await hosts.drive(coordinator)

    async with asyncio.timeout(5):
        _, summary = await bench.run(drive, canary=2)
    assert summary.state is RunState.COMPLETE
    assert bench.results() == dict.fromkeys(ids(5), 1)


async def test_doubts_wait_for_the_last_canary(bench: Bench) -> None:
    """Also where no rows are left to be read, and fewer canaries than asked for."""
    bench.write(*ids(3))

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt([Ask(0, "2600", is_in_doubt=True), Ask(1, "2601", is_in_doubt=True)])
        issue = await coordinator.next_shards(ShardRequest(offset=0))
        assert [(shard.count, shard.is_canary) for shard in issue.shards] == [(1, True)]
        assert not issue.is_end
        await coordinator.commit_part(0, all_canceled(issue.shards[0]))
        issue = await coordinator.next_shards(ShardRequest(offset=1))
        assert [(shard.count, shard.is_canary) for shard in issue.shards] == [(2, False)]
        await coordinator.commit_part(1, all_canceled(issue.shards[0]))

    _, summary = await bench.run(drive, canary=9)
    assert summary.state is RunState.COMPLETE


async def test_doubts_beyond_a_limit_are_left_to_the_next_run(bench: Bench) -> None:
    """They are on record, and nobody is asked about more than was allowed."""
    bench.write(*ids(6))
    old = [Ask(number, invoice_id) for number, invoice_id in enumerate(ids(4))]
    hosts = Hosts()

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt(old)
        reasons = (Reason.CANCELED, Reason.UNKNOWN, Reason.UNKNOWN, Reason.UNKNOWN)
        await coordinator.commit_adopted(0, report(map(answer, old, reasons)))
        await hosts.drive(coordinator)

    _, summary = await bench.run(drive, limit=2)
    assert hosts.asked == {"2601": 1}
    assert sorted(results_of(bench)) == [
        ("2600", "canceled"),
        ("2601", "canceled"),
        ("2602", "unknown"),
        ("2603", "unknown"),
    ]
    assert (summary.why, summary.tally.open) == ("--limit 2 was reached.", 2)


async def test_an_error_that_is_asked_about_again_is_asked_about_at_once(bench: Bench) -> None:
    """The next run would do it anyway, and its row may be in the ledger by now."""
    bench.write(*ids(2))
    old = [Ask(0, "2600"), Ask(1, "2601")]
    hosts = Hosts()

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt(old)
        await coordinator.commit_adopted(
            0, report([answer(old[0], Reason.REFUSED), answer(old[1], Reason.NOT_FOUND)])
        )
        await hosts.drive(coordinator)

    await bench.run(drive)
    assert results_of(bench) == [("2601", "not_found"), ("2600", "canceled")]


async def test_answers_that_are_being_written_are_written_before_the_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another shard's can't be read, which stops the job at once."""
    bench.write(*ids(4))
    old = [Ask(number, invoice_id) for number, invoice_id in enumerate(ids(3))]
    write = Books.write

    async def write_slowly(books: Books, *row: Any) -> None:
        await asyncio.sleep(0.05)
        await write(books, *row)

    monkeypatch.setattr(Books, "write", write_slowly)

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt(old)
        reasons = (Reason.CANCELED, Reason.UNKNOWN, Reason.CANCELED)
        asyncio.get_running_loop().call_later(0.02, coordinator.stop, "for the test")
        await asyncio.wait_for(coordinator.commit_adopted(0, report(map(answer, old, reasons))), 0.01)

    async def drive_on(coordinator: Coordinator) -> None:
        with suppress(TimeoutError):
            await drive(coordinator)
        await coordinator.commit_adopted(1, ShardReport(answers=b"packed otherwise"))

    _, summary = await bench.run(drive_on)
    assert summary.state is RunState.STOPPED
    assert "They wait in Temporal" in (summary.why or "")
    assert sorted(results_of(bench)) == [("2600", "canceled"), ("2601", "unknown"), ("2602", "canceled")]
    assert summary.tally.open == 1


async def test_what_an_earlier_shard_was_refused_slows_the_next_ones(bench: Bench) -> None:
    """The service has not more to give because a coordinator was killed."""
    bench.write(*ids(30))
    old = [Ask(0, "2600")]
    hosts = Hosts()

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt(old)
        await coordinator.commit_adopted(0, report(map(answer, old), refused_at=2.0))
        await hosts.drive(coordinator)

    await bench.run(drive, rate=100.0)
    assert {shard.rate for shard in hosts.shards} == {2.0}


async def test_an_answer_that_can_t_be_read_is_raised_each_time(bench: Bench) -> None:
    """Nothing of its shard is written."""
    bench.write(*ids(3))

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt([Ask(0, "2600")])
        for _ in range(2):
            with pytest.raises(ClusterError, match="newer"):
                await coordinator.commit_adopted(0, ShardReport(answers=b"packed otherwise"))

    _, summary = await bench.run(drive)
    assert summary.tally == Tally(rows=3, open=3)


async def test_a_failure_of_whoever_drives_it_leaves_no_doubt_unwritten(bench: Bench) -> None:
    """Such as a Temporal that lets us in no more: what may have been acted on is on record."""
    bench.write(*ids(3))

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt([Ask(0, "2600")])
        await coordinator.commit_adopted(0, report([answer(Ask(0, "2600"), Reason.UNKNOWN)]))
        raise ClusterError("Temporal lets us in no more.")

    _, summary = await bench.run(drive)
    assert (summary.state, summary.why) == (RunState.STOPPED, "Temporal lets us in no more.")
    assert results_of(bench) == [("2600", "unknown")]


# --- merchants ------------------------------------------------------------------------------------


MERCHANTS: dict[str, Any] = {"merchant_column": "merchant"}


@pytest.fixture
def portfolio(bench: Bench) -> Bench:
    """A manifest of two merchants, which share their ids."""
    rows = [f"{number},{merchant}" for number in range(20) for merchant in ("north", "south")]
    bench.write(*rows, header="invoice_id,merchant")
    bench.credentials = CREDENTIALS | {"BATCHCANCEL_PORTFOLIO_ID": "m"}
    return bench


def pairs(hosts: Hosts) -> Counter[tuple[str | None, str]]:
    """Count what was handed out, by merchant and invoice."""
    return Counter(
        (ask.merchant_id, ask.invoice_id) for shard in hosts.shards for ask in unpack_asks(shard.rows)
    )


def all_but_souths(shard: Shard) -> ShardReport:
    """Refuse one merchant, as a worker does that has rows of both."""
    asks = unpack_asks(shard.rows)
    return report(
        [answer(ask) for ask in asks if ask.merchant_id == "north"],
        stopped_merchants=(MerchantStop(merchant_id="south", why="refused"),),
    )


async def test_each_answer_finds_its_merchant_in_another_manifest(portfolio: Bench) -> None:
    """The same id at two merchants is two invoices, wherever their rows stand now."""
    old = [Ask(0, "7", merchant_id="south"), Ask(1, "7", merchant_id="north")]
    hosts = Hosts()

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt(old)
        await coordinator.commit_adopted(0, report(map(answer, old, (Reason.PAID, Reason.CANCELED))))
        await hosts.drive(coordinator)

    await portfolio.run(drive, **MERCHANTS)
    of_seven = {
        row["merchant_id"]: row["reason"]
        for row in portfolio.rows()
        if row["type"] == "result" and row["invoice_id"] == "7"
    }
    assert of_seven == {"south": "paid", "north": "canceled"}
    assert not {("south", "7"), ("north", "7")} & set(pairs(hosts))


async def test_each_row_keeps_its_merchant(portfolio: Bench) -> None:
    """The same id at two merchants is two invoices; only workers that know merchants take such a shard."""
    hosts = Hosts()
    _, summary = await portfolio.run(hosts.drive, **MERCHANTS)
    assert summary.state is RunState.COMPLETE
    assert {shard.protocol for shard in hosts.shards} == {2}
    results = [row for row in portfolio.rows() if row["type"] == "result"]
    assert Counter((row["merchant_id"], row["invoice_id"]) for row in results) == pairs(hosts)
    assert set(pairs(hosts).values()) == {1}
    assert len(results) == 40


async def test_a_job_for_one_merchant_is_for_older_workers_too(bench: Bench) -> None:
    """They would do nothing else with its shards."""
    bench.write("1", "2")
    hosts = Hosts()
    await bench.run(hosts.drive)
    assert {shard.protocol for shard in hosts.shards} == {1}


async def test_a_rate_of_each_merchant_is_nothing_for_older_workers(portfolio: Bench) -> None:
    """Even where all rows are the account's own: they would take no notice of it."""
    portfolio.write("1,m", "2,m", header="invoice_id,merchant")
    hosts = Hosts()
    await portfolio.run(hosts.drive, rate_per_merchant=10.0, **MERCHANTS)
    assert [(shard.protocol, shard.merchant_rate) for shard in hosts.shards] == [(2, 10.0)]
    assert pairs(hosts).keys() == {(None, "1"), (None, "2")}


async def test_an_earlier_coordinator_s_answers_are_those_of_its_merchants(portfolio: Bench) -> None:
    """Another column may name another merchant for the same row: then nothing is known of that one."""
    old = [Ask(0, "0", merchant_id="north"), Ask(1, "0", merchant_id="north")]
    hosts = Hosts()

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt(old)
        await coordinator.commit_adopted(0, report(map(answer, old)))
        await hosts.drive(coordinator)

    _, summary = await portfolio.run(drive, **MERCHANTS)
    assert ("north", "0") not in pairs(hosts)
    assert pairs(hosts)["south", "0"] == 1
    assert summary.tally.results == {Reason.CANCELED: 40}
    assert summary.tally.is_conserved


async def test_a_stopped_merchant_is_left_and_the_others_go_on(portfolio: Bench) -> None:
    """Its rows are handed out no more, and the summary tells how many are open."""
    hosts = Hosts(all_but_souths)
    _, summary = await portfolio.run(hosts.drive, window=1, **MERCHANTS)
    assert summary.state is RunState.STOPPED
    (stopped,) = summary.stopped_merchants
    assert (stopped.merchant_id, stopped.open, stopped.why) == ("south", 20, "refused")
    assert (summary.tally.results, summary.tally.open) == ({Reason.CANCELED: 20}, 20)
    assert summary.tally.is_conserved
    # Those that were out, or lay ready, when it was told.
    assert sum(merchant == "south" for merchant, _ in pairs(hosts).elements()) < 20
    assert {count for (merchant, _), count in pairs(hosts).items() if merchant == "south"} == {1}


async def test_shards_that_lie_ready_are_gathered_anew_once_a_merchant_is_stopped(portfolio: Bench) -> None:
    """Nobody is to wait once more for a merchant that has an outage; told again, it is no news."""
    receipts: list[Receipt] = []
    anew = Hosts()

    async def drive(coordinator: Coordinator) -> None:
        first, second, *ready = (await coordinator.next_shards(ShardRequest(offset=0))).shards
        receipts.extend(
            [await coordinator.commit_part(shard.number, all_but_souths(shard)) for shard in (first, second)]
        )
        for shard in ready:
            await coordinator.commit_part(shard.number, ShardReport())
        issue = await coordinator.next_shards(ShardRequest(offset=ready[-1].number + 1))
        anew.shards.extend(issue.shards)
        coordinator.stop("enough")

    await portfolio.run(drive, window=2, **MERCHANTS)
    assert [receipt.takes_back for receipt in receipts] == [True, False]
    assert {merchant for merchant, _ in pairs(anew)} == {"north"}


@pytest.mark.parametrize("kind", [CredentialsRefusedError, OutageTooLongError])
async def test_what_stops_a_shard_of_one_merchant_stops_only_that(
    portfolio: Bench, kind: type[SafetyStopError]
) -> None:
    """A worker that has no other rows can't know that there are others."""
    rows = [f"{number},{merchant}" for merchant in ("south", "north") for number in range(20)]
    portfolio.write(*rows, header="invoice_id,merchant")

    def work_on(shard: Shard) -> ShardReport:
        asks = unpack_asks(shard.rows)
        if asks[0].merchant_id == "north":
            return all_canceled(shard)
        return report([], stop=Stop(kind=kind.__name__, why="no"))

    _, summary = await portfolio.run(Hosts(work_on).drive, **MERCHANTS)
    assert summary.tally.results == {Reason.CANCELED: 20}
    assert [(one.merchant_id, one.open) for one in summary.stopped_merchants] == [("south", 20)]


async def test_a_refused_merchant_stops_all_while_canaries_are_tried(portfolio: Bench) -> None:
    """They have to end well before others are touched."""
    hosts = Hosts(lambda _shard: report([], stop=Stop(kind="CredentialsRefusedError", why="no")))
    job, summary = await portfolio.run(hosts.drive, canary=1, **MERCHANTS)
    assert summary.state is RunState.STOPPED
    assert summary.stopped_merchants == ()
    assert job.summary.why is not None
    assert hosts.asked.total() == 1


async def test_shards_are_gathered_while_what_a_stopped_merchant_leaves_is_written(
    portfolio: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger that takes its time lets others in between: no invoice is in two hands, or in none."""
    write = Books.write

    async def write_slowly(self: Books, *arguments: Any) -> None:
        await asyncio.sleep(0)
        await write(self, *arguments)

    monkeypatch.setattr(Books, "write", write_slowly)
    rest: dict[str, Counter[str | None]] = {}

    async def drive(coordinator: Coordinator) -> None:
        first, second, *_ = (await coordinator.next_shards(ShardRequest(offset=0))).shards
        doubted = [answer(ask, Reason.UNKNOWN) for ask in unpack_asks(first.rows)]
        stops = (MerchantStop(merchant_id="south", why="refused"),)
        committing = asyncio.create_task(
            coordinator.commit_part(first.number, report(doubted, stopped_merchants=stops))
        )
        while not coordinator.stopped_merchants:
            await asyncio.sleep(0)
        issue = await coordinator.next_shards(ShardRequest(offset=second.number + 3))
        rest["asked"] = Counter(ask.merchant_id for one in issue.shards for ask in unpack_asks(one.rows))
        await committing
        coordinator.stop("enough")

    _, summary = await portfolio.run(drive, window=2, shard_rows=10, **MERCHANTS)
    assert rest["asked"].keys() == {"north"}, "nobody is asked about what is being left"
    assert summary.tally.results[Reason.UNKNOWN] == 10
    assert summary.tally.is_conserved


async def test_a_shard_stops_no_merchant_that_it_has_no_rows_of(portfolio: Bench) -> None:
    """A report is a worker's word on its own shard only."""

    def work_on(shard: Shard) -> ShardReport:
        stops = (MerchantStop(merchant_id="west", why="refused"),)
        return report(map(answer, unpack_asks(shard.rows)), stopped_merchants=stops)

    _, summary = await portfolio.run(Hosts(work_on).drive, **MERCHANTS)
    assert summary.state is RunState.COMPLETE
    assert summary.stopped_merchants == ()


async def test_what_may_have_been_done_for_a_stopped_merchant_is_written(portfolio: Bench) -> None:
    """Nobody looks it up any more in this job; the next one begins with that."""

    def work_on(shard: Shard) -> ShardReport:
        asks = unpack_asks(shard.rows)
        answers = [
            answer(ask, Reason.UNKNOWN if ask.merchant_id == "south" else Reason.CANCELED) for ask in asks
        ]
        return report(answers, stopped_merchants=(MerchantStop(merchant_id="south", why="refused"),))

    _, summary = await portfolio.run(Hosts(work_on).drive, window=1, shard_rows=40, **MERCHANTS)
    assert summary.tally.results == {Reason.CANCELED: 20, Reason.UNKNOWN: 20}
    assert summary.stopped_merchants[0].open == 0


async def test_a_shard_lasts_no_longer_for_the_rate_of_a_merchant(portfolio: Bench) -> None:
    """At ten a second the rows of one are a quarter of a minute's; those of others come on top."""
    rows = [f"{number},north" for number in range(400)]
    portfolio.write(*rows, header="invoice_id,merchant")
    hosts = Hosts()
    await portfolio.run(hosts.drive, window=1, shard_rows=1000, rate_per_merchant=10.0, **MERCHANTS)
    assert [shard.count for shard in hosts.shards] == [150, 150, 100]


async def test_one_message_may_carry_all_shards_that_are_out(bench: Bench) -> None:
    """Temporal refuses one of 2 MB, and the longest ids of the widest window would be three."""
    draw = random.Random(7)  # noqa: S311 - nothing secret
    bench.write(*("".join(draw.choices(string.ascii_letters + string.digits, k=64)) for _ in range(30_000)))
    sizes: list[int] = []

    async def drive(coordinator: Coordinator) -> None:
        issue = await coordinator.next_shards(ShardRequest(offset=0))
        sizes.extend(len(shard.rows) for shard in issue.shards)
        coordinator.stop("enough")

    await bench.run(drive, window=32, shard_rows=1000, concurrency=64)
    assert 1_000_000 < sum(sizes) < 1_500_000


async def test_a_doubt_of_an_earlier_shard_is_written_where_the_job_stops_first(bench: Bench) -> None:
    """The next run begins with a look-up of it, as after any other stop."""
    bench.write("1", "2", "3")

    async def drive(coordinator: Coordinator) -> None:
        await coordinator.adopt([Ask(1, "2")])
        await coordinator.commit_adopted(0, report([answer(Ask(1, "2"), Reason.UNKNOWN)]))
        coordinator.stop("SIGTERM")

    _, summary = await bench.run(drive)
    assert summary.tally.results == {Reason.UNKNOWN: 1}
    assert summary.tally.open == 2
    assert summary.tally.is_conserved
    assert [(row["invoice_id"], row["reason"]) for row in bench.rows() if row["type"] == "result"] == [
        ("2", "unknown")
    ]


async def test_a_defect_while_rows_are_gathered_ends_the_job_with_every_row_accounted_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporal would call again and again, and nobody would be told; the ledger is ended as in a run."""
    bench.write(*map(str, range(20)))
    admit = Entrance.admit

    async def fail_late(entrance: Entrance, case: Case, *, stopping: asyncio.Event) -> bool:
        if case.row.invoice_id == "15":
            raise KeyError(case.row.invoice_id)
        return await admit(entrance, case, stopping=stopping)

    monkeypatch.setattr(Entrance, "admit", fail_late)
    with pytest.raises(KeyError):
        await bench.run(Hosts().drive, window=1)
    end = bench.rows()[-1]
    assert (end["type"], end["state"], end["why"]) == ("end", "stopped", "a defect in the program")
    assert (end["counts"]["canceled"], end["counts"]["open"], end["counts"]["rows"]) == (10, 10, 20)


async def test_a_defect_while_answers_are_taken_ends_the_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was taken before it is in the ledger."""
    bench.write("1", "2")
    write = Books.write

    async def fail_at_two(books: Books, result: Result, case: Case | None = None) -> None:
        if result.invoice_id == "2":
            raise KeyError("2")
        await write(books, result, case)

    monkeypatch.setattr(Books, "write", fail_at_two)
    with pytest.raises(KeyError):
        await bench.run(Hosts().drive)
    assert bench.results() == {"1": 1}
