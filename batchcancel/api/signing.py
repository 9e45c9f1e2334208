"""Request signatures: JSON Web Token (version 2) and the legacy HTTP Signature.

Both follow what the official SDK puts on the wire; the tests compare them byte for byte.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol
from uuid import uuid4

import msgspec

from batchcancel.api.token_ids import new_token_id

_TOKEN_LIFE_S: Final = 120
"""The longest that the service accepts: "never later than two minutes after iat"."""
_PORT: Final = re.compile(r":\d+$")
_GAP: Final = uuid4().hex
"""Stands where a token's own id and target go; no text that comes from elsewhere holds it."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """For whom requests are made, and who answers for them."""

    merchant_id: str
    """The merchant whose invoices are asked for."""
    portfolio_id: str | None = None
    """The portfolio that owns a meta key; None if the merchant's own key signs."""

    @property
    def signing_id(self) -> str:
        """Whoever owns the key: the portfolio, otherwise the merchant."""
        return self.portfolio_id or self.merchant_id


class SharedSecret:
    """A shared-secret key. It keeps no secret that could show anywhere, only what the secret makes.

    Args:
        key_id: What the service knows the key by.
        secret: Already base64-decoded.
    """

    algorithm: Final = "HS256"
    is_slow: Final = False

    def __init__(self, *, key_id: str, secret: bytes) -> None:
        self.key_id: Final = key_id
        self._keyed: Final = hmac.new(secret, digestmod="sha256")

    def sign(self, data: bytes) -> bytes:
        """Return the HMAC with SHA-256."""
        code = self._keyed.copy()  # hashing the secret anew would take a third of the time
        code.update(data)
        return code.digest()

    def __repr__(self) -> str:
        return f"SharedSecret(key_id={self.key_id!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return what a representation may show; rich's tracebacks ask here, not in ``__repr__``."""
        return [("key_id", self.key_id)]


class JwtKey(Protocol):
    """A key that signs tokens: a shared secret, or that of a certificate."""

    @property
    def key_id(self) -> str:
        """What the service knows the key by: the token's ``kid``."""
        ...

    @property
    def algorithm(self) -> str:
        """The token's ``alg``."""
        ...

    @property
    def is_slow(self) -> bool:
        """Whether a signature takes so long that it belongs in a thread."""
        ...

    def sign(self, data: bytes) -> bytes:
        """Return the signature's bytes."""
        ...


class Signer(Protocol):
    """Whatever can sign a request."""

    @property
    def is_slow(self) -> bool:
        """Whether ``headers`` takes so long that it is called in a thread, off the event loop."""
        ...

    def headers(
        self, *, method: str, target: str, host: str, body: bytes | None, now: float
    ) -> dict[str, str]:
        """Return the headers that authenticate one request on the wire.

        Args:
            method: GET or POST, upper case.
            target: Path and query exactly as sent.
            host: The ``Host`` header exactly as sent, port included.
            body: The body exactly as sent; None without one.
            now: Unix seconds on the service's clock.
        """
        ...


class _Frame(NamedTuple):
    """What is the same in all tokens of one second for requests that differ in their target alone."""

    made_for: tuple[int, str, str, bytes | None, str | None]
    """Second, method, host, body and the response key's id."""
    before_id: bytes
    before_target: bytes
    after_target: bytes


class JwtSigner:
    """Sign with a JSON Web Token, version 2: one token a request, never reused.

    Args:
        identity: For whom.
        key: Gives the key of the moment; its file may have changed since the last request.
        response_key_id: Gives the id of a response-encryption key, to ask for encrypted replies; None
            asks for plain ones.
        new_jti: Makes the token's unique id; the service refuses one that it has seen.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        key: Callable[[], JwtKey],
        response_key_id: Callable[[], str] | None = None,
        new_jti: Callable[[], str] = new_token_id,
    ) -> None:
        self._key = key
        self._response_key_id = response_key_id
        self._new_jti = new_jti
        self._constant_claims: dict[str, str | int] = {
            "iss": identity.signing_id,
            "v-c-jwt-version": "2",
            "v-c-merchant-id": identity.merchant_id,
        }
        # Each is replaced as a whole, so that threads may sign at the same time.
        self._frame: _Frame | None = None
        self._header: tuple[JwtKey, bytes] | None = None

    @property
    def is_slow(self) -> bool:
        """Whether the key's signatures belong in a thread."""
        return self._key().is_slow

    def headers(
        self, *, method: str, target: str, host: str, body: bytes | None, now: float
    ) -> dict[str, str]:
        """Return ``Authorization`` with a fresh token; see ``Signer``."""
        key = self._key()
        response_key_id = None if self._response_key_id is None else self._response_key_id()
        made_for = (int(now), method, host, body, response_key_id)
        frame = self._frame
        if frame is None or frame.made_for != made_for:
            frame = self._frame = self._framed(*made_for)
        claims = b"".join(
            (
                frame.before_id,
                msgspec.json.encode(self._new_jti()),
                frame.before_target,
                msgspec.json.encode(target),
                frame.after_target,
            )
        )
        signed = self._header_of(key) + _base64url(claims)
        token = signed + b"." + _base64url(key.sign(signed))
        return {"Authorization": "Bearer " + token.decode("ascii")}

    def _framed(
        self, issued_at: int, method: str, host: str, body: bytes | None, response_key_id: str | None
    ) -> _Frame:
        """Serialise the claims with gaps for the id and the target."""
        claims = self._constant_claims | {
            "exp": issued_at + _TOKEN_LIFE_S,
            "iat": issued_at,
            "jti": _GAP,
            "request-host": _PORT.sub("", host),
            "request-method": method,
            "request-resource-path": _GAP,
        }
        if body is not None:
            claims |= {"digest": _digest(body), "digestAlgorithm": "SHA-256"}
        if response_key_id is not None:
            claims["v-c-response-mle-kid"] = response_key_id
        parts = _compact(claims).split(msgspec.json.encode(_GAP))
        return _Frame((issued_at, method, host, body, response_key_id), *parts)

    def _header_of(self, key: JwtKey) -> bytes:
        """Return the token's first part, its full stop included."""
        header = self._header
        if header is None or header[0] is not key:
            fields: dict[str, str | int] = {"alg": key.algorithm, "kid": key.key_id, "typ": "JWT"}
            header = self._header = (key, _base64url(_compact(fields)) + b".")
        return header[1]


class HttpSignatureSigner:
    """Sign with the legacy HTTP Signature, HMAC-SHA256.

    Args:
        identity: For whom.
        key: Gives the shared secret of the moment; certificates can't sign this way.
    """

    is_slow: Final = False

    def __init__(self, identity: Identity, *, key: Callable[[], SharedSecret]) -> None:
        self._identity = identity
        self._key = key

    def headers(
        self, *, method: str, target: str, host: str, body: bytes | None, now: float
    ) -> dict[str, str]:
        """Return ``Date``, ``Digest`` if there is a body, merchant and ``Signature``; see ``Signer``."""
        key = self._key()
        date = _http_date(int(now))
        signed = {"host": host, "date": date, "request-target": f"{method.lower()} {target}"}
        sent = {"Date": date}
        if body is not None:
            signed["digest"] = sent["Digest"] = f"SHA-256={_digest(body)}"
        # With a meta key the portfolio is signed while the transacting merchant is sent.
        signed["v-c-merchant-id"] = self._identity.signing_id
        sent["v-c-merchant-id"] = self._identity.merchant_id
        lines = "\n".join(f"{name}: {value}" for name, value in signed.items())
        signature = b64encode(key.sign(lines.encode())).decode("ascii")
        sent["Signature"] = (
            f'keyid="{key.key_id}", algorithm="HmacSHA256", '
            f'headers="{" ".join(signed)}", signature="{signature}"'
        )
        return sent


@lru_cache(maxsize=1)
def _http_date(unix_s: int) -> str:
    return formatdate(unix_s, usegmt=True)


def _compact(fields: dict[str, str | int]) -> bytes:
    """Return compact JSON with sorted keys, as the official SDK serialises tokens."""
    return msgspec.json.encode(fields, order="sorted")


def _base64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


@lru_cache(maxsize=1)  # nearly every body is the same one
def _digest(body: bytes) -> str:
    return b64encode(hashlib.sha256(body).digest()).decode("ascii")
