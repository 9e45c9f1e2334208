"""A ledger's file as it is opened to be read: never written, and locked only for a salvage."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchcancel.errors import LedgerFaultError, LedgerInUseError, LedgerMismatchError


@contextmanager
def opened(ledger: Path) -> Iterator[int]:
    """Open a ledger for reading alone.

    Yields:
        The descriptor of a regular file.

    Raises:
        LedgerMismatchError: There is no such file, or none that can be opened and sought.
    """
    try:
        # Without waiting for somebody to write, should it be a FIFO.
        fd = os.open(ledger, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise LedgerMismatchError(f"The ledger {ledger} can't be opened: {exc.strerror}.") from exc
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise LedgerMismatchError(f"{ledger} is not a regular file. Name a ledger.")
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


def hold(fd: int, ledger: Path) -> None:
    """Keep runs out of a ledger until it is closed; others may read it meanwhile.

    Raises:
        LedgerInUseError: A run holds it.
        LedgerFaultError: Its file system has no locks.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise LedgerInUseError(f"A run holds {ledger}. Wait until it has ended.") from exc
    except OSError as exc:
        raise LedgerFaultError(f"{ledger} can't be locked: {exc.strerror}. Copy it elsewhere first.") from exc
