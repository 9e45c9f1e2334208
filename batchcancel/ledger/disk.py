"""The ledger's file: one lock, durable appends, and a tail that is kept before it is cut. Blocks.

Runs in the writer's own thread. Every ``OSError`` becomes a ``LedgerWriteError`` here, and after one
the file is cut back to its last durable byte, so that no part of a failed group stays behind.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from batchcancel.errors import LedgerInUseError, LedgerWriteError
from batchcancel.ledger.reader import History, Tail, recover

_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
_MODE: Final = 0o600
_OPEN_ATTEMPTS: Final = 5
_COPY_BYTES: Final = 1024 * 1024
# macOS, best effort, has no fdatasync.
_FDATASYNC: Final[Callable[[int], None]] = getattr(os, "fdatasync", os.fsync)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The two calls that a full or broken disk makes fail; tests replace them."""

    write: Callable[[int, memoryview], int] = os.write
    """May write less than it is given and returns how many bytes it wrote."""
    sync: Callable[[int], None] = _FDATASYNC
    """Returns once the file's data and size are on stable storage."""


class LedgerFile:
    """An open, locked ledger.

    ``size`` and ``sha256`` always describe the durable bytes that this process vouches for.
    """

    def __init__(
        self, path: Path, fd: int, *, created: bool, disk: Disk, is_given_up: Callable[[], bool]
    ) -> None:
        self.path = path
        self.created = created
        self.history: History = recover(fd, path, is_given_up=is_given_up)
        self.size = self.history.good_size
        self.sha256 = self.history.sha256.copy()
        self._fd = fd
        self._disk = disk

    @classmethod
    def open(cls, path: Path, disk: Disk, is_given_up: Callable[[], bool] = lambda: False) -> Self:
        """Open or create the ledger, lock it and read it. Writes nothing.

        Args:
            path: The ledger; its folder has to exist.
            disk: The calls that reach the disk.
            is_given_up: Whether nobody waits any more; asked while it is read.

        Raises:
            LedgerInUseError: Another run holds the lock.
            LedgerWriteError: It can't be opened, or is no regular file.
            LedgerFaultError, LedgerMismatchError: As ``reader.recover`` says.
        """
        for _ in range(_OPEN_ATTEMPTS):
            try:
                fd, created = _open_or_create(path)
                if fd is not None and _lock(fd, path):
                    return cls._recovered(path, fd, created=created, disk=disk, is_given_up=is_given_up)
            except OSError as exc:
                raise LedgerWriteError(
                    f"The ledger {path} can't be opened: {exc.strerror}. Its folder has to exist and be "
                    "writable; name another ledger with --ledger."
                ) from exc
        raise LedgerWriteError(
            f"{path} was replaced again and again while it was being opened, or is a link to nothing. "
            "Name another ledger."
        )

    @classmethod
    def _recovered(
        cls, path: Path, fd: int, *, created: bool, disk: Disk, is_given_up: Callable[[], bool]
    ) -> Self:
        try:
            return cls(path, fd, created=created, disk=disk, is_given_up=is_given_up)
        except BaseException:
            _close(fd, path, created=created)
            raise

    def append(self, data: bytes) -> float:
        """Write all bytes and sync them, with no other byte in between.

        Returns:
            How long it took, in seconds.

        Raises:
            LedgerWriteError: The disk refused, or the file at the path is no longer the one that was
                opened or was changed by another program. None of the bytes is to be relied on.
        """
        started = time.perf_counter()
        try:
            self._check_place()
            try:
                self._write_all(self._fd, data)
                self._disk.sync(self._fd)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._fd, self.size)
                raise
        except OSError as exc:
            raise _unwritable(self.path, exc) from exc
        self.size += len(data)
        self.sha256.update(data)
        return time.perf_counter() - started

    def begin(self, line: bytes) -> None:
        """Cut the tail, if there is one, and append the run's first line, all of it durable.

        Raises:
            LedgerWriteError: As ``append`` says; also if the tail can't be kept.
        """
        if self.history.tail is not None:
            try:
                self._keep_tail(self.history.tail)
                os.ftruncate(self._fd, self.size)
                os.fsync(self._fd)
            except OSError as exc:
                raise _unwritable(self.path, exc) from exc
        self.append(line)
        try:
            # Also when an earlier run made the file: it may have died before it came this far.
            _sync_folder(self.path)
        except OSError as exc:
            raise _unwritable(self.path, exc) from exc

    def close(self) -> None:
        """Unlock and close. An empty file that this process made is removed: no run, no trace."""
        _close(self._fd, self.path, created=self.created)
        self.history.reasons.close()

    def _check_place(self) -> None:
        try:
            there = self.path.stat()
        except FileNotFoundError as exc:
            raise _displaced(self.path, "was removed") from exc
        if not os.path.samestat(there, os.fstat(self._fd)):
            raise _displaced(self.path, "was replaced by another file")
        if there.st_size != self.size:
            raise _displaced(self.path, "was changed by another program")

    def _write_all(self, fd: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._disk.write(fd, rest) :]

    def _keep_tail(self, tail: Tail) -> None:
        torn = self.path.with_name(self.path.name + ".torn")
        # A link that somebody else laid there must not lead a ledger's rows elsewhere.
        fd = os.open(torn, _FLAGS | os.O_CREAT | os.O_NOFOLLOW, _MODE)
        try:
            _check_regular(fd, torn)
            _make_private(fd)
            position = tail.offset
            while block := os.pread(self._fd, _COPY_BYTES, position):
                self._write_all(fd, block)
                position += len(block)
            os.fsync(fd)
        finally:
            os.close(fd)
        _sync_folder(torn)


def _open_or_create(path: Path) -> tuple[int | None, bool]:
    """Return a descriptor and whether this call made the file; None if it vanished or came between."""
    try:
        return os.open(path, _FLAGS), False
    except FileNotFoundError:
        try:
            fd = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, _MODE)
        except FileExistsError:
            return None, False
        _make_private(fd)
        return fd, True


def _make_private(fd: int) -> None:
    """Give a file its mode whatever the umask, which may be so strict that the next run is locked out."""
    with suppress(OSError):  # a file system without modes, such as a share
        os.fchmod(fd, _MODE)


def _lock(fd: int, path: Path) -> bool:
    """Lock the file; close it again and return False if the path leads to another one by now."""
    try:
        _check_regular(fd, path)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = _is_at(path, os.fstat(fd))
    except BlockingIOError as exc:
        os.close(fd)
        raise LedgerInUseError(
            f"Another run holds {path}. Wait until it has ended, or name another ledger."
        ) from exc
    except BaseException:
        os.close(fd)
        raise
    if not locked:
        os.close(fd)
    return locked


def _check_regular(fd: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise LedgerWriteError(f"{path} is not a regular file. Name another ledger.")


def _close(fd: int, path: Path, *, created: bool) -> None:
    try:
        opened = os.fstat(fd)
        if created and opened.st_size == 0 and _is_at(path, opened):
            with suppress(OSError):
                path.unlink()  # under the lock, so no other run can have begun in it
    finally:
        os.close(fd)


def _is_at(path: Path, opened: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), opened)
    except FileNotFoundError:
        return False


def _sync_folder(path: Path) -> None:
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unwritable(path: Path, exc: OSError) -> LedgerWriteError:
    return LedgerWriteError(
        f"{path} can't be written: {exc.strerror}. Every row that is on disk is safe; "
        "once this is mended, the same command goes on from there."
    )


def _displaced(path: Path, what: str) -> LedgerWriteError:
    return LedgerWriteError(
        f"{path} {what} while the run was writing to it. Every row that was reported is in the file that was "
        "opened; put it back, and the same command goes on from there."
    )
