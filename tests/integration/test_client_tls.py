"""The client over TLS and through proxies, on loopback."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from batchcancel.api.client import Client
from batchcancel.api.clock import ServiceClock
from batchcancel.api.signing import HttpSignatureSigner, Identity, SharedSecret
from batchcancel.errors import HostUntrustedError, NotSentError
from batchcancel.model import Event, Reply, RequestFinished, RequestKind

if TYPE_CHECKING:
    from tests.conftest import Authority


class _Service:
    """Counts what arrives."""

    def __init__(self) -> None:
        self.requests: list[str] = []

    @asynccontextmanager
    async def serve(self, tls: ssl.SSLContext | None) -> AsyncIterator[str]:
        """Serve on loopback and yield the base URL, which names ``localhost``."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
            yield f"http{'s' if tls else ''}://localhost:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests.append(f"{request.method} {request.headers['Host']}")
        return web.json_response({})


class _Proxy:
    """Tunnels CONNECT and answers plain requests; with ``answer`` it says that to everything."""

    def __init__(self, answer: bytes | None = None) -> None:
        self.answer = answer
        self.heads: list[str] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        if self.answer is not None:
            writer.write(self.answer)
            await writer.drain()
        elif head.startswith("CONNECT "):
            await self._tunnel(head, reader, writer)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            await reader.read()

    async def _tunnel(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = head.split(" ")[1].partition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            far_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def _listen(handler: Callable[..., Any]) -> AsyncIterator[str]:
    """Serve raw connections on loopback and yield the plain URL."""
    tasks = set()

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            try:
                await handler(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(guarded(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _client(base_url: str, events: list[Event] | None = None, **options: Any) -> Client:
    told: list[Event] = [] if events is None else events
    return Client(
        base_url=base_url,
        signer=HttpSignatureSigner(
            Identity(merchant_id="m"), key=lambda: SharedSecret(key_id="k", secret=b"s" * 32)
        ),
        clock=ServiceClock(lambda: 0.0),
        concurrency=2,
        on_event=told.append,
        **options,
    )


async def test_private_root_is_trusted_through_the_ca_file(authority: Authority) -> None:
    """With the file the request passes, over TLS."""
    service = _Service()
    async with (
        service.serve(authority.server_context()) as base_url,
        _client(base_url, ca_file=authority.ca_file) as client,
    ):
        assert (await client.send(RequestKind.CANCEL, "1")).http_status == 200
    assert service.requests == [f"POST {base_url.removeprefix('https://')}"]


@pytest.mark.parametrize(
    ("certificate", "is_root_known", "why"),
    [
        pytest.param({}, False, "unable to get local issuer certificate", id="untrusted"),
        pytest.param({"name": "other.example"}, True, "Hostname mismatch", id="for another name"),
        pytest.param({"days": -1}, True, "certificate has expired", id="expired"),
    ],
)
@pytest.mark.parametrize("is_proxied", [False, True], ids=["direct", "tunnelled"])
async def test_untrusted_host_stops_before_a_byte_left(
    *, authority: Authority, certificate: dict[str, Any], is_root_known: bool, why: str, is_proxied: bool
) -> None:
    """The sentence names the host, the reason and what to look at."""
    service = _Service()
    events: list[Event] = []
    async with AsyncExitStack() as stack:
        base_url = await stack.enter_async_context(service.serve(authority.server_context(**certificate)))
        proxy = await stack.enter_async_context(_listen(_Proxy().handle)) if is_proxied else None
        ca_file = authority.ca_file if is_root_known else None
        client = await stack.enter_async_context(_client(base_url, events, ca_file=ca_file, proxy=proxy))
        with pytest.raises(HostUntrustedError) as caught:
            await client.send(RequestKind.CANCEL, "1")
    sentence = str(caught.value)
    assert sentence.startswith(f"The TLS certificate of localhost is not trusted: {why}")
    assert "CA_FILE" in sentence
    assert service.requests == []
    [event] = events
    assert isinstance(event, RequestFinished)
    assert event.failure == "ClientConnectorCertificateError"


async def test_old_tls_is_refused(authority: Authority) -> None:
    """A host that speaks TLS 1.1 at most gets nothing."""
    context = authority.server_context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    service = _Service()
    async with (
        service.serve(context) as base_url,
        _client(base_url, ca_file=authority.ca_file) as client,
    ):
        with pytest.raises(NotSentError):
            await client.send(RequestKind.CANCEL, "1")
    assert service.requests == []


async def _read_and_close(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def _speak_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def _say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.parametrize("handler", [_read_and_close, _speak_plainly, _say_nothing])
async def test_failed_tls_handshake_is_not_sent(handler: Callable[..., Any]) -> None:
    """The signed request waits behind the handshake, so nothing of it left."""
    async with (
        _listen(handler) as base_url,
        _client(base_url.replace("http:", "https:"), connect_timeout_s=0.2) as client,
    ):
        with pytest.raises(NotSentError):
            await client.send(RequestKind.CANCEL, "1")


async def test_https_is_tunnelled_through_the_proxy(authority: Authority) -> None:
    """The proxy learns host and port and nothing else."""
    service = _Service()
    proxy = _Proxy()
    async with (
        service.serve(authority.server_context()) as base_url,
        _listen(proxy.handle) as proxy_url,
        _client(base_url, ca_file=authority.ca_file, proxy=proxy_url) as client,
    ):
        for _ in range(3):
            assert (await client.send(RequestKind.CANCEL, "1")).http_status == 200
    [head] = proxy.heads
    assert head.startswith(f"CONNECT {base_url.removeprefix('https://')} ")
    assert "ignature" not in head
    assert len(service.requests) == 3


async def test_plain_request_is_forwarded_by_the_proxy() -> None:
    """Plain http is for loopback only; the signature covers path and host all the same."""
    proxy = _Proxy()
    async with (
        _listen(proxy.handle) as proxy_url,
        _client("http://localhost:9", proxy=proxy_url.replace("//", "//user:word@")) as client,
    ):
        assert (await client.send(RequestKind.LOOK_UP, "1")).is_object
    [head] = proxy.heads
    assert head.startswith("GET http://localhost:9/invoicing/v2/invoices/1 ")
    assert "Proxy-Authorization: Basic dXNlcjp3b3Jk\r\n" in head


async def test_proxy_that_wants_credentials_is_a_407() -> None:
    """The verdict has a rule for 407; nothing reached the service."""
    proxy = _Proxy(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    async with (
        _listen(proxy.handle) as proxy_url,
        _client("https://localhost:9", proxy=proxy_url) as client,
    ):
        reply = await client.send(RequestKind.CANCEL, "1")
    assert reply == Reply(http_status=407, latency_ms=reply.latency_ms)
    assert reply.latency_ms > 0


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", id="403"),
        pytest.param(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", id="401"),
        pytest.param(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", id="502"),
        pytest.param(b"", id="closed"),
        pytest.param(b"220 mail.example ESMTP\r\n\r\n", id="another protocol"),
    ],
)
@pytest.mark.parametrize("kind", [RequestKind.CANCEL, RequestKind.LOOK_UP])
async def test_proxy_that_opens_no_tunnel_sends_nothing(kind: RequestKind, answer: bytes) -> None:
    """A proxy's own status is never taken for the service's."""
    async with (
        _listen(_Proxy(answer).handle) as proxy_url,
        _client("https://localhost:9", proxy=proxy_url) as client,
    ):
        with pytest.raises(NotSentError):
            await client.send(kind, "1")


async def test_silent_proxy_ends_by_the_connect_time_out() -> None:
    """Waiting for the tunnel belongs to connecting."""
    async with (
        _listen(_say_nothing) as proxy_url,
        _client("https://localhost:9", proxy=proxy_url, connect_timeout_s=0.2) as client,
    ):
        with pytest.raises(NotSentError, match="TimeoutError"):
            await client.send(RequestKind.CANCEL, "1")


async def test_total_time_out_while_connecting_is_not_sent() -> None:
    """The time for all ends the wait for a connection too, and then nothing has left."""
    async with (
        _listen(_say_nothing) as proxy_url,
        _client("https://localhost:9", proxy=proxy_url, timeout_s=0.2) as client,
    ):
        with pytest.raises(NotSentError, match="TimeoutError"):
            await client.send(RequestKind.CANCEL, "1")


async def test_proxy_that_is_not_there_sends_nothing() -> None:
    """Nobody listens on the proxy's port."""
    async with _listen(_say_nothing) as proxy_url:
        pass
    async with _client("https://localhost:9", proxy=proxy_url) as client:
        with pytest.raises(NotSentError, match="ClientProxyConnectionError"):
            await client.send(RequestKind.CANCEL, "1")
