"""What a ledger already knows: its lines, one by one, and recovery before a run.

Three rules decide what a bad line means, and none of them loses a good one:

* Bad lines that reach to the end of the file, and a last line without its newline (its ``crc`` may
  be good), are a *tail*: what a crash leaves behind. It may be cut.
* A bad line that a good one follows is damage. Nothing is cut; a person has to look.
* A file that holds no good line and does not begin like a ledger is somebody else's file.

Memory is one block and one line; recovery adds what ``buckets`` holds of the answers.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from batchcancel.buckets import Buckets
from batchcancel.errors import LedgerDamagedError, LedgerFaultError, LedgerMismatchError, LedgerWriteError
from batchcancel.ledger.lines import BLOCK_BYTES, Line, is_being_written, opened, read_lines
from batchcancel.ledger.record import (
    PLAN_START,
    RUN_START,
    EndRecord,
    Record,
    ResultRecord,
    RunRecord,
    SkipRecord,
    decode,
)
from batchcancel.model import REASONS, Reason, Result, Skip, SkipReason, invoice_key, key_digest

if TYPE_CHECKING:
    from hashlib import _Hash  # a name of the type stubs only

__all__ = [
    "EndRecord",
    "GoodRecords",
    "History",
    "Line",
    "Record",
    "ResultRecord",
    "RunRecord",
    "SkipRecord",
    "Tail",
    "check_beginning",
    "digest_of",
    "digest_of_excluded",
    "is_being_written",
    "opened",
    "read_lines",
    "read_records",
    "recover",
]

_LINES_AT_ONCE: Final = 4096
"""Lines between two looks at whether anybody still waits."""
_PLACES: Final = {reason: place for place, reason in enumerate(REASONS)}


class Tail(Struct, frozen=True):
    """What a crash left at the end of a ledger: from ``offset`` to the end of the file."""

    offset: int
    size_bytes: int
    lines: int


class History(Struct, frozen=True, kw_only=True):
    """What a ledger knows, as of the moment it was read."""

    first_run: RunRecord | None
    """None if the ledger is empty."""
    run_ids: frozenset[str]
    """Of every run that has begun."""
    unended_run_ids: frozenset[str]
    """Those of them that were killed before they could write their end."""
    good_size: int
    """Bytes before the tail."""
    tail: Tail | None
    sha256: _Hash
    """State over the good bytes; copy it before going on."""
    reasons: Buckets
    """Of every result the digest of its invoice's key (``model.key_digest``) and the place of its reason
    in ``model.REASONS``, in the order of the file: the latest one of an invoice is its answer."""

    @property
    def first_started_at(self) -> str | None:
        """When the first run of this ledger began; None if it is empty."""
        return None if self.first_run is None else self.first_run.started_at

    @property
    def env(self) -> str | None:
        """The one environment of all runs; None if the ledger is empty."""
        return None if self.first_run is None else self.first_run.env

    @property
    def merchant_id(self) -> str | None:
        """The one merchant or portfolio of all runs; None if the ledger is empty."""
        return None if self.first_run is None else self.first_run.merchant_id


def recover(fd: int, path: Path, *, is_given_up: Callable[[], bool] = lambda: False) -> History:
    """Read a whole ledger and check every line. Blocks; writes nothing and moves no file position.

    Args:
        fd: An open, readable, regular file.
        path: Its name, for messages.
        is_given_up: Asked every few thousand lines; once it says so, nobody waits any more.

    Returns:
        What the ledger knows, and where its tail begins. Its ``reasons`` are the caller's to close.

    Raises:
        LedgerMismatchError: The file is no ledger, or a newer version wrote it.
        LedgerDamagedError: A bad line is followed by a good one, or the runs are of different
            environments or merchants.
        LedgerFaultError: The file can't be read, or it was given up.
        LedgerWriteError: There is no room beside it to sort so many results.
    """
    hasher = sha256()
    good = GoodRecords(fd, path)
    run_ids: set[str] = set()
    ended_run_ids: set[str] = set()
    with ExitStack() as stack:
        reasons = stack.enter_context(closing(Buckets(path.parent)))
        for line, record in good:
            if not line.number % _LINES_AT_ONCE and is_given_up():
                raise LedgerFaultError(f"The reading of {path} was given up.")
            if isinstance(record, ResultRecord):
                _keep(record, reasons, path)
            elif isinstance(record, RunRecord):
                run_ids.add(record.run_id)
            elif isinstance(record, EndRecord):
                ended_run_ids.add(record.run_id)
            hasher.update(line.data + b"\n")
        stack.pop_all()
    return History(
        first_run=good.first_run,
        run_ids=frozenset(run_ids),
        unended_run_ids=frozenset(run_ids - ended_run_ids),
        good_size=good.good_size,
        tail=good.tail,
        sha256=hasher,
        reasons=reasons,
    )


class GoodRecords:
    """The records of a ledger in their order, held against the three rules above.

    Iterate it once, to its end: only there is known what the bad lines meant.
    """

    def __init__(self, fd: int, path: Path) -> None:
        """Prepare; nothing is read.

        Args:
            fd: An open, readable, regular file.
            path: Its name, for messages.
        """
        self._fd = fd
        self._path = path
        self.first_run: RunRecord | None = None
        """None if the ledger is empty."""
        self.good_size = 0
        """Bytes before the tail."""
        self.tail: Tail | None = None

    def __iter__(self) -> Iterator[tuple[Line, Record]]:
        """Yield every good line with its record, and set the tail after the last one.

        Raises:
            LedgerMismatchError: The file is no ledger, or a newer version wrote it.
            LedgerDamagedError: A bad line is followed by a good one, or the runs are of different
                environments or merchants.
            LedgerFaultError: The file can't be read.
        """
        bad: Line | None = None
        size = bad_lines = 0
        for line, record in read_records(self._fd, self._path):
            size += line.size_bytes
            if record is None:
                bad = bad or line
                bad_lines += 1
                continue
            if bad is not None:
                raise _damaged(self._path, bad, "is damaged and good lines follow it")
            self.first_run = _first_run(self.first_run, record, self._path, line)
            yield line, record
            self.good_size = size
        if bad is not None:
            self.tail = Tail(self.good_size, size - self.good_size, bad_lines)
            self._check_lone_tail(self.tail)

    def _check_lone_tail(self, tail: Tail) -> None:
        """Tell a file that is nothing but a tail from somebody else's file."""
        if self.good_size:
            return
        check_beginning(self._fd, self._path)
        if tail.lines > 1:
            # A crash in the very first write leaves one line at most.
            raise _damaged(self._path, Line(1, 0, 0, b"", whole=False), "and every line after it is damaged")


def read_records(fd: int, path: Path) -> Iterator[tuple[Line, Record | None]]:
    """Yield every line of a ledger in order, with its record, or None where the line is bad.

    Memory is one block and one line.

    Args:
        fd: An open, readable, regular file.
        path: Its name, for messages.

    Raises:
        LedgerMismatchError: The file is a plan, or a newer version wrote a line.
        LedgerFaultError: The file can't be read.
    """
    try:
        for line in read_lines(fd):
            if line.number == 1 and line.data.startswith(PLAN_START):  # its other lines are like a ledger's
                raise LedgerMismatchError(f"{path} is a plan and no ledger. Name the ledger of a run.")
            yield line, _decode(line, path)
    except OSError as exc:
        raise _unreadable(path, exc) from exc


def check_beginning(fd: int, path: Path) -> None:
    """Make sure that a file without a good line begins like a ledger.

    A power cut in the first write of all may leave zeros in the place of what was written, to the end.

    Raises:
        LedgerMismatchError: It is somebody else's file.
        LedgerFaultError: The file can't be read.
    """
    try:
        beginning = os.pread(fd, len(RUN_START), 0)
        written = beginning.rstrip(b"\0")
        is_torn = len(written) < len(beginning)
        is_ours = RUN_START.startswith(written) and not (is_torn and _holds_more(fd, len(written)))
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    if not is_ours:
        raise LedgerMismatchError(f"{path} is no ledger and was left as it is. Name another file.")


def _holds_more(fd: int, offset: int) -> bool:
    """Tell whether a file holds anything but zeros from there on."""
    while block := os.pread(fd, BLOCK_BYTES, offset):
        if block.strip(b"\0"):
            return True
        offset += len(block)
    return False


def digest_of(result: Result) -> bytes:
    """Return what stands for a result row's invoice, its merchant included, in 16 bytes."""
    key = invoice_key(
        result.invoice_id,
        valid=result.reason is not Reason.INVALID_ID,
        merchant_id=result.merchant_id or None,
    )
    return key_digest(key)


def digest_of_excluded(skip: Skip) -> bytes | None:
    """Return what stands for the invoice of a row that is never to be touched; None for other skips."""
    if skip.why is not SkipReason.EXCLUDED:
        return None
    return key_digest(invoice_key(skip.invoice_id, valid=True, merchant_id=skip.merchant_id or None))


def _keep(record: ResultRecord, reasons: Buckets, path: Path) -> None:
    try:
        reasons.add(digest_of(record), _PLACES[record.reason])
    except OSError as exc:
        raise LedgerWriteError(
            f"So many results are sorted in a file beside {path}, and that failed: {exc.strerror}. Nothing "
            "was sent. It takes room there and the right to write; run again then."
        ) from exc


def _decode(line: Line, path: Path) -> Record | None:
    try:
        return decode(line.data) if line.whole else None
    except LedgerMismatchError as exc:
        raise LedgerMismatchError(f"{path}, line {line.number}: {exc}") from exc


def _first_run(first_run: RunRecord | None, record: Record, path: Path, line: Line) -> RunRecord:
    """Return the ledger's first run, checked against the record that was just read."""
    if first_run is None:
        if not isinstance(record, RunRecord):
            raise LedgerMismatchError(f"{path} does not begin with a run record. Name another ledger.")
        return record
    if isinstance(record, RunRecord) and (record.env, record.merchant_id) != (
        first_run.env,
        first_run.merchant_id,
    ):
        raise _damaged(path, line, "begins a run of another environment or merchant than the first")
    return first_run


def _damaged(path: Path, line: Line, what: str) -> LedgerDamagedError:
    return LedgerDamagedError(
        f"{path}: line {line.number}, at byte {line.offset}, {what}. Nothing was changed. Keep the file; "
        f"'batchcancel verify {shlex.quote(str(path))} --salvage NEW' copies its good lines into a new "
        "ledger, and a run with --ledger NEW asks what the other lines were about again."
    )


def _unreadable(path: Path, exc: OSError) -> LedgerFaultError:
    return LedgerFaultError(f"{path} can't be read: {exc.strerror}. Copy it elsewhere first.")
