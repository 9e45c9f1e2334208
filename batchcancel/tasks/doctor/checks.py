"""The words of ``doctor``: what was looked at, how it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from msgspec import Struct


class Grade(StrEnum):
    """How something is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    """It could not be looked at, or there is nothing to look at."""


class Check(Struct, frozen=True, kw_only=True):
    """One thing that was looked at. Nothing secret is in it."""

    name: str
    grade: Grade
    found: str
    """One line, a fact or a sentence."""
    todo: str | None = None
    """What to do about it, a sentence; None if there is nothing to do."""


Tell = Callable[[Check], object]
"""Is told of each check as soon as it is made."""


def ok(name: str, found: str, todo: str | None = None) -> Check:
    """Say that something is well."""
    return Check(name=name, grade=Grade.OK, found=found, todo=todo)


def warn(name: str, found: str, todo: str | None = None) -> Check:
    """Say that something works and should be looked after."""
    return Check(name=name, grade=Grade.WARN, found=found, todo=todo)


def fail(name: str, found: str, todo: str | None = None) -> Check:
    """Say that something has to be mended."""
    return Check(name=name, grade=Grade.FAIL, found=found, todo=todo)


def skip(name: str, found: str) -> Check:
    """Say why something was not looked at."""
    return Check(name=name, grade=Grade.SKIP, found=found)
