"""One rate that the service allows: whose turn it is, and the pauses that its refusals ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from batchcancel.errors import OutageTooLongError
from batchcancel.model import Event, PauseCause, PauseEnded, PauseStarted, Reply
from batchcancel.pace.limiter import RateLimiter, Sleep
from batchcancel.pace.throttle import Throttle


class Quota:
    """Give out turns, and make everyone who shares this quota wait when the service says so.

    All merchants of a run may share one, or each may have its own.
    """

    def __init__(
        self,
        rate: float | None,
        *,
        within: RateLimiter | None = None,
        on_event: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        """Begin with the set rate. Needs a running event loop.

        Args:
            rate: Most requests a second; None for no limit.
            within: A limit that several quotas keep together, besides their own; None for none.
            on_event: Told of pauses and of rates that were cut; must not block.
        """
        self._clock = asyncio.get_running_loop().time
        self._throttle = Throttle(rate, clock=self._clock, on_event=on_event)
        self.set_rate: Final = rate
        """The most requests a second that it was made for; None for no limit."""
        self._within = within
        self._on_event = on_event
        self._resumes_at = float("-inf")
        self.too_long: OutageTooLongError | None = None
        """Why nobody may depart any more: a pause was asked for that is not endured."""
        self._paused_since: float | None = None
        """When a pause began whose end has not been told yet."""

    @property
    def is_paused(self) -> bool:
        """Whether everyone has to wait."""
        return self._paused_since is not None and self.pause_left_s > 0

    @property
    def pause_left_s(self) -> float:
        """How long everyone has to wait still, in seconds; 0 or less if nobody has to."""
        return self._resumes_at - self._clock()

    @property
    def allowed_rate(self) -> float | None:
        """The requests a second that it allows now by itself; None for no limit."""
        return self._throttle.rate

    @property
    def is_unlimited(self) -> bool:
        """Whether there is no rate at all, so that it is always everyone's turn."""
        return self._within is None and self._throttle.is_unlimited

    async def take(self, sleep: Sleep = asyncio.sleep) -> None:
        """Wait for the next turn; first come, first served. A cancelled wait gives its place back.

        Args:
            sleep: Waits the given seconds, or less if the caller is in a hurry to give up.
        """
        await self._throttle.take(sleep)
        if self._within is not None:
            await self._within.take(sleep)

    def learn(self, reply: Reply, *, sent_at: float) -> float:
        """Take in a reply; return how long everyone has to wait for it, in seconds, 0 for not at all.

        Nobody waits by that alone: ``pause`` makes them, if the caller agrees.
        """
        return self._throttle.learn(reply, sent_at=sent_at)

    def pause(self, seconds: float) -> None:
        """Let nobody depart for at least that long from now."""
        now = self._clock()
        self._resumes_at = max(self._resumes_at, now + seconds)
        if self._paused_since is None:
            self._paused_since = now
            self._on_event(PauseStarted(cause=PauseCause.RATE_LIMITED, wait_s=seconds))

    def note_pause(self, lasted_s: float) -> None:
        """Note that nobody has departed for so long until now, for a reason that is not the rate's."""
        self._throttle.note_pause(lasted_s)

    def note_passage(self) -> None:
        """Note that somebody may depart: a pause that there was is over."""
        if self._paused_since is not None:
            lasted_s = self._clock() - self._paused_since
            self._paused_since = None
            self._on_event(PauseEnded(cause=PauseCause.RATE_LIMITED, lasted_s=lasted_s))
