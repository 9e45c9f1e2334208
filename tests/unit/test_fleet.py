"""Several merchants in one run: what they share, and what stays each one's own affair."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from functools import partial
from typing import Any

import pytest
from msgspec import structs

from batchcancel.errors import (
    CanaryFailedError,
    CredentialsRefusedError,
    LedgerWriteError,
    ManifestChangedError,
    NotSentError,
    ReplyLostError,
    ThresholdExceededError,
)
from batchcancel.gates import Gates
from batchcancel.model import (
    Event,
    Invoice,
    ManifestRow,
    MerchantStopped,
    PauseCause,
    PauseEnded,
    PauseStarted,
    Reason,
    Reply,
    RequestKind,
    Result,
    Skip,
    Standing,
    StopRequested,
    Tally,
    Vitals,
)
from batchcancel.pace import Pace, Quota
from batchcancel.pipeline import MAX_WAITING, Entrance, Exposure, Fleet, Lane, Pipeline, Turnstile
from batchcancel.retry import Retrier

InVirtualTime = Callable[[Coroutine[Any, Any, Any]], Any]
Answer = Callable[[RequestKind, str | None, float], Reply | None]
CANCEL = RequestKind.CANCEL
FORBIDDEN = Reply(http_status=403)


def refuse(_kind: RequestKind, _invoice_id: str | None, _now: float) -> Reply:
    """Refuse whatever is asked for a merchant."""
    return FORBIDDEN


class House:
    """A fleet over a service in memory that knows merchants."""

    def __init__(self, *, concurrency: int = 4, gates: Gates = Gates()) -> None:  # noqa: B008 - frozen
        self.concurrency = concurrency
        self.gates = gates
        self.rate_per_merchant: float | None = None
        self.own_quotas = False
        self.answers: dict[str | None, Answer] = {}
        """What is said to a merchant besides what a good service says."""
        self.answered_earlier: set[tuple[str | None, str]] = set()
        """Invoices, by merchant and id, that have their answer from an earlier run."""
        self.takes_s = 0.01
        self.sent: list[tuple[str | None, RequestKind, str | None, float]] = []
        self.in_flight = self.most_in_flight = 0
        self.rows: list[Result | Skip] = []
        self.events: list[Event] = []
        self.read = 0
        self.read_takes_s = 0.0
        self.read_fails_at: int | None = None
        self.sink_fails_at: int | None = None
        self.fleet: Fleet

    async def serve(self, merchant_id: str | None, kind: RequestKind, invoice_id: str | None) -> Reply:
        now = asyncio.get_running_loop().time()
        self.sent.append((merchant_id, kind, invoice_id, now))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.in_flight -= 1
        special = self.answers.get(merchant_id)
        answer = None if special is None else special(kind, invoice_id, now)
        return answer or Reply(
            http_status=200, is_object=True, invoice=Invoice(id=invoice_id, status="CANCELED")
        )

    async def append(self, record: Result | Skip) -> None:
        if self.sink_fails_at is not None and len(self.rows) >= self.sink_fails_at:
            raise LedgerWriteError("disk full")
        self.rows.append(record)

    async def manifest(self, rows: Iterable[ManifestRow]) -> AsyncIterator[ManifestRow]:
        for row in rows:
            if self.read == self.read_fails_at:
                raise ManifestChangedError("changed")
            self.read += 1
            if self.read_takes_s:
                await asyncio.sleep(self.read_takes_s)
            key = (row.merchant_id, row.invoice_id)
            yield structs.replace(row, standing=Standing.SETTLED) if key in self.answered_earlier else row

    async def run(self, rows: list[ManifestRow], *, during: Callable[[], object] = lambda: None) -> Tally:
        slots = asyncio.Semaphore(self.concurrency)
        exposure = Exposure(places=self.concurrency, doubts=250)
        entrance = Entrance(self.gates)
        shared = Quota(None, on_event=self.events.append)
        to_ask = Counter(
            row.merchant_id
            for row in rows
            if row.valid and (row.merchant_id, row.invoice_id) not in self.answered_earlier
        )

        def open_lane(merchant_id: str | None, on_failure: Callable[[Exception], None]) -> Lane:
            own = Quota(self.rate_per_merchant, on_event=self.events.append)
            pace = Pace(
                partial(self.serve, merchant_id),
                slots=slots,
                quota=own if self.own_quotas else shared,
                max_outage_s=600,
                on_event=self.events.append,
            )
            pipeline = Pipeline(
                retrier=Retrier(pace, max_attempts=3, ledger_began_at=None),
                pace=pace,
                sink=self,
                workers=self.concurrency,
                exposure=Turnstile(exposure),
                entrance=entrance,
                on_failure=on_failure,
                on_event=self.events.append,
            )
            pace.unfinished = pipeline.unfinished
            return Lane(merchant_id=merchant_id, pace=pace, pipeline=pipeline, to_ask=to_ask[merchant_id])

        merchants = {row.merchant_id for row in rows}
        self.fleet = Fleet(merchants, open_lane=open_lane, entrance=entrance, on_event=self.events.append)
        during()
        try:
            await self.fleet.run(self.manifest(rows))
        finally:
            self.ended_at = asyncio.get_running_loop().time()
            settled = sum((row.merchant_id, row.invoice_id) in self.answered_earlier for row in rows)
            self.tally = self.fleet.tally().with_unread(rows=len(rows), settled_earlier=settled)
            assert self.tally.is_conserved
        return self.tally

    def settled(self) -> Counter[str | None]:
        """Count results by merchant."""
        return Counter(row.merchant_id or None for row in self.rows if isinstance(row, Result))

    def posts(self) -> Counter[tuple[str | None, str | None]]:
        """Count cancelations by merchant and invoice."""
        return Counter((merchant, one) for merchant, kind, one, _ in self.sent if kind is CANCEL)


def rows_of(*merchants: str | None, each: int = 20, sorted_by_merchant: bool = False) -> list[ManifestRow]:
    """Return rows 1 to ``each`` of every merchant: the same ids at each, in turn or one after another."""
    pairs = [(merchant, number) for number in range(1, each + 1) for merchant in merchants]
    if sorted_by_merchant:
        pairs.sort(key=lambda pair: merchants.index(pair[0]))
    return [
        ManifestRow(row=row, invoice_id=str(number), merchant_id=merchant)
        for row, (merchant, number) in enumerate(pairs, start=1)
    ]


def after(seconds: float, act: Callable[[], object]) -> Callable[[], object]:
    """Return what makes something happen that long after the run has begun."""
    return lambda: asyncio.get_running_loop().call_later(seconds, act)


@pytest.mark.parametrize("is_sorted", [True, False], ids=["sorted", "mixed"])
def test_the_same_id_is_canceled_once_at_each_merchant(
    in_virtual_time: InVirtualTime, *, is_sorted: bool
) -> None:
    """Every row ends, each POST leaves once for its own merchant, one signed read each goes before."""
    house = House()
    tally = in_virtual_time(house.run(rows_of("a", "b", None, sorted_by_merchant=is_sorted)))
    assert tally.results == {"canceled": 60}
    assert tally.open == 0
    assert house.settled() == {"a": 20, "b": 20, None: 20}
    assert set(house.posts().values()) == {1}
    probes = Counter(merchant for merchant, kind, _, _ in house.sent if kind is RequestKind.PROBE)
    assert probes == {"a": 1, "b": 1, None: 1}
    assert house.fleet.stopped_merchants == ()


def test_merchants_share_the_requests_in_flight(in_virtual_time: InVirtualTime) -> None:
    """Ten merchants have no more in flight together than one would, and use all of it."""
    house = House(concurrency=4)
    in_virtual_time(house.run(rows_of(*"abcdefghij")))
    assert house.most_in_flight == 4


@pytest.mark.parametrize("is_sorted", [True, False], ids=["sorted", "mixed"])
def test_a_refused_merchant_stops_only_its_own_rows(
    in_virtual_time: InVirtualTime, *, is_sorted: bool
) -> None:
    """Two signed reads tell; no cancelation leaves for it, and all others are canceled."""
    house = House()
    house.answers["b"] = refuse
    tally = in_virtual_time(house.run(rows_of("a", "b", "c", sorted_by_merchant=is_sorted)))
    assert tally.results == {"canceled": 40}
    assert tally.open == 20
    assert house.settled() == {"a": 20, "c": 20}
    (stopped,) = house.fleet.stopped_merchants
    assert (stopped.merchant_id, stopped.open) == ("b", 20)
    assert "HTTP 403 to a signed read" in stopped.why
    assert [event for event in house.events if isinstance(event, MerchantStopped)] == [
        MerchantStopped(merchant_id="b", why=stopped.why)
    ]
    assert not any(merchant == "b" for merchant, _ in house.posts())


@pytest.mark.parametrize("is_sorted", [True, False], ids=["sorted", "mixed"])
@pytest.mark.parametrize("room", [3, MAX_WAITING])
def test_a_refused_merchant_leaves_only_open_what_has_no_answer(
    in_virtual_time: InVirtualTime, monkeypatch: pytest.MonkeyPatch, room: int, *, is_sorted: bool
) -> None:
    """Rows that have their answer from an earlier run count so, were they read ahead or come later."""
    monkeypatch.setattr("batchcancel.pipeline.fleet.MAX_WAITING", room)
    house = House()
    house.answers["b"] = refuse
    house.answered_earlier = {("b", str(number)) for number in range(1, 16)}
    tally = in_virtual_time(house.run(rows_of("a", "b", sorted_by_merchant=is_sorted)))
    assert (tally.results, tally.settled_earlier, tally.open) == ({"canceled": 20}, 15, 5)
    assert [one.open for one in house.fleet.stopped_merchants] == [5]


def test_a_merchant_without_an_open_invoice_is_not_asked_about(in_virtual_time: InVirtualTime) -> None:
    """Not even by the signed read: a key that is refused by now changes nothing."""
    house = House()
    house.answers["b"] = refuse
    house.answered_earlier = {("b", str(number)) for number in range(1, 21)}
    tally = in_virtual_time(house.run(rows_of("a", "b")))
    assert (tally.results, tally.settled_earlier, tally.open) == ({"canceled": 20}, 20, 0)
    assert not any(merchant == "b" for merchant, *_ in house.sent)


def test_a_merchant_that_is_refused_in_the_middle_keeps_what_it_has(in_virtual_time: InVirtualTime) -> None:
    """The key is asked about for this merchant alone; what was answered before counts."""
    house = House(concurrency=2)
    house.answers["b"] = lambda _kind, _one, now: FORBIDDEN if now > 1000.08 else None
    tally = in_virtual_time(house.run(rows_of("a", "b", each=50)))
    (stopped,) = house.fleet.stopped_merchants
    assert house.settled()["a"] == 50
    assert 0 < house.settled()["b"] < 50
    assert stopped.open == tally.open == 50 - house.settled()["b"]
    assert sum(isinstance(event, MerchantStopped) for event in house.events) == 1


def test_all_merchants_may_be_refused(in_virtual_time: InVirtualTime) -> None:
    """Each is named."""
    house = House()
    house.answers = dict.fromkeys(("a", "b"), refuse)
    tally = in_virtual_time(house.run(rows_of("a", "b")))
    assert tally.open == 40
    assert {one.merchant_id for one in house.fleet.stopped_merchants} == {"a", "b"}


def test_a_lone_merchant_that_is_refused_stops_the_run(in_virtual_time: InVirtualTime) -> None:
    """There is nobody else to go on for."""
    house = House()
    house.answers["a"] = refuse
    with pytest.raises(CredentialsRefusedError):
        in_virtual_time(house.run(rows_of("a")))
    assert house.fleet.stopped_merchants == ()


def test_an_outage_of_one_merchant_stops_only_its_own_rows(in_virtual_time: InVirtualTime) -> None:
    """Its requests get no reply for longer than is waited for; the others' do."""
    house = House()

    def fail(_kind: RequestKind, _one: str | None, _now: float) -> Reply:
        raise ReplyLostError("reset")

    house.answers["b"] = fail
    tally = in_virtual_time(house.run(rows_of("a", "b")))
    assert tally.results == {"canceled": 20}
    (stopped,) = house.fleet.stopped_merchants
    assert (stopped.merchant_id, stopped.open) == ("b", 20)
    assert "no good reply for 600 s" in stopped.why


@pytest.mark.parametrize(
    "failure",
    [NotSentError("dns"), ReplyLostError("reset"), Reply(http_status=503)],
    ids=["dns", "lost", "503"],
)
@pytest.mark.parametrize("concurrency", [4, 16])
def test_an_outage_of_one_merchant_holds_no_other_up(
    in_virtual_time: InVirtualTime, failure: Exception | Reply, concurrency: int
) -> None:
    """Its invoices keep no places meanwhile, and not all that may be in doubt are its own."""
    house = House(concurrency=concurrency)

    def fail(_kind: RequestKind, _one: str | None, now: float) -> Reply | None:
        if now > 1000.3 and isinstance(failure, Exception):
            raise failure
        return failure if now > 1000.3 and isinstance(failure, Reply) else None

    house.answers["b"] = fail
    in_virtual_time(house.run(rows_of("a", "b", each=1500)))
    assert house.settled()["a"] == 1500
    assert max(at for merchant, *_, at in house.sent if merchant == "a") < 1000 + 60
    assert sum(isinstance(row, Result) and row.reason == "unknown" for row in house.rows) < 80
    assert [one.merchant_id for one in house.fleet.stopped_merchants] == ["b"]


@pytest.mark.parametrize("answer", [Reply(http_status=429, retry_after_s=5.0), None], ids=["429", "outage"])
def test_a_merchant_that_was_idle_for_long_may_still_wait(
    in_virtual_time: InVirtualTime, answer: Reply | None
) -> None:
    """Time in which nothing was asked for it is no time without a good reply."""
    house = House(concurrency=1)
    house.takes_s = 1.0
    others = rows_of("a", each=MAX_WAITING + 700)
    late = ManifestRow(row=0, invoice_id="late", merchant_id="b")
    in_vain: list[float] = []

    def be_slow(_kind: RequestKind, one: str | None, now: float) -> Reply | None:
        if (one != "late" and not in_vain) or len(in_vain) > 12 or (answer and in_vain):
            return None
        in_vain.append(now)
        if answer is None:
            raise NotSentError("ClientConnectorError")
        return answer

    house.answers["b"] = be_slow
    rows = [ManifestRow(row=0, invoice_id="early", merchant_id="b"), *others, late]
    tally = in_virtual_time(house.run(rows))
    assert in_vain[0] > 1000 + 600
    assert tally.open == 0
    assert house.fleet.stopped_merchants == ()


@pytest.mark.parametrize("own_quotas", [False, True], ids=["shared", "own"])
def test_a_429_makes_everyone_wait_who_shares_the_quota(
    in_virtual_time: InVirtualTime, *, own_quotas: bool
) -> None:
    """One merchant's long Retry-After holds up the others only where the rate is everyone's."""
    house = House(concurrency=2)
    house.own_quotas = own_quotas
    throttled = Reply(http_status=429, retry_after_s=60.0)
    house.answers["a"] = lambda kind, _one, now: throttled if kind is CANCEL and now < 1030 else None
    tally = in_virtual_time(house.run(rows_of("a", "b", each=50, sorted_by_merchant=True)))
    assert tally.results == {"canceled": 100}
    last_of_b = max(at for merchant, _, _, at in house.sent if merchant == "b")
    assert (last_of_b > 1060) is not own_quotas


@pytest.mark.parametrize("concurrency", [1, 2, 16])
def test_merchants_that_pause_hold_no_other_up(in_virtual_time: InVirtualTime, concurrency: int) -> None:
    """However many of them there are: whoever finds its merchant paused gives its place back."""
    house = House(concurrency=concurrency)
    house.own_quotas = True
    throttled = Reply(http_status=429, retry_after_s=60.0)
    paused = "abcdefghijklmnopqrst"
    house.answers |= dict.fromkeys(
        paused, lambda kind, _one, now: throttled if kind is CANCEL and 1000.02 < now < 1030 else None
    )
    tally = in_virtual_time(house.run(rows_of(*paused, "z", each=50)))
    assert tally.results == {"canceled": 21 * 50}
    assert max(at for merchant, *_, at in house.sent if merchant == "z") < 1000 + 2


@pytest.mark.parametrize("own_quotas", [False, True], ids=["shared", "own"])
def test_a_429_that_asks_for_too_long_stops_everyone_who_shares_the_quota(
    in_virtual_time: InVirtualTime, *, own_quotas: bool
) -> None:
    """Each is listed, and nobody goes on against the service's word."""
    house = House(concurrency=2)
    house.own_quotas = own_quotas
    throttled = Reply(http_status=429, retry_after_s=3600.0)
    house.answers["a"] = lambda kind, _one, _now: throttled if kind is CANCEL else None
    in_virtual_time(house.run(rows_of("a", "b", "c", each=50, sorted_by_merchant=True)))
    stopped = {one.merchant_id: one.why for one in house.fleet.stopped_merchants}
    assert stopped.keys() == ({"a"} if own_quotas else {"a", "b", "c"})
    assert "asks to wait 3600 s" in stopped["a"]
    asked_at = min(at for merchant, kind, _, at in house.sent if merchant == "a" and kind is CANCEL)
    late = [merchant for merchant, _, _, at in house.sent if at > asked_at + house.takes_s]
    assert bool(late) is own_quotas


def test_each_merchant_has_a_rate_of_its_own(in_virtual_time: InVirtualTime) -> None:
    """Ten a second each: three merchants get thirty, none gets more than ten and a tenth."""
    house = House(concurrency=30)
    house.own_quotas, house.rate_per_merchant = True, 10.0
    in_virtual_time(house.run(rows_of("a", "b", "c", each=40)))
    for name in "abc":
        times = [at for merchant, _, _, at in house.sent if merchant == name]
        assert max(sum(start <= at < start + 1 for at in times) for start in times) <= 12
    assert 3.9 < max(at for *_, at in house.sent) - 1000 < 4.5


# --- what goes on at the moment -------------------------------------------------------------------


def test_rates_of_merchants_add_up(in_virtual_time: InVirtualTime) -> None:
    """Ten a second each, within 25 for all; who has ended counts no more, and at the end all do."""
    house = House(concurrency=30)
    house.own_quotas, house.rate_per_merchant = True, 10.0
    seen: list[Vitals] = []

    def look(most: float | None) -> None:
        seen.append(house.fleet.vitals(to_settle=50, set_rate=most))

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        for at_s, most in ((0.5, 25.0), (0.6, None), (2.5, 25.0)):
            loop.call_later(at_s, look, most)
        rows = [*rows_of("a", each=30), *rows_of("b", "c", each=10)]
        await house.run(rows, during=lambda: look(None))
        look(None)

    in_virtual_time(scenario())
    assert [(one.allowed_rate, one.set_rate) for one in seen] == [
        (None, None),
        (25.0, 25.0),
        (30.0, 30.0),
        (10.0, 10.0),
        (30.0, 30.0),
    ]
    assert [one.rows_left for one in seen] == [50, 38, 35, 6, 0]
    assert {one.in_flight for one in seen} == {0}
    assert {one.held_by for one in seen} == {None}


@pytest.mark.parametrize("own_quotas", [False, True], ids=["shared", "own"])
def test_all_are_held_only_if_each_is(in_virtual_time: InVirtualTime, *, own_quotas: bool) -> None:
    """A quota that two share counts once, and a merchant that waits alone does not stand for others."""
    house = House(concurrency=2)
    house.own_quotas = own_quotas
    house.takes_s = 0.5
    throttled = Reply(http_status=429, retry_after_s=60.0)
    house.answers["a"] = lambda kind, _one, now: throttled if kind is CANCEL and now < 1010 else None
    seen: list[Vitals] = []

    def look() -> None:
        seen.append(house.fleet.vitals(to_settle=100, set_rate=None))

    in_virtual_time(house.run(rows_of("a", "b", each=50), during=after(10.25, look)))
    (vitals,) = seen
    assert vitals.held_by is (None if own_quotas else PauseCause.RATE_LIMITED)
    assert vitals.in_flight == (2 if own_quotas else 0)
    assert not vitals.is_stopping


def test_a_cut_rate_is_below_the_set_one(in_virtual_time: InVirtualTime) -> None:
    """Which tells that the service refused more; after a stop nothing new leaves."""
    house = House(concurrency=4)
    house.own_quotas, house.rate_per_merchant = True, 100.0
    throttled = Reply(http_status=429, retry_after_s=0.1)
    house.answers[None] = lambda kind, one, _now: (
        throttled if kind is CANCEL and one in {"50", "51"} else None
    )
    seen: list[Vitals] = []

    def look() -> None:
        seen.append(house.fleet.vitals(to_settle=200, set_rate=100.0))
        house.fleet.stop("enough")
        seen.append(house.fleet.vitals(to_settle=200, set_rate=100.0))

    in_virtual_time(house.run(rows_of(None, each=200), during=after(1.5, look)))
    assert [one.set_rate for one in seen] == [100.0, 100.0]
    assert 1 < (seen[0].allowed_rate or 0) < 100
    assert [one.is_stopping for one in seen] == [False, True]


# --- paused by hand -------------------------------------------------------------------------------


@pytest.mark.parametrize("own_quotas", [False, True], ids=["shared", "own"])
def test_a_pause_holds_every_merchant_and_is_told_once(
    in_virtual_time: InVirtualTime, *, own_quotas: bool
) -> None:
    """Also those whose first row comes while it lasts; a second call changes nothing."""
    house = House(concurrency=4)
    house.own_quotas = own_quotas
    house.read_takes_s = 0.2
    seen: list[Vitals] = []

    def pause() -> None:
        house.fleet.pause()
        house.fleet.pause()

    def resume() -> None:
        seen.append(house.fleet.vitals(to_settle=30, set_rate=None))
        house.fleet.resume()
        house.fleet.resume()

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(1.05, pause)
        loop.call_later(61.05, resume)
        await house.run(rows_of("a", "b", "c", each=10, sorted_by_merchant=True))

    in_virtual_time(scenario())
    assert house.tally.results == {"canceled": 30}
    assert [at for *_, at in house.sent if 1001.05 < at < 1061.05] == []
    assert [(one.held_by, one.in_flight) for one in seen] == [(PauseCause.BY_HAND, 0)]
    started, ended = house.events
    assert started == PauseStarted(cause=PauseCause.BY_HAND, wait_s=None)
    assert isinstance(ended, PauseEnded)
    assert ended.cause is PauseCause.BY_HAND
    assert ended.lasted_s == pytest.approx(60.0)


def test_a_stop_in_a_pause_ends_the_run_at_once(in_virtual_time: InVirtualTime) -> None:
    """What was in flight has come back; nothing is sent any more, a lost cancelation is not looked up."""
    house = House(concurrency=2)
    house.takes_s = 1.0

    def lose(kind: RequestKind, _one: str | None, _now: float) -> Reply | None:
        if kind is CANCEL:
            raise ReplyLostError("reset")
        return None

    house.answers["a"] = lose

    async def scenario() -> float:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            house.fleet.stop("SIGINT")
            house.fleet.resume()

        loop.call_later(30.0, stop)
        await house.run(rows_of("a", "b", each=10), during=lambda: loop.call_later(1.5, house.fleet.pause))
        return loop.time()

    assert in_virtual_time(scenario()) == pytest.approx(1030.0)
    assert max(at for *_, at in house.sent) < 1001.5
    assert {row.reason for row in house.rows if isinstance(row, Result)} <= {Reason.CANCELED, Reason.UNKNOWN}
    assert house.tally.open == 20 - len(house.rows)
    assert [type(event) for event in house.events if not isinstance(event, StopRequested)] == [
        PauseStarted,
        PauseEnded,
    ]


def test_a_stopped_run_is_not_paused(in_virtual_time: InVirtualTime) -> None:
    """What is in flight is drained, and its look-ups leave."""
    house = House(concurrency=2)
    house.takes_s = 1.0

    def look() -> None:
        house.fleet.stop("SIGINT")
        house.fleet.pause()

    in_virtual_time(house.run(rows_of("a", each=10), during=after(1.5, look)))
    assert house.tally.results == {"canceled": 2}
    assert [event for event in house.events if isinstance(event, PauseStarted)] == []


def test_the_reader_is_not_far_ahead_of_a_slow_merchant(in_virtual_time: InVirtualTime) -> None:
    """So many rows are held for merchants that wait, and then no more are read."""
    house = House(concurrency=1)
    house.own_quotas, house.rate_per_merchant = True, 1.0
    most_read: list[int] = []
    rows = rows_of("a", "b", each=MAX_WAITING, sorted_by_merchant=True)

    def look() -> None:
        most_read.append(house.read)
        house.fleet.stop("enough")

    tally = in_virtual_time(house.run(rows, during=after(3.0, look)))
    assert MAX_WAITING < most_read[0] < MAX_WAITING + 20
    assert tally.open == 2 * MAX_WAITING - len(house.rows)


def test_a_stop_ends_the_reading_also_among_the_rows_of_who_is_over(in_virtual_time: InVirtualTime) -> None:
    """However many rows of a refused merchant are still to come: none of them is read for nothing."""
    house = House()
    house.read_takes_s = 0.1
    house.answers["a"] = refuse
    rows = rows_of("a", "b", each=500, sorted_by_merchant=True)
    tally = in_virtual_time(house.run(rows, during=after(5.0, lambda: house.fleet.stop("SIGTERM"))))
    assert house.read <= 52
    assert tally.open == 1000


def test_a_merchant_that_is_refused_leaves_room_for_the_others(
    in_virtual_time: InVirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that were read ahead for it, and the one that waits for room, give their room back."""
    monkeypatch.setattr("batchcancel.pipeline.fleet.MAX_WAITING", 3)
    house = House()
    bad = [f"bad{number}" for number in range(5)]
    house.answers |= dict.fromkeys(bad, refuse)
    tally = in_virtual_time(house.run(rows_of(*bad, "a", each=10, sorted_by_merchant=True)))
    assert tally.results == {"canceled": 10}


@pytest.mark.parametrize("way", ["stop", "abort"])
def test_a_stop_ends_every_merchant(in_virtual_time: InVirtualTime, way: str) -> None:
    """Whoever is in flight is drained or let go; nobody begins any more, rows stay open."""
    house = House(concurrency=2)
    house.takes_s = 1.0
    tally = in_virtual_time(
        house.run(rows_of("a", "b"), during=after(3.5, lambda: getattr(house.fleet, way)("SIGTERM")))
    )
    # Both reads, then two cancelations a second from the first second on.
    assert len(house.rows) == len(house.posts())
    assert 0 < len(house.posts()) < 10
    assert tally.open == 40 - len(house.rows)
    unknown = [row for row in house.rows if isinstance(row, Result) and row.reason == "unknown"]
    assert len(unknown) == (2 if way == "abort" else 0)


def test_a_stop_sends_home_who_waits_for_its_turn(in_virtual_time: InVirtualTime) -> None:
    """One of each merchant for the rate, those behind it for a place: the run is over at once."""
    house = House(concurrency=4)
    house.own_quotas, house.rate_per_merchant = True, 0.1
    stop = after(15.0, lambda: house.fleet.stop("SIGTERM"))
    tally = in_virtual_time(house.run(rows_of("a", "b"), during=stop))
    assert house.settled() == {"a": 1, "b": 1}
    assert tally.open == 38
    assert house.ended_at - 1000 < 15.1


@pytest.mark.parametrize("merchants", [("a",), ("a", "b")], ids=["one", "two"])
def test_a_stop_before_the_first_row_sends_nothing(
    in_virtual_time: InVirtualTime, merchants: tuple[str, ...]
) -> None:
    """Neither reads nor cancelations."""
    house = House()
    rows = rows_of(*merchants)
    tally = in_virtual_time(house.run(rows, during=lambda: house.fleet.stop("SIGTERM")))
    assert house.sent == []
    assert tally.open == len(rows)


def test_a_threshold_stops_all_merchants_at_once(in_virtual_time: InVirtualTime) -> None:
    """It is the run's: errors of one merchant stop the others too, without waiting for what it drains."""
    house = House(gates=Gates(max_errors=0))
    missing = Reply(http_status=404, is_object=True)
    house.answers["b"] = lambda kind, _one, _now: None if kind is RequestKind.PROBE else missing
    with pytest.raises(ThresholdExceededError):
        in_virtual_time(house.run(rows_of("a", "b", each=500)))
    assert house.settled()["a"] < 20


def test_the_limit_is_the_runs(in_virtual_time: InVirtualTime) -> None:
    """However many merchants there are, and hardly a further row is read for its sake."""
    house = House(gates=Gates(limit=7))
    tally = in_virtual_time(house.run(rows_of("a", "b", "c", each=10_000)))
    assert sum(tally.results.values()) == 7
    assert house.fleet.is_at_limit
    assert house.read <= MAX_WAITING + 10


def test_a_merchant_that_is_refused_while_canaries_are_tried_stops_the_run(
    in_virtual_time: InVirtualTime,
) -> None:
    """Nothing else may be touched until they have ended well."""
    house = House(gates=Gates(canary=6))
    house.answers["b"] = refuse
    with pytest.raises(CredentialsRefusedError):
        in_virtual_time(house.run(rows_of("a", "b", "c")))
    assert len(house.posts()) <= 4


def test_canaries_hold_every_merchant_back(in_virtual_time: InVirtualTime) -> None:
    """One that is not what its reply said stops the run before any other invoice is touched."""
    house = House(gates=Gates(canary=3))
    sent = Reply(http_status=200, is_object=True, invoice=Invoice(id="1", status="SENT"))
    house.answers["a"] = lambda kind, one, _now: sent if kind is RequestKind.LOOK_UP and one == "1" else None
    with pytest.raises(CanaryFailedError):
        in_virtual_time(house.run(rows_of("a", "b", "c")))
    assert len(house.posts()) == 3
    assert ("a", "1") in house.posts()


def test_canaries_that_end_well_let_every_merchant_through(in_virtual_time: InVirtualTime) -> None:
    """Those that waited go on."""
    house = House(gates=Gates(canary=3))
    tally = in_virtual_time(house.run(rows_of("a", "b", "c")))
    assert tally.results == {"canceled": 60}


def test_a_manifest_that_changes_stops_all(in_virtual_time: InVirtualTime) -> None:
    """What was handed out is drained."""
    house = House()
    house.read_fails_at = 10
    with pytest.raises(ManifestChangedError):
        in_virtual_time(house.run(rows_of("a", "b")))
    assert house.tally.open == 40 - len(house.rows)


def test_a_full_disk_stops_all(in_virtual_time: InVirtualTime) -> None:
    """It counts more than anything else that went wrong."""
    house = House()
    house.sink_fails_at = 5
    house.answers["b"] = refuse
    with pytest.raises(LedgerWriteError):
        in_virtual_time(house.run(rows_of("a", "b", "c")))
    assert len(house.rows) == 5


def test_a_failure_from_outside_stops_all(in_virtual_time: InVirtualTime) -> None:
    """Such as the ledger's own writer."""
    house = House()
    house.takes_s = 1.0
    failure = LedgerWriteError("removed")
    with pytest.raises(LedgerWriteError, match="removed"):
        in_virtual_time(house.run(rows_of("a", "b"), during=after(2.5, lambda: house.fleet.fail(failure))))
    assert house.ended_at - 1000 < 2.6  # there is nothing to drain to


def test_a_defect_of_one_merchant_is_the_runs(in_virtual_time: InVirtualTime) -> None:
    """It is raised, and the others are stopped."""
    house = House()

    def break_down(kind: RequestKind, _one: str | None, _now: float) -> Reply | None:
        if kind is CANCEL:
            raise ZeroDivisionError("customer@example.com")
        return None

    house.answers["b"] = break_down
    with pytest.raises(ZeroDivisionError):
        in_virtual_time(house.run(rows_of("a", "b", each=500)))
    assert house.settled()["a"] < 30
    told = {event.why for event in house.events if isinstance(event, StopRequested)}
    assert told == {"ZeroDivisionError"}  # its own words may hold what no log may


def test_cancellation_ends_every_merchant(in_virtual_time: InVirtualTime) -> None:
    """It is raised again once all are through; what may have acted is unknown."""
    house = House(concurrency=2)
    house.takes_s = 1.0

    async def scenario() -> None:
        running = asyncio.create_task(house.run(rows_of("a", "b")))
        await asyncio.sleep(2.5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    in_virtual_time(scenario())
    assert all(isinstance(row, Result) for row in house.rows)
    assert len(house.rows) == len(house.posts())
