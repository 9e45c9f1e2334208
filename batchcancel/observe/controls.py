"""What a person who watches a run can do with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from batchcancel.model import PauseCause, Vitals


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """A run, as far as those who watch it have to do with it."""

    vitals: Callable[[], Vitals]
    """Tells what the run is doing at the moment."""
    pause: Callable[[], object]
    resume: Callable[[], object]
    stop: Callable[[], object]
    """Stops as Ctrl-C does; a second call stops at once."""

    def toggle_pause(self) -> None:
        """Pause the run, or let it go on."""
        is_paused = self.vitals().held_by is PauseCause.BY_HAND
        (self.resume if is_paused else self.pause)()
