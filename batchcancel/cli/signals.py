"""How the signals that end a run reach it: before its loop, before its first request, and during it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, Protocol

from batchcancel.cli import say
from batchcancel.observe.words import stopping_text
from batchcancel.pipeline import DRAIN_S

ENDING_SIGNALS: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
"""Signals that end a run well, each with an exit code of its own."""


class Interrupted(KeyboardInterrupt):
    """A signal came while nothing was being changed."""

    def __init__(self, signum: int, *, what_was_left: str = "nothing was sent") -> None:
        """Note what a person has to know.

        Args:
            signum: The signal.
            what_was_left: What was not done, the end of a sentence.
        """
        self.signum = signum
        self.what_was_left = what_was_left


class Stoppable(Protocol):
    """What a signal stops; ``job.Job`` is one."""

    def stop(self, why: str) -> None:
        """Let nothing new leave; a second call does not wait for what is in flight."""
        ...


@contextmanager
def signals_raise() -> Iterator[None]:
    """Make each signal that ends a run raise while no loop runs; one that is ignored (nohup) stays so."""

    def interrupt(signum: int, _frame: FrameType | None) -> None:
        raise Interrupted(signum)

    previous = {signum: signal.getsignal(signum) for signum in ENDING_SIGNALS}
    for signum, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(signum, interrupt)
    try:
        yield
    finally:
        for signum, handler in previous.items():
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, handler)


@contextmanager
def signals_cancel(received: list[int]) -> Iterator[None]:
    """Make the first signal cancel this task, until ``signals_stop`` takes over; collect those that came.

    A handler that raises would do so anywhere in the event loop's own work, too: what a thread has done
    might then never be told, and the run would wait for it without an end.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine asks

    def cancel(signum: int) -> None:
        if not received:
            task.cancel()
        received.append(signum)

    previous = {signum: signal.getsignal(signum) for signum in ENDING_SIGNALS}
    for signum, handler in previous.items():
        if handler is not signal.SIG_IGN:
            loop.add_signal_handler(signum, cancel, signum)
    try:
        yield
    finally:
        for signum, handler in previous.items():
            if loop.remove_signal_handler(signum):
                signal.signal(signum, handler)


class Stops:
    """Stop what is going on for a signal or a key, and abort it for the second one."""

    def __init__(self, stoppable: Stoppable, *, cancels: bool) -> None:
        self._stoppable = stoppable
        self.cancels: Final = cancels
        """Whether invoices are canceled, or only looked at."""
        self.received: list[int] = []
        """The signals that came; a key counts as the signal that it stands for."""

    def stop(self, signum: int, *, key: str | None = None) -> None:
        """Stop, and say so.

        Args:
            signum: The signal.
            key: What was pressed in its stead; None for the signal itself.
        """
        self.received.append(signum)
        name = signal.Signals(signum).name
        said = key or name
        say(
            f"{said}: {stopping_text(cancels=self.cancels)}; "
            f"waiting up to {DRAIN_S:.0f} s for what is in flight."
            if len(self.received) == 1
            else f"{said}: stopping at once.",
            fg="yellow",
        )
        self._stoppable.stop(name)


@contextmanager
def signals_stop(stoppable: Stoppable, *, cancels: bool) -> Iterator[Stops]:
    """Make each signal stop what is going on, and a second one abort it.

    Args:
        stoppable: What is going on.
        cancels: Whether it cancels invoices, or only looks at them; what is said of a stop depends on it.
    """
    loop = asyncio.get_running_loop()
    stops = Stops(stoppable, cancels=cancels)
    previous = {signum: signal.getsignal(signum) for signum in ENDING_SIGNALS}
    for signum, handler in previous.items():
        if handler is not signal.SIG_IGN:
            loop.add_signal_handler(signum, stops.stop, signum)
    try:
        yield stops
    finally:
        for signum, handler in previous.items():
            loop.remove_signal_handler(signum)
            # Once one has come, the exit code is its own: those after it must not change it on the way out.
            # Where none has, everything is on disk and a signal may end the process as it likes: the
            # handler from before the run would say that nothing was sent.
            ended_handler = signal.SIG_IGN if stops.received or handler is signal.SIG_IGN else signal.SIG_DFL
            signal.signal(signum, ended_handler)
