"""A run's parts, put together as the job does it: what the merchants share, and what each has of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from batchcancel.api import Client, Identity, KeyFiles, ServiceClock
from batchcancel.errors import NotSentError
from batchcancel.job.keys import Keys
from batchcancel.job.lanes import build_fleet, to_cancel
from batchcancel.job.opening import Opened
from batchcancel.ledger import Ledger
from batchcancel.manifest import Check, Manifest
from batchcancel.model import Invoice, ManifestRow, Reply, RequestKind, Result, Skip
from batchcancel.settings import Environment, Options, Settings

if TYPE_CHECKING:
    from batchcancel.pipeline import Fleet

InVirtualTime = Callable[[Coroutine[Any, Any, Any]], Any]
CANCEL = RequestKind.CANCEL


class Signature:
    """Signs nothing, and tells for whom."""

    is_slow = False

    def __init__(self, identity: Identity) -> None:
        self.identity = identity

    def headers(self, **_request: object) -> dict[str, str]:
        """Never called: there is no wire."""
        raise NotImplementedError


class Service:
    """A client and a ledger in memory that remember for whom each request was signed."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, RequestKind, str | None, float]] = []
        self.throttles: dict[str, Reply] = {}
        """What a merchant's first cancelation is answered with."""
        self.fails_until: dict[str, float] = {}
        """Until when nothing but a merchant's first signed read reaches the service."""
        self.repeats = False
        """Whether each request is repeated, as aiohttp does on a dropped connection."""
        self.takes_s = 0.01
        self.in_flight = self.most_in_flight = 0
        self.rows: list[Result | Skip] = []

    async def send(
        self,
        kind: RequestKind,
        invoice_id: str | None,
        *,
        signer: Signature,
        before_repeat: Callable[[], Awaitable[None]],
    ) -> Reply:
        now = asyncio.get_running_loop().time()
        assert signer.identity.portfolio_id == "portfolio"
        merchant_id = signer.identity.merchant_id
        self.sent.append((merchant_id, kind, invoice_id, now))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.takes_s)
            if self.repeats:
                await before_repeat()
                self.sent.append((merchant_id, kind, invoice_id, asyncio.get_running_loop().time()))
        finally:
            self.in_flight -= 1
        if now < self.fails_until.get(merchant_id, 0.0) and len(self.times(merchant_id)) > 1:
            raise NotSentError("ClientConnectorError")
        if kind is CANCEL and merchant_id in self.throttles:
            return self.throttles.pop(merchant_id)
        return Reply(http_status=200, is_object=True, invoice=Invoice(id=invoice_id, status="CANCELED"))

    async def append(self, record: Result | Skip) -> None:
        self.rows.append(record)

    def build(self, rows: list[ManifestRow], options: Options, *, rate: float | None) -> Fleet:
        """Put a run over some rows together."""
        open_of = Counter(row.merchant_id for row in rows)
        identity = Identity(merchant_id="own", portfolio_id="portfolio")
        settings = Settings(
            manifests=(),
            options=options,
            sources={},
            environment=Environment.TEST,
            base_url=None,
            ledger=Path("ledger"),
            rate=rate,
            proxy=None,
            expect_count=None,
            match={},
            credentials=None,
        )
        opened = Opened(
            ledger=cast("Ledger", self),
            manifest=cast("Manifest", None),
            check=Check(
                files=(),
                rows=len(rows),
                distinct=len(rows),
                invalid=0,
                duplicates=0,
                settled=0,
                excluded=0,
                held_back=0,
                open=len(rows),
                open_of=dict(open_of),
                merchants=frozenset(open_of),
            ),
            plan=None,
            max_in_doubt=100,
        )
        purpose = to_cancel(
            opened, options, ServiceClock(lambda: 0.0), ledger_began_at="2026-01-01T00:00:00.000Z"
        )
        keys = Keys(identity=identity, sign_as=Signature, files=KeyFiles())
        return build_fleet(settings, purpose, cast("Client", self), keys, on_event=lambda _event: None)

    async def run(self, rows: list[ManifestRow], options: Options, *, rate: float | None = None) -> None:
        """Run over some rows to the end."""

        async def read() -> AsyncIterator[ManifestRow]:
            for row in rows:
                yield row

        fleet = self.build(rows, options, rate=rate)
        await fleet.run(read())
        assert fleet.stopped_merchants == ()

    def times(self, merchant_id: str) -> list[float]:
        """Return when requests left for a merchant, in seconds from the beginning."""
        return [at - 1000 for whose, _, _, at in self.sent if whose == merchant_id]


def rows_of(*merchants: str | None, each: int) -> list[ManifestRow]:
    """Return the same ids for each merchant, one merchant after another."""
    return [
        ManifestRow(row=row, invoice_id=str(row), merchant_id=merchant)
        for merchant in merchants
        for row in range(1, each + 1)
    ]


def most_in_a_second(times: list[float]) -> int:
    """Count the requests of the busiest second."""
    return max(sum(start <= at < start + 1 for at in times) for start in times)


@pytest.fixture
def service() -> Service:
    """Make a service that does what it is asked."""
    return Service()


def test_each_request_is_signed_for_its_own_merchant(
    in_virtual_time: InVirtualTime, service: Service
) -> None:
    """By the portfolio's key; the run's own merchant is one of them."""
    in_virtual_time(service.run(rows_of(None, "a", "b", each=3), Options()))
    asked = Counter((merchant, kind) for merchant, kind, _, _ in service.sent)
    assert asked == {
        (merchant, kind): count
        for merchant in ("own", "a", "b")
        for kind, count in ((RequestKind.PROBE, 1), (CANCEL, 3))
    }


def test_requests_in_flight_are_counted_for_all_merchants(
    in_virtual_time: InVirtualTime, service: Service
) -> None:
    """Signed reads included."""
    in_virtual_time(service.run(rows_of(*"abcdefgh", each=5), Options(concurrency=3)))
    assert service.most_in_flight == 3


def test_the_limit_is_counted_for_all_merchants(in_virtual_time: InVirtualTime, service: Service) -> None:
    """However many there are."""
    in_virtual_time(service.run(rows_of("a", "b", "c", each=20), Options(limit=7)))
    assert len(service.rows) == 7


@pytest.mark.parametrize(
    ("rate", "own_rate", "most", "most_each"),
    [(30.0, None, 30, 30), (30.0, 20.0, 30, 20), (None, 20.0, 60, 20)],
    ids=["shared", "both", "own"],
)
@pytest.mark.parametrize("repeats", [False, True], ids=["once", "repeated"])
def test_rates_hold_for_all_and_for_each(
    in_virtual_time: InVirtualTime,
    service: Service,
    rate: float | None,
    own_rate: float | None,
    most: int,
    most_each: int,
    *,
    repeats: bool,
) -> None:
    """A request that is repeated on a dropped connection takes a turn for each time that it leaves."""
    service.repeats = repeats
    options = Options(concurrency=30, rate_per_merchant=own_rate)
    in_virtual_time(service.run(rows_of("a", "b", "c", each=30), options, rate=rate))
    times = {merchant: service.times(merchant) for merchant in ("a", "b", "c")}
    assert 0.9 * most < most_in_a_second(list(chain(*times.values()))) <= 1.1 * most + 3
    assert max(map(most_in_a_second, times.values())) <= 1.1 * most_each + 1


@pytest.mark.parametrize("own_rate", [None, 1000.0], ids=["shared", "own"])
def test_a_429_concerns_those_who_share_the_rate(
    in_virtual_time: InVirtualTime, service: Service, own_rate: float | None
) -> None:
    """All merchants, or just the one that was refused."""
    service.throttles["a"] = Reply(http_status=429, retry_after_s=60.0)
    options = Options(concurrency=4, rate_per_merchant=own_rate)
    in_virtual_time(service.run(rows_of("a", "b", each=50), options))
    assert service.times("a")[-1] > 60
    assert (service.times("b")[-1] > 60) is (own_rate is None)


def test_a_few_failures_are_looked_into_where_few_invoices_are_left(
    in_virtual_time: InVirtualTime, service: Service
) -> None:
    """Signed reads tell whether it is an outage, before the attempts of the few are used up."""
    service.fails_until["b"] = 1010.0
    in_virtual_time(service.run([*rows_of("a", each=5), *rows_of("b", each=1)], Options()))
    assert {row.reason for row in service.rows if isinstance(row, Result)} == {"canceled"}
    probes = Counter(merchant for merchant, kind, *_ in service.sent if kind is RequestKind.PROBE)
    assert probes["a"] == 1
    assert probes["b"] > 2


def test_a_slow_merchant_keeps_no_places_from_the_others(
    in_virtual_time: InVirtualTime, service: Service
) -> None:
    """Where each has a rate of its own, as many merchants are under way as there are places."""
    options = Options(concurrency=4, rate_per_merchant=1.0)
    in_virtual_time(service.run(rows_of(*"abcdefgh", each=8), options))
    assert max(at for *_, at in service.sent) - 1000 < 9  # eight a merchant; in the order of the rows: 17
