"""Dates as the service writes them: HTTP dates in headers, RFC 3339 in bodies. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

_RFC3339_UTC: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]{1,9})?(?:Z|[+-]00:00)"
)
_USUAL_RFC3339_UTC: Final = re.compile(
    r"[12][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
    r"T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?Z"
)
"""A time that certainly exists, whatever the month and the year."""
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_HTTP_DATE: Final = re.compile(
    rf"[A-Z][a-z]{{2}}, ([0-9]{{2}}) ({'|'.join(_MONTHS)}) ([0-9]{{4}}) "
    r"([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
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


def is_utc(text: str) -> bool:
    """Tell whether a text is an RFC 3339 time in UTC."""
    return _USUAL_RFC3339_UTC.fullmatch(text) is not None or utc_s(text) is not None


def utc_s(text: str) -> float | None:
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
