"""Files of keys: parsed once, read again when they change, and known to expire."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
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
    """What a key's files hold together, such as a P12 file and the file of its password.

    They are read once, and again when one of them has changed. ``current`` and ``recent`` may be called by
    any thread meanwhile.

    Args:
        paths: The files; none, and the key never changes. Where one is no regular file, such as a pipe,
            they are read once.
        load: Reads and parses the files.

    Raises:
        SettingsError: The files can't be used; from ``load``.
    """

    def __init__(self, paths: Sequence[Path], load: Callable[[], T_co]) -> None:
        self._paths = paths
        self._load = load
        # Taken before the files are read: a change in between is seen the next time.
        self._seen = [_state(path) for path in paths]
        self.is_watched = bool(paths) and None not in self._seen
        """Whether the files can be read again."""
        self._values: tuple[T_co, ...] = (load(),)

    def current(self) -> T_co:
        """Return what the files held when they were last read well."""
        return self._values[0]

    def recent(self) -> tuple[T_co, ...]:
        """Return what the files hold, and after it what they held before, if they have changed."""
        return self._values

    def reload(self) -> list[KeyFileChanged]:
        """Read the files again if one has changed; what can't be used leaves the old key in force.

        A key whose files change one after another can't be used in between: each change is tried.

        Returns:
            What came of it, for each file that has changed.
        """
        states = [_state(path) for path in self._paths]
        changed = [path for path, old, new in zip(self._paths, self._seen, states, strict=True) if old != new]
        if not changed or not self.is_watched:
            return []
        self._seen = states
        problem = None
        try:
            self._values = (self._load(), self._values[0])
        except SettingsError as exc:
            problem = str(exc)
        return [KeyFileChanged(path=str(path), problem=problem) for path in changed]


class KeyFiles:
    """All files of keys that a client uses.

    Args:
        files: The files; those that can't be read again are left alone.
        monotonic: A clock that never goes back, seconds.
    """

    def __init__(
        self, files: Sequence[KeyFile[object]] = (), *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._files = [file for file in files if file.is_watched]
        self._monotonic = monotonic
        self._next_look = monotonic() + _LOOK_EVERY_S
        self._looking = Lock()

    def are_due(self) -> bool:
        """Tell whether to look after the files now; true once every 5 s at most, for one caller."""
        if not self._files or self._monotonic() < self._next_look:
            return False
        self._next_look = self._monotonic() + _LOOK_EVERY_S
        return True

    def reload(self) -> list[KeyFileChanged]:
        """Read files that have changed again; belongs in a thread, for parsing one takes a while."""
        # A slow look must not end after a later one, with an older key in its hands.
        with self._looking:
            return [change for file in self._files for change in file.reload()]


def _state(path: Path) -> tuple[int, ...] | None:
    """Return what tells a changed file; None if there is no regular one."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode)
