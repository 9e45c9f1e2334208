"""What a run takes from a plan: answers that can't have changed since, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Final

from msgspec import UNSET
from msgspec.structs import replace

from batchcancel.errors import LedgerMismatchError
from batchcancel.ledger.plan import Plan, PlanRecord
from batchcancel.manifest import Check
from batchcancel.model import (
    Invoice,
    ManifestRow,
    Reason,
    ResolvedBy,
    Result,
    Sighting,
    Standing,
)
from batchcancel.settings import Settings
from batchcancel.verdict import is_match

_CLOCK_DOUBT_S: Final = 60.0
"""How far the clock of the machine may be off that a plan was made on."""


async def open_plan(
    settings: Settings, *, check: Check, merchant_id: str, resources: AsyncExitStack
) -> Plan | None:
    """Open the plan that the settings name, and hold it against what the run is about.

    Args:
        settings: What to do.
        check: What the check of the run's manifests found.
        merchant_id: The run's own merchant.
        resources: Closes it.

    Returns:
        The plan; None if none is named.

    Raises:
        LedgerMismatchError: It is no plan, or of another environment, merchant or manifest.
    """
    if settings.options.plan is None:
        return None
    plan = await asyncio.to_thread(Plan.read, Path(settings.options.plan))
    resources.callback(plan.close)
    found = plan.record
    planned = [one.sha256 for one in found.manifest]
    for what, theirs, ours in (
        ("environment", found.env, settings.environment.value),
        ("merchant", found.merchant_id, merchant_id),
        ("manifest", planned, [file.sha256 for file in check.files]),
    ):
        if theirs != ours:
            raise LedgerMismatchError(
                f"The plan {plan.path} was made for another {what} than this run's. Make it again."
            )
    return plan


def is_fresh(plan: PlanRecord, *, max_age_s: float) -> bool:
    """Tell whether a plan is young enough, and not from the future."""
    age_s = age_of(plan)
    return -_CLOCK_DOUBT_S <= age_s <= max_age_s


def age_of(plan: PlanRecord) -> float:
    """Return how long ago a plan was begun, in seconds."""
    return time.time() - _seconds(plan.started_at)


async def with_answers(
    rows: AsyncIterator[ManifestRow], plan: Plan, *, ledger_began_at: str | None
) -> AsyncIterator[ManifestRow]:
    """Yield rows, those among them with their answer that the plan has one for.

    Args:
        rows: All rows of the manifests, in order.
        plan: Of the same manifests.
        ledger_began_at: When the ledger's first run began; None if this one is the first.
    """
    number = 0
    async for row in rows:
        found = plan.find(number)
        number += 1
        answer = None if found is None else answer_of(found, row, ledger_began_at=ledger_began_at)
        yield row if answer is None else replace(row, planned=answer)


def answer_of(found: Sighting, row: ManifestRow, *, ledger_began_at: str | None) -> Result | None:
    """Return a row's answer by what a plan found of its invoice; None if the invoice has to be asked about.

    Only what is certain is taken: not where an earlier run may have canceled the invoice without hearing
    so, and no cancelation that was seen after the ledger's first run began, for it may be our own.

    Args:
        found: By the plan, for the row of this number.
        row: A row of the run.
        ledger_began_at: When the ledger's first run began; None if this one is the first.
    """
    is_same = (found.invoice_id, found.merchant_id or None) == (row.invoice_id, row.merchant_id)
    if not (is_same and row.valid and row.duplicate_of is None and row.standing is Standing.TO_ASK):
        return None
    may_be_ours = ledger_began_at is not None and not _is_before(found.at, ledger_began_at)
    if found.reason is None or (found.reason is Reason.ALREADY_CANCELED and may_be_ours):
        return None
    seen = Invoice(amount=found.amount, currency=found.currency, due_date=found.due_date)
    if row.match and not is_match(seen, row.match):
        return None
    return Result(
        row=row.row,
        file=row.file or UNSET,
        merchant_id=row.merchant_id or UNSET,
        invoice_id=row.invoice_id,
        outcome=found.reason.outcome,
        reason=found.reason,
        resolved_by=ResolvedBy.PLAN,
        invoice_status=found.invoice_status,
        http_status=found.http_status,
        amount=found.amount,
        balance=found.balance,
        currency=found.currency,
        correlation_id=found.correlation_id,
        submitted_at=found.submitted_at,
        at=found.at,
        latency_ms=found.latency_ms,
        keep=row.keep or UNSET,
    )


def _is_before(at: str, began_at: str) -> bool:
    """Tell whether a time certainly lies before another, which another machine may have noted."""
    return _seconds(at) + _CLOCK_DOUBT_S < _seconds(began_at)


def _seconds(time_text: str) -> float:
    return datetime.fromisoformat(time_text).timestamp()
