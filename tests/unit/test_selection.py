"""Which invoices a run asks about."""

from __future__ import annotations

from hashlib import blake2b, sha256

import pytest

from batchcancel.job.selection import Selection
from batchcancel.ledger import History
from batchcancel.model import Reason, Standing, invoice_key
from batchcancel.settings import RetryErrors

SETTLED, ASK, LOOK_UP = Standing.SETTLED, Standing.TO_ASK, Standing.TO_LOOK_UP
HELD_BACK, EXCLUDED = Standing.HELD_BACK, Standing.EXCLUDED
ERRORS = {reason for reason in Reason if reason.outcome == "error"}
FINAL_ERRORS = {Reason.NOT_FOUND, Reason.INVALID_ID, Reason.MISMATCH}


def standing(reason: Reason | None, retry: RetryErrors, *, excluded: bool = False) -> Standing:
    """Tell where invoice 1 stands, if that is how it ended last."""
    reasons = {} if reason is None else {blake2b(b"1", digest_size=16).digest(): reason}
    history = History(first_run=None, good_size=0, tail=None, sha256=sha256(), reasons=reasons)
    ids = frozenset({"1"} if excluded else ())
    return Selection(history, retry_errors=retry, excluded=ids).standing_of("1")


@pytest.mark.parametrize("retry", list(RetryErrors))
def test_what_no_run_has_seen_is_asked(retry: RetryErrors) -> None:
    """Whichever errors are asked about again."""
    assert standing(None, retry) is ASK


@pytest.mark.parametrize("reason", sorted(set(Reason) - ERRORS))
@pytest.mark.parametrize("retry", list(RetryErrors))
def test_an_answer_is_never_asked_for_again(reason: Reason, retry: RetryErrors) -> None:
    """Canceled, paid and partially paid are final whatever is said."""
    assert standing(reason, retry) is SETTLED


@pytest.mark.parametrize("reason", sorted(ERRORS))
def test_errors_are_asked_about_again_as_told(reason: Reason) -> None:
    """``open`` asks the open ones, ``all`` the final ones too, ``none`` none."""
    is_final = reason in FINAL_ERRORS
    again = LOOK_UP if reason is Reason.UNKNOWN else ASK
    assert standing(reason, RetryErrors.OPEN) is (SETTLED if is_final else again)
    assert standing(reason, RetryErrors.ALL) is again
    assert standing(reason, RetryErrors.NONE) is (SETTLED if is_final else HELD_BACK)


def test_an_answer_for_one_merchant_is_none_for_another() -> None:
    """The same id is another invoice there; an excluded id is excluded at every merchant."""
    north, south = (invoice_key("1", valid=True, merchant_id=one) for one in ("north", "south"))
    reasons = {blake2b(north.encode(), digest_size=16).digest(): Reason.PAID}
    history = History(first_run=None, good_size=0, tail=None, sha256=sha256(), reasons=reasons)
    selection = Selection(history, retry_errors=RetryErrors.OPEN, excluded=frozenset())
    assert [selection.standing_of(key) for key in (north, south, "1")] == [SETTLED, ASK, ASK]
    selection = Selection(history, retry_errors=RetryErrors.OPEN, excluded=frozenset({"1"}))
    assert [selection.standing_of(key) for key in (north, south, "1")] == [SETTLED, EXCLUDED, EXCLUDED]


@pytest.mark.parametrize("retry", list(RetryErrors))
def test_an_excluded_id_is_never_touched(retry: RetryErrors) -> None:
    """Not even to look it up."""
    assert standing(None, retry, excluded=True) is EXCLUDED


@pytest.mark.parametrize("reason", sorted(ERRORS - FINAL_ERRORS))
@pytest.mark.parametrize("retry", list(RetryErrors))
def test_an_excluded_id_that_ended_in_an_error_has_no_answer(reason: Reason, retry: RetryErrors) -> None:
    """It is not touched either, and it is no success: the service may have canceled it."""
    assert standing(reason, retry, excluded=True) is HELD_BACK


def test_an_answer_that_is_there_counts_more_than_an_exclusion() -> None:
    """It is history; nothing is asked either way."""
    assert standing(Reason.CANCELED, RetryErrors.OPEN, excluded=True) is SETTLED
