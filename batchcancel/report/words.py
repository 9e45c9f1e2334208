"""How what a ledger holds is shown: texts that can do no harm, numbers, sums and times."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact
from typing import Final

_AMOUNT: Final = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,10})?")
_EXACT: Final = Context(prec=80, traps=[Inexact])
"""Adds amounts of 40 digits as often as anybody likes, and would rather fail than round."""


def printable(text: str, *, most: int = 200) -> str:
    r"""Return a text of a ledger so that it moves no cursor and reorders nothing.

    Args:
        text: Anything.
        most: Characters that are kept; a longer text ends in three dots.

    Returns:
        Printable characters only; others stand as ``\n``, ``\xNN``, ``\uNNNN`` or ``\UNNNNNNNN``.
    """
    cut = text if len(text) <= most else text[: most - 1] + "…"
    if cut.isprintable():
        return cut
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in cut)


def ascii_only(text: str) -> str:
    """Return a text in ASCII, for terminals and pipes of any encoding."""
    return printable(text).replace("…", "...").encode("ascii", errors="backslashreplace").decode()


def parse_amount(text: str | None) -> Decimal | None:
    """Read an amount of a ledger; None if it is none, or so long that nobody can owe it."""
    return Decimal(text) if text is not None and _AMOUNT.fullmatch(text) else None


def add(total: Decimal, amount: Decimal) -> Decimal:
    """Add two amounts without rounding."""
    return _EXACT.add(total, amount)


def parse_time(text: str) -> float | None:
    """Read a time of a ledger as Unix seconds; None if it is none."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if when.tzinfo is None else when.timestamp()


def show_time(text: str | None) -> str:
    """Write a time of a ledger for people, to the second; what is no time as it is."""
    seconds = None if text is None else parse_time(text)
    if text is None or seconds is None:
        return printable(text or "", most=40)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def show_duration(seconds: float) -> str:
    """Write how long something lasted: ``0.4 s``, ``3 min 20 s``, ``5 h 2 min``, ``3 d 4 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days:,} d {hours} h" if hours else f"{days:,} d"


def aligned(rows: Sequence[Sequence[str]], *, right: frozenset[int]) -> list[str]:
    """Write rows as a table of plain text, the first one as its header.

    Args:
        rows: All of the same length.
        right: Columns that are set to the right.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = ["-" * width if name else "" for name, width in zip(rows[0], widths, strict=True)]
    ruled = [rows[0], rule, *rows[1:]]
    return [
        (
            "  "
            + "  ".join(
                cell.rjust(width) if column in right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        ).rstrip()
        for row in ruled
    ]
