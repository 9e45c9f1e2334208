"""The real parts of a run, put together: a lane for each merchant, and what the lanes share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final

from batchcancel.api import Client, ServiceClock
from batchcancel.gates import Gates
from batchcancel.job.keys import Keys
from batchcancel.job.opening import Opened
from batchcancel.model import Event, Reply, RequestKind, Subject
from batchcancel.pace import Pace, Quota, RateLimiter
from batchcancel.pipeline import Entrance, Exposure, Fleet, Lane, Pipeline, Turnstile
from batchcancel.retry import Retrier
from batchcancel.settings import Mle, Options, Settings

_CLOCK_DOUBT_S: Final = 2.0
"""How far a reading of the service's clock may be off: its ``Date`` header counts whole seconds."""


def build_fleet(
    settings: Settings,
    opened: Opened,
    client: Client,
    keys: Keys,
    clock: ServiceClock,
    *,
    ledger_began_at: str,
    on_event: Callable[[Event], None],
) -> Fleet:
    """Put a run's parts together; nothing is sent. Needs a running event loop.

    Requests in flight, invoices with the service and the gates are counted for all merchants together;
    so is the rate, unless each has its own. Key, health and retries are each merchant's.

    Args:
        settings: What to do.
        opened: What it is done on.
        client: What everything is sent through; opened by the caller.
        keys: Who signs for whom.
        clock: The service's clock, as the client reads it.
        ledger_began_at: When the ledger's first run began, by this machine's clock, as the ledger writes it.
        on_event: Told of everything; must not block.
    """
    options = settings.options
    began_at = datetime.fromisoformat(ledger_began_at).timestamp()
    slots = asyncio.Semaphore(options.concurrency)
    exposure = Exposure(places=options.concurrency, doubts=opened.max_in_doubt)
    entrance = Entrance(_gates(options))
    quota_of = _quotas(settings, on_event)
    is_alone = len(opened.check.merchants) == 1

    def open_lane(merchant_id: str | None, on_failure: Callable[[Exception], None]) -> Lane:
        signer, quota = keys.signer_for(merchant_id), quota_of(merchant_id)

        async def send(kind: RequestKind, subject: Subject) -> Reply:
            return await client.send(kind, subject, signer=signer, before_repeat=quota.take)

        to_ask = opened.check.open_of.get(merchant_id, 0)
        pace = Pace(send, slots=slots, quota=quota, max_outage_s=options.max_outage, on_event=on_event)
        pipeline = Pipeline(
            retrier=Retrier(
                pace,
                max_attempts=options.max_attempts,
                ledger_began_at=lambda: began_at + clock.offset_s - _CLOCK_DOUBT_S,
                on_event=on_event,
            ),
            pace=pace,
            sink=opened.ledger,
            workers=max(1, min(options.concurrency, to_ask)),
            exposure=exposure if is_alone else Turnstile(exposure),
            entrance=entrance,
            on_failure=on_failure,
            on_event=on_event,
        )
        pace.unfinished = pipeline.unfinished
        return Lane(merchant_id=merchant_id, pace=pace, pipeline=pipeline, to_ask=to_ask)

    return Fleet(opened.check.merchants, open_lane=open_lane, entrance=entrance, on_event=on_event)


def _gates(options: Options) -> Gates:
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
