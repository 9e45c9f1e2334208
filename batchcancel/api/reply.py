"""Read a reply: status, headers and body in, a ``Reply`` out. Pure, and total for any bytes.

Every field is read by itself: what is absent, malformed or absurd is None and spoils nothing else.
Nothing about the customer is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import msgspec

from batchcancel.model import Invoice, Reply

_ERROR_STATUSES: Final = range(400, 600)
_MAX_TEXT: Final = 64
"""Ids that are sent have 64 characters at most; a longer text can't be one of them."""
_MAX_MESSAGE: Final = 200
_MAX_MESSAGE_READ: Final = 4096
"""What is masked is cut first, so that a huge message costs nothing."""
_MAX_CORRELATION_ID: Final = 128
_MAX_RETRY_AFTER_S: Final = 365 * 86400.0
_MAX_EXPONENT: Final = 32
_MAX_INTEGER: Final = 10**32

_DECIMAL: Final = re.compile(r"-?[0-9]{1,32}(?:\.[0-9]{1,32})?(?:[eE](?P<exponent>[+-]?[0-9]{1,3}))?")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_RFC3339_UTC: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]{1,9})?(?:Z|[+-]00:00)"
)
_USUAL_RFC3339_UTC: Final = re.compile(
    r"[12][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
    r"T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?Z"
)
"""A time that certainly exists, whatever the month and the year."""
_ISO_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_HTTP_DATE: Final = re.compile(
    rf"[A-Z][a-z]{{2}}, ([0-9]{{2}}) ({'|'.join(_MONTHS)}) ([0-9]{{4}}) "
    r"([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)
_SECONDS: Final = re.compile(r"[0-9]+")
_UNPRINTABLE_ASCII: Final = re.compile(r"[^ -~]")
_CORRELATION_ID: Final = re.compile(r"(?!eyJ)[\w.:-]+", re.ASCII)
_EMAIL: Final = re.compile(r"[^\s@<>(),;:\[\]]{1,64}(?:@|%40)[^\s@<>(),;:\[\]]+", re.IGNORECASE)
_TOKEN: Final = re.compile(r"(?:Bearer )?eyJ[\w-]{8,}[\w.-]*|[\w+/=.-]{40,}", re.ASCII)
"""A JSON Web Token or a part of it, or whatever else is too long for a word: a signature, a key."""
_LONG_DIGITS: Final = re.compile(r"\d(?:[ \-\u2010-\u2015]*\d){6,}")


class _Number(str):
    """A JSON number with a point or an exponent, digits as received: ``10.10`` is no float."""

    __slots__ = ()


_LISTED_STATUSES: Final = frozenset({"DRAFT", "CREATED", "SENT", "PARTIAL", "PAID", "CANCELED", "PENDING"})
_DECODER: Final = msgspec.json.Decoder(float_hook=_Number)
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
        invoice=Invoice() if fields is None else _invoice(fields),
        correlation_id=_correlation_id(headers.get("v-c-correlation-id", "")),
        message=_message(fields.get("message")) if fields is not None and is_error else None,
        retry_after_s=_retry_after_s(headers, now),
        latency_ms=latency_ms,
    )


def parse_http_date(text: str) -> float | None:
    """Read an HTTP date in the one form that may be sent, ``Sun, 06 Nov 1994 08:49:37 GMT``.

    Returns:
        Unix seconds; None if the text is anything else.
    """
    match = _HTTP_DATE.fullmatch(text.strip())
    if match is None:
        return None
    day, month, year, hour, minute, second = match.groups()
    return _unix_s(year, str(_MONTHS.index(month) + 1), day, hour, minute, second)


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


def _invoice(fields: dict[str, object]) -> Invoice:
    amounts = _object(_object(fields.get("orderInformation")).get("amountDetails"))
    information = _object(fields.get("invoiceInformation"))
    currency = amounts.get("currency")
    submitted_at = fields.get("submitTimeUtc")
    history = fields.get("invoiceHistory")
    return Invoice(
        id=_id(fields.get("id")),
        number=_id(information.get("invoiceNumber")),
        status=_status(fields.get("status")),
        amount=_amount(amounts.get("totalAmount")),
        balance=_amount(amounts.get("balanceAmount")),
        due_date=_date(information.get("dueDate")),
        currency=currency if isinstance(currency, str) and _CURRENCY.fullmatch(currency) else None,
        submitted_at=submitted_at if isinstance(submitted_at, str) and _is_utc(submitted_at) else None,
        canceled_at=max(_cancel_dates(history), default=None) if isinstance(history, list) else None,
    )


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _id(value: object) -> str | None:
    """Return a JSON string or integer as an id; None for what no id looks like."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MAX_INTEGER:
        return str(value)
    if isinstance(value, str) and not isinstance(value, _Number) and 0 < len(value) <= _MAX_TEXT:
        return value if value.isprintable() else None
    return None


def _status(value: object) -> str | None:
    if not isinstance(value, str) or isinstance(value, _Number) or not value:
        return None
    if value in _LISTED_STATUSES:
        return value
    # A character is replaced, never dropped: damaged text must not turn into a status that is listed.
    return _masked("".join(char if char.isprintable() else "\ufffd" for char in value[:_MAX_TEXT]))


def _amount(value: object) -> str | None:
    """Return a decimal with its digits as received; an exponent is written out."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MAX_INTEGER:
        return str(value)
    match = _DECIMAL.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    exponent = match["exponent"]
    if exponent is None:
        return str(match[0])
    return f"{Decimal(match[0]):f}" if abs(int(exponent)) <= _MAX_EXPONENT else None


def _date(value: object) -> str | None:
    """Return an ISO date, ``2019-07-11``; None for anything else."""
    return str(value) if isinstance(value, str) and _ISO_DATE.fullmatch(value) else None


def _cancel_dates(history: list[object]) -> Iterator[float]:
    """Yield the dates of CANCEL events, Unix seconds."""
    for entry in history:
        event = {name.lower(): value for name, value in _object(entry).items()}
        date = event.get("date")
        if event.get("event") == "CANCEL" and isinstance(date, str):
            canceled_at = _utc_s(date)
            if canceled_at is not None:
                yield canceled_at


def _is_utc(text: str) -> bool:
    """Tell whether a text is an RFC 3339 time in UTC."""
    return _USUAL_RFC3339_UTC.fullmatch(text) is not None or _utc_s(text) is not None


def _utc_s(text: str) -> float | None:
    """Return an RFC 3339 time in UTC as Unix seconds, nanoseconds tolerated."""
    match = _RFC3339_UTC.fullmatch(text)
    if match is None:
        return None
    *whole, fraction = match.groups()
    seconds = _unix_s(*whole)
    return None if seconds is None else seconds + float(fraction or 0)


def _unix_s(*parts: str) -> float | None:
    """Return year to second, in UTC, as Unix seconds; None if there is no such moment."""
    year, month, day, hour, minute, second = map(int, parts)
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()
    except ValueError:
        return None


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
    text = _UNPRINTABLE_ASCII.sub("", text)[:_MAX_CORRELATION_ID].strip()
    # An echo of what was sent, or a sentence, is no id and may hold what nobody should read.
    return text if _CORRELATION_ID.fullmatch(text) else None


def _message(value: object) -> str | None:
    """Return an error's text fit for a ledger: one printable line, customers' data masked."""
    if not isinstance(value, str) or isinstance(value, _Number):
        return None
    text = " ".join(value[:_MAX_MESSAGE_READ].split())
    if len(value) > _MAX_MESSAGE_READ:
        # The last word may be half an address that the mask would not know.
        text = text.rpartition(" ")[0]
    text = "".join(filter(str.isprintable, text))
    return _LONG_DIGITS.sub("***", _masked(text))[:_MAX_MESSAGE].rstrip() or None


def _masked(text: str) -> str:
    """Take out e-mail addresses and whatever may be an echo of what signs a request."""
    return _TOKEN.sub("***", _EMAIL.sub("***", text))
