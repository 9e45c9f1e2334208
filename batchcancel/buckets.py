"""Digests with a number each, sorted into buckets: in memory while few, in an unnamed file once many.

A dictionary of ten million digests takes more than a gigabyte. Here each pair takes 20 bytes in the
bucket that its digest's first byte names, in the order in which the pairs came. Equal digests are
always in the same bucket, so whoever compares digests needs a dictionary of one bucket at a time.
Nothing is estimated or thrown away: what comes out is what went in.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from struct import Struct
from typing import Final

BUCKETS: Final = 256
"""One for each first byte of a digest."""
MAX_HELD: Final = 256 * 1024
"""Pairs that are held in memory, 5 MB; whoever adds fewer never makes a file."""

_PAIR: Final = Struct("<16sI")


class Buckets:
    """Pairs of a 16-byte digest and a number below 2**32, by bucket.

    The file, once there is one, has mode 0600 and no name, so that nothing is left of it after a
    kill. It holds digests, no ids. Belongs to one thread at a time.
    """

    def __init__(self, folder: Path) -> None:
        """Begin empty; nothing is opened.

        Args:
            folder: Where the unnamed file lies, should there be one.
        """
        self._folder: Final = folder
        self._held = [bytearray() for _ in range(BUCKETS)]
        self._room = MAX_HELD
        self._file: FileIO | None = None
        self._size = 0
        self._is_closed = False
        self._extents: list[list[tuple[int, int]]] = [[] for _ in range(BUCKETS)]
        """Offset and size in the file of each part of each bucket, in order."""

    def add(self, digest: bytes, number: int) -> None:
        """Add a pair to its bucket.

        Raises:
            OSError: The folder can't take the file, or has no room for more.
        """
        self._held[digest[0]] += _PAIR.pack(digest, number)
        self._room -= 1
        if self._room <= 0:
            self._spill()

    def read(self, bucket: int) -> Iterator[tuple[bytes, int]]:
        """Return the pairs of one bucket in the order in which they were added.

        Args:
            bucket: 0 to ``BUCKETS`` - 1.

        Raises:
            OSError: The file can't be read.
            ValueError: They are closed: nothing would pass for no pair.
        """
        if self._is_closed:
            raise ValueError("the buckets are closed")
        held = bytes(self._held[bucket])
        if self._file is None:
            return _PAIR.iter_unpack(held)
        fd = self._file.fileno()
        return _PAIR.iter_unpack(b"".join([*(_read(fd, *part) for part in self._extents[bucket]), held]))

    def close(self) -> None:
        """Forget everything and give file and memory back. Once is enough."""
        self._is_closed = True
        for held in self._held:
            held.clear()
        for parts in self._extents:
            parts.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _spill(self) -> None:
        """Move what is held to the file; what can't be moved stays held."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(  # noqa: SIM115 - close() closes it
                "w+b", buffering=0, dir=self._folder
            )
        _write(self._file.fileno(), self._size, b"".join(self._held))
        for held, parts in zip(self._held, self._extents, strict=True):
            parts.append((self._size, len(held)))
            self._size += len(held)
            held.clear()
        self._room = MAX_HELD


def _write(fd: int, offset: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        offset, rest = offset + written, rest[written:]


def _read(fd: int, offset: int, size: int) -> bytes:
    data = os.pread(fd, size, offset)
    if len(data) != size:
        # A pair that is missing would be an invoice that is asked twice.
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return data
