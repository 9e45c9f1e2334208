"""A request as it stood on the wire, and the reading that every check of it shares."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class WireRequest:
    """A request as it stood on the wire."""

    method: str
    target: str
    """Path with query, byte for byte as sent."""
    headers: Mapping[str, str]
    """Looked up without regard to case."""
    body: bytes


class RefusedError(Exception):
    """A request is not signed or encrypted as it should be.

    Args:
        cause: What is wrong, for the simulator's log only; the client is never told.
        http_status: What the client is answered with.
    """

    def __init__(self, cause: str, http_status: HTTPStatus = HTTPStatus.UNAUTHORIZED) -> None:
        super().__init__(cause)
        self.cause = cause
        self.http_status = http_status


def demand(fact: bool, cause: str, http_status: HTTPStatus = HTTPStatus.UNAUTHORIZED) -> None:  # noqa: FBT001 - the fact is the whole point, and always an expression
    """Go on only if a fact holds.

    Raises:
        RefusedError: It does not.
    """
    if not fact:
        raise RefusedError(cause, http_status)


def decode_base64url(text: str) -> bytes:
    """Decode base64url without padding; one text only stands for some bytes.

    Raises:
        RefusedError: It is not that, or bits that mean nothing are set in its last character.
    """
    demand(_BASE64URL.fullmatch(text) is not None and len(text) % 4 != 1, "not base64url")
    decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    demand(encode_base64url(decoded) == text, "not base64url")
    return decoded


def encode_base64url(data: bytes) -> str:
    """Encode as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_object(part: str) -> dict[str, Any]:
    """Read a part of a token as the JSON object that it is.

    Raises:
        RefusedError: It is not base64url, or no JSON object.
    """
    try:
        decoded = json.loads(decode_base64url(part))
    except (ValueError, RecursionError):
        raise RefusedError("token part is not JSON") from None
    if not isinstance(decoded, dict):
        raise RefusedError("token part is not a JSON object")
    return decoded


def digest_of(body: bytes) -> str:
    """Digest a body as both ways to sign do: base64 of its SHA-256 [S]."""
    return base64.b64encode(hashlib.sha256(body).digest()).decode()
