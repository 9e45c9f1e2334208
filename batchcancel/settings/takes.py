"""What an option takes, in words: for messages and for the pages about it."""

from __future__ import annotations

from enum import EnumType, StrEnum
from typing import cast, get_args

from msgspec import inspect

from batchcancel.settings.options import HINTS


def choices(name: str) -> list[str]:
    """Return the words that an option takes; none if it takes something else."""
    hint = get_args(HINTS[name])[0]
    kinds = get_args(hint) or (hint,)
    return [str(word) for kind in kinds if isinstance(kind, EnumType) for word in cast("type[StrEnum]", kind)]


def allowed(name: str) -> str:
    """Say in words what an option takes: its choices, or its type and bounds."""
    # Every option has a description, which msgspec keeps round the type itself.
    kind = cast("inspect.Metadata", inspect.type_info(HINTS[name])).type
    if isinstance(kind, inspect.UnionType):  # with None, which nobody can write
        kind = next(member for member in kind.types if not isinstance(member, inspect.NoneType))
    match kind:
        case inspect.EnumType():
            *choices, last = [str(choice.value) for choice in kind.cls]
            words = f"{', '.join(choices)} or {last}"
        case inspect.BoolType():
            words = "true or false"
        case inspect.IntType():
            words = f"a whole number {_range(kind)}"
        case inspect.FloatType():
            words = f"a number {_range(kind)}"
        case inspect.StrType(max_length=int(longest)):
            words = f"a text of 1 to {longest} characters"
        case inspect.StrType():
            words = "a text that is not empty"
        case _:
            words = "a list of texts"
    return words


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    return (
        f"above {kind.gt:g}, at most {kind.le:,.12g}"
        if kind.gt is not None
        else f"from {kind.ge:g} to {kind.le:,.12g}"
    )
