"""Fixtures for every kind of test."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import socketserver
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from unittest.mock import Mock

import aiohttp
import pytest
from aioresponses import aioresponses
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12
from cryptography.x509.oid import NameOID
from hypothesis import settings
from joserfc import jwe, jwt
from joserfc.jwk import RSAKey

from batchcancel.buckets import BUCKETS
from batchcancel.ledger import History
from batchcancel.ledger.record import EndRecord, RunRecord, encode_end, encode_result, encode_run
from batchcancel.model import REASONS, Reason, Result, RunState
from batchcancel.sandbox.throwaway import ThrowawayKeys, keys_in

# A busy machine is no defect: examples may take as long as they take; each test has its time-out.
settings.register_profile("batchcancel", deadline=None)
settings.load_profile("batchcancel")


HoldBlock = Callable[[str, str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what rewrites the generated parts of the documentation."""
    parser.addoption(
        "--rewrite-docs", action="store_true", help="write the generated blocks of docs/ instead of comparing"
    )


@pytest.fixture
def hold_block(request: pytest.FixtureRequest) -> HoldBlock:
    """Give a function that holds a block of a page under ``docs/`` against what the code says.

    The block stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``. With ``--rewrite-docs`` it is
    written, and the test passes.
    """

    def hold(page: str, name: str, text: str) -> None:
        path = Path(__file__).parents[1] / "docs" / page
        before, mark, rest = path.read_text(encoding="utf-8").partition(f"<!-- generated: {name} -->\n")
        block, end, after = rest.partition("<!-- end -->\n")
        assert mark, f"docs/{page} has no block {name}"
        assert end, f"the block {name} of docs/{page} has no end"
        if request.config.getoption("--rewrite-docs"):
            path.write_text(f"{before}{mark}\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
        else:
            again = "run .venv/bin/pytest tests/unit --rewrite-docs -k docs, and look at what changed"
            assert block.strip().splitlines() == text.strip().splitlines(), again

    return hold


LatestReasons = Callable[[History], dict[bytes, Reason]]


@pytest.fixture(scope="session")
def latest_reasons() -> LatestReasons:
    """Give a function that reads the latest reasons of a history, by the digest of an invoice's key."""

    def read(history: History) -> dict[bytes, Reason]:
        return {
            digest: REASONS[place]
            for bucket in range(BUCKETS)
            for digest, place in history.reasons.read(bucket)
        }

    return read


class _MockedResponse(aiohttp.ClientResponse):
    """Fills in an argument that aiohttp 3.14 requires and aioresponses 0.7.9 does not pass."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("stream_writer", Mock(output_size=0))
        super().__init__(*args, **kwargs)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRequest:
    """One request as it stood on the wire."""

    method: str
    target: str
    head: str
    """Request line and headers."""
    first: bool
    """Whether it is the first one on its connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawServer:
    """A server of bytes on loopback, in threads of this process."""

    port: int
    requests: list[RawRequest] = field(default_factory=list)
    """Every request so far, added before it is answered."""
    connections: list[str] = field(default_factory=list)
    """The peer of every connection so far."""

    @property
    def base_url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


RawAnswer = Callable[[socket.socket, RawRequest], None]
"""Writes whatever it likes for one request; raising ``OSError`` closes the connection."""
StartRawServer = Callable[[RawAnswer], RawServer]


class _RawListener(socketserver.ThreadingTCPServer):
    """Give every connection a thread, which nobody waits for."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # a run connects with all its workers at once

    def __init__(self, answer: RawAnswer) -> None:
        super().__init__(("127.0.0.1", 0), _RawConnection)
        self.answer = answer
        self.raw = RawServer(port=self.socket.getsockname()[1])


class _RawConnection(socketserver.StreamRequestHandler):
    """Read requests one after another and have each answered."""

    server: _RawListener

    def handle(self) -> None:
        self.server.raw.connections.append(str(self.client_address))
        first = True
        with suppress(OSError):
            while (line := self.rfile.readline()) not in {b"", b"\r\n"}:
                head = line
                while (line := self.rfile.readline()) not in {b"", b"\r\n"}:
                    head += line
                if b"\r\nContent-Length: 2\r\n" in head:  # the one body that is ever sent: {}
                    self.rfile.read(2)
                method, target, _ = head.decode("latin-1").split(" ", 2)
                request = RawRequest(method=method, target=target, head=head.decode("latin-1"), first=first)
                self.server.raw.requests.append(request)
                self.server.answer(self.connection, request)
                first = False

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()


@pytest.fixture(scope="module")
def start_raw_server() -> Iterator[StartRawServer]:
    """Start servers that answer with any bytes; they end with the module."""
    listeners: list[_RawListener] = []

    def start(answer: RawAnswer) -> RawServer:
        listener = _RawListener(answer)
        listeners.append(listener)
        threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return listener.raw

    yield start
    for listener in listeners:
        listener.shutdown()
        listener.server_close()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHolder:
    """A merchant or a portfolio with throwaway keys, and a JOSE library to use them with.

    What it signs and encrypts is neither the client's work nor the simulator's.
    """

    signer_id: str
    files: ThrowawayKeys
    key_id: str
    """The ``kid`` of its certificate."""
    encryption_key_id: str
    """The ``kid`` of the service's certificate."""
    response_key_id: str
    signing_key: RSAKey = field(repr=False)
    encryption_key: RSAKey = field(repr=False)
    """The public half."""
    response_key: RSAKey = field(repr=False)

    def claims(
        self, method: str, target: str, body: bytes = b"", *, now_s: int, **changes: object
    ) -> dict[str, Any]:
        """Build the claims of a good token to loopback; a change to None removes a claim."""
        claims: dict[str, Any] = {
            "iat": now_s,
            "exp": now_s + 120,
            "iss": self.signer_id,
            "jti": str(uuid.uuid4()),
            "request-host": "127.0.0.1",
            "request-method": method,
            "request-resource-path": target,
            "v-c-jwt-version": "2",
            "v-c-merchant-id": self.signer_id,
        }
        if body:
            digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
            claims |= {"digest": digest, "digestAlgorithm": "SHA-256"}
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        """Write a token, with what its header says changed at will."""
        header = {"alg": "RS256", "kid": self.key_id, "typ": "JWT"} | header
        return jwt.encode(header, claims, self.signing_key, algorithms=[header["alg"]])

    def encrypt(self, body: bytes, **header: Any) -> bytes:
        """Put a body into its envelope; a change of the header to None removes a field."""
        fields: dict[str, Any] = {
            "alg": "RSA-OAEP-256",
            "enc": "A256GCM",
            "kid": self.encryption_key_id,
            "iat": 1,
        }
        fields = {name: value for name, value in (fields | header).items() if value is not None}
        registry = jwe.JWERegistry(
            algorithms=[fields["alg"], fields["enc"], "DEF"],
            strict_check_header=False,  # iat is no field of the standard's
        )
        token = jwe.encrypt_compact(fields, body, self.encryption_key, registry=registry)
        return json.dumps({"encryptedRequest": token}).encode()

    def decrypt(self, body: bytes) -> Any:
        """Take a reply out of its envelope and parse it."""
        reply = json.loads(body)
        assert list(reply) == ["encryptedResponse"], reply
        registry = jwe.JWERegistry(algorithms=["RSA-OAEP-256", "A256GCM"], strict_check_header=False)
        opened = jwe.decrypt_compact(reply["encryptedResponse"], self.response_key, registry=registry)
        assert opened.protected["kid"] == self.response_key_id
        assert opened.plaintext is not None
        return json.loads(opened.plaintext)


def hold_keys(files: ThrowawayKeys) -> KeyHolder:
    """Open a folder of throwaway keys as the client does: with the password, from its own files."""
    password = files.password_file.read_bytes().strip()
    pairs = [
        pkcs12.load_pkcs12(path.read_bytes(), password) for path in (files.signing_p12, files.response_p12)
    ]
    own, encryption = pairs[0].cert, pairs[0].additional_certs[0].certificate
    response = pairs[1].cert
    assert own is not None
    assert response is not None
    keys = []
    for pair in pairs:
        assert pair.key is not None
        pem = pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        keys.append(RSAKey.import_key(pem))

    def attribute(certificate: Any, oid: Any) -> str:
        return str(certificate.subject.get_attributes_for_oid(oid)[0].value)

    return KeyHolder(
        signer_id=attribute(own.certificate, NameOID.COMMON_NAME),
        files=files,
        key_id=attribute(own.certificate, NameOID.SERIAL_NUMBER),
        encryption_key_id=attribute(encryption, NameOID.SERIAL_NUMBER),
        response_key_id=attribute(response.certificate, NameOID.SERIAL_NUMBER),
        signing_key=keys[0],
        encryption_key=RSAKey.import_key(files.encryption_certificate.read_bytes()),
        response_key=keys[1],
    )


@pytest.fixture(scope="session")
def open_keys() -> Callable[[ThrowawayKeys], KeyHolder]:
    """Open folders of throwaway keys."""
    return hold_keys


@pytest.fixture(scope="session")
def key_holder(tmp_path_factory: pytest.TempPathFactory) -> KeyHolder:
    """Make throwaway keys for the merchant ``key_merchant``, once for all tests."""
    return hold_keys(keys_in(tmp_path_factory.mktemp("keys"), "key_merchant"))


@pytest.fixture
def mocked_http(monkeypatch: pytest.MonkeyPatch) -> Iterator[aioresponses]:
    """Give replies to aiohttp's client without a socket."""
    monkeypatch.setattr("aioresponses.core.ClientResponse", _MockedResponse)
    with aioresponses() as mocked:
        yield mocked


class WriteLedger(Protocol):
    """Writes a run into a ledger, as a run does but at once."""

    def __call__(
        self,
        path: Path,
        *rows: dict[str, Any],
        state: RunState | None = RunState.COMPLETE,
        why: str | None = None,
        **run: Any,
    ) -> Path:
        """Append a run, its rows and its end to a file, and return the file's path.

        Args:
            path: Of the ledger.
            rows: Fields of ``Result``; what is missing is filled in.
            state: Of its end; None leaves the end out.
            why: Of its end.
            run: Fields of ``RunRecord`` that differ from the usual ones.
        """
        ...


@pytest.fixture(scope="session")
def write_ledger() -> WriteLedger:
    """Give tests ledgers without a run."""

    def write(
        path: Path,
        *rows: dict[str, Any],
        state: RunState | None = RunState.COMPLETE,
        why: str | None = None,
        **run: Any,
    ) -> Path:
        usual: dict[str, Any] = {
            "run_id": "11111111-0000-4000-8000-000000000001",
            "started_at": "2026-11-01T02:00:00.000Z",
            "version": "0.1.0",
            "env": "test",
            "base_url": "https://apitest.visaacceptance.com",
            "merchant_id": "example_merchant",
            "operator": "finance",
            "host": "batch01",
            "pid": 7,
            "ref": None,
            "manifest": (),
            "options": {},
        }
        record = RunRecord(**(usual | run))
        lines = [encode_run(record)]
        for number, row in enumerate(rows, start=1):
            reason = Reason(row.get("reason", "canceled"))
            lines.append(
                encode_result(
                    record.run_id,
                    Result(
                        **{
                            "row": number,
                            "invoice_id": str(2600 + number),
                            "outcome": reason.outcome,
                            "resolved_by": None,
                            "attempts": 1,
                            "at": record.started_at,
                            "latency_ms": 20.0,
                            **row,
                            "reason": reason,
                        }
                    ),
                )
            )
        before = path.read_bytes() if path.exists() else b""
        data = before + b"".join(lines)
        if state is not None:
            extra = {} if why is None else {"why": why}
            data += encode_end(
                EndRecord(
                    run_id=record.run_id,
                    ended_at=record.started_at,
                    state=state,
                    counts={},
                    sha256=hashlib.sha256(data).hexdigest(),
                    **extra,
                )
            )
        path.write_bytes(data)
        return path

    return write


# --- whoever is told of a run ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One request that a receiver got."""

    method: str
    path: str
    body: Any
    """What the JSON says; None without a body."""
    headers: dict[str, str]


class ReceivingServer:
    """Answers with given statuses in turn, the last one from then on; remembers what it heard."""

    prefix = "/ping/t0ken-of-the-check"
    """The path of its address, which is a secret."""

    def __init__(self, statuses: list[int], *, delay_s: float, location: str | None) -> None:
        self.heard: list[Heard] = []
        self._statuses = statuses
        self._delay_s = delay_s
        self._location = location
        handler = type("Handler", (_ReceivingHandler,), {"receiver": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        """Where it is told."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{self.prefix}"

    @property
    def paths(self) -> list[str]:
        """What was asked for, without what is the same in all."""
        return [heard.path.replace(self.prefix, "") for heard in self.heard]

    def answer(self, heard: Heard) -> tuple[int, str | None]:
        """Remember a request; return the status and the place to go to."""
        self.heard.append(heard)
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        time.sleep(self._delay_s)
        return status, self._location

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


class _ReceivingHandler(BaseHTTPRequestHandler):
    receiver: ReceivingServer

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, location = self.receiver.answer(
            Heard(
                method=self.command,
                path=self.path,
                body=json.loads(body) if body else None,
                headers=dict(self.headers),
            )
        )
        with suppress(OSError):  # whoever asked may have given up
            self.send_response(status)
            if location is not None:
                self.send_header("Location", location)
            self.end_headers()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Write nothing to standard error."""


class StartReceiver(Protocol):
    """Starts receivers, which end with the test."""

    def __call__(self, *statuses: int, delay_s: float = 0.0, location: str | None = None) -> ReceivingServer:
        """Start a server on loopback.

        Args:
            statuses: What it answers with, in turn; the last one from then on.
            delay_s: How long each answer takes.
            location: Where it sends whoever asks.
        """
        ...


@pytest.fixture
def start_receiver() -> Iterator[StartReceiver]:
    """Start receivers, and close them with the test."""
    started: list[ReceivingServer] = []

    def start(*statuses: int, delay_s: float = 0.0, location: str | None = None) -> ReceivingServer:
        started.append(ReceivingServer(list(statuses), delay_s=delay_s, location=location))
        return started[-1]

    yield start
    for server in started:
        server.close()


class Authority(NamedTuple):
    """A throwaway certificate authority."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def server_context(self, *, name: str = "localhost", days: int = 1) -> ssl.SSLContext:
        """Return a server's context with a certificate for a name, expired if ``days`` is negative."""
        key, certificate = self.issue(name=name, days=days)
        path = self.folder / "server.pem"
        path.write_bytes(key + certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def issue(self, *, name: str = "localhost", days: int = 1) -> tuple[bytes, bytes]:
        """Return a key and a certificate for it, both PEM, that a server or a client may show."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        names = [x509.DNSName(name), x509.IPAddress(IPv4Address("127.0.0.2"))]
        certificate = (
            _builder(subject, key, days)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )
        return (
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            certificate.public_bytes(Encoding.PEM),
        )


def _builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=10))
        .not_valid_after(now + timedelta(days=days))
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Give a certificate authority that nobody trusts by default."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throwaway root")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(subject, key, days=1)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path / "authority"
    folder.mkdir()
    (folder / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    return Authority(folder, key, certificate)
