"""The configuration file: which one it is, its tables, and on which line a key stands."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from batchcancel.errors import SettingsError

CONFIG_NAME: Final = "batchcancel.toml"

_TABLE: Final = re.compile(r"""\s*\[\s*profile\s*\.\s*["']?([^"'\]]+?)["']?\s*\]""")
_KEY: Final = re.compile(r"""\s*(["']?)([A-Za-z0-9_-]+)\1\s*=""")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """A configuration file as parsed; its values are checked by who takes them over."""

    path: Path
    top: dict[str, Any] = field(repr=False)  # a value may be a secret
    """What stands outside of any profile."""
    profiles: dict[str, dict[str, Any]] = field(repr=False)
    lines: dict[tuple[str | None, str], int]
    """By profile (None: the top level) and key the 1-based line, as far as it can be told."""

    def where(self, key: str, profile: str | None) -> str:
        """Name the place of a key: the file, its profile, its line."""
        line = self.lines.get((profile, key))
        return self.table(profile) + (f", line {line}" if line else "")

    def table(self, profile: str | None) -> str:
        """Name a table: the file, and its profile if it is not the top level."""
        return f"{self.path} [profile.{profile}]" if profile is not None else str(self.path)


def find_config(environ: Mapping[str, str], *, named: str | None, named_by: str) -> ConfigFile | None:
    """Find and parse the configuration file.

    Args:
        environ: Says where the user's configuration folder is.
        named: The file that was asked for; None or empty: ``batchcancel.toml`` in the working
            directory, else in the user's folder.
        named_by: The flag or variable that asked for it.

    Returns:
        The file; None if there is none in the usual places.

    Raises:
        SettingsError: The file that was asked for is not there, or a file can't be used.
    """
    if named:
        if not is_file(Path(named)):
            raise SettingsError(f"{named_by} names {named}, which is no file.")
        return _parse(Path(named))
    return next((_parse(path) for path in config_candidates(environ) if is_file(path)), None)


def config_candidates(environ: Mapping[str, str]) -> list[Path]:
    """Return where a file that nobody named is looked for, the first that is there being the one."""
    candidates = [Path(CONFIG_NAME)]
    if folder := environ.get("XDG_CONFIG_HOME"):
        candidates.append(Path(folder, "batchcancel", CONFIG_NAME))
    elif home := environ.get("HOME"):
        candidates.append(Path(home, ".config", "batchcancel", CONFIG_NAME))
    return candidates


def is_file(path: Path) -> bool:
    """Tell whether a path is a file.

    Raises:
        SettingsError: That can't be told, as in a folder that may not be entered.
    """
    try:
        return path.is_file()
    except OSError as exc:
        raise SettingsError(f"{path} can't be read: {exc.strerror}.") from None


def _parse(path: Path) -> ConfigFile:
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except OSError as exc:
        reason = exc.strerror
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except tomllib.TOMLDecodeError as exc:
        reason = str(exc)
    else:
        profiles = table.pop("profile", {})
        if not isinstance(profiles, dict) or not all(isinstance(one, dict) for one in profiles.values()):
            raise SettingsError(
                f"{path}: profile is for tables [profile.NAME]; one is chosen with --profile NAME or "
                "BATCHCANCEL_PROFILE=NAME."
            )
        return ConfigFile(path=path, top=table, profiles=profiles, lines=_lines(text))
    # Raised out here, because the decoders' errors hold what they could not decode.
    raise SettingsError(f"{path} can't be read: {reason}.")


def _lines(text: str) -> dict[tuple[str | None, str], int]:
    """Find the lines of the keys, which the parser does not tell.

    A key in another notation than ``name = value`` on a line of its own is left out; so are all where
    texts over several lines may look like keys.
    """
    lines: dict[tuple[str | None, str], int] = {}
    if '"""' in text or "'''" in text:
        return lines
    profile = None
    for number, line in enumerate(text.splitlines(), start=1):
        if table := _TABLE.match(line):
            profile = table[1]
        elif key := _KEY.match(line):
            lines.setdefault((profile, key[2]), number)
    return lines
