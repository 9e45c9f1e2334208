"""A run against servers that lie, flood, stall and mix up replies, over raw sockets."""

from __future__ import annotations

import gzip
import json
import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from tests.conftest import RawAnswer, RawRequest, RawServer, StartRawServer

MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIMEOUT_S: Final = 2.0
BOUND_S: Final = 40.0
"""A POST and a look-up, 2 s each, the read that tells it from an outage, and slack for a busy machine."""
MOST_MEMORY_KB: Final = 256 * 1024
"""A quarter of one of the bodies; dozens of them are read at a time."""
MARK: Final = "mUsTnOtShOw"
"""Stands in every body; a run must never show it."""


def invoice_of(request: RawRequest) -> str:
    """Name the invoice that a request is about; empty for the signed read."""
    path, _, query = request.target.partition("?")
    return "" if query else path.removeprefix("/invoicing/v2/invoices/").removesuffix("/cancelation")


def reply(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """Write a reply as it should be."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def canceled(invoice_id: str, **more: Any) -> bytes:
    """Write the body that would mean success, were it to be believed."""
    return json.dumps({"id": invoice_id, "status": "CANCELED", "message": MARK, **more}).encode()


def hold(connection: socket.socket) -> None:
    """Say nothing more until the client goes away."""
    while connection.recv(65536):
        pass
    raise ConnectionError


def once(make: Callable[[str], bytes], *, held: bool = False) -> RawAnswer:
    """Send some bytes for an invoice and close, or leave the connection open."""

    def answer(connection: socket.socket, request: RawRequest) -> None:
        connection.sendall(make(invoice_of(request)))
        if held:
            hold(connection)
        raise ConnectionError

    return answer


def stream(head: bytes, block: bytes, *, pause_s: float = 0.0) -> RawAnswer:
    """Send a head, then the same block again and again: a gibibyte, or as long as anyone listens."""

    def answer(connection: socket.socket, request: RawRequest) -> None:
        connection.sendall(head)
        for _ in range(GIB // len(block)):
            connection.sendall(block)
            time.sleep(pause_s)
        raise ConnectionError

    return answer


def raw(data: bytes, *, held: bool = False) -> RawAnswer:
    """Send these bytes, whatever the invoice."""
    return once(lambda _: data, held=held)


def body(text: str, *, encoding: str = "utf-8") -> RawAnswer:
    """Send a 200 with this text, ``ID`` replaced."""
    return once(lambda invoice_id: reply(text.replace("ID", invoice_id).encode(encoding)))


def zero_block() -> bytes:
    """Compress zeros to a block that can be repeated: a thousandth of their length."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(bytes(4 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)


OK: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED: Final = OK + b"Transfer-Encoding: chunked\r\n"
SPACES: Final = b" " * 65536
CHUNK: Final = b"10000\r\n" + SPACES + b"\r\n"
DEEP: Final = "[" * 300_000 + "]" * 300_000
ZEROS: Final = zero_block()
TLS_ALERT: Final = b"\x15\x03\x01\x00\x02\x02\x46"

CASES: Final[dict[str, RawAnswer]] = {
    # --- size
    "body-1-gib": stream(OK + b"Content-Length: %d\r\n\r\n" % GIB, SPACES),
    "body-1-gib-chunked": stream(CHUNKED + b"\r\n", CHUNK),
    "body-1-gib-to-the-close": stream(OK + b"\r\n", SPACES),
    "body-in-chunks-of-one-byte": stream(CHUNKED + b"\r\n", b"1\r\n \r\n" * 10_000),
    "chunk-extension-without-end": stream(CHUNKED + b"\r\n1;x=", b"x" * 65536),
    "trailers-without-end": stream(CHUNKED + b"\r\n2\r\n{}\r\n0\r\n", b"X: y\r\n" * 10_000),
    "bomb-gzip": stream(
        OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % GIB,
        gzip.compress(b"")[:10] + ZEROS * 16,
    ),
    "bomb-deflate": stream(
        CHUNKED + b"Content-Encoding: deflate\r\n\r\n", b"%x\r\n%b\r\n" % (len(ZEROS), ZEROS)
    ),
    "bomb-br": stream(CHUNKED + b"Content-Encoding: br\r\n\r\n", CHUNK),
    "small-gzip": once(lambda id_: reply(gzip.compress(canceled(id_)), "200 OK", "Content-Encoding: gzip")),
    "header-line-without-end": stream(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536),
    "headers-without-end": stream(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10_000),
    "headers-10000": once(
        lambda id_: OK + b"X: y\r\n" * 10_000 + b"Content-Length: 2\r\n\r\n" + canceled(id_)
    ),
    "interim-replies-without-end": stream(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "status-line-without-end": stream(b"HTTP/1.1 200 ", b"O" * 65536),
    # --- time
    "drip-status-line": stream(b"", b"H", pause_s=1),
    "drip-headers": stream(b"HTTP/1.1 200 OK\r\nX: ", b"x", pause_s=1),
    "drip-body": stream(OK + b"Content-Length: 1000\r\n\r\n", b" ", pause_s=1),
    "drip-chunks": stream(CHUNKED + b"\r\n", b"1\r\n \r\n", pause_s=1),
    "drip-interim-replies": stream(b"", b"HTTP/1.1 102 Processing\r\n\r\n", pause_s=1),
    "silence": raw(b"", held=True),
    "silence-after-the-head": raw(OK + b"Content-Length: 9\r\n\r\n", held=True),
    # --- framing
    "closed": raw(b""),
    "http-0.9": once(canceled),
    "tls-on-a-plain-port": raw(TLS_ALERT),
    "another-protocol": raw(b"220 mail ESMTP " + MARK.encode() + b"\r\n"),
    "upgrade": raw(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", held=True
    ),
    "length-short": once(lambda id_: OK + b"Content-Length: 9\r\n\r\n" + canceled(id_)),
    "length-long": once(lambda id_: OK + b"Content-Length: 9999\r\n\r\n" + canceled(id_)),
    "length-negative": once(lambda id_: OK + b"Content-Length: -1\r\n\r\n" + canceled(id_)),
    "length-signed": once(lambda id_: OK + b"Content-Length: +99\r\n\r\n" + canceled(id_)),
    "length-hex": once(lambda id_: OK + b"Content-Length: 0x50\r\n\r\n" + canceled(id_)),
    "length-huge": once(lambda id_: OK + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n" + canceled(id_)),
    "lengths-two": once(
        lambda id_: (
            OK + b"Content-Length: 2\r\nContent-Length: %d\r\n\r\n" % len(canceled(id_)) + canceled(id_)
        )
    ),
    "length-and-chunks": once(
        lambda id_: CHUNKED + b"Content-Length: 2\r\n\r\n%x\r\n%b\r\n" % (len(canceled(id_)), canceled(id_))
    ),
    "chunk-size-is-no-number": once(lambda id_: CHUNKED + b"\r\nzz\r\n" + canceled(id_) + b"\r\n0\r\n\r\n"),
    "chunk-size-too-large": once(lambda id_: CHUNKED + b"\r\n" + b"f" * 40 + b"\r\n" + canceled(id_)),
    "chunks-break-off": once(lambda id_: CHUNKED + b"\r\n%x\r\n%b\r\n" % (len(canceled(id_)), canceled(id_))),
    "header-with-nul": once(lambda id_: reply(canceled(id_), "200 OK", "X: a\0b")),
    "header-folded": once(lambda id_: reply(canceled(id_), "200 OK", "X: a\r\n\0 b")),
    "header-without-a-name": once(lambda id_: reply(canceled(id_), "200 OK", ": b")),
    "status-not-a-number": once(lambda id_: reply(canceled(id_), "2OO OK")),
    "status-999": once(lambda id_: reply(canceled(id_), "999 OK")),
    "status-000": once(lambda id_: reply(canceled(id_), "000 OK")),
    "status-204-with-a-body": once(lambda id_: reply(canceled(id_), "204 No Content")),
    "status-304-with-a-body": once(lambda id_: reply(canceled(id_), "304 Not Modified")),
    # --- content
    "json-nested-deeply": body(f'{{"x":{DEEP},"id":"ID","status":"CANCELED"}}'),
    "json-integer-of-a-million-digits": body(f'{{"x":{"9" * 1_000_000},"id":"ID","status":"CANCELED"}}'),
    "json-status-twice": body('{"id":"ID","status":"SENT","status":"CANCELED"}'),
    "json-status-twice-escaped": body('{"id":"ID","st\\u0061tus":"SENT","status":"CANCELED"}'),
    "json-nan": body('{"id":"ID","status":"CANCELED","x":NaN}'),
    "json-infinity": body('{"id":"ID","status":"CANCELED","x":-Infinity}'),
    "json-lone-surrogate": body('{"id":"ID","status":"CANCELED\\ud800"}'),
    "json-raw-surrogate": once(lambda id_: reply(canceled(id_).replace(MARK.encode(), b"\xed\xa0\x80"))),
    "json-byte-order-mark": body('\ufeff{"id":"ID","status":"CANCELED"}'),
    "json-utf-16": body('{"id":"ID","status":"CANCELED"}', encoding="utf-16"),
    "json-latin-1": body('{"id":"ID","status":"CANCELED","x":"\u00e9"}', encoding="latin-1"),
    "json-with-a-comment": body('{"id":"ID","status":"CANCELED"}//'),
    "json-two-objects": body('{"id":"ID","status":"CANCELED"}{}'),
    "json-in-a-list": body('[{"id":"ID","status":"CANCELED"}]'),
    "json-in-a-string": body('"{\\"id\\":\\"ID\\",\\"status\\":\\"CANCELED\\"}"'),
    "json-control-characters": body('{"id":"ID","status":"CAN\x00CELED"}'),
    "status-is-a-number": body('{"id":"ID","status":200}'),
    "status-is-a-list": body('{"id":"ID","status":["CANCELED"]}'),
    "status-is-an-object": body('{"id":"ID","status":{"status":"CANCELED"}}'),
    "status-is-null": body('{"id":"ID","status":null}'),
    "status-is-elsewhere": body('{"id":"ID","invoice":{"status":"CANCELED"}}'),
    "html-page": body(f"<html><body>CANCELED {MARK}</body></html>"),
    "empty-body": body(""),
}
"""What the server does for an invoice of that name, to a POST and a look-up alike: no word of it is clear."""

REDIRECTS: Final = (301, 302, 303, 307, 308)
UNLISTED: Final = {
    "unlisted-lower-case": "canceled",
    "unlisted-spaces": " CANCELED ",
    "unlisted-zero-width": "CANCE\u200bLED",
    "unlisted-homoglyph": "\u0421ANCELED",
    "unlisted-escape": "\x1b[2JCANCELED",
    "unlisted-long": "CANCELED" * 100_000,
}
"""Statuses that look like a listed one."""
GOOD: Final = tuple(f"good-{number}" for number in range(10))


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run that came to its end."""

    code: int
    shown: str
    """Everything that it wrote to its streams and its log."""
    rows: dict[str, dict[str, Any]]
    """The ledger's results by invoice."""
    ledger: str
    lasted_s: float
    memory_kb: int
    """The most that it ever had resident."""


def run(folder: Path, server: RawServer, ids: list[str], *flags: str) -> Ended:
    """Run the command over some invoices, and watch its memory."""
    (folder / "ids.txt").write_text("\n".join(ids), encoding="utf-8")
    passed_on = {name: value for name, value in os.environ.items() if name.startswith(("COVERAGE_", "PATH"))}
    arguments = ["run", "ids.txt", "--env", "sandbox", "--base-url", server.base_url, "--log-file", "log"]
    started = time.monotonic()
    memory_kb = 0
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "batchcancel", *arguments, "--log-level", "debug", *flags],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={
                **passed_on,
                "HOME": str(folder),
                "BATCHCANCEL_MERCHANT_ID": "m",
                "BATCHCANCEL_KEY_ID": "k",
                "BATCHCANCEL_SHARED_SECRET": "c2VjcmV0",
            },
        )
        try:
            while process.poll() is None:
                assert time.monotonic() - started < BOUND_S, "the run does not end"
                memory_kb = max(memory_kb, _peak_kb(process.pid))
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
    ledger = (folder / "ids.sandbox.ledger.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in ledger.splitlines()]
    return Ended(
        code=process.returncode,
        shown="".join((folder / name).read_text(encoding="utf-8") for name in ("out", "err", "log")),
        rows={record["invoice_id"]: record for record in records if record["type"] == "result"},
        ledger=ledger,
        lasted_s=time.monotonic() - started,
        memory_kb=memory_kb,
    )


def _peak_kb(pid: int) -> int:
    """Read the most memory that a process ever had resident; 0 once it is gone."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)


@pytest.fixture(scope="module")
def trap(start_raw_server: StartRawServer) -> RawServer:
    """Listen where the redirects lead to."""
    return start_raw_server(lambda connection, _: connection.sendall(reply(canceled("x"))))


@pytest.fixture(scope="module")
def server(start_raw_server: StartRawServer, trap: RawServer) -> RawServer:
    """Serve every case by the invoice's name; the signed read is answered as it should be."""

    def answer(connection: socket.socket, request: RawRequest) -> None:
        name = invoice_of(request)
        if name in CASES:
            CASES[name](connection, request)
        elif name in UNLISTED:
            connection.sendall(reply(json.dumps({"id": name, "status": UNLISTED[name]}).encode()))
        elif name.startswith("redirect-"):
            location = f"Location: {trap.base_url}{request.target}"
            connection.sendall(
                reply(canceled(name), f"{name[-3:]} Moved", location, "Set-Cookie: s=1; Path=/")
            )
        elif name in GOOD:
            connection.sendall(reply(canceled(name), "200 OK", "Set-Cookie: s=1; Path=/"))
        else:
            connection.sendall(reply(b'{"invoices":[]}', "200 OK", "Set-Cookie: s=1; Path=/"))

    return start_raw_server(answer)


@pytest.fixture(scope="module")
def ended(server: RawServer, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Run all cases at once, good invoices before and after them."""
    ids = [*GOOD[:5], *CASES, *UNLISTED, *(f"redirect-{status}" for status in REDIRECTS), *GOOD[5:]]
    flags = (
        "--timeout",
        f"{TIMEOUT_S:g}",
        "--max-attempts",
        "1",
        "--max-outage",
        "20",
        "--concurrency",
        "40",
    )
    ended = run(tmp_path_factory.mktemp("hostile"), server, ids, *flags)
    for _ in range(3):
        # On a busy machine a flooded server lets somebody wait too long for a connection, and then no byte
        # of theirs has left: what their reply does is seen by asking once more.
        unheard = [name for name in CASES if ended.rows[name]["reason"] == "network"]
        if unheard:
            ended.rows.update(run(tmp_path_factory.mktemp("hostile"), server, unheard, *flags).rows)
    return ended


def test_run_ends_in_time_and_as_it_should(ended: Ended) -> None:
    """Every invoice has its row, errors were written, and good invoices are canceled in between."""
    assert ended.code == 3, ended.shown
    assert len(ended.rows) == len(CASES) + len(UNLISTED) + len(REDIRECTS) + len(GOOD)
    assert {ended.rows[name]["outcome"] for name in GOOD} == {"canceled"}
    assert '"state":"complete"' in ended.ledger.splitlines()[-1]
    assert ended.lasted_s < BOUND_S


def test_memory_stays_flat(ended: Ended) -> None:
    """Bodies and bombs of a gibibyte, a dozen at a time, are not held."""
    assert 0 < ended.memory_kb < MOST_MEMORY_KB


@pytest.mark.parametrize("name", ["body-1-gib", "body-1-gib-chunked", "bomb-gzip", "header-line-without-end"])
def test_one_flood_that_has_the_machine_to_itself_is_not_held(
    server: RawServer, tmp_path: Path, name: str
) -> None:
    """Time alone would not stop it: a gibibyte takes loopback a few seconds."""
    alone = run(tmp_path, server, [name], "--timeout", "10", "--max-attempts", "1")
    assert alone.rows[name]["reason"] == "unknown"
    assert 0 < alone.memory_kb < MOST_MEMORY_KB
    assert alone.lasted_s < BOUND_S


@pytest.mark.parametrize("name", CASES)
def test_unclear_reply_is_an_unknown_row(ended: Ended, name: str) -> None:
    """The service may have acted: never canceled or sent again, and the next run looks it up."""
    row = ended.rows[name]
    assert (row["outcome"], row["reason"], row["attempts"]) == ("error", "unknown", 1)
    # One is all it may have; where a busy machine lets the flooded server's silence look like an outage, what
    # fell into that does not count.
    assert row["lookups"] >= 1
    assert row["invoice_status"] is None


@pytest.mark.parametrize("name", UNLISTED)
def test_status_that_resembles_a_listed_one_is_unlisted(ended: Ended, name: str) -> None:
    """Close is not equal: the row says so and what was read, printable and short."""
    row = ended.rows[name]
    assert (row["outcome"], row["reason"]) == ("error", "unknown_status")
    assert row["invoice_status"] not in {"CANCELED", "PAID", "PARTIAL"}
    assert len(row["invoice_status"]) <= 64
    assert row["invoice_status"].isprintable()


@pytest.mark.parametrize("status", REDIRECTS)
def test_redirect_is_an_unknown_row_and_never_followed(ended: Ended, trap: RawServer, status: int) -> None:
    """The place that it names sees no connection, so no token either; its body is not believed."""
    assert ended.rows[f"redirect-{status}"]["reason"] == "unknown"
    assert trap.connections == []


def test_cookies_are_never_sent_back(ended: Ended, server: RawServer) -> None:
    """Every reply set one."""
    assert ended.code == 3
    assert len(server.requests) > len(ended.rows)
    assert not any("\r\ncookie:" in request.head.lower() for request in server.requests)


def test_nothing_of_a_body_is_shown(ended: Ended) -> None:
    """No traceback, no raw body, no control character on any stream, in the log or in the ledger."""
    for text in (ended.shown, ended.ledger):
        assert MARK not in text
        assert "Traceback" not in text
        assert all(char.isprintable() or char == "\n" for char in text)


# --- replies that nobody asked for --------------------------------------------------------------------


class _Stale:
    """A service that sends replies twice: what it says and what is true is told by the id.

    Args:
        send_copy: Sends the second copy of a reply; None keeps it for the next request.
    """

    def __init__(self, send_copy: Callable[[socket.socket, bytes], None] | None) -> None:
        self._send_copy = send_copy
        self._kept: dict[socket.socket, list[bytes]] = {}
        self.copies = 0

    def __call__(self, connection: socket.socket, request: RawRequest) -> None:
        invoice_id = invoice_of(request)
        if not invoice_id:
            connection.sendall(reply(b"{}"))
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        said = self._reply(invoice_id, request.method)
        self.copies += 1
        if self._send_copy is not None:
            self._send_copy(connection, said)
            return
        # The copy of the one before leaves first, so that every reply comes one too late.
        queue = self._kept.setdefault(connection, [])
        queue += [said, said] if not queue else [said]
        connection.sendall(queue.pop(0))

    @staticmethod
    def _reply(invoice_id: str, method: str) -> bytes:
        status = truth(invoice_id)
        if method == "POST" and status != "CANCELED":
            return reply(b'{"status":"INVALID_REQUEST","reason":"X"}', "400 Bad Request")
        return reply(json.dumps({"id": invoice_id, "status": status}).encode())


def truth(invoice_id: str) -> str:
    """Tell an invoice's status at the service."""
    return ("CANCELED", "PAID", "PARTIAL", "CANCELED", "CANCELED")[int(invoice_id) % 5]


def _at_once(connection: socket.socket, said: bytes) -> None:
    connection.sendall(said + said)


def _apart(pause_s: float) -> Callable[[socket.socket, bytes], None]:
    def send(connection: socket.socket, said: bytes) -> None:
        connection.sendall(said)
        time.sleep(pause_s)
        connection.sendall(said)

    return send


def _split(connection: socket.socket, said: bytes) -> None:
    """Send the copy's first byte with the reply and the rest later."""
    connection.sendall(said + said[:1])
    time.sleep(0.002)
    connection.sendall(said[1:])


@pytest.mark.parametrize(
    "send_copy",
    [
        pytest.param(_at_once, id="in one write"),
        pytest.param(_split, id="in the middle of a write"),
        pytest.param(_apart(0), id="in a second write"),
        pytest.param(_apart(0.0005), id="half a millisecond later"),
        pytest.param(_apart(0.005), id="five milliseconds later"),
        pytest.param(None, id="when the next request has come"),
    ],
)
def test_reply_that_nobody_asked_for_never_becomes_another_invoices_answer(
    start_raw_server: StartRawServer,
    tmp_path: Path,
    send_copy: Callable[[socket.socket, bytes], None] | None,
) -> None:
    """Every reply comes twice, so the second would answer the next request: no row is wrong for good.

    A refusal names no invoice. Where the first copy of one comes when a look-up is already under way, it
    leaves an open error, which the next run asks again.
    """
    stale = _Stale(send_copy)
    server = start_raw_server(stale)
    ids = [str(number) for number in range(100, 160)]
    ended = run(tmp_path, server, ids, "--concurrency", "1", "--timeout", "10")
    outcomes = {"CANCELED": "canceled", "PAID": "already_paid", "PARTIAL": "partially_paid"}
    untrue = {
        invoice_id: row["reason"]
        for invoice_id, row in ended.rows.items()
        if row["outcome"] != outcomes[truth(invoice_id)]
    }
    assert set(ended.rows) == set(ids)
    assert set(untrue.values()) <= {"refused"}
    assert len(untrue) <= len(ids) // 10, "a connection was trusted again after it had mixed up replies"
    assert ended.code == (3 if untrue else 0)
    assert stale.copies >= len(ids)
    assert len(server.connections) > 1, "the connection that the copies came over was used on and on"


def test_connection_that_is_reset_after_each_reply_costs_no_row(
    start_raw_server: StartRawServer, tmp_path: Path
) -> None:
    """A reset of the idle connection is noticed, or is a lost reply that is looked up."""

    def answer(connection: socket.socket, request: RawRequest) -> None:
        invoice_id = invoice_of(request)
        connection.sendall(reply(canceled(invoice_id) if invoice_id else b"{}"))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionError

    ids = [str(number) for number in range(20)]
    ended = run(tmp_path, start_raw_server(answer), ids, "--concurrency", "2", "--timeout", "10")
    assert ended.code == 0, ended.shown
    assert {row["outcome"] for row in ended.rows.values()} == {"canceled"}
