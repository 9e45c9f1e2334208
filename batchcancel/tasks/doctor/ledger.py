"""Whether a ledger could be written where it is to be."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import Final

from batchcancel.errors import LedgerWriteError
from batchcancel.gates import check_free_space
from batchcancel.tasks.doctor.checks import Check, fail, ok, skip, warn

_USUAL_ROWS: Final = 100_000
"""A ledger for so many should have room; how many there will be is not known here."""
_ELSEWHERE: Final = "Name a ledger in a folder of your own with --ledger."


def check_ledger(named: str | None) -> Check:
    """Try the folder of a ledger: writing, syncing, locking, room. The ledger itself is only looked at.

    Args:
        named: ``--ledger``; None if there is none.
    """
    if named is None:
        return skip("ledger", "none is named; --ledger PATH tries its folder")
    path = Path(named)
    folder = path.resolve().parent
    if not folder.is_dir():
        return fail("ledger", f"{folder} is no folder.", "Make it, or name another ledger.")
    if path.exists() and not path.is_file():
        return fail("ledger", f"{path} is not a regular file.", "Name another ledger.")
    try:
        _try_folder(folder)
    except OSError as exc:
        return fail(
            "ledger",
            f"{folder} takes no file that is written, synced and locked: {exc.strerror}.",
            _ELSEWHERE,
        )
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return fail("ledger", f"{path} can't be read and written by this user.", _ELSEWHERE)
    return _check_room(path, folder)


def _try_folder(folder: Path) -> None:
    """Do to a file without a name what a run does to a ledger."""
    with tempfile.TemporaryFile(dir=folder) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write(b"{}\n")
        file.flush()
        os.fsync(file.fileno())


def _check_room(path: Path, folder: Path) -> Check:
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    room = f"{free / 1e9:,.1f} GB free"
    if path.exists() and _is_held(path):
        return warn("ledger", f"A run holds {path} at the moment; {room}.", "Wait until it has ended.")
    try:
        if space.f_blocks:  # some file systems don't tell
            check_free_space(free, rows=_USUAL_ROWS, folder=str(folder))
    except LedgerWriteError:
        return warn("ledger", f"{folder} has {free / 1e6:,.1f} MB free.", "Make room.")
    state = "is there and can be written" if path.exists() else "can be made"
    return ok("ledger", f"{path} {state}; locks work, {room}")


def _is_held(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
