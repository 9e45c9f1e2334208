"""Work off the event loop: done in threads, told in one go, dropped with whoever waited."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from batchcancel.api.threads import Threads


async def test_work_is_done_in_other_threads_and_comes_back() -> None:
    """More pieces than threads, each with its own result; no more threads than were asked for."""
    threads = Threads(2)

    def work(number: int) -> tuple[int, str]:
        return number * number, threading.current_thread().name

    try:
        found = await asyncio.gather(*(threads.run(partial(work, number)) for number in range(200)))
    finally:
        threads.close()
    assert [square for square, _ in found] == [number * number for number in range(200)]
    assert {name for _, name in found} <= {"batchcancel-crypto-0", "batchcancel-crypto-1"}


async def test_pieces_are_done_side_by_side() -> None:
    """Two that wait for each other both end."""
    threads = Threads(2)
    barrier = threading.Barrier(2)
    try:
        await asyncio.gather(*(threads.run(lambda: barrier.wait(timeout=10)) for _ in range(2)))
    finally:
        threads.close()


async def test_what_work_raises_is_raised_where_it_is_waited_for() -> None:
    """And the thread lives on."""
    threads = Threads(1)
    try:
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)
        assert await threads.run(lambda: 7) == 7
    finally:
        threads.close()


async def test_the_loop_is_woken_once_for_all_that_is_done_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it is busy; and again for what is done later."""
    threads = Threads(1)
    loop, woken = asyncio.get_running_loop(), 0
    wake = loop.call_soon_threadsafe

    def count(call: Callable[[], None]) -> None:
        nonlocal woken
        woken += 1
        wake(call)

    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    try:
        waiting = asyncio.gather(*(threads.run(lambda: None) for _ in range(10)))
        await asyncio.sleep(0)  # all are handed over
        time.sleep(0.2)  # noqa: ASYNC251 - the loop is busy
        await waiting
        assert woken == 1
        await threads.run(lambda: None)
        assert woken == 2
    finally:
        threads.close()


async def test_a_result_that_nobody_waits_for_is_dropped() -> None:
    """Whoever waits for others gets theirs."""
    threads = Threads(1)
    may_end = threading.Event()
    try:
        first = asyncio.create_task(threads.run(lambda: may_end.wait(10)))
        await asyncio.sleep(0.01)
        first.cancel()
        second = asyncio.create_task(threads.run(lambda: 2))
        await asyncio.sleep(0)
        may_end.set()
        assert await second == 2
        assert first.cancelled()
    finally:
        threads.close()


def test_work_that_outlives_the_loop_disturbs_nobody() -> None:
    """The thread ends in silence: pytest would fail for what a thread raises."""
    may_end = threading.Event()
    kept: list[Threads] = []

    async def leave() -> None:
        threads = Threads(1)
        kept.append(threads)
        task = asyncio.create_task(threads.run(lambda: may_end.wait(10)))
        await asyncio.sleep(0.01)
        task.cancel()
        threads.close()

    asyncio.run(leave())
    may_end.set()
    kept[0]._threads[0].join(10)
    assert not kept[0]._threads[0].is_alive()
