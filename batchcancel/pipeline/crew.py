"""Tasks that come and go, and are waited for together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine


class Crew:
    """Tasks of one purpose: each failure is told when it comes, and the end of all is waited for once."""

    def __init__(self, on_failure: Callable[[Exception], None]) -> None:
        """Begin without a task. Needs a running event loop.

        Args:
            on_failure: Told of what a task raised; a cancelled one raised nothing.
        """
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[None]] = set()
        self._all_ended = asyncio.Event()

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Start a task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def cancel(self) -> None:
        """Cancel every task; none has ended when this returns."""
        for task in self._tasks:
            task.cancel()

    async def wait(self) -> None:
        """Return once no task is left; there has to have been one."""
        await self._all_ended.wait()

    async def settle(self) -> None:
        """Return once those have ended that are there now, after they were cancelled."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(failure := task.exception(), Exception):
            self._on_failure(failure)
        if not self._tasks:
            self._all_ended.set()
