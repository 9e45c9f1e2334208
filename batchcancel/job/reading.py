"""Looking and changing nothing: the pace, keys and retries of a run, behind a client that can only read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack
from time import time
from types import TracebackType
from typing import Self

from batchcancel.api import Client, Expiry, ServiceClock
from batchcancel.job.connect import base_url_of, build_client
from batchcancel.job.course import Course, Ending
from batchcancel.job.keys import load_keys
from batchcancel.job.lanes import build_fleet, open_pace, to_look
from batchcancel.model import Event, ManifestRow, Tally, Vitals
from batchcancel.pace import Pace, Quota
from batchcancel.pipeline import Onlooker
from batchcancel.settings import Settings


class Reading:
    """The way to the service for whoever only looks: an async context manager.

    The client behind it can't send anything but a GET, whatever asks it to.
    """

    def __init__(
        self, settings: Settings, *, on_event: Callable[[Event], None] = lambda _event: None
    ) -> None:
        """Read the keys; nothing is opened.

        Args:
            settings: What is called, and how fast.
            on_event: Told of requests, retries and pauses; must not block or raise.

        Raises:
            SettingsError: A file of keys can't be used.
        """
        self.settings = settings
        self._on_event = on_event
        self._keys = load_keys(settings)
        self._clock = ServiceClock(time)
        self._resources = AsyncExitStack()
        self._client: Client
        self._course = Course(settings)
        self._course.own_merchant_id = self.merchant_id
        self.base_url = ""
        """What is called; known once it is open."""

    @property
    def merchant_id(self) -> str:
        """The own merchant, or the portfolio that signs for several."""
        return self._keys.identity.merchant_id

    @property
    def expiries(self) -> tuple[Expiry, ...]:
        """Until when each certificate is valid that requests are signed or encrypted with."""
        return self._keys.expiries

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    async def open(self, merchants: Collection[str | None] = (None,), *, simulated_invoices: int = 0) -> None:
        """Open the client, and the simulator where it is what is called; nothing is sent.

        Args:
            merchants: Whose invoices are looked at; None is the own merchant.
            simulated_invoices: How many made-up invoices the simulator begins with.
        """
        self.base_url = await base_url_of(
            self.settings,
            merchants=merchants,
            resources=self._resources,
            simulated_invoices=simulated_invoices,
        )
        client = build_client(
            self.settings,
            self._keys,
            self.base_url,
            self._clock,
            is_read_only=True,
            on_event=self._on_event,
        )
        self._client = await self._resources.enter_async_context(client)

    async def look_up(
        self,
        rows: AsyncIterator[ManifestRow],
        onlooker: Onlooker,
        *,
        open_of: Mapping[str | None, int],
        count: int,
        settled_earlier: int = 0,
    ) -> Ending:
        """Look every invoice up that has no answer yet; once, and open.

        Before the first one a signed read has to be taken, as before a run.

        Args:
            rows: The rows whose invoices they are.
            onlooker: Takes what is seen, and the rows that nobody is asked about.
            open_of: By merchant the invoices that are to be looked up.
            count: How many rows there are.
            settled_earlier: How many of them have their answer already.

        Returns:
            How it ended: a safety stop, a limit and a stop are ways to end.
        """
        purpose = to_look(open_of, onlooker, limit=self.settings.options.limit)
        fleet = build_fleet(self.settings, purpose, self._client, self._keys, on_event=self._on_event)
        return await self._course.run(fleet, rows, count=count, settled_earlier=settled_earlier)

    def pace(self) -> Pace:
        """Return the own merchant's paced way to the service, for requests about no single invoice."""
        options = self.settings.options
        return open_pace(
            self.settings,
            self._client,
            self._keys.signer,
            asyncio.Semaphore(options.concurrency),
            Quota(self.settings.rate, on_event=self._on_event),
            on_event=self._on_event,
        )

    def tally(self, *, rows: int, settled_earlier: int) -> Tally:
        """Count what became of the rows so far; as ``Course.tally`` does."""
        return self._course.tally(rows=rows, settled_earlier=settled_earlier)

    def vitals(self, *, to_settle: int) -> Vitals:
        """Tell what is going on at the moment."""
        return self._course.vitals(to_settle=to_settle)

    def pause(self) -> None:
        """Let nothing leave until ``resume``; as ``Job.pause`` does."""
        self._course.pause()

    def resume(self) -> None:
        """Let requests leave again; what is not paused is left as it is."""
        self._course.resume()

    def stop(self, why: str) -> None:
        """Send nothing new and wait for what is in flight; a second call does not wait."""
        self._course.stop(why)
