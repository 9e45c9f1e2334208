"""What a reply was like, without what it said: which headers came, and the shape of its JSON. Pure.

For ``doctor`` alone, which holds it against what this package assumes of the service. Names and types are
all that it has: no value of a header or of a body gets into it, and a name that may be an echo of a value
does not either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from batchcancel.api.dates import is_utc, parse_http_date

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z_-]{0,39}")
"""A name of a field or header; whatever has digits, dots or more letters may be somebody's data."""
_HIDDEN: Final = "***"
_MAX_DEPTH: Final = 6
_MAX_ITEMS: Final = 20
"""Items of an array that are looked at."""
_MAX_FIELDS: Final = 200
_DECIMAL: Final = re.compile(r"-?[0-9]{1,32}\.[0-9]{1,32}")
_DIGITS: Final = re.compile(r"[0-9]+")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Observation(Struct, frozen=True, kw_only=True):
    """What a reply was like."""

    http_status: int
    headers: frozenset[str]
    """Names in lower case."""
    dated_at: float | None
    """The ``Date`` header, Unix seconds; None if there is none that can be read."""
    is_object: bool
    """Whether the body came whole and is one JSON object."""
    shape: dict[str, str]
    """By path, such as ``details[].field``, the kind of the value: ``string``, ``time.9`` (9 decimals),
    ``time``, ``date``, ``decimal`` and ``digits`` (all of these in quotes), ``integer``, ``number``,
    ``boolean``, ``null``, ``array``; ``object`` where it is empty or too deep. Several are joined by ``|``.
    Empty where the body is no JSON object, or an empty one."""
    was_encrypted: bool
    """Whether the body came as an encrypted message."""
    was_kept: bool
    """Whether it came over a connection that had been used before."""


def observe(
    http_status: int, headers: Mapping[str, str], body: bytes | None, *, was_encrypted: bool, was_kept: bool
) -> Observation:
    """Describe a reply. Never raises, whatever the service sent.

    Args:
        http_status: The status line's code.
        headers: The reply's headers.
        body: The body, decrypted; None if it did not come whole or can't be decrypted.
        was_encrypted: Whether it had to be decrypted.
        was_kept: Whether its connection had been used before.
    """
    shape: dict[str, str] = {}
    fields = _decoded(body)
    if isinstance(fields, dict):
        _describe(fields, "", shape, depth=0)
    return Observation(
        http_status=http_status,
        headers=frozenset(_name(name).lower() for name in headers),
        dated_at=parse_http_date(headers.get("Date", "")),
        is_object=isinstance(fields, dict),
        shape=shape,
        was_encrypted=was_encrypted,
        was_kept=was_kept,
    )


def _decoded(body: bytes | None) -> object:
    try:
        return None if body is None else msgspec.json.decode(body)
    # UnicodeDecodeError is a ValueError; deep nesting ends in RecursionError.
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _describe(value: object, path: str, shape: dict[str, str], *, depth: int) -> None:
    """Note the kind of a value, and of whatever is inside."""
    is_deep = depth == _MAX_DEPTH
    match value:
        case dict() if value and not is_deep:
            for name, inner in value.items():
                _describe(inner, f"{path}.{_name(name)}" if path else _name(name), shape, depth=depth + 1)
        case list() if value and not is_deep:
            for inner in value[:_MAX_ITEMS]:
                _describe(inner, f"{path}[]", shape, depth=depth + 1)
        case _ if path in shape or len(shape) < _MAX_FIELDS:
            kinds = {*shape.get(path, "").split("|"), _kind(value)} - {""}
            shape[path] = "|".join(sorted(kinds))


def _name(name: object) -> str:
    return name if isinstance(name, str) and _NAME.fullmatch(name) else _HIDDEN


def _kind(value: object) -> str:
    match value:
        case None:
            kind = "null"
        case bool():
            kind = "boolean"
        case int():
            kind = "integer"
        case float():
            kind = "number"
        case str():
            kind = _kind_of_text(value)
        case list():
            kind = "array"
        case _:
            kind = "object"
    return kind


def _kind_of_text(text: str) -> str:
    if is_utc(text):
        decimals = text.partition(".")[2].rstrip("Z").partition("+")[0].partition("-")[0]
        return f"time.{len(decimals)}" if decimals else "time"
    for pattern, kind in ((_DATE, "date"), (_DECIMAL, "decimal"), (_DIGITS, "digits")):
        if pattern.fullmatch(text):
            return kind
    return "string"
