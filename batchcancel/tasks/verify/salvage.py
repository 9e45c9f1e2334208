"""``verify --salvage``: copy what is good of a damaged ledger into a new one.

A line is copied byte for byte if it is whole and the run that wrote it is known:

* A line whose run record was lost is left out: only that record says which environment and merchant
  the row is about. The same holds for runs of another account than the first.
* An ``end`` record is left out where its ``sha256`` is not that of the bytes copied before it. Its run
  then looks as if it had been killed, which is what a reader has to reckon with anyway; a digest that
  need not hold would be worth nothing in any ledger.

What is left out loses no money: the next run on the new ledger asks those invoices again, and finds by
look-ups what was canceled. One answer can grow old: if ``--retry-errors all`` asked a final error
again and its second answer is lost, the first one stands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from msgspec import Struct

from batchcancel.errors import LedgerWriteError, UsageError
from batchcancel.ledger.disk import Disk, LedgerFile
from batchcancel.ledger.reader import Line, opened, read_records
from batchcancel.ledger.record import EndRecord, Record, ResultRecord, RunRecord, SkipRecord
from batchcancel.tasks.verify.findings import MAX_LISTED
from batchcancel.tasks.verify.lock import hold

_GROUP_BYTES: Final = 1024 * 1024
_REAL_DISK: Final = Disk()


class LeftOut(Struct, frozen=True, kw_only=True):
    """Adjacent lines that were not copied, for one cause."""

    line: int
    """1-based, of the first."""
    lines: int
    offset: int
    """Of the first line's first byte."""
    size_bytes: int
    why: str


class Salvaged(Struct, frozen=True, kw_only=True):
    """What became of the lines of a ledger."""

    path: str | None
    """The new ledger; None if no line could be copied, and then there is none."""
    lines: int
    """Copied."""
    lines_left_out: int
    left_out: tuple[LeftOut, ...]
    """The first ``MAX_LISTED`` groups of lines, in the order of the file."""


def salvage_ledger(ledger: Path, new: Path, *, disk: Disk = _REAL_DISK) -> Salvaged:
    """Copy the good lines of a ledger into a new one. Blocks; no run can begin in it meanwhile.

    Returns once the new ledger, of mode 0600, and its folder's entry are on disk. Whatever is raised
    leaves no new ledger behind; a kill may leave its beginning, which is a ledger of fewer rows.

    Args:
        ledger: The ledger, left as it is.
        new: The new ledger; nothing may be there yet.
        disk: The calls that reach the disk.

    Raises:
        UsageError: There is something at the new path.
        LedgerMismatchError: There is no such ledger, or a newer version wrote it.
        LedgerInUseError: A run holds the ledger.
        LedgerFaultError: The ledger can't be read, or the new one can't be written.
    """
    _check_absent(new)
    sieve = _Sieve()
    with opened(ledger) as fd:
        hold(fd, ledger)
        good = (
            line.data + b"\n" for line, record in read_records(fd, ledger) if sieve.lets_through(line, record)
        )
        lines = _write_new(new, good, disk)
    return Salvaged(
        path=str(new) if lines else None,
        lines=lines,
        lines_left_out=sieve.lines_left_out,
        left_out=tuple(sieve.left_out),
    )


class _Sieve:
    """Decides line by line what is copied; pure."""

    def __init__(self) -> None:
        self.lines_left_out = 0
        self.left_out: list[LeftOut] = []
        self._account: tuple[str, str] | None = None
        self._runs: set[str] = set()
        self._sha256 = sha256()

    def lets_through(self, line: Line, record: Record | None) -> bool:
        """Tell whether a line is copied; note it where it is not."""
        why = self._why_not(record)
        if why is not None:
            self._leave_out(line, why)
            return False
        self._sha256.update(line.data + b"\n")
        return True

    def _why_not(self, record: Record | None) -> str | None:
        match record:
            case None:
                return "damaged or unfinished"
            case RunRecord():
                account = self._account = self._account or (record.env, record.merchant_id)
                if (record.env, record.merchant_id) != account:
                    return "a run of another environment or merchant"
                self._runs.add(record.run_id)
            case ResultRecord() | SkipRecord() | EndRecord() if record.run_id not in self._runs:
                return "of a run whose run record is not copied"
            case EndRecord() if record.sha256 != self._sha256.hexdigest():
                return "an end record over bytes that are not copied"
            case _ if self._account is None:
                return "before the first run record"
        return None

    def _leave_out(self, line: Line, why: str) -> None:
        self.lines_left_out += 1
        last = self.left_out[-1] if self.left_out else None
        if last and last.why == why and last.offset + last.size_bytes == line.offset:
            self.left_out[-1] = LeftOut(
                line=last.line,
                lines=last.lines + 1,
                offset=last.offset,
                size_bytes=last.size_bytes + line.size_bytes,
                why=why,
            )
        elif len(self.left_out) < MAX_LISTED:
            self.left_out.append(
                LeftOut(line=line.number, lines=1, offset=line.offset, size_bytes=line.size_bytes, why=why)
            )


def _write_new(path: Path, lines: Iterator[bytes], disk: Disk) -> int:
    """Write lines into a new ledger and return how many; without any, there is no new ledger."""
    first = next(lines, None)
    if first is None:
        return 0
    file = LedgerFile.open(path, disk)
    try:
        if not file.created:
            raise _taken(path)
        try:
            return _fill(file, first, lines)
        except LedgerWriteError as exc:  # a run would go on from its last row; a copy begins anew
            _remove(path)
            why = exc.__cause__.strerror if isinstance(exc.__cause__, OSError) else exc
            raise LedgerWriteError(
                f"{path} can't be written: {why}. No new ledger was made, and the old one is as it was."
            ) from exc
        except BaseException:
            _remove(path)
            raise
    finally:
        file.close()


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _fill(file: LedgerFile, first: bytes, lines: Iterator[bytes]) -> int:
    """Write lines group by group; returns once all are durable."""
    file.begin(first)
    count, group = 1, bytearray()
    for line in lines:
        count += 1
        group += line
        if len(group) >= _GROUP_BYTES:
            file.append(bytes(group))
            group.clear()
    if group:
        file.append(bytes(group))
    return count


def _check_absent(new: Path) -> None:
    if os.path.lexists(new):
        raise _taken(new)


def _taken(new: Path) -> UsageError:
    return UsageError(f"{new} is there already and was left as it is. Name a new file with --salvage.")
