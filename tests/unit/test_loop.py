"""What a command is run by."""

from __future__ import annotations

import asyncio
import sys

import pytest

from batchcancel.cli.loop import _loop_factory


async def _library_of_loop() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


@pytest.mark.parametrize("library", ["uvloop", "asyncio"])
def test_a_run_has_the_fastest_loop_that_is_there(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """Without uvloop, as on a system that it is not made for, Python's own does."""
    if library != "uvloop":
        monkeypatch.setitem(sys.modules, "uvloop", None)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        assert runner.run(_library_of_loop()) == library
