"""How long is waited before the next request."""

from __future__ import annotations

from tenacity import RetryCallState, wait_random_exponential
from tenacity.wait import wait_base


class AsDecided(wait_base):
    """The wait that the verdict asks for, or jittered exponential back-off from 0.5 to 20 s."""

    _back_off = wait_random_exponential(multiplier=1, min=0.5, max=20)

    def __call__(self, retry_state: RetryCallState) -> float:
        """Return how long to wait, in seconds."""
        assert retry_state.outcome is not None  # noqa: S101 - tenacity sets it before it waits
        after_s: float | None = retry_state.outcome.result().after_s
        return self._back_off(retry_state) if after_s is None else after_s
