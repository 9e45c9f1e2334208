"""Every option, checked, and where its value came from.

An option ``max_attempts`` is the flag ``--max-attempts``, the environment variable
``BATCHCANCEL_MAX_ATTEMPTS`` and the key ``max_attempts`` of ``batchcancel.toml``; the first of these
that is there wins. A table ``[profile.NAME]`` of the file overrides its top level when that profile
is chosen, by ``--profile`` or ``BATCHCANCEL_PROFILE``. Credentials have no flag: other users of a machine
can read command lines.

Values are converted and checked by msgspec, against the types and bounds that stand with each option.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from batchcancel.errors import SettingsError
from batchcancel.settings.checks import (
    MISSING_LEDGER,
    check_merchants,
    check_metrics,
    check_paths,
    check_roots,
    ledger_of,
    rate_of,
    warn_of_auth,
)
from batchcancel.settings.conditions import read_age, read_count, read_matches
from batchcancel.settings.credentials import (
    Credentials,
    Encryption,
    P12File,
    ResponseKeyFile,
    SharedSecret,
    read_credentials,
)
from batchcancel.settings.options import NOT_FOR_THE_RECORD, Options
from batchcancel.settings.receivers import Receiver, Receivers, read_receivers
from batchcancel.settings.secret_files import Secret
from batchcancel.settings.sources import Gathering, gather
from batchcancel.settings.target import find_proxy, find_target
from batchcancel.settings.words import (
    Auth,
    Environment,
    LogFormat,
    LogLevel,
    ManifestFormat,
    Mle,
    Progress,
    RetryErrors,
)

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
    config: str | os.PathLike[str] | None = None,
    profile: str | None = None,
    for_run: bool = True,
    **flags: Any,  # noqa: ANN401 - converted and checked against Options
) -> Settings:
    """Gather the options from flags, environment and configuration file, and check them all.

    Args:
        manifests: Paths of the manifests; ``-`` is standard input.
        environ: The environment; the process's own by default.
        config: The configuration file; None: as ``BATCHCANCEL_CONFIG`` says, or the usual places.
        profile: Its profile; None: as ``BATCHCANCEL_PROFILE`` says, or none.
        for_run: Whether rows are to be written, so that there has to be a ledger; otherwise it is the null
            device where none follows from the rest.
        **flags: Options of ``Options`` by name; None counts as not given.

    Raises:
        SettingsError: Something is missing, malformed or contradictory; says what and where.
    """
    paths = tuple(os.fspath(path) for path in manifests)
    chosen = {"config": None if config is None else os.fspath(config), "profile": profile}
    try:
        return _load(paths, os.environ if environ is None else environ, flags, chosen, for_run=for_run)
    except SettingsError as exc:
        # Some tools print the variables of a traceback's frames, and down there these are secret.
        raise exc.with_traceback(None) from None


def load_receivers(
    *,
    environ: Mapping[str, str] | None = None,
    config: str | os.PathLike[str] | None = None,
    profile: str | None = None,
    **flags: Any,  # noqa: ANN401 - as above
) -> Receivers:
    """Gather the options and say who is told of a run; the others are not checked yet.

    So somebody can be told that they are wrong. Nobody is told of a dry run.

    Args:
        environ: The environment; the process's own by default.
        config: The configuration file, as for ``load_settings``.
        profile: Its profile, likewise.
        **flags: Options of ``Options`` by name; None counts as not given.

    Raises:
        SettingsError: An address can't be used, or an option is unknown or not of its type.
    """
    chosen = {"config": None if config is None else os.fspath(config), "profile": profile}
    try:
        return _load_receivers(os.environ if environ is None else environ, flags, chosen)
    except SettingsError as exc:
        raise exc.with_traceback(None) from None


def _load_receivers(
    environ: Mapping[str, str], flags: Mapping[str, Any], chosen: Mapping[str, str | None]
) -> Receivers:
    gathering = gather(environ, flags, **chosen)
    options = Options(**gathering.values)
    if options.dry_run:
        return Receivers(ping=None, notify=None)
    return read_receivers(options, sources=gathering.sources, environ=environ)


def _load(
    manifests: tuple[str, ...],
    environ: Mapping[str, str],
    flags: Mapping[str, Any],
    chosen: Mapping[str, str | None],
    *,
    for_run: bool,
) -> Settings:
    gathering = gather(environ, flags, **chosen)
    try:
        return _check(manifests, gathering, environ, for_run=for_run)
    except SettingsError as exc:
        if not gathering.mistyped:
            raise
        raise SettingsError(" ".join([str(exc), *gathering.mistyped])) from exc


def _check(
    manifests: tuple[str, ...], gathering: Gathering, environ: Mapping[str, str], *, for_run: bool
) -> Settings:
    sources, warnings = gathering.sources, gathering.warnings
    options = Options(**gathering.values)
    environment, base_url = find_target(options)
    check_merchants(options, sources)
    credentials = None
    if base_url is not None:
        warn_of_auth(options, warnings)
        credentials = read_credentials(options, sources=sources, warnings=warnings)
    check_roots(options, sources)
    ledger = ledger_of(manifests, options, environment)
    if ledger is None and for_run:
        raise SettingsError(MISSING_LEDGER)
    check_paths(options, ledger, manifests)
    check_metrics(options, sources)
    return Settings(
        manifests=manifests,
        options=options,
        sources=sources,
        environment=environment,
        base_url=base_url,
        ledger=Path(os.devnull) if ledger is None else ledger,
        rate=rate_of(options, environment),
        proxy=find_proxy(options, base_url, environment, environ),
        expect_count=read_count(options.expect_count, source=sources.get("expect_count", "")),
        plan_max_age_s=read_age(options.plan_max_age, source=sources.get("plan_max_age", "")),
        match=read_matches(options.match, source=sources.get("match", "")),
        credentials=credentials,
        warnings=tuple(warnings),
    )
