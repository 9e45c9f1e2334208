"""Serve the simulator on a socket, and write its log."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import Counter
from email.utils import formatdate
from io import FileIO
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from batchcancel.sandbox.answers import Answer
from batchcancel.sandbox.invoices import Invoice
from batchcancel.sandbox.options import SandboxOptions
from batchcancel.sandbox.requests import Operation
from batchcancel.sandbox.service import Service
from batchcancel.sandbox.wire import WireRequest

_BACKLOG: Final = 1024
_SHUTDOWN_S: Final = 0.2
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""Linger for no time: closing the socket sends a reset instead of a proper end."""


class Sandbox:
    """The simulator on a real socket, for as long as the context is open.

    Leaving the context closes the port and every connection; replies that still wait are dropped
    after 0.2 s.

    Args:
        options: Credentials, pace, faults and clock.
        host: The address to listen on.
        port: 1 to 65535; 0 takes a free one.

    Raises:
        OSError: On entering: the address is in use or can't be had, or the log can't be opened.
    """

    def __init__(self, options: SandboxOptions, host: str = "127.0.0.1", port: int = 0) -> None:
        self.options = options
        self.base_url = ""
        """Where it listens, without a slash at the end; empty before the context is entered."""
        self._host = host
        self._port = port
        self._service = Service(options)
        self._in_flight = 0
        self._replies = 0
        self._log: FileIO | None = None
        # Without the application's router and middlewares: it shares the client's event loop.
        self._runner = web.ServerRunner(
            web.Server(self._respond, access_log=None), shutdown_timeout=_SHUTDOWN_S
        )

    @property
    def requests(self) -> Counter[str]:
        """Requests that came in, by operation: cancel, get, list, create, other."""
        return self._service.requests

    @property
    def invoices(self) -> dict[str, Invoice]:
        """Every invoice of the first merchant that was seen or created, by id, oldest first."""
        return self._service.books[self.options.merchant_id].by_id

    def state(self, invoice_id: str, merchant_id: str | None = None) -> str | None:
        """Tell an invoice's status now, without a request; None if it was never seen.

        Args:
            invoice_id: The invoice.
            merchant_id: Whose it is; None: the first merchant's.

        Raises:
            KeyError: There is no such merchant.
        """
        invoice = self._service.books[merchant_id or self.options.merchant_id].by_id.get(invoice_id)
        if invoice is None:
            return None
        invoice.settle(self._service.now_s())
        return invoice.status.value

    async def __aenter__(self) -> Self:
        if self.options.log is not None:
            # Unbuffered: a line is in the file before the reply leaves, whoever is killed next.
            self._log = self.options.log.open("ab", buffering=0)
        try:
            await self._runner.setup()
            await web.TCPSite(self._runner, self._host, self._port, backlog=_BACKLOG).start()
        except BaseException:
            await self._close()
            raise
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.base_url = f"http://{host}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        await self._runner.cleanup()
        if self._log is not None:
            self._log.close()

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        self._in_flight += 1
        # Of its arrival: others come and go while the body is read.
        in_flight, at_s = self._in_flight, self._service.now_s()
        try:
            wire = WireRequest(
                method=request.method,
                target=request.raw_path,
                headers=request.headers,
                body=await request.read(),
            )
            operation, invoice_id, answer = self._service.answer(wire)
            if self._log is not None:
                self._log.write(_log_line(at_s, wire, operation, invoice_id, answer, in_flight))
            if answer.wait_s:
                await asyncio.sleep(answer.wait_s)
            return await self._send(request, answer)
        finally:
            self._in_flight -= 1

    async def _send(self, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        if answer.http_status is None:
            _close_connection(request, reset=True)
            return web.Response()
        headers = self._headers(answer)
        if not answer.is_cut:
            return web.Response(status=answer.http_status, body=answer.body, headers=headers)
        response = web.StreamResponse(status=answer.http_status, headers=headers)
        response.content_length = len(answer.body)
        await response.prepare(request)
        await response.write(answer.body[: len(answer.body) // 2])
        _close_connection(request, reset=False)
        return response

    def _headers(self, answer: Answer) -> dict[str, str]:
        self._replies += 1
        headers = {
            "Content-Type": answer.content_type,
            # Numbered, so that two runs with the same seed can be compared.
            "v-c-correlation-id": f"{self.options.seed & 0xFFFFFFFF:08x}-{self._replies:012d}",
            "Date": formatdate(self._service.now_s(), usegmt=True),
        }
        if answer.retry_after_s is not None:
            headers["Retry-After"] = str(answer.retry_after_s)
        return headers


def _close_connection(request: web.BaseRequest, *, reset: bool) -> None:
    transport = request.transport
    if transport is None:
        return  # the client was quicker
    if reset:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.close()


def _log_line(
    at_s: float,
    wire: WireRequest,
    operation: Operation,
    invoice_id: str | None,
    answer: Answer,
    in_flight: int,
) -> bytes:
    """Write a line of the log; no header goes in, so no token does."""
    line = {
        "at": at_s,
        "method": wire.method,
        "target": wire.target,
        "operation": operation,
        "invoice_id": invoice_id,
        "http_status": answer.http_status,
        "cause": answer.cause,
        "committed": answer.committed,
        "in_flight": in_flight,
        "merchant_id": answer.merchant_id,
        "scheme": answer.scheme,
        "request_encrypted": answer.request_encrypted,
        "reply_encrypted": answer.encrypted,
    }
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"
