"""One manifest's descriptor: opened once, read twice, its bytes proved to be the same."""

from __future__ import annotations

import asyncio
import codecs
import gzip
import hashlib
import io
import os
import re
import select
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiofiles
import aiofiles.tempfile

from batchcancel.errors import ManifestChangedError, ManifestError
from batchcancel.manifest.options import STDIN, display_name, malformed

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_LINE_LENGTH: Final = 16 * 1024 * 1024
"""Characters. A longer line is no manifest, and a small gzip file can hold an endless one."""

_BLOCK_SIZE: Final = 1024 * 1024
_GZIP_MAGIC: Final = b"\x1f\x8b"
_POLL_MS: Final = 200
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_MARK_UNDECODABLE: Final = "batchcancel.mark"

# A strict decoder fails a whole block at once. A lone surrogate, which no valid text holds, carries
# the fault to the line that it belongs to.
codecs.register_error(_MARK_UNDECODABLE, lambda exc: ("\ud800", getattr(exc, "end", 0)))


class Source:
    """An open manifest that can be read again and again.

    The first pass to reach the end sets the bytes that every later one has to meet: each block is
    compared before anything in it is parsed.
    """

    def __init__(self, path: str, descriptor: int, *, encoding: str) -> None:
        self.path: Final = path
        self.name: Final = display_name(path)
        self._descriptor: Final = descriptor
        self._encoding: Final = encoding
        self._stamp: Final = _stamp(descriptor)
        self._digests: list[bytes] | None = None

    @property
    def sha256(self) -> str:
        """The digest of the bytes as they are on disk, in hex, once a pass reached their end."""
        if self._digests is None:
            raise RuntimeError("the manifest was not read yet")
        return self._digests[-1].hex()

    def ensure_unchanged(self) -> None:
        """Compare size and modification time with those at opening.

        Raises:
            ManifestChangedError: They differ.
        """
        if _stamp(self._descriptor) != self._stamp:
            raise _changed(self.name)

    def lines(self) -> Iterator[str]:
        """Yield every line with its end, from the file's start, a byte order mark removed.

        It holds a duplicate of the descriptor, so that a pass in another thread ends in peace when
        the source is closed meanwhile.

        Raises:
            ManifestError: The file can't be read, decompressed or decoded.
            ManifestChangedError: A block differs from what the first pass read.
        """
        number = 0
        with _Blocks(self._descriptor, name=self.name, expected=self._digests) as blocks:
            try:
                with self._open_text(blocks) as text:
                    while line := text.readline(MAX_LINE_LENGTH):
                        number += 1
                        if number == 1:
                            line = line.removeprefix("\ufeff")  # the byte order mark is no text
                        self._require_readable(line, number)
                        yield line
            except (OSError, EOFError, zlib.error, UnicodeError) as exc:
                raise malformed(
                    self.name, number + 1, f"can't be read from here on ({exc}); check or export it again"
                ) from exc
        if self._digests is None:
            self._digests = blocks.digests

    def _open_text(self, blocks: _Blocks) -> io.TextIOWrapper:
        buffered = io.BufferedReader(blocks, _BLOCK_SIZE)
        is_gzip = self.path.lower().endswith(".gz") or (
            os.pread(self._descriptor, len(_GZIP_MAGIC), 0) == _GZIP_MAGIC
        )
        return io.TextIOWrapper(
            gzip.GzipFile(fileobj=buffered, mode="rb") if is_gzip else buffered,
            encoding=self._encoding,
            errors=_MARK_UNDECODABLE,
            newline="",
        )

    def _require_readable(self, line: str, number: int) -> None:
        if len(line) == MAX_LINE_LENGTH:
            raise malformed(self.name, number, f"longer than {MAX_LINE_LENGTH} characters")
        if not line.isascii() and _SURROGATE.search(line):
            raise malformed(
                self.name, number, f"not valid {self._encoding}; save the file so, or say --encoding"
            )


class _Blocks(io.RawIOBase):
    """The bytes of a descriptor from its start, each block hashed before anyone reads from it."""

    def __init__(self, descriptor: int, *, name: str, expected: list[bytes] | None) -> None:
        super().__init__()
        self._descriptor = os.dup(descriptor)
        self._name = name
        self._expected = expected
        self._offset = 0
        self._rest = memoryview(b"")
        self._sha256 = hashlib.sha256()
        self.digests = [self._sha256.digest()]
        """SHA-256 of everything up to the end of each block; the first is that of no bytes."""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def readinto(self, buffer: WriteableBuffer) -> int:
        if not self._rest:
            self._rest = memoryview(self._next_block())
        target = memoryview(buffer).cast("B")
        size = min(len(target), len(self._rest))
        target[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def _next_block(self) -> bytes:
        # Positioned reads share no offset with another pass over the same open file.
        block = os.pread(self._descriptor, _BLOCK_SIZE, self._offset)
        if block:
            self._offset += len(block)
            self._sha256.update(block)
            self.digests.append(self._sha256.digest())
        if self._expected is not None:
            agrees = self.digests == self._expected[: len(self.digests)]
            if not agrees or (not block and len(self.digests) != len(self._expected)):
                raise _changed(self._name)
        return block


async def open_source(stack: AsyncExitStack, path: str, *, encoding: str, spool_dir: Path) -> Source:
    """Open a manifest once; what can't be sought is spooled to an unnamed file first.

    A spool is complete, and standard input at its end, when this returns.

    Args:
        stack: Owns the descriptor from here on.
        path: A file, a FIFO, or ``-`` for standard input.
        encoding: Of its text.
        spool_dir: Where the unnamed file (mode 0600) lies.

    Raises:
        ManifestError: It can't be opened, read or spooled.

    Cancellation ends the wait for a silent FIFO or terminal within 0.2 seconds.
    """
    descriptor = _stdin_descriptor() if path == STDIN else await _open(stack, path)
    if path != STDIN and stat.S_ISREG(os.fstat(descriptor).st_mode):
        return Source(path, descriptor, encoding=encoding)
    try:
        spool = await stack.enter_async_context(aiofiles.tempfile.TemporaryFile("w+b", dir=spool_dir))
        while (chunk := await asyncio.to_thread(_read_available, descriptor)) != b"":
            await spool.write(chunk or b"")
        await spool.flush()
    except OSError as exc:
        raise ManifestError(
            f"{display_name(path)}: it can't be copied to a file in {spool_dir} ({exc.strerror}). "
            "Free space there, or pass a plain file."
        ) from exc
    return Source(path, spool.fileno(), encoding=encoding)


async def _open(stack: AsyncExitStack, path: str) -> int:
    try:
        path.encode()  # the ledger names the file, in UTF-8
        file = await stack.enter_async_context(aiofiles.open(path, "rb", buffering=0, opener=_open_at_once))
    except FileNotFoundError as exc:
        raise ManifestError(f"{path}: there is no such file. Check the path.") from exc
    except IsADirectoryError as exc:
        raise ManifestError(f"{path}: this is a folder. Name the files in it.") from exc
    except PermissionError as exc:
        raise ManifestError(f"{path}: it may not be read. Check its permissions.") from exc
    except OSError as exc:
        raise ManifestError(f"{path}: it can't be opened ({exc.strerror}). Check the path.") from exc
    except ValueError as exc:
        raise ManifestError(f"{path!r}: the name is not valid UTF-8. Rename the file.") from exc
    return file.fileno()


def _stdin_descriptor() -> int:
    # Not plainly 0: where standard input was closed, that number may belong to another file.
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError) as exc:
        raise ManifestError("Standard input is closed: redirect a manifest into it.") from exc


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for a FIFO's writer: a thread that waits there could not be stopped."""
    return os.open(path, flags | os.O_NONBLOCK)


def _read_available(descriptor: int) -> bytes | None:
    """Read what is there; None if nothing came for a while, nothing at the end."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return os.read(descriptor, _BLOCK_SIZE) if poll.poll(_POLL_MS) else None


def _stamp(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def _changed(name: str) -> ManifestChangedError:
    return ManifestChangedError(
        f"{name}: it changed since it was checked. Rows that were not reached stay open: run again."
    )
