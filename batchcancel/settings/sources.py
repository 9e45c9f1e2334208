"""Where values come from: flags over environment over configuration file."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from batchcancel.errors import SettingsError
from batchcancel.settings.options import FILES, FLAG_ONLY, HINTS, LISTS, PERCENTAGES, SECRETS, allowed
from batchcancel.settings.secret_files import check_mode

ENV_PREFIX: Final = "BATCHCANCEL_"
CONFIG_NAME: Final = "batchcancel.toml"
_OF_THE_ENGINE: Final = "temporal_"
"""How variables go on that say where the engine of many hosts is: commands that need it read them."""


class Gathering:
    """Options collected from their sources, later ones over earlier ones."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.warnings: list[str] = []

    def put(self, name: str, value: object, source: str) -> None:
        """Convert one value and take it over.

        Raises:
            SettingsError: It is not what the option takes. The value is not shown: it may be secret.
        """
        if name in {"expect_count", "plan_max_age"} and isinstance(value, int) and value is not True:
            value = str(value)  # a file may well write the number without quotes
        if isinstance(value, str) and name in PERCENTAGES:
            value = value.strip().removesuffix("%").strip()
        try:
            converted = msgspec.convert(value, HINTS[name], strict=False)
        except (msgspec.ValidationError, OverflowError):
            converted = None
        # None is also how msgspec reads the text "null", and empty is a shell's variable that is not set.
        if converted is None or converted == "":
            raise SettingsError(f"{source} takes {allowed(name)}.")
        self.values[name] = converted
        self.sources[name] = source

    def read_flags(self, flags: Mapping[str, object]) -> None:
        """Take over the flags that were given: those that are neither None nor empty."""
        _refuse_unknown(flags, "option")
        for name, value in flags.items():
            if value is not None and value != ():
                self.put(name, value, "--" + name.replace("_", "-"))

    def read_environment(self, environ: Mapping[str, str]) -> None:
        """Take over the variables ``BATCHCANCEL_...`` that are not empty."""
        for variable, value in environ.items():
            name = variable.removeprefix(ENV_PREFIX).lower()
            is_of_others = name in {"config", "profile"} or name.startswith(_OF_THE_ENGINE)
            if not variable.startswith(ENV_PREFIX) or not value or is_of_others:
                continue
            if name in FLAG_ONLY:
                raise SettingsError(f"{variable} is not accepted: say --{name} on the command line.")
            if name not in HINTS:
                # Not an error: Kubernetes adds variables of its own for a service of our name.
                hint = _nearest(name, HINTS, spelled=lambda known: ENV_PREFIX + known.upper())
                self.warnings.append(f"{variable} is no option of batchcancel and is ignored{hint}")
                continue
            parts = [part.strip() for part in value.split(",") if part.strip()]
            self.put(name, parts if name in LISTS else value, variable)

    def read_file(self, environ: Mapping[str, str]) -> None:
        """Take over the configuration file, if there is one: its top level, then the chosen profile."""
        path = find_config(environ)
        profile = environ.get(ENV_PREFIX + "PROFILE")
        if path is None:
            if profile:
                raise SettingsError(f"There is no {CONFIG_NAME} to take the profile {profile!r} from.")
            return
        table = _parse(path)
        profiles = table.pop("profile", {})
        if not isinstance(profiles, dict) or not all(isinstance(one, dict) for one in profiles.values()):
            raise SettingsError(
                f"{path}: profile is for tables [profile.NAME]; one is chosen with {ENV_PREFIX}PROFILE=NAME."
            )
        self._read_table(table, path, str(path))
        if profile:
            if profile not in profiles:
                raise SettingsError(f"{path} has no table [profile.{profile}]{_nearest(profile, profiles)}")
            self._read_table(profiles[profile], path, f"{path} [profile.{profile}]")

    def _read_table(self, table: Mapping[str, object], path: Path, where: str) -> None:
        _refuse_unknown(table, f"key of {where}:")
        for name, value in table.items():
            if name in FLAG_ONLY:
                raise SettingsError(f"{where}: {name!r} is not accepted, say --{name} on the command line.")
            if name in FILES and isinstance(value, str):
                value = str(path.parent / value)  # noqa: PLW2901 - paths in a file are relative to it
            self.put(name, value, f"{where}: {name}")
        if SECRETS & table.keys():
            self.warnings += check_mode(path)


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        reason = exc.strerror
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except tomllib.TOMLDecodeError as exc:
        reason = str(exc)
    raise SettingsError(f"{path} can't be read: {reason}.")


def find_config(environ: Mapping[str, str]) -> Path | None:
    """Return the configuration file; None if there is none.

    Raises:
        SettingsError: A file is named and is not there, or it can't be told.
    """
    if named := environ.get(ENV_PREFIX + "CONFIG"):
        if not is_file(Path(named)):
            raise SettingsError(f"{ENV_PREFIX}CONFIG names {named}, which is no file.")
        return Path(named)
    return next((path for path in config_candidates(environ) if is_file(path)), None)


def config_candidates(environ: Mapping[str, str]) -> list[Path]:
    """Return where a configuration file is looked for, the first that is there being the one."""
    if named := environ.get(ENV_PREFIX + "CONFIG"):
        return [Path(named)]
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


def _refuse_unknown(names: Iterable[str], what: str) -> None:
    for name in names:
        if name not in HINTS:
            raise SettingsError(f"Unknown {what} {name!r}{_nearest(name, HINTS)}")


def _nearest(name: str, known: Iterable[str], *, spelled: Callable[[str], str] = str) -> str:
    """End a sentence about an unknown name: with the nearest known one, if any is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {spelled(close[0])!r}?" if close else "."
