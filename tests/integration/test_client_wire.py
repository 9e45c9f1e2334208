"""The client against servers that keep no rules, byte by byte over real sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from aiohttp import StreamReader

from batchcancel.api.client import Client
from batchcancel.api.clock import ServiceClock
from batchcancel.api.signing import Identity, JwtSigner, SharedSecret
from batchcancel.api.wire import _Exchange
from batchcancel.errors import NotSentError, ReplyLostError
from batchcancel.model import Invoice, RequestKind

if TYPE_CHECKING:
    from tests.conftest import RawRequest, StartRawServer

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _serve(handler: Handler) -> AsyncIterator[str]:
    """Serve raw connections on loopback and yield the base URL; each is closed when its handler ends."""
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


def _client(base_url: str, **options: Any) -> Client:
    return Client(
        base_url=base_url,
        signer=JwtSigner(Identity(merchant_id="m"), key=lambda: SharedSecret(key_id="k", secret=b"s" * 32)),
        clock=ServiceClock(lambda: 0.0),
        concurrency=2,
        on_event=lambda _: None,
        **options,
    )


async def _request(reader: asyncio.StreamReader) -> tuple[str, dict[str, Any]]:
    """Read one request; return its method and its token's claims."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    method = head.split(" ", 1)[0]
    if method == "POST":
        await reader.readexactly(2)
    payload = head.partition("Authorization: Bearer ")[2].split(".")[1]
    return method, json.loads(base64.urlsafe_b64decode(payload + "=="))


def _reply(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_look_up_that_is_repeated_carries_a_fresh_token() -> None:
    """A keep-alive connection is closed under the second look-up; its repeat has another jti."""
    requests: list[tuple[str, dict[str, Any]]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            requests.append(await _request(reader))
            if len(requests) == 2:
                return
            writer.write(_reply(b'{"status":"PAID"}'))

    turns: list[int] = []

    async def take_turn() -> None:
        turns.append(len(requests))

    async with _serve(handler) as base_url, _client(base_url) as client:
        replies = [await client.send(RequestKind.LOOK_UP, "1", before_repeat=take_turn) for _ in range(2)]
    assert [reply.invoice.status for reply in replies] == ["PAID", "PAID"]
    assert [method for method, _ in requests] == ["GET"] * 3
    # The repeat alone waits for a turn of its own: the rate's limit counts what is on the wire.
    assert turns == [2]
    assert len({claims["jti"] for _, claims in requests}) == 3


async def test_look_up_is_repeated_once_and_only_where_a_kept_connection_was_dropped() -> None:
    """A connection that breaks off under its first request is an answer of a kind: the verdict decides."""
    methods: list[str] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        methods.append((await _request(reader))[0])
        if len(methods) == 2:
            writer.write(_reply(b"{}"))
            methods.append((await _request(reader))[0])

    async with _serve(handler) as base_url, _client(base_url) as client:
        with pytest.raises(ReplyLostError, match="ServerDisconnectedError"):
            await client.send(RequestKind.LOOK_UP, "1")
        assert methods == ["GET"]
        await client.send(RequestKind.LOOK_UP, "1")
        assert methods == ["GET"] * 2
        with pytest.raises(ReplyLostError, match="ServerDisconnectedError"):
            await client.send(RequestKind.LOOK_UP, "1")
        assert methods == ["GET"] * 4


async def test_cancelation_is_never_repeated() -> None:
    """The same dropped connection under a POST is a lost reply: only the verdict may ask again."""
    methods: list[str] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            method, _ = await _request(reader)
            methods.append(method)
            if method == "POST":
                return
            writer.write(_reply(b"{}"))

    async with _serve(handler) as base_url, _client(base_url) as client:
        await client.send(RequestKind.LOOK_UP, "1")
        with pytest.raises(ReplyLostError, match="ServerDisconnectedError"):
            await client.send(RequestKind.CANCEL, "1")
        await client.send(RequestKind.LOOK_UP, "1")
    assert methods == ["GET", "POST", "GET"]


@pytest.mark.parametrize("is_late", [False, True], ids=["with the reply", "while idle"])
async def test_reply_that_nobody_asked_for_answers_no_request(*, is_late: bool) -> None:
    """A stray reply would be another invoice's answer; its connection is closed instead."""
    replied = asyncio.Event()
    go_on = asyncio.Event()
    connections: list[asyncio.StreamWriter] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await _request(reader)
        if len(connections) > 1:
            writer.write(_reply(b'{"status":"SENT"}'))
            await reader.read()
            return
        writer.write(_reply(b'{"status":"CREATED"}'))
        if is_late:
            await go_on.wait()
        writer.write(_reply(b'{"status":"PAID"}'))
        await writer.drain()
        replied.set()
        await reader.read()

    async with _serve(handler) as base_url, _client(base_url) as client:
        assert (await client.send(RequestKind.LOOK_UP, "1")).invoice == Invoice(status="CREATED")
        go_on.set()
        await replied.wait()
        for _ in range(20):  # let the stray bytes arrive: same loop, loopback
            await asyncio.sleep(0)
        assert (await client.send(RequestKind.LOOK_UP, "2")).invoice == Invoice(status="SENT")
    assert len(connections) == 2


def _answer_with_a_stray_reply(
    connection: socket.socket, request: RawRequest, stray_sent: threading.Event
) -> None:
    """Send a first reply, and a stray one that names no invoice right behind it."""
    if not request.first or stray_sent.is_set():
        connection.sendall(_reply(b'{"status":"SENT"}'))
        return
    connection.sendall(_reply(b'{"status":"CREATED"}'))
    time.sleep(0.1)
    connection.sendall(_reply(b'{"status":"PAID"}'))
    stray_sent.set()


@pytest.mark.parametrize("kind", [RequestKind.LOOK_UP, RequestKind.CANCEL])
async def test_reply_that_waits_unread_in_the_system_answers_no_request(
    start_raw_server: StartRawServer, kind: RequestKind
) -> None:
    """The event loop was busy when a stray reply came: it is there, though nobody has seen it."""
    stray_sent = threading.Event()
    server = start_raw_server(
        lambda connection, request: _answer_with_a_stray_reply(connection, request, stray_sent)
    )
    async with _client(server.base_url) as client:
        first = await client.send(RequestKind.LOOK_UP, "1")
        assert stray_sent.wait(10)  # the loop stands still meanwhile
        second = await client.send(kind, "2")
    assert (first.invoice.status, second.invoice.status) == ("CREATED", "SENT")
    assert len(server.connections) == 2


async def test_look_up_answered_for_another_invoice_is_repeated_on_an_unused_connection() -> None:
    """A late reply to an earlier request is not taken, and no connection is used twice from then on."""
    connections: list[list[str]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append([])
        mine = connections[-1]
        while True:
            _, claims = await _request(reader)
            asked = claims["request-resource-path"].rpartition("/")[2]
            mine.append(asked)
            late = len(connections) == 1 and len(mine) == 2
            said = {"id": mine[0], "status": "PAID"} if late else {"id": asked, "status": "SENT"}
            writer.write(_reply(json.dumps(said).encode()))

    async with _serve(handler) as base_url, _client(base_url) as client:
        replies = [await client.send(RequestKind.LOOK_UP, number) for number in "1234"]
    assert [(reply.invoice.id, reply.invoice.status) for reply in replies] == [(n, "SENT") for n in "1234"]
    assert connections == [["1", "2"], ["2"], ["3"], ["4"]]


async def test_look_up_answered_for_another_invoice_at_first_hand_stands() -> None:
    """Nothing else was asked on that connection, so the service itself names the invoice so."""
    asked: list[str] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            method, _ = await _request(reader)
            asked.append(method)
            writer.write(_reply(b'{"id":"other","status":"PAID"}'))

    async with _serve(handler) as base_url, _client(base_url) as client:
        reply = await client.send(RequestKind.LOOK_UP, "1")
    assert (reply.invoice.status, asked) == ("PAID", ["GET"])


async def test_a_service_with_names_of_its_own_is_asked_once() -> None:
    """A look-up on an unused connection names another id too: nothing is out of step, all is as before."""
    connections: list[list[str]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append([])
        mine = connections[-1]
        while True:
            method, claims = await _request(reader)
            asked = claims["request-resource-path"].split("/")[4]
            mine.append(f"{method} {asked}")
            writer.write(_reply(json.dumps({"id": f"own-{asked}", "status": "SENT"}).encode()))

    kinds = [RequestKind.CANCEL, RequestKind.CANCEL, *[RequestKind.LOOK_UP] * 3, RequestKind.CANCEL]
    async with _serve(handler) as base_url, _client(base_url) as client:
        replies = [await client.send(kind, str(number)) for number, kind in enumerate(kinds, start=1)]
    assert [reply.invoice.id for reply in replies] == [f"own-{number}" for number in range(1, 7)]
    assert connections == [["POST 1"], ["POST 2"], ["GET 3"], ["GET 4", "GET 5", "POST 6"]]


async def test_cancelation_answered_for_another_invoice_is_not_repeated() -> None:
    """It may have been acted on: its connection is closed, and the verdict looks up."""
    connections: list[list[str]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append([])
        mine = connections[-1]
        while True:
            method, _ = await _request(reader)
            mine.append(method)
            writer.write(_reply(b'{"id":"1","status":"CANCELED"}'))

    async with _serve(handler) as base_url, _client(base_url) as client:
        for invoice_id in ("1", "2", "1"):
            reply = await client.send(RequestKind.CANCEL, invoice_id)
            assert reply.invoice.id == "1"
    assert connections == [["POST", "POST"], ["POST"]]


@pytest.mark.parametrize("kind", [RequestKind.CANCEL, RequestKind.LOOK_UP])
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 20", id="half a status line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="half the headers"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\n", id="impossible length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", id="two lengths"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", id="endless header"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 10_000 + b"\r\n", id="too many headers"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, id="interim replies only"),
        # aiohttp's parser gives up on the head too if both came together.
        pytest.param(b"HTTP/1.1 409 Conflict\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="broken chunk"),
    ],
)
async def test_reply_without_a_whole_head_is_lost(kind: RequestKind, reply: bytes) -> None:
    """Never a status that was made up: aiohttp calls an unparsable reply 400."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _request(reader)
        writer.write(reply)
        await writer.drain()

    async with _serve(handler) as base_url, _client(base_url) as client:
        with pytest.raises(ReplyLostError):
            await client.send(kind, "1")


async def test_reset_connection_is_a_lost_reply() -> None:
    """The request arrived, so nobody can say what became of it."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _request(reader)
        _reset(writer)

    async with _serve(handler) as base_url, _client(base_url) as client:
        with pytest.raises(ReplyLostError, match="ClientOSError"):
            await client.send(RequestKind.CANCEL, "1")


_ENDLESS = {
    "header drip": (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "interim replies": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize(("start", "more"), _ENDLESS.values(), ids=_ENDLESS.keys())
async def test_head_that_never_ends_is_ended_by_the_time_out(start: bytes, more: bytes) -> None:
    """Progress does not prolong the total time-out."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _request(reader)
        writer.write(start)
        while True:
            writer.write(more)
            await writer.drain()
            await asyncio.sleep(0.01)

    async with _serve(handler) as base_url, _client(base_url, timeout_s=0.2) as client:
        with pytest.raises(ReplyLostError, match="TimeoutError"):
            await client.send(RequestKind.CANCEL, "1")


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b'HTTP/1.1 409 Conflict\r\nContent-Length: 99\r\n\r\n{"status":"PAID"}', id="short"),
        pytest.param(
            b'HTTP/1.1 409 Conflict\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n{"status":"PAID"}\r\n',
            id="chunks without an end",
        ),
    ],
)
@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
async def test_body_that_breaks_off_leaves_the_status(*, reply: bytes, is_reset: bool) -> None:
    """The status is known and what came of the body is not read, not even if it looks whole."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _request(reader)
        writer.write(reply)
        await writer.drain()
        if is_reset:
            for _ in range(20):  # a reset discards what the client has not read yet
                await asyncio.sleep(0)
            _reset(writer)

    async with _serve(handler) as base_url, _client(base_url) as client:
        reply_read = await client.send(RequestKind.CANCEL, "1")
    assert (reply_read.http_status, reply_read.is_object, reply_read.invoice) == (409, False, Invoice())


async def test_body_that_can_not_be_parsed_leaves_the_status() -> None:
    """A broken chunk after a head that was understood spoils the body only."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _request(reader)
        writer.write(b"HTTP/1.1 409 Conflict\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):  # let the client read the head first
            await asyncio.sleep(0)
        writer.write(b'11\r\n{"status":"PAID"}\r\nzz\r\n')
        await reader.read()

    async with _serve(handler) as base_url, _client(base_url, timeout_s=0.3) as client:
        reply = await client.send(RequestKind.CANCEL, "1")
    assert (reply.http_status, reply.is_object, reply.invoice) == (409, False, Invoice())


async def test_body_that_drips_is_ended_by_the_time_out_and_its_connection_is_dropped() -> None:
    """The status stays, and the next request takes another connection."""
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await _request(reader)
        if connections > 1:
            writer.write(_reply(b"{}"))
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with _serve(handler) as base_url, _client(base_url, timeout_s=0.2) as client:
        replies = [await client.send(RequestKind.CANCEL, "1") for _ in range(2)]
    assert [(reply.http_status, reply.is_object) for reply in replies] == [(200, False), (200, True)]
    assert connections == 2


async def test_interim_reply_is_skipped() -> None:
    """A 1xx announces the reply; it is none."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _request(reader)
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" + _reply(b'{"status":"PAID"}'))

    async with _serve(handler) as base_url, _client(base_url) as client:
        assert (await client.send(RequestKind.LOOK_UP, "1")).invoice == Invoice(status="PAID")


class _CarelessSigner:
    """Writes what a line of a head can't hold."""

    is_slow = False

    def __init__(self, end: str) -> None:
        self._end = end

    def headers(self, **_: Any) -> dict[str, str]:
        return {"v-c-merchant-id": f"m{self._end}Host: elsewhere"}


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"], ids=ascii)
async def test_header_that_holds_a_lines_end_never_leaves(end: str) -> None:
    """It would be two headers, or a second request; nothing of it is sent."""
    received: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        received.append(await reader.read())

    async with _serve(handler) as base_url, _client(base_url) as client:
        with pytest.raises(ValueError, match="v-c-merchant-id holds a line's end"):
            await client.send(RequestKind.CANCEL, "1", signer=_CarelessSigner(end))
    assert received in ([], [b""])


async def test_time_that_is_up_just_when_the_head_comes_is_a_lost_reply() -> None:
    """The body would otherwise be waited for without an end: the deadline has passed by then."""
    exchange = _Exchange(1)

    class _LateProtocol:
        def set_response_params(self, **_: Any) -> None:
            """Take note of nothing."""

        def set_exception(self, _: BaseException) -> None:
            """Come too late: the head is there."""

        async def read(self) -> tuple[Any, Any]:
            exchange.expire()
            return Mock(code=200), Mock(spec=StreamReader)

    link: Any = Mock(protocol=_LateProtocol(), was_used=False)
    with pytest.raises(ReplyLostError, match="TimeoutError"):
        await exchange.run(link, b"")


async def test_time_that_is_up_before_a_connection_is_there_leaves_nothing() -> None:
    """Not a byte is written any more."""
    exchange = _Exchange(1)
    exchange.expire()
    link: Any = Mock()
    with pytest.raises(NotSentError, match="TimeoutError"):
        await exchange.run(link, b"")
    assert not link.transport.write.called


async def test_upgraded_connection_is_not_used_again() -> None:
    """A 101 is no answer, and what follows it is not HTTP."""
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await _request(reader)
        upgrade = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
        writer.write(upgrade if connections == 1 else _reply(b"{}"))
        await reader.read()

    async with _serve(handler) as base_url, _client(base_url, timeout_s=1) as client:
        replies = [await client.send(RequestKind.CANCEL, "1") for _ in range(2)]
    assert [(reply.http_status, reply.is_object) for reply in replies] == [(101, False), (200, True)]
    assert connections == 2
