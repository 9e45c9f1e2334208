"""What is called: environment, host and proxy."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from batchcancel.errors import SettingsError
from batchcancel.settings.options import Options
from batchcancel.settings.words import Environment

MISSING_ENV: Final = (
    "Say what is called: --env sandbox (the built-in simulator), --env test or --env production."
)

_HOST_AND_PORT: Final = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")
_TEST_HOSTS: Final = frozenset({"apitest.visaacceptance.com", "apitest.cybersource.com"})
DEFAULT_URLS: Final = {
    Environment.TEST: "https://apitest.visaacceptance.com",
    Environment.PRODUCTION: "https://api.visaacceptance.com",
}


def find_target(options: Options) -> tuple[Environment, str | None]:
    """Find out what host is called and what that host is."""
    if options.env is None:
        raise SettingsError(MISSING_ENV)
    if options.base_url is None:
        return options.env, DEFAULT_URLS.get(options.env)
    url = check_url(options.base_url)
    environment = classify_host(urlsplit(url).hostname or "")
    if environment is not options.env:
        raise SettingsError(
            f"--env {options.env} and {url} disagree: that host is {environment}. "
            f"Say --env {environment} if that is what you want."
        )
    return environment, url


def check_url(text: str) -> str:
    """Return ``--base-url`` without a slash at its end.

    Raises:
        SettingsError: It is no URL of a host alone, or plain http to another machine.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise SettingsError("--base-url is no URL; write it as https://HOST or https://HOST:PORT.") from None
    is_bare = parts.path in {"", "/"} and not any(mark in text for mark in "?#")
    is_host = _HOST_AND_PORT.fullmatch(parts.netloc) and port != 0
    if parts.scheme not in {"http", "https"} or not parts.hostname or not is_bare or not is_host:
        raise SettingsError("--base-url takes https://HOST or https://HOST:PORT and nothing more.")
    if parts.scheme == "http" and classify_host(parts.hostname) is not Environment.SANDBOX:
        raise SettingsError(
            f"--base-url: plain http is accepted for loopback only, not for {parts.hostname}; use https."
        )
    return f"{parts.scheme}://{parts.netloc}"


def classify_host(host: str) -> Environment:
    """Tell what a host is: loopback is sandbox, two known hosts are test, every other is production."""
    name = host.lower().rstrip(".")
    try:
        is_loopback = name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        is_loopback = False
    if is_loopback:
        return Environment.SANDBOX
    return Environment.TEST if name in _TEST_HOSTS else Environment.PRODUCTION


def find_proxy(
    options: Options, base_url: str | None, environment: Environment, environ: Mapping[str, str]
) -> str | None:
    """Return the proxy that was set, else what HTTPS_PROXY and NO_PROXY say of the host.

    Loopback is never called through a proxy: it would be the proxy's own.

    Raises:
        SettingsError: The proxy is no URL; it is not shown, for it may hold a password.
    """
    if base_url is None or environment is Environment.SANDBOX:
        return None
    proxy = options.proxy or proxy_of_environment("https", urlsplit(base_url).netloc, environ)
    if proxy is None:
        return None
    try:
        parts = urlsplit(proxy)
        is_proxy = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_proxy = False
    if not is_proxy:
        raise SettingsError("The proxy has to be an http:// or https:// URL with a host.")
    return proxy


def proxy_of_environment(scheme: str, host_and_port: str, environ: Mapping[str, str]) -> str | None:
    """Return what HTTPS_PROXY or HTTP_PROXY, and NO_PROXY, say of a host; None for no proxy.

    Args:
        scheme: ``https`` or ``http``.
        host_and_port: As they stand in an address.
        environ: The environment.
    """
    # Slow, and --help needs it not; public, though typeshed leaves it out.
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # noqa: PLC0415

    def value(name: str) -> str:
        return environ.get(name) or environ.get(name.upper()) or ""

    if proxy_bypass_environment(host_and_port, {"no": value("no_proxy")}):
        return None
    return value(f"{scheme}_proxy") or None
