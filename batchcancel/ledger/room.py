"""How many rows may be undurable at a time, and who waits for there to be fewer."""

from __future__ import annotations

import asyncio
from collections import deque


class Room:
    """Places for so many rows. Needs a running event loop where somebody waits.

    No semaphore: that takes each row in and lets each out by itself, past everyone who waits. Here a row that
    finds a place waits for nothing, and a group that is on disk lets in as many as it had.
    """

    def __init__(self, places: int) -> None:
        """Begin empty.

        Args:
            places: How many rows, 1 or more.
        """
        self._free = places
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether there is no place."""
        return self._free <= 0

    def take(self) -> None:
        """Take a place; there has to be one."""
        self._free -= 1

    def give_back(self, places: int) -> None:
        """Free some places, and let as many look who wait."""
        self._free += places
        self._let_in(places)

    async def wait(self) -> None:
        """Return once there may be a place; somebody else may have taken it by then.

        Cancelled when it was let in, it lets the next one in.
        """
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._let_in(1)
            raise

    def let_all_in(self) -> None:
        """Let everyone look who waits, place or not."""
        self._let_in(len(self._waiting))

    def _let_in(self, count: int) -> None:
        while count > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                count -= 1
