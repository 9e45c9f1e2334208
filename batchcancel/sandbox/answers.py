"""What the simulator answers with."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from batchcancel.sandbox import bodies

JSON_TYPE: Final = "application/json"
HTML_TYPE: Final = "text/html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the client gets, and what the log says of it."""

    http_status: HTTPStatus | None
    """None: the connection is reset instead."""
    body: bytes = b""
    content_type: str = JSON_TYPE
    retry_after_s: int | None = None
    is_cut: bool = False
    """Whether the body ends in its middle."""
    wait_s: float = 0.0
    """How long it waits before it leaves; what was asked is done by then."""
    cause: str | None = None
    """The fault, or why the request was refused; the client is never told."""
    committed: bool = False
    """Whether an invoice was canceled or created."""
    merchant_id: str | None = None
    """For whom the request was made; None: its signature was not checked, or not good."""
    scheme: str | None = None
    """How the request was signed: ``HS256``, ``RS256`` or ``http_signature``; None: as above."""
    request_encrypted: bool = False
    """Whether the request's body was encrypted, and could be decrypted."""
    encrypted: bool = False
    """Whether the body is encrypted."""


def error(
    status: HTTPStatus, now_s: float, *, cause: str | None = None, retry_after_s: int | None = None
) -> Answer:
    """Answer with an error of the service or its gateway."""
    body = bodies.error_body(status, now_s)
    return Answer(http_status=status, body=body, cause=cause, retry_after_s=retry_after_s)


def page(status: HTTPStatus, *, cause: str | None = None) -> Answer:
    """Answer with an HTML page, as a gateway does."""
    return Answer(http_status=status, body=bodies.HTML_PAGE, content_type=HTML_TYPE, cause=cause)
