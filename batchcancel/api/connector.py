"""Connections to the service: TLS, the proxy's tunnel, and which failures sent nothing."""

from __future__ import annotations

import select
import ssl
from contextvars import ContextVar
from pathlib import Path
from typing import Final
from weakref import WeakSet

from aiohttp import (
    ClientConnectorCertificateError,
    ClientError,
    ClientHttpProxyError,
    ClientRequest,
    ClientTimeout,
    TCPConnector,
)
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from batchcancel.errors import HostUntrustedError, NotSentError, SettingsError

PROXY_AUTHENTICATION_REQUIRED: Final = 407

_current: ContextVar[tuple[ResponseHandler, bool] | None] = ContextVar("_current", default=None)
"""The connection that this task's latest request took, and whether it had been used before."""


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a verifying TLS context, version 1.2 at least.

    Args:
        ca_file: PEM file of private roots, trusted besides the default ones; None for those only.

    Raises:
        SettingsError: The file can't be read or holds no certificate.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as exc:  # ssl.SSLError is one too
            raise SettingsError(
                f"BATCHCANCEL_CA_FILE {ca_file} can't be used: it has to be a readable file of "
                "certificates in PEM form."
            ) from exc
    return context


class Connector(TCPConnector):
    """Connections that nothing was said on, and failures that say whether a byte left.

    Whatever fails in here fails before the request's first byte: aiohttp writes only on a connection that
    this returned. Once a reply was caught that nobody had asked for, or that answered another request, no
    connection is used a second time: the next such reply might name no invoice.
    """

    def __init__(self, *, limit: int, ssl: ssl.SSLContext) -> None:
        super().__init__(limit=limit, ssl=ssl)
        self._used: WeakSet[ResponseHandler] = WeakSet()
        self._distrusts_reuse = False

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:  # noqa: ASYNC109 (aiohttp's own signature)
        """Return a connection that is ready for a request.

        A pooled connection on which bytes came while nobody was asking is closed: aiohttp would take
        them for the next request's reply.

        Raises:
            HostUntrustedError: The host's certificate is untrusted, expired or for another name.
            ClientHttpProxyError: The proxy wants credentials (407).
            NotSentError: There is no connection: DNS, connect, proxy, TLS handshake, time-out.
        """
        try:
            connection = await super().connect(req, traces, timeout)
            while not self._is_fit(connection.protocol):
                connection.close()
                connection = await super().connect(req, traces, timeout)
        except ClientConnectorCertificateError as exc:
            raise HostUntrustedError(_distrust(exc)) from exc
        except (ClientError, TimeoutError) as exc:
            if isinstance(exc, ClientHttpProxyError) and exc.status == PROXY_AUTHENTICATION_REQUIRED:
                raise
            raise NotSentError(type(exc).__name__) from exc
        if connection.protocol is not None:
            _current.set((connection.protocol, connection.protocol in self._used))
            self._used.add(connection.protocol)
        return connection

    def drop_current(self) -> bool:
        """Close the connection of this task's latest request, whose reply was for another one.

        Returns:
            Whether other requests had gone over it before, so that the reply may have been for them.
        """
        if (current := _current.get()) is None:
            return False
        protocol, was_used = current
        protocol.close()
        self._distrusts_reuse |= was_used
        return was_used

    def trust_reuse(self) -> None:
        """Use connections again: what looked like a reply to another request was none."""
        self._distrusts_reuse = False

    def _is_fit(self, protocol: ResponseHandler | None) -> bool:
        if protocol is None or protocol not in self._used:
            return protocol is None or not protocol.should_close
        # A pooled connection was quiet when it came back.
        self._distrusts_reuse |= protocol.should_close
        return not (self._distrusts_reuse or _has_unread(protocol))


def _has_unread(protocol: ResponseHandler) -> bool:
    """Tell whether bytes, or the end, have come that the event loop has not read yet."""
    if protocol.transport is None:
        return True
    poll = select.poll()
    poll.register(protocol.transport.get_extra_info("socket"), select.POLLIN)
    return bool(poll.poll(0))


def _distrust(exc: ClientConnectorCertificateError) -> str:
    cause = exc.certificate_error
    why = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else type(cause).__name__
    return (
        f"The TLS certificate of {exc.host} is not trusted: {why}. "
        "If the host uses private roots, name them with BATCHCANCEL_CA_FILE; otherwise check the host and "
        "the proxy."
    )
