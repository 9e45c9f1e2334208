"""What the run of replies says about the service: fine, a streak of failures, or an outage. Pure."""

from __future__ import annotations

from typing import Final

STREAK_FAILURES: Final = 10
STREAK_S: Final = 2.0
LONG_STREAK_FAILURES: Final = 50
"""So many can hardly be the doing of single invoices any more, however fast they came."""


class Health:
    """The service's health as the replies show it. Times are monotonic seconds, given by the caller.

    A *good* reply is a word of the service to a key that it knows: no transient failure, no 429, none
    of 401, 403, 407. An *accepted* request had a good reply other than 400, which may mean the account.
    """

    def __init__(self, now: float) -> None:
        self.last_good_at = now
        self.last_accepted_sent_at = float("-inf")
        """When the latest of the accepted requests left: it says nothing about a key refused later."""
        self.last_failure = ""
        self._failures = 0
        self._streak_began_at = now
        self._streak_sent_at = now
        """When the earliest request of the streak left."""
        self._in_vain_since: float | None = None
        """When the first request left that was in vain; None if none was since the last good reply."""
        self._outages: list[tuple[float, float]] = []
        self._pauses: list[tuple[float, float]] = []
        """When nothing left because somebody had asked for it."""
        self._paused_since: float | None = None

    def note_good(self, now: float, sent_at: float) -> bool:
        """Record a good reply: it ends a streak, unless it answers a request that left before the streak's.

        Returns:
            Whether there is no streak now.
        """
        if self._failures and sent_at < self._streak_sent_at:
            return False
        self.last_good_at = now
        self._failures = 0
        self._in_vain_since = None
        return True

    def note_accepted(self, sent_at: float) -> None:
        """Record an accepted request by the time at which it left."""
        self.last_accepted_sent_at = max(self.last_accepted_sent_at, sent_at)

    def note_throttled(self, sent_at: float) -> None:
        """Record a 429 by the time at which its request left."""
        if self._in_vain_since is None:
            self._in_vain_since = sent_at

    def note_failure(self, now: float, sent_at: float, what: str) -> None:
        """Record a transient failure, when its request left, and what it was."""
        self.last_failure = what
        if self._in_vain_since is None:
            self._in_vain_since = sent_at
        if not self._failures:
            self._streak_began_at, self._streak_sent_at = now, sent_at
        self._streak_sent_at = min(self._streak_sent_at, sent_at)
        self._failures += 1

    @property
    def is_undecided(self) -> bool:
        """Whether failures came since the last good reply and nobody knows yet what they mean."""
        return self._failures > 0

    @property
    def is_long_streak(self) -> bool:
        """Whether it will surely be looked into, once it has lasted a while."""
        return self._failures >= LONG_STREAK_FAILURES

    def streak_is_due_in_s(self, now: float) -> float:
        """Return how long the present streak has to last still before it is looked into."""
        return max(0.0, self._streak_began_at + STREAK_S - now)

    def is_suspicious(self, now: float, *, unfinished: int) -> bool:
        """Tell whether the streak is long enough to ask whether this is an outage.

        Args:
            now: Monotonic seconds.
            unfinished: Invoices that this run still has in hand; fewer than ten make fewer do.
        """
        enough = self._failures >= min(STREAK_FAILURES, max(1, unfinished))
        return enough and self.streak_is_due_in_s(now) == 0

    def end_streak(self) -> None:
        """Decide that the streak says nothing about the service: the failures count."""
        self._failures = 0

    @property
    def silent_since(self) -> float:
        """Since when good replies are missing: from the last one, but not while nothing was asked."""
        return max(self.last_good_at, self._in_vain_since or self.last_good_at)

    @property
    def outage_began_at(self) -> float:
        """When this streak began, if it is an outage: with its first request, or the last good reply."""
        return min(self.last_good_at, self._streak_sent_at)

    def note_outage(self, began_at: float, ended_at: float) -> None:
        """Record an outage, to the first good reply after it."""
        self._outages.append((began_at, ended_at))

    def was_in_outage(self, at: float) -> bool:
        """Tell whether a request that left at that time fell into an outage."""
        return any(began <= at <= ended for began, ended in self._outages)

    def note_pause(self, now: float) -> None:
        """Record that nothing leaves from now on, by hand."""
        self._paused_since = now

    def note_resumption(self, now: float) -> None:
        """Record that requests may leave again, as far as the hand goes."""
        if self._paused_since is not None:
            self._pauses.append((self._paused_since, now))
            self._paused_since = None

    def paused_s_since(self, began_at: float, now: float) -> float:
        """Return the seconds since then that it was paused by hand."""
        return _covered_s(self._pauses_until(now), began_at)

    def idle_s_since(self, began_at: float, now: float) -> float:
        """Return the seconds since then that were an outage or paused by hand, those that were both once."""
        return _covered_s([*self._outages, *self._pauses_until(now)], began_at)

    def _pauses_until(self, now: float) -> list[tuple[float, float]]:
        return self._pauses if self._paused_since is None else [*self._pauses, (self._paused_since, now)]


def _covered_s(spans: list[tuple[float, float]], began_at: float) -> float:
    """Return how much of the time since then some spans cover."""
    covered_s, reached = 0.0, began_at
    for began, ended in sorted(spans):
        if ended > reached:
            covered_s += ended - max(began, reached)
            reached = ended
    return covered_s
