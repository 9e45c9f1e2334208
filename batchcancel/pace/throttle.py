"""What a refusal for the rate means for everyone: how long to wait, and how fast to go on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

from batchcancel.model import Event, RateChanged, Reply
from batchcancel.pace.limiter import RateLimiter, Sleep
from batchcancel.pace.tempo import Tempo

_FIRST_BACK_OFF_S: Final = 0.2
_LONGEST_BACK_OFF_S: Final = 20.0
_LEAST_PAUSE_S: Final = 0.1
"""A Retry-After of 0 is no pause; taken literally it would be asked again without end."""
_LATENESS_S: Final = 0.025
"""Near a limit of the service's: a wake-up that is caught up late is a burst, and bursts are refused."""
_UNAVAILABLE: Final = 503
_MOST_CUTS_FOR_503: Final = 3
_CALM_S: Final = 10.0
"""A 503 may be about the load, or not at all: where three cuts in a row don't help, the rate is not what
is wrong, until none has come for ten seconds."""


class Throttle:
    """Give out turns at the rate that the service has shown to take, and never above the set one."""

    def __init__(
        self, rate: float | None, *, clock: Callable[[], float], on_event: Callable[[Event], None]
    ) -> None:
        """Begin with the set rate.

        Args:
            rate: Most requests a second; None for no limit.
            clock: Monotonic seconds.
            on_event: Told when the rate is cut; must not block.
        """
        self._clock = clock
        self._on_event = on_event
        self._tempo = Tempo(rate, clock())
        self._limiter = RateLimiter(rate, clock=clock)
        self._repeats = 0
        """Refusals without a Retry-After since something was accepted."""
        self._unavailable_at = float("-inf")
        self._cuts_for_503 = 0

    @property
    def is_unlimited(self) -> bool:
        """Whether there is no rate at all: none was set, and nothing was refused lately."""
        return self._tempo.is_unlimited

    @property
    def rate(self) -> float | None:
        """The requests a second that may leave now; None for no limit."""
        return self._tempo.rate(self._clock())

    async def take(self, sleep: Sleep = asyncio.sleep) -> None:
        """Wait for the next departure; first come, first served. A cancelled wait gives its place back.

        Args:
            sleep: Waits the given seconds, or less if the caller is in a hurry to give up.
        """
        now = self._clock()
        if self._tempo.is_near_ceiling(now):
            self._limiter.retune(self._tempo.rate(now), lateness_s=_LATENESS_S)
        else:
            self._limiter.retune(self._tempo.rate(now))
        await self._limiter.take(sleep)

    def note_pause(self, lasted_s: float) -> None:
        """Note that nothing has left for so long until now, for a reason that is not the rate's."""
        self._tempo.note_pause(self._clock(), lasted_s)

    def learn(self, reply: Reply, *, sent_at: float) -> float:
        """Take in a reply of any kind.

        Args:
            reply: A 429 or 503 is a refusal, anything else was served.
            sent_at: When the request left, monotonic seconds.

        Returns:
            The seconds that everyone has to wait from now; 0 for none.
        """
        now = self._clock()
        if not reply.is_throttled and reply.http_status != _UNAVAILABLE:
            self._tempo.note_accepted(now)
            if sent_at >= self._tempo.resumes_at:
                self._repeats = 0
            return 0.0
        if not reply.is_throttled and not self._may_be_load(now):
            return 0.0
        pause_s = self._pause_s(reply, sent_at) if reply.is_throttled else 0.0
        cut_to = self._tempo.note_refused(now, sent_at=sent_at, pause_s=pause_s)
        if cut_to is not None:
            self._cuts_for_503 += not reply.is_throttled
            self._on_event(RateChanged(rate=cut_to))
        return pause_s

    def _may_be_load(self, now: float) -> bool:
        """Tell whether a 503 may still mean that there are too many requests."""
        if now - self._unavailable_at > _CALM_S:
            self._cuts_for_503 = 0
        self._unavailable_at = now
        return self._cuts_for_503 < _MOST_CUTS_FOR_503

    def _pause_s(self, reply: Reply, sent_at: float) -> float:
        """Return how long a 429 makes everyone wait: as it says, or else with back-off."""
        if reply.retry_after_s is not None and reply.retry_after_s >= _LEAST_PAUSE_S:
            return reply.retry_after_s
        if sent_at < self._tempo.resumes_at:
            return 0.0  # in flight when the pause began: nothing new
        longest_s = min(_LONGEST_BACK_OFF_S, _FIRST_BACK_OFF_S * 2.0**self._repeats)
        self._repeats += 1
        return random.uniform(longest_s / 2, longest_s)  # noqa: S311 - jitter
