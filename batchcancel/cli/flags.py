"""The flags of ``Options``, for every command that takes some of them, and those that choose their file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from types import UnionType
from typing import Any, Final, get_args, get_origin

from msgspec import Meta

from batchcancel.cli.help import complete_path, flag
from batchcancel.cli.mistakes import Word
from batchcancel.settings.options import HINTS, Options, Task, flag_of


def _flags() -> tuple[str, ...]:
    tasks = list(Task)
    extras = {name: get_args(HINTS[name])[1].extra for name in Options.__struct_fields__}
    names = [name for name, extra in extras.items() if extra["flag"]]
    return tuple(sorted(names, key=lambda name: tasks.index(extras[name]["task"])))


FLAGS: Final = _flags()
"""Every option that has a flag: by what it is for, then in the order of ``Options``."""
_PATHS: Final = frozenset({"PATH", "FILE"})
"""What a flag's value is called where it is a path."""

CHOOSE_FILE: Final = ("config", "profile")
"""The flags that say where the other options may come from; every command with options has them."""
_FILE: Final = "Where the other options come from"
_CONFIG: Final = flag(
    "--config",
    task=_FILE,
    metavar="FILE",
    shell_complete=complete_path,
    help="the configuration file (default: batchcancel.toml here, else in ~/.config/batchcancel)",
)
_PROFILE: Final = flag(
    "--profile",
    task=_FILE,
    metavar="NAME",
    help="the table [profile.NAME] of the configuration file, over its top level",
)


def add_flags(names: Collection[str] = FLAGS) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add flags to a command; their values go on as text, which the settings convert and check.

    ``--config`` and ``--profile``, which say where the other values may come from, are always added.

    Args:
        names: Which of ``FLAGS``; they come in their order.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        command = _PROFILE(command)
        command = _CONFIG(command)
        for name in reversed([one for one in FLAGS if one in names]):
            command = option(name)(command)
        return command

    return add


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags that were given: one without a value that was not said is no ``false``."""
    return {name: value for name, value in flags.items() if value is not False}


def option(name: str, *, task: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what adds the flag of one option to a command.

    Args:
        name: Of the option.
        task: The section of the help, for one that does not say it by itself.
    """
    hint, meta = get_args(HINTS[name])
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kind = kinds[0]
    extra = meta.extra or {}
    attributes: dict[str, Any] = {"default": None, "help": _help(name, meta), "task": task or extra["task"]}
    if kind is bool:
        attributes["is_flag"] = True
    elif isinstance(kind, type) and issubclass(kind, StrEnum):
        attributes["type"] = Word([str(choice) for choice in kind])
    else:
        attributes |= {"metavar": extra["metavar"], "multiple": get_origin(kind) is tuple}
    if extra["metavar"] in _PATHS:
        attributes["shell_complete"] = complete_path
    return flag(flag_of(name), name, **attributes)


def _help(name: str, meta: Meta) -> str:
    default = Options.__struct_defaults__[Options.__struct_fields__.index(name)]
    shown = f" (default: {default:g})" if isinstance(default, int | float) and default is not False else ""
    if isinstance(default, str):
        shown = f" (default: {default})"
    return f"{meta.description}{shown}".replace(") (", "; ")
