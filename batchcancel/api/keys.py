"""Files of keys: parsed once, read again when they change, and known to expire."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Generic, TypeVar

from msgspec import Struct

from batchcancel.errors import SettingsError
from batchcancel.model import KeyFileChanged

T_co = TypeVar("T_co", covariant=True)

_LOOK_EVERY_S: Final = 5.0
_WARN_AHEAD_DAYS: Final = 90
_DAY_S: Final = 86_400


class Expiry(Struct, frozen=True, kw_only=True):
    """Until when a key's certificate is valid."""

    what: str
    """Which key, such as ``signing certificate``."""
    path: str
    at: float
    """Unix seconds."""

    @property
    def date(self) -> str:
        """The day in UTC, as 2027-03-01."""
        return datetime.fromtimestamp(self.at, UTC).date().isoformat()

    def warning(self, now: float) -> str | None:
        """Say that the certificate has expired, or will within 90 days; None if there is time.

        An expired one is not refused here: whether it still counts is the service's word, which the first
        signed read asks for, and this machine's clock may be wrong.

        Args:
            now: Unix seconds.
        """
        left_s = self.at - now
        if left_s > _WARN_AHEAD_DAYS * _DAY_S:
            return None
        when = f"expires in {int(left_s // _DAY_S)} days" if left_s > 0 else "has expired"
        return f"The {self.what} in {self.path} {when} ({self.date}): make a new key in the Business Center."


class KeyFile(Generic[T_co]):
    """What a file of keys holds; the file is parsed once, and again when it has changed.

    Args:
        path: The file. One that is no regular file, such as a pipe, is read once.
        load: Reads and parses the file.

    Raises:
        SettingsError: The file can't be used; from ``load``.
    """

    def __init__(self, path: Path, load: Callable[[], T_co]) -> None:
        self._path = path
        self._load = load
        # Taken before the file is read: a change in between is seen the next time.
        self._seen = _state(path)
        self._is_watched = self._seen is not None
        self._value = load()

    def current(self) -> T_co:
        """Return what the file held when it was last read well."""
        return self._value

    def reload(self) -> KeyFileChanged | None:
        """Read the file again if it has changed; one that can't be used leaves the old keys in force.

        Returns:
            What came of it; None if the file has not changed.
        """
        state = _state(self._path)
        if state == self._seen or not self._is_watched:
            return None
        self._seen = state
        try:
            self._value = self._load()
        except SettingsError as exc:
            return KeyFileChanged(path=str(self._path), problem=str(exc))
        return KeyFileChanged(path=str(self._path), problem=None)


class KeyFiles:
    """All files of keys that a client uses.

    Args:
        files: The files.
        monotonic: A clock that never goes back, seconds.
    """

    def __init__(
        self, files: Sequence[KeyFile[object]] = (), *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._files = files
        self._monotonic = monotonic
        self._next_look = monotonic() + _LOOK_EVERY_S

    def are_due(self) -> bool:
        """Tell whether to look after the files now; true once every 5 s at most, for one caller."""
        if not self._files or self._monotonic() < self._next_look:
            return False
        self._next_look = self._monotonic() + _LOOK_EVERY_S
        return True

    def reload(self) -> list[KeyFileChanged]:
        """Read files that have changed again; belongs in a thread, for parsing one takes a while."""
        return [change for file in self._files if (change := file.reload()) is not None]


def _state(path: Path) -> tuple[int, ...] | None:
    """Return what tells a changed file; None if there is no regular one."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode)
