"""Which invoices a run asks about."""

from __future__ import annotations

import pytest

from batchcancel.job.selection import standing_of
from batchcancel.model import Reason, Standing
from batchcancel.settings import RetryErrors

SETTLED, ASK, LOOK_UP = Standing.SETTLED, Standing.TO_ASK, Standing.TO_LOOK_UP
HELD_BACK, EXCLUDED = Standing.HELD_BACK, Standing.EXCLUDED
ERRORS = {reason for reason in Reason if reason.outcome == "error"}
FINAL_ERRORS = {Reason.NOT_FOUND, Reason.INVALID_ID, Reason.MISMATCH}


@pytest.mark.parametrize("retry", list(RetryErrors))
def test_what_no_run_has_seen_is_asked(retry: RetryErrors) -> None:
    """Whichever errors are asked about again."""
    assert standing_of(retry, None, False) is ASK


@pytest.mark.parametrize("reason", sorted(set(Reason) - ERRORS))
@pytest.mark.parametrize("retry", list(RetryErrors))
def test_an_answer_is_never_asked_for_again(reason: Reason, retry: RetryErrors) -> None:
    """Canceled, paid and partially paid are final whatever is said."""
    assert standing_of(retry, reason, False) is SETTLED


@pytest.mark.parametrize("reason", sorted(ERRORS))
def test_errors_are_asked_about_again_as_told(reason: Reason) -> None:
    """``open`` asks the open ones, ``all`` the final ones too, ``none`` none."""
    is_final = reason in FINAL_ERRORS
    again = LOOK_UP if reason is Reason.UNKNOWN else ASK
    assert standing_of(RetryErrors.OPEN, reason, False) is (SETTLED if is_final else again)
    assert standing_of(RetryErrors.ALL, reason, False) is again
    assert standing_of(RetryErrors.NONE, reason, False) is (SETTLED if is_final else HELD_BACK)


@pytest.mark.parametrize("retry", list(RetryErrors))
def test_an_excluded_id_is_never_touched(retry: RetryErrors) -> None:
    """Not even to look it up."""
    assert standing_of(retry, None, True) is EXCLUDED


@pytest.mark.parametrize("reason", sorted(ERRORS - FINAL_ERRORS))
@pytest.mark.parametrize("retry", list(RetryErrors))
def test_an_excluded_id_that_ended_in_an_error_has_no_answer(reason: Reason, retry: RetryErrors) -> None:
    """It is not touched either, and it is no success: the service may have canceled it."""
    assert standing_of(retry, reason, True) is HELD_BACK


def test_an_answer_that_is_there_counts_more_than_an_exclusion() -> None:
    """It is history; nothing is asked either way."""
    assert standing_of(RetryErrors.OPEN, Reason.CANCELED, True) is SETTLED
