"""Verify an HTTP Signature, the older way to sign."""

from __future__ import annotations

import base64
import hmac
import re
from email.utils import parsedate_to_datetime
from typing import Final

from batchcancel.sandbox.options import SandboxOptions
from batchcancel.sandbox.wire import RefusedError, WireRequest, demand, digest_of

_FIELD: Final = re.compile(r'\s*([a-z]+)="([^"]*)"\s*')


class SignatureVerifier:
    """Checks requests that are signed by HTTP Signature with the shared secret."""

    def __init__(self, options: SandboxOptions) -> None:
        self._secret = options.secret_bytes
        self._key_id = options.key_id
        self._signer_id = options.signer_id
        self._skew_s = options.clock_skew_s

    def check(self, request: WireRequest, signature: str, now_s: float) -> str:
        """Check a request's signature.

        Args:
            request: As it stood on the wire.
            signature: The header of that name.
            now_s: The service's clock, Unix seconds.

        Returns:
            The merchant that is said to transact.

        Raises:
            RefusedError: The request is not signed as it should be.
        """
        fields = _fields_of(signature)
        demand(fields.get("keyid") == self._key_id, "unknown keyid")
        demand(fields.get("algorithm") == "HmacSHA256", "algorithm is not HmacSHA256")
        names = fields.get("headers", "").split(" ")
        missing = {"host", "request-target", "v-c-merchant-id"}.difference(names)
        demand(not missing, f"not signed: {', '.join(sorted(missing))}")
        # [D] newer guides name v-c-date, every official client signs date.
        date_name = "date" if "date" in names else "v-c-date"
        demand(date_name in names, "not signed: date")
        demand("digest" in names or not request.body, "not signed: digest")
        lines = "\n".join(f"{name}: {self._signed_value(request, name)}" for name in names)
        expected = base64.b64encode(
            hmac.digest(self._secret, lines.encode("utf-8", "surrogateescape"), "sha256")
        )
        given = fields.get("signature", "").encode("utf-8", "surrogateescape")
        demand(hmac.compare_digest(given, expected), "wrong signature")
        if "digest" in names:
            demand(request.headers["digest"] == f"SHA-256={digest_of(request.body)}", "wrong digest")
        off_s = abs(_http_date_s(request.headers[date_name]) - now_s)
        demand(off_s <= self._skew_s, f"{date_name} is {off_s:.0f} s off")
        return request.headers["v-c-merchant-id"]

    def _signed_value(self, request: WireRequest, name: str) -> str:
        if name == "request-target":
            return f"{request.method.lower()} {request.target}"
        value = request.headers.get(name)
        if value is None:
            raise RefusedError("a signed header was not sent")
        # [D] meta key: the portfolio is signed, the transacting merchant is sent.
        return self._signer_id if name == "v-c-merchant-id" else value


def _fields_of(signature: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in signature.split(","):
        match = _FIELD.fullmatch(part)
        if match is None or match[1] in fields:
            raise RefusedError("malformed Signature header")
        fields[match[1]] = match[2]
    return fields


def _http_date_s(text: str) -> float:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        raise RefusedError("date is not an HTTP date") from None
    # A date without a zone would be read in this machine's own.
    demand(date.tzinfo is not None, "date is not an HTTP date")
    return date.timestamp()
