"""Where the settings come from, what is called, and whether credentials are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct

from batchcancel.errors import SettingsError
from batchcancel.report.words import printable
from batchcancel.settings import Environment, Options
from batchcancel.settings.config_file import config_candidates
from batchcancel.settings.credentials import check_complete
from batchcancel.settings.sources import ENV_PREFIX, Gathering
from batchcancel.settings.target import find_proxy, find_target
from batchcancel.tasks.doctor.checks import Check, Tell, fail, ok, skip, warn

_NAMES_OF_PROXIES: Final = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")


class Target(Struct, frozen=True, kw_only=True):
    """What is called."""

    environment: Environment
    base_url: str | None
    """None for the simulator in this process."""

    @property
    def host(self) -> str:
        """The name of the host that is called."""
        return urlsplit(self.base_url).hostname or "" if self.base_url else "simulator"


def check_sources(environ: Mapping[str, str], flags: Mapping[str, Any], tell: Tell) -> Options | None:
    """Read file, environment and flags as a run does; each by itself, for one of them may be broken.

    Args:
        environ: The environment.
        flags: Options by name, and what ``--config`` and ``--profile`` say; None counts as not given.
        tell: Told of each check.

    Returns:
        The options; None if a source can't be used.
    """
    gathering, is_whole = Gathering(), True
    chosen = {name: flags.get(name) for name in ("config", "profile")}
    try:
        gathering.read_file(environ, **chosen)
        tell(ok("configuration", _file(gathering, environ)))
    except SettingsError as exc:
        is_whole = False
        tell(fail("configuration", str(exc)))
    for warning in gathering.warnings:
        tell(warn("configuration", warning))
    gathering.warnings.clear()
    try:
        gathering.read_environment(environ)
        tell(ok("environment", _variables(environ)))
    except SettingsError as exc:
        is_whole = False
        tell(fail("environment", f"{exc} Set are {_variables(environ)}."))
    for warning in gathering.warnings:
        tell(warn("environment", printable(warning)))
    try:
        gathering.read_flags({name: value for name, value in flags.items() if name not in chosen})
    except SettingsError as exc:
        is_whole = False
        tell(fail("flags", str(exc)))
    if not is_whole:
        return None
    origins = ", ".join(f"{name} from {where}" for name, where in gathering.sources.items())
    tell(ok("options", origins or "all at their defaults"))
    return Options(**gathering.values)


def _file(gathering: Gathering, environ: Mapping[str, str]) -> str:
    if gathering.file is None:
        return f"no file; looked for {' and '.join(map(str, config_candidates(environ)))}"
    profile = "no profile" if gathering.profile is None else f"profile {gathering.profile}"
    return f"{gathering.file.path}, {profile}"


def _variables(environ: Mapping[str, str]) -> str:
    """List the variables that are set by their names; their values may be secret."""
    names = [
        printable(name)
        for name, value in sorted(environ.items())
        if value and (name.startswith(ENV_PREFIX) or name in _NAMES_OF_PROXIES)
    ]
    return ", ".join(names) or "no variable of batchcancel"


def check_target(options: Options) -> tuple[Target | None, Check]:
    """Find out what is called, and which gates that has."""
    try:
        environment, base_url = find_target(options)
    except SettingsError as exc:
        return None, fail("target", str(exc))
    if base_url is None:
        found = "the simulator in this process"
    elif environment is Environment.PRODUCTION:
        found = f"{base_url} is production: a run asks for the number of invoices, or for --yes"
    else:
        found = f"{base_url} is {environment} by its host, and --env agrees: a run asks for no number"
    return Target(environment=environment, base_url=base_url), ok("target", found)


def check_proxy(options: Options, target: Target, environ: Mapping[str, str]) -> tuple[str | None, Check]:
    """Find out which proxy is used; its user and password are not told."""
    try:
        proxy = find_proxy(options, target.base_url, target.environment, environ)
    except SettingsError as exc:
        return None, fail("proxy", str(exc))
    if proxy is None:
        is_loopback = target.environment is Environment.SANDBOX
        return None, ok("proxy", "none: loopback is never called through one" if is_loopback else "none")
    parts = urlsplit(proxy)
    where = parts.hostname if parts.port is None else f"{parts.hostname} port {parts.port}"
    return proxy, ok("proxy", f"{where}, from {'BATCHCANCEL_PROXY' if options.proxy else 'HTTPS_PROXY'}")


def check_credentials(options: Options, target: Target | None) -> Check:
    """See whether everything is there that the chosen way to sign needs."""
    if target is not None and target.base_url is None:
        return skip("credentials", "the simulator in this process has made-up ones")
    try:
        check_complete(options)
    except SettingsError as exc:
        return fail("credentials", str(exc))
    whose = "a portfolio" if options.portfolio_id else "the merchant"
    return ok("credentials", f"complete: auth {options.auth}, the key of {whose}, mle {options.mle}")
