"""The flags that say where Temporal is, for every command that needs it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from batchcancel.cli.help import flag
from batchcancel.errors import EngineError, SettingsError

if TYPE_CHECKING:  # its library takes a while to load, and help needs it not
    from batchcancel.cluster.connection import EngineOptions

_TASK: Final = "Where Temporal is"
_API_KEY: Final = "BATCHCANCEL_TEMPORAL_API_KEY"
_PREFIX: Final = "BATCHCANCEL_TEMPORAL_"
_NAMES: Final = ("address", "namespace", "task_queue", "tls", "tls_ca", "tls_cert", "tls_key")
ENGINE_VARIABLES: Final = frozenset(
    {f"{_PREFIX}{name.upper()}" for name in _NAMES} | {_API_KEY, f"{_API_KEY}_FILE"}
)
"""Every variable that is read here, and by no other command."""


def add_engine_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags to a command; each may also come from ``BATCHCANCEL_TEMPORAL_...``."""
    path = click.Path(path_type=Path)
    options = [
        flag(
            "--address",
            task=_TASK,
            default="localhost:7233",
            show_default=True,
            metavar="HOST:PORT",
            envvar=f"{_PREFIX}ADDRESS",
            help="where Temporal's frontend listens",
        ),
        flag(
            "--namespace",
            task=_TASK,
            default="default",
            show_default=True,
            metavar="NAME",
            envvar=f"{_PREFIX}NAMESPACE",
            help="the namespace there",
        ),
        flag(
            "--task-queue",
            task=_TASK,
            metavar="NAME",
            envvar=f"{_PREFIX}TASK_QUEUE",
            help="the workers' queue (default: by environment, host and merchant)",
        ),
        flag("--tls", task=_TASK, is_flag=True, envvar=f"{_PREFIX}TLS", help="use TLS, with public roots"),
        flag(
            "--tls-ca",
            task=_TASK,
            type=path,
            metavar="FILE",
            envvar=f"{_PREFIX}TLS_CA",
            help="the server's root, PEM",
        ),
        flag(
            "--tls-cert",
            task=_TASK,
            type=path,
            metavar="FILE",
            envvar=f"{_PREFIX}TLS_CERT",
            help="our certificate, PEM",
        ),
        flag(
            "--tls-key",
            task=_TASK,
            type=path,
            metavar="FILE",
            envvar=f"{_PREFIX}TLS_KEY",
            help="its private key, PEM",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def take_engine_options(flags: dict[str, Any]) -> EngineOptions:
    """Take the flags of ``add_engine_flags`` out of a command's, and add the API key from the environment.

    Raises:
        EngineError: The library for Temporal is not installed.
        SettingsError: The API key's file can't be used.
    """
    given = {name: flags.pop(name) for name in _NAMES}
    try:
        from batchcancel.cluster.connection import EngineOptions  # noqa: PLC0415 - slow, and of an extra
    except ModuleNotFoundError as exc:
        _say_what_is_missing(exc)
    return EngineOptions(**given, api_key=_read_api_key())


def _say_what_is_missing(exc: ModuleNotFoundError) -> NoReturn:
    if (exc.name or "").partition(".")[0] != "temporalio":
        raise exc
    raise EngineError(
        "Many hosts need the library for Temporal, which is not installed: pip install 'batchcancel[cluster]'"
    ) from None


def _read_api_key() -> Any:  # noqa: ANN401 - a Secret, or None
    from batchcancel.settings.secret_files import Secret, read_secret_text  # noqa: PLC0415 - help is quick

    named, file = os.environ.get(_API_KEY), os.environ.get(f"{_API_KEY}_FILE")
    if named and file:
        raise SettingsError(f"{_API_KEY} and {_API_KEY}_FILE are both set: leave one out.")
    if file:
        named = read_secret_text(Path(file), [], encoding="ascii").strip()
    return Secret(named.encode()) if named else None
