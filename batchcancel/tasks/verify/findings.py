"""What an audit of a ledger can say, in words that are safe to show.

A *finding* breaks the promise: a line was changed, lost or added, or the program wrote what it must
not write. A *note* does not: a crash leaves a tail or a run without its ``end``, and the next run
deals with both.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct

from batchcancel.manifest.ids import recorded_text
from batchcancel.model import Reason

MAX_LISTED: Final = 1000
"""Findings that are listed; further ones are only counted, so that memory stays bounded."""
_LARGEST_SHOWN: Final = 10**15


class FindingKind(StrEnum):
    """What breaks the promise."""

    DAMAGED = "damaged"
    """Bad lines that are no tail."""
    BEGINNING = "beginning"
    """The first good line is no run record."""
    ACCOUNT = "account"
    """A run of another environment or merchant than the first."""
    UNKNOWN_RUN = "unknown_run"
    REPEATED_RUN = "repeated_run"
    INTERLEAVED = "interleaved"
    """A run goes on although another one has begun."""
    AFTER_END = "after_end"
    DIGEST = "digest"
    COUNTS = "counts"
    """A run's ``end`` counts other rows than the run wrote."""
    CONSERVATION = "conservation"
    """A run's ``end`` does not account for every row of its manifest."""
    ANSWERED_TWICE = "answered_twice"
    OUTCOME = "outcome"
    """A row's outcome is not the one of its reason."""


class NoteKind(StrEnum):
    """What is worth knowing and breaks nothing."""

    EMPTY = "empty"
    TAIL = "tail"
    NO_END = "no_end"
    IN_USE = "in_use"
    UNCHECKED = "unchecked"
    """Digests that can't be checked, since bytes under them have changed."""


class Finding(Struct, frozen=True, kw_only=True):
    """One finding or note, and where it is."""

    kind: FindingKind | NoteKind
    line: int
    """1-based; of several lines, the first."""
    offset: int
    """Of that line's first byte."""
    text: str
    """A sentence for people: printable ASCII, whatever the ledger holds."""


class Audit(Struct, frozen=True, kw_only=True):
    """What an audit saw."""

    size_bytes: int
    lines: int
    env: str | None
    """Of the first run; None where no run record is whole. ``merchant_id`` likewise."""
    merchant_id: str | None
    runs: dict[str, int]
    """Runs by the state of their ``end``; ``no_end`` where they have none."""
    results: int
    skips: int
    reasons: dict[Reason, int]
    """Invoices by the reason of their latest result row."""
    findings: tuple[Finding, ...]
    """The first ``MAX_LISTED``, in the order of the file."""
    finding_count: int
    notes: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing breaks the promise."""
        return not self.finding_count


def shown(text: str) -> str:
    """Make text of a ledger safe for every terminal: printable ASCII, escapes for the rest."""
    return recorded_text(text).encode("ascii", errors="backslashreplace").decode()


def number(value: int) -> str:
    """Write a number of a ledger; Python refuses to write those of thousands of digits."""
    return f"{value:,}" if abs(value) < _LARGEST_SHOWN else "an absurd number of"
