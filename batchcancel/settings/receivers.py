"""Who is told of a run's start and end: addresses that may hold tokens, so that they never show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from batchcancel.errors import SettingsError
from batchcancel.settings.checks import refuse_both
from batchcancel.settings.options import Options
from batchcancel.settings.secret_files import Secret, read_secret_text
from batchcancel.settings.target import classify_host, proxy_of_environment
from batchcancel.settings.words import Environment

_NAME: Final = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
_WHAT: Final = {"ping_url": "--ping-url", "notify_url": "--notify-url"}


class Receiver(Struct, frozen=True, kw_only=True):
    """One address, and the way there."""

    url: Secret
    host: str
    """All of the address that may be shown."""
    proxy: Secret | None
    """None for none. It may hold a password."""


class Receivers(Struct, frozen=True, kw_only=True):
    """Who is told; None for nobody."""

    ping: Receiver | None
    notify: Receiver | None
    warnings: tuple[str, ...] = ()


def read_receivers(options: Options, *, sources: Mapping[str, str], environ: Mapping[str, str]) -> Receivers:
    """Read and check the addresses.

    Args:
        options: The options as given.
        sources: Where each of them came from.
        environ: What proxies are read from: HTTPS_PROXY, HTTP_PROXY and NO_PROXY.

    Raises:
        SettingsError: One is no address, or in a file that can't be used; it is not shown.
    """
    warnings: list[str] = []
    return Receivers(
        ping=_receiver("ping_url", options, sources, environ, warnings),
        notify=_receiver("notify_url", options, sources, environ, warnings),
        warnings=tuple(warnings),
    )


def _receiver(
    name: str,
    options: Options,
    sources: Mapping[str, str],
    environ: Mapping[str, str],
    warnings: list[str],
) -> Receiver | None:
    refuse_both(options, sources, name, "the address")
    text: str | None = getattr(options, name)
    file: str | None = getattr(options, f"{name}_file")
    source = sources.get(name, "")
    if file:
        source = f"{sources[f'{name}_file']} ({file})"
        text = read_secret_text(Path(file), warnings, encoding="utf-8").strip()
    if text is None:
        return None
    host = _host_of(text)
    if host is None:
        raise SettingsError(f"{source} takes an http:// or https:// URL in ASCII, without spaces and #.")
    scheme = urlsplit(text).scheme.lower()
    is_loopback = classify_host(host) is Environment.SANDBOX
    if scheme == "http" and not is_loopback:
        warnings.append(f"{_WHAT[name]} calls {host} without TLS: others may read address and content.")
    proxy = None if is_loopback else proxy_of_environment(scheme, urlsplit(text).netloc, environ)
    return Receiver(
        url=Secret(text.encode()), host=host, proxy=None if proxy is None else Secret(proxy.encode())
    )


def _host_of(text: str) -> str | None:
    """Return the host's name; None for what is no address."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    is_plain = text.isascii() and text.isprintable() and not any(mark in text for mark in " #\\")
    if not is_plain or parts.scheme.lower() not in {"http", "https"} or port == 0:
        return None
    host = parts.hostname or ""
    return host if ":" in host or _NAME.fullmatch(host) else None  # IPv6 in brackets has been parsed
