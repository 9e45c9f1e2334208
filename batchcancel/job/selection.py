"""Which invoices of the manifests a run asks about: what earlier runs found, and what is excluded. Pure."""

from __future__ import annotations

from batchcancel.model import Outcome, Reason, Standing
from batchcancel.settings import RetryErrors


def standing_of(retry_errors: RetryErrors, reason: Reason | None, is_excluded: bool) -> Standing:  # noqa: FBT001 - the last two are a StandingOf
    """Tell where an invoice stands before a run.

    An answer that is there already counts more than an exclusion: nothing is asked either way. An error
    of an earlier run is held back where its invoice is excluded by now: it has no answer still.

    Args:
        retry_errors: Which errors of earlier runs are asked about again.
        reason: Of the invoice's latest result; None if it has none.
        is_excluded: Whether its id is never to be touched.
    """
    if reason is not None and _is_settled(reason, retry_errors):
        return Standing.SETTLED
    if reason is None:
        return Standing.EXCLUDED if is_excluded else Standing.TO_ASK
    if is_excluded or retry_errors is RetryErrors.NONE:
        return Standing.HELD_BACK
    return Standing.TO_LOOK_UP if reason is Reason.UNKNOWN else Standing.TO_ASK


def _is_settled(reason: Reason, retry_errors: RetryErrors) -> bool:
    if retry_errors is RetryErrors.ALL and reason.outcome is Outcome.ERROR:
        return False
    return reason.is_final
