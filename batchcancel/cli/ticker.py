"""How far a command is that only reads: lines on standard error."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from batchcancel.cli import say

_PLAIN_EVERY_S: Final = 30.0
_TERMINAL_EVERY_S: Final = 5.0
_JSON_EVERY_S: Final = 1.0


@asynccontextmanager
async def tell_progress(
    kind: str, *, line: Callable[[], str], document: Callable[[], str]
) -> AsyncIterator[None]:
    """Tell how far it is for the length of the block.

    Args:
        kind: Of ``settings.Progress``: ``json`` is an object a second and a last one, ``none`` nothing,
            all others a line every 30 s, or 5 s on a terminal.
        line: Says it for people.
        document: Says it as one JSON object.
    """
    if kind == "none":
        yield
        return
    is_json = kind == "json"
    every_s = _JSON_EVERY_S if is_json else _TERMINAL_EVERY_S if sys.stderr.isatty() else _PLAIN_EVERY_S
    words = document if is_json else line

    async def tick() -> None:
        while True:
            await asyncio.sleep(every_s)
            say(words())

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()
        if is_json:
            say(words())
