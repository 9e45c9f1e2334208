"""How long Temporal's refusal is borne, and how a new API key reaches it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

from batchcancel.cluster import access
from batchcancel.cluster.access import while_let_in
from batchcancel.errors import EngineError
from batchcancel.settings.engine import EngineOptions, load_engine_options


class Engine:
    """Answers as it is told; a key that it knows is let in."""

    namespace = "default"

    def __init__(self, *, good: str = "good", status: RPCStatusCode | None = None) -> None:
        self.api_key: str | None = None
        self.asked = 0
        self._good = good
        self._status = status
        self._to_lose = 0
        self.workflow_service = SimpleNamespace(describe_namespace=self._describe)

    def answer(self, status: RPCStatusCode | None) -> None:
        """Answer otherwise from now on."""
        self._status = status

    def lose(self, answers: int) -> None:
        """Lose so many answers from now on."""
        self._to_lose = answers

    async def _describe(self, _request: object, **limits: timedelta) -> None:
        assert limits["timeout"].total_seconds() > 0, "a look must not last for ever"
        self.asked += 1
        if self._to_lose:
            self._to_lose -= 1
            raise RPCError("lost", RPCStatusCode.UNAVAILABLE, b"")
        if self._status is not None:
            raise RPCError("Bearer secret", self._status, b"")
        if self.api_key != self._good:
            raise RPCError("Bearer secret", RPCStatusCode.UNAUTHENTICATED, b"")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look all the time, and bear little."""
    monkeypatch.setattr(access, "_LOOK_S", 0.0)
    monkeypatch.setattr(access, "_PATIENCE_S", 0.05)


async def let_in(
    engine: Any,
    options: EngineOptions,
    seconds: float,
    on_away: Callable[[bool], None] = lambda _is_away: None,
) -> str:
    """Do work that takes some seconds."""
    return await while_let_in(engine, options, asyncio.sleep(seconds, "done"), on_away=on_away)


@pytest.mark.parametrize("status", [RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.PERMISSION_DENIED])
async def test_work_ends_where_the_refusal_lasts(status: RPCStatusCode) -> None:
    """With the sentence that says what to look at, and none of the server's words."""
    engine = Engine(status=status)
    with pytest.raises(EngineError, match="refuses this client") as caught:
        await let_in(engine, EngineOptions(), 60)
    assert "secret" not in str(caught.value)
    assert engine.asked > 2


async def test_a_server_that_is_away_refuses_nobody() -> None:
    """Workers and coordinators outlast its absence."""
    engine = Engine(status=RPCStatusCode.UNAVAILABLE)
    assert await let_in(engine, EngineOptions(), 0.15) == "done"
    assert engine.asked > 2


async def test_an_absence_and_its_end_are_told_once_each() -> None:
    """One look without an answer is none: it may have been lost."""
    engine = Engine(good="good")
    engine.api_key = "good"
    told: list[bool] = []
    working = asyncio.create_task(let_in(engine, EngineOptions(), 60, told.append))
    for status in (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED):
        engine.answer(status)
        first = engine.asked
        await _until(lambda first=first: engine.asked > first + 3)
        engine.answer(None)
        first = engine.asked
        await _until(lambda first=first: engine.asked > first + 3)
    assert told == [True, False] * 2
    engine.lose(1)
    first = engine.asked
    await _until(lambda: engine.asked > first + 3)
    working.cancel()
    assert told == [True, False] * 2


async def test_a_new_key_in_the_file_is_taken_in_time(tmp_path: Path) -> None:
    """What is no key for a moment is left alone."""
    file = tmp_path / "key"
    file.write_text("old", encoding="utf-8")
    file.chmod(0o600)
    options = load_engine_options({"temporal_api_key_file": str(file)}, environ={})
    engine = Engine()
    working = asyncio.create_task(let_in(engine, options, 0.3))
    await _until(lambda: engine.api_key == "old")
    file.write_text("", encoding="utf-8")
    await asyncio.sleep(0.01)
    file.write_text("good", encoding="utf-8")
    assert await working == "done"
    assert engine.api_key == "good"


async def test_what_the_work_raises_is_raised_and_its_cancellation_reaches_it() -> None:
    """The keeper is in nobody's way."""

    async def fail() -> None:
        raise ValueError("of the work")

    engine: Any = Engine(status=RPCStatusCode.UNAVAILABLE)
    told: list[bool] = []
    with pytest.raises(ValueError, match="of the work"):
        await while_let_in(engine, EngineOptions(), fail(), on_away=told.append)
    ended = asyncio.Event()

    async def last() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(while_let_in(engine, EngineOptions(), last(), on_away=told.append))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def _until(holds: Any) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0)
