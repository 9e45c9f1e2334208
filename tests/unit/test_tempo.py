"""The rate that is found where a service refuses more: minutes of virtual time, no sleeping."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from batchcancel.model import Event, RateChanged, Reply, RequestKind, Subject
from batchcancel.pace import Pace, Quota
from batchcancel.pace.tempo import Tempo
from batchcancel.sandbox.limits import RateLimit, rate_limit
from batchcancel.sandbox.options import RateLimitKind, SandboxOptions

InVirtualTime = Callable[[Coroutine[Any, Any, Any]], Any]

KINDS = list(RateLimitKind)
PAUSES = [pytest.param(1.0, id="retry-after-1"), pytest.param(None, id="no-retry-after")]


@dataclass(kw_only=True)
class Service:
    """A service of some latency that refuses what is over its limit, and single invoices once."""

    limit: RateLimit | None = None
    retry_after_s: float | None = None
    refused_once: set[str] = field(default_factory=set)
    outage: tuple[float, float] = (0, 0)
    replies: list[tuple[float, int]] = field(default_factory=list)
    """When a request came, in seconds from the beginning, and the reply's status."""
    events: list[Event] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(7))  # noqa: S311 - repeatable

    async def __call__(self, _kind: RequestKind, invoice_id: Subject) -> Reply:
        # On the way there a request is late by a few milliseconds, so that departures come unevenly.
        await asyncio.sleep(0.01 + self.chance.expovariate(1 / 0.002))
        now = asyncio.get_running_loop().time() - 1000
        status = self.status(now, str(invoice_id or ""))
        self.replies.append((now, status))
        await asyncio.sleep(0.01)
        return Reply(http_status=status, is_object=True, retry_after_s=self.retry_after_s)

    def status(self, now: float, invoice_id: str) -> int:
        if self.outage[0] <= now < self.outage[1]:
            return 503
        if invoice_id in self.refused_once:
            self.refused_once.remove(invoice_id)
            return 429
        if self.limit is None or self.limit.admits(now):
            return 200
        return 503 if isinstance(self.limit, HalfDown) else 429

    async def serve(self, *, rate: float | None, until: float = 1e9, invoices: int = 10**9) -> float:
        """Send what a run would, 16 at a time, and return the seconds that it took."""
        random.seed(7)  # the back-off's jitter
        clock = asyncio.get_running_loop().time
        pace = Pace(
            self,
            slots=asyncio.Semaphore(16),
            quota=Quota(rate, on_event=self.events.append),
            max_outage_s=600,
        )
        waiting = iter(range(invoices))

        async def work() -> None:
            for number in waiting:
                while clock() < 1000 + until:
                    reply = await pace.send(RequestKind.CANCEL, str(number))
                    if isinstance(reply, Reply) and reply.http_status == 200:
                        break
                if clock() >= 1000 + until:
                    return

        await asyncio.gather(*(work() for _ in range(16)))
        return clock() - 1000

    def accepted_per_s(self, since: float, until: float) -> float:
        return sum(status == 200 for at, status in self.replies if since <= at < until) / (until - since)

    def refused_share(self, since: float, until: float) -> float:
        statuses = [status for at, status in self.replies if since <= at < until]
        return statuses.count(429) / len(statuses)


class HalfDown(RateLimit):
    """Every second request meets an endpoint that is down."""

    def __init__(self) -> None:
        self._count = 0

    def admits(self, at_s: float) -> bool:  # noqa: ARG002 - it counts requests, not time
        self._count += 1
        return bool(self._count % 2)


def limited(kind: RateLimitKind, per_s: float, change: tuple[float, float] | None = None) -> RateLimit:
    """Make one of the simulator's limits."""
    limit = rate_limit(SandboxOptions(rate_limit=per_s, rate_limit_kind=kind, rate_change=change))
    assert limit is not None
    return limit


# --- a service with a limit -------------------------------------------------------------------


@pytest.mark.parametrize("rate", [None, 41.0], ids=["no-rate", "rate-41"])
@pytest.mark.parametrize("retry_after_s", PAUSES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_is_used_to_nine_tenths_with_few_refusals(
    in_virtual_time: InVirtualTime, kind: RateLimitKind, retry_after_s: float | None, rate: float | None
) -> None:
    """Over a minute after the first ten seconds, however the service counts and whatever it says."""
    service = Service(limit=limited(kind, 40), retry_after_s=retry_after_s)
    in_virtual_time(service.serve(rate=rate, until=71))
    assert service.accepted_per_s(10, 70) >= 36
    assert service.refused_share(10, 70) <= 0.05


@pytest.mark.parametrize("phase_s", [0.0, 1.7, 3.4], ids=str)
@pytest.mark.parametrize(("before", "after"), [(40, 80), (20, 40), (40, 20)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_that_changes_is_found_within_ten_seconds(
    in_virtual_time: InVirtualTime, kind: RateLimitKind, before: int, after: int, phase_s: float
) -> None:
    """Where a refusal costs little, up and down are found whenever the change comes."""
    changes_at = 20 + phase_s
    service = Service(limit=limited(kind, before, (changes_at, after)))
    in_virtual_time(service.serve(rate=None, until=changes_at + 30))
    assert service.accepted_per_s(changes_at + 10, changes_at + 30) >= 0.9 * after
    assert service.refused_share(changes_at + 10, changes_at + 30) <= 0.05


@pytest.mark.parametrize(
    ("after", "within_s"), [pytest.param(80, 36.0, id="up"), pytest.param(20, 15.0, id="down")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_change_is_found_also_where_each_refusal_costs_a_second(
    in_virtual_time: InVirtualTime, kind: RateLimitKind, after: int, within_s: float
) -> None:
    """Probes are rare then, for the sake of the limit's use: the worst case is a whole hold later."""
    service = Service(limit=limited(kind, 40, (23, after)), retry_after_s=1.0)
    in_virtual_time(service.serve(rate=None, until=23 + within_s + 12))
    assert service.accepted_per_s(23 + within_s, 23 + within_s + 10) >= 0.85 * after


def test_a_retry_after_is_waited_out_in_full(in_virtual_time: InVirtualTime) -> None:
    """After each refusal nothing at all arrives until the service's time is over."""
    service = Service(limit=limited(RateLimitKind.SLIDING, 40), retry_after_s=3.0)
    in_virtual_time(service.serve(rate=45, until=60))
    refused = [at for at, status in service.replies if status == 429]
    assert refused
    for at in refused:
        assert not [other for other, _ in service.replies if at + 0.1 < other < at + 3.0]


# --- lone refusals, and none ------------------------------------------------------------------


@pytest.mark.parametrize("rate", [None, 20.0], ids=["no-rate", "rate-20"])
@pytest.mark.parametrize(
    "refused",
    [range(30, 300, 60), (0, 50, 100, 200, 299), (17, 90, 141, 202, 260)],
    ids=["even", "first-and-last", "uneven"],
)
def test_five_lone_refusals_in_300_invoices_cost_less_than_two_seconds(
    in_virtual_time: InVirtualTime, rate: float | None, refused: Collection[int]
) -> None:
    """A few refusals by chance are no limit."""
    plain = in_virtual_time(Service().serve(rate=rate, invoices=300))
    service = Service(refused_once={str(number) for number in refused})
    assert in_virtual_time(service.serve(rate=rate, invoices=300)) - plain < 2.0
    assert not service.refused_once


@pytest.mark.parametrize("rate", [None, 20.0], ids=["no-rate", "rate-20"])
def test_a_service_without_a_limit_is_never_slowed_down(
    in_virtual_time: InVirtualTime, rate: float | None
) -> None:
    """The rate stays as it was set, and no event speaks of it."""
    service = Service()
    took_s = in_virtual_time(service.serve(rate=rate, invoices=400))
    assert took_s < (400 / 16 * 0.04 if rate is None else 400 / rate + 0.1)
    assert service.events == []


def test_an_outage_is_no_limit(in_virtual_time: InVirtualTime) -> None:
    """Within seconds after thousands of 503 the rate is back."""
    service = Service(outage=(5, 15))
    in_virtual_time(service.serve(rate=50, until=50))
    back_at = min(at for at, status in service.replies if at > 15 and status == 200)
    assert service.accepted_per_s(back_at + 5, back_at + 10) == pytest.approx(50, abs=2)


def test_an_endpoint_that_is_down_while_others_work_does_not_slow_the_run_for_long(
    in_virtual_time: InVirtualTime,
) -> None:
    """Where cutting does not help, the rate is not what is wrong: it comes back and stays."""
    service = Service()
    service.limit = HalfDown()
    in_virtual_time(service.serve(rate=50, until=60))
    assert service.accepted_per_s(30, 60) == pytest.approx(25, abs=3)


def test_a_cut_is_told(in_virtual_time: InVirtualTime) -> None:
    """The event says at which rate the run goes on."""
    service = Service(limit=limited(RateLimitKind.SLIDING, 40))
    in_virtual_time(service.serve(rate=None, until=3))
    (first, *_) = (event for event in service.events if isinstance(event, RateChanged))
    assert first.rate == pytest.approx(38, abs=2)


# --- the rate alone ---------------------------------------------------------------------------


def cut_tempo(*, pause_s: float = 1.0) -> Tempo:
    """Make a tempo without a set rate that has met a ceiling of 40 a second at 10 s."""
    tempo = Tempo(None, 0.0)
    for number in range(40):
        tempo.note_accepted(9 + (number + 1) / 40)
    refusals = [tempo.note_refused(10.0, sent_at=9.9, pause_s=pause_s) for _ in range(3)]
    assert refusals == [None, None, pytest.approx(38.0)]
    return tempo


def test_three_refusals_among_ten_replies_cut_to_what_was_accepted() -> None:
    """From 95 % of the ceiling the rate rises slowly through the hold, and then fast."""
    tempo = cut_tempo()
    rates = [tempo.rate(11.0 + held_s) for held_s in (0, 12, 24)]
    assert rates == pytest.approx([38.0, 38.8, 39.6])
    assert [tempo.rate(35.0 + s) for s in (0.6, 1.2, 3.0)] == pytest.approx([40.4, 42.0, 64.4])


def test_the_hold_follows_from_what_a_refusal_costs() -> None:
    """Without a pause three seconds, with one twenty-four times as long."""
    assert cut_tempo(pause_s=0.0).rate(13.0) == pytest.approx(39.6)
    assert cut_tempo(pause_s=2.0).rate(12.0 + 48.0) == pytest.approx(39.6)


def test_the_rate_is_cut_once_a_second_at_most() -> None:
    """A crowd of refusals is one piece of news."""
    tempo = cut_tempo()
    assert [tempo.note_refused(10.0 + n / 100, sent_at=9.9, pause_s=1.0) for n in range(20)] == [None] * 20


def test_a_lone_refusal_cuts_nothing_and_a_second_one_soon_after_does() -> None:
    """What is near in time not paused is no coincidence."""
    tempo = Tempo(20.0, 0.0)
    for number in range(40):
        tempo.note_accepted(number / 20)
    assert tempo.note_refused(2.0, sent_at=1.9, pause_s=0.2) is None
    assert tempo.rate(2.2) == 20.0
    for number in range(20):
        tempo.note_accepted(2.2 + number / 20)
    assert tempo.note_refused(3.2, sent_at=3.1, pause_s=0.2) == pytest.approx(19.0, abs=1.0)


def test_refusals_without_anything_accepted_are_no_matter_of_rate() -> None:
    """There is nothing to take a measure from."""
    tempo = Tempo(None, 0.0)
    assert [tempo.note_refused(5.0, sent_at=5.0, pause_s=0.0) for _ in range(10)] == [None] * 10
    assert tempo.rate(5.0) is None


def test_a_rate_that_was_not_set_is_free_again_once_it_has_grown_out_of_sight() -> None:
    """A limit that is lifted holds nobody for long."""
    tempo = cut_tempo()
    assert tempo.rate(11.0) == pytest.approx(38.0)
    assert tempo.is_near_ceiling(11.0)
    assert tempo.rate(71.0) is None
    assert not tempo.is_near_ceiling(71.0)


# --- paused by hand ---------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [None, 400.0], ids=["no-rate", "rate-400"])
def test_a_pause_by_hand_leaves_what_was_learned(in_virtual_time: InVirtualTime, rate: float | None) -> None:
    """A minute later it goes on as before: neither has the rate grown meanwhile, nor is it cut to nothing."""
    service = Service(limit=limited(RateLimitKind.SLIDING, 40), retry_after_s=1.0)
    rates: list[float | None] = []

    async def scenario() -> None:
        quota = Quota(rate, on_event=service.events.append)
        pace = Pace(service, slots=asyncio.Semaphore(16), quota=quota, max_outage_s=600)
        loop = asyncio.get_running_loop()

        async def work() -> None:
            while loop.time() < 1120:
                await pace.send(RequestKind.CANCEL, "1")

        def resume() -> None:
            quota.note_pause(60.0)
            rates.append(quota.allowed_rate)
            pace.resume()

        def pause() -> None:
            rates.append(quota.allowed_rate)
            pace.pause()

        loop.call_later(30.0, pause)
        loop.call_later(90.0, resume)
        await asyncio.gather(*(work() for _ in range(16)))

    in_virtual_time(scenario())
    before, after = rates
    assert before == pytest.approx(after)
    assert before is not None
    assert 30 < before < 50
    assert service.accepted_per_s(95, 120) >= 36
    assert service.refused_share(90, 120) <= 0.05


def test_a_pause_by_hand_that_a_longer_wait_covers_changes_nothing() -> None:
    """Time that was left out is not left out twice."""
    tempo = Tempo(100.0, 0.0)
    for at in range(5):
        tempo.note_accepted(at / 10)
    tempo.note_refused(0.5, sent_at=0.4, pause_s=10.0)
    tempo.note_pause(8.0, 5.0)
    assert tempo.resumes_at == 10.5
    tempo.note_pause(12.0, 8.0)
    assert tempo.resumes_at == 12.0
