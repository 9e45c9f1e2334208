"""Where values come from: flags over environment over configuration file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

import msgspec

from batchcancel.errors import SettingsError
from batchcancel.settings.config_file import CONFIG_NAME, ConfigFile, find_config
from batchcancel.settings.options import FILES, FLAG_ONLY, HINTS, LISTS, PERCENTAGES, SECRETS, flag_of
from batchcancel.settings.secret_files import check_mode
from batchcancel.settings.takes import allowed, choices

ENV_PREFIX: Final = "BATCHCANCEL_"
_A_SLIP: Final = 0.85
"""How like an option's name one has to be that can only be a slip of the pen: a letter or two."""

_TWINS: Final = {name: f"{name}_file" for name in SECRETS} | {f"{name}_file": name for name in SECRETS}
"""Each secret with the option that names its file, both ways."""
_SERVICE_LINK: Final = re.compile(
    r"(?:^|_)service_(?:host$|port(?:$|_))|(?:^|_)port_[0-9]+_(?:tcp|udp|sctp)(?:$|_)"
)


class Rank(IntEnum):
    """How strong a source is."""

    FILE = 0
    PROFILE = 1
    ENVIRONMENT = 2
    FLAG = 3


@dataclass(frozen=True, slots=True)
class Given:
    """A value as one source gives it, converted."""

    value: Any = field(repr=False)  # it may be secret
    source: str
    rank: Rank


class Gathering:
    """Options collected from their sources, later ones over earlier ones."""

    def __init__(self) -> None:
        self.given: dict[str, list[Given]] = {}
        """Every value of an option that was given, the one that counts last."""
        self.file: ConfigFile | None = None
        self.profile: str | None = None
        self.warnings: list[str] = []
        self.mistyped: list[str] = []
        """Warnings about variables that are nearly an option: where one is missing, it may be that."""

    @property
    def values(self) -> dict[str, Any]:
        """The values that count."""
        return {name: given[-1].value for name, given in self.given.items() if self.beaten_by(name) is None}

    @property
    def sources(self) -> dict[str, str]:
        """Where they came from."""
        return {name: given[-1].source for name, given in self.given.items() if self.beaten_by(name) is None}

    def beaten_by(self, name: str) -> str | None:
        """Return the stronger source that gives a secret in the other way; None if there is none.

        A secret and the file that holds it are two options for one thing: what the environment says of either
        is preferred to what the file says of both. From one source they are a contradiction, which is not
        settled here.
        """
        twin = _TWINS.get(name)
        if twin not in self.given or name not in self.given:
            return None
        theirs, ours = self.given[twin][-1], self.given[name][-1]
        return theirs.source if theirs.rank > ours.rank else None

    def put(self, name: str, value: object, source: str, rank: Rank) -> None:
        """Convert one value and take it over; weaker sources come first.

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
            words = choices(name)  # no secret is one of a few words
            hint = _nearest(value, words) if words and isinstance(value, str) else "."
            raise SettingsError(f"{source} takes {allowed(name)}{hint}")
        self.given.setdefault(name, []).append(Given(converted, source, rank))

    def read_flags(self, flags: Mapping[str, object]) -> None:
        """Take over the flags that were given: those that are neither None nor empty."""
        _refuse_unknown(flags, "option")
        for name, value in flags.items():
            if value is not None and value != ():
                self.put(name, value, flag_of(name), Rank.FLAG)

    def read_environment(self, environ: Mapping[str, str]) -> None:
        """Take over the variables ``BATCHCANCEL_...`` that are not empty."""
        for variable, value in environ.items():
            name = variable.removeprefix(ENV_PREFIX).lower()
            if not variable.startswith(ENV_PREFIX) or not value or name in {"config", "profile"}:
                continue
            if _is_service_link(name, value):
                continue
            if name in FLAG_ONLY:
                raise SettingsError(f"{variable} is not accepted: say --{name} on the command line.")
            if name not in HINTS:
                hint = _nearest(name, HINTS, spelled=lambda known: ENV_PREFIX + known.upper())
                if difflib.get_close_matches(name, HINTS, n=1, cutoff=_A_SLIP):
                    # A limit would not be in force, and nobody reads a warning at night.
                    raise SettingsError(f"{variable} is no option of batchcancel{hint} Mend or unset it.")
                # Otherwise no error: other programs and later versions may have variables of their own.
                warning = f"{variable} is no option of batchcancel and is ignored{hint}"
                self.warnings.append(warning)
                if hint != ".":
                    self.mistyped.append(warning)
                continue
            parts = [part.strip() for part in value.split(",") if part.strip()]
            self.put(name, parts if name in LISTS else value, variable, Rank.ENVIRONMENT)

    def read_file(self, environ: Mapping[str, str], *, config: str | None, profile: str | None) -> None:
        """Take over the configuration file, if there is one: its top level, then the chosen profile.

        The names of all its profiles' keys are checked: who misspells a limit wants to know before the
        night on which it counts.

        Args:
            environ: Names file and profile, where no flag does.
            config: The file that ``--config`` names.
            profile: The profile that ``--profile`` names.
        """
        named_by = "--config" if config else f"{ENV_PREFIX}CONFIG"
        file = find_config(environ, named=config or environ.get(f"{ENV_PREFIX}CONFIG"), named_by=named_by)
        profile = profile or environ.get(f"{ENV_PREFIX}PROFILE") or None
        if file is None:
            if profile is not None:
                raise SettingsError(f"There is no {CONFIG_NAME} to take the profile {profile!r} from.")
            return
        for one in (None, *file.profiles):
            _check_keys(file, one)
        self._take_over(file, None)
        if profile is not None:
            if profile not in file.profiles:
                hint = _nearest(profile, file.profiles)
                raise SettingsError(f"{file.path} has no table [profile.{profile}]{hint}")
            self._take_over(file, profile)
        self.file, self.profile = file, profile

    def _take_over(self, file: ConfigFile, profile: str | None) -> None:
        table = file.top if profile is None else file.profiles[profile]
        rank = Rank.FILE if profile is None else Rank.PROFILE
        for name, value in table.items():
            if name in FILES and isinstance(value, str):
                value = str(file.path.parent / value)  # noqa: PLW2901 - paths in a file are relative to it
            self.put(name, value, f"{file.table(profile)}: {name}", rank)
        if SECRETS & table.keys():
            self.warnings += [one for one in check_mode(file.path) if one not in self.warnings]


def gather(
    environ: Mapping[str, str], flags: Mapping[str, object], *, config: str | None, profile: str | None
) -> Gathering:
    """Collect the options from file, environment and flags.

    Args:
        environ: The environment.
        flags: Options by name, as the command line or a caller in Python gave them.
        config: The configuration file, if a flag names it.
        profile: The profile, if a flag names it.

    Raises:
        SettingsError: A name or a value is none that an option takes, or the file can't be used.
    """
    gathering = Gathering()
    gathering.read_file(environ, config=config, profile=profile)
    gathering.read_environment(environ)
    gathering.read_flags(flags)
    return gathering


def _check_keys(file: ConfigFile, profile: str | None) -> None:
    for name in file.top if profile is None else file.profiles[profile]:
        if name in FLAG_ONLY:
            raise SettingsError(
                f"{file.where(name, profile)}: {name!r} is not accepted, say --{name} on the command line."
            )
        _refuse_unknown([name], f"key of {file.where(name, profile)}:")


def _is_service_link(name: str, value: str) -> bool:
    """Tell whether Kubernetes set a variable for a service named batchcancel, or batchcancel-anything.

    It makes ``BATCHCANCEL_METRICS_PORT=tcp://10.0.0.7:9108`` of a service batchcancel-metrics.
    """
    return _SERVICE_LINK.search(name) is not None or (
        name.rpartition("_")[2] == "port" and value.startswith(("tcp://", "udp://", "sctp://"))
    )


def _refuse_unknown(names: Iterable[str], what: str) -> None:
    for name in names:
        if name not in HINTS:
            raise SettingsError(f"Unknown {what} {name!r}{_nearest(name, HINTS)}")


def _nearest(name: str, known: Iterable[str], *, spelled: Callable[[str], str] = str) -> str:
    """End a sentence about an unknown name: by asking for the nearest known one, if any is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f". Did you mean {spelled(close[0])}?" if close else "."
