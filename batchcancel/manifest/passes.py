"""The two passes over a run's manifests: the check, then the rows."""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Final

from msgspec import Struct

from batchcancel.errors import ManifestChangedError, ManifestError
from batchcancel.manifest.options import Format, ManifestOptions, resolve_formats
from batchcancel.manifest.records import Record, read_records
from batchcancel.manifest.source import Source, open_source
from batchcancel.model import ManifestRow, Standing, invoice_key

_TO_ASK: Final = frozenset({Standing.TO_ASK, Standing.TO_LOOK_UP})
_BATCH_ROWS: Final = 1000
"""Rows per trip to a thread: enough to make the trip cheap, few enough to hold."""


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


class _Survey:
    """What the first pass gathers; rows are numbered through all files, from 0."""

    def __init__(self) -> None:
        self.files: list[ManifestFile] = []
        self.starts: list[int] = []
        """The number of each file's first row."""
        self.rows = 0
        self.distinct = 0
        self.invalid = 0
        self.first_of: dict[int, int] = {}
        """For each duplicate the row where its id stood first."""
        self.merchants: set[str | None] = set()


class Manifest:
    """The manifests of one run, open until :func:`open_manifest` ends."""

    def __init__(self, sources: Sequence[tuple[Source, Format]], options: ManifestOptions) -> None:
        self._sources: Final = sources
        self._options: Final = options
        self._survey: _Survey | None = None

    async def check(self, *, standing_of: Callable[[str], Standing]) -> Check:
        """Read everything once and count it; afterwards every line is known to be well formed.

        Args:
            standing_of: Where an invoice, by ``ManifestRow.key``, stands before the run. Called on the
                event loop, once for each distinct invoice, in order.

        Raises:
            ManifestError: A file can't be read or a line is malformed; it names both.
            ManifestChangedError: A file changed while it was read.

        Cancellation leaves the manifest unchecked.
        """
        survey = _Survey()
        standings: Counter[Standing] = Counter()
        open_of: Counter[str | None] = Counter()
        new_of_batches = self._first_pass(survey)
        while (new := await asyncio.to_thread(next, new_of_batches, None)) is not None:
            for key, record in new:
                standing = standing_of(key)
                standings[standing] += 1
                if record.valid and standing in _TO_ASK:
                    open_of[record.merchant_id] += 1
        self._survey = survey
        return Check(
            files=tuple(survey.files),
            rows=survey.rows,
            distinct=survey.distinct,
            invalid=survey.invalid,
            duplicates=len(survey.first_of),
            settled=standings[Standing.SETTLED],
            excluded=standings[Standing.EXCLUDED],
            held_back=standings[Standing.HELD_BACK],
            open=open_of.total(),
            open_of=dict(open_of),
            merchants=frozenset(survey.merchants),
        )

    async def rows(self) -> AsyncIterator[ManifestRow]:
        """Yield every data row in order, duplicates and invalid ones included.

        No row comes from bytes that the check did not read. Size and modification time are compared
        before each batch of rows, the digest block by block.

        Raises:
            ManifestChangedError: A file is no longer what was checked; no further row is yielded.
            RuntimeError: There was no check.

        Cancellation ends the pass; the manifest can be read again.
        """
        if self._survey is None:
            raise RuntimeError("rows() needs a finished check()")
        batches = self._second_pass(self._survey)
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            for row in batch:
                yield row

    def _first_pass(self, survey: _Survey) -> Iterator[list[tuple[str, Record]]]:
        """Fill the survey; yield, batch by batch, with its key what was not seen before."""
        seen: dict[bytes, int] = {}  # 16 bytes an id, whatever its length, and gone after the pass
        for source, format_ in self._sources:
            survey.starts.append(survey.rows)
            for batch in self._batches(source, format_):
                new = []
                for number, record in enumerate(batch, start=survey.rows):
                    key = invoice_key(record.text, valid=record.valid, merchant_id=record.merchant_id)
                    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
                    first = seen.setdefault(digest, number)
                    if first != number:
                        survey.first_of[number] = first
                        continue
                    new.append((key, record))
                    survey.merchants.add(record.merchant_id)
                    survey.distinct += record.valid
                    survey.invalid += not record.valid
                survey.rows += len(batch)
                yield new
            source.ensure_unchanged()
            rows = survey.rows - survey.starts[-1]
            survey.files.append(ManifestFile(path=source.path, sha256=source.sha256, rows=rows))

    def _second_pass(self, survey: _Survey) -> Iterator[list[ManifestRow]]:
        number = 0
        for source, format_ in self._sources:
            source.ensure_unchanged()
            try:
                for batch in self._batches(source, format_):
                    source.ensure_unchanged()
                    yield [self._row(survey, number + index, record) for index, record in enumerate(batch)]
                    number += len(batch)
            except ManifestError as exc:  # it was well formed when it was checked
                raise ManifestChangedError(
                    f"{exc} This was not so when it was checked. Rows not reached stay open: run again."
                ) from exc
            source.ensure_unchanged()

    def _batches(self, source: Source, format_: Format) -> Iterator[list[Record]]:
        records = read_records(source.lines(), format_, self._options, name=source.name)
        while batch := list(islice(records, _BATCH_ROWS)):
            yield batch

    def _row(self, survey: _Survey, number: int, record: Record) -> ManifestRow:
        options, cells = self._options, record.cells or {}
        file, row = self._place(survey, number)
        first = survey.first_of.get(number)
        first_file, first_row = (None, None) if first is None else self._place(survey, first)
        return ManifestRow(
            row=row,
            invoice_id=record.text,
            valid=record.valid,
            duplicate_of=first_row,
            duplicate_of_file=first_file,
            file=file,
            merchant_id=record.merchant_id,
            keep={column: cells[column] for column in options.keep} or None,
            match={field: cells[column] for field, column in options.match.items()} or None,
        )

    def _place(self, survey: _Survey, number: int) -> tuple[str | None, int]:
        """Turn a row's number through all files into its file, where there are several, and its row."""
        index = bisect_right(survey.starts, number) - 1
        path = self._sources[index][0].path if len(self._sources) > 1 else None
        return path, number - survey.starts[index] + 1


@asynccontextmanager
async def open_manifest(
    paths: Sequence[str], *, options: ManifestOptions, spool_dir: Path
) -> AsyncIterator[Manifest]:
    """Open every manifest once and keep the descriptors until the block ends.

    Args:
        paths: Files, FIFOs, or ``-`` for standard input, which may stand once.
        options: How all of them are read.
        spool_dir: Where what can't be sought is copied to, as an unnamed file of mode 0600.

    Yields:
        The manifest, to be checked and then read.

    Raises:
        ManifestError: A file can't be opened or spooled, or its format or encoding is not known.

    Cancellation closes what was opened.
    """
    formats = resolve_formats(paths, options)
    async with AsyncExitStack() as stack:
        sources = [
            (await open_source(stack, path, encoding=options.encoding, spool_dir=spool_dir), format_)
            for path, format_ in zip(paths, formats, strict=True)
        ]
        yield Manifest(sources, options)
