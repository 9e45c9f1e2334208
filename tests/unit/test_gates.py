"""What must hold before and while money is touched."""

from __future__ import annotations

import pytest

from batchcancel.errors import GateRefusedError, LedgerWriteError
from batchcancel.gates import (
    Canary,
    Gates,
    Thresholds,
    check_count,
    check_free_space,
    check_typed_count,
    needs_typed_count,
)
from batchcancel.model import Reason, Result


def row(reason: Reason) -> Result:
    """Build a row."""
    return Result(row=1, invoice_id="1", outcome=reason.outcome, reason=reason, resolved_by=None, at="")


def stopped_at(thresholds: Thresholds, reasons: list[Reason]) -> tuple[int, str] | None:
    """Return after how many rows, and why, a run is stopped; None if it is not."""
    for number, reason in enumerate(reasons, start=1):
        failure = thresholds.note(row(reason))
        if failure is not None:
            return number, str(failure)
    return None


@pytest.mark.parametrize(
    ("is_production", "yes", "has_terminal", "needed"),
    [
        pytest.param(False, False, False, False, id="test host, cron"),
        pytest.param(False, False, True, False, id="test host, terminal"),
        pytest.param(True, True, False, False, id="production, cron, --yes"),
        pytest.param(True, True, True, False, id="production, terminal, --yes"),
        pytest.param(True, False, True, True, id="production, terminal"),
    ],
)
def test_the_count_is_asked_for_in_production_on_a_terminal(
    *, is_production: bool, yes: bool, has_terminal: bool, needed: bool
) -> None:
    """Nothing else asks, and --yes answers."""
    assert needs_typed_count(is_production=is_production, yes=yes, has_terminal=has_terminal) is needed


def test_production_without_a_terminal_and_without_yes_is_refused() -> None:
    """Nobody said yes, and nobody can be asked."""
    with pytest.raises(GateRefusedError, match="Add --yes if that is what you want"):
        needs_typed_count(is_production=True, yes=False, has_terminal=False)


@pytest.mark.parametrize("typed", ["1234", "1,234", " 1234\n"], ids=repr)
def test_the_right_count_passes(typed: str) -> None:
    """Thousands may be grouped as they are shown."""
    check_typed_count(typed, expected=1234)


@pytest.mark.parametrize("typed", ["", "\n", "y", "yes", "123", "12345", "-1234", "1234.0", "0", "01234"])
def test_anything_else_is_refused(typed: str) -> None:
    """A habit is no consent: only this number is."""
    with pytest.raises(GateRefusedError, match="1234 was to be typed"):
        check_typed_count(typed, expected=1234)


@pytest.mark.parametrize("expected", [None, (5, 5), (1, 9), (5, 9), (1, 5)], ids=repr)
def test_the_expected_count_passes(expected: tuple[int, int] | None) -> None:
    """Both ends belong to a range."""
    check_count(5, expected)


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        pytest.param((4, 4), "says 4.", id="fewer"),
        pytest.param((6, 9), "says 6 to 9.", id="below the range"),
        pytest.param((1_000, 2_000), "says 1,000 to 2,000.", id="far below"),
        pytest.param((0, 4), "says 0 to 4.", id="above the range"),
    ],
)
def test_another_count_is_refused(expected: tuple[int, int], words: str) -> None:
    """The sentence has both numbers."""
    with pytest.raises(GateRefusedError) as caught:
        check_count(5, expected)
    assert "5 distinct valid ids" in str(caught.value)
    assert words in str(caught.value)


def test_a_disk_without_room_for_every_row_is_refused() -> None:
    """To find out in the middle would leave invoices canceled and not on record."""
    check_free_space(4096 + 10 * 450, rows=10, folder="out")
    with pytest.raises(LedgerWriteError, match=r"out has 450\.0 MB free.*needs about 450\.0 MB"):
        check_free_space(4095 + 10**6 * 450, rows=10**6, folder="out")


RATE_WORDS = (
    "the latest 100 invoices, more than 50 %, ended in an error (--max-error-rate). "
    "Look at the ledger before the next run."
)
CANCELED, PAID, PARTIAL, MISSING = Reason.CANCELED, Reason.PAID, Reason.PARTIAL, Reason.NOT_FOUND


def test_one_error_more_than_allowed_stops() -> None:
    """As many as --max-errors are endured; ids that were not sent count as well."""
    reasons = [MISSING, CANCELED, Reason.INVALID_ID, Reason.PENDING, CANCELED]
    assert stopped_at(Thresholds(Gates(max_errors=3)), reasons) is None
    assert stopped_at(Thresholds(Gates(max_errors=2)), reasons) == (
        4,
        "3 rows ended in an error, and --max-errors allows 2. Look at the ledger before the next run.",
    )
    stopped = stopped_at(Thresholds(Gates(max_errors=0)), reasons)
    assert stopped is not None
    assert stopped[0] == 1


def test_a_rate_means_nothing_before_a_hundred_rows() -> None:
    """99 errors of 99 rows go on, the hundredth stops."""
    stopped = stopped_at(Thresholds(Gates(max_error_rate=50)), [Reason.SERVER_ERROR] * 150)
    assert stopped == (
        100,
        f"100 of {RATE_WORDS}",
    )


def test_exactly_the_rate_that_is_allowed_goes_on() -> None:
    """Half is not more than half."""
    half = [CANCELED, Reason.SERVER_ERROR] * 200
    assert stopped_at(Thresholds(Gates(max_error_rate=50)), half) is None
    assert stopped_at(Thresholds(Gates(max_error_rate=49)), half) is not None


def test_a_rate_is_of_the_latest_two_hundred_rows() -> None:
    """A million good rows don't hide that everything fails now; old errors don't stop a run that is well."""
    long_good = [CANCELED] * 10_000 + [Reason.UNKNOWN] * 200
    assert stopped_at(Thresholds(Gates(max_error_rate=50)), long_good) == (
        10_101,
        f"101 of {RATE_WORDS.replace('100', '200')}",
    )
    healed = [CANCELED] * 60 + [Reason.UNKNOWN] * 50 + [CANCELED] * 150 + [Reason.UNKNOWN] * 90
    assert stopped_at(Thresholds(Gates(max_error_rate=50)), healed) is None


@pytest.mark.parametrize(
    ("gates", "reasons", "is_hinted"),
    [
        pytest.param(Gates(max_error_rate=50, is_encrypted=False), [Reason.REJECTED] * 200, True, id="all"),
        pytest.param(
            Gates(max_error_rate=50, is_encrypted=False),
            [CANCELED] * 5000 + [Reason.REJECTED] * 200,
            True,
            id="from now on",
        ),
        pytest.param(
            Gates(max_error_rate=5, is_encrypted=False),
            [CANCELED, CANCELED, CANCELED, Reason.REJECTED] * 50,
            True,
            id="some",
        ),
        pytest.param(Gates(max_error_rate=50), [Reason.REJECTED] * 200, False, id="encrypted"),
        pytest.param(
            Gates(max_error_rate=50, is_encrypted=False),
            [Reason.REJECTED, Reason.SERVER_ERROR] * 100,
            False,
            id="half of the errors",
        ),
        pytest.param(
            Gates(max_error_rate=50, is_encrypted=False), [Reason.UNKNOWN] * 200, False, id="other errors"
        ),
    ],
)
def test_refusals_of_open_invoices_hint_at_encryption(
    gates: Gates, reasons: list[Reason], *, is_hinted: bool
) -> None:
    """A plain run against a service that requires it looks like that; the hint decides nothing."""
    stopped = stopped_at(Thresholds(gates), reasons)
    assert stopped is not None
    assert stopped[1].endswith("message-level encryption for this account, see BATCHCANCEL_MLE.") == is_hinted
    unhinted = stopped_at(Thresholds(Gates(max_error_rate=gates.max_error_rate)), reasons)
    assert unhinted is not None
    assert unhinted[0] == stopped[0]


def test_ids_that_were_not_sent_count_in_no_rate() -> None:
    """The window holds rows that requests of this run answered."""
    mixed = [Reason.INVALID_ID] * 500 + [CANCELED] * 100 + [Reason.INVALID_ID] * 500
    assert stopped_at(Thresholds(Gates(max_error_rate=0)), mixed) is None


@pytest.mark.parametrize("reason", [PAID, PARTIAL, MISSING, Reason.MISMATCH])
def test_too_many_of_a_wrong_export_stop(reason: Reason) -> None:
    """Paid, partially paid, missing and not matching ones count together, and only if asked."""
    reasons = [CANCELED] * 90 + [reason] * 11
    assert stopped_at(Thresholds(Gates()), reasons) is None
    stopped = stopped_at(Thresholds(Gates(max_mismatch=10)), reasons)
    assert stopped is not None
    assert stopped[0] == 101
    assert "11 of the latest 101 invoices, more than 10 %, are paid" in stopped[1]
    assert "this may be the wrong export" in stopped[1]


@pytest.mark.parametrize("reason", [CANCELED, Reason.ALREADY_CANCELED, Reason.PENDING, Reason.UNKNOWN])
def test_nothing_else_is_a_sign_of_a_wrong_export(reason: Reason) -> None:
    """What was canceled, and errors of the moment, are of the right export."""
    assert stopped_at(Thresholds(Gates(max_mismatch=0)), [reason] * 300) is None


def test_the_first_few_hold_the_others_back_until_they_are_well() -> None:
    """Admitted, then back one by one."""
    canary = Canary(2)
    assert not canary.holds_back
    assert [canary.admit() for _ in range(3)] == [True, True, False]
    assert canary.holds_back
    assert canary.note(row(CANCELED)) is None
    assert canary.holds_back
    assert canary.note(row(PAID)) is None
    assert not canary.holds_back


def test_without_a_canary_nothing_is_held_back() -> None:
    """The default."""
    canary = Canary(0)
    assert not canary.admit()
    assert not canary.holds_back


@pytest.mark.parametrize("reason", list(Reason))
def test_a_canary_fails_where_the_service_gave_no_word(reason: Reason) -> None:
    """An answer that nobody wants is an answer; none at all is not."""
    canary = Canary(1)
    canary.admit()
    no_word = {Reason.UNKNOWN, Reason.NETWORK, Reason.SERVER_ERROR, Reason.RATE_LIMITED}
    failure = canary.note(row(reason))
    assert (failure is not None) == (reason in no_word)
    assert canary.holds_back == (reason in no_word)
