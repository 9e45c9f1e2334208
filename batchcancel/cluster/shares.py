"""What part of the quota each shard gets, so that all together never exceed it. Pure.

A share is paced by the limiter of a run, whose worst second holds ``1.1 * share + 1`` requests. All
shards of a window may have theirs in the same second. So that they still stay within 1.1 times the rate, each
of several gets one request in 1.1 seconds less than its even part, and there are no more of them than leave
each one ten requests a second: the price is 9 % of the rate at most, 1 % where a share is a hundred a second.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

_TOLERANCE: Final = 1.1
_LEAST_SHARE: Final = 10.0
"""Requests a second of a shard that is not alone."""
_RECOVERY: Final = 1.1
"""So many times faster may each shard be that comes after one that nothing was refused to."""
_UNBOUNDED: Final = 10_000.0
"""Requests a second of one shard that are no bound any more."""


class Share(Struct, frozen=True, kw_only=True):
    """One shard's part."""

    rate: float | None
    """Requests a second; None for no limit."""
    merchant_rate: float | None
    """Requests a second for each merchant in it; None for no limit of its own."""
    concurrency: int
    """Requests in flight."""


def window_for(most: int, *, rate: float | None, concurrency: int, merchant_rate: float | None = None) -> int:
    """Return how many shards may be out at the same time.

    Args:
        most: So many at most, 1 or more.
        rate: Requests a second of all together; None for no limit.
        concurrency: Requests in flight of all together.
        merchant_rate: Requests a second of each merchant in all of them; None for no limit of its own.
    """
    window = min(most, concurrency)
    for limit in (rate, merchant_rate):
        if limit is not None:
            window = min(window, int(limit // _LEAST_SHARE))
    return max(1, window)


class Shares:
    """The shares of the shards to come, lower after refusals and then slowly higher again."""

    def __init__(
        self, most: int, *, rate: float | None, concurrency: int, merchant_rate: float | None = None
    ) -> None:
        """Begin with what was asked for; see ``window_for``."""
        self._most = most
        self._merchant_rate = merchant_rate
        self._concurrency = concurrency
        self._bound: float | None = None
        """Requests a second that the service has lately taken of one shard, or of one merchant in it where
        each has a rate of its own; None if it refused none."""
        self.set_rate(rate)

    def set_rate(self, rate: float | None) -> None:
        """Share out another rate from the next shard on."""
        self.rate = rate
        self.window = window_for(
            self._most, rate=rate, merchant_rate=self._merchant_rate, concurrency=self._concurrency
        )

    @property
    def is_cut(self) -> bool:
        """Whether shards begin with less than their even part."""
        return self._bound is not None

    def next(self) -> Share:
        """Return the share of the next shard."""
        rate, merchant_rate = self._even(self.rate), self._even(self._merchant_rate)
        if self._bound is not None:
            if merchant_rate is not None:
                merchant_rate = min(merchant_rate, self._bound)
            else:
                rate = self._bound if rate is None else min(rate, self._bound)
        return Share(
            rate=rate,
            merchant_rate=merchant_rate,
            concurrency=max(1, self._concurrency // self.window),
        )

    def learn(self, refused_at: float | None) -> None:
        """Take in how a shard fared.

        Args:
            refused_at: The requests a second that were left after refusals, of its share or of that of a
                merchant in it; None without any.
        """
        if refused_at is not None:
            self._bound = refused_at
        elif self._bound is not None:
            raised = self._bound * _RECOVERY
            shared_out = self.rate if self._merchant_rate is None else self._merchant_rate
            self._bound = raised if raised < (self._even(shared_out) or _UNBOUNDED) else None

    def _even(self, rate: float | None) -> float | None:
        if rate is None or self.window == 1:
            return rate
        return rate / self.window - 1 / _TOLERANCE
