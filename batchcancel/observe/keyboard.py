"""Single keys from the terminal, and the terminal given back as it was."""

from __future__ import annotations

import asyncio
import os
import termios
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

_MOST_AT_ONCE: Final = 64


def is_in_foreground(descriptor: int) -> bool | None:
    """Tell whether this process may read from a terminal; None if that is not the one that controls it."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return None


def open_again(terminal: int) -> int:
    """Open a terminal once more, for whoever waits for it in an event loop; the caller closes it.

    An event loop may make what it waits for non-blocking (uvloop does, for good), and standard input,
    output and error are one and the same there: a slow terminal would then refuse what is written.

    Raises:
        OSError: It can't be opened by its name.
    """
    return os.open(os.ttyname(terminal), os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)


class Keyboard:
    """Call an action for each key, without waiting for a line and without showing what is typed.

    Only in the foreground: a process in the background that reads from its terminal is stopped by the
    system, and what is typed there is the shell's. Signals by key (Ctrl-C, Ctrl-Z) stay what they are.
    """

    def __init__(self, descriptor: int, actions: Mapping[str, Callable[[], object]]) -> None:
        """Prepare; the terminal is left as it is. Needs a running event loop.

        Args:
            descriptor: The terminal to read from; any other file is never read.
            actions: What a key does; others do nothing.
        """
        self._descriptor = descriptor
        self._actions = actions
        self._loop = asyncio.get_running_loop()
        self._keys = -1
        """The terminal, opened once more, while keys are listened to."""
        self._before: list[Any] | None = None
        """The terminal's attributes, as they were found first."""
        self.is_attended = False
        """Whether keys are listened to."""

    def attend(self) -> None:
        """Listen if this process is in the foreground, and only then; to be called again now and then."""
        if is_in_foreground(self._descriptor):
            with suppress(termios.error, OSError):
                self._take_up()
        elif self.is_attended:
            self._ignore()

    def release(self) -> None:
        """Listen no more, and give the terminal back as it was found."""
        if self.is_attended:
            self._ignore()
            # In the background it is the shell's, which has its own attributes.
            if self._before is not None and is_in_foreground(self._descriptor):
                with suppress(termios.error):
                    termios.tcsetattr(self._descriptor, termios.TCSANOW, self._before)

    def _take_up(self) -> None:
        found = termios.tcgetattr(self._descriptor)
        if not self.is_attended:
            self._keys = open_again(self._descriptor)
            self._loop.add_reader(self._keys, self._read)
            self.is_attended = True
        if found[3] & termios.ICANON:  # also where a shell had it meanwhile
            self._before = self._before or found
            termios.tcsetattr(self._descriptor, termios.TCSANOW, _key_by_key(found))

    def _ignore(self) -> None:
        self._loop.remove_reader(self._keys)
        os.close(self._keys)
        self.is_attended = False

    def _read(self) -> None:
        if not is_in_foreground(self._descriptor):
            self._ignore()
            return
        try:
            keys = os.read(self._keys, _MOST_AT_ONCE)
        except OSError:
            keys = b""
        if not keys:  # the terminal has gone
            self._ignore()
        for key in keys.decode("ascii", "replace"):
            if key in self._actions:
                self._actions[key]()


def _key_by_key(attributes: list[Any]) -> list[Any]:
    """Return a terminal's attributes for reading single keys without showing them."""
    iflag, oflag, cflag, lflag, ispeed, ospeed, characters = attributes
    lflag &= ~(termios.ICANON | termios.ECHO)
    lflag |= termios.NOFLSH  # Ctrl-C and Ctrl-Z would throw away half of what is being drawn
    characters = list(characters)
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    return [iflag, oflag, cflag, lflag, ispeed, ospeed, characters]
