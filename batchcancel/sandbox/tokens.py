"""Verify a JWT v2: signed with the shared secret or with the key of a certificate."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol

from batchcancel.sandbox.options import SandboxOptions
from batchcancel.sandbox.wire import (
    RefusedError,
    WireRequest,
    decode_base64url,
    decode_object,
    demand,
    digest_of,
)

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_MAX_LIFE_S: Final = 120  # [D] exp is never later than two minutes after iat


class TokenKey(Protocol):
    """What verifies the tokens of one ``kid``."""

    algorithm: ClassVar[str]
    """The only ``alg`` that its tokens may name."""

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        """Tell whether a signature is this key's over some bytes."""
        ...


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """A secret that both sides hold."""

    algorithm: ClassVar[str] = "HS256"
    """[D] HS384 and HS512 are permitted too; no official client sends them [S]."""
    secret: bytes = field(repr=False)

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        """Tell whether a signature is this secret's over some bytes."""
        return hmac.compare_digest(signature, hmac.digest(self.secret, signed, "sha256"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """What a good token says of its sender."""

    algorithm: str
    merchant_id: str
    """The merchant that transacts; whether it may is not decided here."""
    response_key_id: str | None
    """The key to encrypt the reply for; None: none is asked for."""


class TokenVerifier:
    """Checks tokens and remembers the ids of those that were used.

    Args:
        keys: Who may sign, by ``kid``.
        options: Who the signer is, and how far a clock may be off.
    """

    def __init__(self, keys: Mapping[str, TokenKey], options: SandboxOptions) -> None:
        self._keys = keys
        self._signer_id = options.signer_id
        self._skew_s = options.clock_skew_s
        self._used_until_s: dict[bytes, float] = {}
        self._last_good: tuple[str, TokenKey] | None = None
        """The last header that passed, encoded: a client sends the same one with every token."""

    def check(self, request: WireRequest, token: str, now_s: float) -> TokenFacts:
        """Check a token against the request that it came with, and remember its id.

        Args:
            request: As it stood on the wire.
            token: The compact form, three parts.
            now_s: The service's clock, Unix seconds.

        Raises:
            RefusedError: The token is not good, not for this request or was used before.
        """
        demand(_TOKEN.fullmatch(token) is not None, "malformed token")
        signed, _, signature = token.rpartition(".")
        header_part, _, claims_part = signed.partition(".")
        key = self._key_of(header_part)
        demand(key.verifies(signed.encode("ascii"), decode_base64url(signature)), "wrong signature")
        claims = decode_object(claims_part)
        exp_s = self._check_times(claims, now_s)
        self._check_claims(request, claims)
        self._use_once(claims.get("jti"), exp_s, now_s)
        return TokenFacts(
            algorithm=key.algorithm,
            merchant_id=_text(claims, "v-c-merchant-id"),
            response_key_id=_text(claims, "v-c-response-mle-kid")
            if "v-c-response-mle-kid" in claims
            else None,
        )

    def _key_of(self, header_part: str) -> TokenKey:
        if self._last_good is not None and self._last_good[0] == header_part:
            return self._last_good[1]
        header = decode_object(header_part)
        kid = header.get("kid")
        key = self._keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise RefusedError("unknown kid")
        # The key says which algorithm it is for, the token never does: a certificate is public, and as
        # the secret of an HMAC it would open the door to everyone.
        demand(header.get("alg") == key.algorithm, f"alg is not {key.algorithm}")
        demand(header.get("typ") == "JWT", "typ is not JWT")
        self._last_good = header_part, key
        return key

    def _check_times(self, claims: dict[str, Any], now_s: float) -> int:
        """Check iat and exp.

        Returns:
            exp, Unix seconds.
        """
        iat_s, exp_s = claims.get("iat"), claims.get("exp")
        # type() and not isinstance(): true is an int to Python.
        if type(iat_s) is not int or type(exp_s) is not int:
            raise RefusedError("iat or exp is not an integer")
        demand(0 < exp_s - iat_s <= _MAX_LIFE_S, "exp is more than 120 s after iat, or not after it")
        demand(iat_s <= now_s + self._skew_s, "iat lies in the future")
        demand(exp_s >= now_s - self._skew_s, "token expired")
        return exp_s

    def _check_claims(self, request: WireRequest, claims: dict[str, Any]) -> None:
        wanted = {
            "iss": self._signer_id,  # [D] the portfolio where a meta key signs
            "v-c-jwt-version": "2",
            "request-resource-path": request.target,
            "request-host": _host_without_port(request),
        }
        for name, value in wanted.items():
            demand(claims.get(name) == value, f"wrong {name}")
        # [S] some official clients send POST, others post: both are tolerated.
        demand(str(claims.get("request-method")).upper() == request.method, "wrong request-method")
        digest = claims.get("digest")
        if request.body or digest is not None:
            # [S] of the body as it is on the wire, encrypted or not.
            demand(digest == digest_of(request.body), "wrong digest")
            # [S] one official client spells the name with a hyphen.
            algorithm = claims.get("digestAlgorithm", claims.get("digest-algorithm"))
            demand(algorithm == "SHA-256", "wrong digestAlgorithm")

    def _use_once(self, jti: object, exp_s: int, now_s: float) -> None:
        """Refuse a token id that was used before; forget those whose token has expired anyway."""
        if not isinstance(jti, str) or not jti:
            raise RefusedError("no jti")
        key = hashlib.blake2b(jti.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        demand(key not in self._used_until_s, "jti was used before")
        self._used_until_s[key] = exp_s + self._skew_s
        # Oldest first, and no token lives long: so the front of the dict is where the expired ones are.
        while (oldest := next(iter(self._used_until_s))) != key and self._used_until_s[oldest] < now_s:
            del self._used_until_s[oldest]


def _text(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str):
        raise RefusedError(f"wrong {name}")
    return value


def _host_without_port(request: WireRequest) -> str:
    host = request.headers.get("Host", "")
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
