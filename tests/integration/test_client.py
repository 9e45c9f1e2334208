"""The client against mocked replies and a real server on loopback."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aioresponses import aioresponses

from batchcancel.api.client import Client
from batchcancel.api.clock import ServiceClock
from batchcancel.errors import NotSentError, ReadOnlyError, ReplyLostError, SettingsError
from batchcancel.model import (
    ClockSet,
    Event,
    Invoice,
    Listing,
    NewInvoice,
    Page,
    RequestFinished,
    RequestKind,
    Subject,
)

_MACHINE_NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT
_DATE = "Sun, 06 Nov 1994 08:59:37 GMT"  # ten minutes later
_DRAFT = NewInvoice(number="A1", amount="1.00", currency="USD", due_date="2030-01-31", description="A check")
_SUBJECTS: dict[RequestKind, Subject] = {
    RequestKind.CANCEL: "2675",
    RequestKind.LOOK_UP: "2675",
    RequestKind.PROBE: None,
    RequestKind.LIST: Page(offset=2000, limit=1000, status="SENT"),
    RequestKind.CREATE: _DRAFT,
}
_HOST = "https://apitest.visaacceptance.com"


class _RecordingSigner:
    """Keeps what it was asked to sign."""

    is_slow = False

    def __init__(self) -> None:
        self.signed: list[dict[str, Any]] = []

    def headers(self, **request: Any) -> dict[str, str]:
        self.signed.append(request)
        return {"Authorization": f"Bearer token-{len(self.signed)}"}


class _Run:
    """A client's parts, at hand for assertions."""

    def __init__(self) -> None:
        self.signer = _RecordingSigner()
        self.clock = ServiceClock(lambda: _MACHINE_NOW)
        self.events: list[Event] = []

    def client(self, base_url: str, **options: Any) -> Client:
        return Client(
            base_url=base_url,
            signer=self.signer,
            clock=self.clock,
            on_event=self.events.append,
            **({"concurrency": 4} | options),
        )


@pytest.fixture
def run() -> _Run:
    """Give a fresh signer, clock and event list."""
    return _Run()


@asynccontextmanager
async def _serve(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Serve on loopback and yield the base URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _answer(_: web.Request) -> web.Response:
    return web.json_response({})


@pytest.mark.parametrize(
    ("kind", "method", "target"),
    [
        (RequestKind.CANCEL, "POST", "/invoicing/v2/invoices/2675/cancelation"),
        (RequestKind.LOOK_UP, "GET", "/invoicing/v2/invoices/2675"),
        (RequestKind.PROBE, "GET", "/invoicing/v2/invoices?offset=0&limit=1"),
        (RequestKind.LIST, "GET", "/invoicing/v2/invoices?offset=2000&limit=1000&status=SENT"),
        (RequestKind.CREATE, "POST", "/invoicing/v2/invoices"),
    ],
    ids=["cancel", "look-up", "probe", "list", "create"],
)
@pytest.mark.parametrize("http_status", [200, 302, 400, 404, 429, 500, 502])
async def test_reply_of_any_status_comes_back(
    *, run: _Run, kind: RequestKind, method: str, target: str, http_status: int
) -> None:
    """No status is an exception; the verdict decides."""
    asked = []

    async def handler(request: web.Request) -> web.Response:
        asked.append((request.method, request.raw_path))
        return web.json_response({"status": "X"}, status=http_status)

    async with _serve(handler) as base_url, run.client(base_url) as client:
        reply = await client.send(kind, _SUBJECTS[kind])
    assert reply.http_status == http_status
    assert reply.is_object
    assert reply.invoice == Invoice(status="X")
    assert asked == [(method, target)]


@pytest.mark.parametrize("kind", RequestKind)
async def test_no_session_has_a_say(run: _Run, mocked_http: aioresponses, kind: RequestKind) -> None:
    """Where every session of aiohttp refuses to send, requests leave: no cookies, redirects or repeats."""
    async with _serve(_answer) as base_url, run.client(base_url) as client:
        assert (await client.send(kind, _SUBJECTS[kind])).is_object
    assert not mocked_http.requests


@pytest.mark.parametrize("kind", RequestKind)
async def test_client_that_only_reads_sends_nothing_else(run: _Run, kind: RequestKind) -> None:
    """Whoever asks it to cancel or to create meets an error, and not one byte has left."""
    asked = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.method)
        return web.json_response({})

    async with _serve(handler) as base_url, run.client(base_url, is_read_only=True) as client:
        if kind in {RequestKind.CANCEL, RequestKind.CREATE}:
            with pytest.raises(ReadOnlyError):
                await client.send(kind, _SUBJECTS[kind])
        else:
            await client.send(kind, _SUBJECTS[kind])
    assert asked == (["GET"] if kind.is_read else [])


@pytest.mark.parametrize("kind", [kind for kind in RequestKind if kind is not RequestKind.PROBE])
async def test_request_about_nothing_is_a_defect(run: _Run, kind: RequestKind) -> None:
    """A request without its subject never leaves."""
    async with run.client("http://127.0.0.1:9") as client:
        with pytest.raises(ValueError, match=kind):
            await client.send(kind, None)


async def test_page_of_the_list_is_read(run: _Run) -> None:
    """Ids, states, amounts and dates; an item that is none of an invoice spoils no other."""
    item = {
        "id": "98772",
        "status": "DRAFT",
        "createdDate": "2019-07-03T19:22:26Z",
        "customerInformation": {"name": "Tanya Lee"},
        "invoiceInformation": {"dueDate": "2019-07-11"},
        "orderInformation": {"amountDetails": {"totalAmount": "14249.50", "currency": "USD"}},
    }

    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"totalInvoices": 123, "invoices": [item, 7, {"id": [1]}]})

    async with _serve(handler) as base_url, run.client(base_url) as client:
        reply = await client.send(RequestKind.LIST, Page(offset=0, limit=3))
    draft = Invoice(
        id="98772",
        status="DRAFT",
        amount="14249.50",
        currency="USD",
        due_date="2019-07-11",
        created_at=1562181746.0,
    )
    assert reply.listing == Listing(total=123, invoices=(draft, Invoice(), Invoice()))


async def test_page_may_be_longer_than_any_other_reply(run: _Run) -> None:
    """A thousand invoices with long customers are more than a mebibyte."""
    body = json.dumps({"totalInvoices": 1, "invoices": [{"id": "1", "note": "x" * (3 << 20)}]})

    async def handler(_: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    async with _serve(handler) as base_url, run.client(base_url) as client:
        page = await client.send(RequestKind.LIST, Page(offset=0, limit=1))
        invoice = await client.send(RequestKind.LOOK_UP, "1")
    assert page.listing == Listing(total=1, invoices=(Invoice(id="1"),))
    assert not invoice.is_object


async def test_draft_is_created_for_nobody(run: _Run) -> None:
    """The live check's invoice names no customer and is sent to no one."""
    bodies = []

    async def handler(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return web.json_response({}, status=201)

    async with _serve(handler) as base_url, run.client(base_url) as client:
        await client.send(RequestKind.CREATE, _DRAFT)
    assert bodies == [
        {
            "invoiceInformation": {
                "invoiceNumber": "A1",
                "description": "A check",
                "dueDate": "2030-01-31",
                "sendImmediately": False,
                "deliveryMode": "none",
            },
            "orderInformation": {"amountDetails": {"totalAmount": "1.00", "currency": "USD"}},
        }
    ]


async def test_request_is_sent_as_it_is_signed(run: _Run) -> None:
    """Method, target, host and body are what the server receives, with the documented headers."""
    seen: list[tuple[str, str, str, bytes]] = []
    headers: list[dict[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.method, request.raw_path, request.headers["Host"], await request.read()))
        headers.append(dict(request.headers))
        return web.json_response({})

    async with _serve(handler) as base_url, run.client(f"{base_url}/") as client:
        await client.send(RequestKind.CANCEL, "A.1_b-2")
        await client.send(RequestKind.LOOK_UP, "A.1_b-2")
        await client.send(RequestKind.PROBE)
    host = base_url.removeprefix("http://")
    assert seen == [
        ("POST", "/invoicing/v2/invoices/A.1_b-2/cancelation", host, b"{}"),
        ("GET", "/invoicing/v2/invoices/A.1_b-2", host, b""),
        ("GET", "/invoicing/v2/invoices?offset=0&limit=1", host, b""),
    ]
    assert [
        (signed["method"], signed["target"], signed["host"], signed["body"] or b"")
        for signed in run.signer.signed
    ] == seen
    assert [signed["body"] for signed in run.signer.signed] == [b"{}", None, None]
    for number, sent in enumerate(headers, start=1):
        assert sent["Authorization"] == f"Bearer token-{number}"
        assert sent["Accept"] == "application/json"
        assert sent["Accept-Encoding"] == "identity"
        assert sent["Content-Type"] == "application/json;charset=utf-8"
        assert sent["User-Agent"].startswith("batchcancel/")
        assert "Cookie" not in sent
    assert headers[0]["Content-Length"] == "2"


@pytest.mark.parametrize(
    ("invoice_id", "segment"),
    [
        pytest.param("a b", "a%20b", id="space"),
        pytest.param("../x", "..%2Fx", id="path"),
        pytest.param("a%2Fb", "a%252Fb", id="already encoded"),
        pytest.param("a+b", "a%2Bb", id="plus"),
        pytest.param("a:b@c", "a%3Ab%40c", id="delimiters"),
        pytest.param("a?b#c", "a%3Fb%23c", id="query and fragment"),
        pytest.param("\u00fc", "%C3%BC", id="not ASCII"),
    ],
)
async def test_id_is_encoded_exactly_once_as_one_segment(run: _Run, invoice_id: str, segment: str) -> None:
    """No id reaches another endpoint, and the signature covers the encoded form."""
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.raw_path)
        return web.json_response({})

    async with _serve(handler) as base_url, run.client(base_url) as client:
        await client.send(RequestKind.LOOK_UP, invoice_id)
    assert seen == [f"/invoicing/v2/invoices/{segment}"] == [run.signer.signed[0]["target"]]


@pytest.mark.parametrize("kind", [RequestKind.CANCEL, RequestKind.LOOK_UP])
@pytest.mark.parametrize("invoice_id", [None, "", ".", ".."], ids=["none", "empty", "here", "up"])
async def test_request_without_its_id_is_refused(
    run: _Run, kind: RequestKind, invoice_id: str | None
) -> None:
    """An empty segment or a dot would address something else."""
    async with run.client("http://127.0.0.1:9") as client:
        with pytest.raises(ValueError, match="needs an invoice id"):
            await client.send(kind, invoice_id)
    assert not run.signer.signed


async def test_request_is_signed_by_the_services_clock(run: _Run) -> None:
    """This machine's clock may be off; the token is dated as the service counts."""
    run.clock.note(_MACHINE_NOW + 600)
    async with _serve(_answer) as base_url, run.client(base_url) as client:
        await client.send(RequestKind.LOOK_UP, "1")
    assert run.signer.signed[0]["now"] == _MACHINE_NOW + 600


async def test_finished_request_is_told(run: _Run) -> None:
    """The event carries kind, id, status and correlation id, the reply its latency."""

    async def handler(_: web.Request) -> web.Response:
        return web.json_response({}, status=404, headers={"v-c-correlation-id": "c-1"})

    async with _serve(handler) as base_url, run.client(base_url) as client:
        reply = await client.send(RequestKind.LOOK_UP, "2675")
    [event] = run.events
    assert isinstance(event, RequestFinished)
    assert (event.kind, event.invoice_id, event.http_status, event.failure, event.correlation_id) == (
        RequestKind.LOOK_UP,
        "2675",
        404,
        None,
        "c-1",
    )
    assert 0 < reply.latency_ms <= event.latency_ms


async def test_failed_request_is_told_with_the_failures_name(run: _Run) -> None:
    """Nobody listens on that port: nothing left, and the event says what happened."""
    async with _serve(_answer) as base_url:
        pass
    async with run.client(base_url) as client:
        with pytest.raises(NotSentError, match="ClientConnectorError"):
            await client.send(RequestKind.CANCEL, "2675")
    [event] = run.events
    assert isinstance(event, RequestFinished)
    assert (event.http_status, event.failure) == (None, "ClientConnectorError")


async def test_host_without_an_address_gets_nothing(run: _Run) -> None:
    """A name that does not resolve is provably before a byte left."""
    async with run.client("http://no-such-host.invalid") as client:
        with pytest.raises(NotSentError, match="ClientConnectorDNSError"):
            await client.send(RequestKind.CANCEL, "2675")


@pytest.mark.parametrize(
    ("kind", "http_status", "is_set"),
    [
        (RequestKind.PROBE, 200, True),
        (RequestKind.PROBE, 404, True),
        (RequestKind.CANCEL, 401, True),
        (RequestKind.LOOK_UP, 401, True),
        (RequestKind.CANCEL, 200, False),
        (RequestKind.LOOK_UP, 403, False),
    ],
)
async def test_probe_and_401_set_the_clock(
    *, run: _Run, kind: RequestKind, http_status: int, is_set: bool
) -> None:
    """Only these replies' Date headers are trusted to date the next request."""

    async def handler(_: web.Request) -> web.Response:
        return web.json_response({}, status=http_status, headers={"Date": _DATE})

    async with _serve(handler) as base_url, run.client(base_url) as client:
        await client.send(kind, "1")
    assert run.clock.offset_s == (600.0 if is_set else 0.0)
    assert [event for event in run.events if isinstance(event, ClockSet)] == (
        [ClockSet(offset_s=600.0)] if is_set else []
    )


async def test_clock_is_told_once(run: _Run) -> None:
    """A reading that agrees, and one that is no date, change nothing and say nothing."""
    dates = [_DATE, _DATE, "soon"]

    async def handler(_: web.Request) -> web.Response:
        return web.json_response({}, headers={"Date": dates.pop(0)})

    async with _serve(handler) as base_url, run.client(base_url) as client:
        for _ in range(3):
            await client.send(RequestKind.PROBE)
    assert sum(isinstance(event, ClockSet) for event in run.events) == 1


async def test_connection_is_reused(run: _Run) -> None:
    """Requests one after another, of every kind and status, take one connection."""
    peers = set()

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.json_response({}, status=200 if request.method == "GET" else 400)

    async with _serve(handler) as base_url, run.client(base_url) as client:
        for number in range(10):
            await client.send(RequestKind.CANCEL, str(number))
            await client.send(RequestKind.LOOK_UP, str(number))
    assert len(peers) == 1


async def test_concurrency_bounds_the_connections(run: _Run) -> None:
    """More senders than connections wait for one another."""
    peers = set()

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.json_response({})

    async with _serve(handler) as base_url, run.client(base_url, concurrency=3) as client:
        replies = await asyncio.gather(*(client.send(RequestKind.LOOK_UP, str(n)) for n in range(40)))
    assert {reply.http_status for reply in replies} == {200}
    assert len(peers) <= 3


@pytest.mark.parametrize("http_status", [301, 302, 303, 307, 308])
async def test_redirect_is_not_followed(run: _Run, http_status: int) -> None:
    """Another place is not the one that was signed for."""
    paths = []

    async def handler(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=http_status, headers={"Location": "/elsewhere"})

    async with _serve(handler) as base_url, run.client(base_url) as client:
        assert (await client.send(RequestKind.LOOK_UP, "1")).http_status == http_status
        assert (await client.send(RequestKind.CANCEL, "1")).http_status == http_status
    assert paths == ["/invoicing/v2/invoices/1", "/invoicing/v2/invoices/1/cancelation"]


async def test_cookies_are_not_kept(run: _Run) -> None:
    """One invoice's reply has no say in the next one's request."""
    cookies = []

    async def handler(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        response = web.json_response({})
        response.set_cookie("session", "1")
        return response

    async with (
        _serve(handler) as base_url,
        run.client(base_url.replace("127.0.0.1", "localhost")) as client,  # an address gets no cookies anyway
    ):
        for _ in range(2):
            await client.send(RequestKind.LOOK_UP, "1")
    assert cookies == [None, None]


async def test_proxy_of_the_environment_is_ignored(run: _Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings decide whether there is a proxy."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    async with (
        _serve(_answer) as base_url,
        run.client(base_url) as client,
    ):
        assert (await client.send(RequestKind.PROBE)).http_status == 200


async def test_compressed_body_is_not_unpacked(run: _Run) -> None:
    """It was not asked for, so it is no readable answer, and no bomb either."""

    async def handler(_: web.Request) -> web.Response:
        body = gzip.compress(b'{"status":"CANCELED"}')
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    async with _serve(handler) as base_url, run.client(base_url) as client:
        reply = await client.send(RequestKind.CANCEL, "1")
    assert (reply.http_status, reply.is_object) == (200, False)


@pytest.mark.parametrize(
    ("size_bytes", "is_read"), [(1 << 20, True), ((1 << 20) + 1, False)], ids=["one mebibyte", "a byte more"]
)
async def test_body_is_read_up_to_one_mebibyte(*, run: _Run, size_bytes: int, is_read: bool) -> None:
    """A longer one is no readable answer, though its status counts."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=b'{"status":"PAID"}'.ljust(size_bytes))

    async with _serve(handler) as base_url, run.client(base_url) as client:
        reply = await client.send(RequestKind.LOOK_UP, "1")
    assert (reply.http_status, reply.is_object) == (200, is_read)


async def test_endless_body_is_cut_off_with_its_connection(run: _Run) -> None:
    """It is not waited out, and the next request takes another connection."""
    peers = set()

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    async with _serve(handler) as base_url, run.client(base_url) as client:
        replies = [await client.send(RequestKind.LOOK_UP, "1") for _ in range(2)]
    assert [(reply.http_status, reply.is_object) for reply in replies] == [(200, False)] * 2
    assert len(peers) == 2


async def test_cancelled_request_passes_the_cancellation_on(run: _Run) -> None:
    """No failure of ours takes its place, the event is told and the connection is dropped."""
    arrived = asyncio.Event()
    peers = set()

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        if request.method == "POST":
            arrived.set()
            await asyncio.Event().wait()
        return web.json_response({})

    async with _serve(handler) as base_url, run.client(base_url) as client:
        task = asyncio.create_task(client.send(RequestKind.CANCEL, "1"))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.send(RequestKind.LOOK_UP, "1")
    event = run.events[0]
    assert isinstance(event, RequestFinished)
    assert (event.http_status, event.failure) == (None, "CancelledError")
    assert len(peers) == 2


async def test_silent_service_is_a_lost_reply_and_its_connection_is_dropped(run: _Run) -> None:
    """The total time-out ends the wait; the next request takes another connection."""
    peers = set()

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        if request.method == "POST":
            await asyncio.Event().wait()
        return web.json_response({})

    async with _serve(handler) as base_url, run.client(base_url, timeout_s=0.1) as client:
        with pytest.raises(ReplyLostError, match="TimeoutError"):
            await client.send(RequestKind.CANCEL, "1")
        assert (await client.send(RequestKind.LOOK_UP, "1")).is_object
    assert len(peers) == 2


@pytest.mark.parametrize("content", [None, b"no certificate"], ids=["missing", "not PEM"])
def test_unusable_ca_file_is_a_settings_error(run: _Run, tmp_path: Path, content: bytes | None) -> None:
    """It is said before anything is sent, with the file's name."""
    ca_file = tmp_path / "roots.pem"
    if content is not None:
        ca_file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"CA_FILE .*roots\.pem can't be used"):
        run.client(_HOST, ca_file=ca_file)
