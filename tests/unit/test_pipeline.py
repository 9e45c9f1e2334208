"""The fan-out against a small service in memory: bounds, stops, failures, conservation."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any

import pytest
from msgspec import structs

from batchcancel.errors import (
    CanaryFailedError,
    CredentialsRefusedError,
    LedgerWriteError,
    ManifestChangedError,
    ReplyLostError,
    ThresholdExceededError,
)
from batchcancel.gates import Gates
from batchcancel.model import (
    Event,
    Invoice,
    ManifestRow,
    PauseStarted,
    Reason,
    Reply,
    RequestKind,
    Result,
    Skip,
    SkipReason,
    Standing,
    StopRequested,
    Subject,
    Tally,
    invoice_key,
)
from batchcancel.pace import Pace, Quota
from batchcancel.pipeline import Entrance, Exposure, Pipeline
from batchcancel.pipeline import pipeline as pipeline_module
from batchcancel.retry import Retrier

InVirtualTime = Callable[[Coroutine[Any, Any, Any]], Any]
CANCEL, LOOK_UP = RequestKind.CANCEL, RequestKind.LOOK_UP


class House:
    """A pipeline with everything around it: a service, a sink, and what earlier runs found."""

    def __init__(self, *, concurrency: int = 4, takes_s: float = 0.01) -> None:
        self.concurrency = concurrency
        self.takes_s = takes_s
        self.statuses: dict[str, str] = {}
        self.answers: dict[str, Callable[[RequestKind], Reply | ReplyLostError | None]] = {}
        self.slow_s: dict[str, float] = {}
        self.sent: list[tuple[RequestKind, str]] = []
        self.rows: list[Result | Skip] = []
        self.settled: set[str] = set()
        self.unknown: set[str] = set()
        self.standings: dict[str, Standing] = {}
        self.gates = Gates()
        self.events: list[Event] = []
        self.read = 0
        self.probes = 0
        self.most_ahead = 0
        self.sink_takes_s = 0.0
        self.sink_fails_at: int | None = None
        self.read_fails_at: int | None = None
        self.pace: Pace
        self.pipeline: Pipeline

    async def serve(self, kind: RequestKind, invoice_id: Subject) -> Reply:
        if not isinstance(invoice_id, str):
            self.probes += 1
            return Reply(http_status=200, is_object=True)
        self.sent.append((kind, invoice_id))
        await asyncio.sleep(self.slow_s.get(invoice_id, self.takes_s))
        answer = self.answers.get(invoice_id)
        special = None if answer is None else answer(kind)
        if isinstance(special, ReplyLostError):
            raise special
        if special is not None:
            return special
        status = self.statuses.setdefault(invoice_id, "SENT")
        if kind is CANCEL and status == "SENT":
            status = self.statuses[invoice_id] = "CANCELED"
        elif kind is CANCEL:
            return Reply(http_status=400, is_object=True)
        return Reply(http_status=200, is_object=True, invoice=Invoice(id=invoice_id, status=status))

    async def append(self, record: Result | Skip) -> None:
        await asyncio.sleep(self.sink_takes_s)
        if self.sink_fails_at is not None and len(self.rows) >= self.sink_fails_at:
            raise LedgerWriteError("disk full")
        self.rows.append(record)

    def standing_of(self, key: str) -> Standing:
        if key in self.settled:
            return Standing.SETTLED
        return Standing.TO_LOOK_UP if key in self.unknown else self.standings.get(key, Standing.TO_ASK)

    async def manifest(self, rows: Iterable[ManifestRow]) -> AsyncIterator[ManifestRow]:
        for row in rows:
            if self.read == self.read_fails_at:
                raise ManifestChangedError("changed")
            self.read += 1
            self.most_ahead = max(self.most_ahead, self.read - len(self.rows))
            yield structs.replace(
                row, standing=self.standing_of(invoice_key(row.invoice_id, valid=row.valid))
            )

    async def run(self, rows: list[ManifestRow], *, during: Callable[[], object] = lambda: None) -> Tally:
        self.pace = Pace(
            self.serve,
            slots=asyncio.Semaphore(self.concurrency),
            quota=Quota(None, on_event=self.events.append),
            max_outage_s=600,
            on_event=self.events.append,
        )
        self.entrance = Entrance(self.gates)
        retrier = Retrier(self.pace, max_attempts=3, ledger_began_at=None)
        self.pipeline = Pipeline(
            retrier=retrier,
            pace=self.pace,
            sink=self,
            workers=self.concurrency,
            exposure=Exposure(places=self.concurrency, doubts=250),
            entrance=self.entrance,
            on_event=self.events.append,
        )
        self.pace.unfinished = self.pipeline.unfinished
        during()
        try:
            await self.pipeline.run(self.manifest(rows))
        finally:
            self.tally = self.pipeline.tally().with_unread(
                rows=len(rows), settled_earlier=self.settled_among(rows)
            )
        return self.tally

    def settled_among(self, rows: Iterable[ManifestRow]) -> int:
        """Count as the check does: rows that repeat none, whose invoices have their answer."""
        firsts = [invoice_key(row.invoice_id, valid=row.valid) for row in rows if row.duplicate_of is None]
        return sum(key in self.settled for key in firsts)

    def reasons(self) -> dict[str, Reason]:
        return {row.invoice_id: row.reason for row in self.rows if isinstance(row, Result)}


def ids(count: int) -> list[ManifestRow]:
    """Return rows with the ids 1 to count."""
    return [ManifestRow(row=number, invoice_id=str(number)) for number in range(1, count + 1)]


def after(seconds: float, act: Callable[[], object]) -> Callable[[], object]:
    """Return what makes something happen that long after the run has begun."""
    return lambda: asyncio.get_running_loop().call_later(seconds, act)


def test_every_row_gets_exactly_one_ending(in_virtual_time: InVirtualTime) -> None:
    """Results, skips and earlier answers together are the manifest."""
    house = House()
    house.settled = {"3", "!bad"}
    house.statuses = {"4": "PAID"}
    rows = [
        *ids(5),
        ManifestRow(row=6, invoice_id="1", duplicate_of=1),
        ManifestRow(row=7, invoice_id="b@d", valid=False),
        ManifestRow(row=8, invoice_id="bad", valid=False),
        ManifestRow(row=9, invoice_id="3", duplicate_of=3),
    ]
    tally = in_virtual_time(house.run(rows))
    assert tally == Tally(
        rows=9,
        results={Reason.CANCELED: 3, Reason.PAID: 1, Reason.INVALID_ID: 1},
        settled_earlier=2,
        duplicates=2,
        open=0,
    )
    assert tally.is_conserved
    assert Counter(row.row for row in house.rows) == Counter([1, 2, 4, 5, 6, 7, 9])
    assert not {"3", "b@d", "bad"} & {invoice_id for _, invoice_id in house.sent}


def test_rows_left_unknown_by_an_earlier_run_are_looked_up_first(in_virtual_time: InVirtualTime) -> None:
    """The first request about such an invoice is a GET."""
    house = House()
    house.unknown = {"1"}
    house.statuses = {"1": "CANCELED"}
    in_virtual_time(house.run(ids(1)))
    assert house.sent == [(LOOK_UP, "1")]
    assert house.reasons() == {"1": Reason.ALREADY_CANCELED}


def test_reading_goes_no_further_ahead_than_the_work_in_hand(in_virtual_time: InVirtualTime) -> None:
    """A slow sink slows the reader down: at most one row a worker is in hand."""
    house = House(concurrency=4)
    house.sink_takes_s = 1.0
    in_virtual_time(house.run(ids(50)))
    assert house.most_ahead <= 5


def test_a_waiting_invoice_delays_nobody(in_virtual_time: InVirtualTime) -> None:
    """Invoices that wait for their next attempt hold neither slot nor worker."""
    house = House(concurrency=2)
    house.statuses = {str(number): "PENDING" for number in range(1, 11)}

    async def scenario() -> float:
        began = asyncio.get_running_loop().time()
        await house.run(ids(200))
        return asyncio.get_running_loop().time() - began

    took = in_virtual_time(scenario())
    assert 12 < took < 14
    last_pending = max(index for index, row in enumerate(house.rows) if int(row.invoice_id) <= 10)
    assert last_pending == 199
    assert Counter(house.reasons().values()) == {Reason.CANCELED: 190, Reason.PENDING: 10}


def test_the_reader_waits_when_too_many_invoices_wait(
    in_virtual_time: InVirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting invoices are bounded, so memory is."""
    monkeypatch.setattr(pipeline_module, "MAX_WAITING", 5)
    house = House(concurrency=2)
    house.statuses = {str(number): "PENDING" for number in range(1, 101)}
    in_virtual_time(house.run(ids(100)))
    assert house.most_ahead <= 5 + 2 + 1
    assert len(house.rows) == 100


def test_a_stop_drains_what_is_in_flight_and_leaves_the_rest_open(in_virtual_time: InVirtualTime) -> None:
    """No new POST after the stop; answers that still come are written; the rest is counted as open."""
    house = House(concurrency=3, takes_s=1.0)
    tally = in_virtual_time(house.run(ids(20), during=after(2.5, lambda: house.pipeline.stop("SIGTERM"))))
    assert len(house.sent) == 9
    assert tally == Tally(rows=20, results={Reason.CANCELED: 9}, open=11)
    assert house.events == [StopRequested(why="SIGTERM")]


def test_a_drain_ends_after_eight_seconds(in_virtual_time: InVirtualTime) -> None:
    """What has not come back by then may have acted: it is unknown, and the next run looks it up."""
    house = House(concurrency=2)
    house.slow_s = {"1": 100.0}

    async def scenario() -> float:
        began = asyncio.get_running_loop().time()
        await house.run(ids(2), during=after(1.0, lambda: house.pipeline.stop("SIGTERM")))
        return asyncio.get_running_loop().time() - began

    assert in_virtual_time(scenario()) == pytest.approx(9.0)
    assert house.reasons() == {"2": Reason.CANCELED, "1": Reason.UNKNOWN}
    assert house.tally.is_conserved


def test_an_abort_waits_for_nobody(in_virtual_time: InVirtualTime) -> None:
    """A second signal: what is in flight is unknown, at once; what waits without doubt stays open."""
    house = House(concurrency=2)
    house.slow_s = {"1": 100.0}
    house.statuses = {"2": "PENDING"}

    async def scenario() -> float:
        began = asyncio.get_running_loop().time()
        await house.run(ids(2), during=after(1.0, lambda: house.pipeline.abort("SIGINT")))
        return asyncio.get_running_loop().time() - began

    assert in_virtual_time(scenario()) == pytest.approx(1.0)
    assert house.reasons() == {"1": Reason.UNKNOWN}
    assert house.tally == Tally(rows=2, results={Reason.UNKNOWN: 1}, open=1)


def test_a_cancelled_run_writes_what_is_known_and_is_cancelled(in_virtual_time: InVirtualTime) -> None:
    """Cancellation from outside aborts, keeps the account, and is raised again."""
    house = House(concurrency=2)
    house.slow_s = {"1": 100.0}

    async def scenario() -> None:
        running = asyncio.create_task(house.run(ids(5)))
        await asyncio.sleep(1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    in_virtual_time(scenario())
    assert house.reasons()["1"] is Reason.UNKNOWN
    assert house.tally.is_conserved


def test_a_settled_row_survives_an_abort_while_the_sink_is_busy(in_virtual_time: InVirtualTime) -> None:
    """An answer that is known is written, even if the abort caught it on its way to the sink."""
    house = House(concurrency=3)
    house.sink_takes_s = 5.0
    in_virtual_time(house.run(ids(3), during=after(1.0, lambda: house.pipeline.abort("SIGINT"))))
    assert house.reasons() == dict.fromkeys(["1", "2", "3"], Reason.CANCELED)
    assert len(house.rows) == 3


def test_a_safety_stop_is_raised_after_the_drain(in_virtual_time: InVirtualTime) -> None:
    """A refused key stops the run; what others had in flight is still written."""
    house = House(concurrency=2)
    refused = Reply(http_status=401)
    house.answers = {"1": lambda _kind: refused}

    async def serve(kind: RequestKind, invoice_id: Subject) -> Reply:
        return refused if kind is RequestKind.PROBE else await House.serve(house, kind, invoice_id)

    house.serve = serve  # type: ignore[method-assign]
    house.slow_s = {"2": 16.0, "3": 1.0}
    with pytest.raises(CredentialsRefusedError):
        in_virtual_time(house.run(ids(10)))
    assert house.reasons() == {"2": Reason.CANCELED}
    assert house.tally == Tally(rows=10, results={Reason.CANCELED: 1}, open=9)


def test_a_ledger_that_fails_stops_everything_at_once(in_virtual_time: InVirtualTime) -> None:
    """Nothing is sent for rows that could not be written."""
    house = House(concurrency=2, takes_s=1.0)
    house.sink_fails_at = 4
    with pytest.raises(LedgerWriteError):
        in_virtual_time(house.run(ids(100)))
    assert len(house.rows) == 4
    assert len(house.sent) <= 8


def test_a_manifest_that_changes_is_a_safety_stop(in_virtual_time: InVirtualTime) -> None:
    """Rows not reached stay open; those in hand get their ending."""
    house = House(concurrency=2)
    house.read_fails_at = 7
    with pytest.raises(ManifestChangedError):
        in_virtual_time(house.run(ids(20)))
    assert len(house.rows) == 7
    assert house.tally == Tally(rows=20, results={Reason.CANCELED: 7}, open=13)


def test_a_defect_is_raised_and_outranks_a_safety_stop(in_virtual_time: InVirtualTime) -> None:
    """An unexpected exception drains the run and comes out as itself."""
    house = House(concurrency=2)

    def defect(_kind: RequestKind) -> Reply:
        raise ZeroDivisionError

    house.answers = {"2": defect}
    house.read_fails_at = 2
    with pytest.raises(ZeroDivisionError):
        in_virtual_time(house.run(ids(20)))
    assert house.reasons() == {"1": Reason.CANCELED, "2": Reason.UNKNOWN}
    assert house.tally.is_conserved


def test_lost_replies_cost_one_post_and_one_get_each(in_virtual_time: InVirtualTime) -> None:
    """A service that commits and then drops every connection is read, not asked again."""
    house = House(concurrency=8)

    def dropping(invoice_id: str) -> Callable[[RequestKind], ReplyLostError | None]:
        def drop(kind: RequestKind) -> ReplyLostError | None:
            if kind is not CANCEL:
                return None
            house.statuses[invoice_id] = "CANCELED"
            return ReplyLostError("reset")

        return drop

    house.answers |= {row.invoice_id: dropping(row.invoice_id) for row in ids(50)}
    in_virtual_time(house.run(ids(50)))
    assert Counter(kind for kind, _ in house.sent) == {CANCEL: 50, LOOK_UP: 50}
    assert set(house.reasons().values()) == {Reason.CANCELED}


# --- gates ----------------------------------------------------------------------------------------


def test_the_limit_counts_invoices_that_are_asked_about(in_virtual_time: InVirtualTime) -> None:
    """Settled, invalid, excluded and repeated rows use none of it up; what is in hand comes to its end."""
    house = House(concurrency=4)
    house.gates = Gates(limit=3)
    house.settled = {"1"}
    house.standings = {"3": Standing.EXCLUDED}
    rows = [
        *ids(3),
        ManifestRow(row=4, invoice_id="1", duplicate_of=1),
        ManifestRow(row=5, invoice_id="b@d", valid=False),
        *[ManifestRow(row=row, invoice_id=str(row)) for row in range(6, 12)],
    ]
    tally = in_virtual_time(house.run(rows))
    assert house.entrance.is_at_limit
    assert {invoice_id for _, invoice_id in house.sent} == {"2", "6", "7"}
    assert tally == Tally(
        rows=11,
        results={Reason.CANCELED: 3, Reason.INVALID_ID: 1},
        settled_earlier=1,
        duplicates=1,
        excluded=1,
        open=4,
    )
    assert tally.is_conserved


def test_a_limit_that_is_just_enough_is_not_reached(in_virtual_time: InVirtualTime) -> None:
    """Nothing was left because of it."""
    house = House()
    house.gates = Gates(limit=3)
    assert in_virtual_time(house.run([*ids(3), ManifestRow(row=4, invoice_id="1", duplicate_of=1)])).open == 0
    assert not house.entrance.is_at_limit


def test_a_limit_lets_retries_go_on(in_virtual_time: InVirtualTime) -> None:
    """What was begun is brought to its end, however many requests that takes."""
    house = House()
    house.gates = Gates(limit=1)
    first = iter([ReplyLostError("reset")])
    house.answers = {"1": lambda kind: next(first, None) if kind is CANCEL else None}
    tally = in_virtual_time(house.run(ids(9)))
    assert (tally.results, tally.open) == ({Reason.CANCELED: 1}, 8)


def test_nothing_is_sent_for_excluded_and_held_back_rows(in_virtual_time: InVirtualTime) -> None:
    """An excluded row is skipped on record; one that is held back stays open, without a row."""
    house = House()
    house.standings = {"1": Standing.EXCLUDED, "2": Standing.HELD_BACK}
    tally = in_virtual_time(house.run(ids(3)))
    assert house.sent == [(CANCEL, "3")]
    assert (tally.excluded, tally.open, tally.is_conserved) == (1, 1, True)
    assert [(row.row, row.why) for row in house.rows if isinstance(row, Skip)] == [(1, SkipReason.EXCLUDED)]


def test_the_rest_waits_for_the_canary(in_virtual_time: InVirtualTime) -> None:
    """The first few are canceled and looked up before anything else leaves."""
    house = House(concurrency=4)
    house.gates = Gates(canary=2)
    tally = in_virtual_time(house.run(ids(8)))
    assert sorted(house.sent[:2]) == [(CANCEL, "1"), (CANCEL, "2")]
    assert sorted(house.sent[2:4]) == [(LOOK_UP, "1"), (LOOK_UP, "2")]
    assert sorted(house.sent[4:]) == [(CANCEL, str(number)) for number in range(3, 9)]
    assert tally.results == {Reason.CANCELED: 8}


def test_a_canary_that_is_not_what_its_reply_said_stops_the_run(in_virtual_time: InVirtualTime) -> None:
    """The reply said canceled, the invoice does not: it is unknown, and no other one is touched."""
    house = House(concurrency=4)
    house.gates = Gates(canary=2)
    said_sent = Reply(http_status=200, is_object=True, invoice=Invoice(id="2", status="SENT"))
    house.answers = {"2": lambda kind: said_sent if kind is LOOK_UP else None}
    with pytest.raises(CanaryFailedError, match="2, ended as unknown"):
        in_virtual_time(house.run(ids(8)))
    assert {invoice_id for _, invoice_id in house.sent} == {"1", "2"}
    assert house.reasons() == {"1": Reason.CANCELED, "2": Reason.UNKNOWN}
    assert (house.tally.open, house.tally.is_conserved) == (6, True)


def test_a_stop_lets_go_what_waits_for_the_canary(in_virtual_time: InVirtualTime) -> None:
    """Nothing hangs, and the row that was read meanwhile stays open."""
    house = House(concurrency=4)
    house.gates = Gates(canary=1)
    house.slow_s = {"1": 2.0}
    tally = in_virtual_time(house.run(ids(8), during=after(1.0, lambda: house.pipeline.stop("SIGTERM"))))
    assert {invoice_id for _, invoice_id in house.sent} == {"1"}
    assert (tally.results, tally.open, tally.is_conserved) == ({Reason.CANCELED: 1}, 7, True)


def test_an_abort_loses_no_row_that_waits_for_the_canary(in_virtual_time: InVirtualTime) -> None:
    """The one that was read is counted, though its task is cancelled."""
    house = House(concurrency=4)
    house.gates = Gates(canary=1)
    house.slow_s = {"1": 500.0}
    tally = in_virtual_time(house.run(ids(8), during=after(1.0, lambda: house.pipeline.abort("SIGTERM"))))
    assert (tally.results, tally.open, tally.is_conserved) == ({Reason.UNKNOWN: 1}, 7, True)


def test_a_canary_larger_than_the_manifest_is_all_of_it(in_virtual_time: InVirtualTime) -> None:
    """Every invoice is confirmed, and nobody waits for more."""
    house = House()
    house.gates = Gates(canary=50)
    assert in_virtual_time(house.run(ids(3))).results == {Reason.CANCELED: 3}
    assert len(house.sent) == 6


def test_too_many_errors_stop_and_drain(in_virtual_time: InVirtualTime) -> None:
    """What is in flight comes back and has its row; the rest stays open."""
    house = House(concurrency=4)
    house.gates = Gates(max_errors=0)
    house.answers = {"3": lambda _kind: Reply(http_status=404, is_object=True)}
    with pytest.raises(ThresholdExceededError, match="--max-errors"):
        in_virtual_time(house.run(ids(500)))
    assert house.reasons()["3"] is Reason.NOT_FOUND
    assert set(house.reasons()) == {invoice_id for _, invoice_id in house.sent}
    assert house.tally.open > 480
    assert house.tally.is_conserved


def test_posts_that_fail_while_look_ups_work_are_stopped_by_the_error_rate(
    in_virtual_time: InVirtualTime,
) -> None:
    """Such a service is no outage: each invoice uses its attempts, and the run stops at a hundred rows."""
    house = House(concurrency=16)
    house.gates = Gates(max_error_rate=50)
    broken = Reply(http_status=503)
    house.answers = {
        str(number): lambda kind: broken if kind is CANCEL else None for number in range(1, 2001)
    }
    with pytest.raises(ThresholdExceededError, match="--max-error-rate"):
        in_virtual_time(house.run(ids(2000)))
    assert set(house.reasons().values()) == {Reason.UNKNOWN}
    assert len(house.reasons()) >= 100
    assert house.tally.is_conserved
    pauses = [event for event in house.events if isinstance(event, PauseStarted)]
    assert len(pauses) == house.probes <= 10, "one read for each streak of failures, and on it goes"
