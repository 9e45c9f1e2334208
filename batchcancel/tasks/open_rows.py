"""``report --open-rows``: what is left of a manifest, byte for byte as it stands there.

Left is an invoice without an answer, and one whose error is open. A row is left out if an earlier one
stands for it, and if any run of the ledgers was told never to touch its invoice: who runs the new
manifest may forget ``--exclude``.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from csv import reader as csv_reader
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Final, cast

from msgspec import Struct

from batchcancel.errors import ManifestError
from batchcancel.ledger.reader import (
    ResultRecord,
    RunRecord,
    SkipRecord,
    digest_of,
    digest_of_excluded,
)
from batchcancel.manifest import Format, ManifestOptions
from batchcancel.manifest.options import is_named_by_format, resolve_formats
from batchcancel.manifest.records import read_records
from batchcancel.manifest.source import Source
from batchcancel.model import invoice_key, key_digest
from batchcancel.report.files import check_target, writing
from batchcancel.report.reading import Entry
from batchcancel.tasks.as_read import options_of

_BLOCK_BYTES: Final = 1024 * 1024
_GZIP_MAGIC: Final = b"\x1f\x8b"
_BYTE_ORDERS: Final = {
    "utf-16": ((codecs.BOM_UTF16_BE, "utf-16-be"), (b"", "utf-16-le")),
    "utf-32": ((codecs.BOM_UTF32_BE, "utf-32-be"), (b"", "utf-32-le")),
    "utf-8-sig": ((b"", "utf-8"),),
}
"""What a text's first bytes make of encodings that leave it open."""
_DELIMITERS: Final = {Format.CSV: ",", Format.TSV: "\t"}
_NAME_IT: Final = "Name the manifest with --manifest."


class Left(Struct, frozen=True, kw_only=True):
    """What was written."""

    path: Path
    manifest: Path
    """What of."""
    rows: int
    unanswered: int
    """Of them those that no run has given a row."""
    excluded: int
    """Rows left out because a run was told never to touch them."""
    is_known: bool
    """Whether a run of the ledgers read the manifest as it is now."""


class OpenRows:
    """Gathers what is settled from the entries of ledgers, then writes the rest of a manifest.

    Memory is a digest of 16 bytes for each settled invoice and for each row of the manifest.
    """

    def __init__(self, manifest: Path | None, target: Path, *, inputs: Sequence[Path], force: bool) -> None:
        """Prepare; nothing is written.

        Args:
            manifest: The manifest; None for the one that the ledgers' runs have read.
            target: Where what is left of it goes.
            inputs: What else must not be written over.
            force: Whether a file that is there may be replaced.

        Raises:
            ReportError: There is something at the target.
        """
        check_target(target, force=force, inputs=[*([] if manifest is None else [manifest]), *inputs])
        self._manifest = manifest
        self._target = target
        self._force = force
        self._settled: set[bytes] = set()
        self._answered: set[bytes] = set()
        self._excluded: set[bytes] = set()
        self._runs: list[RunRecord] = []

    def note(self, entry: Entry) -> None:
        """Take the next entry of the ledgers."""
        match entry.record:
            case RunRecord() as run:
                self._runs.append(run)
            case ResultRecord() as result if entry.is_answer:
                (self._settled if result.reason.is_final else self._answered).add(digest_of(result))
            case SkipRecord() as skip if (digest := digest_of_excluded(skip)) is not None:
                self._excluded.add(digest)

    def write(self) -> Left:
        """Write what is left. Blocks; the file appears whole or not at all.

        Raises:
            ManifestError: The manifest can't be read, or not be cut into rows without changing them; or it
                is not named, and which one it is can't be told for sure.
            ReportError: The file can't be written.
        """
        manifest = self._manifest or self._manifest_of_runs()
        try:
            if not stat.S_ISREG(manifest.stat().st_mode):  # a FIFO would be waited for
                raise ManifestError(f"{manifest} is not a regular file. Name a manifest.")
            file = manifest.open("rb")
        except OSError as exc:
            raise ManifestError(f"{manifest} can't be opened: {exc.strerror}. {_NAME_IT}") from exc
        with file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if self._manifest is None:
                self._ensure_read(manifest, sha256)
                check_target(self._target, force=self._force, inputs=[manifest])
            with writing([self._target]) as files, files[self._target].temporary.open("wb") as plain:
                return self._write(file, manifest, self._run_of(sha256), plain)

    def _manifest_of_runs(self) -> Path:
        """Return the one file that all runs have read, by the name that they had for it."""
        paths = {one.path for run in self._runs for one in run.manifest}
        if len(paths) != 1 or "-" in paths:
            read = "standard input" if paths == {"-"} else f"{len(paths)} manifests"
            raise ManifestError(f"The runs of these ledgers read {read}. {_NAME_IT}")
        return Path(paths.pop())

    def _ensure_read(self, manifest: Path, sha256: str) -> None:
        """Refuse a file that has the name of the runs' manifest alone."""
        if not any(sha256 == one.sha256 for run in self._runs for one in run.manifest):
            raise ManifestError(
                f"No run of these ledgers has read {manifest} as it is now: it was changed, or is another "
                f"file. {_NAME_IT}"
            )

    def _write(self, file: BufferedReader, manifest: Path, run: RunRecord | None, plain: BinaryIO) -> Left:
        options = options_of(run)
        format_ = self._format(manifest, options)
        cutter = _Cutter(file, manifest, options, format_)
        seen: set[bytes] = set()
        rows = unanswered = excluded = 0
        is_packed = self._target.name.lower().endswith(".gz")
        with gzip.GzipFile(fileobj=plain, mode="wb", filename="", mtime=0) if is_packed else plain as out:
            for key, piece in cutter.pieces():
                if key is None:
                    out.write(piece)
                    continue
                if key in seen:
                    continue
                seen.add(key)
                if key in self._excluded:
                    excluded += 1
                elif key not in self._settled:
                    rows += 1
                    unanswered += key not in self._answered
                    out.write(piece)
        return Left(
            path=self._target,
            manifest=manifest,
            rows=rows,
            unanswered=unanswered,
            excluded=excluded,
            is_known=run is not None and cutter.sha256 in {one.sha256 for one in run.manifest},
        )

    def _run_of(self, sha256: str) -> RunRecord | None:
        """Return the run that read this very manifest last, else the latest one."""
        for run in reversed(self._runs):
            if sha256 in {one.sha256 for one in run.manifest}:
                return run
        return self._runs[-1] if self._runs else None

    def _format(self, manifest: Path, options: ManifestOptions) -> Format:
        format_ = resolve_formats((str(manifest),), options)[0]
        target = str(self._target)
        if options.format is None and is_named_by_format(target):
            wanted = resolve_formats((target,), ManifestOptions())[0]
            if wanted is not format_:
                raise ManifestError(
                    f"{target} would be read as {wanted}, and {manifest} is {format_}: give it a name "
                    "that ends likewise."
                )
        return format_


class _Cutter:
    """Cuts a manifest into its rows, and proves that they are its own bytes."""

    def __init__(self, file: BufferedReader, path: Path, options: ManifestOptions, format_: Format) -> None:
        self._file = file
        self._path = path
        self._delimiter = _DELIMITERS.get(format_)
        self._source = Source(str(path), file.fileno(), encoding=options.encoding)
        self._bom, self._encoding = _encoding_of(self._first_bytes(), options.encoding)
        self._cut = hashlib.sha256(self._bom)
        self._lines: list[str] = []
        self._records = read_records(self._kept_lines(), format_, options, name=str(path))

    @property
    def sha256(self) -> str:
        """The digest of the file, in hex, once all pieces were read."""
        return self._source.sha256

    def pieces(self) -> Iterator[tuple[bytes | None, bytes]]:
        """Yield what stands before the rows with None, then each row with the digest of its invoice.

        A row comes with the blank lines before it.

        Raises:
            ManifestError: A line is malformed, or the text can't be cut without changing it.
        """
        yield None, self._bom
        head_is_due = True
        for record in self._records:
            lines, self._lines = self._lines, []
            if head_is_due:
                size = self._head_lines(lines)
                yield None, self._encoded(lines[:size])
                lines, head_is_due = lines[size:], False
            key = invoice_key(record.text, valid=record.valid, merchant_id=record.merchant_id)
            yield key_digest(key), self._encoded(lines)
        rest = self._encoded(self._lines)
        if head_is_due:
            yield None, rest
        self._ensure_unaltered()

    def _kept_lines(self) -> Iterator[str]:
        """Yield the manifest's lines, and keep those that the next record is made of."""
        with closing(self._source.lines()) as lines:  # type: ignore[type-var]  # it is a generator
            for line in lines:
                self._lines.append(line)
                yield line

    def _head_lines(self, lines: Sequence[str]) -> int:
        """Count the lines up to the end of a table's header."""
        if self._delimiter is None:
            return 0
        rows = csv_reader(lines, delimiter=self._delimiter, strict=True)
        return next(rows.line_num for cells in rows if any(map(str.strip, cells)))

    def _encoded(self, lines: Sequence[str]) -> bytes:
        data = "".join(lines).encode(self._encoding)
        self._cut.update(data)
        return data

    def _ensure_unaltered(self) -> None:
        """Compare all pieces, one after the other, with the file: then each of them is a piece of it."""
        whole = hashlib.sha256()
        with self._opened() as text:
            while block := text.read(_BLOCK_BYTES):
                whole.update(block)
        if whole.digest() != self._cut.digest():
            raise ManifestError(
                f"{self._path} can't be cut into rows without changing them: its encoding writes the same "
                "text in several ways. Save it as UTF-8, and name that file."
            )

    def _first_bytes(self) -> bytes:
        with self._opened() as text:
            return text.read(4)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """Read the file from its start, unpacked as a run unpacks it."""
        self._file.seek(0)
        is_packed = str(self._path).lower().endswith(".gz") or self._file.peek(2)[:2] == _GZIP_MAGIC
        try:
            text = gzip.GzipFile(fileobj=self._file, mode="rb") if is_packed else self._file
            yield cast("BinaryIO", text)
        except (OSError, EOFError, zlib.error) as exc:
            raise ManifestError(f"{self._path} can't be read ({exc}). Check or export it again.") from exc


def _encoding_of(beginning: bytes, encoding: str) -> tuple[bytes, str]:
    """Return the byte order mark that a text begins with, and how the rest of it is encoded."""
    for start, exact in _BYTE_ORDERS.get(codecs.lookup(encoding).name, ()):
        if beginning.startswith(start):
            encoding = exact
            break
    try:
        bom = "\ufeff".encode(encoding)
    except UnicodeEncodeError:  # most encodings have none
        return b"", encoding
    return (bom if beginning.startswith(bom) else b""), encoding
