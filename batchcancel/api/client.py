"""The client of the Invoicing API: one request in, one reply or one of three failures out."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar

from batchcancel.api.clock import ServiceClock
from batchcancel.api.connections import tls_context
from batchcancel.api.dates import parse_http_date
from batchcancel.api.envelope import encrypted_reply
from batchcancel.api.keys import KeyFiles
from batchcancel.api.observation import Observation, observe
from batchcancel.api.reply import parse_reply
from batchcancel.api.request import method_and_body, target
from batchcancel.api.signing import Signer
from batchcancel.api.threads import Threads
from batchcancel.api.wire import MAX_BODY_BYTES, Answer, KeptConnectionDroppedError, Wire
from batchcancel.model import ClockSet, DecryptionFailed, Event, Reply, RequestFinished, RequestKind, Subject

if TYPE_CHECKING:  # its libraries take a while to load, and most runs need none of them
    from batchcancel.api.encryption import MessageEncryption

T = TypeVar("T")

_UNAUTHORIZED: Final = 401
_MAX_PAGE_BYTES: Final = 32 << 20
"""A thousand invoices of a list, with room for long ones."""


async def _at_once() -> None:
    """Wait for nothing."""


@dataclass(slots=True, kw_only=True)
class _Errand:
    """What is to be asked, and what to do about it before it leaves."""

    kind: RequestKind
    method: str
    target: str
    body: bytes | None
    """Plain."""
    signer: Signer
    before_repeat: Callable[[], Awaitable[None]]
    has_left: bool = False


class Client:
    """A pool of connections to one host, as an async context manager.

    Connections are kept alive and reused, redirects are not followed, cookies are not kept, and neither
    the environment nor ``.netrc`` is consulted. Every request on the wire is signed by itself, a
    look-up that is repeated because its connection was dropped included.

    Args:
        base_url: Scheme, host and port of the service, such as ``https://api.visaacceptance.com``.
        signer: Signs each request when it leaves, unless another one is named with it.
        encryption: Encrypts requests, and decrypts replies; None sends plain ones. A reply that comes
            encrypted and can't be decrypted counts as one whose body did not come whole.
        key_files: Files that are looked after while requests leave.
        clock: The service's clock; probes and 401s set it.
        concurrency: Most connections at once, 1 or more. Whoever sends more at once waits, and that
            wait counts towards ``connect_timeout_s``.
        timeout_s: One request on the wire in all, to the last byte of its reply, in seconds.
        connect_timeout_s: DNS, connect, proxy and TLS handshake together, in seconds.
        ca_file: PEM file of private roots, trusted besides the default ones; None for those only.
        proxy: URL of an HTTP proxy; None connects directly.
        is_read_only: Whether requests that would change anything are refused, whoever asks for them.
        on_event: Told of each finished request, when the clock was set, and what came of keys.
        on_observation: Told what each reply was like; None, as in a run, looks at none.

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
        is_read_only: bool = False,
        on_event: Callable[[Event], None],
        on_observation: Callable[[Observation], None] | None = None,
    ) -> None:
        self._base_url = base_url
        self._signer = signer
        self._encryption = encryption
        self._key_files = key_files or KeyFiles()
        self._clock = clock
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._tls = tls_context(ca_file)
        self._proxy = proxy
        self._is_read_only = is_read_only
        self._on_event = on_event
        self._on_observation = on_observation
        self._has_told_of_decryption = False
        self._names_agree = True
        """Whether look-ups name invoices as they were asked for; until the contrary is seen."""

    async def __aenter__(self) -> Self:
        """Open the pool; no connection is made yet."""
        # A pool of its own: RSA must not wait for the disk, nor the ledger for RSA.
        self._threads = Threads(os.cpu_count() or 1)
        self._wire = Wire(
            self._base_url,
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Content-Type": "application/json;charset=utf-8",
                "User-Agent": f"batchcancel/{version('batchcancel')}",
            },
            concurrency=self._concurrency,
            timeout_s=self._timeout_s,
            connect_timeout_s=self._connect_timeout_s,
            tls=self._tls,
            proxy=self._proxy,
            is_read_only=self._is_read_only,
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close every connection; requests that are still under way fail."""
        await self._wire.close()
        self._threads.close()

    async def send(
        self,
        kind: RequestKind,
        subject: Subject = None,
        *,
        signer: Signer | None = None,
        before_repeat: Callable[[], Awaitable[None]] = _at_once,
    ) -> Reply:
        """Send one request and read its reply.

        What changes anything leaves at most once. A read is repeated once if a kept connection is dropped
        under it; a look-up once more, on a connection of its own, if its reply names another invoice, and
        that reply stands.
        When the coroutine is cancelled the connection is dropped, and the request may have been acted on.

        Args:
            kind: What to ask.
            subject: About what; None for a probe.
            signer: Who signs; None for the client's own signer.
            before_repeat: Awaited before a look-up leaves again: a place for the rate's limit.

        Returns:
            The reply, whatever its status. If only its status line and headers came whole, it is one
            whose ``is_object`` is false.

        Raises:
            NotSentError: Provably no byte left of what would change anything. A repeated read may have.
            ReplyLostError: The request left, or may have, and no status came back.
            HostUntrustedError: The host's certificate is untrusted, expired or for another name.
            ReadOnlyError: It would change something, and this client only reads.
        """
        invoice_id = subject if isinstance(subject, str) else None
        method, body = method_and_body(kind, subject)
        errand = _Errand(
            kind=kind,
            method=method,
            target=target(kind, subject),
            body=body,
            signer=signer or self._signer,
            before_repeat=before_repeat,
        )
        started = time.perf_counter()
        reply: Reply | None = None
        failure: str | None = None
        try:
            reply, answer = await self._ask(errand, started)
            if self._names_agree and _is_for_another(reply, invoice_id):
                # Where replies and requests are out of step, every later reply here is another's too.
                was_used = self._wire.drop(answer)
                if kind is RequestKind.LOOK_UP:
                    if was_used:
                        reply, _ = await self._ask(errand, started)
                    if _is_for_another(reply, invoice_id):
                        # On an unused connection nothing is out of step: the service has names of its own.
                        self._names_agree = False
                        self._wire.trust_reuse()
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

    async def _ask(self, errand: _Errand, started: float) -> tuple[Reply, Answer]:
        try:
            answer = await self._leave(errand)
        except KeptConnectionDroppedError:
            if not errand.kind.is_read:
                raise
            answer = await self._leave(errand)
        if errand.kind is RequestKind.PROBE or answer.status == _UNAUTHORIZED:
            self._set_clock(answer.headers.get("Date", ""))
        latency_ms = _since_ms(started)
        content = answer.content
        token = None if content is None else encrypted_reply(content)
        if token is not None:
            content = await self._decrypt(token)
        if self._on_observation is not None:
            self._on_observation(
                observe(
                    answer.status,
                    answer.headers,
                    content,
                    was_encrypted=token is not None,
                    was_kept=answer.link is not None and answer.link.was_used,
                )
            )
        reply = parse_reply(
            answer.status, answer.headers, content, now=self._clock.now(), latency_ms=latency_ms
        )
        return reply, answer

    async def _leave(self, errand: _Errand) -> Answer:
        """Sign exactly what is about to leave, each time that it does, and send it."""
        if errand.has_left:
            await errand.before_repeat()
        errand.has_left = True
        if self._key_files.are_due():
            # Shielded: what came of it is told, whatever becomes of this request.
            self._looking = asyncio.create_task(self._look_after_keys())
            await asyncio.shield(self._looking)
        body = errand.body
        now = self._clock.now()
        if body is not None and self._encryption is not None:
            body = self._encryption.encrypt(body, now=now)
        if errand.signer.is_slow:
            headers = await self._threads.run(partial(self._sign, errand, body, now))
        else:
            headers = self._sign(errand, body, now)
        max_bytes = _MAX_PAGE_BYTES if errand.kind is RequestKind.LIST else MAX_BODY_BYTES
        return await self._wire.send(
            errand.method, errand.target, headers=headers, body=body, max_bytes=max_bytes
        )

    def _sign(self, errand: _Errand, body: bytes | None, now: float) -> dict[str, str]:
        return errand.signer.headers(
            method=errand.method, target=errand.target, host=self._wire.host, body=body, now=now
        )

    async def _look_after_keys(self) -> None:
        for change in await self._threads.run(self._key_files.reload):
            self._on_event(change)

    async def _decrypt(self, token: str) -> bytes | None:
        """Return an encrypted body as it was meant; None if it can't be decrypted."""
        encryption = self._encryption
        plain = None if encryption is None else await self._threads.run(partial(encryption.decrypt, token))
        if plain is None and not self._has_told_of_decryption:
            self._has_told_of_decryption = True
            self._on_event(DecryptionFailed(has_key=encryption is not None and encryption.decrypts))
        return plain

    def _set_clock(self, date: str) -> None:
        service_time = parse_http_date(date)
        if service_time is not None and self._clock.note(service_time):
            self._on_event(ClockSet(offset_s=self._clock.offset_s))


def _is_for_another(reply: Reply, invoice_id: str | None) -> bool:
    named = (reply.invoice.id, reply.invoice.number)
    return invoice_id is not None and invoice_id not in named and named != (None, None)


def _since_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000
