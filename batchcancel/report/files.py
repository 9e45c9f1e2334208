"""Files that appear whole or not at all, and never in the place of what was not asked for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from batchcancel.errors import ReportError

PAGE_START: Final = b"<!doctype html>\n<!-- batchcancel report -->\n"
"""How every page begins: by it an earlier page is told from other files."""


class NewFile:
    """A file that is written under another name, mode 0600, until :meth:`commit` gives it its own."""

    def __init__(self, path: Path) -> None:
        """Make it, empty.

        Args:
            path: Where it will be.

        Raises:
            ReportError: Its folder is missing or can't be written.
        """
        self.path = path
        try:
            fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".tmp")
        except OSError as exc:
            raise _unwritable(str(path), exc) from exc
        os.close(fd)
        self.temporary = Path(name)

    def commit(self) -> None:
        """Put it in its place; returns once it and its folder's entry are on disk.

        Raises:
            OSError: That can't be done.
        """
        for place in (self.temporary, self.path.parent):
            fd = os.open(place, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            if place == self.temporary:
                self.temporary.replace(self.path)

    def discard(self) -> None:
        """Remove what was not committed."""
        with suppress(OSError):
            self.temporary.unlink()


@contextmanager
def writing(paths: Sequence[Path]) -> Iterator[dict[Path, NewFile]]:
    """Write files: all are in their places if the block ends well, and else nothing has changed.

    Yields:
        The file to write for each path.

    Raises:
        ReportError: One can't be written; in the block every ``OSError`` counts as that.
    """
    files: dict[Path, NewFile] = {}
    try:
        for path in paths:
            files[path] = NewFile(path)
        yield files
        for file in files.values():
            file.commit()
    except OSError as exc:
        raise _unwritable(" or ".join(map(str, paths)), exc) from exc
    finally:
        for file in files.values():
            file.discard()


def check_target(path: Path, *, force: bool, inputs: Sequence[Path]) -> None:
    """Make sure that a file may be written where somebody wants it.

    Args:
        path: Where.
        force: Whether a file that is there may be replaced. An earlier page may in any case.
        inputs: What is read, and must stay.

    Raises:
        ReportError: It may not.
    """
    if not os.path.lexists(path):
        if not path.parent.is_dir():
            raise ReportError(f"{path} can't be written: {path.parent} is no folder. Make it first.")
        return
    if not path.is_file() or path.is_symlink():
        raise ReportError(f"{path} is there already and is no plain file. Name another.")
    if any(_is_same(path, one) for one in inputs):
        raise ReportError(f"{path} is what is read here; it was left as it is. Name another file.")
    if not force and not _is_page(path):
        raise ReportError(
            f"{path} is there already and was left as it is. Name another file, or say --force to replace it."
        )


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _is_page(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(PAGE_START)) == PAGE_START
    except OSError:
        return False


def _unwritable(name: str, exc: OSError) -> ReportError:
    return ReportError(f"{name} can't be written: {exc.strerror or exc}.")
