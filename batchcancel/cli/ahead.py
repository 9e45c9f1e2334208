"""What a command says before its first request."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version

from batchcancel.api import Expiry
from batchcancel.cli import say
from batchcancel.manifest import Check
from batchcancel.report import count_invoices, count_merchants, count_rows, mask
from batchcancel.settings import Settings


def say_what_is_ahead(settings: Settings, check: Check, *, merchant_id: str, verb: str) -> None:
    """Say what is called, for whom, and how many invoices it is about.

    Args:
        settings: What is to be done.
        check: What the check of the manifests found.
        merchant_id: Whose invoices they are.
        verb: What becomes of them.
    """
    limit = settings.options.limit
    most = f", at most {limit:,} of them now" if limit is not None and limit < check.open else ""
    notes = [
        f"{count:,} {what}"
        for count, what in (
            (check.distinct - check.open - check.excluded - check.held_back, "settled earlier"),
            (check.excluded, "excluded"),
            (check.held_back, "with an error that is held back"),
            (check.invalid, "with an invalid id"),
            (check.duplicates, "repeated"),
        )
        if count
    ]
    whose = f"merchant {mask(merchant_id)}"
    if settings.options.merchant_column is not None:
        whose = f"portfolio {mask(merchant_id)}, {count_merchants(len(check.merchants))}"
    say(
        f"batchcancel {version('batchcancel')}: {count_invoices(check.open)} to {verb}{most}, "
        f"at {settings.host} ({settings.environment}), {whose}"
    )
    say(
        f"  manifest  {count_rows(check.rows)}, {count_invoices(check.distinct, 'distinct ')}"
        + (f" ({', '.join(notes)})" if notes else "")
    )


def say_what_expires(expiries: Sequence[Expiry]) -> None:
    """Say until when each certificate is valid, and warn of those that are near their end or past it."""
    for expiry in expiries:
        say(f"  key       {expiry.what} {expiry.path}, valid until {expiry.date}")
    for expiry in expiries:
        if (warning := expiry.warning(time.time())) is not None:
            say(f"Warning: {warning}", fg="yellow")
