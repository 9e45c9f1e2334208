"""The live view on the terminal: drawn, and out of the way of whatever else is written there."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, Final, TextIO, cast

from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.text import Text

from batchcancel.observe.keyboard import is_in_foreground
from batchcancel.observe.view import Line

_USUAL_SIZE: Final = os.terminal_size((80, 24))


class Screen:
    """Show lines at the bottom of standard error, a terminal, until ``hide``.

    While there is a screen, standard error is taken in for it: whatever is written there goes out
    untouched, below what was written before, once the view has been taken down; the next ``draw`` puts
    it up again. A terminal that is gone or takes nothing is no error, and is not waited for.
    """

    def __init__(self) -> None:
        """Take standard error in; nothing is shown yet."""
        self._stream: TextIO = sys.stderr
        self._console = Console(file=cast("IO[str]", _Tolerant(self._stream)), force_terminal=True)
        self._live: Live | None = None
        self._is_line_open = False
        """Whether others have written half a line."""
        sys.stderr = cast("TextIO", _Above(self._stream, self._step_aside))

    @property
    def is_shown(self) -> bool:
        """Whether the view is up."""
        return self._live is not None

    @property
    def size(self) -> os.terminal_size:
        """Columns and rows of the terminal as it is now."""
        with suppress(OSError, ValueError):
            size = os.get_terminal_size(self._stream.fileno())
            if size.columns and size.lines:
                return size
        return _USUAL_SIZE

    @property
    def takes_a_view(self) -> bool:
        """Whether it is this process's to draw on now, at the beginning of a line and without a wait."""
        return (
            not self._is_line_open
            and _is_ready(self._stream)
            and is_in_foreground(self._stream.fileno()) is not False
        )

    def draw(self, lines: list[Line]) -> None:
        """Put lines in the place of those that are shown; none may be longer than the terminal is wide."""
        text = Text(no_wrap=True, overflow="crop")
        for number, line in enumerate(lines):
            text.append("\n" if number else "")
            for piece in line:
                text.append(piece.text, piece.style)
        self._console.size = ConsoleDimensions(*self.size)
        if self._live is None:
            # One that was stopped remembers where it was, and would erase what has been written since.
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            self._live.start()
        self._live.update(text, refresh=True)

    def hide(self) -> None:
        """Take the view down."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def close(self) -> None:
        """Take the view down for good, and give standard error back."""
        self.hide()
        sys.stderr = self._stream

    def _step_aside(self, text: str) -> None:
        self.hide()
        self._is_line_open = not text.endswith("\n")


class _Above:
    """Standard error for everybody else while there is a screen."""

    def __init__(self, stream: TextIO, step_aside: Callable[[str], None]) -> None:
        self._stream = stream
        self._step_aside = step_aside

    def write(self, text: str) -> int:
        if text:
            self._step_aside(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever else one asks a stream
        return getattr(self._stream, name)


class _Tolerant:
    """Standard error for rich, without the errors of a terminal that has gone, and without its waits.

    Left to itself, rich ends the process on a closed pipe, and with it the run; and Ctrl-S would hold it up.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if _is_ready(self._stream):
            with suppress(OSError, ValueError):
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever else rich asks a stream
        return getattr(self._stream, name)


def _is_ready(stream: TextIO) -> bool:
    """Tell whether a terminal takes something without being waited for."""
    try:
        return bool(select.select([], [stream.fileno()], [], 0)[1])
    except (OSError, ValueError):  # it has gone
        return False
