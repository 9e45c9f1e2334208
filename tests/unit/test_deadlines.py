"""One timer for everything that may take too long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from batchcancel.api.deadlines import Deadlines

_AFTER_S = 0.03


class _Wait:
    """Something that takes as long as it takes."""

    def __init__(self) -> None:
        self.expired_at: float | None = None
        self._expired = asyncio.Event()

    def expire(self) -> None:
        assert self.expired_at is None, "expired twice"
        self.expired_at = asyncio.get_running_loop().time()
        self._expired.set()

    async def until_expired(self) -> float:
        await asyncio.wait_for(self._expired.wait(), 30)
        assert self.expired_at is not None
        return self.expired_at


def _watch_timers(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.TimerHandle]:
    """Return a list that every timer of the running loop is added to."""
    timers: list[asyncio.TimerHandle] = []
    loop = asyncio.get_running_loop()
    call_at = loop.call_at

    def noted(*arguments: Any, **options: Any) -> asyncio.TimerHandle:
        timers.append(call_at(*arguments, **options))
        return timers[-1]

    monkeypatch.setattr(loop, "call_at", noted)
    return timers


async def test_each_expires_once_after_its_own_time() -> None:
    """Not together with one that was started earlier."""
    deadlines, loop = Deadlines(_AFTER_S), asyncio.get_running_loop()
    first, second = _Wait(), _Wait()
    began_at = loop.time()
    deadlines.start(first)
    assert await first.until_expired() >= began_at + _AFTER_S
    began_at = loop.time()
    deadlines.start(second)
    assert await second.until_expired() >= began_at + _AFTER_S


async def test_what_was_started_meanwhile_has_its_whole_time() -> None:
    """The timer that ends the first one looks for the next."""
    deadlines, loop = Deadlines(_AFTER_S), asyncio.get_running_loop()
    first, second = _Wait(), _Wait()
    deadlines.start(first)
    half_time = loop.time() + _AFTER_S / 2
    loop.call_at(half_time, deadlines.start, second)
    await first.until_expired()
    assert await second.until_expired() >= half_time + _AFTER_S


async def test_what_has_ended_does_not_expire() -> None:
    """Whether it stood before or behind one that does; to end it again does nothing."""
    deadlines = Deadlines(_AFTER_S)
    before, late, behind = _Wait(), _Wait(), _Wait()
    for one in (before, late, behind):
        deadlines.start(one)
    deadlines.end(before)
    deadlines.end(behind)
    await late.until_expired()
    deadlines.end(late)
    assert (before.expired_at, behind.expired_at) == (None, None)


async def test_a_thousand_take_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is the point; and nothing expires any more once it was closed."""
    deadlines = Deadlines(_AFTER_S)
    timers = _watch_timers(monkeypatch)
    waits = [_Wait() for _ in range(1000)]
    for one in waits:
        deadlines.start(one)
        deadlines.end(one)
    deadlines.start(waits[0])
    deadlines.close()
    assert [timer.cancelled() for timer in timers] == [True]
