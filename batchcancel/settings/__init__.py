"""Every option, checked, and where its value came from.

An option ``max_attempts`` is the flag ``--max-attempts``, the environment variable
``BATCHCANCEL_MAX_ATTEMPTS`` and the key ``max_attempts`` of ``batchcancel.toml``; the first of these
that is there wins. A table ``[profile.NAME]`` of the file overrides its top level when that profile
is chosen. Credentials have no flag: other users of a machine can read command lines.

Values are converted and checked by msgspec, against the types and bounds that stand with each option.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from batchcancel.errors import SettingsError
from batchcancel.settings.conditions import read_age, read_count, read_matches
from batchcancel.settings.credentials import (
    Credentials,
    Encryption,
    P12File,
    ResponseKeyFile,
    SharedSecret,
    read_credentials,
)
from batchcancel.settings.options import (
    FILES,
    NOT_FOR_THE_RECORD,
    Auth,
    Environment,
    LogFormat,
    LogLevel,
    ManifestFormat,
    Mle,
    Options,
    Progress,
    RetryErrors,
)
from batchcancel.settings.receivers import Receiver, Receivers, read_receivers
from batchcancel.settings.secret_files import Secret
from batchcancel.settings.sources import Gathering, is_file
from batchcancel.settings.target import find_proxy, find_target

__all__ = [
    "Auth",
    "Credentials",
    "Encryption",
    "Environment",
    "LogFormat",
    "LogLevel",
    "ManifestFormat",
    "Mle",
    "Options",
    "P12File",
    "Progress",
    "Receiver",
    "Receivers",
    "ResponseKeyFile",
    "RetryErrors",
    "Secret",
    "Settings",
    "SharedSecret",
    "load_receivers",
    "load_settings",
]

DEFAULT_RATE: Final = 20.0
"""Requests a second. The service publishes no limit, so the default is low."""


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that a run needs to know, checked."""

    manifests: tuple[str, ...]
    options: Options
    sources: dict[str, str]
    """Where each option that is not at its default came from."""
    environment: Environment
    base_url: str | None
    """The host that is called; None for the simulator in this process."""
    ledger: Path
    rate: float | None
    """Requests a second, of all merchants together; None for no limit."""
    proxy: str | None
    expect_count: tuple[int, int] | None
    """The least and the most distinct valid ids that the manifest may have; None for any number."""
    match: dict[str, str]
    """By field of the invoice (``total``, ``currency``, ``dueDate``) the column that it has to equal."""
    credentials: Credentials | None
    """None for the simulator in this process, which has made-up ones."""
    plan_max_age_s: float = 86_400.0
    """How old a plan may be that answers are taken from."""
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Show what is called and where results go; the proxy's URL may hold a password."""
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show rich no more than that; by itself it would print every field."""
        shown = ("manifests", "environment", "base_url", "ledger", "rate", "credentials")
        return [(name, getattr(self, name)) for name in shown]

    @property
    def host(self) -> str:
        """The name of the host that is called."""
        return urlsplit(self.base_url).hostname or "" if self.base_url else "simulator"

    def for_the_record(self) -> dict[str, Any]:
        """Return the options that were given, without anything secret, for the ledger."""
        return {
            name: msgspec.to_builtins(getattr(self.options, name))
            for name in self.sources
            if name not in NOT_FOR_THE_RECORD
        }


def load_settings(
    manifests: Sequence[str | os.PathLike[str]],
    *,
    environ: Mapping[str, str] | None = None,
    for_run: bool = True,
    **flags: Any,  # noqa: ANN401 - converted and checked against Options
) -> Settings:
    """Gather the options from flags, environment and configuration file, and check them all.

    Args:
        manifests: Paths of the manifests; ``-`` is standard input.
        environ: The environment; the process's own by default.
        for_run: Whether rows are to be written, so that there has to be a ledger; otherwise it is the null
            device where none follows from the rest.
        **flags: Options of ``Options`` by name; None counts as not given.

    Raises:
        SettingsError: Something is missing, malformed or contradictory; says what and where.
    """
    paths = tuple(os.fspath(path) for path in manifests)
    try:
        return _load(paths, os.environ if environ is None else environ, flags, for_run=for_run)
    except SettingsError as exc:
        # Some tools print the variables of a traceback's frames, and down there these are secret.
        raise exc.with_traceback(None) from None


def load_receivers(
    *,
    environ: Mapping[str, str] | None = None,
    **flags: Any,  # noqa: ANN401 - as above
) -> Receivers:
    """Gather the options and say who is told of a run; the others are not checked yet.

    So somebody can be told that they are wrong. Nobody is told of a dry run.

    Args:
        environ: The environment; the process's own by default.
        **flags: Options of ``Options`` by name; None counts as not given.

    Raises:
        SettingsError: An address can't be used, or an option is unknown or not of its type.
    """
    try:
        return _load_receivers(os.environ if environ is None else environ, flags)
    except SettingsError as exc:
        raise exc.with_traceback(None) from None


def _load_receivers(environ: Mapping[str, str], flags: Mapping[str, Any]) -> Receivers:
    gathering = _gather(environ, flags)
    options = Options(**gathering.values)
    if options.dry_run:
        return Receivers(ping=None, notify=None)
    return read_receivers(options, sources=gathering.sources, environ=environ)


def _gather(environ: Mapping[str, str], flags: Mapping[str, Any]) -> Gathering:
    gathering = Gathering()
    gathering.read_file(environ)
    gathering.read_environment(environ)
    gathering.read_flags(flags)
    return gathering


def _load(
    manifests: tuple[str, ...], environ: Mapping[str, str], flags: Mapping[str, Any], *, for_run: bool
) -> Settings:
    gathering = _gather(environ, flags)
    try:
        return _check(manifests, gathering, environ, for_run=for_run)
    except SettingsError as exc:
        if not gathering.mistyped:
            raise
        raise SettingsError(" ".join([str(exc), *gathering.mistyped])) from exc


def _check(
    manifests: tuple[str, ...], gathering: Gathering, environ: Mapping[str, str], *, for_run: bool
) -> Settings:
    options = Options(**gathering.values)
    environment, base_url = find_target(options)
    _check_merchants(options, gathering)
    credentials = None if base_url is None else _credentials(options, gathering)
    if options.ca_file and not is_file(Path(options.ca_file)):
        raise SettingsError(f"{gathering.sources['ca_file']}: {options.ca_file} is no file.")
    ledger = _ledger(manifests, options, environment, for_run=for_run)
    others = (getattr(options, name) for name in sorted(FILES))
    read = [ledger, *map(Path, manifests), *(Path(path) for path in others if path)]
    written = [Path(path) for path in (options.log_file, options.report) if path]
    _keep_apart("The log", options.log_file, read, "the ledger or a file that is read")
    _keep_apart("The metrics", options.metrics_file, read, "the ledger or a file that is read")
    _keep_apart("The metrics", options.metrics_file, written, "the log or the page")
    _check_metrics(options, gathering)
    return Settings(
        manifests=manifests,
        options=options,
        sources=gathering.sources,
        environment=environment,
        base_url=base_url,
        ledger=ledger,
        rate=_rate(options, environment),
        proxy=find_proxy(options, base_url, environment, environ),
        expect_count=read_count(options.expect_count, source=gathering.sources.get("expect_count", "")),
        plan_max_age_s=read_age(options.plan_max_age, source=gathering.sources.get("plan_max_age", "")),
        match=read_matches(options.match, source=gathering.sources.get("match", "")),
        credentials=credentials,
        warnings=tuple(gathering.warnings),
    )


def _rate(options: Options, environment: Environment) -> float | None:
    """Return the requests a second for all merchants together; None for no limit."""
    if options.rate is not None:
        return options.rate
    is_unlimited = environment is Environment.SANDBOX or options.rate_per_merchant is not None
    return None if is_unlimited else DEFAULT_RATE


def _check_merchants(options: Options, gathering: Gathering) -> None:
    """Refuse a rate for each merchant where the manifest names none."""
    if options.rate_per_merchant is not None and options.merchant_column is None:
        raise SettingsError(
            f"{gathering.sources['rate_per_merchant']} goes with --merchant-column, which says whose "
            "invoice a row is; use --rate otherwise."
        )


def _credentials(options: Options, gathering: Gathering) -> Credentials:
    if options.auth is Auth.HTTP_SIGNATURE:
        gathering.warnings.append(
            "HTTP Signature is to be migrated to JWT by March 2027; create a REST shared secret key and "
            "set BATCHCANCEL_AUTH=jwt."
        )
    return read_credentials(options, sources=gathering.sources, warnings=gathering.warnings)


def _ledger(manifests: tuple[str, ...], options: Options, environment: Environment, *, for_run: bool) -> Path:
    if options.ledger is not None:
        return Path(options.ledger)
    if len(manifests) != 1 or manifests[0] == "-" or _is_fifo(Path(manifests[0])):
        if not for_run:
            return Path(os.devnull)
        raise SettingsError(
            "Say where the results go with --ledger: it is needed for standard input, for a pipe and for "
            "several manifests."
        )
    path = Path(manifests[0])
    if path.suffix.lower() == ".gz":
        path = path.with_suffix("")
    return Path(f"{path.stem}.{environment}.ledger.jsonl")


def _check_metrics(options: Options, gathering: Gathering) -> None:
    """Refuse an address for a port that nobody asked for."""
    if options.metrics_port is None and "metrics_host" in gathering.sources:
        raise SettingsError(f"{gathering.sources['metrics_host']} goes with --metrics-port.")


def _keep_apart(what: str, path: str | None, others: Sequence[Path], which: str) -> None:
    """Refuse to write a file that is another file of the run: it would be replaced or appended to."""
    if path is None:
        return
    try:
        is_other = os.path.realpath(path) in map(os.path.realpath, others)
    except ValueError:
        raise SettingsError("A path holds a NUL character.") from None
    if is_other:
        raise SettingsError(f"{what} can't go to {path}: that is {which}.")


def _is_fifo(path: Path) -> bool:
    """Tell whether a manifest is a pipe, such as a shell's <(...): its name differs from run to run."""
    try:
        return path.is_fifo()
    except (OSError, ValueError):
        return False  # it can't be opened either, and the manifest's reader says so
