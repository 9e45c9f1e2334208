"""The event loop that a command runs in, from its first to its last turn."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from batchcancel.cli.signals import Interrupted, signals_raise

T = TypeVar("T")

_GARBAGE_AFTER: Final = 50_000
"""Objects that are made and still there, before garbage is looked for."""


def run_in_loop(main: Callable[[list[int]], Coroutine[Any, Any, T]]) -> T:
    """Run a command's coroutine to its end and return what it returns.

    Args:
        main: Makes the coroutine; given a list that takes the signals which cancelled it before it was
            ready for them.

    Raises:
        Interrupted: A signal came before anything was sent.
    """
    received: list[int] = []
    with signals_raise(), _collected_seldom(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            return runner.run(main(received))
        except asyncio.CancelledError:
            if not received:
                raise
            raise Interrupted(received[0]) from None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the fastest event loop that is installed; None for Python's own."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415 - it may not be there
    except ImportError:
        return None
    return new_event_loop


@contextmanager
def _collected_seldom() -> Iterator[None]:
    """Look for garbage seldom: a run makes hardly any that counting references does not free.

    By default the collector walks all requests in flight hundreds of times a second, for nothing.
    """
    thresholds = gc.get_threshold()
    gc.freeze()  # what was imported stays
    gc.set_threshold(_GARBAGE_AFTER, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
