"""Until when a worker may send requests for a shard without a word from Temporal. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

HEARTBEAT_TIMEOUT_S: Final = 5.0
"""After this long without a heartbeat Temporal gives up a worker, and its shard's rest to another one."""
LEASE_S: Final = 4.0
"""A worker stops by itself that long after it sent the last heartbeat that was confirmed, which Temporal has
recorded later than that: so it stops a second before anyone else begins."""
HEARTBEAT_EVERY_S: Final = 1.0


class Lease:
    """A right that ends by itself unless it is renewed in time; once over, it stays over."""

    def __init__(self, clock: Callable[[], float], *, lasts_s: float = LEASE_S) -> None:
        """Begin without the right: the first heartbeat gives it.

        Args:
            clock: Monotonic seconds, which go on while a process is frozen.
            lasts_s: How long one heartbeat holds.
        """
        self._clock = clock
        self._lasts_s = lasts_s
        self._ends_at: float | None = None
        self._was_ended = False

    @property
    def left_s(self) -> float:
        """How long it holds still, in seconds; 0 once it is over."""
        if self._was_ended or self._ends_at is None:
            return 0.0
        left_s = self._ends_at - self._clock()
        if left_s <= 0:
            self._was_ended = True
            return 0.0
        return left_s

    @property
    def holds(self) -> bool:
        """Whether requests may be sent."""
        return self.left_s > 0

    def renew(self, sent_at: float) -> None:
        """Note that a heartbeat was confirmed that was sent at that time."""
        if self._ends_at is None or self.holds:
            self._ends_at = sent_at + self._lasts_s

    def end(self) -> None:
        """Give the right up: somebody else may have it by now."""
        self._was_ended = True
