"""The gate that every request passes: open, closed for a while, held shut (by hand too), or for good."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress

from batchcancel.errors import RunStoppingError
from batchcancel.model import Event, PauseCause, PauseEnded, PauseStarted
from batchcancel.pace.quota import Quota


class Gate:
    """Hold every request back while one reply concerns all of them, or the run is stopping.

    It is closed too while its quota pauses.
    """

    def __init__(self, quota: Quota, on_event: Callable[[Event], None]) -> None:
        self._quota = quota
        self._clock = asyncio.get_running_loop().time
        self._on_event = on_event
        self._stop = asyncio.Event()
        self._holds: list[PauseCause] = []
        """Why it is held shut, the latest cause last."""
        self._released = asyncio.Event()
        self._resumed = asyncio.Event()

    @property
    def is_stopping(self) -> bool:
        """Whether the run is stopping: no new cancelation leaves."""
        return self._stop.is_set()

    @property
    def is_open(self) -> bool:
        """Whether a request may leave now."""
        return not self._holds and not self._quota.is_paused

    @property
    def held_by(self) -> PauseCause | None:
        """Why no request may leave now; None if one may."""
        if self._holds:
            return PauseCause.BY_HAND if self.is_paused else self._holds[-1]
        return PauseCause.RATE_LIMITED if self._quota.is_paused else None

    @property
    def is_paused(self) -> bool:
        """Whether it is shut by hand, for signed reads too."""
        return PauseCause.BY_HAND in self._holds

    def pause(self) -> None:
        """Shut the gate by hand, until ``resume``; signed reads, which go past it, have to wait too."""
        self._shut(PauseCause.BY_HAND)
        self._resumed.clear()

    def resume(self) -> None:
        """End what ``pause`` has begun."""
        self._reopen(PauseCause.BY_HAND)
        self._resumed.set()

    def stop(self) -> None:
        """Stop for good: sleeps end, and who waits at the closed gate is sent home."""
        self._stop.set()
        self._released.set()
        self._resumed.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep for that long, but no longer than until the run stops."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def until_stop(self, work: Coroutine[None, None, None]) -> None:
        """Do something that may be dropped at any time, but only until the run stops.

        If cancelled, the work is cancelled too.

        Raises:
            RunStoppingError: The run is stopping and the work was not done.
            Exception: Whatever the work raised.
        """
        tasks = doing, stopping = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise RunStoppingError("the run is stopping before its first cancelation")
            await doing
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(doing, stopping, return_exceptions=True)

    @contextmanager
    def hold(self, cause: PauseCause, *, last_failure: str | None = None) -> Iterator[None]:
        """Keep the gate shut for the length of the block."""
        began_at = self._clock()
        self._on_event(PauseStarted(cause=cause, wait_s=None, last_failure=last_failure))
        self._shut(cause)
        try:
            yield
        finally:
            self._reopen(cause)
            self._on_event(PauseEnded(cause=cause, lasted_s=self._clock() - began_at))

    def pass_by(self) -> bool:
        """Pass the gate if it is open; tell whether it was."""
        if not self.is_open:
            return False
        self._quota.note_passage()
        return True

    async def wait_open(self) -> None:
        """Return once a request may leave.

        Raises:
            RunStoppingError: The run is stopping and the gate is shut.
        """
        while not self.pass_by():
            if self.is_stopping:
                raise RunStoppingError("the run is stopping while everyone waits")
            if self._holds:
                await self._released.wait()
            else:
                await self.sleep(self._quota.pause_left_s)

    async def wait_resumed(self) -> None:
        """Return once the gate is not shut by hand.

        Raises:
            RunStoppingError: The run is stopping and the gate is shut by hand.
        """
        while self.is_paused:
            if self.is_stopping:
                raise RunStoppingError("the run is stopping while it is paused")
            await self._resumed.wait()

    def _shut(self, cause: PauseCause) -> None:
        self._holds.append(cause)
        self._released.clear()

    def _reopen(self, cause: PauseCause) -> None:
        self._holds.remove(cause)
        if not self._holds:
            self._released.set()
