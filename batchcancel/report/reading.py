"""The ledgers of one report, read twice: first for which rows are answers, then for what they say.

An invoice's answer is its latest row. Within a ledger the position decides, as the ledger's format
says. Between ledgers the row of the run that began later counts; where two began at the same moment,
that of the ledger that was named later. A run counts as begun no earlier than the runs before it in
its ledger, so that a clock that was set back changes no order.

Memory is what ``buckets`` holds while the first pass lasts, then a number for each row that a later one
replaced.
"""

from __future__ import annotations

import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path

from msgspec import Struct

from batchcancel.buckets import BUCKETS, Buckets
from batchcancel.errors import LedgerMismatchError, ReportError
from batchcancel.ledger.reader import (
    EndRecord,
    GoodRecords,
    Record,
    ResultRecord,
    RunRecord,
    digest_of,
    is_being_written,
    opened,
    read_records,
)


class LedgerFile(Struct, frozen=True, kw_only=True):
    """One ledger, as the first pass found it."""

    path: Path
    records: int
    """Good lines."""
    is_empty: bool
    is_live: bool
    """Whether a run is writing to it: more rows may come."""
    torn_bytes: int
    """Of an unfinished last write, as a crash leaves it; 0 without one, and while it is live."""


class Entry(Struct, frozen=True):
    """One record of the second pass."""

    ledger: int
    """Which of ``Ledgers.files`` holds it."""
    record: Record
    is_answer: bool
    """Whether it is the latest row of its invoice."""


class Ledgers:
    """The ledgers of one report, open until :func:`open_ledgers` ends."""

    def __init__(self, opened_ledgers: Sequence[tuple[Path, int]]) -> None:
        """Read every ledger once.

        Args:
            opened_ledgers: The path and the descriptor of each, in the order of the command line.

        Raises:
            LedgerMismatchError: A file is no ledger, of a newer version, or of another account than
                the first.
            LedgerDamagedError: A bad line is followed by a good one.
            LedgerFaultError: A file can't be read.
            ReportError: There is no room to compare so many rows.
        """
        self._opened = opened_ledgers
        self._replaced: set[int] = set()
        self._keep: dict[str, None] = {}
        self._count = 0
        self._segments: list[int] = [0]  # the number of each run's first record
        self._starts: list[str] = [""]  # and when that run began
        self.first_run: RunRecord | None = None
        """Of the first ledger that has one; None if all are empty."""
        folder = tempfile.gettempdir()  # beside a ledger there may be no right to write
        try:
            with closing(Buckets(Path(folder))) as rows:
                self.files = tuple(self._survey(path, fd, rows) for path, fd in opened_ledgers)
                self.answers = sum(self._compare(rows.read(bucket)) for bucket in range(BUCKETS))
                """Invoices that have an answer."""
        except OSError as exc:
            raise ReportError(
                f"So many rows are compared in a file in {folder}, and that failed: {exc.strerror}. Make "
                "room there, or name another folder with TMPDIR."
            ) from exc

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that ``run --keep`` carried, in the order in which rows name them."""
        return tuple(self._keep)

    def entries(self) -> Iterator[Entry]:
        """Yield every record of the first pass once more, ledger by ledger.

        What a run appended since then is left out.

        Raises:
            LedgerFaultError: A file can't be read.
        """
        number = 0
        for index, (file, (path, fd)) in enumerate(zip(self.files, self._opened, strict=True)):
            good = (record for _, record in read_records(fd, path) if record is not None)
            for record in islice(good, file.records):
                is_answer = isinstance(record, ResultRecord) and number not in self._replaced
                yield Entry(index, record, is_answer)
                number += 1

    def _survey(self, path: Path, fd: int, rows: Buckets) -> LedgerFile:
        """Read a ledger, and add the number of each of its rows by the digest of its invoice."""
        good = GoodRecords(fd, path)
        begins_at, start = self._count, ""
        last: Record | None = None
        for _, record in good:
            if isinstance(record, ResultRecord):
                if record.keep:
                    self._keep.update(dict.fromkeys(record.keep))
                rows.add(digest_of(record), self._count)
            elif isinstance(record, RunRecord):
                self._check_account(record, path)
                start = max(start, record.started_at)
                self._segments.append(self._count)
                self._starts.append(start)
            self._count += 1
            last = record
        torn_bytes = 0 if good.tail is None else good.tail.size_bytes
        is_live = not (isinstance(last, EndRecord) and good.tail is None) and is_being_written(
            fd, size_read=good.good_size + torn_bytes
        )
        return LedgerFile(
            path=path,
            records=self._count - begins_at,
            is_empty=last is None,
            is_live=is_live,
            torn_bytes=0 if is_live else torn_bytes,
        )

    def _compare(self, rows: Iterable[tuple[bytes, int]]) -> int:
        """Note which rows of some invoices are replaced by others; return how many invoices they are."""
        latest: dict[bytes, int] = {}
        for digest, number in rows:
            earlier = latest.setdefault(digest, number)
            if earlier == number:
                continue
            # Within a ledger runs never begin earlier than those before them, so that the later row wins.
            if self._start_of(number) < self._start_of(earlier):
                self._replaced.add(number)
            else:
                self._replaced.add(earlier)
                latest[digest] = number
        return len(latest)

    def _start_of(self, number: int) -> str:
        return self._starts[bisect_right(self._segments, number) - 1]

    def _check_account(self, run: RunRecord, path: Path) -> None:
        first = self.first_run = self.first_run or run
        if (run.env, run.merchant_id) != (first.env, first.merchant_id):
            raise LedgerMismatchError(
                f"{path} belongs to another environment or merchant than {self._opened[0][0]}. "
                "Report on them one by one."
            )


@contextmanager
def open_ledgers(paths: Sequence[Path]) -> Iterator[Ledgers]:
    """Open ledgers, read them once, and keep them open until the block ends. Blocks.

    Yields:
        The ledgers, ready for the second pass.

    Raises:
        LedgerMismatchError: There is no such file, or as :class:`Ledgers` says.
        LedgerDamagedError, LedgerFaultError: Likewise.
        ReportError: A ledger is named twice.
    """
    with ExitStack() as stack:
        found: list[tuple[Path, int]] = []
        seen: set[tuple[int, int]] = set()
        for path in paths:
            fd = stack.enter_context(opened(path))
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) in seen:
                raise ReportError(f"{path} is named twice, perhaps under two names. Name each ledger once.")
            seen.add((status.st_dev, status.st_ino))
            found.append((path, fd))
        yield Ledgers(found)
