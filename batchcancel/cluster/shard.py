"""One shard on a worker: the fleet of a run over its invoices, for as long as the lease holds."""

from __future__ import annotations

import asyncio
import platform
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from msgspec.structs import replace

from batchcancel.api import ServiceClock, Signer
from batchcancel.cluster.lease import Lease
from batchcancel.cluster.messages import MerchantStop, Pulse, Shard, ShardReport, Stop
from batchcancel.cluster.packing import FULL_BYTES, Answer, Packer, unpack_asks
from batchcancel.errors import NotSentError, SafetyStopError
from batchcancel.gates import Gates
from batchcancel.job.amounts import Amounts
from batchcancel.job.keys import Keys
from batchcancel.job.lanes import Purpose, Sender, build_fleet, by_service_clock
from batchcancel.model import (
    Event,
    ManifestRow,
    RateChanged,
    Reason,
    Reply,
    RequestKind,
    Result,
    Skip,
    Subject,
    Vitals,
)
from batchcancel.pipeline import Fleet
from batchcancel.settings import Mle, Settings

_MAX_IN_DOUBT: Final = 32
"""Invoices that may wait while the service may have acted on them: a killed worker's shard repeats those."""


class ShardRun:
    """Bring the invoices of one shard to their ends."""

    def __init__(  # noqa: PLR0913 (keyword-only, and each one is a part of its own)
        self,
        shard: Shard,
        *,
        settings: Settings,
        keys: Keys,
        client: Sender,
        clock: ServiceClock,
        lease: Lease,
        worker: str,
        known: set[str | None],
        on_event: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        """Prepare; nothing is sent. Needs a running event loop.

        Args:
            shard: What to do.
            settings: The worker's own: where it calls and as whom. How is the shard's affair.
            keys: The worker's own.
            client: What everything is sent through; opened by the caller.
            clock: The service's clock, as the client reads it.
            lease: Nothing leaves without it.
            worker: Who this is, for people.
            known: The merchants whose key the service has taken of this worker; kept up to date.
            on_event: Told of everything; must not block.
        """
        self._shard = shard
        self._lease = lease
        self._worker = worker
        self._on_event = on_event
        self._known = known
        self._answers = _Answers(known, on_full=self.stop)
        self._refused_at: float | None = None
        """The requests a second that were left after the last refusal; None if nothing was refused."""
        self._is_told = asyncio.Event()
        """Set once it is told to stop."""
        self._asks = unpack_asks(shard.rows)
        self._settings = _settings_for(shard, settings)
        self._fleet = self._build_fleet(keys, client, clock)

    @property
    def answered(self) -> int:
        """Invoices that have their answer."""
        return self._answers.count

    def answers(self) -> bytes:
        """Return the answers so far, packed."""
        return self._answers.packed()

    def pulse(self) -> Pulse:
        """Tell how it goes on, in microseconds."""
        vitals = self._vitals()
        return Pulse(
            shard=self._shard.number,
            outcomes=self._answers.outcomes(),
            amounts_canceled=self._answers.amounts.totals,
            in_flight=vitals.in_flight,
            allowed_rate=vitals.allowed_rate,
            set_rate=vitals.set_rate,
            held_by=vitals.held_by,
            host=platform.node(),
            worker=self._worker,
        )

    def stop(self, why: str) -> None:
        """Let no new cancelation leave and drain what is in flight; ``run`` then returns what there is."""
        self._is_told.set()
        self._fleet.stop(why)

    def abort(self, why: str) -> None:
        """Let nothing more leave at all, and wait for nothing."""
        self._is_told.set()
        self._fleet.abort(why)

    async def run(self) -> ShardReport:
        """Bring every invoice to its end, or to where a stop leaves it.

        A safety stop is part of the report. If cancelled, the fleet aborts and the cancellation is raised
        again.

        Raises:
            Exception: A defect.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._interval_s):
                await self._is_told.wait()
        stop: Stop | None = None
        try:
            await self._fleet.run(_each(ask.row for ask in self._asks))
        except SafetyStopError as exc:
            stop = Stop(kind=type(exc).__name__, why=str(exc))
            self._known.difference_update(ask.merchant_id for ask in self._asks)
        self._known.difference_update(stopped.merchant_id for stopped in self._fleet.stopped_merchants)
        return ShardReport(
            answers=self.answers(),
            stop=stop,
            stopped_merchants=tuple(
                MerchantStop(merchant_id=stopped.merchant_id, why=stopped.why)
                for stopped in self._fleet.stopped_merchants
            ),
            refused_at=self._left_rate(),
            worker=self._worker,
        )

    @property
    def _interval_s(self) -> float:
        """How long to wait for the first request: the shard before, with this share, may have sent one."""
        return max(1 / rate if rate else 0.0 for rate in (self._shard.rate, self._shard.merchant_rate))

    def _left_rate(self) -> float | None:
        if self._refused_at is None or self._shard.merchant_rate is not None:
            return self._refused_at
        return self._vitals().allowed_rate

    def _vitals(self) -> Vitals:
        return self._fleet.vitals(to_settle=self._shard.count, set_rate=self._shard.rate)

    def _note(self, event: Event) -> None:
        if isinstance(event, RateChanged):
            self._refused_at = event.rate
        self._on_event(event)

    def _build_fleet(self, keys: Keys, client: Sender, clock: ServiceClock) -> Fleet:
        shard, conditions = self._shard, self._shard.conditions
        open_of = Counter(ask.merchant_id for ask in self._asks)
        purpose = Purpose(
            merchants=open_of.keys(),
            open_of=open_of,
            known=self._known,
            sink=self._answers,
            gates=Gates(
                canary=shard.count if shard.is_canary else 0,
                max_errors=conditions.max_errors,
                max_error_rate=conditions.max_error_rate,
                max_mismatch=conditions.max_mismatch,
                is_encrypted=self._settings.options.mle is not Mle.OFF,
            ),
            max_in_doubt=_MAX_IN_DOUBT,
            ledger_began_at=by_service_clock(conditions.ledger_began_at, clock),
        )
        leased = _LeasedSender(client, self._lease)
        return build_fleet(self._settings, purpose, leased, keys, on_event=self._note)


class _Answers:
    """Where the pipeline's rows go: to the coordinator, a packet at a time."""

    def __init__(self, known: set[str | None], *, on_full: Callable[[str], None]) -> None:
        self._packer = Packer()
        self._known = known
        self._on_full = on_full
        self._bytes = 0
        self._reasons: Counter[Reason] = Counter()
        self.amounts = Amounts()

    @property
    def count(self) -> int:
        return self._packer.count

    async def append(self, record: Result | Skip) -> None:
        assert isinstance(record, Result)  # noqa: S101 - a shard holds only what is to be asked about
        self._bytes += self._packer.add(Answer.of(record))
        if record.http_status == HTTPStatus.OK:
            self._known.add(record.merchant_id or None)
        self._reasons[record.reason] += 1
        self.amounts.note((record,))
        if self._bytes > FULL_BYTES:
            self._on_full("so many answers are enough for one message")

    def outcomes(self) -> dict[str, int]:
        outcomes: Counter[str] = Counter()
        for reason, count in self._reasons.items():
            outcomes[reason.outcome.value] += count
        return dict(outcomes)

    def packed(self) -> bytes:
        return self._packer.packed()


class _LeasedSender:
    """Stand before the client, and let nothing out once the lease is over."""

    def __init__(self, client: Sender, lease: Lease) -> None:
        self._client = client
        self._lease = lease

    async def send(
        self,
        kind: RequestKind,
        subject: Subject,
        *,
        signer: Signer,
        before_repeat: Callable[[], Awaitable[None]],
    ) -> Reply:
        if not self._lease.holds:
            raise NotSentError("LeaseOver")
        return await self._client.send(kind, subject, signer=signer, before_repeat=before_repeat)


def _settings_for(shard: Shard, settings: Settings) -> Settings:
    """Return the worker's settings with what the shard says of how to ask."""
    conditions = shard.conditions
    options = replace(
        settings.options,
        concurrency=shard.concurrency,
        timeout=conditions.timeout,
        max_attempts=conditions.max_attempts,
        max_outage=conditions.max_outage,
        rate_per_merchant=shard.merchant_rate,
    )
    return replace(settings, options=options, rate=shard.rate)


async def _each(rows: Iterable[ManifestRow]) -> AsyncIterator[ManifestRow]:
    for row in rows:
        yield row
