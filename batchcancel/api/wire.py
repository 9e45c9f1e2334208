"""Requests and replies on the wire: bytes out, and the bytes of one reply in.

aiohttp's connector makes the connections and its parser reads the replies. Its session is left out: what
it adds (redirects, cookies, repeats, the environment) must not happen here, and doing without takes
three quarters off the time that aiohttp needs for a request.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final, NamedTuple

from aiohttp import (
    ClientError,
    ClientHttpProxyError,
    ClientOSError,
    ClientRequest,
    ServerDisconnectedError,
    StreamReader,
)
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from batchcancel.api.connections import Connections, Link
from batchcancel.api.deadlines import Deadlines
from batchcancel.errors import NotSentError, ReadOnlyError, ReplyLostError

MAX_BODY_BYTES: Final = 1 << 20
"""More than any reply about one invoice has."""
_SWITCHING_PROTOCOLS: Final = 101
"""The one 1xx after which nothing follows that could be read."""


class KeptConnectionDroppedError(ReplyLostError):
    """A connection that had been used before broke off before a reply's head had come.

    Either side may close an idle connection at any time, so the request may never have been read.
    """


class Answer(NamedTuple):
    """A reply whose head came whole."""

    status: int
    headers: Mapping[str, str]
    """Looked up without regard to case."""
    content: bytes | None
    """The body as received; None if it did not come whole, or was too long."""
    link: Link | None
    """The connection that it came over, for ``drop``; None if a proxy answered in the host's stead."""


class Wire:
    """The way to one host. Needs a running event loop.

    Args:
        base_url: Scheme, host and port.
        headers: What every request carries, besides what each is given.
        concurrency: Most connections at once; whoever sends more at once waits for one.
        timeout_s: A request in all, to the last byte of its reply, in seconds.
        connect_timeout_s: Getting a connection, in seconds.
        tls: How to verify the host.
        proxy: URL of an HTTP proxy; None connects directly.
        is_read_only: Whether nothing but a GET can leave.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str],
        concurrency: int,
        timeout_s: float,
        connect_timeout_s: float,
        tls: ssl.SSLContext,
        proxy: str | None,
        is_read_only: bool = False,
    ) -> None:
        url = URL(base_url)
        self._request = ClientRequest(
            "GET",
            url,
            headers=headers,
            proxy=None if proxy is None else URL(proxy),
            loop=asyncio.get_running_loop(),
        )
        self.host = self._request.headers["Host"]
        """The ``Host`` header that is sent."""
        # A proxy that forwards a plain request is told where to; the host itself knows.
        self._origin = "" if proxy is None or url.scheme == "https" else str(url.origin())
        self._constant_lines: str | None = None
        self._connections = Connections(
            self._request, limit=concurrency, timeout_s=min(connect_timeout_s, timeout_s), tls=tls
        )
        self._deadlines = Deadlines(timeout_s)
        self._is_read_only = is_read_only

    async def close(self) -> None:
        """Close every connection; requests that are still under way fail."""
        self._deadlines.close()
        await self._connections.close()

    async def send(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> Answer:
        """Send one request and return what came back. It leaves once at most.

        When the coroutine is cancelled the connection is dropped, and the request may have been acted on.

        Args:
            method: GET or POST.
            target: Path and query, percent-encoded.
            headers: Those of this request alone.
            body: The body; None without one.
            max_bytes: How long the reply's body may be.

        Raises:
            NotSentError: Provably no byte left.
            KeptConnectionDroppedError: See there.
            ReplyLostError: The request left, or may have, and no status came back.
            HostUntrustedError: The host's certificate is untrusted, expired or for another name.
            ValueError: A header holds a line's end.
            ReadOnlyError: It is no GET, and nothing else may leave.
        """
        if self._is_read_only and method != "GET":
            raise ReadOnlyError(f"a {method} was to leave from a client that only reads")
        # Whoever is ready in this turn of the event loop signs first; then all requests leave in a row. Each
        # on its own would wake a service that has just gone to sleep, which costs more than signing does.
        await asyncio.sleep(0)
        exchange = _Exchange(max_bytes)
        self._deadlines.start(exchange)
        try:
            link = await self._connections.take()
            try:
                data = self._head(method, target, headers, body) + (body or b"")
                return await exchange.run(link, data)
            except BaseException:
                link.close()
                raise
        except ClientHttpProxyError as exc:
            return Answer(exc.status, {}, None, None)
        finally:
            self._deadlines.end(exchange)

    def drop(self, answer: Answer) -> bool:
        """Close the connection of a reply that was for another request.

        Returns:
            Whether other requests had gone over it before, so that the reply may have been for them.
        """
        if answer.link is None:
            return False
        self._connections.drop(answer.link)
        return answer.link.was_used

    def trust_reuse(self) -> None:
        """Use connections again: what looked like a reply to another request was none."""
        self._connections.trust_reuse()

    def _head(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        if self._constant_lines is None:  # by now the connector has added what a proxy has to know
            self._constant_lines = _lines(self._request.headers)
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        return (
            f"{method} {self._origin}{target} HTTP/1.1\r\n{self._constant_lines}{length}{_lines(headers)}\r\n"
        ).encode()


class _Exchange:
    """One request on its connection, until the last byte of its reply."""

    __slots__ = ("_max_bytes", "_payload", "_protocol", "has_expired")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.has_expired = False
        self._protocol: ResponseHandler | None = None
        self._payload: StreamReader | None = None

    def expire(self) -> None:
        """End the wait for whatever is waited for."""
        self.has_expired = True
        for source in (self._protocol, self._payload):
            if source is not None:
                source.set_exception(TimeoutError())

    async def run(self, link: Link, data: bytes) -> Answer:
        """Send a request's bytes and read its reply; a whole one gives the connection back."""
        if self.has_expired:
            raise NotSentError("TimeoutError")
        self._protocol = protocol = link.protocol
        protocol.set_response_params(read_until_eof=True, auto_decompress=False)
        link.transport.write(data)
        try:
            status, headers, payload = await self._read_head(protocol)
        except (ClientError, HttpProcessingError, OSError) as exc:  # TimeoutError is an OSError
            is_dropped = link.was_used and isinstance(exc, (ClientOSError, ServerDisconnectedError))
            lost = KeptConnectionDroppedError if is_dropped else ReplyLostError
            raise lost(type(exc).__name__) from exc
        content = await self._read_body(payload)
        if content is None:
            link.close()
        else:
            link.connection.release()
        return Answer(status, headers, content, link)

    async def _read_head(self, protocol: ResponseHandler) -> tuple[int, Mapping[str, str], StreamReader]:
        while True:
            message, payload = await protocol.read()
            if message.code >= 200 or message.code < 100 or message.code == _SWITCHING_PROTOCOLS:
                break
        self._payload = payload
        if self.has_expired:  # just when the head had come
            raise TimeoutError
        return message.code, message.headers, payload

    async def _read_body(self, payload: StreamReader) -> bytes | None:
        """Return the whole body; None if it breaks off or is too long."""
        try:
            if payload.is_eof():  # nearly always it came together with its head
                whole = payload.read_nowait()
                return whole if len(whole) <= self._max_bytes else None
            content = bytearray()
            while chunk := await payload.readany():
                content += chunk
                if len(content) > self._max_bytes:
                    return None
        except (ClientError, OSError):
            return None
        return bytes(content)


def _lines(headers: Mapping[str, str]) -> str:
    """Write headers, a line each."""
    lines = ""
    for name, value in headers.items():
        if "\r" in value or "\n" in value:
            raise ValueError(f"{name} holds a line's end")
        lines += f"{name}: {value}\r\n"
    return lines
