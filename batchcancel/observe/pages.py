"""How far the reading of a list is: lines on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from batchcancel.model import Event, ListProgressed

_EVERY_S: Final = {"bar": 5.0, "plain": 30.0, "json": 1.0}
"""How often a line is written; on a terminal somebody waits."""


class PagesRead:
    """Says from time to time how far a list is; nothing where it is read at once.

    Pages come one after the other, some a second, so a line now and then is all that there is to see.
    """

    def __init__(self, kind: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin to count the time.

        Args:
            kind: ``auto`` (``bar`` on a terminal, ``plain`` elsewhere), ``bar`` (a line every 5 s), ``plain``
                (every 30 s), ``json`` (an object a second) or ``none``.
            clock: Monotonic seconds.
        """
        if kind == "auto":
            kind = "bar" if sys.stderr.isatty() else "plain"
        self._is_json = kind == "json"
        self._every_s = _EVERY_S.get(kind)
        self._clock = clock
        self._said_at = clock()

    def __call__(self, event: Event) -> None:
        """Take an event; only what is read of a list counts."""
        if not isinstance(event, ListProgressed) or self._every_s is None:
            return
        now = self._clock()
        if now - self._said_at < self._every_s:
            return
        self._said_at = now
        with suppress(OSError, ValueError):  # nobody may be listening any more
            sys.stderr.write((_json(event) if self._is_json else _text(event)) + "\n")
            sys.stderr.flush()


def _json(event: ListProgressed) -> str:
    return json.dumps(
        {
            "read": event.rows,
            "status": event.status,
            "total": event.total,
            "looked_up": event.looked_up,
            "to_look_up": event.to_look_up,
        }
    )


def _text(event: ListProgressed) -> str:
    if event.to_look_up:
        return f"{event.looked_up:,} of {event.to_look_up:,} invoices looked up"
    of_status = "" if event.total is None else f"; there are {event.total:,} of status {event.status}"
    return f"{event.rows:,} invoices read{of_status}"
