"""The flags that say where Temporal is, for every command that needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from batchcancel.cli import say
from batchcancel.cli.flags import CHOOSE_FILE, given, option
from batchcancel.errors import EngineError
from batchcancel.settings.options import ENGINE, SECRETS

if TYPE_CHECKING:
    from batchcancel.settings.engine import EngineOptions

_TASK: Final = "Where Temporal is"
_FLAGS: Final = tuple(name for name in ENGINE if name.removesuffix("_file") not in SECRETS)


def add_engine_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags to a command; each has a variable and a key as well, as other options have."""
    for name in reversed(_FLAGS):
        command = option(name, task=_TASK)(command)
    return command


def take_engine_options(flags: dict[str, Any]) -> EngineOptions:
    """Take the flags of ``add_engine_flags`` out of a command's, and add what variables and the file say.

    Args:
        flags: Of the command, with those that choose the file.

    Raises:
        EngineError: The library for Temporal is not installed.
        SettingsError: A value is none that its option takes, or a file can't be used.
    """
    from batchcancel.settings.engine import load_engine_options  # noqa: PLC0415 - help has to be quick

    ours = given({name: flags.pop(name) for name in _FLAGS})
    _ensure_library()
    options = load_engine_options(ours, **{name: flags[name] for name in CHOOSE_FILE})
    for warning in options.warnings:
        say(f"Warning: {warning}", fg="yellow")
    return options


def _ensure_library() -> None:
    try:
        import batchcancel.cluster.connection  # noqa: F401, PLC0415 - slow, and of an extra
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != "temporalio":
            raise
        raise EngineError(
            "Many hosts need the library for Temporal, which is not installed: "
            "pip install 'batchcancel[cluster]'"
        ) from None
