"""Everything that is opened and checked before a run may begin. Nothing is sent."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import Struct

from batchcancel.errors import LedgerMismatchError
from batchcancel.gates import check_count, check_free_space
from batchcancel.job.planned import open_plan
from batchcancel.job.selection import standing_of
from batchcancel.ledger import History, Ledger
from batchcancel.ledger.plan import Plan
from batchcancel.manifest import (
    Check,
    Format,
    Manifest,
    ManifestOptions,
    open_manifest,
    read_excluded_ids,
)
from batchcancel.model import MatchField
from batchcancel.settings import Settings

_MOST_REPEATED: Final = 512
"""Most POSTs that a run after a kill may repeat: requests in flight, invoices in doubt, rows not on disk."""


class Opened(Struct, frozen=True, kw_only=True):
    """What a run works on."""

    ledger: Ledger
    manifest: Manifest
    check: Check
    plan: Plan | None
    """What is known already, and fresh enough; None without."""
    max_in_doubt: int
    """Invoices that may wait while the service may have acted on them."""


async def open_all(settings: Settings, *, merchant_id: str, resources: AsyncExitStack) -> Opened:
    """Open and lock the ledger, open and check the manifests, and hold both against the gates.

    Args:
        settings: What to do.
        merchant_id: The run's own merchant: whose invoices they are where no row says so.
        resources: Closes what is opened.

    Raises:
        UsageError: A manifest can't be read or is not what was expected, or the ledger is another
            environment's or merchant's.
        LedgerInUseError: Another run holds the ledger.
        LedgerFaultError: The ledger can't be opened, is damaged, or has no room for the rows to come.
    """
    options, folder = settings.options, settings.ledger.parent
    max_pending = (_MOST_REPEATED - options.concurrency) // 2
    ledger = await resources.enter_async_context(await Ledger.open(settings.ledger, max_pending=max_pending))
    manifest, check = await open_checked(
        settings, merchant_id=merchant_id, history=ledger.history, spool_dir=folder, resources=resources
    )
    plan = await open_plan(settings, check=check, merchant_id=merchant_id, resources=resources)
    space = os.statvfs(settings.ledger.resolve().parent)  # a link may lead to another file system
    if space.f_blocks:  # some file systems don't tell
        check_free_space(
            space.f_bavail * space.f_frsize,
            rows=min(check.open, options.limit or check.open)
            + (check.to_settle - check.open)
            + check.duplicates
            + check.excluded,
            folder=str(folder),
        )
    return Opened(
        ledger=ledger,
        manifest=manifest,
        check=check,
        plan=plan,
        max_in_doubt=_MOST_REPEATED - options.concurrency - max_pending,
    )


async def open_checked(
    settings: Settings,
    *,
    merchant_id: str,
    history: History | None,
    spool_dir: Path,
    resources: AsyncExitStack,
) -> tuple[Manifest, Check]:
    """Open and check the manifests against what a ledger knows, and hold their count against its gate.

    Args:
        settings: What to do.
        merchant_id: The own merchant: whose invoices they are where no row says so.
        history: What the ledger knows, whose reasons are closed here; None where there is no ledger yet.
        spool_dir: Where unnamed files may lie.
        resources: Closes what is opened.

    Raises:
        UsageError: A manifest can't be read or is not what was expected, or the ledger is another
            environment's or merchant's.
    """
    options = settings.options
    if history is not None:
        _check_identity(history, settings, merchant_id)
    manifest = await resources.enter_async_context(
        open_manifest(
            settings.manifests,
            options=_manifest_options(settings, own_merchant_id=merchant_id),
            spool_dir=spool_dir,
        )
    )
    excluded: frozenset[str] = frozenset()
    if options.exclude is not None:
        excluded = await read_excluded_ids(options.exclude, encoding=options.encoding, spool_dir=spool_dir)
    check = await manifest.check(
        standing_of=partial(standing_of, options.retry_errors),
        reasons=None if history is None else history.reasons,
        excluded=excluded,
    )
    if history is not None:
        history.reasons.close()  # every row knows now where its invoice stands
    check_count(check.distinct, settings.expect_count)
    return manifest, check


def _manifest_options(settings: Settings, *, own_merchant_id: str) -> ManifestOptions:
    options = settings.options
    return ManifestOptions(
        column=options.column,
        format=Format(options.format) if options.format else None,
        encoding=options.encoding,
        keep=options.keep,
        match={MatchField(field): column for field, column in settings.match.items()},
        merchant_column=options.merchant_column,
        own_merchant_id=own_merchant_id,
    )


def _check_identity(history: History, settings: Settings, merchant_id: str) -> None:
    """Refuse a ledger of another environment or merchant: ids mean something else there."""
    if history.env is not None and history.env != settings.environment:
        raise LedgerMismatchError(
            f"{settings.ledger} belongs to {history.env}, and this run is for {settings.environment}. "
            "Name another ledger with --ledger."
        )
    if history.merchant_id is not None and history.merchant_id != merchant_id:
        raise LedgerMismatchError(
            f"{settings.ledger} belongs to another merchant than this run's. "
            "Name another ledger with --ledger."
        )
