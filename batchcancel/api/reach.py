"""The way to a host before anything is said: its addresses, the connection, TLS and the certificate.

For ``doctor``, which tells people where the way ends. It is the way of every request: the same connector,
proxy and rules of trust.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from enum import StrEnum
from pathlib import Path
from typing import Final

from aiohttp import (
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientHttpProxyError,
    ClientProxyConnectionError,
    ClientRequest,
    ClientSSLError,
)
from cryptography import x509
from cryptography.x509.oid import NameOID
from msgspec import Struct
from msgspec.structs import replace
from yarl import URL

from batchcancel.api.certificates import parsed
from batchcancel.api.connections import Connections, tls_context
from batchcancel.errors import HostUntrustedError, NotSentError, SettingsError

_MAX_NAME: Final = 64


class Obstacle(StrEnum):
    """Where the way to a host ends."""

    NAME = "name"
    """The name has no address."""
    CONNECTION = "connection"
    """Nobody takes the connection."""
    PROXY = "proxy"
    """The proxy can't be reached, or opens no way to the host."""
    TLS = "tls"
    """There is no TLS, none from 1.2 on, or it breaks off."""
    TRUST = "trust"
    """The certificate is not to be trusted."""
    TIME = "time"
    """It takes too long."""


class HostCertificate(Struct, frozen=True, kw_only=True):
    """Who vouches for a host, and until when."""

    issuer: str
    valid_until: float
    """Unix seconds."""


class Reach(Struct, frozen=True, kw_only=True):
    """How far one comes."""

    obstacle: Obstacle | None = None
    """None: all the way."""
    detail: str = ""
    """What the system says of the obstacle, or the whole sentence about a certificate."""
    peer: str | None = None
    """Address and port that were connected to, the proxy's where there is one."""
    took_ms: float = 0.0
    """Name, connection, proxy and TLS together."""
    tls_version: str | None = None
    """Such as ``TLSv1.3``; None without TLS."""
    certificate: HostCertificate | None = None


async def addresses_of(host: str, *, timeout_s: float) -> tuple[str, ...]:
    """Look a name up.

    Returns:
        Its addresses, as the system prefers them.

    Raises:
        NotSentError: It has none, or the answer does not come in time; says which.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await asyncio.wait_for(
            loop.getaddrinfo(host, None, type=socket.SOCK_STREAM), timeout=timeout_s
        )
    except TimeoutError as exc:
        raise NotSentError(f"no answer within {timeout_s:g} s") from exc
    except OSError as exc:  # socket.gaierror is one
        raise NotSentError(exc.strerror or type(exc).__name__) from exc
    except UnicodeError as exc:  # a label that is too long
        raise NotSentError("no name can look like that") from exc
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


async def reach(base_url: str, *, ca_file: Path | None, proxy: str | None, timeout_s: float) -> Reach:
    """Connect to a host as a request would, and say nothing there.

    A host that is not trusted is connected to once more, to read the certificate that it shows.

    Args:
        base_url: Scheme, host and port.
        ca_file: PEM file of private roots; None for the default ones only.
        proxy: URL of an HTTP proxy; None connects directly.
        timeout_s: For each connection in all, in seconds.

    Raises:
        SettingsError: ``ca_file`` can't be used.
    """
    far = await _connect(base_url, tls_context(ca_file), proxy, timeout_s)
    if far.obstacle is not Obstacle.TRUST:
        return far
    blind = tls_context(None)
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE  # nothing is sent there, and nothing that it says is believed
    shown = await _connect(base_url, blind, proxy, timeout_s)
    return replace(far, peer=shown.peer, tls_version=shown.tls_version, certificate=shown.certificate)


async def _connect(base_url: str, tls: ssl.SSLContext, proxy: str | None, timeout_s: float) -> Reach:
    request = ClientRequest(
        "GET", URL(base_url), proxy=None if proxy is None else URL(proxy), loop=asyncio.get_running_loop()
    )
    connections = Connections(request, limit=1, timeout_s=timeout_s, tls=tls)
    started = time.perf_counter()
    try:
        link = await connections.take()
        took_ms = (time.perf_counter() - started) * 1000
        tls_object = link.transport.get_extra_info("ssl_object")
        der = None if tls_object is None else tls_object.getpeercert(binary_form=True)
        peer = link.transport.get_extra_info("peername")
        link.close()
        return Reach(
            peer=None if peer is None else f"{peer[0]} port {peer[1]}",
            took_ms=took_ms,
            tls_version=None if tls_object is None else tls_object.version(),
            certificate=None if der is None else _read(der),
        )
    except HostUntrustedError as exc:
        return Reach(obstacle=Obstacle.TRUST, detail=str(exc))
    except ClientHttpProxyError as exc:
        return Reach(obstacle=Obstacle.PROXY, detail=f"it answers {exc.status}")
    except NotSentError as exc:
        return _stopped_by(exc.__cause__ or exc, is_proxied=proxy is not None)
    finally:
        await connections.close()


def _stopped_by(cause: BaseException, *, is_proxied: bool) -> Reach:
    """Tell from a library's error where the way ended."""
    match cause:
        case ClientHttpProxyError():
            reach = Reach(obstacle=Obstacle.PROXY, detail=f"it answers {cause.status}")
        case ClientConnectorDNSError():
            reach = Reach(obstacle=Obstacle.PROXY if is_proxied else Obstacle.NAME, detail="no address")
        case ClientProxyConnectionError():
            reach = Reach(obstacle=Obstacle.PROXY, detail=_said_by(cause.os_error))
        case ClientSSLError():
            reason = getattr(cause.__cause__, "reason", None)
            reach = Reach(obstacle=Obstacle.TLS, detail=str(reason or type(cause).__name__))
        case ClientConnectorError():
            reach = Reach(obstacle=Obstacle.CONNECTION, detail=_said_by(cause.os_error))
        case TimeoutError():
            reach = Reach(obstacle=Obstacle.TIME, detail="no connection in time")
        case _:  # it broke off in a handshake, of TLS or with the proxy
            reach = Reach(obstacle=Obstacle.PROXY if is_proxied else Obstacle.TLS, detail="it breaks off")
    return reach


def _said_by(error: OSError) -> str:
    """Return what the system says; asyncio puts words and addresses of its own in its place."""
    return os.strerror(error.errno) if error.errno else "no connection"


def _read(der: bytes) -> HostCertificate | None:
    """Read what is shown of a certificate; None if it can't be read."""
    try:
        return parsed(Path("the host's certificate"), lambda: _shown(x509.load_der_x509_certificate(der)))
    except SettingsError:
        return None


def _shown(certificate: x509.Certificate) -> HostCertificate:
    names = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    issuer = str(names[0].value) if names else "nobody named"
    return HostCertificate(
        issuer="".join(char if char.isprintable() else "?" for char in issuer[:_MAX_NAME]),
        valid_until=certificate.not_valid_after_utc.timestamp(),
    )
