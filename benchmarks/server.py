"""A server that answers every cancelation at once or after a while, and does nothing else.

``python -m benchmarks.server``; its first line is its address. It stands in where there is no nginx, and
where replies have to take their time.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import selectors
import signal
from typing import Final, cast

import uvloop

from benchmarks.bounds import Delays

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CANCELATION: Final = re.compile(rb"POST /invoicing/v2/invoices/([A-Za-z0-9._-]+)/cancelation ")
_CANCELED: Final = (
    b'{"id":"%(id)b","submitTimeUtc":"2026-01-01T00:00:00Z","status":"CANCELED",'
    b'"invoiceInformation":{"invoiceNumber":"%(id)b","dueDate":"2026-12-31"},'
    b'"orderInformation":{"amountDetails":{"totalAmount":"100.00","balanceAmount":"100.00","currency":"USD"}}}'
)
_LIST: Final = b'{"totalInvoices":0,"invoices":[]}'
_REPLY: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"v-c-correlation-id: 785e345df319161ec27f00c581afcae5\r\n\r\n%b"
)


class _Connection(asyncio.Protocol):
    """One client's connection; requests on it come one after the other."""

    def __init__(self, delays: Delays | None) -> None:
        self._delays = delays
        self._unread = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer once a request has come whole."""
        self._unread += data
        head, end, body = self._unread.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or len(body) < (int(length[1]) if length else 0):
            return
        self._unread = b""
        asked = _CANCELATION.match(head)
        content = _CANCELED % {b"id": asked[1]} if asked else _LIST
        reply = _REPLY % (len(content), content)
        if asked and self._delays is not None:
            wait_s = self._delays.of(asked[1].decode("ascii"))
            asyncio.get_running_loop().call_later(wait_s, self._transport.write, reply)
        else:
            self._transport.write(reply)


async def _serve(port: int, delays: Delays | None) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    server = await loop.create_server(lambda: _Connection(delays), "127.0.0.1", port)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await ended.wait()
    server.close()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--delay-s", type=float, help="how long a reply takes (default: no time)")
    parser.add_argument("--slow-delay-s", type=float, default=2.0, help="how long a slow one takes")
    parser.add_argument("--slow-share", type=float, default=0.01, help="how many are slow, 0 to 1")
    parser.add_argument("--seed", type=int, default=0, help="which ones are slow")
    given = parser.parse_args()
    if given.delay_s is None:
        uvloop.run(_serve(given.port, None))
        return
    delays = Delays(
        usual_s=given.delay_s, slow_s=given.slow_delay_s, slow_share=given.slow_share, seed=given.seed
    )
    # epoll and uvloop count in whole milliseconds, which would make 50 ms half a millisecond longer;
    # select counts in microseconds.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(_serve(given.port, delays))


if __name__ == "__main__":
    main()
