"""A ledger's file as lines of bytes, for whoever only reads: good or bad is not told here.

Memory is one block and one line.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct

from batchcancel.errors import LedgerMismatchError
from batchcancel.ledger.record import MAX_LINE_BYTES

BLOCK_BYTES: Final = 1024 * 1024
"""Bytes that are read at once."""


class Line(Struct, frozen=True):
    """One line of a file, good or bad."""

    number: int
    """1-based."""
    offset: int
    """Of its first byte."""
    size_bytes: int
    """In the file, its newline included."""
    data: bytes
    """Without its newline. Where ``whole`` is false, perhaps only its beginning."""
    whole: bool
    """Whether it is ended by its newline and not too long to be a record."""


@contextmanager
def opened(ledger: Path, *, what: str = "ledger") -> Iterator[int]:
    """Open a ledger for reading alone.

    Args:
        ledger: Its path.
        what: What is to be opened, for messages: a plan is read likewise.

    Yields:
        The descriptor of a regular file.

    Raises:
        LedgerMismatchError: There is no such file, or none that can be opened and sought.
    """
    try:
        # Without waiting for somebody to write, should it be a FIFO.
        fd = os.open(ledger, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise LedgerMismatchError(f"The {what} {ledger} can't be opened: {exc.strerror}.") from exc
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise LedgerMismatchError(f"{ledger} is not a regular file. Name a {what}.")
        yield fd
    finally:
        os.close(fd)


def is_being_written(fd: int, *, size_read: int) -> bool:
    """Tell whether a run is at work on a ledger, or was while it was read.

    The lock has to be tried for that. It is let go at once: a run that begins in that instant, and no
    other, is kept out.

    Args:
        fd: The open ledger.
        size_read: Bytes that were read of it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks: no run can be at work there
    fcntl.flock(fd, fcntl.LOCK_UN)
    return os.fstat(fd).st_size != size_read


def read_lines(fd: int) -> Iterator[Line]:
    """Yield the lines of a file in order, in bounded memory. The last may lack its newline.

    What is appended while it reads is left out: a run may be writing.

    Raises:
        OSError: The file can't be read.
    """
    number, offset, size_bytes, held = 1, 0, 0, b""
    position, end = 0, os.fstat(fd).st_size
    while block := os.pread(fd, min(BLOCK_BYTES, end - position), position):
        position += len(block)
        *ended, rest = block.split(b"\n")
        for piece in ended:
            size_bytes += len(piece) + 1
            yield Line(number, offset, size_bytes, held + piece, size_bytes <= MAX_LINE_BYTES + 1)
            number, offset, size_bytes, held = number + 1, offset + size_bytes, 0, b""
        size_bytes += len(rest)
        if len(held) <= MAX_LINE_BYTES:
            held += rest
    if size_bytes:
        yield Line(number, offset, size_bytes, held, whole=False)
