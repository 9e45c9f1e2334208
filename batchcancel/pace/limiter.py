"""Requests a second: a generic cell rate algorithm without a burst."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

Sleep = Callable[[float], Awaitable[None]]

_LATENESS_S: Final = 0.1
"""How much of a late wake-up is caught up: one second then holds at most 1.1 times the rate."""


class RateLimiter:
    """Let departures through one by one, evenly spaced.

    The worst window of one second holds at most 1.1 times the rate plus one departure, and less if less
    lateness is caught up. An idle time earns nothing: the first departures after it are spaced like all
    others.
    """

    def __init__(self, rate: float | None, *, clock: Callable[[], float] | None = None) -> None:
        """Start with an unused schedule.

        Args:
            rate: Departures a second; None for no limit.
            clock: Monotonic seconds; the running loop's clock by default.
        """
        self._clock = clock or asyncio.get_running_loop().time
        self._turn = asyncio.Lock()
        self._next_at = float("-inf")
        self.retune(rate)

    def retune(self, rate: float | None, *, lateness_s: float = _LATENESS_S) -> None:
        """Change the rate for every departure that is not yet scheduled.

        Args:
            rate: Departures a second, above 0; None for no limit.
            lateness_s: How much of a late wake-up is caught up, from 0.
        """
        if rate is not None and rate <= 0:
            raise ValueError("a rate is above 0")
        self._rate = rate
        self._lateness_s = lateness_s
        self._interval_s = 0.0 if rate is None else 1.0 / rate

    async def take(self, sleep: Sleep = asyncio.sleep) -> None:
        """Wait for the next departure; first come, first served.

        A cancelled wait gives its place back.

        Args:
            sleep: Waits the given seconds, or less if the caller is in a hurry to give up.
        """
        if self._rate is None:
            return
        queued = self._turn.locked() or self._next_at > self._clock()
        async with self._turn:
            ahead_s = self._next_at - self._clock()
            if ahead_s > 0:
                await sleep(ahead_s)
            now = self._clock()
            earliest = now - self._lateness_s if queued else now
            self._next_at = max(self._next_at, earliest) + self._interval_s
