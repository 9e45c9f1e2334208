"""Every answer of a ledger, compared with those before it: in buckets, so that memory stays flat.

Memory is one byte for each result row and what ``buckets`` holds; an audit writes nothing beside the ledger,
so the unnamed file, once there is one, lies where temporary files do.
"""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from heapq import heappush, heappushpop
from itertools import starmap
from operator import itemgetter
from pathlib import Path
from typing import Final, Generic, TypeVar

from msgspec import Struct

from batchcancel.buckets import BUCKETS, Buckets
from batchcancel.errors import UsageError
from batchcancel.model import REASONS, Outcome, Reason
from batchcancel.tasks.verify.findings import MAX_LISTED

T = TypeVar("T")

_PLACES: Final = {reason: place for place, reason in enumerate(REASONS)}
_MARKED: Final = 128
"""What is added to the place of a reason whose row is marked; there are far fewer reasons."""


class Repeated(Struct, frozen=True):
    """A row of an invoice that has its final answer already."""

    number: int
    """Of the row among all result rows, from 0."""
    earlier: Reason


class Compared(Struct, frozen=True, kw_only=True):
    """What the answers of a ledger come to."""

    reasons: dict[Reason, int]
    """Invoices by the reason of their latest row, in the order of ``Reason``."""
    repeated: tuple[Repeated, ...]
    """The first ``MAX_LISTED``, in the order of the ledger."""
    repeated_count: int


class First(Generic[T]):
    """The first ``MAX_LISTED`` of numbered things that come in any order, and how many there were."""

    def __init__(self) -> None:
        self.count = 0
        self._held: list[tuple[int, T]] = []  # a heap by the negative number: the largest is the next to go

    def add(self, number: int, what: T) -> None:
        """Take a thing; no two have the same number."""
        self.count += 1
        if len(self._held) < MAX_LISTED:
            heappush(self._held, (-number, what))
        else:
            heappushpop(self._held, (-number, what))

    def items(self) -> list[tuple[int, T]]:
        """Return number and thing of each, the smallest number first."""
        return sorted(((-number, what) for number, what in self._held), key=itemgetter(0))


class Answers:
    """The reason of every result row of a ledger, by its invoice."""

    def __init__(self) -> None:
        self._digests = open_buckets()
        self._marks = bytearray()
        self._stretches = [0]

    def begin_run(self) -> None:
        """Note that the rows to come are those of another run."""
        self._stretches.append(len(self._marks))

    def add(self, digest: bytes, reason: Reason, *, is_marked: bool = False) -> None:
        """Take the next result row.

        Args:
            digest: Of its invoice.
            reason: Of the row.
            is_marked: What ``of_bucket`` gives back.

        Raises:
            UsageError: There is no room for temporary files.
        """
        with room_for_comparing():
            self._digests.add(digest, len(self._marks))
        self._marks.append(_PLACES[reason] + (_MARKED if is_marked else 0))

    def of_bucket(self, bucket: int) -> Iterator[tuple[bytes, int, Reason, bool]]:
        """Yield digest, number, reason and mark of every row of a bucket, in the order of the ledger."""
        for digest, number in self._digests.read(bucket):
            mark = self._marks[number]
            yield digest, number, REASONS[mark % _MARKED], mark >= _MARKED

    def compare(self) -> Compared:
        """Find each invoice's latest row, and those that must not follow the ones before them.

        Raises:
            UsageError: Temporary files can't be read.
        """
        places: Counter[int] = Counter()
        repeated: First[Reason] = First()
        with room_for_comparing():
            for bucket in range(BUCKETS):
                latest: dict[bytes, int] = {}
                failed_in: dict[bytes, int] = {}
                for digest, number, reason, _ in self.of_bucket(bucket):
                    earlier_number = latest.get(digest)
                    if earlier_number is not None:
                        earlier = REASONS[self._marks[earlier_number] % _MARKED]
                        if not self._may_follow(earlier, number, failed_in.get(digest)):
                            repeated.add(number, earlier)
                    latest[digest] = number
                    if _is_final_error(reason):
                        failed_in[digest] = self._stretch_of(number)
                places.update(self._marks[number] % _MARKED for number in latest.values())
        return Compared(
            reasons={reason: places[place] for reason, place in _PLACES.items() if places[place]},
            repeated=tuple(starmap(Repeated, repeated.items())),
            repeated_count=repeated.count,
        )

    def close(self) -> None:
        """Give file and memory back."""
        self._digests.close()

    def _may_follow(self, earlier: Reason, number: int, failed_in: int | None) -> bool:
        """Tell whether a row may follow an earlier one of its invoice.

        A later run may be told to ask final errors again (``--retry-errors all``), their own run may not.
        """
        if earlier.is_final and earlier.outcome is not Outcome.ERROR:
            return False
        return failed_in is None or failed_in != self._stretch_of(number)

    def _stretch_of(self, number: int) -> int:
        return bisect_right(self._stretches, number)


def _is_final_error(reason: Reason) -> bool:
    return reason.is_final and reason.outcome is Outcome.ERROR


def open_buckets() -> Buckets:
    """Make buckets whose file, should there be one, lies where temporary files do."""
    return Buckets(Path(tempfile.gettempdir()))


@contextmanager
def room_for_comparing() -> Iterator[None]:
    """Turn the failure of a temporary file into a sentence.

    Raises:
        UsageError: In the place of ``OSError``.
    """
    try:
        yield
    except OSError as exc:
        raise UsageError(
            f"So many rows are compared in a file in {tempfile.gettempdir()}, and that failed: "
            f"{exc.strerror}. Make room there, or name another folder with TMPDIR."
        ) from exc
