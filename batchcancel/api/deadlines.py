"""An end for everything that takes too long, with one timer for all of it.

A timer for each request, set and unset, costs as much as signing it does.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Expirable(Protocol):
    """What can be ended from outside; told apart by identity."""

    def expire(self) -> None:
        """End by a ``TimeoutError``; called once at most."""
        ...


class Deadlines:
    """Expire whatever has not ended in time. Needs a running event loop.

    Args:
        after_s: How long each may take, in seconds.
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._loop = asyncio.get_running_loop()
        self._due: dict[Expirable, float] = {}
        """When each is over, by the loop's clock; the next one first, since all may take equally long."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self, one: Expirable) -> None:
        """Give something its time from now on."""
        due = self._due[one] = self._loop.time() + self._after_s
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._sweep)

    def end(self, one: Expirable) -> None:
        """Let go of something that was started, whether it has expired or not."""
        self._due.pop(one, None)

    def close(self) -> None:
        """Expire nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self) -> None:
        self._timer = None
        while self._due:
            one, due = next(iter(self._due.items()))
            if due > self._loop.time():
                self._timer = self._loop.call_at(due, self._sweep)
                return
            del self._due[one]
            one.expire()
