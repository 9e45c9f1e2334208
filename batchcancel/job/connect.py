"""What a run calls: the host with its client, or the simulator in this process."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from pathlib import Path

from batchcancel.api import Client, ServiceClock
from batchcancel.api.observation import Observation
from batchcancel.job.keys import Keys
from batchcancel.model import Event
from batchcancel.settings import Settings


async def base_url_of(
    settings: Settings,
    *,
    merchants: Collection[str | None],
    resources: AsyncExitStack,
    simulated_invoices: int = 0,
) -> str:
    """Return the address that is called; start the simulator first where it is the one.

    Args:
        settings: What to call.
        merchants: Whose rows there are, for a simulator that is started; None is the run's own merchant.
        resources: Owns a simulator that is started.
        simulated_invoices: How many made-up invoices it begins with.
    """
    if settings.base_url is not None:
        return settings.base_url
    from batchcancel import sandbox  # noqa: PLC0415 - only where it is used

    options = sandbox.SandboxOptions(invoices=simulated_invoices)
    if settings.options.merchant_column is not None:
        portfolio_id = sandbox.SANDBOX_PORTFOLIO_ID
        options = sandbox.SandboxOptions(
            merchant_id=portfolio_id,
            portfolio_id=portfolio_id,
            merchants=tuple(sorted(merchant_id for merchant_id in merchants if merchant_id is not None)),
        )
    server = await resources.enter_async_context(sandbox.Sandbox(options))
    return server.base_url


def build_client(
    settings: Settings,
    keys: Keys,
    base_url: str,
    clock: ServiceClock,
    *,
    is_read_only: bool = False,
    on_event: Callable[[Event], None],
    on_observation: Callable[[Observation], None] | None = None,
) -> Client:
    """Build the client that everything is sent through; nothing is opened.

    Raises:
        SettingsError: The file of private roots can't be used.
    """
    options = settings.options
    return Client(
        base_url=base_url,
        signer=keys.signer,
        encryption=keys.encryption,
        key_files=keys.files,
        clock=clock,
        concurrency=options.concurrency,
        timeout_s=options.timeout,
        ca_file=Path(options.ca_file) if options.ca_file else None,
        proxy=settings.proxy,
        is_read_only=is_read_only,
        on_event=on_event,
        on_observation=on_observation,
    )
