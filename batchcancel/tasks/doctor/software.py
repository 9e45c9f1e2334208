"""What is installed."""

from __future__ import annotations

import platform
import re
import ssl
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Final

from batchcancel.tasks.doctor.checks import Check, ok, skip

_OF_EXTRA: Final = re.compile(r"""(?P<name>[A-Za-z0-9._-]+).*;.*extra == ['"](?P<extra>[\w-]+)['"]""")
_FOR_DEVELOPERS: Final = frozenset({"bench", "test"})


def check_software() -> Iterator[Check]:
    """Tell which versions are at work, and which extras are there."""
    loop = _version_of("uvloop")
    yield ok(
        "software",
        f"batchcancel {version('batchcancel')}, Python {platform.python_version()}, {ssl.OPENSSL_VERSION}, "
        + (f"uvloop {loop}" if loop else "Python's own event loop: uvloop is not installed"),
    )
    for extra, libraries in sorted(extras_of(requires("batchcancel") or []).items()):
        missing = [name for name in libraries if _version_of(name) is None]
        if missing:
            yield skip(f"extra {extra}", f"not installed: {', '.join(missing)} missing")
        else:
            yield ok(f"extra {extra}", ", ".join(f"{name} {_version_of(name)}" for name in libraries))


def extras_of(requirements: list[str]) -> dict[str, list[str]]:
    """Return the libraries of each extra that is for users, from the lines of a package's metadata."""
    found: dict[str, list[str]] = {}
    for line in requirements:
        match = _OF_EXTRA.match(line)
        if match is not None and match["extra"] not in _FOR_DEVELOPERS:
            found.setdefault(match["extra"], []).append(match["name"])
    return found


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
