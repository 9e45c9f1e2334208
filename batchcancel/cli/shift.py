"""One worker on the command line: what it says, and how signals end it."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

from batchcancel.cli import exit_codes, say
from batchcancel.cli.log import open_log_of
from batchcancel.cli.signals import signals_cancel, signals_stop
from batchcancel.cluster.access import while_let_in
from batchcancel.cluster.connection import connect, shard_queue_of
from batchcancel.cluster.worker import ShardWorker
from batchcancel.settings import Settings
from batchcancel.settings.engine import EngineOptions

_AT_ONCE_S: Final = 10.0
"""What is said again within that is the same event, met by another shard."""


async def work(settings: Settings, options: EngineOptions, slots: int, before_run: list[int]) -> int:
    """Work on shards until a signal comes; return the exit code.

    Args:
        settings: Where to call and as whom.
        options: Where Temporal is.
        slots: Shards at a time, at most.
        before_run: Takes the signals that come before there is anything to stop.

    Raises:
        UsageError: The keys or Temporal can't be used.
    """
    with signals_cancel(before_run), closing(open_log_of(settings)) as log, _without_noise():
        shards = ShardWorker(settings, on_event=log, on_stop=_Stops().say)
        engine = await connect(options)
        queue = shard_queue_of(shards.account, options)
        leave = _Leave(shards)
        with signals_stop(leave, cancels=True) as stops:
            say(f"batchcancel worker: up to {slots} shards of {queue}, from Temporal at {options.address}")
            working = shards.run(engine, queue, slots=slots, leaving=leave.asked)
            await while_let_in(engine, options, working, on_away=_say_whether_away)
    return exit_codes.of_signal(stops.received[0])


@contextmanager
def _without_noise() -> Iterator[None]:
    """Keep back what the SDK warns of and nobody can do anything about."""
    with warnings.catch_warnings():
        # Of a shard that is taken back while its worker hands it in.
        warnings.filterwarnings("ignore", message="Cannot find activity to cancel")
        yield


class _Stops:
    """Say why shards are stopped; all of those at work may have the same to say at once."""

    def __init__(self) -> None:
        self._said: str | None = None
        self._said_at = 0.0

    def say(self, why: str) -> None:
        """Say it, unless that was just said."""
        now = time.monotonic()
        if why != self._said or now > self._said_at + _AT_ONCE_S:
            say(f"A shard was stopped: {why}", fg="yellow")
        self._said, self._said_at = why, now


def _say_whether_away(is_away: bool) -> None:  # noqa: FBT001 - a callback
    if is_away:
        say("Temporal does not answer: shards at work stop within seconds, until it does.", fg="yellow")
    else:
        say("Temporal answers again.")


class _Leave:
    """What a signal does to a worker."""

    def __init__(self, shards: ShardWorker) -> None:
        self._shards = shards
        self.asked = asyncio.Event()

    def stop(self, why: str) -> None:
        """Let the worker go; a second time, without waiting for what is in flight."""
        if self.asked.is_set():
            self._shards.abort(why)
        self.asked.set()
