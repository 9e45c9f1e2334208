"""A manifest cut into its rows, byte for byte as they stand there."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from csv import reader as csv_reader
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Final, cast

from batchcancel.errors import ManifestError
from batchcancel.manifest import Format, ManifestOptions
from batchcancel.manifest.records import read_records
from batchcancel.manifest.source import Source
from batchcancel.model import invoice_key, key_digest

_BLOCK_BYTES: Final = 1024 * 1024
_GZIP_MAGIC: Final = b"\x1f\x8b"
_BYTE_ORDERS: Final = {
    "utf-16": ((codecs.BOM_UTF16_BE, "utf-16-be"), (b"", "utf-16-le")),
    "utf-32": ((codecs.BOM_UTF32_BE, "utf-32-be"), (b"", "utf-32-le")),
    "utf-8-sig": ((b"", "utf-8"),),
}
"""What a text's first bytes make of encodings that leave it open."""
_DELIMITERS: Final = {Format.CSV: ",", Format.TSV: "\t"}


class Cutter:
    """Cuts a manifest into its rows, and proves that they are its own bytes."""

    def __init__(self, file: BufferedReader, path: Path, options: ManifestOptions, format_: Format) -> None:
        """Prepare; nothing is read but the first bytes.

        Args:
            file: The manifest, open; the caller closes it.
            path: Its name.
            options: How it is to be read.
            format_: How it is written.
        """
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
