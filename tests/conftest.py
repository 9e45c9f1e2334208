"""Fixtures for every kind of test."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from aioresponses import aioresponses
from hypothesis import settings

# A busy machine is no defect: examples may take as long as they take; each test has its time-out.
settings.register_profile("batchcancel", deadline=None)
settings.load_profile("batchcancel")


class _MockedResponse(aiohttp.ClientResponse):
    """Fills in an argument that aiohttp 3.14 requires and aioresponses 0.7.9 does not pass."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("stream_writer", Mock(output_size=0))
        super().__init__(*args, **kwargs)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRequest:
    """One request as it stood on the wire."""

    method: str
    target: str
    head: str
    """Request line and headers."""
    first: bool
    """Whether it is the first one on its connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawServer:
    """A server of bytes on loopback, in threads of this process."""

    port: int
    requests: list[RawRequest] = field(default_factory=list)
    """Every request so far, added before it is answered."""
    connections: list[str] = field(default_factory=list)
    """The peer of every connection so far."""

    @property
    def base_url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


RawAnswer = Callable[[socket.socket, RawRequest], None]
"""Writes whatever it likes for one request; raising ``OSError`` closes the connection."""
StartRawServer = Callable[[RawAnswer], RawServer]


class _RawListener(socketserver.ThreadingTCPServer):
    """Give every connection a thread, which nobody waits for."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: RawAnswer) -> None:
        super().__init__(("127.0.0.1", 0), _RawConnection)
        self.answer = answer
        self.raw = RawServer(port=self.socket.getsockname()[1])


class _RawConnection(socketserver.StreamRequestHandler):
    """Read requests one after another and have each answered."""

    server: _RawListener

    def handle(self) -> None:
        self.server.raw.connections.append(str(self.client_address))
        first = True
        with suppress(OSError):
            while (line := self.rfile.readline()) not in {b"", b"\r\n"}:
                head = line
                while (line := self.rfile.readline()) not in {b"", b"\r\n"}:
                    head += line
                if b"\r\nContent-Length: 2\r\n" in head:  # the one body that is ever sent: {}
                    self.rfile.read(2)
                method, target, _ = head.decode("latin-1").split(" ", 2)
                request = RawRequest(method=method, target=target, head=head.decode("latin-1"), first=first)
                self.server.raw.requests.append(request)
                self.server.answer(self.connection, request)
                first = False

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()


@pytest.fixture(scope="module")
def start_raw_server() -> Iterator[StartRawServer]:
    """Start servers that answer with any bytes; they end with the module."""
    listeners: list[_RawListener] = []

    def start(answer: RawAnswer) -> RawServer:
        listener = _RawListener(answer)
        listeners.append(listener)
        threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return listener.raw

    yield start
    for listener in listeners:
        listener.shutdown()
        listener.server_close()


@pytest.fixture
def mocked_http(monkeypatch: pytest.MonkeyPatch) -> Iterator[aioresponses]:
    """Give replies to aiohttp's client without a socket."""
    monkeypatch.setattr("aioresponses.core.ClientResponse", _MockedResponse)
    with aioresponses() as mocked:
        yield mocked
