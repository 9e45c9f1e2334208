"""Everything that the metrics of one run are made of."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version
from time import monotonic, time
from typing import Final

from msgspec import Struct

from batchcancel.model import Vitals
from batchcancel.observe.metrics.counts import Counts


class Ended(Struct, frozen=True, kw_only=True):
    """What is known of the runs that have ended."""

    last_exit_code: int | None = None
    """None before the first one has ended."""
    last_success_at: float | None = None
    """When one ended with exit code 0, Unix seconds."""


class RunMetrics:
    """The run that is going on, and what is known of those before."""

    def __init__(
        self,
        *,
        env: str,
        name: str | None,
        now: Callable[[], float] = time,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Begin; the run's time counts from here.

        Args:
            env: ``sandbox``, ``test`` or ``production``.
            name: What tells its metrics from those of other jobs; None for nothing.
            now: Unix seconds.
            clock: Monotonic seconds.
        """
        self.env: Final = env
        self.name: Final = name
        self.version: Final = version("batchcancel")
        self.python: Final = platform.python_version()
        self.counts: Final = Counts()
        self.vitals: Vitals | None = None
        """What the run was doing when it was asked last; None before it was opened."""
        self.ended = Ended()
        """Of the runs that have ended; set by whoever knows of earlier ones."""
        self.is_active = True
        self.started_at: Final = now()
        self._now = now
        self._clock = clock
        self._began_at = clock()
        self._duration_s: float | None = None

    @property
    def duration_s(self) -> float:
        """How long the run has lasted, or lasts."""
        return self._clock() - self._began_at if self._duration_s is None else self._duration_s

    def end(self, exit_code: int) -> None:
        """Note how the run ended; only exit code 0 is a success."""
        self._duration_s = self._clock() - self._began_at
        self.is_active = False
        self.ended = Ended(
            last_exit_code=exit_code,
            last_success_at=self._now() if exit_code == 0 else self.ended.last_success_at,
        )
