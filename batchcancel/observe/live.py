"""What is watched, on a terminal: the view is drawn, keys are listened to, and all is put back at the end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from batchcancel.observe.keyboard import Keyboard
from batchcancel.observe.screen import Screen
from batchcancel.observe.tracker import Tracker
from batchcancel.observe.view import view
from batchcancel.observe.watched import Watched

_DRAW_EVERY_S: Final = 0.25
_LOOK_EVERY_S: Final = 0.05
"""So soon the view is up again after a line was written above it."""
_NO_DESCRIPTOR: Final = -1


class LiveView:
    """Keep the view up to date, and do what the keys say."""

    def __init__(self, tracker: Tracker, watched: Watched) -> None:
        """Take standard error in; nothing is shown before ``refresh``. Needs a running event loop.

        Args:
            tracker: What is shown.
            watched: What the keys act on: p pauses and resumes, q stops.
        """
        self._tracker = tracker
        self._watched = watched
        self._clock = asyncio.get_running_loop().time
        self._screen = Screen()
        actions = dict.fromkeys("pP", self._toggle_pause) | dict.fromkeys("qQ", watched.stop)
        self._keyboard = Keyboard(_stdin_descriptor(), actions)
        self._drawn_at = float("-inf")

    def refresh(self) -> None:
        """Draw the view and listen to the keyboard, unless the terminal is another's at the moment."""
        self._keyboard.attend()
        if self._screen.takes_a_view:
            columns, rows = self._screen.size  # a line that fills the last column wraps on some terminals
            moment = self._tracker.moment()
            self._screen.draw(
                view(moment, width=columns - 1, height=rows, has_keys=self._keyboard.is_attended)
            )
        self._drawn_at = self._clock()

    async def keep_fresh(self) -> None:
        """Draw again and again, until cancelled."""
        while True:
            if not self._screen.is_shown or self._clock() >= self._drawn_at + _DRAW_EVERY_S:
                self.refresh()
            await asyncio.sleep(_LOOK_EVERY_S)

    def put_away(self) -> None:
        """Take the view down and give the terminal back for the time being."""
        self._keyboard.release()
        self._screen.hide()

    def close(self) -> None:
        """Give standard error back, once the view is put away."""
        self._screen.close()

    def _toggle_pause(self) -> None:
        self._watched.toggle_pause()
        self.refresh()


@contextmanager
def live_view(tracker: Tracker, watched: Watched) -> Iterator[None]:
    """Show it for the length of the block. Needs a running event loop."""
    shown = LiveView(tracker, watched)
    try:
        with _put_away_when_suspended(shown):
            drawing = asyncio.create_task(shown.keep_fresh())
            try:
                shown.refresh()
                yield
            finally:
                drawing.cancel()
                shown.put_away()
    finally:
        shown.close()


@contextmanager
def _put_away_when_suspended(shown: LiveView) -> Iterator[None]:
    """Give the terminal to the shell in order when Ctrl-Z stops the process, and take it up again."""
    loop = asyncio.get_running_loop()
    if signal.getsignal(signal.SIGTSTP) is not signal.SIG_DFL:
        yield
        return

    def suspend() -> None:
        shown.put_away()
        loop.remove_signal_handler(signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGTSTP)  # returns once the process is to go on
        loop.add_signal_handler(signal.SIGTSTP, suspend)
        shown.refresh()

    loop.add_signal_handler(signal.SIGTSTP, suspend)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTSTP)


def _stdin_descriptor() -> int:
    with suppress(OSError, ValueError, AttributeError):  # closed, or not there at all
        return sys.stdin.fileno()
    return _NO_DESCRIPTOR
