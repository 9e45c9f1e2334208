"""The flags of ``Options``, for every command that takes some of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from types import UnionType
from typing import Any, Final, get_args, get_origin

import click
from msgspec import Meta

from batchcancel.settings.options import HINTS, Options

FLAGS: Final = tuple(name for name in Options.__struct_fields__ if get_args(HINTS[name])[1].extra["flag"])
"""Every option that has a flag."""


def add_flags(names: Collection[str] = FLAGS) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add flags to a command; their values go on as text, which the settings convert and check.

    Args:
        names: Which of ``FLAGS``; they come in the order of ``Options``.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed([flag for flag in FLAGS if flag in names]):
            hint, meta = get_args(HINTS[name])
            command = _option(name, hint, meta)(command)
        return command

    return add


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags that were given: one without a value that was not said is no ``false``."""
    return {name: value for name, value in flags.items() if value is not False}


def _option(name: str, hint: Any, meta: Meta) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # noqa: ANN401
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
