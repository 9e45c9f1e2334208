"""How many requests a second are served: three ways to count, and a limit that can change."""

from __future__ import annotations

import math
from collections import deque
from typing import Final, Protocol

from batchcancel.sandbox.options import RateLimitKind, SandboxOptions


class RateLimit(Protocol):
    """Counts requests. Times are seconds on a clock that never goes back."""

    def admits(self, at_s: float) -> bool:
        """Tell whether a request is served now, and count it if so."""
        ...


class SlidingWindow:
    """Serves so many requests in any second, or one in several seconds."""

    def __init__(self, per_s: float) -> None:
        self._served_at_s: deque[float] = deque()
        self.retune(per_s)

    def retune(self, per_s: float) -> None:
        """Change the limit; what was served before counts on."""
        self._window_s = max(1.0, 1 / per_s)
        self._most = math.floor(per_s * self._window_s)

    def admits(self, at_s: float) -> bool:
        """Tell whether fewer than the most were served in the window that ends now."""
        while self._served_at_s and self._served_at_s[0] <= at_s - self._window_s:
            self._served_at_s.popleft()
        if len(self._served_at_s) >= self._most:
            return False
        self._served_at_s.append(at_s)
        return True


class FixedWindow:
    """Serves so many requests in each second by the clock, or one in several seconds."""

    def __init__(self, per_s: float) -> None:
        self._window = -1
        self._served = 0
        self.retune(per_s)

    def retune(self, per_s: float) -> None:
        """Change the limit; what was served in the present window counts on."""
        self._window_s = max(1.0, 1 / per_s)
        self._most = math.floor(per_s * self._window_s)

    def admits(self, at_s: float) -> bool:
        """Tell whether fewer than the most were served in this window."""
        window = math.floor(at_s / self._window_s)
        if window != self._window:
            self._window, self._served = window, 0
        if self._served >= self._most:
            return False
        self._served += 1
        return True


class TokenBucket:
    """Serves a request for each token; those of one second, or a single one, can be saved up."""

    def __init__(self, per_s: float) -> None:
        self._at_s = 0.0
        self._tokens = max(1.0, per_s)
        self.retune(per_s)

    def retune(self, per_s: float) -> None:
        """Change the rate at which tokens come, and how many can be saved up."""
        self._per_s = per_s
        self._most = max(1.0, per_s)

    def admits(self, at_s: float) -> bool:
        """Tell whether there is a token, and take it."""
        self._tokens = min(self._most, self._tokens + (at_s - self._at_s) * self._per_s)
        self._at_s = at_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


_Tunable = SlidingWindow | FixedWindow | TokenBucket


class ChangingLimit:
    """A limit that becomes another one at a certain time."""

    def __init__(self, limit: _Tunable, change: tuple[float, float]) -> None:
        self._limit = limit
        self._changes_at_s, self._becomes = change
        self._has_changed = False

    def admits(self, at_s: float) -> bool:
        """Ask the limit that is valid now."""
        if not self._has_changed and at_s >= self._changes_at_s:
            self._limit.retune(self._becomes)
            self._has_changed = True
        return self._limit.admits(at_s)


_KINDS: Final[dict[RateLimitKind, type[_Tunable]]] = {
    RateLimitKind.SLIDING: SlidingWindow,
    RateLimitKind.FIXED: FixedWindow,
    RateLimitKind.BUCKET: TokenBucket,
}


def rate_limit(options: SandboxOptions) -> RateLimit | None:
    """Make the limit that the options ask for; None if they ask for none."""
    if options.rate_limit is None:
        return None
    limit: _Tunable = _KINDS[options.rate_limit_kind](options.rate_limit)
    return limit if options.rate_change is None else ChangingLimit(limit, options.rate_change)
