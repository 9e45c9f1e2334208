"""What a run calls: the host with its client, or the simulator in this process."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from batchcancel.api import Client, Credentials, HttpSignatureSigner, JwtSigner, ServiceClock, Signer
from batchcancel.model import Event
from batchcancel.settings import Auth, Settings


async def base_url_of(settings: Settings, resources: AsyncExitStack) -> str:
    """Return the address that is called; start the simulator first where it is the one.

    Args:
        settings: What to call.
        resources: Owns a simulator that is started.
    """
    if settings.base_url is not None:
        return settings.base_url
    from batchcancel.sandbox import Sandbox, SandboxOptions  # noqa: PLC0415 - only where it is used

    sandbox = await resources.enter_async_context(Sandbox(SandboxOptions()))
    return sandbox.base_url


def build_client(
    settings: Settings, base_url: str, clock: ServiceClock, on_event: Callable[[Event], None]
) -> Client:
    """Build the client that a run sends everything through; nothing is opened.

    Raises:
        SettingsError: The file of private roots can't be used.
    """
    options = settings.options
    return Client(
        base_url=base_url,
        signer=_signer(settings),
        clock=clock,
        concurrency=options.concurrency,
        timeout_s=options.timeout,
        ca_file=Path(options.ca_file) if options.ca_file else None,
        proxy=settings.proxy,
        on_event=on_event,
    )


def credentials_of(settings: Settings) -> Credentials:
    """Return the credentials that were given, or the simulator's made-up ones."""
    given = settings.credentials
    if given is not None:
        return Credentials(
            merchant_id=given.merchant_id,
            key_id=given.key_id,
            secret=given.secret.reveal(),
            portfolio_id=given.portfolio_id,
        )
    from batchcancel import sandbox  # noqa: PLC0415 - only where it is used

    return Credentials(
        merchant_id=sandbox.SANDBOX_MERCHANT_ID,
        key_id=sandbox.SANDBOX_KEY_ID,
        secret=base64.b64decode(sandbox.SANDBOX_SECRET),
    )


def _signer(settings: Settings) -> Signer:
    match settings.options.auth:
        case Auth.JWT:
            return JwtSigner(credentials_of(settings))
        case Auth.HTTP_SIGNATURE:
            return HttpSignatureSigner(credentials_of(settings))
