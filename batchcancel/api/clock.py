"""The service's clock: tokens and dates are made by it, not by this machine's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_TOLERANCE_S: Final = 2.0
"""A ``Date`` header counts whole seconds and travels; a smaller difference says nothing."""


class ServiceClock:
    """This machine's clock, corrected by what the service's ``Date`` headers say.

    Args:
        machine_now: This machine's clock: Unix seconds, such as ``time.time``.
    """

    def __init__(self, machine_now: Callable[[], float]) -> None:
        self._machine_now = machine_now
        self._offset_s = 0.0

    @property
    def offset_s(self) -> float:
        """Seconds to add to this machine's clock; 0.0 until a reading differs."""
        return self._offset_s

    def now(self) -> float:
        """Return the service's time as Unix seconds."""
        return self._machine_now() + self._offset_s

    def note(self, service_time: float) -> bool:
        """Take a reading of the service's clock.

        Args:
            service_time: What the service said just now, Unix seconds.

        Returns:
            Whether the offset was changed: the reading was more than 2 s away from ``now()``.
        """
        if abs(service_time - self.now()) <= _TOLERANCE_S:
            return False
        self._offset_s = service_time - self._machine_now()
        return True
