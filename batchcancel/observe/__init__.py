"""Listeners to a run's events: logs, progress and metrics; and who is told of its start and end."""

from __future__ import annotations

from collections.abc import Callable

from batchcancel.model import Event

Listener = Callable[[Event], None]


class Broadcast:
    """One listener that passes events on to many, in the order in which they joined.

    A listener whose stream is gone (a closed terminal, a full disk under its log file) is dropped:
    watching a run must never end it.
    """

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = list(listeners)

    def add(self, listener: Listener) -> None:
        """Pass every further event on to this listener too."""
        self._listeners.append(listener)

    def __call__(self, event: Event) -> None:
        """Pass an event on."""
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except OSError:
                self._listeners.remove(listener)
