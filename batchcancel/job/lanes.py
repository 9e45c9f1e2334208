"""The real parts of a run, put together: a lane for each merchant, and what the lanes share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, Protocol

from batchcancel.api import ServiceClock, Signer
from batchcancel.gates import Gates
from batchcancel.job.keys import Keys
from batchcancel.job.opening import Opened
from batchcancel.model import Event, Reply, RequestKind, Subject
from batchcancel.pace import Pace, Quota, RateLimiter
from batchcancel.pipeline import (
    Entrance,
    Exposure,
    Fleet,
    Lane,
    Onlooker,
    Pipeline,
    Sink,
    Turnstile,
    Witness,
)
from batchcancel.retry import Retrier
from batchcancel.settings import Mle, Options, Settings

_CLOCK_DOUBT_S: Final = 2.0
"""How far a reading of the service's clock may be off: its ``Date`` header counts whole seconds."""


class Sender(Protocol):
    """What requests are sent through: ``api.Client``, or what stands before it."""

    async def send(
        self,
        kind: RequestKind,
        subject: Subject,
        *,
        signer: Signer,
        before_repeat: Callable[[], Awaitable[None]],
    ) -> Reply:
        """Send one request; see ``Client.send``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """What a fleet is for: whose rows there are, where they go, and what has to hold meanwhile."""

    merchants: Collection[str | None]
    """Whose rows there are, one or more; None is the own merchant."""
    open_of: Mapping[str | None, int]
    """By merchant the invoices that are to be asked about."""
    sink: Sink
    gates: Gates
    max_in_doubt: int = 1
    """Invoices that may wait while the service may have acted on them."""
    ledger_began_at: Callable[[], float] | None = None
    """When the ledger's first run began, Unix seconds on the service's clock; None if it is not known."""
    known: Collection[str | None] = ()
    """Merchants whose key the service has taken before, so that no read has to come first."""
    witness: Witness | None = None
    """Takes what is seen, where invoices are looked up and nothing is canceled; None to cancel them."""


def to_cancel(opened: Opened, options: Options, clock: ServiceClock, *, ledger_began_at: str) -> Purpose:
    """Return the purpose of a run.

    Args:
        opened: What it works on.
        options: What has to hold.
        clock: The service's clock, as the client reads it.
        ledger_began_at: When the ledger's first run began, by this machine's clock, as the ledger writes it.
    """
    return Purpose(
        merchants=opened.check.merchants,
        open_of=opened.check.open_of,
        sink=opened.ledger,
        gates=gates_of(options),
        max_in_doubt=opened.max_in_doubt,
        ledger_began_at=by_service_clock(ledger_began_at, clock),
    )


def by_service_clock(ledger_began_at: str, clock: ServiceClock) -> Callable[[], float]:
    """Return what tells when a ledger's first run began, on the service's clock, surely not too late.

    Args:
        ledger_began_at: That time by the clock of the machine that wrote it, as the ledger writes it.
        clock: The service's clock, as a client of this machine reads it.
    """
    began_at = datetime.fromisoformat(ledger_began_at).timestamp()
    return lambda: began_at + clock.offset_s - _CLOCK_DOUBT_S


def to_look(open_of: Mapping[str | None, int], onlooker: Onlooker, *, limit: int | None) -> Purpose:
    """Return the purpose of looking invoices up and changing nothing.

    Args:
        open_of: By merchant the invoices that are to be looked up.
        onlooker: Takes what is seen, and the rows that nobody is asked about.
        limit: Most invoices to look up; None for all.
    """
    return Purpose(
        merchants=open_of.keys(), open_of=open_of, sink=onlooker, witness=onlooker, gates=Gates(limit=limit)
    )


def build_fleet(
    settings: Settings, purpose: Purpose, client: Sender, keys: Keys, *, on_event: Callable[[Event], None]
) -> Fleet:
    """Put a fleet's parts together; nothing is sent. Needs a running event loop.

    Requests in flight, invoices with the service and the gates are counted for all merchants together;
    so is the rate, unless each has its own. Key, health and retries are each merchant's.

    Args:
        settings: How fast, how often, how long.
        purpose: What for.
        client: What everything is sent through; opened by the caller.
        keys: Who signs for whom.
        on_event: Told of everything; must not block.
    """
    options = settings.options
    slots = asyncio.Semaphore(options.concurrency)
    exposure = Exposure(places=options.concurrency, doubts=purpose.max_in_doubt)
    entrance = Entrance(purpose.gates)
    quota_of = _quotas(settings, on_event)
    is_alone = len(purpose.merchants) == 1

    def open_lane(merchant_id: str | None, on_failure: Callable[[Exception], None]) -> Lane:
        to_ask = purpose.open_of.get(merchant_id, 0)
        pace = open_pace(
            settings, client, keys.signer_for(merchant_id), slots, quota_of(merchant_id), on_event=on_event
        )
        pipeline = Pipeline(
            retrier=Retrier(
                pace,
                max_attempts=options.max_attempts,
                ledger_began_at=purpose.ledger_began_at,
                looks_only=purpose.witness is not None,
                on_event=on_event,
            ),
            pace=pace,
            sink=purpose.sink,
            witness=purpose.witness,
            workers=max(1, min(options.concurrency, to_ask)),
            exposure=exposure if is_alone else Turnstile(exposure),
            entrance=entrance,
            on_failure=on_failure,
            on_event=on_event,
        )
        pace.unfinished = pipeline.unfinished
        return Lane(
            merchant_id=merchant_id,
            pace=pace,
            pipeline=pipeline,
            to_ask=to_ask,
            is_known=merchant_id in purpose.known,
        )

    return Fleet(purpose.merchants, open_lane=open_lane, entrance=entrance, on_event=on_event)


def open_pace(
    settings: Settings,
    client: Sender,
    signer: Signer,
    slots: asyncio.Semaphore,
    quota: Quota,
    *,
    on_event: Callable[[Event], None],
) -> Pace:
    """Build the paced way to the service of one merchant."""
    send = partial(client.send, signer=signer, before_repeat=quota.take)
    return Pace(send, slots=slots, quota=quota, max_outage_s=settings.options.max_outage, on_event=on_event)


def gates_of(options: Options) -> Gates:
    """Return what has to hold while invoices are canceled."""
    return Gates(
        limit=options.limit,
        canary=options.canary,
        max_errors=options.max_errors,
        max_error_rate=options.max_error_rate,
        max_mismatch=options.max_mismatch,
        is_encrypted=options.mle is not Mle.OFF,
    )


def _quotas(settings: Settings, on_event: Callable[[Event], None]) -> Callable[[str | None], Quota]:
    """Return what gives each merchant its quota: the one that all share, or one of its own."""
    own_rate = settings.options.rate_per_merchant
    if own_rate is None:
        shared = Quota(settings.rate, on_event=on_event)
        return lambda _merchant_id: shared
    together = None if settings.rate is None else RateLimiter(settings.rate)
    return lambda _merchant_id: Quota(own_rate, within=together, on_event=on_event)
