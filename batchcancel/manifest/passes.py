"""The two passes over a run's manifests: the check, then the rows."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from itertools import islice
from pathlib import Path
from typing import Final

from batchcancel.buckets import BUCKETS, Buckets
from batchcancel.errors import ManifestChangedError, ManifestError
from batchcancel.manifest.options import Format, ManifestOptions, resolve_formats
from batchcancel.manifest.records import Record, read_records
from batchcancel.manifest.source import Source, open_source
from batchcancel.manifest.survey import Check, ManifestFile, StandingOf, Survey
from batchcancel.model import ManifestRow, Reason, Standing, invoice_key, key_digest

_BATCH_ROWS: Final = 1000
"""Rows per trip to a thread: enough to make the trip cheap, few enough to hold."""
_BATCH_BUCKETS: Final = 16
"""Buckets per trip to a thread: a quarter of a second with ten million rows; few rows take one trip."""


def _ask(_reason: Reason | None, _is_excluded: bool) -> Standing:  # noqa: FBT001 - a StandingOf
    return Standing.TO_ASK


class Manifest:
    """The manifests of one run, open until :func:`open_manifest` ends."""

    def __init__(
        self, sources: Sequence[tuple[Source, Format]], options: ManifestOptions, *, spool_dir: Path
    ) -> None:
        self._sources: Final = sources
        self._options: Final = options
        self._spool_dir: Final = spool_dir
        self._survey: Survey | None = None

    async def check(
        self,
        *,
        standing_of: StandingOf = _ask,
        reasons: Buckets | None = None,
        excluded: frozenset[str] = frozenset(),
    ) -> Check:
        """Read everything once and count it; afterwards every line is known to be well formed.

        Args:
            standing_of: Decides where an invoice stands before the run; by default all are asked about.
            reasons: What earlier runs found: by the digest of an invoice's key (``model.key_digest``)
                the places in ``model.REASONS`` of its results, the latest last.
            excluded: Valid ids that are never to be touched, whoever's invoices they are.

        Raises:
            ManifestError: A file can't be read or a line is malformed (it names both), or there is no
                room beside the ledger to compare so many ids.
            ManifestChangedError: A file changed while it was read.

        Cancellation leaves the manifest unchecked.
        """
        survey = Survey(standing_of, excluded=excluded)
        steps = self._first_pass(survey, reasons or Buckets(self._spool_dir))
        while await asyncio.to_thread(next, steps, None) is not None:
            pass
        check = await asyncio.to_thread(survey.check)
        self._survey = survey
        return check

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

    def _first_pass(self, survey: Survey, reasons: Buckets) -> Iterator[int]:
        """Survey every row; yield how far it has come after each part of the work."""
        # Closed here, whoever drops this pass: a thread may still be at work in it.
        with closing(Buckets(self._spool_dir)) as digests:
            for source, format_ in self._sources:
                survey.starts.append(survey.rows)
                for batch in self._batches(source, format_):
                    self._add(batch, survey.rows, digests)
                    survey.mark(batch)
                    yield survey.rows
                source.ensure_unchanged()
                rows = survey.rows - survey.starts[-1]
                survey.files.append(ManifestFile(path=source.path, sha256=source.sha256, rows=rows))
            for bucket in range(BUCKETS):
                try:
                    survey.compare(digests.read(bucket), reasons.read(bucket))
                except OSError as exc:
                    raise self._can_not_compare(exc) from exc
                if survey.rows > _BATCH_ROWS and not bucket % _BATCH_BUCKETS:
                    yield bucket

    def _add(self, batch: list[Record], start: int, digests: Buckets) -> None:
        """Add rows to those that are compared, numbered from ``start``."""
        try:
            for number, record in enumerate(batch, start):
                key = invoice_key(record.text, valid=record.valid, merchant_id=record.merchant_id)
                digests.add(key_digest(key), number)
        except OSError as exc:
            raise self._can_not_compare(exc) from exc

    def _can_not_compare(self, exc: OSError) -> ManifestError:
        return ManifestError(
            f"So many ids are compared in a file in {self._spool_dir}, and that failed ({exc.strerror}). "
            "Nothing was sent. It takes room there and the right to write; run again then."
        )

    def _second_pass(self, survey: Survey) -> Iterator[list[ManifestRow]]:
        for (source, format_), start in zip(self._sources, survey.starts, strict=True):
            source.ensure_unchanged()
            row = 1
            try:
                for batch in self._batches(source, format_):
                    source.ensure_unchanged()
                    yield [
                        self._row(survey, source, start, number, record)
                        for number, record in enumerate(batch, row)
                    ]
                    row += len(batch)
            except ManifestError as exc:  # it was well formed when it was checked
                raise ManifestChangedError(
                    f"{exc} This was not so when it was checked. Rows not reached stay open: run again."
                ) from exc
            source.ensure_unchanged()

    def _batches(self, source: Source, format_: Format) -> Iterator[list[Record]]:
        records = read_records(source.lines(), format_, self._options, name=source.name)
        while batch := list(islice(records, _BATCH_ROWS)):
            yield batch

    def _row(self, survey: Survey, source: Source, start: int, row: int, record: Record) -> ManifestRow:
        """Make a row of a record.

        Args:
            survey: What the check found.
            source: The record's file.
            start: How many rows stand in the files before that one.
            row: The record's number in it, from 1.
            record: What the row says.
        """
        number = start + row - 1
        first = survey.first_of(number)
        first_file, first_row = (None, None) if first is None else self._place(survey, first)
        options, cells = self._options, record.cells or {}
        return ManifestRow(
            row=row,
            invoice_id=record.text,
            valid=record.valid,
            duplicate_of=first_row,
            duplicate_of_file=first_file,
            file=self._name(source),
            merchant_id=record.merchant_id,
            keep={column: cells[column] for column in options.keep} if options.keep else None,
            match={field: cells[column] for field, column in options.match.items()}
            if options.match
            else None,
            standing=Standing.TO_ASK if first is not None else survey.standing(number),
        )

    def _place(self, survey: Survey, number: int) -> tuple[str | None, int]:
        """Turn a row's number through all files into its file, where there are several, and its row."""
        index = bisect_right(survey.starts, number) - 1
        return self._name(self._sources[index][0]), number - survey.starts[index] + 1

    def _name(self, source: Source) -> str | None:
        """Return how rows name their file; None where there is only one."""
        return source.path if len(self._sources) > 1 else None


@asynccontextmanager
async def open_manifest(
    paths: Sequence[str], *, options: ManifestOptions, spool_dir: Path
) -> AsyncIterator[Manifest]:
    """Open every manifest once and keep the descriptors until the block ends.

    Args:
        paths: Files, FIFOs, or ``-`` for standard input, which may stand once.
        options: How all of them are read.
        spool_dir: Where what can't be sought is copied to, and more ids than memory should hold are
            compared, in unnamed files of mode 0600.

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
        yield Manifest(sources, options, spool_dir=spool_dir)
