"""Connections to the service: TLS, the proxy's tunnel, and which failures sent nothing."""

from __future__ import annotations

import select
import ssl
from asyncio import Transport
from pathlib import Path
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

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

from batchcancel.errors import HostUntrustedError, NotSentError, SettingsError

PROXY_AUTHENTICATION_REQUIRED: Final = 407


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


class Link(NamedTuple):
    """A connection that is ready for one request."""

    connection: Connection
    protocol: ResponseHandler
    transport: Transport
    was_used: bool
    """Whether other requests had gone over it before."""

    def close(self) -> None:
        """Close the connection, even one that was given back meanwhile."""
        self.connection.close()
        self.protocol.close()


class Connections:
    """Connections to one host that nothing was said on, and failures that say whether a byte left.

    aiohttp's connector finds the host, shakes hands, tunnels and keeps connections. Whatever fails in
    here fails before the request's first byte, for nobody has the connection yet. Once a reply was caught
    that nobody had asked for, or that answered another request, no connection is used a second time: the
    next such reply might name no invoice. Needs a running event loop.

    Args:
        request: Stands for every request: says which host, and through which proxy.
        limit: Most connections at once.
        timeout_s: How long it may take to get one, in seconds.
        tls: How to verify the host.
    """

    def __init__(self, request: ClientRequest, *, limit: int, timeout_s: float, tls: ssl.SSLContext) -> None:
        self._request = request
        self._connector = TCPConnector(limit=limit, ssl=tls)
        self._timeout = ClientTimeout(connect=timeout_s)
        self._pollers: WeakKeyDictionary[ResponseHandler, select.poll] = WeakKeyDictionary()
        """What tells whether bytes wait unread, for each connection that has been used."""
        self._distrusts_reuse = False

    async def take(self) -> Link:
        """Return a connection that is ready for a request; closing or releasing it is the caller's.

        A pooled connection on which bytes came while nobody was asking is closed: aiohttp would take
        them for the next request's reply.

        Raises:
            HostUntrustedError: The host's certificate is untrusted, expired or for another name.
            ClientHttpProxyError: The proxy wants credentials (407).
            NotSentError: There is no connection: DNS, connect, proxy, TLS handshake, time-out.
        """
        try:
            while True:
                connection = await self._connector.connect(self._request, [], self._timeout)
                link = self._fit(connection)
                if link is not None:
                    return link
                connection.close()
        except ClientConnectorCertificateError as exc:
            raise HostUntrustedError(_distrust(exc)) from exc
        except (ClientError, TimeoutError) as exc:
            if isinstance(exc, ClientHttpProxyError) and exc.status == PROXY_AUTHENTICATION_REQUIRED:
                raise
            raise NotSentError(type(exc).__name__) from exc

    def drop(self, link: Link) -> None:
        """Close a connection whose reply was for another request than the one that was sent."""
        link.close()
        self._distrusts_reuse |= link.was_used

    def trust_reuse(self) -> None:
        """Use connections again: what looked like a reply to another request was none."""
        self._distrusts_reuse = False

    async def close(self) -> None:
        """Close every connection, those in use too."""
        await self._connector.close()

    def _fit(self, connection: Connection) -> Link | None:
        """Return a connection for use; None if it is not fit for any."""
        protocol = connection.protocol
        transport = None if protocol is None else protocol.transport
        if protocol is None or transport is None:
            return None
        poller = self._pollers.get(protocol)
        if poller is None:
            if protocol.should_close:
                return None
            poller = self._pollers[protocol] = select.poll()
            poller.register(transport.get_extra_info("socket"), select.POLLIN)
            return Link(connection, protocol, transport, was_used=False)
        # A pooled connection was quiet when it came back; what has come since, the end included, may
        # still be with the system.
        self._distrusts_reuse |= protocol.should_close
        if self._distrusts_reuse or poller.poll(0):
            return None
        return Link(connection, protocol, transport, was_used=True)


def _distrust(exc: ClientConnectorCertificateError) -> str:
    cause = exc.certificate_error
    why = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else type(cause).__name__
    return (
        f"The TLS certificate of {exc.host} is not trusted: {why}. "
        "If the host uses private roots, name them with BATCHCANCEL_CA_FILE; otherwise check the host and "
        "the proxy."
    )
