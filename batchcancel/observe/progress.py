"""How far a command is: a live view on a terminal, lines elsewhere; always on standard error."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from batchcancel.observe import Listener
from batchcancel.observe.tracker import MARK_EVERY_S, Tracker
from batchcancel.observe.watched import Watched
from batchcancel.observe.words import json_line, sentence

_EVERY_S: Final = {"bar": 5.0, "plain": 30.0, "json": 1.0}
"""How often a line is written; on a terminal somebody waits."""


@asynccontextmanager
async def show_progress(kind: str, watched: Watched) -> AsyncIterator[Listener]:
    """Show progress for the length of the block; give the listener that feeds it.

    Args:
        kind: ``bar`` (a live view with keys; needs a terminal that can move its cursor, and is ``plain``
            elsewhere), ``auto`` (the same), ``plain`` (a line every 30 s), ``json`` (an object a second,
            and a last one) or ``none``.
        watched: What is shown, and what the keys act on.
    """
    if kind == "none":
        yield _ignore
        return
    tracker = Tracker(watched, clock=asyncio.get_running_loop().time)
    async with _ticking(MARK_EVERY_S, tracker.mark):
        if kind in {"auto", "bar"} and can_show_a_view():
            from batchcancel.observe.live import live_view  # noqa: PLC0415 - slow, and for terminals only

            with live_view(tracker, watched):
                yield tracker.listen
            return
        async with tell_progress(
            "plain" if kind in {"auto", "bar"} else kind,
            line=lambda: sentence(tracker.moment()),
            document=lambda ended: json_line(tracker.moment(), ended=ended),
        ):
            yield tracker.listen


@asynccontextmanager
async def tell_progress(
    kind: str, *, line: Callable[[], str], document: Callable[[bool], str]
) -> AsyncIterator[None]:
    """Tell progress in lines alone for the length of the block.

    Args:
        kind: As for ``show_progress``; ``bar`` is a line every 5 s here, and ``auto`` that on a terminal.
        line: Says it for people.
        document: Says it as one JSON object; given whether that is the last one.
    """
    if kind == "auto":
        kind = "bar" if can_show_a_view() else "plain"
    match kind:
        case "bar" | "plain":
            async with _ticking(_EVERY_S[kind], lambda: _say(line())):
                yield
        case "json":
            try:
                async with _ticking(_EVERY_S[kind], lambda: _say(document(False))):
                    yield
            finally:
                _say(document(True))
        case "none":
            yield
        case _:
            raise ValueError(f"there is no way called {kind!r} to show progress")


def can_show_a_view() -> bool:
    """Tell whether standard error is a terminal that can move its cursor."""
    with suppress(ValueError):  # closed
        return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in {"", "dumb", "unknown"}
    return False


def _ignore(_event: object) -> None:
    """Take an event that nobody wants to see."""


@asynccontextmanager
async def _ticking(every_s: float, act: Callable[[], None]) -> AsyncIterator[None]:
    """Do something again and again for the length of the block."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(every_s)
            act()

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()


def _say(line: str) -> None:
    # Nobody may be listening any more; it goes on all the same.
    with suppress(OSError, ValueError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
