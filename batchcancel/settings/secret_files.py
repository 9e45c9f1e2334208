"""Secrets: bytes that never show, and files that can be trusted with them."""

from __future__ import annotations

import stat
from pathlib import Path

from batchcancel.errors import SettingsError


class Secret:
    """Bytes that never show: not in a repr, a log line or a traceback."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Return the bytes; only the code that signs has a reason to."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"


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
    """Refuse a secret's file that others can write; return a warning if they can read it."""
    mode = _mode_of(path)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(f"{path} can be written by others, so its secret can't be trusted: chmod 600 it.")
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        return [f"{path} holds a secret and can be read by others: chmod 600 it."]
    return []


def check_public_mode(path: Path) -> None:
    """Refuse a certificate's file that others can write: they could have requests encrypted for them."""
    if _mode_of(path) & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingsError(f"{path} can be written by others, so it can't be trusted: chmod 644 it.")


def _mode_of(path: Path) -> int:
    try:
        mode = path.stat().st_mode
    except OSError as exc:
        raise SettingsError(f"The secret file {path} can't be read: {exc.strerror}.") from None
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        raise SettingsError(f"The secret file {path} is no file.")
    return mode
