"""Names of hosts: what is found, what is said, and that nobody waits for a name server that is silent."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from batchcancel.observe.names import addresses_of


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no name server answer before the test is over."""
    is_over = threading.Event()

    def wait(*_: Any, **__: Any) -> list[Any]:
        is_over.wait(10.0)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    yield
    is_over.set()


async def test_an_address_is_its_own() -> None:
    """No name server is asked."""
    assert await addresses_of("127.0.0.1", socket.AF_UNSPEC) == [(socket.AF_INET, "127.0.0.1")]
    assert await addresses_of("::1", socket.AF_INET6) == [(socket.AF_INET6, "::1")]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        pytest.param("nobody.invalid", OSError, id="nobody's"),
        pytest.param("a..b", UnicodeError, id="no name"),
    ],
)
async def test_what_has_no_address_is_said(name: str, error: type[Exception]) -> None:
    """By the system's error, or by Python's for what can be no name."""
    with pytest.raises(error):
        await addresses_of(name, socket.AF_UNSPEC)


@pytest.mark.usefixtures("silence")
def test_the_end_of_the_loop_waits_for_no_name_server() -> None:
    """Whoever gives up goes on at once, the loop and the program behind it too."""

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(addresses_of("slow.example", socket.AF_UNSPEC), 0.05)

    began_at = time.monotonic()
    asyncio.run(give_up())
    assert time.monotonic() - began_at < 2.0
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "names")
