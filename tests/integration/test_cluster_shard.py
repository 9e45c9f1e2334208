"""One shard on a worker: the fleet of a run, for as long as the lease holds."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from batchcancel.api import ServiceClock, Signer
from batchcancel.cluster.lease import Lease
from batchcancel.cluster.messages import Account, Conditions, Pulse, Shard
from batchcancel.cluster.packing import Ask, pack, unpack_answers
from batchcancel.cluster.shard import ShardRun
from batchcancel.errors import NotSentError
from batchcancel.job.keys import load_keys
from batchcancel.model import Event, Invoice, RateChanged, Reason, Reply, RequestKind, Subject
from batchcancel.settings import Settings, load_settings

SHARD = Shard(
    number=0,
    account=Account(env="sandbox", host="127.0.0.1:9", merchant_id="m"),
    conditions=Conditions(
        timeout=30,
        max_attempts=5,
        max_outage=600,
        max_errors=None,
        max_error_rate=50,
        max_mismatch=None,
        ledger_began_at="2026-11-01T02:00:00.000Z",
    ),
    rows=pack(Ask(number, str(2600 + number)) for number in range(20)),
    count=20,
    rate=None,
    concurrency=2,
)


@dataclass
class Service:
    """Cancels whatever it is asked to, and remembers what reached it."""

    status: int = 200
    on_cancel: Callable[[int], None] = lambda _count: None
    seen: list[tuple[RequestKind, Subject]] = field(default_factory=list)

    @property
    def canceled(self) -> int:
        return sum(kind is RequestKind.CANCEL for kind, _ in self.seen)

    async def send(
        self,
        kind: RequestKind,
        subject: Subject,
        *,
        signer: Signer,  # noqa: ARG002 - a sender is given it
        before_repeat: Callable[[], Awaitable[None]],  # noqa: ARG002 - likewise
    ) -> Reply:
        self.seen.append((kind, subject))
        await asyncio.sleep(0)
        if kind is RequestKind.CANCEL:
            self.on_cancel(self.canceled)
        return Reply(
            http_status=self.status,
            is_object=True,
            invoice=Invoice(id=str(subject), status="CANCELED"),
            latency_ms=1.0,
        )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A worker's settings."""
    environ = {
        "BATCHCANCEL_MERCHANT_ID": "m",
        "BATCHCANCEL_KEY_ID": "00000000-0000-4000-8000-000000000001",
        "BATCHCANCEL_SHARED_SECRET": "b3BlbnMgbm90aGluZw==",
        "HOME": str(tmp_path),
    }
    return load_settings([], environ=environ, for_run=False, env="sandbox", base_url="http://127.0.0.1:9")


def shard_run(
    settings: Settings,
    service: Service,
    lease: Lease,
    *,
    known: set[str | None] | None = None,
    on_event: Callable[[Event], None] = lambda _event: None,
    **changes: Any,
) -> ShardRun:
    """Get a shard ready."""
    return ShardRun(
        replace(SHARD, **changes),
        settings=settings,
        keys=load_keys(settings),
        client=service,
        clock=ServiceClock(lambda: 0.0),
        lease=lease,
        worker="h, process 1",
        known=set() if known is None else known,
        on_event=on_event,
    )


def held(clock: Callable[[], float] = lambda: 0.0) -> Lease:
    """Return a lease that holds."""
    lease = Lease(clock)
    lease.renew(sent_at=clock())
    return lease


async def test_every_invoice_of_a_shard_is_answered(settings: Settings) -> None:
    """By a signed read first, and one cancelation each."""
    service = Service()
    run = shard_run(settings, service, held())
    report = await run.run()
    answers = unpack_answers(report.answers)
    assert sorted(answer.number for answer in answers) == list(range(20))
    assert {answer.reason for answer in answers} == {Reason.CANCELED}
    assert (report.stop, report.refused_at, report.worker) == (None, None, "h, process 1")
    assert service.seen[0][0] is RequestKind.PROBE
    assert service.canceled == run.answered == 20


async def test_a_pulse_tells_what_goes_on_in_the_middle_of_a_shard(settings: Settings) -> None:
    """Answers so far by outcome, requests in flight, and its share."""
    pulses: list[Pulse] = []
    service = Service(on_cancel=lambda _count: pulses.append(run.pulse()))
    run = shard_run(settings, service, held(), number=7, rate=5000.0)
    await run.run()
    middle, end = pulses[len(pulses) // 2], run.pulse()
    assert 0 < middle.outcomes["canceled"] < 20
    assert 1 <= middle.in_flight <= 2
    assert (middle.shard, middle.allowed_rate, middle.set_rate) == (7, 5000.0, 5000.0)
    assert (end.outcomes, end.in_flight, end.worker) == ({"canceled": 20}, 0, "h, process 1")


async def test_nothing_is_sent_without_a_lease(settings: Settings) -> None:
    """Not even a read."""
    service = Service()
    run = shard_run(settings, service, Lease(lambda: 0.0))
    working = asyncio.create_task(run.run())
    await asyncio.sleep(0.1)
    run.abort("no lease")
    report = await working
    assert service.seen == []
    assert unpack_answers(report.answers) == []


async def test_a_worker_that_was_frozen_sends_nothing_when_it_wakes(settings: Settings) -> None:
    """Its timers are due all at once, and whoever has the shard now may be at the same invoice."""
    now = 0.0
    lease = held(lambda: now)

    def freeze(count: int) -> None:
        nonlocal now
        if count == 5:
            now = 60.0

    service = Service(on_cancel=freeze)
    run = shard_run(settings, service, lease)
    working = asyncio.create_task(run.run())
    await asyncio.sleep(0.1)
    run.abort("the lease is over")
    await working
    assert service.canceled <= 5 + 1, "the fifth, and what was under way beside it"


async def test_a_stop_hands_in_what_there_is(settings: Settings) -> None:
    """What was not begun has no answer, and goes to another worker."""
    runs: list[ShardRun] = []

    def stop(count: int) -> None:
        if count == 5:
            runs[0].stop("the shard is taken back")

    service = Service(on_cancel=stop)
    runs.append(shard_run(settings, service, held()))
    report = await runs[0].run()
    assert report.stop is None
    assert len(unpack_answers(report.answers)) == service.canceled < 20


async def test_a_safety_stop_is_part_of_the_report(settings: Settings) -> None:
    """The job stops for it; nothing is asked with a key that is refused."""
    service = Service(status=401)
    report = await shard_run(settings, service, held()).run()
    assert report.stop is not None
    assert report.stop.kind == "CredentialsRefusedError"
    assert service.canceled == 0


async def test_canaries_are_looked_up_after_their_cancelation(settings: Settings) -> None:
    """As in a run: a reply alone does not confirm them."""
    service = Service()
    report = await shard_run(settings, service, held(), is_canary=True).run()
    assert {answer.lookups for answer in unpack_answers(report.answers)} == {1}


# --- merchants ------------------------------------------------------------------------------------


def of_merchants(*merchants: str | None) -> dict[str, Any]:
    """Return what makes a shard one of several merchants, an invoice of each in turn."""
    asks = [
        Ask(number, str(2600 + number), merchant_id=merchants[number % len(merchants)])
        for number in range(20)
    ]
    return {"rows": pack(asks), "protocol": 2}


@dataclass
class Portfolio(Service):
    """Serves some merchants, and refuses the key for others."""

    refused: frozenset[str] = frozenset()
    away: frozenset[str] = frozenset()
    """Merchants for whom it can't be reached."""
    limited: Counter[str] = field(default_factory=Counter)
    """How many of a merchant's next cancelations are too many."""
    signed_for: Counter[str] = field(default_factory=Counter)

    async def send(
        self,
        kind: RequestKind,
        subject: Subject,
        *,
        signer: Signer,
        before_repeat: Callable[[], Awaitable[None]],
    ) -> Reply:
        bearer = signer.headers(method="GET", target="/", host="h", body=None, now=0)["Authorization"]
        claims = json.loads(base64.urlsafe_b64decode(bearer.split(".")[1] + "=="))
        merchant = claims["v-c-merchant-id"]
        if merchant in self.away:
            raise NotSentError("OSError")
        self.signed_for[merchant] += kind is RequestKind.CANCEL
        reply = await super().send(kind, subject, signer=signer, before_repeat=before_repeat)
        if kind is RequestKind.CANCEL and self.limited[merchant]:
            self.limited[merchant] -= 1
            return replace(reply, http_status=429, invoice=None)
        return replace(reply, http_status=401) if merchant in self.refused else reply


async def test_each_invoice_is_asked_about_for_its_merchant(settings: Settings) -> None:
    """Signed for whom its row names; the others are the account's own."""
    service = Portfolio()
    report = await shard_run(settings, service, held(), **of_merchants("north", "south", None)).run()
    assert len(unpack_answers(report.answers)) == 20
    assert service.signed_for == {"north": 7, "south": 7, "m": 6}
    assert (report.stop, report.stopped_merchants) == (None, ())


async def test_a_merchant_is_greeted_by_a_worker_once(settings: Settings) -> None:
    """Its next shard begins with a cancelation; a merchant that was refused is read for again."""
    service = Portfolio(refused=frozenset({"south"}))
    known: set[str | None] = set()
    shard = of_merchants("north", "south")
    await shard_run(settings, service, held(), known=known, **shard).run()
    assert known == {"north"}
    first = len(service.seen)
    report = await shard_run(settings, service, held(), known=known, **shard).run()
    assert [one.merchant_id for one in report.stopped_merchants] == ["south"]
    kinds = Counter(kind for kind, _ in service.seen[first:])
    assert kinds == {RequestKind.CANCEL: 10, RequestKind.PROBE: 2}, "both reads are for who is refused"


async def test_a_key_that_was_taken_and_is_refused_later_holds_everything(settings: Settings) -> None:
    """What is in flight comes back, one read asks about the key, and nothing more leaves meanwhile."""
    service = Service(status=401)
    running = asyncio.create_task(shard_run(settings, service, held(), known={None}).run())
    await asyncio.sleep(0.1)
    running.cancel()
    await asyncio.wait([running])
    kinds = Counter(kind for kind, _ in service.seen)
    assert kinds[RequestKind.PROBE] == 1
    assert 0 < kinds[RequestKind.CANCEL] <= 2 * SHARD.concurrency, "each is signed afresh once"


@pytest.mark.parametrize("merchants", [("north", "south"), ("south",)], ids=["among others", "alone"])
async def test_a_merchant_that_was_stopped_is_read_for_again(
    settings: Settings, merchants: tuple[str, ...]
) -> None:
    """By the next shard that has invoices of it: whether its key is taken is open again."""
    service = Portfolio(away=frozenset({"south"}))
    known: set[str | None] = {"south", "west"}
    conditions = replace(SHARD.conditions, max_outage=0.1)
    shard = of_merchants(*merchants) | {"conditions": conditions}
    report = await shard_run(settings, service, held(), known=known, **shard).run()
    assert report.stop is not None or report.stopped_merchants
    assert known == {"west", *merchants} - {"south"}


async def test_a_refused_merchant_is_told_and_the_others_go_on(settings: Settings) -> None:
    """Nothing is canceled for it, and its rows have no answer."""
    service = Portfolio(refused=frozenset({"south"}))
    report = await shard_run(settings, service, held(), **of_merchants("north", "south")).run()
    assert {answer.number % 2 for answer in unpack_answers(report.answers)} == {0}
    (stopped,) = report.stopped_merchants
    assert stopped.merchant_id == "south"
    assert "refuses the key" in stopped.why
    assert report.stop is None
    assert service.signed_for == {"north": 10, "south": 0}


async def test_the_rate_of_a_merchant_that_was_sent_too_many_is_reported(settings: Settings) -> None:
    """Its own alone, not the sum of all: shards to come begin there for each merchant."""
    service = Portfolio(limited=Counter(south=8))
    shard = of_merchants("north", "south") | {"merchant_rate": 200.0, "concurrency": 16}
    rates: list[float] = []
    runs: list[ShardRun] = []

    def stop_at_a_cut(event: Event) -> None:
        if isinstance(event, RateChanged):
            rates.append(event.rate)
            runs[0].stop("enough")

    runs.append(shard_run(settings, service, held(), on_event=stop_at_a_cut, **shard))
    report = await runs[0].run()
    assert [report.refused_at] == rates


async def test_each_merchant_keeps_its_share_of_a_rate(settings: Settings) -> None:
    """Two merchants have twice the rate of one."""
    shard = of_merchants("north", "south") | {"merchant_rate": 20.0, "concurrency": 8}
    began_at = time.monotonic()
    await shard_run(settings, Portfolio(), held(), **shard).run()
    took_s = time.monotonic() - began_at
    assert took_s > 10 / (1.1 * 20) - 0.1  # ten invoices and a read for each


async def test_a_stop_reaches_a_shard_that_waits_for_its_first_request(settings: Settings) -> None:
    """At so low a rate that would be after a minute and a half, and a worker has eight seconds to go."""
    service = Service()
    run = shard_run(settings, service, held(), rate=0.01)
    working = asyncio.create_task(run.run())
    await asyncio.sleep(0.05)
    run.stop("the worker is going")
    async with asyncio.timeout(5):
        report = await working
    assert unpack_answers(report.answers) == []
    assert service.canceled == 0
