"""All checks, from cheap to far; what can't be looked at is skipped, with the reason."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from batchcancel.api import ServiceClock
from batchcancel.errors import GateRefusedError, SettingsError
from batchcancel.job.connect import base_url_of, build_client
from batchcancel.job.keys import load_keys
from batchcancel.settings import Environment, Mle, Options, Settings, load_settings
from batchcancel.tasks.doctor.checks import Check, Grade, Tell, fail, ok, skip
from batchcancel.tasks.doctor.configuration import (
    Target,
    check_credentials,
    check_proxy,
    check_sources,
    check_target,
)
from batchcancel.tasks.doctor.keys import check_key_files, check_modes, check_roots, check_secret
from batchcancel.tasks.doctor.ledger import check_ledger
from batchcancel.tasks.doctor.live import LiveCheck, State
from batchcancel.tasks.doctor.network import NAMES as NETWORK
from batchcancel.tasks.doctor.network import Way, check_network
from batchcancel.tasks.doctor.service import NAMES as SERVICE
from batchcancel.tasks.doctor.service import Sightings, judge_read, read_signed
from batchcancel.tasks.doctor.software import check_software

_MOST_CONNECT_S: Final = 10.0
_LIVE: Final = "live check"
_MEND_FIRST: Final = "the settings have to be mended first"


class Examination:
    """Looks at everything that a run needs.

    Args:
        environ: The environment.
        flags: Options by name, and what ``--config`` and ``--profile`` say; None counts as not given.
        with_live_check: Whether invoices may be created, and canceled again.
        tell: Told of each check as soon as it is made.
    """

    def __init__(
        self, environ: Mapping[str, str], flags: Mapping[str, Any], *, with_live_check: bool, tell: Tell
    ) -> None:
        self.checks: list[Check] = []
        self.target: Target | None = None
        """What is called; None if that is not known."""
        self.settings: Settings | None = None
        """What a run would use; None if it could not begin with that."""
        self.live_check: LiveCheck | None = None
        """None unless it has begun."""
        self._environ = environ
        self._flags = flags
        self._with_live_check = with_live_check
        self._tell = tell
        self._far = (*NETWORK, *SERVICE, *([_LIVE] if with_live_check else []))

    @property
    def counts(self) -> dict[str, int]:
        """How many checks have each grade, every grade included."""
        counts = Counter(check.grade for check in self.checks)
        return {grade.value: counts[grade] for grade in Grade}

    @property
    def has_finding(self) -> bool:
        """Whether there is anything to mend, or a fact about the service that is none."""
        is_refuted = self.live_check is not None and not self.live_check.is_as_assumed
        return is_refuted or self._has_failed()

    async def run(self) -> None:
        """Make the checks, and the live check if it was asked for.

        When it is cancelled during a live check, what that has created is canceled first.

        Raises:
            GateRefusedError: A live check was to be made in production; nothing was sent.
        """
        self._note(check_software())
        options = check_sources(self._environ, self._flags, lambda check: self._note([check]))
        proxy = None
        if options is not None:
            proxy = self._check_options(options)
        named = self._flags.get("ledger") or (options.ledger if options else None)
        self._note([check_ledger(named)])
        if options is None or self.target is None or self._is_failed("roots"):
            self._skip(self._far, _MEND_FIRST)
            return
        async with AsyncExitStack() as resources:
            await self._go_out(options, self.target, proxy, resources)

    def _check_options(self, options: Options) -> str | None:
        """Check what was given, without leaving this machine; return the proxy."""
        proxy = None
        self.target, check = check_target(options)
        if self.target is not None:
            self._refuse_production(self.target)
        self._note([check])
        if self.target is not None:
            proxy, check = check_proxy(options, self.target, self._environ)
            self._note([check])
        check = check_credentials(options, self.target)
        self._note([check])
        if check.grade is Grade.OK:
            self._note([check_secret(options)])
            self._note(check_modes(options))
        self._note(check_roots(options))
        try:
            self.settings = load_settings((), environ=self._environ, for_run=False, **self._flags)
        except SettingsError as exc:
            if not self._has_failed():  # else it is what was told just now
                self._note([fail("options", str(exc))])
            return proxy
        self._note(check_key_files(self.settings))
        if self._is_failed("key files") or self._is_failed("roots"):
            self.settings = None
        return proxy

    def _refuse_production(self, target: Target) -> None:
        if self._with_live_check and target.environment is Environment.PRODUCTION:
            raise GateRefusedError(
                "--live-check creates invoices, so it is for test hosts and loopback only, and "
                f"{target.base_url} is production. Nothing was sent."
            )

    async def _go_out(
        self, options: Options, target: Target, proxy: str | None, resources: AsyncExitStack
    ) -> None:
        base_url = target.base_url
        if self.settings is not None:
            base_url = await base_url_of(self.settings, merchants=(), resources=resources)
        if base_url is None:  # a simulator that nobody can start
            self._skip(self._far, _MEND_FIRST)
            return
        way = Way(
            base_url=base_url,
            proxy=proxy,
            ca_file=Path(options.ca_file) if options.ca_file else None,
            timeout_s=min(_MOST_CONNECT_S, options.timeout),
        )
        before = len(self.checks)
        async for check in check_network(way):
            self._note([check])
        if any(check.grade is Grade.FAIL for check in self.checks[before:]):
            self._skip(self._far[len(NETWORK) :], "the host can't be reached")
        elif self.settings is None:
            self._skip(self._far[len(NETWORK) :], _MEND_FIRST)
        else:
            await self._ask_service(self.settings, base_url, resources)

    async def _ask_service(self, settings: Settings, base_url: str, resources: AsyncExitStack) -> None:
        """Send a signed read, by a client that can't send anything else; then the live check."""
        keys, clock, sightings = load_keys(settings), ServiceClock(time.time), Sightings()
        is_live = self._with_live_check
        client = await resources.enter_async_context(
            build_client(
                settings,
                keys,
                base_url,
                clock,
                is_read_only=not is_live,
                on_event=lambda _event: None,
                on_observation=sightings,
            )
        )
        checks = judge_read(await read_signed(client, sightings), settings.options)
        self._note(checks)
        if not is_live:
            return
        if any(check.grade is Grade.FAIL for check in checks):
            self._skip([_LIVE], "the signed read has to be accepted first")
            return
        self.live_check = LiveCheck(
            client,
            sightings,
            now=clock.now,
            makes_up_invoices=settings.environment is Environment.SANDBOX,
            wants_encrypted=settings.options.mle is Mle.BOTH,
        )
        try:
            await self.live_check.run()
        finally:  # whoever interrupts it has to know what is left
            self._note([_judge_live(self.live_check)])

    def _note(self, checks: Iterable[Check]) -> None:
        for check in checks:
            self.checks.append(check)
            self._tell(check)

    def _skip(self, names: Iterable[str], why: str) -> None:
        self._note(skip(name, why) for name in names)

    def _has_failed(self) -> bool:
        return any(check.grade is Grade.FAIL for check in self.checks)

    def _is_failed(self, name: str) -> bool:
        return any(check.grade is Grade.FAIL and check.name == name for check in self.checks)


def _judge_live(live: LiveCheck) -> Check:
    """Say how a live check went; the facts are told by themselves."""
    if live.left:
        return fail(
            _LIVE,
            f"{len(live.left)} of the invoices that it made could not be canceled: "
            f"{', '.join(one.id for one in live.left)}.",
            "Look at them, and cancel them by hand.",
        )
    if live.problem is not None:
        return fail(_LIVE, live.problem)
    made = sum(one.state is State.CANCELED for one in live.made)
    return ok(_LIVE, f"{made} invoices were created, and all are canceled again")
