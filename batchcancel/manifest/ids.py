"""What ids of invoices and merchants may look like, and how text that is none is recorded."""

from __future__ import annotations

import re
from typing import Final

MAX_RECORDED_LENGTH: Final = 256
"""Characters of an unusable id that are kept."""

_ID: Final = re.compile(
    r"""(?![0-9]{1,64}\.0+\Z)             # 12345.0: a spreadsheet took the id for a number
        [A-Za-z0-9][A-Za-z0-9._-]{0,63}   # never '.', '..' or a slash: no way to another endpoint
    """,
    re.VERBOSE,
)
_MERCHANT_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")


def is_valid_id(text: str) -> bool:
    """Tell whether a trimmed text may be sent as an invoice id."""
    return _ID.fullmatch(text) is not None


def is_merchant_id(text: str) -> bool:
    """Tell whether a text may be sent as a merchant's id: printable ASCII, no spaces."""
    return _MERCHANT_ID.fullmatch(text) is not None


def recorded_text(text: str) -> str:
    r"""Make an unusable id safe to show and to store.

    Args:
        text: The id as read, trimmed.

    Returns:
        256 characters at most, all printable: whatever could move a cursor, end a line or reorder
        the text (controls, separators, bidi marks, lone surrogates) stands as ``\xNN``,
        ``\uNNNN`` or ``\UNNNNNNNN``.
    """
    head = text[:MAX_RECORDED_LENGTH]  # escaping only lengthens: the rest would be cut anyway
    if not head.isprintable():
        head = "".join(char if char.isprintable() else _escaped(ord(char)) for char in head)
    return head[:MAX_RECORDED_LENGTH]


def _escaped(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02x}"
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    return f"\\U{code:08x}"
