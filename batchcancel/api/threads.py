"""Threads for what keeps a core busy, such as RSA, off the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")

_Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]


class Threads:
    """A few threads that take pieces of work from one queue. Needs a running event loop.

    An executor of the standard library makes a lock and a condition for each piece, and wakes the event
    loop for each: as long as the loop is busy, one wake-up serves all pieces that are done meanwhile.
    """

    def __init__(self, count: int) -> None:
        """Prepare; no thread is started before there is work.

        Args:
            count: How many threads, 1 or more.
        """
        self._loop = asyncio.get_running_loop()
        self._count = count
        self._threads: list[Thread] = []
        self._work: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = SimpleQueue()
        self._done: deque[_Outcome] = deque()
        self._is_told = False
        """Whether the loop has been told of what is done, and has not looked yet."""

    async def run(self, work: Callable[[], T]) -> T:
        """Run something in a thread; when cancelled, its result is dropped.

        Raises:
            Exception: Whatever the work raised.
        """
        if not self._threads:
            self._start()
        future: asyncio.Future[T] = self._loop.create_future()
        self._work.put((work, future))
        return await future

    def close(self) -> None:
        """Let every thread end once it has done what it was given; nobody is waited for."""
        for _ in self._threads:
            self._work.put(None)

    def _start(self) -> None:
        self._threads = [
            Thread(target=self._serve, name=f"batchcancel-crypto-{number}", daemon=True)
            for number in range(self._count)
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        while (piece := self._work.get()) is not None:
            work, future = piece
            try:
                outcome: _Outcome = (future, work(), None)
            except BaseException as exc:  # noqa: BLE001 - it is raised where the work is waited for
                outcome = (future, None, exc)
            self._done.append(outcome)
            if not self._is_told:
                self._is_told = True
                with suppress(RuntimeError):  # the loop has been closed, and nobody waits any more
                    self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_told = False  # first: what is done from now on is told again
        while self._done:
            future, result, error = self._done.popleft()
            if future.done():
                continue  # whoever waited was cancelled
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
