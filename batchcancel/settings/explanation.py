"""Why an option has its value: where it came from, what that overrode, and what is missing for a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
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
from batchcancel.settings.credentials import check_given, missing_credentials, read_credentials
from batchcancel.settings.engine import read_engine_options
from batchcancel.settings.options import SECRETS, Options
from batchcancel.settings.receivers import read_receivers
from batchcancel.settings.sources import Gathering, Given, gather
from batchcancel.settings.target import DEFAULT_URLS, MISSING_ENV, check_url, find_proxy, find_target
from batchcancel.settings.words import Environment

MASK: Final = "***"
"""Stands for a secret, whatever its length."""
DEFAULT: Final = "default"
"""The source of a value that nothing gave."""


class Source(Struct, frozen=True, kw_only=True):
    """A value and where it came from; what is secret of it is masked."""

    value: Any
    source: str
    """A flag, a variable, a file with its profile and key, or ``default``."""


class Explained(Source, frozen=True, kw_only=True):
    """The value that counts."""

    overridden: tuple[Source, ...] = ()
    """What it was preferred to, the strongest first."""


class Explanation(Struct, frozen=True, kw_only=True):
    """Every option with its source, and what a run would still need."""

    file: str | None
    """The configuration file, as an absolute path; None if there is none."""
    profile: str | None
    profiles: tuple[str, ...]
    """Those that the file has."""
    options: dict[str, Explained]
    missing: tuple[str, ...]
    """Sentences."""
    warnings: tuple[str, ...]


def explain_settings(
    manifests: Sequence[str | os.PathLike[str]] = (),
    *,
    environ: Mapping[str, str] | None = None,
    config: str | os.PathLike[str] | None = None,
    profile: str | None = None,
    **flags: Any,  # noqa: ANN401 - converted and checked against Options
) -> Explanation:
    """Gather the options as ``load_settings`` does, and say why each has its value.

    Args:
        manifests: Paths of the manifests, if there are any yet.
        environ: The environment; the process's own by default.
        config: The configuration file, as for ``load_settings``.
        profile: Its profile, likewise.
        **flags: Options of ``Options`` by name; None counts as not given.

    Raises:
        SettingsError: Something that is given is malformed or contradictory. What is missing is no error.
    """
    paths = tuple(os.fspath(path) for path in manifests)
    file = None if config is None else os.fspath(config)
    try:
        return _explain(paths, os.environ if environ is None else environ, flags, file=file, profile=profile)
    except SettingsError as exc:
        # Some tools print the variables of a traceback's frames, and down there these are secret.
        raise exc.with_traceback(None) from None


def _explain(
    manifests: tuple[str, ...],
    environ: Mapping[str, str],
    flags: Mapping[str, Any],
    *,
    file: str | None,
    profile: str | None,
) -> Explanation:
    gathering = gather(environ, flags, config=file, profile=profile)
    options = Options(**gathering.values)
    missing: list[str] = []
    environment, base_url = _target(options, missing)
    check_merchants(options, gathering.sources)
    if base_url is not None or environment is not Environment.SANDBOX:
        _check_credentials(options, gathering, missing)
    check_roots(options, gathering.sources)
    read_count(options.expect_count, source=gathering.sources.get("expect_count", ""))
    read_age(options.plan_max_age, source=gathering.sources.get("plan_max_age", ""))
    read_matches(options.match, source=gathering.sources.get("match", ""))
    ledger = None if environment is None else ledger_of(manifests, options, environment)
    if manifests and environment is not None and ledger is None:
        missing.append(MISSING_LEDGER)
    check_paths(options, ledger or (Path(options.ledger) if options.ledger else None), manifests)
    check_metrics(options, gathering.sources)
    read_engine_options(options, sources=gathering.sources, warnings=gathering.warnings)
    receivers = read_receivers(options, sources=gathering.sources, environ=environ)
    derived = {
        "base_url": Source(value=base_url, source=DEFAULT),
        "rate": Source(value=rate_of(options, environment), source=DEFAULT),
        "ledger": Source(value=None if ledger is None else str(ledger), source=DEFAULT),
        "proxy": _proxy(options, environment, base_url, environ),
    }
    return Explanation(
        file=None if gathering.file is None else str(gathering.file.path.absolute()),
        profile=gathering.profile,
        profiles=() if gathering.file is None else tuple(gathering.file.profiles),
        options={
            name: _explained(
                name, gathering.given.get(name, []), derived.get(name), beaten_by=gathering.beaten_by(name)
            )
            for name in Options.__struct_fields__
        },
        missing=tuple(missing),
        warnings=(*receivers.warnings, *gathering.warnings),
    )


def _target(options: Options, missing: list[str]) -> tuple[Environment | None, str | None]:
    if options.env is None:
        missing.append(MISSING_ENV)
        return None, None if options.base_url is None else check_url(options.base_url)
    return find_target(options)


def _check_credentials(options: Options, gathering: Gathering, missing: list[str]) -> None:
    warn_of_auth(options, gathering.warnings)
    lacking = missing_credentials(options)
    if lacking:
        missing.append(f"Credentials are missing: {', '.join(lacking)}.")
        check_given(options, sources=gathering.sources, warnings=gathering.warnings)
    else:
        read_credentials(options, sources=gathering.sources, warnings=gathering.warnings)


def _proxy(
    options: Options, environment: Environment | None, base_url: str | None, environ: Mapping[str, str]
) -> Source:
    """Return the proxy that a run would take from the environment's usual variables."""
    if environment is None:  # then the proxy is checked as for a host on the internet
        environment, base_url = Environment.PRODUCTION, base_url or DEFAULT_URLS[Environment.PRODUCTION]
    proxy = find_proxy(options, base_url, environment, environ)
    return Source(value=proxy, source=DEFAULT if proxy is None else "HTTPS_PROXY")


def _explained(name: str, given: list[Given], derived: Source | None, *, beaten_by: str | None) -> Explained:
    if given:
        sources = [Source(value=_shown(name, one.value), source=one.source) for one in reversed(given)]
        if beaten_by is not None:
            return Explained(value=None, source=beaten_by, overridden=tuple(sources))
        return Explained(value=sources[0].value, source=sources[0].source, overridden=tuple(sources[1:]))
    if derived is None:
        default = Options.__struct_defaults__[Options.__struct_fields__.index(name)]
        derived = Source(value=default, source=DEFAULT)
    return Explained(value=_shown(name, derived.value), source=derived.source)


def _shown(name: str, value: Any) -> Any:  # noqa: ANN401 - of any option
    """Return a value as plain data, without what is secret of it."""
    if value is None:
        return None
    if name in SECRETS:
        return MASK
    if name == "proxy" or name.endswith("_url"):
        return _masked_url(value)
    return msgspec.to_builtins(value)


def _masked_url(url: str) -> str:
    """Show where a URL leads; user, password and path may let others in."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return MASK
    if not host:
        return MASK
    user = f"{MASK}@" if "@" in parts.netloc else ""
    place = f"[{host}]" if ":" in host else host
    rest = f"/{MASK}" if parts.path not in {"", "/"} or parts.query or parts.fragment else ""
    return f"{parts.scheme}://{user}{place}{'' if port is None else f':{port}'}{rest}"
