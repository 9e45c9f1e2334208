"""Tell others of a run's start and end: a health check by a call, a receiver of JSON by a POST.

Nothing here delays a run or changes how it ends. Addresses may hold tokens, so only their hosts are named.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from batchcancel.observe.names import addresses_of

_TIMEOUT_S: Final = 5.0
_WAITS_S: Final = (0.0, 0.5, 1.0)
"""Before each try. A refusal is final; what may be gone the next moment is tried again."""
_GRACE_S: Final = 1.0
"""How long the end of a run waits for the word of its start that is under way."""

Body = Mapping[str, Any]


class Ping(StrEnum):
    """What a health check is told, and what is added to its address for it."""

    START = "/start"
    SUCCESS = ""
    FAILURE = "/fail"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Receiver:
    """Somebody who is told."""

    url: str
    proxy: str | None = None

    def __repr__(self) -> str:
        """Show the host alone: the rest may be a token."""
        return f"Receiver({self.host})"

    @property
    def host(self) -> str:
        """All of the address that may be shown."""
        return urlsplit(self.url).hostname or ""


class Notices:
    """The words about one run."""

    def __init__(
        self, *, ping: Receiver | None, notify: Receiver | None, on_failure: Callable[[str, str], None]
    ) -> None:
        """Prepare; nothing is sent.

        Args:
            ping: A health check; None for none.
            notify: Who takes JSON; None for nobody.
            on_failure: Told of each that could not be told: the host, and why in a few words.
        """
        self._ping = ping
        self._notify = notify
        self._on_failure = on_failure
        self._starting: asyncio.Task[None] | None = None

    def begin(self, notice: Body) -> None:
        """Tell of the start, beside whatever else the event loop does."""
        self._starting = asyncio.create_task(self._tell(Ping.START, notice, _WAITS_S))

    async def finish_beginning(self) -> None:
        """Return once nothing about the start is under way any more; a second later at most.

        A health check that heard of the start after the end would wait for an end that never comes.
        """
        if self._starting is not None:
            await asyncio.wait([self._starting], timeout=_GRACE_S)
            if self._starting.cancel():
                await asyncio.wait([self._starting])

    async def end(self, notice: Body, *, is_failure: bool, in_a_hurry: bool) -> None:
        """Tell of the end; returns once everyone knows or was tried often enough, within 17 s.

        Args:
            notice: What the receiver of JSON is told.
            is_failure: What the health check is told.
            in_a_hurry: Whether there is only one try, of 5 s: whoever sent a signal waits.
        """
        ping = Ping.FAILURE if is_failure else Ping.SUCCESS
        await self._tell(ping, notice, _WAITS_S[:1] if in_a_hurry else _WAITS_S)

    async def _tell(self, ping: Ping, notice: Body, waits_s: Iterable[float]) -> None:
        words: list[Coroutine[Any, Any, None]] = []
        if self._ping is not None:
            words.append(self._send(self._ping, _with_path(self._ping.url, ping), None, waits_s))
        if self._notify is not None:
            words.append(self._send(self._notify, self._notify.url, notice, waits_s))
        await asyncio.gather(*words)

    async def _send(self, receiver: Receiver, url: str, body: Body | None, waits_s: Iterable[float]) -> None:
        problem: str | None = "the run was over first"
        try:
            for wait_s in waits_s:
                await asyncio.sleep(wait_s)
                problem, is_final = await _try(receiver, url, body)
                if is_final:
                    break
        finally:
            if problem is not None:
                self._on_failure(receiver.host, problem)


async def _try(receiver: Receiver, url: str, body: Body | None) -> tuple[str | None, bool]:
    """Send once; return what went wrong, None if nothing, and whether it is no use to try again."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        # No cookies, no .netrc, no proxy but the one that was decided on.
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=_Resolver()),
                timeout=timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
            ) as session,
            session.request(
                "GET" if body is None else "POST",
                URL(url, encoded=True),
                json=body,
                proxy=receiver.proxy,
                allow_redirects=False,  # an address that somebody else chose
                headers={"User-Agent": "batchcancel"},
            ) as reply,
        ):
            status = reply.status
    except TimeoutError:
        return "no reply in time", False
    except Exception as exc:  # noqa: BLE001 - whatever it is must not end a run; its text may hold the address
        return _in_words(exc), False
    if 200 <= status < 300:
        return None, True
    return f"HTTP {status}", status < 500 and status not in {408, 429}


def _in_words(exc: Exception) -> str:
    """Say why nothing came back, without the text of the error."""
    match exc:
        case aiohttp.ClientConnectorCertificateError():
            return "its certificate can't be trusted"
        case aiohttp.ClientSSLError():
            return "TLS failed"
        case aiohttp.ClientConnectorDNSError():
            return "its name has no address"
        case aiohttp.ClientProxyConnectionError():
            return "the proxy can't be reached"
        case aiohttp.ClientConnectorError():
            return "it can't be reached"
        case _:
            return type(exc).__name__


class _Resolver(AbstractResolver):
    """Looks names up where nobody waits for the thread, as aiohttp's own would at the end of the loop."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=0)
            for kind, address in await addresses_of(host, family)
        ]

    async def close(self) -> None:
        """Leave what is under way to its thread."""


def _with_path(url: str, ping: Ping) -> str:
    """Add to the path of an address, before its query."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + ping.value)) if ping else url
