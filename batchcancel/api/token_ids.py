"""Unique ids for tokens, drawn from the system's random numbers 256 at a time.

A system call for each id takes as long as the rest of a token; the ids are version 4 UUIDs all the same.
"""

from __future__ import annotations

import os
from typing import Final

_DRAWN_AT_ONCE: Final = 256
_ID_BYTES: Final = 16
_VARIANTS: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The digit that holds an id's variant: two bits are fixed, two are random."""

_drawn: Final[list[str]] = []
# A child process would go on with the same ids as its parent, and the service would refuse one of the two.
os.register_at_fork(after_in_child=_drawn.clear)


def new_token_id() -> str:
    """Return an id that was never returned before, as ``str(uuid4())`` writes one. Thread-safe."""
    while True:
        try:
            return _drawn.pop()
        except IndexError:
            _drawn.extend(_draw())


def _draw() -> list[str]:
    digits = os.urandom(_DRAWN_AT_ONCE * _ID_BYTES).hex()
    width = _ID_BYTES * 2
    return [_uuid4(digits[start : start + width]) for start in range(0, len(digits), width)]


def _uuid4(digits: str) -> str:
    return (
        f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANTS[digits[16]]}{digits[17:20]}-{digits[20:]}"
    )
