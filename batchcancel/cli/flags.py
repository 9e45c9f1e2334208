"""The flags of every command that takes the options of a run."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from types import UnionType
from typing import Any, get_args, get_origin

import click
from msgspec import Meta

from batchcancel.settings.options import HINTS, Options


def settings_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add every flag of ``Options`` to a command, in their order, and what chooses their file."""
    command = click.option(
        "--profile",
        metavar="NAME",
        help="the table [profile.NAME] of the configuration file, over its top level",
    )(command)
    command = click.option(
        "--config",
        metavar="FILE",
        help="the configuration file (default: batchcancel.toml here, else in ~/.config/batchcancel)",
    )(command)
    for name in reversed(Options.__struct_fields__):
        hint, meta = get_args(HINTS[name])
        if not meta.extra["flag"]:
            continue
        command = _option(name, hint, meta)(command)
    return command


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that stand on the command line; a switch that is off was not given."""
    return {name: value for name, value in flags.items() if value is not False}


def _option(name: str, hint: Any, meta: Meta) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # noqa: ANN401
    """Make one flag; its value goes on as text, settings convert and check it."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kind = kinds[0]
    flag = "--" + name.replace("_", "-")
    given: dict[str, Any] = {"default": None, "help": _help(name, meta)}
    if kind is bool:
        given["is_flag"] = True
    elif get_origin(kind) is tuple:
        given |= {"multiple": True, "metavar": (meta.extra or {})["metavar"]}
    elif isinstance(kind, type) and issubclass(kind, StrEnum):
        given["type"] = click.Choice([str(choice) for choice in kind])
    else:
        given["metavar"] = (meta.extra or {})["metavar"]
    return click.option(flag, name, **given)


def _help(name: str, meta: Meta) -> str:
    default = Options.__struct_defaults__[Options.__struct_fields__.index(name)]
    shown = f" (default: {default:g})" if isinstance(default, int | float) and default is not False else ""
    if isinstance(default, str):
        shown = f" (default: {default})"
    return f"{meta.description}{shown}"
