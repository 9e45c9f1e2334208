"""Request signatures: JSON Web Token (version 2, shared secret) and the legacy HTTP Signature.

Both follow what the official SDK puts on the wire; the tests compare them byte for byte.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final, Protocol
from uuid import uuid4

import msgspec

_TOKEN_LIFE_S: Final = 120
"""The longest that the service accepts: "never later than two minutes after iat"."""
_PORT: Final = re.compile(r":\d+$")


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """A shared-secret key and whom it acts for. The secret never shows in a representation."""

    merchant_id: str
    """The merchant whose invoices are asked for."""
    key_id: str
    secret: bytes
    """The shared secret, already base64-decoded."""
    portfolio_id: str | None = None
    """The portfolio that owns a meta key; None if the merchant's own key signs."""

    @property
    def signing_id(self) -> str:
        """Whoever owns the key: the portfolio, otherwise the merchant."""
        return self.portfolio_id or self.merchant_id

    def __repr__(self) -> str:
        return f"Credentials({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return what a representation may show; rich's tracebacks ask here, not in ``__repr__``."""
        return [
            ("merchant_id", self.merchant_id),
            ("key_id", self.key_id),
            ("portfolio_id", self.portfolio_id),
        ]


class Signer(Protocol):
    """Whatever can sign a request."""

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


class JwtSigner:
    """Sign with a JSON Web Token, version 2, HS256: one token a request, never reused.

    Args:
        credentials: The key.
        response_mle_kid: Id of a response-encryption key, to ask for encrypted replies; None asks
            for plain ones.
        new_jti: Makes the token's unique id; the service refuses one that it has seen.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        response_mle_kid: str | None = None,
        new_jti: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        self._secret = credentials.secret
        self._new_jti = new_jti
        self._header = _base64url(_compact({"alg": "HS256", "kid": credentials.key_id, "typ": "JWT"}))
        self._constant_claims: dict[str, str | int] = {
            "iss": credentials.signing_id,
            "v-c-jwt-version": "2",
            "v-c-merchant-id": credentials.merchant_id,
        }
        if response_mle_kid is not None:
            self._constant_claims["v-c-response-mle-kid"] = response_mle_kid

    def headers(
        self, *, method: str, target: str, host: str, body: bytes | None, now: float
    ) -> dict[str, str]:
        """Return ``Authorization`` with a fresh token; see ``Signer``."""
        issued_at = int(now)
        claims = self._constant_claims | {
            "exp": issued_at + _TOKEN_LIFE_S,
            "iat": issued_at,
            "jti": self._new_jti(),
            "request-host": _PORT.sub("", host),
            "request-method": method,
            "request-resource-path": target,
        }
        if body is not None:
            claims |= {"digest": _digest(body), "digestAlgorithm": "SHA-256"}
        signed = self._header + b"." + _base64url(_compact(claims))
        signature = _base64url(hmac.digest(self._secret, signed, "sha256"))
        return {"Authorization": f"Bearer {(signed + b'.' + signature).decode('ascii')}"}


class HttpSignatureSigner:
    """Sign with the legacy HTTP Signature, HMAC-SHA256.

    Args:
        credentials: The key.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def headers(
        self, *, method: str, target: str, host: str, body: bytes | None, now: float
    ) -> dict[str, str]:
        """Return ``Date``, ``Digest`` if there is a body, merchant and ``Signature``; see ``Signer``."""
        credentials = self._credentials
        date = formatdate(int(now), usegmt=True)
        signed = {"host": host, "date": date, "request-target": f"{method.lower()} {target}"}
        sent = {"Date": date}
        if body is not None:
            signed["digest"] = sent["Digest"] = f"SHA-256={_digest(body)}"
        # With a meta key the portfolio is signed while the transacting merchant is sent.
        signed["v-c-merchant-id"] = credentials.signing_id
        sent["v-c-merchant-id"] = credentials.merchant_id
        lines = "\n".join(f"{name}: {value}" for name, value in signed.items())
        signature = b64encode(hmac.digest(credentials.secret, lines.encode(), "sha256")).decode("ascii")
        sent["Signature"] = (
            f'keyid="{credentials.key_id}", algorithm="HmacSHA256", '
            f'headers="{" ".join(signed)}", signature="{signature}"'
        )
        return sent


def _compact(fields: dict[str, str | int]) -> bytes:
    """Return compact JSON with sorted keys, as the official SDK serialises tokens."""
    return msgspec.json.encode(fields, order="sorted")


def _base64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def _digest(body: bytes) -> str:
    return b64encode(hashlib.sha256(body).digest()).decode("ascii")
