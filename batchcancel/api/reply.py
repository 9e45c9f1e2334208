"""Read a reply: status, headers and body in, a ``Reply`` out. Pure, and total for any bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from batchcancel.api.dates import parse_http_date
from batchcancel.api.invoice import Number, read_invoice, read_listing
from batchcancel.api.masking import mask
from batchcancel.model import Invoice, Reply

_ERROR_STATUSES: Final = range(400, 600)
_MAX_MESSAGE: Final = 200
_MAX_MESSAGE_READ: Final = 4096
"""What is masked is cut first, so that a huge message costs nothing."""
_MAX_CORRELATION_ID: Final = 128
_MAX_RETRY_AFTER_S: Final = 365 * 86400.0
_SECONDS: Final = re.compile(r"[0-9]+")
_UNPRINTABLE_ASCII: Final = re.compile(r"[^ -~]")
_CORRELATION_ID: Final = re.compile(r"(?!eyJ)[\w.:-]+", re.ASCII)
_LONG_DIGITS: Final = re.compile(r"\d(?:[ \-\u2010-\u2015]*\d){6,}")
_DECODER: Final = msgspec.json.Decoder(float_hook=Number)
_DECISIVE: Final = (b'"status"', b'"id"', b'"invoiceInformation"', b'"invoiceNumber"')
"""Names that decide what a reply means, as they are written."""


def parse_reply(
    http_status: int, headers: Mapping[str, str], body: bytes | None, *, now: float, latency_ms: float = 0.0
) -> Reply:
    """Read what came back.

    Never raises, whatever the service sent.

    Args:
        http_status: The status line's code.
        headers: The reply's headers, looked up without regard to case.
        body: The whole body; None if it did not come whole or was too long.
        now: Unix seconds on the service's clock.
        latency_ms: How long the request took, in milliseconds.

    Returns:
        The reply. ``is_object`` is false unless the whole body was one JSON object, and clear: a name that
        decides stands once in it.
    """
    fields = _decode(body)
    is_error = http_status in _ERROR_STATUSES
    return Reply(
        http_status=http_status,
        is_object=fields is not None,
        invoice=Invoice() if fields is None else read_invoice(fields),
        listing=None if fields is None or is_error or "invoices" not in fields else read_listing(fields),
        correlation_id=_correlation_id(headers.get("v-c-correlation-id", "")),
        message=_message(fields.get("message")) if fields is not None and is_error else None,
        retry_after_s=_retry_after_s(headers, now),
        latency_ms=latency_ms,
    )


def _decode(body: bytes | None) -> dict[str, object] | None:
    """Return the body's JSON object; None if the body is anything else."""
    if body is None:
        return None
    try:
        decoded = _DECODER.decode(body)
    # UnicodeDecodeError is a ValueError; deep nesting ends in RecursionError, huge integers in the first.
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return decoded if isinstance(decoded, dict) and not _is_ambiguous(body) else None


def _is_ambiguous(body: bytes) -> bool:
    """Tell whether an object in a JSON text has a name twice: two readers would read two things."""
    if b"\\u" not in body:
        for name in _DECISIVE:
            if body.count(name) > 1:
                break
        else:
            return False

    def refuse_repeated(pairs: list[tuple[str, object]]) -> None:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("a name stands twice")

    try:
        json.loads(body, object_pairs_hook=refuse_repeated)
    except (ValueError, RecursionError):
        return True
    return False


def _retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    text = headers.get("Retry-After")
    if text is None:
        return None
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), _MAX_RETRY_AFTER_S)
    until = parse_http_date(text)
    if until is None:
        return None
    sent_at = parse_http_date(headers.get("Date", ""))
    return min(max(until - (now if sent_at is None else sent_at), 0.0), _MAX_RETRY_AFTER_S)


def _correlation_id(text: str) -> str | None:
    if _CORRELATION_ID.fullmatch(text) and len(text) <= _MAX_CORRELATION_ID:
        return text
    text = _UNPRINTABLE_ASCII.sub("", text)[:_MAX_CORRELATION_ID].strip()
    # An echo of what was sent, or a sentence, is no id and may hold what nobody should read.
    return text if _CORRELATION_ID.fullmatch(text) else None


def _message(value: object) -> str | None:
    """Return an error's text fit for a ledger: one printable line, customers' data masked."""
    if not isinstance(value, str) or isinstance(value, Number):
        return None
    text = " ".join(value[:_MAX_MESSAGE_READ].split())
    if len(value) > _MAX_MESSAGE_READ:
        # The last word may be half an address that the mask would not know.
        text = text.rpartition(" ")[0]
    text = "".join(filter(str.isprintable, text))
    return _LONG_DIGITS.sub("***", mask(text))[:_MAX_MESSAGE].rstrip() or None
