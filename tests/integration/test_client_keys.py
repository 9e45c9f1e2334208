"""The client with certificates, against a server that verifies, decrypts and encrypts on its own."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from joserfc import jwe, jwt
from joserfc.jwk import RSAKey

from batchcancel.api.client import Client
from batchcancel.api.clock import ServiceClock
from batchcancel.api.encryption import MessageEncryption
from batchcancel.api.keys import KeyFile, KeyFiles
from batchcancel.job import Job
from batchcancel.job.keys import Keys, load_keys
from batchcancel.model import DecryptionFailed, Event, KeyFileChanged, Reason, RequestKind, Result
from batchcancel.sandbox import Sandbox, SandboxOptions
from batchcancel.settings import load_settings

if TYPE_CHECKING:
    from batchcancel.api.signing import Signer

_VECTORS: Final = json.loads((Path(__file__).parent.parent / "vectors" / "auth_vectors.json").read_bytes())
_SERVICE: Final = _VECTORS["mle"]["keys"]["sjc"]
_RESPONSE: Final = _VECTORS["mle"]["keys"]["response_mle"]
# Parsed once: that takes a while.
_SIGNING_KEYS: Final = {
    one["expected_kid"]: RSAKey.import_key(one["private_key_pem"])
    for one in _VECTORS["p12_material"].values()
    if "expected_kid" in one
}
_SERVICE_KEY: Final = RSAKey.import_key(_SERVICE["private_key_pem"])
_RESPONSE_KEY: Final = RSAKey.import_key(_RESPONSE["private_key_pem"])
_PORTFOLIO: Final = _VECTORS["p12_material"]["portfolio"]
_OTHERS_KEY: Final = _SIGNING_KEYS[_PORTFOLIO["expected_kid"]]
_REGISTRY: Final = jwe.JWERegistry(algorithms=["RSA-OAEP-256", "A256GCM"], strict_check_header=False)
_NOW: Final = 1767225600.0
_ENVIRONMENT: Final = {
    "BATCHCANCEL_AUTH": "p12",
    "BATCHCANCEL_MERCHANT_ID": "testmid_0001",
    "BATCHCANCEL_P12_FILE": "merchant.p12",
    "BATCHCANCEL_P12_PASSWORD": "merchant-pass",
    "BATCHCANCEL_MLE": "both",
    "BATCHCANCEL_MLE_RESPONSE_KEY_FILE": "response.p12",
    "BATCHCANCEL_MLE_RESPONSE_KEY_PASSWORD": "response-pass",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A request that the server has verified."""

    method: str
    header: dict[str, Any]
    claims: dict[str, Any]
    body: bytes
    """Decrypted where it came encrypted."""
    was_encrypted: bool


@dataclass(slots=True)
class _Service:
    """Checks each request by what the documentation says, with a JOSE library and no code of the client's."""

    status: int = 200
    fields: dict[str, Any] = field(default_factory=lambda: {"status": "CANCELED"})
    encrypts: bool = True
    reply: bytes | None = None
    """What to answer instead, byte for byte."""
    asked: list[_Asked] = field(default_factory=list)
    base_url: str = ""

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        bearer = request.headers["Authorization"].removeprefix("Bearer ")
        kid = json.loads(base64.urlsafe_b64decode(bearer.split(".")[0] + "=="))["kid"]
        token = jwt.decode(bearer, _SIGNING_KEYS[kid], algorithms=["RS256"])
        assert token.claims["request-method"] == request.method
        assert token.claims["request-resource-path"] == request.raw_path
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        assert token.claims.get("digest") == (digest if body else None)
        plain, was_encrypted = self._decrypt(body)
        self.asked.append(
            _Asked(
                method=request.method,
                header=token.header,
                claims=token.claims,
                body=plain,
                was_encrypted=was_encrypted,
            )
        )
        return web.Response(body=self.reply or self._answer(request), status=self.status)

    @staticmethod
    def _decrypt(body: bytes) -> tuple[bytes, bool]:
        if b"encryptedRequest" not in body:
            return body, False
        opened = jwe.decrypt_compact(
            json.loads(body)["encryptedRequest"],
            _SERVICE_KEY,
            registry=_REGISTRY,
        )
        assert opened.protected == {
            "alg": "RSA-OAEP-256",
            "enc": "A256GCM",
            "kid": _SERVICE["expected_kid"],
            "iat": int(_NOW),
        }
        assert opened.plaintext is not None
        return opened.plaintext, True

    def _answer(self, request: web.Request) -> bytes:
        fields = {"id": request.path.split("/")[4] if request.path.count("/") > 3 else None} | self.fields
        plain = json.dumps(fields).encode()
        return encrypted(plain) if self.encrypts else plain


def encrypted(plain: bytes, key: RSAKey = _RESPONSE_KEY) -> bytes:
    """Encrypt a reply as the service does."""
    header = {"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": _RESPONSE["expected_kid"], "iat": str(_NOW)}
    token = jwe.encrypt_compact(header, plain, key, registry=_REGISTRY)
    return json.dumps({"encryptedResponse": token}).encode()


@pytest.fixture(autouse=True)
def _key_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in a folder with the vectors' throwaway keys."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", {})
    _write("merchant.p12", _VECTORS["p12_material"]["merchant"]["p12_base64"])
    _write("response.p12", _RESPONSE["p12_base64"])
    Path("invoices.txt").write_text("2675\n2676\n", encoding="ascii")


def _write(path: str, content_base64: str) -> None:
    Path(path).write_bytes(base64.b64decode(content_base64))
    Path(path).chmod(0o600)


def _write_bytes(path: str, content: bytes) -> None:
    """Put a new file in the old one's place."""
    fresh = Path(f"{path}.fresh")
    fresh.write_bytes(content)
    fresh.chmod(0o600)
    fresh.replace(path)


def _keys(**environ: str) -> Keys:
    return load_keys(load_settings(["x.csv"], environ=_ENVIRONMENT | environ, env="test"))


@pytest.fixture
async def service() -> AsyncIterator[_Service]:
    """Serve on loopback."""
    service = _Service()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", service.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield service
    await runner.cleanup()


@dataclass(slots=True)
class _Run:
    client: Client
    events: list[Event]

    def told(self, kind: type[Event]) -> list[Event]:
        """Return the events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]


@asynccontextmanager
async def _running(
    service: _Service,
    keys: Keys,
    *,
    signer: Signer | None = None,
    encryption: MessageEncryption | None = None,
    files: KeyFiles | None = None,
) -> AsyncIterator[_Run]:
    events: list[Event] = []
    client = Client(
        base_url=service.base_url,
        signer=signer or keys.signer,
        encryption=encryption or keys.encryption,
        key_files=files or keys.files,
        clock=ServiceClock(lambda: _NOW),
        concurrency=8,
        on_event=events.append,
    )
    async with client:
        yield _Run(client, events)


# --- requests -------------------------------------------------------------------------------------


async def test_cancelation_is_encrypted_and_signed_as_sent(service: _Service) -> None:
    """The digest covers the wrapped body; the plain one inside is the documented one."""
    async with _running(service, _keys()) as run:
        reply = await run.client.send(RequestKind.CANCEL, "2675")
    (asked,) = service.asked
    assert (asked.method, asked.body, asked.was_encrypted) == ("POST", b"{}", True)
    assert asked.header["kid"] == _VECTORS["p12_material"]["merchant"]["expected_kid"]
    assert asked.claims["v-c-response-mle-kid"] == _RESPONSE["expected_kid"]
    assert (reply.is_object, reply.invoice.id, reply.invoice.status) == (True, "2675", "CANCELED")
    assert run.told(DecryptionFailed) == []


@pytest.mark.parametrize("kind", [RequestKind.LOOK_UP, RequestKind.PROBE], ids=str)
async def test_reading_is_not_encrypted_but_asks_for_it(service: _Service, kind: RequestKind) -> None:
    """A GET has no body and no digest, and still names the key for its reply."""
    async with _running(service, _keys()) as run:
        reply = await run.client.send(kind, "2675" if kind is RequestKind.LOOK_UP else None)
    (asked,) = service.asked
    assert (asked.method, asked.body, asked.was_encrypted) == ("GET", b"", False)
    assert "digest" not in asked.claims
    assert asked.claims["v-c-response-mle-kid"] == _RESPONSE["expected_kid"]
    assert reply.invoice.status == "CANCELED"


async def test_encrypted_requests_may_have_plain_replies(service: _Service) -> None:
    """With ``request``, no token asks for an encrypted one."""
    service.encrypts = False
    async with _running(service, _keys(BATCHCANCEL_MLE="request")) as run:
        reply = await run.client.send(RequestKind.CANCEL, "2675")
    (asked,) = service.asked
    assert asked.was_encrypted
    assert "v-c-response-mle-kid" not in asked.claims
    assert reply.invoice.status == "CANCELED"


async def test_each_cancelation_is_encrypted_and_signed_anew(service: _Service) -> None:
    """No token is used twice, and many at once do not mix."""
    async with _running(service, _keys()) as run:
        replies = await asyncio.gather(
            *(run.client.send(RequestKind.CANCEL, f"INV-{number}") for number in range(40))
        )
    assert [reply.invoice.id for reply in replies] == [f"INV-{number}" for number in range(40)]
    assert len({asked.claims["jti"] for asked in service.asked}) == 40


# --- replies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encrypts", [True, False], ids=["encrypted", "plain"])
@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 502])
async def test_reply_is_read_encrypted_or_plain_on_any_status(
    service: _Service, status: int, *, encrypts: bool
) -> None:
    """A gateway that answers in front of the service has no key."""
    service.status, service.encrypts = status, encrypts
    service.fields = {"status": "X", "message": "why"}
    async with _running(service, _keys()) as run:
        reply = await run.client.send(RequestKind.LOOK_UP, "2675")
    assert (reply.http_status, reply.is_object, reply.invoice.status) == (status, True, "X")
    assert reply.message == ("why" if status >= 400 else None)
    assert run.told(DecryptionFailed) == []


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(encrypted(b'{"id":"2675","status":"CANCELED"}', _OTHERS_KEY), id="another key"),
        pytest.param(b'{"encryptedResponse":"CANCELED"}', id="no JWE"),
        pytest.param(b'{"encryptedResponse":"eyJ.a.b.c.d"}', id="hollow JWE"),
    ],
)
@pytest.mark.parametrize("status", [200, 404])
async def test_reply_that_can_not_be_decrypted_is_unreadable(
    service: _Service, status: int, reply: bytes
) -> None:
    """Never canceled, never not found: nothing of it was read. One event tells, however many come."""
    service.status, service.reply = status, reply
    async with _running(service, _keys()) as run:
        replies = [await run.client.send(RequestKind.CANCEL, "2675") for _ in range(3)]
    for one in replies:
        assert one.http_status == status
        assert one.is_unreadable
        assert one.invoice.status is None
    assert run.told(DecryptionFailed) == [DecryptionFailed(has_key=True)]


@pytest.mark.parametrize("mle", ["off", "request"])
async def test_encrypted_reply_that_nobody_asked_for_is_unreadable(service: _Service, mle: str) -> None:
    """An object that hides its status must not count as one that has none."""
    service.status = 404
    async with _running(service, _keys(BATCHCANCEL_MLE=mle)) as run:
        reply = await run.client.send(RequestKind.LOOK_UP, "2675")
    assert reply.is_unreadable
    assert run.told(DecryptionFailed) == [DecryptionFailed(has_key=False)]


async def test_decrypted_text_is_judged_like_any_other(service: _Service) -> None:
    """Encryption makes neither a page of HTML an object nor two statuses one."""
    for plain in (b"<html>", b'{"status":"PAID","status":"CANCELED"}', b'["CANCELED"]'):
        service.reply = encrypted(plain)
        async with _running(service, _keys()) as run:
            reply = await run.client.send(RequestKind.CANCEL, "2675")
        assert not reply.is_object
        assert run.told(DecryptionFailed) == []


# --- threads --------------------------------------------------------------------------------------


class _ThreadsSeen:
    """A signer and an encryption that note which thread they run in."""

    def __init__(self, keys: Keys, *, is_slow: bool) -> None:
        assert keys.encryption is not None
        self._signer = keys.signer
        self.is_slow = is_slow
        self.signing: list[threading.Thread] = []
        self.decrypting: list[threading.Thread] = []
        self._decrypt = keys.encryption.decrypt
        keys.encryption.decrypt = self.decrypt  # type: ignore[method-assign] # to see its thread

    def headers(self, **request: Any) -> dict[str, str]:
        self.signing.append(threading.current_thread())
        return self._signer.headers(**request)

    def decrypt(self, token: str) -> bytes | None:
        self.decrypting.append(threading.current_thread())
        return self._decrypt(token)


@pytest.mark.parametrize("is_slow", [True, False], ids=["slow", "quick"])
async def test_only_what_is_slow_leaves_the_loop(service: _Service, *, is_slow: bool) -> None:
    """RSA signatures and decryption run in threads of the client's own; quick signatures stay."""
    keys = _keys()
    seen = _ThreadsSeen(keys, is_slow=is_slow)
    async with _running(service, keys, signer=seen) as run:
        await asyncio.gather(*(run.client.send(RequestKind.LOOK_UP, "2675") for _ in range(4)))
    is_loops = {thread is threading.current_thread() for thread in seen.signing}
    assert is_loops == {not is_slow}
    assert all(thread.name.startswith("batchcancel-crypto") for thread in seen.decrypting)
    assert len(seen.decrypting) == 4


async def test_cancelling_while_signing_sends_nothing(service: _Service) -> None:
    """The signature is dropped; the next request is served as ever."""
    keys = _keys()
    go_on = threading.Event()
    began = threading.Event()

    class Waiting:
        is_slow = True

        @staticmethod
        def headers(**request: Any) -> dict[str, str]:
            began.set()
            go_on.wait(30)
            return keys.signer.headers(**request)

    async with _running(service, keys, signer=Waiting()) as run:
        sending = asyncio.create_task(run.client.send(RequestKind.CANCEL, "2675"))
        await asyncio.to_thread(began.wait, 30)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        go_on.set()
        await run.client.send(RequestKind.LOOK_UP, "2676")
    assert [asked.method for asked in service.asked] == ["GET"]


# --- files that change ----------------------------------------------------------------------------


@pytest.mark.parametrize("is_good", [True, False], ids=["good", "broken"])
async def test_key_file_that_changes_is_read_again_without_stopping(
    service: _Service, *, is_good: bool
) -> None:
    """Requests go on, with the new key or, if it is no good, with the old one; one event tells."""
    keys = _keys(BATCHCANCEL_KEY_ALIAS="testmid_0001", BATCHCANCEL_MLE="off")
    now_s = 0.0
    files = KeyFiles(keys.files._files, monotonic=lambda: now_s)
    async with _running(service, keys, files=files) as run:
        await run.client.send(RequestKind.LOOK_UP, "1")
        # The portfolio's key has another alias: a stand-in for a file that is no good.
        material = _VECTORS["p12_material"]["merchant" if is_good else "portfolio"]
        _write("merchant.p12", material["p12_base64"])
        await run.client.send(RequestKind.LOOK_UP, "2")
        assert run.told(KeyFileChanged) == [], "it is not looked at before its time"
        now_s = 5.0
        await asyncio.gather(*(run.client.send(RequestKind.LOOK_UP, "3") for _ in range(6)))
    (change,) = run.told(KeyFileChanged)
    assert isinstance(change, KeyFileChanged)
    assert change.path == "merchant.p12"
    assert (change.problem is None) == is_good
    assert len(service.asked) == 8


@pytest.mark.parametrize("auth", ["jwt", "http_signature"])
async def test_secret_file_that_changes_is_read_again_without_stopping(auth: str) -> None:
    """Five seconds after the last look the new secret signs; one that is none leaves it in force."""
    old, new = (base64.b64encode(bytes([number]) * 32) for number in (1, 2))
    _write_bytes("secret", old)
    ids = {"BATCHCANCEL_MERCHANT_ID": "m", "BATCHCANCEL_KEY_ID": "k", "BATCHCANCEL_AUTH": auth}
    settings = load_settings(
        ["x.csv"], environ=ids | {"BATCHCANCEL_SHARED_SECRET_FILE": "secret"}, env="test"
    )
    keys = load_keys(settings)
    now_s = 0.0
    files = KeyFiles(keys.files._files, monotonic=lambda: now_s)
    before, after = (
        Sandbox(SandboxOptions(merchant_id="m", key_id="k", secret=secret.decode())) for secret in (old, new)
    )
    told: list[Event] = []

    async def ask(base_url: str) -> int:
        client = Client(
            base_url=base_url,
            signer=keys.signer,
            key_files=files,
            clock=ServiceClock(time.time),
            concurrency=2,
            on_event=told.append,
        )
        async with client:
            return (await client.send(RequestKind.LOOK_UP, "1")).http_status

    def changes() -> list[str | None]:
        return [event.problem for event in told if isinstance(event, KeyFileChanged)]

    async with before, after:
        assert await ask(before.base_url) == 200
        _write_bytes("secret", new)
        now_s = 4.9
        assert [await ask(sandbox.base_url) for sandbox in (before, after)] == [200, 401]
        now_s = 5.0
        assert [await ask(sandbox.base_url) for sandbox in (after, before)] == [200, 401]
        assert changes() == [None]
        _write_bytes("secret", b"hunter2!")
        now_s = 10.0
        assert await ask(after.base_url) == 200, "what is no secret leaves the one that is"
    assert len(changes()) == 2
    assert "is not base64" in str(changes()[1])
    assert "hunter2" not in str(told)


async def test_change_is_told_though_its_request_is_cancelled(service: _Service) -> None:
    """Whoever sends next must not wonder which key it was."""
    keys = _keys(BATCHCANCEL_MLE="off")
    began, go_on = threading.Event(), threading.Event()
    path = Path("merchant.p12")

    def load() -> None:
        if path.stat().st_size == 0:
            began.set()
            go_on.wait(30)

    now_s = 0.0
    files = KeyFiles([KeyFile([path], load)], monotonic=lambda: now_s)
    async with _running(service, keys, files=files) as run:
        _write_bytes(str(path), b"")
        now_s = 5.0
        sending = asyncio.create_task(run.client.send(RequestKind.LOOK_UP, "1"))
        await asyncio.to_thread(began.wait, 30)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        go_on.set()
        async with asyncio.timeout(10):
            while not run.told(KeyFileChanged):
                await asyncio.sleep(0.01)
    assert run.told(KeyFileChanged) == [KeyFileChanged(path="merchant.p12", problem=None)]
    assert service.asked == []


async def test_reply_for_the_key_before_is_read_after_a_change(service: _Service) -> None:
    """It was on its way when the key changed: its token named the old one."""
    keys = _keys(BATCHCANCEL_MLE_RESPONSE_KEY_ID="one")
    renewed_key = load_pem_private_key(_PORTFOLIO["private_key_pem"].encode(), None)
    protection = BestAvailableEncryption(_ENVIRONMENT["BATCHCANCEL_MLE_RESPONSE_KEY_PASSWORD"].encode())
    async with _running(service, keys) as run:
        _write_bytes("response.p12", renewed_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
        assert [change.problem for change in keys.files.reload()] == [None]
        reply = await run.client.send(RequestKind.CANCEL, "2675")
        service.reply = encrypted(b'{"id":"2675","status":"PAID"}', _OTHERS_KEY)
        renewed = await run.client.send(RequestKind.LOOK_UP, "2675")
    assert (reply.invoice.status, renewed.invoice.status) == ("CANCELED", "PAID")
    assert run.told(DecryptionFailed) == []


# --- the whole ------------------------------------------------------------------------------------


async def _results(service: _Service) -> tuple[list[Result], list[Event]]:
    """Run a whole job over two invoices."""
    settings = load_settings(
        ["invoices.txt"],
        environ=_ENVIRONMENT,
        env="sandbox",
        base_url=service.base_url,
        max_outage=0,
        max_attempts=1,
    )
    events: list[Event] = []
    async with Job(settings, on_event=events.append) as job:
        return [result async for result in job.results()], events


def _ledger_text() -> str:
    return Path("invoices.sandbox.ledger.jsonl").read_text(encoding="utf-8")


@pytest.fixture
def at_the_vectors_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the job's clock at the time that the server expects in each message."""
    monkeypatch.setattr("batchcancel.job.job.time", lambda: _NOW)
    monkeypatch.setattr("batchcancel.api.client.parse_http_date", lambda _: None)


async def test_job_cancels_with_certificates_both_ways(service: _Service, at_the_vectors_time: None) -> None:
    """The ledger says so, and holds neither keys nor passwords nor what was encrypted."""
    results, _ = await _results(service)
    assert sorted((result.invoice_id, result.reason) for result in results) == [
        ("2675", Reason.CANCELED),
        ("2676", Reason.CANCELED),
    ]
    assert [asked.was_encrypted for asked in service.asked] == [False, True, True]
    text = _ledger_text()
    assert '"reason":"canceled"' in text
    for secret in ("-pass", "encryptedRe", "eyJ", ".p12"):
        assert secret not in text


async def test_job_takes_no_reply_that_it_can_not_read_for_an_answer(
    service: _Service, at_the_vectors_time: None
) -> None:
    """With the wrong key for replies no row says canceled or not found: all stay open."""
    service.reply = encrypted(b'{"id":"2675","status":"CANCELED"}', _OTHERS_KEY)
    results, events = await _results(service)
    assert {result.reason for result in results} <= {Reason.UNKNOWN}
    assert [event for event in events if isinstance(event, DecryptionFailed)] == [
        DecryptionFailed(has_key=True)
    ]
