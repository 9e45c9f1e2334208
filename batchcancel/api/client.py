"""The client of the Invoicing API: one request in, one reply or one of three failures out."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar

from aiohttp import (
    ClientError,
    ClientHandlerType,
    ClientHttpProxyError,
    ClientRequest,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
)
from yarl import URL

from batchcancel.api.clock import ServiceClock
from batchcancel.api.connector import Connector, tls_context
from batchcancel.api.envelope import encrypted_reply
from batchcancel.api.keys import KeyFiles
from batchcancel.api.reply import parse_http_date, parse_reply
from batchcancel.api.request import method_and_body, target
from batchcancel.api.signing import Signer
from batchcancel.errors import ReplyLostError
from batchcancel.model import ClockSet, DecryptionFailed, Event, Reply, RequestFinished, RequestKind

if TYPE_CHECKING:  # its libraries take a while to load, and most runs need none of them
    from batchcancel.api.encryption import MessageEncryption

T = TypeVar("T")

_MAX_BODY_BYTES: Final = 1 << 20
_UNAUTHORIZED: Final = 401


async def _at_once() -> None:
    """Wait for nothing."""


@dataclass(slots=True, kw_only=True)
class _Errand:
    """A request on its way, as the middleware that signs it has to know it."""

    signer: Signer
    before_repeat: Callable[[], Awaitable[None]]
    has_left: bool = False


_errand: ContextVar[_Errand] = ContextVar("_errand")
"""That of this task: aiohttp hands its middlewares no more than the request."""


class Client:
    """A pool of connections to one host, as an async context manager.

    Connections are kept alive and reused, redirects are not followed, cookies are not kept, and neither
    the environment nor ``.netrc`` is consulted. Every request on the wire is signed by itself, a
    look-up that aiohttp repeats on a dropped connection included.

    Args:
        base_url: Scheme, host and port of the service, such as ``https://api.visaacceptance.com``.
        signer: Signs each request when it leaves, unless another one is named with it.
        encryption: Encrypts requests, and decrypts replies; None sends plain ones. A reply that comes
            encrypted and can't be decrypted counts as one whose body did not come whole.
        key_files: Files that are looked after while requests leave.
        clock: The service's clock; probes and 401s set it.
        concurrency: Most connections at once, 1 or more. Whoever sends more at once waits, and that
            wait counts towards ``connect_timeout_s``.
        timeout_s: One request in all, to the last byte of its reply, in seconds.
        connect_timeout_s: DNS, connect, proxy and TLS handshake together, in seconds.
        ca_file: PEM file of private roots, trusted besides the default ones; None for those only.
        proxy: URL of an HTTP proxy; None connects directly.
        on_event: Told of each finished request, when the clock was set, and what came of keys.

    Raises:
        SettingsError: ``ca_file`` can't be used.
    """

    def __init__(  # noqa: PLR0913 (keyword-only, and each one is a setting of its own)
        self,
        *,
        base_url: str,
        signer: Signer,
        clock: ServiceClock,
        concurrency: int,
        encryption: MessageEncryption | None = None,
        key_files: KeyFiles | None = None,
        timeout_s: float = 30,
        connect_timeout_s: float = 10,
        ca_file: Path | None = None,
        proxy: str | None = None,
        on_event: Callable[[Event], None],
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._signer = signer
        self._encryption = encryption
        self._key_files = key_files or KeyFiles()
        self._clock = clock
        self._concurrency = concurrency
        self._timeout = ClientTimeout(total=timeout_s, connect=connect_timeout_s)
        self._tls = tls_context(ca_file)
        self._proxy = proxy
        self._on_event = on_event
        self._has_told_of_decryption = False
        self._names_agree = True
        """Whether look-ups name invoices as they were asked for; until the contrary is seen."""

    async def __aenter__(self) -> Self:
        """Open the pool; no connection is made yet."""
        # A pool of its own: RSA must not wait for the disk, nor the ledger for RSA.
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="batchcancel-crypto")
        self._connector = Connector(limit=self._concurrency, ssl=self._tls)
        self._session = ClientSession(
            connector=self._connector,
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Content-Type": "application/json;charset=utf-8",
                "User-Agent": f"batchcancel/{version('batchcancel')}",
            },
            cookie_jar=DummyCookieJar(),
            timeout=self._timeout,
            auto_decompress=False,
            trust_env=False,
            proxy=self._proxy,
            middlewares=(self._sign,),
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close every connection; requests that are still under way fail."""
        await self._session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def send(
        self,
        kind: RequestKind,
        invoice_id: str | None = None,
        *,
        signer: Signer | None = None,
        before_repeat: Callable[[], Awaitable[None]] = _at_once,
    ) -> Reply:
        """Send one request and read its reply.

        A cancelation leaves at most once. A look-up whose reply names another invoice is repeated once, on
        a connection of its own; the second reply stands. When the coroutine is cancelled the connection
        is dropped, and the request may have been acted on.

        Args:
            kind: What to ask.
            invoice_id: Which invoice; None for a probe.
            signer: Who signs; None for the client's own signer.
            before_repeat: Awaited before aiohttp repeats a look-up by itself: a place for the rate's limit.

        Returns:
            The reply, whatever its status. If only its status line and headers came whole, it is one
            whose ``is_object`` is false.

        Raises:
            NotSentError: Provably no byte of a cancelation left. A repeated look-up may have.
            ReplyLostError: The request left, or may have, and no status came back.
            HostUntrustedError: The host's certificate is untrusted, expired or for another name.
        """
        url = URL(self._base_url + target(kind, invoice_id), encoded=True)
        started = time.perf_counter()
        reply: Reply | None = None
        failure: str | None = None
        _errand.set(_Errand(signer=signer or self._signer, before_repeat=before_repeat))
        try:
            reply = await self._exchange(kind, url, started)
            if self._names_agree and _is_for_another(reply, invoice_id):
                # Where replies and requests are out of step, every later reply here is another's too.
                was_used = self._connector.drop_current()
                if kind is RequestKind.LOOK_UP:
                    reply = await self._exchange(kind, url, started) if was_used else reply
                    if _is_for_another(reply, invoice_id):
                        # On an unused connection nothing is out of step: the service has names of its own.
                        self._names_agree = False
                        self._connector.trust_reuse()
        except BaseException as exc:
            failure = type(exc.__cause__ or exc).__name__
            raise
        finally:
            self._on_event(
                RequestFinished(
                    kind=kind,
                    invoice_id=invoice_id,
                    http_status=None if reply is None else reply.http_status,
                    failure=failure,
                    latency_ms=_since_ms(started),
                    correlation_id=None if reply is None else reply.correlation_id,
                )
            )
        return reply

    async def _exchange(self, kind: RequestKind, url: URL, started: float) -> Reply:
        method, body = method_and_body(kind)
        if body is not None and self._encryption is not None:
            body = self._encryption.encrypt(body, now=self._clock.now())
        try:
            async with self._session.request(method, url, data=body, allow_redirects=False) as response:
                if kind is RequestKind.PROBE or response.status == _UNAUTHORIZED:
                    self._set_clock(response.headers.get("Date", ""))
                content = await _read(response)
        except ClientHttpProxyError as exc:
            return Reply(http_status=exc.status, latency_ms=_since_ms(started))
        # A reply that aiohttp can't parse is a ClientResponseError too, with a status that it made up.
        except (ClientError, TimeoutError, OSError) as exc:
            raise ReplyLostError(type(exc).__name__) from exc
        latency_ms = _since_ms(started)
        return parse_reply(
            response.status,
            response.headers,
            await self._decrypt(content),
            now=self._clock.now(),
            latency_ms=latency_ms,
        )

    async def _sign(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Sign exactly what is about to leave; aiohttp calls this again for each repeat."""
        errand = _errand.get()
        if errand.has_left:
            await errand.before_repeat()
        errand.has_left = True
        if self._key_files.are_due():
            # Shielded: what came of it is told, whatever becomes of this request.
            self._looking = asyncio.create_task(self._look_after_keys())
            await asyncio.shield(self._looking)
        sign = partial(
            errand.signer.headers,
            method=request.method,
            target=request.url.raw_path_qs,
            host=request.headers["Host"],
            body=await request.body.as_bytes() if request.body else None,
            now=self._clock.now(),
        )
        request.headers.update(await self._in_thread(sign) if errand.signer.is_slow else sign())
        return await handler(request)

    async def _look_after_keys(self) -> None:
        for change in await self._in_thread(self._key_files.reload):
            self._on_event(change)

    async def _decrypt(self, content: bytes | None) -> bytes | None:
        """Return a body as it was meant; None if there is none, or it can't be decrypted."""
        token = None if content is None else encrypted_reply(content)
        if token is None:
            return content
        encryption = self._encryption
        plain = None if encryption is None else await self._in_thread(partial(encryption.decrypt, token))
        if plain is None and not self._has_told_of_decryption:
            self._has_told_of_decryption = True
            self._on_event(DecryptionFailed(has_key=encryption is not None and encryption.decrypts))
        return plain

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run what keeps a core busy, off the event loop; when cancelled, its result is dropped."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _set_clock(self, date: str) -> None:
        service_time = parse_http_date(date)
        if service_time is not None and self._clock.note(service_time):
            self._on_event(ClockSet(offset_s=self._clock.offset_s))


async def _read(response: ClientResponse) -> bytes | None:
    """Return the whole body; None, and the connection is dropped, if it breaks off or is too long."""
    content = bytearray()
    try:
        async for chunk in response.content.iter_any():
            content += chunk
            if len(content) > _MAX_BODY_BYTES:
                response.close()
                return None
    except (ClientError, TimeoutError, OSError):
        response.close()
        return None
    return bytes(content)


def _is_for_another(reply: Reply, invoice_id: str | None) -> bool:
    named = {reply.invoice.id, reply.invoice.number} - {None}
    return invoice_id is not None and bool(named) and invoice_id not in named


def _since_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000
