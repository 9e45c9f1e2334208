"""Options that say a condition in a small notation of their own."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Final

from batchcancel.errors import SettingsError

_COUNT: Final = re.compile(r"([0-9]{1,12})(?:-([0-9]{1,12}))?")
_AGE: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([smhd]?)")
_UNIT_S: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_FIELDS: Final = {"total": "total", "currency": "currency", "duedate": "dueDate"}


def read_count(text: str | None, *, source: str) -> tuple[int, int] | None:
    """Read ``--expect-count``: ``N`` or ``MIN-MAX``.

    Returns:
        The least and the most; None if nothing is expected.

    Raises:
        SettingsError: It is neither.
    """
    if text is None:
        return None
    match = _COUNT.fullmatch(text.strip())
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if low > high:
        raise SettingsError(f"{source} takes a number, or the least and the most as 90-110; not {text!r}.")
    return low, high


def read_age(text: str, *, source: str) -> float:
    """Read ``--plan-max-age``: seconds, or a number with ``s``, ``m``, ``h`` or ``d``.

    Returns:
        Seconds.

    Raises:
        SettingsError: It is neither.
    """
    match = _AGE.fullmatch(text.strip().lower())
    if match is None:
        raise SettingsError(f"{source} takes seconds, or a number with m, h or d as in 24h; not {text!r}.")
    return float(match[1]) * _UNIT_S[match[2]]


def read_matches(texts: Sequence[str], *, source: str) -> dict[str, str]:
    """Read ``--match``: ``COLUMN=FIELD`` each.

    Returns:
        By field (``total``, ``currency``, ``dueDate``) the column that it has to equal.

    Raises:
        SettingsError: A text is something else, or a field stands twice.
    """
    matches: dict[str, str] = {}
    for text in texts:
        column, _, name = text.rpartition("=")
        field = _FIELDS.get(name.strip().lower())
        if not column.strip() or field is None:
            nearest = difflib.get_close_matches(name.strip().lower(), list(_FIELDS), n=1)
            hint = f" Did you mean {_FIELDS[nearest[0]]}?" if nearest and field is None else ""
            raise SettingsError(
                f"{source} takes COLUMN=FIELD, the field being total, currency or dueDate; not {text!r}."
                + hint
            )
        if field in matches:
            raise SettingsError(f"{source} names {field} twice.")
        matches[field] = column.strip()
    return matches
