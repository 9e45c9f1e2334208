r"""The plan's format: what look-ups found of a manifest's invoices, in lines like a ledger's.

==============  ==============================================================================
``type``        meaning
==============  ==============================================================================
``plan``        the first line: who looked, when, where, at which manifests, with which options
``sighting``    what a look-up found of one invoice: the fields of ``model.Sighting``
``skip``        a manifest row that is not asked about, as in a ledger
``end``         the last line; ``sha256`` covers every byte before it
==============  ==============================================================================

Every line is sealed by its ``crc`` as a ledger's line is (see ``record``). A plan is no ledger: a run
refuses it as one, since it does not begin with a ``run``.
"""

from __future__ import annotations

import os
from array import array
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import msgspec

from batchcancel.errors import LedgerMismatchError
from batchcancel.ledger.lines import Line, opened, read_lines
from batchcancel.ledger.record import (
    FORMAT_VERSION,
    Beginning,
    EndRecord,
    SkipRecord,
    encode_line,
    encode_row,
    is_sealed,
)
from batchcancel.model import Reason, Sighting

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOWHERE: Final = 2**64 - 1
_LASTING: Final = frozenset({Reason.PAID, Reason.ALREADY_CANCELED})
"""What can't change any more: a paid invoice stays paid, a canceled one canceled."""


class PlanRecord(Beginning, frozen=True, kw_only=True, tag_field="type", tag="plan"):
    """A plan was begun."""


class SightingRecord(Sighting, frozen=True, kw_only=True, tag_field="type", tag="sighting"):
    """A ``sighting`` line as read."""

    run_id: str


_Record = PlanRecord | SightingRecord | SkipRecord | EndRecord
_DECODER: Final = msgspec.json.Decoder(_Record)


def encode_plan(plan: PlanRecord) -> bytes:
    """Encode the first line, newline included."""
    return encode_line(plan)


def encode_sighting(run_id: str, sighting: Sighting) -> bytes:
    """Encode a ``sighting`` line, newline included."""
    return encode_row("sighting", run_id, sighting)


class Plan:
    """A plan, open for reading: what it knows of a manifest's rows that can't change any more.

    Memory is twelve bytes for each row of the manifest, whatever the plan says of it.
    """

    def __init__(self, path: Path, fd: int) -> None:
        """Take over an open file; ``read`` is the way here."""
        self.path: Final = path
        self._fd = fd
        self.record: PlanRecord
        self.answers = 0
        """Rows that it has a lasting answer for."""
        self._offsets: array[int]
        self._sizes: array[int]
        self._index()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open a plan and check every line of it; blocks.

        Returns:
            The plan; the caller closes it.

        Raises:
            LedgerMismatchError: It can't be opened, is no plan, not whole, or of a newer version.
        """
        with opened(path, what="plan") as fd:
            kept = os.dup(fd)
        try:
            return cls(path, kept)
        except BaseException:
            os.close(kept)
            raise

    def close(self) -> None:
        """Close its file."""
        os.close(self._fd)

    def find(self, number: int) -> Sighting | None:
        """Return what is known for good of a row's invoice; None if nothing is.

        Args:
            number: Of the row, through all files of the manifest, from 0.

        Raises:
            LedgerMismatchError: The file was changed while it was read.
        """
        offset = self._offsets[number]
        if offset == _NOWHERE:
            return None
        line = os.pread(self._fd, self._sizes[number], offset)
        record = _decode(line)
        if not isinstance(record, SightingRecord):
            raise LedgerMismatchError(f"The plan {self.path} was changed while it was read.")
        return record

    def _index(self) -> None:
        """Note where the line of each row stands that has a lasting answer."""
        hasher, end = sha256(), None
        lines = self._lines()
        first = next(lines, None)
        begun = None if first is None else _decode(first.data)
        if first is None or not isinstance(begun, PlanRecord):
            raise LedgerMismatchError(
                f"{self.path} is no plan. 'batchcancel plan MANIFEST --out FILE' makes one."
            )
        starts = self._begin(begun)
        hasher.update(first.data + b"\n")
        for line in lines:
            record = _decode(line.data) if line.whole else None
            match record:
                case SightingRecord() if end is None:
                    self._note(record, line, starts)
                case SkipRecord() if end is None:
                    pass
                case EndRecord() if end is None:
                    end = record
                    continue
                case _:
                    raise self._refused(f"line {line.number} is damaged, or out of its place")
            hasher.update(line.data + b"\n")
        if end is None:
            raise self._refused("it has no end")
        if end.sha256 != hasher.hexdigest():
            raise self._refused("a line of it was taken out or moved")

    def _lines(self) -> Iterator[Line]:
        try:
            yield from read_lines(self._fd)
        except OSError as exc:
            raise LedgerMismatchError(f"The plan {self.path} can't be read: {exc.strerror}.") from exc

    def _begin(self, record: PlanRecord) -> dict[str | None, int]:
        """Take in the first line; return where the rows of each file begin."""
        if record.v > FORMAT_VERSION:
            raise LedgerMismatchError(
                f"The plan {self.path} was written by a newer version of batchcancel. Use that version, or "
                "make the plan again."
            )
        if not _is_time(record.started_at):
            raise self._refused("its first line has no time")
        self.record = record
        starts: dict[str | None, int] = {}
        rows = 0
        for file in record.manifest:
            starts[file.path if len(record.manifest) > 1 else None] = rows
            rows += file.rows
        self._offsets = array("Q", [_NOWHERE]) * rows
        self._sizes = array("I", [0]) * rows
        return starts

    def _note(self, record: SightingRecord, line: Line, starts: dict[str | None, int]) -> None:
        start = starts.get(record.file or None)
        if start is None or not 0 < record.row <= len(self._offsets) - start:
            raise self._refused(f"line {line.number} is about a row that its manifest does not have")
        if not _is_time(record.at):
            raise self._refused(f"line {line.number} has no time")
        if record.reason in _LASTING:
            number = start + record.row - 1
            self.answers += self._offsets[number] == _NOWHERE
            self._offsets[number] = line.offset
            self._sizes[number] = len(line.data)

    def _refused(self, why: str) -> LedgerMismatchError:
        return LedgerMismatchError(f"The plan {self.path} can't be used: {why}. Make it again.")


def _decode(line: bytes) -> _Record | None:
    if not is_sealed(line):
        return None
    try:
        record: _Record = _DECODER.decode(line)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return record


def _is_time(text: str) -> bool:
    """Tell whether a text is a time with its offset, as every line has one."""
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
