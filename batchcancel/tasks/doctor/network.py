"""The way to the host: name, connection, TLS, certificate."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from batchcancel.api.reach import HostCertificate, Obstacle, Reach, addresses_of, reach
from batchcancel.errors import NotSentError
from batchcancel.tasks.doctor.checks import Check, Grade, fail, ok, skip, warn

_DAY_S: Final = 86_400
_FEW_DAYS: Final = 14
_SHOWN: Final = 4
_TODO: Final = {
    Obstacle.NAME: "Check the name in --base-url and this machine's name service; a proxy may be needed "
    "(BATCHCANCEL_PROXY).",
    Obstacle.CONNECTION: "Check that a firewall lets this machine out to that port, or name a proxy with "
    "BATCHCANCEL_PROXY.",
    Obstacle.PROXY: "Check BATCHCANCEL_PROXY (or HTTPS_PROXY), its user and password, and that it may open "
    "tunnels to this host.",
    Obstacle.TLS: "Check that this is the right host and port, and that whatever inspects TLS on the way "
    "speaks 1.2 at least.",
    Obstacle.TRUST: "Do not go on before this is understood: somebody may be listening in.",
    Obstacle.TIME: "Check that a firewall does not swallow connections to that port, or name a proxy with "
    "BATCHCANCEL_PROXY.",
}


class Way(Struct, frozen=True, kw_only=True):
    """How a host is called."""

    base_url: str
    proxy: str | None
    ca_file: Path | None
    timeout_s: float
    """For the name, and for each connection."""


NAMES: Final = ("dns", "connection", "tls", "certificate")
"""The checks that are made, in their order."""


async def check_network(way: Way, *, now: Callable[[], float] = time.time) -> AsyncIterator[Check]:
    """Go the way of a request as far as it leads; nothing is said to the host.

    Args:
        way: How the host is called.
        now: Unix seconds.

    Raises:
        SettingsError: The private roots can't be used.
    """
    name = await _check_name(way)
    yield name
    if name.grade is Grade.FAIL:
        for what in NAMES[1:]:
            yield skip(what, "there is no address to connect to")
        return
    far = await reach(way.base_url, ca_file=way.ca_file, proxy=way.proxy, timeout_s=way.timeout_s)
    for check in _judge(far, way, now()):
        yield check


async def _check_name(way: Way) -> Check:
    """Look up what is connected to: the host, or its proxy, which looks the host up itself."""
    host = urlsplit(way.proxy or way.base_url).hostname or ""
    try:
        ipaddress.ip_address(host)
        return ok("dns", f"{host} is an address")
    except ValueError:
        pass
    try:
        addresses = await addresses_of(host, timeout_s=way.timeout_s)
    except NotSentError as exc:
        return fail("dns", f"The name {host} has no address: {exc}.", _TODO[Obstacle.NAME])
    more = f" and {len(addresses) - _SHOWN} more" if len(addresses) > _SHOWN else ""
    by_proxy = ", the proxy; it looks up the host itself" if way.proxy else ""
    return ok("dns", f"{host} is {', '.join(addresses[:_SHOWN])}{more}{by_proxy}")


def _judge(far: Reach, way: Way, now: float) -> list[Check]:
    """Say how far one came, and what of it is well."""
    if far.obstacle is not None and far.obstacle not in {Obstacle.TLS, Obstacle.TRUST}:
        where = "The proxy lets nobody through" if far.obstacle is Obstacle.PROXY else "No connection"
        failed = fail("connection", f"{where}: {far.detail}.", _TODO[far.obstacle])
        return [failed, *(skip(name, "there is no connection") for name in NAMES[2:])]
    through = f" through the proxy at {far.peer}" if way.proxy else f" to {far.peer}"
    took = f" in {far.took_ms:.0f} ms" if far.took_ms else ""
    connected = ok("connection", f"made{through if far.peer else ''}{took}")
    if far.obstacle is Obstacle.TLS:
        failed = fail("tls", f"No TLS from version 1.2 on: {far.detail}.", _TODO[Obstacle.TLS])
        return [connected, failed, skip("certificate", "none was shown")]
    if far.tls_version is None and far.obstacle is None:
        return [connected, *(skip(name, "plain http, which loopback alone may have") for name in NAMES[2:])]
    return [connected, ok("tls", far.tls_version or "spoken"), _judge_certificate(far, way, now)]


def _judge_certificate(far: Reach, way: Way, now: float) -> Check:
    until = "" if far.certificate is None else _until(far.certificate, now)
    if far.obstacle is Obstacle.TRUST:
        shown = f"{far.detail} It was issued by {until}." if until else far.detail
        return fail("certificate", shown, _TODO[Obstacle.TRUST])
    roots = "the system's roots" if way.ca_file is None else f"the system's roots and {way.ca_file}"
    found = f"chain and name verified with {roots}; issued by {until}"
    if far.certificate is not None and far.certificate.valid_until - now < _FEW_DAYS * _DAY_S:
        return warn("certificate", found, "Whoever runs that host has to renew it, or calls will fail then.")
    return ok("certificate", found)


def _until(certificate: HostCertificate, now: float) -> str:
    left = certificate.valid_until - now
    days = int(abs(left) // _DAY_S)
    when = f"{days} days left" if left > 0 else f"expired {days} days ago"
    return f"{certificate.issuer}, {when}"
