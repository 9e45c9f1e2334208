"""Manifests that are read again after their run, always the same bytes."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from batchcancel.errors import ManifestChangedError, ManifestError
from batchcancel.manifest import ManifestOptions
from batchcancel.manifest.options import resolve_formats
from batchcancel.manifest.records import Record, read_records
from batchcancel.manifest.source import Source


class Row(Struct, frozen=True, kw_only=True):
    """One data row."""

    file: int
    """Which manifest, from 0."""
    row: int
    """1-based within its file."""
    record: Record


class Manifests:
    """Manifests, open until :func:`open_manifests` ends."""

    def __init__(self, opened: Sequence[tuple[Path, int, str]]) -> None:
        """Take what was opened: path, descriptor and digest of each."""
        self._opened = opened
        self._sources: list[Source] = []

    @property
    def paths(self) -> tuple[Path, ...]:
        """Their files, in the order in which they were named."""
        return tuple(path for path, _, _ in self._opened)

    @property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of the bytes of each, in hex."""
        return tuple(digest for _, _, digest in self._opened)

    def rows(self, options: ManifestOptions) -> Iterator[Row]:
        """Yield every data row; may be asked for again, with the same options.

        Raises:
            ManifestError: One can't be read as these options say, or it changed since it was opened.
        """
        formats = resolve_formats([str(path) for path in self.paths], options)
        self._sources = self._sources or [
            Source(str(path), fd, encoding=options.encoding) for path, fd, _ in self._opened
        ]
        try:
            for index, (source, format_) in enumerate(zip(self._sources, formats, strict=True)):
                records = read_records(source.lines(), format_, options, name=source.name)
                for number, record in enumerate(records, start=1):
                    yield Row(file=index, row=number, record=record)
                if source.sha256 != self.digests[index]:
                    raise _changed(source.name)
        except ManifestChangedError as exc:
            raise _changed(source.name) from exc


@contextmanager
def open_manifests(paths: Sequence[Path]) -> Iterator[Manifests]:
    """Open manifests and read their digests. Blocks.

    Raises:
        ManifestError: One can't be opened or read, or is not a plain file.
    """
    with ExitStack() as stack:
        opened: list[tuple[Path, int, str]] = []
        for path in paths:
            try:
                if not stat.S_ISREG(path.stat().st_mode):  # a FIFO would be waited for
                    raise ManifestError(f"{path} is not a regular file. Name a manifest.")
                file = stack.enter_context(path.open("rb"))
                opened.append((path, file.fileno(), hashlib.file_digest(file, "sha256").hexdigest()))
            except OSError as exc:
                raise ManifestError(f"{path} can't be read: {exc.strerror}.") from exc
        yield Manifests(opened)


def _changed(name: str) -> ManifestError:
    return ManifestError(f"{name} changed while it was read. Verify again when nobody writes to it.")
