"""Where Temporal is, for the commands of many hosts: from flags, variables and configuration file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from msgspec import Struct

from batchcancel.errors import SettingsError
from batchcancel.settings.checks import refuse_both
from batchcancel.settings.options import ENGINE_PREFIX, Options
from batchcancel.settings.secret_files import Secret, read_secret_text, secret_in
from batchcancel.settings.sources import ENV_PREFIX, gather


class EngineOptions(Struct, frozen=True, kw_only=True):
    """Where Temporal is and how it lets us in."""

    address: str = "localhost:7233"
    namespace: str = "default"
    task_queue: str | None = None
    """The workers' queue; None for the one that goes by the account."""
    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    api_key: Secret | None = None
    warnings: tuple[str, ...] = ()


def load_engine_options(
    flags: Mapping[str, object],
    *,
    environ: Mapping[str, str] | None = None,
    config: str | None = None,
    profile: str | None = None,
) -> EngineOptions:
    """Gather what says where Temporal is.

    Variables of other options are left alone: a mistake in one must not keep anybody from pausing a job.

    Args:
        flags: Options by name, as the command line gave them.
        environ: The environment; the process's own by default.
        config: The configuration file, if a flag names it.
        profile: Its profile, likewise.

    Raises:
        SettingsError: A value is none that its option takes, or a file can't be used; none is shown.
    """
    try:
        return _load(os.environ if environ is None else environ, flags, config=config, profile=profile)
    except SettingsError as exc:
        # Some tools print the variables of a traceback's frames, and in there these are secret.
        raise exc.with_traceback(None) from None


def _load(
    environ: Mapping[str, str], flags: Mapping[str, object], *, config: str | None, profile: str | None
) -> EngineOptions:
    gathering = gather(_ours(environ), flags, config=config, profile=profile)
    options = Options(**gathering.values)
    return read_engine_options(options, sources=gathering.sources, warnings=gathering.warnings)


def read_engine_options(
    options: Options, *, sources: Mapping[str, str], warnings: list[str]
) -> EngineOptions:
    """Read and check what says where Temporal is.

    Args:
        options: The options as given.
        sources: Where each of them came from.
        warnings: What was warned of so far; a sentence about a lax mode is added.

    Raises:
        SettingsError: Something is contradictory, or the API key can't be used; it is not shown.
    """
    if (options.temporal_tls_cert is None) is not (options.temporal_tls_key is None):
        one = "temporal_tls_cert" if options.temporal_tls_cert else "temporal_tls_key"
        raise SettingsError(f"--tls-cert and --tls-key go together; only {sources[one]} is given.")
    api_key = _api_key(options, sources, warnings)
    return EngineOptions(
        address=options.temporal_address,
        namespace=options.temporal_namespace,
        task_queue=options.temporal_task_queue,
        tls=options.temporal_tls,
        tls_ca=_path(options.temporal_tls_ca),
        tls_cert=_path(options.temporal_tls_cert),
        tls_key=_path(options.temporal_tls_key),
        api_key=api_key,
        warnings=tuple(warnings),
    )


def _ours(environ: Mapping[str, str]) -> dict[str, str]:
    others = {f"{ENV_PREFIX}CONFIG", f"{ENV_PREFIX}PROFILE"}
    prefix = ENV_PREFIX + ENGINE_PREFIX.upper()
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(ENV_PREFIX) or name in others or name.startswith(prefix)
    }


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _api_key(options: Options, sources: Mapping[str, str], warnings: list[str]) -> Secret | None:
    refuse_both(options, sources, "temporal_api_key", "the API key")
    if options.temporal_api_key_file is not None:
        path = Path(options.temporal_api_key_file)
        source = f"{sources['temporal_api_key_file']} ({path})"
        return secret_in(path, partial(_read_key, path, source), warnings)
    if options.temporal_api_key is None:
        return None
    return Secret(_checked(options.temporal_api_key, sources["temporal_api_key"]))


def _read_key(path: Path, source: str, warnings: list[str]) -> bytes:
    return _checked(read_secret_text(path, warnings, encoding="ascii"), source)


def _checked(text: str, source: str) -> bytes:
    """Return a key as a header takes it: one line of visible ASCII."""
    key = text.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(f"{source} holds no API key: it is one line of ASCII, without spaces.")
    return key.encode()
