"""Verify the signature of a request: JWT v2 with a shared secret, or HTTP Signature.

Written from the service's documents alone, apart from the client's signing code, so that both have to
be right for a request to pass.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

from batchcancel.sandbox.options import SandboxOptions

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_SIGNATURE_FIELD: Final = re.compile(r'\s*([a-z]+)="([^"]*)"\s*')
_MAX_TOKEN_LIFE_S: Final = 120  # [D] exp is never later than two minutes after iat


@dataclass(frozen=True, slots=True, kw_only=True)
class WireRequest:
    """A request as it stood on the wire."""

    method: str
    target: str
    """Path with query, byte for byte as sent."""
    headers: Mapping[str, str]
    """Looked up without regard to case."""
    body: bytes


class _RefusedError(Exception):
    """The request is not signed as it should be; the message is the true cause."""


class Authenticator:
    """Checks requests against one key and remembers the token ids that were used."""

    def __init__(self, options: SandboxOptions) -> None:
        self._secret = options.secret_bytes
        self._key_id = options.key_id
        self._merchant_id = options.merchant_id
        self._signer_id = options.portfolio_id or options.merchant_id
        self._skew_s = options.clock_skew_s
        self._used_until_s: dict[bytes, float] = {}
        self._good_header_part = ""
        """The last header that passed, encoded: a client sends the same one with every token."""

    def refusal(self, request: WireRequest, now_s: float) -> str | None:
        """Check a request's signature and remember its token id.

        Args:
            request: As it stood on the wire.
            now_s: The service's clock, Unix seconds.

        Returns:
            The true cause of the refusal, for the simulator's log only; None if the request is good.
        """
        authorization = request.headers.get("Authorization")
        signature = request.headers.get("Signature")
        try:
            if authorization is not None:
                self._check_token(request, authorization, now_s)
            elif signature is not None:
                self._check_signature(request, signature, now_s)
            else:
                return "no credentials"
        except _RefusedError as refused:
            return str(refused)
        return None

    def _check_token(self, request: WireRequest, authorization: str, now_s: float) -> None:
        scheme, _, token = authorization.partition(" ")
        _demand(scheme.lower() == "bearer", "not a bearer token")
        _demand(_TOKEN.fullmatch(token) is not None, "malformed token")
        signed, _, signature = token.rpartition(".")
        header_part, _, claims_part = signed.partition(".")
        if header_part != self._good_header_part:
            self._check_header(header_part)
        expected = base64.urlsafe_b64encode(self._hmac(signed)).rstrip(b"=")
        _demand(hmac.compare_digest(signature.encode(), expected), "wrong signature")
        claims = _decode_object(claims_part)
        exp_s = self._check_times(claims, now_s)
        self._check_claims(request, claims)
        self._use_once(claims.get("jti"), exp_s, now_s)

    def _check_header(self, header_part: str) -> None:
        header = _decode_object(header_part)
        # Pinned before the key is used: a token must not choose its own algorithm.
        _demand(header.get("alg") == "HS256", "alg is not HS256")
        _demand(header.get("typ") == "JWT", "typ is not JWT")
        _demand(header.get("kid") == self._key_id, "unknown kid")
        self._good_header_part = header_part

    def _check_times(self, claims: dict[str, Any], now_s: float) -> int:
        """Check iat and exp.

        Returns:
            exp, Unix seconds.
        """
        iat_s, exp_s = claims.get("iat"), claims.get("exp")
        # type() and not isinstance(): true is an int to Python.
        if type(iat_s) is not int or type(exp_s) is not int:
            raise _RefusedError("iat or exp is not an integer")
        _demand(0 < exp_s - iat_s <= _MAX_TOKEN_LIFE_S, "exp is more than 120 s after iat, or not after it")
        _demand(iat_s <= now_s + self._skew_s, "iat lies in the future")
        _demand(exp_s >= now_s - self._skew_s, "token expired")
        return exp_s

    def _check_claims(self, request: WireRequest, claims: dict[str, Any]) -> None:
        wanted = {
            "iss": self._signer_id,  # [D] the portfolio where a meta key signs
            "v-c-merchant-id": self._merchant_id,
            "v-c-jwt-version": "2",
            "request-resource-path": request.target,
        }
        for name, value in wanted.items():
            _demand(claims.get(name) == value, f"wrong {name}")
        # [S] some official clients send POST, others post: both are tolerated.
        _demand(str(claims.get("request-method")).upper() == request.method, "wrong request-method")
        _demand(claims.get("request-host") == _host_without_port(request), "wrong request-host")
        digest = claims.get("digest")
        if request.body or digest is not None:
            _demand(digest == _digest(request.body), "wrong digest")
            # [S] one official client spells the name with a hyphen.
            algorithm = claims.get("digestAlgorithm", claims.get("digest-algorithm"))
            _demand(algorithm == "SHA-256", "wrong digestAlgorithm")

    def _use_once(self, jti: object, exp_s: int, now_s: float) -> None:
        """Refuse a token id that was used before; forget those whose token has expired anyway."""
        if not isinstance(jti, str) or not jti:
            raise _RefusedError("no jti")
        key = hashlib.blake2b(jti.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        _demand(key not in self._used_until_s, "jti was used before")
        self._used_until_s[key] = exp_s + self._skew_s
        # Oldest first, and no token lives long: so the front of the dict is where the expired ones are.
        while (oldest := next(iter(self._used_until_s))) != key and self._used_until_s[oldest] < now_s:
            del self._used_until_s[oldest]

    def _check_signature(self, request: WireRequest, signature: str, now_s: float) -> None:
        fields = _signature_fields(signature)
        _demand(fields.get("keyid") == self._key_id, "unknown keyid")
        _demand(fields.get("algorithm") == "HmacSHA256", "algorithm is not HmacSHA256")
        names = fields.get("headers", "").split(" ")
        missing = {"host", "request-target", "v-c-merchant-id"}.difference(names)
        _demand(not missing, f"not signed: {', '.join(sorted(missing))}")
        # [D] newer guides name v-c-date, every official client signs date.
        date_name = "date" if "date" in names else "v-c-date"
        _demand(date_name in names, "not signed: date")
        _demand("digest" in names or not request.body, "not signed: digest")
        lines = "\n".join(f"{name}: {self._signed_value(request, name)}" for name in names)
        expected = base64.b64encode(self._hmac(lines))
        given = fields.get("signature", "").encode("utf-8", "surrogateescape")
        _demand(hmac.compare_digest(given, expected), "wrong signature")
        _demand(request.headers["v-c-merchant-id"] == self._merchant_id, "wrong v-c-merchant-id")
        if "digest" in names:
            _demand(request.headers["digest"] == f"SHA-256={_digest(request.body)}", "wrong digest")
        off_s = abs(_http_date_s(request.headers[date_name]) - now_s)
        _demand(off_s <= self._skew_s, f"{date_name} is {off_s:.0f} s off")

    def _signed_value(self, request: WireRequest, name: str) -> str:
        if name == "request-target":
            return f"{request.method.lower()} {request.target}"
        value = request.headers.get(name)
        if value is None:
            raise _RefusedError("a signed header was not sent")
        # [D] meta key: the portfolio is signed, the transacting merchant is sent.
        return self._signer_id if name == "v-c-merchant-id" else value

    def _hmac(self, text: str) -> bytes:
        return hmac.digest(self._secret, text.encode("utf-8", "surrogateescape"), "sha256")


def _demand(fact: bool, cause: str) -> None:  # noqa: FBT001 - the fact is the whole point, and always an expression
    if not fact:
        raise _RefusedError(cause)


def _decode_object(part: str) -> dict[str, Any]:
    try:
        decoded = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        raise _RefusedError("token part is not base64url JSON") from None
    if not isinstance(decoded, dict):
        raise _RefusedError("token part is not a JSON object")
    return decoded


def _digest(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def _host_without_port(request: WireRequest) -> str:
    host = request.headers.get("Host", "")
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _signature_fields(signature: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in signature.split(","):
        match = _SIGNATURE_FIELD.fullmatch(part)
        if match is None or match[1] in fields:
            raise _RefusedError("malformed Signature header")
        fields[match[1]] = match[2]
    return fields


def _http_date_s(text: str) -> float:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        raise _RefusedError("date is not an HTTP date") from None
    # A date without a zone would be read in this machine's own.
    _demand(date.tzinfo is not None, "date is not an HTTP date")
    return date.timestamp()
