"""Rate, concurrency, pauses, the key in doubt and outages, on a clock that costs no time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from batchcancel.errors import (
    CredentialsRefusedError,
    OutageTooLongError,
    ReplyLostError,
    RunStoppingError,
    TransportError,
)
from batchcancel.model import Event, PauseCause, PauseEnded, PauseStarted, Reply, RequestKind, Subject
from batchcancel.pace import Pace, Quota, RateLimiter
from batchcancel.pace.health import Health

InVirtualTime = Callable[[Coroutine[Any, Any, Any]], Any]
CANCEL, LOOK_UP, PROBE = RequestKind.CANCEL, RequestKind.LOOK_UP, RequestKind.PROBE
OK, LOST = Reply(http_status=200, is_object=True), ReplyLostError("reset")


class Wire:
    """A service that answers from a script by kind of request, and remembers what it was sent."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.takes_s = takes_s
        self.answers: dict[RequestKind, Callable[[float], Reply | TransportError]] = {}
        self.sent: list[tuple[RequestKind, float]] = []
        self.in_flight = self.most_in_flight = 0
        self.events: list[Event] = []

    async def __call__(self, kind: RequestKind, _subject: Subject) -> Reply:
        now = asyncio.get_running_loop().time()
        self.sent.append((kind, now))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.in_flight -= 1
        script = self.answers.get(kind)
        answer = OK if script is None else script(now)
        if isinstance(answer, TransportError):
            raise answer
        return answer

    def pace(self, *, concurrency: int = 16, rate: float | None = None, max_outage_s: float = 600) -> Pace:
        return Pace(
            self,
            slots=asyncio.Semaphore(concurrency),
            quota=Quota(rate, on_event=self.events.append),
            max_outage_s=max_outage_s,
            on_event=self.events.append,
        )

    def times(self, kind: RequestKind) -> list[float]:
        return [at for sent, at in self.sent if sent is kind]


def worst_second(times: list[float]) -> int:
    """Count the most departures in any window of one second."""
    return max(sum(1 for other in times if at <= other < at + 1) for at in times)


# --- rate and concurrency ---------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 20.0, 500.0], ids=str)
def test_no_second_holds_more_than_the_rate_and_a_tenth(in_virtual_time: InVirtualTime, rate: float) -> None:
    """Departures are spaced from the first one on, with no burst and nothing saved up while idle."""

    async def scenario() -> list[float]:
        clock = asyncio.get_running_loop().time
        limiter = RateLimiter(rate)
        times = []
        for burst in range(3):
            await asyncio.sleep(burst * 5)
            for _ in range(int(rate * 3)):
                await limiter.take()
                times.append(clock())
        return times

    times = in_virtual_time(scenario())
    assert worst_second(times) <= rate * 1.1 + 1
    assert times[int(rate * 3) - 1] - times[0] == pytest.approx((rate * 3 - 1) / rate)


def test_a_late_wake_up_is_caught_up_by_a_tenth_of_a_second_at_most(in_virtual_time: InVirtualTime) -> None:
    """A stalled process does not release everything that it missed at once."""

    async def scenario() -> list[float]:
        clock = asyncio.get_running_loop().time
        limiter = RateLimiter(100.0)
        times: list[float] = []

        async def depart() -> None:
            await limiter.take(lambda seconds: asyncio.sleep(seconds + (2.0 if len(times) == 50 else 0.0)))
            times.append(clock())

        await asyncio.gather(*(depart() for _ in range(400)))
        return times

    times = in_virtual_time(scenario())
    assert worst_second(times) <= 111


def test_rate_can_be_changed_and_lifted(in_virtual_time: InVirtualTime) -> None:
    """A new rate holds from the next departure on; None lets everything through."""

    async def scenario() -> tuple[float, float]:
        clock = asyncio.get_running_loop().time
        limiter = RateLimiter(10.0)
        await limiter.take()
        limiter.retune(1.0)
        began = clock()
        await limiter.take()
        await limiter.take()
        slow = clock() - began
        limiter.retune(None)
        began = clock()
        for _ in range(1000):
            await limiter.take()
        return slow, clock() - began

    slow, unlimited = in_virtual_time(scenario())
    assert slow == pytest.approx(1.1)
    assert unlimited == 0
    with pytest.raises(ValueError, match="above 0"):
        in_virtual_time(_limiter_of(0))


async def _limiter_of(rate: float) -> RateLimiter:
    return RateLimiter(rate)


def test_concurrency_bounds_requests_of_every_kind(in_virtual_time: InVirtualTime) -> None:
    """Cancelations, look-ups and signed reads share the same slots."""
    wire = Wire(takes_s=1.0)

    async def scenario() -> None:
        pace = wire.pace(concurrency=3)
        kinds = [CANCEL, LOOK_UP] * 10
        await asyncio.gather(pace.greet(), *(pace.send(kind, "1") for kind in kinds))

    in_virtual_time(scenario())
    assert wire.most_in_flight == 3
    assert len(wire.sent) == 21


def test_a_request_is_announced_when_it_leaves_and_not_before(in_virtual_time: InVirtualTime) -> None:
    """What waits for a slot when it is cancelled has never left."""
    wire, departed = Wire(takes_s=5.0), []

    async def scenario() -> None:
        pace = wire.pace(concurrency=1)
        first = asyncio.create_task(pace.send(CANCEL, "1", on_departure=lambda: departed.append(1)))
        second = asyncio.create_task(pace.send(CANCEL, "2", on_departure=lambda: departed.append(2)))
        await asyncio.sleep(1)
        second.cancel()
        await first

    in_virtual_time(scenario())
    assert departed == [1]


def test_what_is_under_way_is_counted_from_departure_to_return(in_virtual_time: InVirtualTime) -> None:
    """Signed reads too; who waits for a turn has not left, though it holds a slot."""
    wire = Wire(takes_s=0.35)
    seen: list[tuple[int, int]] = []

    async def scenario() -> None:
        pace = wire.pace(concurrency=5, rate=10.0)
        assert pace.in_flight == 0
        loop = asyncio.get_running_loop()
        for at_s in (0.05, 0.15, 0.32, 0.62):
            loop.call_later(at_s, lambda: seen.append((pace.in_flight, wire.in_flight)))
        await asyncio.gather(pace.greet(), *(pace.send(CANCEL, str(n)) for n in range(20)))
        assert pace.in_flight == 0

    in_virtual_time(scenario())
    assert seen == [(1, 1), (2, 2), (4, 4), (4, 4)]


def test_a_failure_is_under_way_no_more(in_virtual_time: InVirtualTime) -> None:
    """Nor is a request that was given up."""
    wire = Wire(takes_s=1.0)
    wire.answers[CANCEL] = lambda _now: LOST

    async def scenario() -> None:
        pace = wire.pace()
        await pace.send(CANCEL, "1")
        assert pace.in_flight == 0
        task = asyncio.create_task(pace.send(LOOK_UP, "1"))
        await asyncio.sleep(0.5)
        assert pace.in_flight == 1
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert pace.in_flight == 0

    in_virtual_time(scenario())


# --- 429 --------------------------------------------------------------------------------------


def test_a_429_makes_everyone_wait(in_virtual_time: InVirtualTime) -> None:
    """Nothing of any kind leaves until Retry-After is over."""
    wire = Wire()
    wire.answers[CANCEL] = lambda _now: Reply(http_status=429, retry_after_s=7.0)

    async def scenario() -> None:
        pace = wire.pace()
        assert pace.held_by is None
        await pace.send(CANCEL, "1")
        assert pace.held_by is PauseCause.RATE_LIMITED
        await asyncio.gather(*(pace.send(LOOK_UP, str(n)) for n in range(5)))
        assert pace.held_by is None

    in_virtual_time(scenario())
    (refused,) = wire.times(CANCEL)
    assert wire.times(LOOK_UP) == [refused + 7.0] * 5
    assert wire.events == [
        PauseStarted(cause=PauseCause.RATE_LIMITED, wait_s=7.0),
        PauseEnded(cause=PauseCause.RATE_LIMITED, lasted_s=7.0),
    ]


def test_429_without_retry_after_backs_off_further_each_time(in_virtual_time: InVirtualTime) -> None:
    """The pauses grow up to 20 s, and replies to what was in flight already do not count twice."""
    wire = Wire(takes_s=0.1)
    wire.answers[CANCEL] = lambda _now: Reply(http_status=429)

    async def scenario() -> None:
        pace = wire.pace(max_outage_s=1e6)
        for _ in range(12):
            await asyncio.gather(*(pace.send(CANCEL, "1") for _ in range(4)))

    in_virtual_time(scenario())
    times = sorted(set(wire.times(CANCEL)))
    gaps = [after - before for before, after in pairwise(times)]
    assert 0.2 <= gaps[0] <= 0.31
    assert max(gaps) <= 20.2
    assert sum(gaps) > 12


def test_a_retry_after_beyond_the_outage_limit_stops_at_once(in_virtual_time: InVirtualTime) -> None:
    """A service that says to come back tomorrow is not waited for."""
    wire = Wire()
    wire.answers[CANCEL] = lambda _now: Reply(http_status=429, retry_after_s=86_400.0)

    async def scenario() -> float:
        pace, began = wire.pace(), asyncio.get_running_loop().time()
        assert await pace.send(CANCEL, "1") == Reply(http_status=429, retry_after_s=86_400.0)
        with pytest.raises(OutageTooLongError, match="86400 s"):
            await pace.send(CANCEL, "1")
        return asyncio.get_running_loop().time() - began

    assert in_virtual_time(scenario()) == 0


# --- stopping ---------------------------------------------------------------------------------


def test_after_a_stop_no_cancelation_leaves_but_look_ups_do(in_virtual_time: InVirtualTime) -> None:
    """Drain means: no new POST, and still learn what the last ones did."""
    wire = Wire()

    async def scenario() -> None:
        pace = wire.pace()
        pace.stop()
        with pytest.raises(RunStoppingError):
            await pace.send(CANCEL, "1")
        assert await pace.send(LOOK_UP, "1") == OK
        assert pace.is_stopping

    in_virtual_time(scenario())
    assert [kind for kind, _ in wire.sent] == [LOOK_UP]


def test_a_stop_ends_every_wait(in_virtual_time: InVirtualTime) -> None:
    """Sleeps, pauses and the queue for a slow rate end when the run stops."""
    wire = Wire()
    wire.answers[LOOK_UP] = lambda _now: Reply(http_status=429, retry_after_s=500.0)

    async def scenario() -> float:
        pace = wire.pace(rate=0.01)
        clock = asyncio.get_running_loop().time
        queued = [asyncio.create_task(pace.send(CANCEL, "1")) for _ in range(5)]
        asleep = asyncio.create_task(pace.sleep(1000))
        await asyncio.sleep(1)
        began = clock()
        pace.stop()
        results = await asyncio.gather(*queued, return_exceptions=True)
        await asleep
        assert [type(result) for result in results[1:]] == [RunStoppingError] * 4
        return clock() - began

    assert in_virtual_time(scenario()) == 0


def test_a_stop_sends_home_who_waits_at_a_closed_gate(in_virtual_time: InVirtualTime) -> None:
    """A look-up in a pause is not sent after a stop: the service asked for silence."""
    wire = Wire()
    wire.answers[CANCEL] = lambda _now: Reply(http_status=429, retry_after_s=500.0)

    async def scenario() -> None:
        pace = wire.pace()
        await pace.send(CANCEL, "1")
        waiting = asyncio.create_task(pace.send(LOOK_UP, "1"))
        await asyncio.sleep(1)
        pace.stop()
        with pytest.raises(RunStoppingError):
            await waiting

    in_virtual_time(scenario())
    assert wire.times(LOOK_UP) == []


# --- the first signed read --------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 302, 400, 404, 429, 500, 503], ids=str)
def test_any_reply_but_a_refusal_of_the_key_is_greeting_enough(
    in_virtual_time: InVirtualTime, status: int
) -> None:
    """The first read asks for the key and the clock, not for a list."""
    wire = Wire()
    wire.answers[PROBE] = lambda _now: Reply(http_status=status)

    async def scenario() -> None:
        await wire.pace().greet()

    in_virtual_time(scenario())
    assert len(wire.sent) == 1


@pytest.mark.parametrize("status", [401, 403, 407], ids=str)
def test_a_key_refused_twice_at_the_start_stops(in_virtual_time: InVirtualTime, status: int) -> None:
    """The second read is signed by the clock that the first one set."""
    wire = Wire()
    wire.answers[PROBE] = lambda _now: Reply(http_status=status)

    async def scenario() -> None:
        with pytest.raises(CredentialsRefusedError, match=f"HTTP {status}"):
            await wire.pace().greet()

    in_virtual_time(scenario())
    assert len(wire.sent) == 2


def test_a_service_that_is_down_at_the_start_is_waited_for(in_virtual_time: InVirtualTime) -> None:
    """No reply is an outage: signed reads go out with back-off until one is answered."""
    wire = Wire()
    wire.answers[PROBE] = lambda now: LOST if now < 1100 else OK

    async def scenario() -> None:
        await wire.pace().greet()

    in_virtual_time(scenario())
    assert wire.events[0] == PauseStarted(cause=PauseCause.OUTAGE, wait_s=None, last_failure="reset")
    times = wire.times(PROBE)
    assert times[-1] >= 1100 > times[-2]
    assert len(times) < 15


def test_a_service_that_stays_down_ends_the_run(in_virtual_time: InVirtualTime) -> None:
    """After --max-outage without a good reply the run stops, within a probe of the limit."""
    wire = Wire()
    wire.answers[PROBE] = lambda _now: LOST

    async def scenario() -> float:
        pace, clock = wire.pace(max_outage_s=60), asyncio.get_running_loop().time
        began = clock()
        with pytest.raises(OutageTooLongError, match=r"60 s .*failed with reset"):
            await pace.greet()
        return clock() - began

    assert in_virtual_time(scenario()) == pytest.approx(60, abs=1)


def test_a_stop_ends_an_outage(in_virtual_time: InVirtualTime) -> None:
    """Ctrl-C while the service is down does not wait for it."""
    wire = Wire()
    wire.answers[PROBE] = lambda _now: LOST

    async def scenario() -> None:
        pace = wire.pace()
        greeting = asyncio.create_task(pace.greet())
        await asyncio.sleep(10)
        pace.stop()
        with pytest.raises(RunStoppingError):
            await greeting

    in_virtual_time(scenario())


@pytest.mark.parametrize("silent_from_s", [0, 5], ids=["from-the-first-read", "in-an-outage"])
def test_a_stop_waits_for_no_reply_to_the_first_read(
    in_virtual_time: InVirtualTime, silent_from_s: float
) -> None:
    """A host that takes the read and never answers holds no run until its request times out."""
    wire = Wire()
    wire.answers[PROBE] = lambda _now: LOST

    async def scenario() -> float:
        clock = asyncio.get_running_loop().time
        pace = wire.pace()
        wire.takes_s = 0 if silent_from_s else 3600
        greeting = asyncio.create_task(pace.greet())
        await asyncio.sleep(silent_from_s)
        wire.takes_s = 3600
        await asyncio.sleep(60)
        stopped_at = clock()
        pace.stop()
        with pytest.raises(RunStoppingError):
            await greeting
        return clock() - stopped_at

    assert in_virtual_time(scenario()) < 1
    assert wire.in_flight == 0


# --- the key in doubt -------------------------------------------------------------------------


def test_another_accepted_request_clears_the_key(in_virtual_time: InVirtualTime) -> None:
    """No signed read is needed where somebody else was served since the refusal."""
    wire = Wire()

    async def scenario() -> None:
        pace, clock = wire.pace(), asyncio.get_running_loop().time
        refused_at = clock()
        await asyncio.sleep(1)
        await pace.send(CANCEL, "2")
        await pace.ask_key(since=refused_at)

    in_virtual_time(scenario())
    assert wire.times(PROBE) == []


def test_a_request_that_left_before_the_refusal_does_not_clear_the_key(
    in_virtual_time: InVirtualTime,
) -> None:
    """A key may be revoked between two requests; a late reply to the first says nothing."""
    wire = Wire(takes_s=2.0)
    wire.answers[PROBE] = lambda _now: Reply(http_status=403)

    async def scenario() -> None:
        pace = wire.pace()
        sending = asyncio.create_task(pace.send(CANCEL, "1"))
        await asyncio.sleep(1)
        refused_at = asyncio.get_running_loop().time()
        await sending
        with pytest.raises(CredentialsRefusedError):
            await pace.ask_key(since=refused_at)

    in_virtual_time(scenario())
    assert len(wire.times(PROBE)) == 3


def test_a_400_does_not_clear_the_account(in_virtual_time: InVirtualTime) -> None:
    """An account without invoicing is refused with 400 everywhere, and that is no acceptance."""
    wire = Wire()
    for kind in (CANCEL, PROBE):
        wire.answers[kind] = lambda _now: Reply(http_status=400, is_object=True)

    async def scenario() -> None:
        pace = wire.pace()
        await asyncio.sleep(1)
        await pace.send(CANCEL, "1")
        with pytest.raises(CredentialsRefusedError):
            await pace.ask_key(since=1000.0)

    in_virtual_time(scenario())


def test_a_refused_key_is_refused_for_everyone_at_once(in_virtual_time: InVirtualTime) -> None:
    """Who asks after the verdict gets it without another read, and nothing leaves any more."""
    wire = Wire()
    wire.answers[PROBE] = lambda _now: Reply(http_status=401)

    async def scenario() -> None:
        pace = wire.pace()
        asked = await asyncio.gather(
            *(pace.ask_key(since=1000.0) for _ in range(3)), pace.send(CANCEL, "1"), return_exceptions=True
        )
        assert [type(answer) for answer in asked] == [CredentialsRefusedError] * 4

    in_virtual_time(scenario())
    assert len(wire.times(PROBE)) == 3
    assert wire.times(CANCEL) == []


def test_a_key_in_doubt_holds_everyone_until_a_signed_read_is_accepted(
    in_virtual_time: InVirtualTime,
) -> None:
    """The reads go out at 0, 5 and 15 s; the first good one lets everybody go on."""
    wire = Wire()
    wire.answers[PROBE] = lambda now: Reply(http_status=401) if now < 1004 else OK

    async def scenario() -> None:
        pace = wire.pace()
        asking = asyncio.create_task(pace.ask_key(since=1000.0))
        await asyncio.sleep(1)
        await pace.send(CANCEL, "1")
        await asking

    in_virtual_time(scenario())
    assert wire.times(PROBE) == [1000.0, 1005.0]
    assert wire.times(CANCEL) == [1005.0]
    assert wire.events == [
        PauseStarted(cause=PauseCause.KEY_IN_DOUBT, wait_s=None),
        PauseEnded(cause=PauseCause.KEY_IN_DOUBT, lasted_s=5.0),
    ]


@pytest.mark.parametrize("status", [400, 401, 403], ids=str)
def test_a_key_refused_three_times_stops_the_run(in_virtual_time: InVirtualTime, status: int) -> None:
    """A key or account that the signed read is refused with is never blamed on invoices."""
    wire = Wire()
    wire.answers[PROBE] = lambda _now: Reply(http_status=status)

    async def scenario() -> None:
        with pytest.raises(CredentialsRefusedError):
            await wire.pace().ask_key(since=1000.0)

    in_virtual_time(scenario())
    assert wire.times(PROBE) == [1000.0, 1005.0, 1015.0]


def test_a_throttled_read_says_nothing_about_the_key(in_virtual_time: InVirtualTime) -> None:
    """A 429 in between is waited out: a refused key must not pass for an accepted one."""
    wire = Wire()
    replies = [Reply(http_status=401), Reply(http_status=429, retry_after_s=3.0)]
    wire.answers[PROBE] = lambda _now: replies.pop(0) if replies else Reply(http_status=401)

    async def scenario() -> None:
        with pytest.raises(CredentialsRefusedError):
            await wire.pace().ask_key(since=1000.0)

    in_virtual_time(scenario())
    assert wire.times(PROBE) == [1000.0, 1005.0, 1008.0, 1018.0]


@pytest.mark.parametrize(
    "page",
    [Reply(http_status=200), Reply(http_status=302), Reply(http_status=404)],
    ids=["200", "302", "404"],
)
def test_a_page_for_maintenance_is_no_word_of_the_service(
    in_virtual_time: InVirtualTime, page: Reply
) -> None:
    """HTML in place of JSON is a failure like a 5xx; it is looked into and, with the list, ridden out."""
    wire = Wire()
    wire.answers[CANCEL] = lambda _now: page
    wire.answers[PROBE] = lambda now: page if now < 1030 else OK

    async def scenario() -> bool:
        pace = wire.pace(rate=5.0)
        for _ in range(12):
            await pace.send(CANCEL, "1")
        return pace.was_in_outage(1002.0)

    # A 404 in whatever form may be an empty list, so the signed read takes it for an answer.
    assert in_virtual_time(scenario()) is (page.http_status != 404)


def test_a_retry_after_of_nothing_is_still_a_pause(in_virtual_time: InVirtualTime) -> None:
    """Taken literally it would be asked again without end."""
    wire = Wire()
    wire.answers[CANCEL] = lambda _now: Reply(http_status=429, retry_after_s=0.0)

    async def scenario() -> None:
        pace = wire.pace()
        for _ in range(3):
            await pace.send(CANCEL, "1")

    in_virtual_time(scenario())
    assert all(after - at >= 0.1 for at, after in pairwise(wire.times(CANCEL)))


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "too long"])
def test_a_throttled_read_ends_with_the_run(in_virtual_time: InVirtualTime, *, stopped: bool) -> None:
    """A stop ends the wait for the key's word, and so does a Retry-After that is too long."""
    wire = Wire()
    wire.answers[PROBE] = lambda _now: Reply(http_status=429, retry_after_s=50.0 if stopped else 5000.0)

    async def scenario() -> None:
        pace = wire.pace()
        asyncio.get_running_loop().call_later(1, pace.stop)
        with pytest.raises(RunStoppingError if stopped else OutageTooLongError):
            await pace.ask_key(since=1000.0)

    in_virtual_time(scenario())
    assert len(wire.times(PROBE)) == 1


def test_a_stop_ends_the_doubt_about_the_key(in_virtual_time: InVirtualTime) -> None:
    """The reads at 5 and 15 s are not waited for."""
    wire = Wire()
    wire.answers[PROBE] = lambda _now: Reply(http_status=401)

    async def scenario() -> None:
        pace = wire.pace()
        asyncio.get_running_loop().call_later(1, pace.stop)
        with pytest.raises(RunStoppingError):
            await pace.ask_key(since=1000.0)

    in_virtual_time(scenario())
    assert wire.times(PROBE) == [1000.0]


# --- outage -----------------------------------------------------------------------------------


def test_ten_failures_over_two_seconds_are_looked_into_once(in_virtual_time: InVirtualTime) -> None:
    """The streak leads to one signed read; its success means that the failures count."""
    wire = Wire()
    wire.answers[CANCEL] = lambda _now: Reply(http_status=500)

    async def scenario() -> bool:
        pace = wire.pace(rate=5.0)
        for _ in range(12):
            await pace.send(CANCEL, "1")
        return pace.was_in_outage(1001.0)

    assert in_virtual_time(scenario()) is False
    assert len(wire.times(PROBE)) == 1
    before = [at for at in wire.times(CANCEL) if at <= wire.times(PROBE)[0]]
    assert len(before) == 11


def test_fast_failures_are_not_looked_into_before_two_seconds(in_virtual_time: InVirtualTime) -> None:
    """Sixteen failures within a moment are no outage yet."""
    wire = Wire()
    wire.answers[CANCEL] = lambda _now: LOST

    async def scenario() -> None:
        pace = wire.pace()
        answers = await asyncio.gather(*(pace.send(CANCEL, "1") for _ in range(16)))
        assert answers == [LOST] * 16

    in_virtual_time(scenario())
    assert wire.times(PROBE) == []


def test_an_outage_is_ridden_out_and_its_requests_are_given_back(in_virtual_time: InVirtualTime) -> None:
    """While the service is down nothing but signed reads leaves, and what fell into it is forgiven."""
    wire = Wire()
    for kind in (CANCEL, PROBE):
        wire.answers[kind] = lambda now: LOST if 1001 < now < 1040 else OK

    async def scenario() -> tuple[bool, bool, float]:
        pace = wire.pace(rate=5.0)
        while asyncio.get_running_loop().time() < 1045:
            await pace.send(CANCEL, "1")
        return pace.was_in_outage(1000.5), pace.was_in_outage(1002.0), pace.idle_s_since(1000.0)

    before, during, lasted = in_virtual_time(scenario())
    assert (before, during) == (False, True)
    assert 38 < lasted < 75
    gap = max(after - at for at, after in pairwise(wire.times(CANCEL)))
    assert gap > 30


def test_few_unfinished_invoices_make_few_failures_enough(in_virtual_time: InVirtualTime) -> None:
    """A job of one row finds an outage too."""
    wire = Wire()
    wire.answers[CANCEL] = lambda _now: LOST

    async def scenario() -> None:
        pace = wire.pace()
        pace.unfinished = lambda: 1
        for _ in range(3):
            await pace.send(CANCEL, "1")
            await asyncio.sleep(1.5)

    in_virtual_time(scenario())
    assert len(wire.times(PROBE)) == 1


def test_an_undecided_streak_is_decided_by_a_good_reply(in_virtual_time: InVirtualTime) -> None:
    """Who wants to write an error waits for the streak's meaning, and a good reply gives it."""
    wire = Wire()
    wire.answers[CANCEL] = lambda _now: LOST

    async def scenario() -> float:
        pace, clock = wire.pace(), asyncio.get_running_loop().time
        await pace.explain_failures()
        await pace.send(CANCEL, "1")
        explaining = asyncio.create_task(pace.explain_failures())
        await asyncio.sleep(0.5)
        await pace.send(LOOK_UP, "2")
        await explaining
        return clock() - 1000.0

    assert in_virtual_time(scenario()) == pytest.approx(0.5)
    assert wire.times(PROBE) == []


def test_an_undecided_streak_is_decided_by_the_read_after_two_seconds(in_virtual_time: InVirtualTime) -> None:
    """Without a good reply the signed read decides, even if one request failed only."""
    wire = Wire()
    wire.answers[CANCEL] = lambda _now: LOST

    async def scenario() -> None:
        pace = wire.pace()
        await pace.send(CANCEL, "1")
        await pace.explain_failures()

    in_virtual_time(scenario())
    assert wire.times(PROBE) == [1002.0]


def test_a_stop_leaves_an_undecided_streak_undecided(in_virtual_time: InVirtualTime) -> None:
    """A run that stops does not turn a streak into error rows."""
    wire = Wire()
    wire.answers[CANCEL] = lambda _now: LOST

    async def scenario() -> None:
        pace = wire.pace()
        await pace.send(CANCEL, "1")
        explaining = asyncio.create_task(pace.explain_failures())
        await asyncio.sleep(0.1)
        pace.stop()
        with pytest.raises(RunStoppingError):
            await explaining

    in_virtual_time(scenario())


def test_outage_time_counts_from_the_later_of_its_start_and_the_question() -> None:
    """Only the part of an outage that an invoice lived through is taken off its time."""
    health = Health(0.0)
    health.note_outage(10.0, 30.0)
    health.note_outage(50.0, 60.0)
    assert health.idle_s_since(0.0, 80.0) == 30.0
    assert health.idle_s_since(20.0, 80.0) == 20.0
    assert health.idle_s_since(70.0, 80.0) == 0.0
    assert [health.was_in_outage(at) for at in (9.9, 10.0, 30.0, 30.1, 55.0)] == [
        False,
        True,
        True,
        False,
        True,
    ]


def test_cancelling_a_waiting_request_frees_its_turn(in_virtual_time: InVirtualTime) -> None:
    """A cancelled wait for the rate leaves the queue moving."""
    wire = Wire()

    async def scenario() -> None:
        pace = wire.pace(concurrency=2, rate=1.0)
        await pace.send(CANCEL, "1")
        waiting = asyncio.create_task(pace.send(CANCEL, "2"))
        await asyncio.sleep(0.5)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        await pace.send(CANCEL, "3")

    in_virtual_time(scenario())
    assert len(wire.times(CANCEL)) == 2


def test_a_good_reply_to_an_older_request_does_not_end_a_streak() -> None:
    """It was on its way before the first failure's request left: the service may be gone since."""
    health = Health(0.0)
    health.note_failure(now=10.0, sent_at=9.0, what="reset")
    assert not health.note_good(now=11.0, sent_at=8.9)
    assert (health.is_undecided, health.last_good_at) == (True, 0.0)
    assert health.note_good(now=12.0, sent_at=9.1)
    assert (health.is_undecided, health.last_good_at) == (False, 12.0)


def test_an_outage_begins_with_the_first_request_that_it_took() -> None:
    """Also where a good reply to another one came while it was under way."""
    health = Health(0.0)
    health.note_good(now=5.0, sent_at=4.0)
    health.note_failure(now=6.0, sent_at=4.5, what="reset")
    health.note_failure(now=7.0, sent_at=3.5, what="time-out")
    assert health.outage_began_at == 3.5
    health.note_outage(health.outage_began_at, 20.0)
    assert [health.was_in_outage(at) for at in (3.4, 3.5, 20.0, 20.1)] == [False, True, True, False]


# --- paused by hand ---------------------------------------------------------------------------


def test_nothing_leaves_while_it_is_paused(in_virtual_time: InVirtualTime) -> None:
    """Neither requests nor signed reads; what is in flight comes back, and the rest goes on afterwards."""
    wire = Wire(takes_s=3.0)

    async def scenario() -> None:
        pace = wire.pace(concurrency=2)
        loop = asyncio.get_running_loop()
        loop.call_later(1.0, pace.pause)
        loop.call_later(61.0, pace.resume)
        sending = asyncio.gather(*(pace.send(CANCEL, str(n)) for n in range(4)))
        await asyncio.sleep(10.0)
        assert (pace.held_by, pace.is_open, pace.in_flight) == (PauseCause.BY_HAND, False, 0)
        await asyncio.gather(sending, pace.greet(), pace.send(LOOK_UP, "9"))
        assert pace.held_by is None

    in_virtual_time(scenario())
    assert wire.times(CANCEL) == [1000.0, 1000.0, 1061.0, 1061.0]
    assert min(wire.times(PROBE) + wire.times(LOOK_UP)) >= 1061.0


@pytest.mark.parametrize("kind", [CANCEL, LOOK_UP], ids=str)
def test_a_stop_sends_home_who_is_paused(in_virtual_time: InVirtualTime, kind: RequestKind) -> None:
    """At once: a person who has paused a run does not want another request."""
    wire = Wire()

    async def scenario() -> float:
        pace = wire.pace()
        pace.pause()
        asyncio.get_running_loop().call_later(5.0, pace.stop)
        waiting = [pace.send(kind, "1"), pace.greet()]
        said = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in said] == [RunStoppingError, RunStoppingError]
        return asyncio.get_running_loop().time()

    assert in_virtual_time(scenario()) == 1005.0
    assert wire.sent == []


def test_a_pause_is_no_outage_and_does_not_lengthen_one(in_virtual_time: InVirtualTime) -> None:
    """A minute of silence is endured here: the half hour in its middle was asked for."""
    wire = Wire()
    for kind in (CANCEL, PROBE):
        wire.answers[kind] = lambda now: LOST if 1001 < now < 2840 else OK

    async def scenario() -> bool:
        pace = wire.pace(rate=5.0, max_outage_s=60.0)
        loop = asyncio.get_running_loop()
        loop.call_later(20.0, pace.pause)
        loop.call_later(1820.0, pace.resume)
        while loop.time() < 2850:
            await pace.send(CANCEL, "1")
        return pace.was_in_outage(1002.0)

    assert in_virtual_time(scenario())
    assert not [at for _, at in wire.sent if 1021 < at < 2820]
    assert [event.cause for event in wire.events if isinstance(event, PauseEnded)] == [PauseCause.OUTAGE]


def test_an_outage_that_outlasts_a_pause_ends_the_run(in_virtual_time: InVirtualTime) -> None:
    """What is left of its time is still waited out, and no more than that."""
    wire = Wire()
    for kind in (CANCEL, PROBE):
        wire.answers[kind] = lambda now: LOST if now > 1001 else OK

    async def scenario() -> float:
        pace = wire.pace(rate=5.0, max_outage_s=60.0)
        loop = asyncio.get_running_loop()
        loop.call_later(20.0, pace.pause)
        loop.call_later(1820.0, pace.resume)
        with pytest.raises(OutageTooLongError):
            while True:
                await pace.send(CANCEL, "1")
        return loop.time()

    assert 2850 < in_virtual_time(scenario()) < 2900


def test_a_stop_ends_a_pause_in_an_outage(in_virtual_time: InVirtualTime) -> None:
    """The signed read that waits for the hand is given up."""
    wire = Wire()
    for kind in (CANCEL, PROBE):
        wire.answers[kind] = lambda now: LOST if now > 1001 else OK

    async def scenario() -> float:
        pace = wire.pace(rate=5.0)
        loop = asyncio.get_running_loop()
        loop.call_later(20.0, pace.pause)
        loop.call_later(300.0, pace.stop)
        with pytest.raises(RunStoppingError):
            while True:
                await pace.send(CANCEL, "1")
        return loop.time()

    assert in_virtual_time(scenario()) == 1300.0


def test_a_pause_that_meets_an_outage_counts_once() -> None:
    """In an invoice's time, whichever was there first, and as long as the pause goes on."""
    health = Health(0.0)
    health.note_outage(10.0, 30.0)
    health.note_pause(20.0)
    assert health.idle_s_since(0.0, 50.0) == 40.0
    health.note_resumption(60.0)
    health.note_resumption(99.0)
    health.note_outage(55.0, 70.0)
    assert health.idle_s_since(0.0, 100.0) == 60.0
    assert health.idle_s_since(25.0, 100.0) == 45.0
    assert health.paused_s_since(0.0, 100.0) == 40.0
    assert health.paused_s_since(45.0, 100.0) == 15.0
