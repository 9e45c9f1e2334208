"""How many requests a second the service takes, learned from what it refuses. Pure.

A refusal that is not a lone one sets a *ceiling*: the rate that was accepted when it came. From there
the allowed rate goes like this, pauses left out::

    1.6 |                                          .   a raised limit is found within seconds
        |                                        .
    1.0 |- - - - - - - - - - - - - - - - - - - - - -   refused again here: the next ceiling
        |              . . . . ' ' ' ' ' '
    .95 |. . . . ' ' '
        +---------------------------------+----------> seconds
                       hold                  probe

What a refusal costs is the pause that comes with it, so the hold is as long as the pause demands: with
a Retry-After of one second it takes 24, and more than 90 % of the limit is left; where a refusal costs
a tenth of a second, 3 do.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

_MEASURED_S: Final = 1.0
"""What was accepted is counted over this long, so that a burst that the service allows is no rate."""
_HELD_SHARES: Final = (0.95, 0.99)
"""Of the ceiling, at the beginning and at the end of the hold."""
_LEAST_HOLD_S: Final = 3.0
_MOST_HOLD_S: Final = 60.0
"""A ceiling is tried again within a minute, though each refusal cost ten."""
_HOLD_PER_PAUSE: Final = 24.0
_WEAK_HOLD_SHARE: Final = 1 / 3
_WEAK_EVIDENCE_S: Final = 0.9
"""A ceiling that was met sooner after a pause may be far too low: its hold is shorter."""
_PROBE_STEP: Final = 0.02
_PROBE_DOUBLING_S: Final = 0.6
"""The probe goes up by 2 % of the ceiling in its first 0.6 s, and each 0.6 s by twice as much."""
_MOST_DOUBLINGS: Final = 32.0
_LEAST_STRIKE_S: Final = 2.0
_STRIKE_PER_PAUSE: Final = 8.0
"""Two refusals within so many times the pause, or two seconds, are no lone ones, or too dear for it."""
_RASH_STRIKE_S: Final = 0.5
"""Without a bound on the rate, hundreds are accepted between two refusals so near to each other."""
_CROWD: Final = 3
_CROWD_OF: Final = 10
"""So many refused among the last replies are no lone ones, whenever they came."""
_DEEPEST_CUT: Final = 0.5
"""A cut goes no deeper at once, for what was counted right after a pause is little; a crowd may."""
_OWN_RATE_SHARE: Final = 0.9
_STEP_DOWN: Final = 0.95
"""Where a new ceiling is refused at once twice in a row, though nearly all was accepted until then, this
comes off: a service that counts by the clock's seconds accepts two of them around a pause."""
_SAME_WITHIN: Final = 0.15
_TRUST: Final = 1 / 3
"""A ceiling that is met again at about the same rate moves by a third of the difference only."""
_BETWEEN_CUTS_S: Final = 1.0
_UNBOUNDED: Final = 10_000.0
"""Where no rate was set, one that has grown to this is no bound any more."""


class Tempo:
    """The allowed rate. Times are monotonic seconds, given by the caller, and never go back."""

    def __init__(self, most: float | None, now: float) -> None:
        """Begin with the highest rate.

        Args:
            most: Requests a second that are never exceeded, above 0; None for no limit.
            now: Monotonic seconds.
        """
        self._most = most
        self._ceiling: float | None = None
        self._hold_s = 0.0
        self._was_cut_early = False
        """Whether the last cut came soon after the one before it."""
        # These two are pushed back by every pause: what has passed since is time that was not paused.
        self._held_since = now
        self._struck_at = -math.inf
        self._cut_at = -math.inf
        self._resumes_at = self._resumed_before_at = now
        self._accepted_at: deque[float] = deque()
        self._refusals: deque[bool] = deque(maxlen=_CROWD_OF)

    @property
    def resumes_at(self) -> float:
        """When the present pause ends, or the last one ended."""
        return self._resumes_at

    @property
    def is_unlimited(self) -> bool:
        """Whether there is no limit, neither a set one nor one of the service's."""
        return self._ceiling is None and self._most is None

    def is_near_ceiling(self, now: float) -> bool:
        """Tell whether the rate is at a limit of the service's, where uneven departures are refused."""
        return self._ceiling is not None and self.rate(now) != self._most

    def rate(self, now: float) -> float | None:
        """Return the requests a second that may leave at this time; None for no limit."""
        if self._ceiling is None:
            return self._most
        rate = self._ceiling * _share_of_ceiling(now - self._held_since, self._hold_s)
        if self._most is not None:
            return min(rate, self._most)
        return None if rate >= _UNBOUNDED else rate

    def note_accepted(self, now: float) -> None:
        """Record a reply to a request that was not refused for its rate."""
        self._refusals.append(False)
        self._accepted_at.append(now)
        self._forget_old(now)

    def note_refused(self, now: float, *, sent_at: float, pause_s: float) -> float | None:
        """Record a refusal, and cut the rate unless it is a lone one.

        Args:
            now: When its reply came.
            sent_at: When the request left. One that left before the last pause ended says no more than
                that the refusal before it was not alone.
            pause_s: How long everyone waits for it from now; 0 for not at all.

        Returns:
            The rate at which it goes on if it was cut, in requests a second; otherwise None.
        """
        self._refusals.append(True)
        cut_to = self._cut(now, pause_s) if self._is_decisive(now, sent_at, pause_s) else None
        if sent_at >= self._resumes_at:
            self._struck_at = now
        self._pause(now, pause_s)
        return cut_to

    def note_pause(self, now: float, lasted_s: float) -> None:
        """Record that nothing has left for so long until now, for a reason that is not the rate's."""
        new_s = min(lasted_s, now - self._resumes_at)
        if new_s > 0:
            self._pause(now - new_s, new_s)

    # --- inside -------------------------------------------------------------------------------

    @property
    def _is_crowd(self) -> bool:
        return sum(self._refusals) >= _CROWD

    def _is_in_early_hold(self, now: float) -> bool:
        """Tell whether a ceiling is so new that a refusal means that it is too high, or a lone one."""
        return now - self._held_since <= self._hold_s / 2

    def _is_decisive(self, now: float, sent_at: float, pause_s: float) -> bool:
        if now - self._cut_at < _BETWEEN_CUTS_S:
            return False
        if self._is_crowd:
            return True
        if sent_at < self._resumes_at:
            return False
        if self._ceiling is not None and not self._is_in_early_hold(now):
            return True
        least_s = _RASH_STRIKE_S if self.rate(now) is None else 0.0
        return least_s <= now - self._struck_at < max(_LEAST_STRIKE_S, _STRIKE_PER_PAUSE * pause_s)

    def _cut(self, now: float, pause_s: float) -> float | None:
        """Set a new ceiling, unless nothing was accepted lately: then it is no matter of rate."""
        self._forget_old(now)
        if not self._accepted_at:
            return None
        is_early = self._ceiling is not None and self._is_in_early_hold(now)
        # The first refusals of a crowd have begun a pause already.
        unpaused_since = self._resumes_at if now >= self._resumes_at else self._resumed_before_at
        is_weak = now - unpaused_since < _WEAK_EVIDENCE_S
        self._ceiling = self._new_ceiling(now, is_weak=is_weak)
        self._was_cut_early = is_early
        hold_s = min(_MOST_HOLD_S, _HOLD_PER_PAUSE * pause_s) * (_WEAK_HOLD_SHARE if is_weak else 1)
        self._hold_s = max(_LEAST_HOLD_S, hold_s)
        self._cut_at = now
        self._held_since = max(now, self._resumes_at)
        self._refusals.clear()
        return self._ceiling * _HELD_SHARES[0]

    def _new_ceiling(self, now: float, *, is_weak: bool) -> float:
        accepted = len(self._accepted_at) / _MEASURED_S
        rate = self.rate(now)
        if rate is not None:
            deepest = 0.0 if self._is_crowd and not is_weak else rate * _DEEPEST_CUT
            accepted = min(rate, max(accepted, deepest))
        if self._ceiling is None or rate is None:
            return accepted
        if self._is_in_early_hold(now):
            goes_down = self._was_cut_early and accepted > rate * _OWN_RATE_SHARE
            return accepted * _STEP_DOWN if goes_down else accepted
        if abs(accepted - self._ceiling) < self._ceiling * _SAME_WITHIN:
            return self._ceiling + (accepted - self._ceiling) * _TRUST
        return accepted

    def _pause(self, now: float, pause_s: float) -> None:
        """Take the part of a pause that is new out of the time that counts."""
        resumes_at = max(self._resumes_at, now + pause_s)
        if pause_s and resumes_at > self._resumes_at:
            if now >= self._resumes_at:
                self._resumed_before_at = self._resumes_at
            longer_s = resumes_at - max(self._resumes_at, now)
            self._resumes_at = resumes_at
            self._held_since += longer_s
            self._struck_at += longer_s

    def _forget_old(self, now: float) -> None:
        while self._accepted_at and self._accepted_at[0] <= now - _MEASURED_S:
            self._accepted_at.popleft()


def _share_of_ceiling(held_s: float, hold_s: float) -> float:
    """Return what share of the ceiling is allowed, so long after the hold began."""
    first, last = _HELD_SHARES
    if held_s <= hold_s:
        return first + (last - first) * max(0.0, held_s) / hold_s
    doublings = min((held_s - hold_s) / _PROBE_DOUBLING_S, _MOST_DOUBLINGS)
    return last + _PROBE_STEP * (math.exp2(doublings) - 1)
