"""Secrets: bytes that never show, and files that can be trusted with them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

from batchcancel.errors import SettingsError


class Secret:
    """Bytes that never show: not in a repr, a log line or a traceback.

    Args:
        value: The bytes.
        file: The file that they were read from, if it can be read again.
        read: Reads that file.
    """

    __slots__ = ("_read", "_value", "file")

    def __init__(
        self, value: bytes, *, file: Path | None = None, read: Callable[[], bytes] | None = None
    ) -> None:
        self._value = value
        self._read = read
        self.file = file

    def reveal(self) -> bytes:
        """Return the bytes; only the code that signs has a reason to."""
        return self._value

    def read_again(self) -> bytes:
        """Return the bytes as their file has them now; without one, as they were.

        Raises:
            SettingsError: The file can't be used any more; nothing of what it holds is shown.
        """
        return self._value if self._read is None else self._read()

    def __repr__(self) -> str:
        return "Secret(***)"


def secret_in(path: Path, read: Callable[[list[str]], bytes], warnings: list[str]) -> Secret:
    """Return the secret that a file holds, to be read again when the file has changed.

    Args:
        path: The file. A pipe gives its bytes once.
        read: Reads and checks the file; adds sentences about a lax mode to the list.
        warnings: Where they are added the first time.

    Raises:
        SettingsError: The file can't be used; from ``read``.
    """
    value = read(warnings)
    if not path.is_file():
        return Secret(value)
    return Secret(value, file=path, read=partial(read, []))


def read_secret_text(path: Path, warnings: list[str], *, encoding: str) -> str:
    """Return a secret file's text.

    Args:
        path: The file.
        warnings: Where a sentence about a lax mode is added.
        encoding: ``ascii`` or ``utf-8``.

    Raises:
        SettingsError: It can't be read, is no such text, or others can write it.
    """
    warnings += check_mode(path)
    try:
        return path.read_text(encoding=encoding)
    except OSError as exc:
        reason = exc.strerror
    except UnicodeDecodeError:
        reason = f"it is not {encoding.upper()} text"
    # Raised out here, because the decoder's error holds what it could not decode.
    raise SettingsError(f"The secret file {path} can't be read: {reason}.")


def check_mode(path: Path) -> list[str]:
    """Refuse a secret's file that others can write; return a warning if they can read it.

    A file of somebody else's that this process reads by its group is how systemd's credentials and
    volumes of Kubernetes come to a user without rights: that group is no other.
    """
    found = _stat(path)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(f"{path} can be written by others, so its secret can't be trusted: chmod 600 it.")
    others = stat.S_IROTH if found.st_uid != os.geteuid() else stat.S_IRGRP | stat.S_IROTH
    if found.st_mode & others:
        return [f"{path} holds a secret and can be read by others: chmod 600 it."]
    return []


def check_public_mode(path: Path) -> None:
    """Refuse a certificate's file that others can write: they could have requests encrypted for them."""
    if _stat(path).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(f"{path} can be written by others, so it can't be trusted: chmod 644 it.")


def _stat(path: Path) -> os.stat_result:
    try:
        found = path.stat()
    except OSError as exc:
        raise SettingsError(f"The secret file {path} can't be read: {exc.strerror}.") from None
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISFIFO(found.st_mode):
        raise SettingsError(f"The secret file {path} is no file.")
    return found
