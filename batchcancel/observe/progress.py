"""How far a run is: a live view on a terminal, lines elsewhere; always on standard error."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from batchcancel.observe import Listener
from batchcancel.observe.controls import Controls
from batchcancel.observe.tracker import Tracker
from batchcancel.observe.words import json_line, sentence

_PLAIN_EVERY_S: Final = 30.0
_JSON_EVERY_S: Final = 1.0


@asynccontextmanager
async def show_progress(kind: str, *, total: int, controls: Controls) -> AsyncIterator[Listener]:
    """Show progress for the length of the block; give the listener that feeds it.

    Args:
        kind: ``bar`` (a live view with keys; needs a terminal that can move its cursor, and is ``plain``
            elsewhere), ``auto`` (the same), ``plain`` (a line every 30 s), ``json`` (an object a second,
            and a last one) or ``none``.
        total: Invoices that the run will settle.
        controls: What is shown besides, and what the keys do.
    """
    tracker = Tracker(total=total, vitals=controls.vitals, clock=asyncio.get_running_loop().time)
    if kind in {"auto", "bar"}:
        kind = "bar" if _can_show_a_view() else "plain"
    match kind:
        case "bar":
            from batchcancel.observe.live import live_view  # noqa: PLC0415 - slow, and for terminals only

            with live_view(tracker, controls):
                yield tracker.listen
        case "plain":
            async with _ticking(_PLAIN_EVERY_S, lambda: _say(sentence(tracker.moment()))):
                yield tracker.listen
        case "json":
            try:
                async with _ticking(_JSON_EVERY_S, lambda: _say(json_line(tracker.moment(), ended=False))):
                    yield tracker.listen
            finally:
                _say(json_line(tracker.moment(), ended=True))
        case "none":
            yield _ignore
        case _:
            raise ValueError(f"there is no way called {kind!r} to show progress")


def _can_show_a_view() -> bool:
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
    # Nobody may be listening any more; the run goes on all the same.
    with suppress(OSError, ValueError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
