"""What the check learns of each row: one byte, and for a duplicate the row that it repeats. Pure.

Rows are numbered through all files, from 0. Memory is one byte a row; four more once there is a
duplicate, and four more where rows say whose invoices they are.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import compress
from typing import Final

from msgspec import Struct

from batchcancel.manifest.records import Record
from batchcancel.model import REASONS, Reason, Standing

StandingOf = Callable[[Reason | None, bool], Standing]
"""Where an invoice stands: by the reason of its latest result, if it has one, and whether it is excluded."""

_VALID: Final = 1
_EXCLUDED: Final = 2
_REASON: Final = 4
"""A mark is the sum of these; the last one times the reason's place in ``REASONS``, counted from 1."""
_DUPLICATE: Final = 255
_TO_ASK: Final = frozenset({Standing.TO_ASK, Standing.TO_LOOK_UP})


class ManifestFile(Struct, frozen=True, kw_only=True):
    """One file of a manifest, as the ledger's run record names it."""

    path: str
    """As given; ``-`` for standard input."""
    sha256: str
    """Hex digest of the bytes as they are on disk, compressed ones included."""
    rows: int


class Check(Struct, frozen=True, kw_only=True):
    """What the first pass found: ``rows`` is ``distinct`` + ``invalid`` + ``duplicates``."""

    files: tuple[ManifestFile, ...]
    rows: int
    """Data rows of all files."""
    distinct: int
    """Distinct valid ids."""
    invalid: int
    """Rows whose id may not be sent and that are no duplicates."""
    duplicates: int
    """Rows that repeat an earlier row's id, valid or not, across files."""
    settled: int
    """Distinct ids, valid or not, that have their answer already."""
    excluded: int
    """Distinct valid ids that are never to be touched."""
    held_back: int
    """Distinct ids that ended in an error which is not asked about again."""
    open: int
    """Distinct valid ids that are to be asked about."""
    open_of: dict[str | None, int]
    """Those by merchant; None is the run's own. Merchants without any are left out."""
    merchants: frozenset[str | None]
    """Whose rows there are; None is the run's own merchant."""

    @property
    def to_settle(self) -> int:
        """What a run writes results for: open ids, and invalid ones that are not settled."""
        return self.distinct + self.invalid - self.settled - self.excluded - self.held_back


class Survey:
    """A mark for each row of a manifest, made in two steps: row by row, then bucket by bucket."""

    def __init__(self, standing_of: StandingOf, *, excluded: frozenset[str]) -> None:
        """Begin without a row.

        Args:
            standing_of: Decides where an invoice stands.
            excluded: Valid ids that are never to be touched, whoever's invoices they are.
        """
        self.files: Final[list[ManifestFile]] = []
        """Those that were read to their end."""
        self.starts: Final[list[int]] = []
        """The number of each file's first row."""
        self._excluded = excluded
        self._standings: Final = {
            _REASON * place + flags: standing_of(reason, bool(flags & _EXCLUDED))
            for place, reason in enumerate((None, *REASONS))
            for flags in range(_REASON)
        }
        self._marks = bytearray()
        self._firsts: array[int] | None = None
        """For each duplicate the row where its id stood first; None if there is no duplicate."""
        self._merchants: dict[str | None, int] = {}
        self._merchant_of: array[int] | None = None
        """For each row the place of its merchant; None if there is one merchant at most."""

    @property
    def rows(self) -> int:
        """Rows so far."""
        return len(self._marks)

    def mark(self, records: Iterable[Record]) -> None:
        """Mark the next rows by what they say themselves."""
        for record in records:
            flags = 0
            if record.valid:
                flags = _VALID | _EXCLUDED if record.text in self._excluded else _VALID
            self._note_merchant(record.merchant_id)
            self._marks.append(flags)

    def compare(self, rows: Iterable[tuple[bytes, int]], reasons: Iterable[tuple[bytes, int]]) -> None:
        """Mark duplicates, and what earlier runs found, among rows that may be of the same invoices.

        Args:
            rows: Digest and number of every row of one bucket, in order.
            reasons: Digest and place in ``REASONS`` of every result in the same bucket of the ledger,
                in order: the latest one of an invoice counts.
        """
        first_of: dict[bytes, int] = {}
        for digest, number in rows:
            first = first_of.setdefault(digest, number)
            if first != number:
                self._note_duplicate(number, first)
        for digest, place in reasons if first_of else ():
            number = first_of.get(digest, -1)
            if number >= 0:
                self._marks[number] = self._marks[number] % _REASON + _REASON * (place + 1)

    def check(self) -> Check:
        """Sum up, once every bucket was compared."""
        rows_of = Counter(self._marks)
        duplicates = rows_of.pop(_DUPLICATE, 0)
        distinct = sum(rows for mark, rows in rows_of.items() if mark & _VALID)
        standings: Counter[Standing] = Counter()
        for mark, rows in rows_of.items():
            standings[self._standings[mark]] += rows
        open_of = self._open_of(rows_of)
        return Check(
            files=tuple(self.files),
            rows=self.rows,
            distinct=distinct,
            invalid=rows_of.total() - distinct,
            duplicates=duplicates,
            settled=standings[Standing.SETTLED],
            excluded=standings[Standing.EXCLUDED],
            held_back=standings[Standing.HELD_BACK],
            open=sum(open_of.values()),
            open_of=open_of,
            merchants=frozenset(self._merchants),
        )

    def first_of(self, row: int) -> int | None:
        """Return the row that a row repeats; None if it is no duplicate."""
        if self._firsts is None or self._marks[row] != _DUPLICATE:
            return None
        return self._firsts[row]

    def standing(self, row: int) -> Standing:
        """Tell where the invoice of a row stands that is no duplicate."""
        return self._standings[self._marks[row]]

    def _note_merchant(self, merchant_id: str | None) -> None:
        place = self._merchants.setdefault(merchant_id, len(self._merchants))
        if self._merchant_of is None:
            if not place:
                return
            self._merchant_of = array("I", [0]) * self.rows
        self._merchant_of.append(place)

    def _note_duplicate(self, row: int, first: int) -> None:
        if self._firsts is None:
            self._firsts = array("I", [0]) * self.rows
        self._firsts[row] = first
        self._marks[row] = _DUPLICATE

    def _open_of(self, rows_of: Counter[int]) -> dict[str | None, int]:
        open_marks = {mark for mark in rows_of if mark & _VALID and self._standings[mark] in _TO_ASK}
        if self._merchant_of is None:
            count_of = {0: sum(rows_of[mark] for mark in open_marks)}
        else:
            is_open = self._marks.translate(bytes(mark in open_marks for mark in range(256)))
            count_of = Counter(compress(self._merchant_of, is_open))
        return {id_: count for id_, place in self._merchants.items() if (count := count_of.get(place))}
