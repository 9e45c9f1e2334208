"""The words of the domain: which reason is which outcome, what is final, what adds up."""

from __future__ import annotations

import typing
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from batchcancel.model import (
    Event,
    Invoice,
    ManifestRow,
    Outcome,
    Reason,
    Reply,
    Result,
    RunSummary,
    Skip,
    Tally,
    Vitals,
    invoice_key,
    utc_text,
)

OUTCOMES = {
    Outcome.CANCELED: {"canceled", "already_canceled"},
    Outcome.ALREADY_PAID: {"paid"},
    Outcome.PARTIALLY_PAID: {"partial"},
    Outcome.ERROR: {
        "not_found",
        "invalid_id",
        "mismatch",
        "pending",
        "rejected",
        "refused",
        "unknown_status",
        "rate_limited",
        "server_error",
        "network",
        "unknown",
    },
}
OPEN = OUTCOMES[Outcome.ERROR] - {"not_found", "invalid_id", "mismatch"}


def test_outcomes_are_exactly_four() -> None:
    """The ledger's promise."""
    assert [one.value for one in Outcome] == ["canceled", "already_paid", "partially_paid", "error"]


@pytest.mark.parametrize("outcome", Outcome)
def test_every_reason_belongs_to_one_outcome(outcome: Outcome) -> None:
    """Design section 5."""
    assert {reason.value for reason in Reason if reason.outcome is outcome} == OUTCOMES[outcome]


def test_only_open_errors_are_asked_again() -> None:
    """All others are answers."""
    assert {reason.value for reason in Reason if not reason.is_final} == OPEN


@pytest.mark.parametrize(
    ("invoice_id", "valid", "key"), [("true", True, "true"), ("true", False, "!true"), ("!x", False, "!!x")]
)
def test_an_invalid_id_never_stands_for_a_valid_one(invoice_id: str, *, valid: bool, key: str) -> None:
    """The JSON value true is not the invoice "true"."""
    assert invoice_key(invoice_id, valid=valid) == key


def test_an_invoice_is_told_by_its_merchant_too() -> None:
    """No merchant and id together stand for another pair, nor for an id alone."""
    pairs = [("a", "1"), ("b", "1"), ("a", "b 1"), (None, "a 1"), (None, "1"), ("!a", "1"), (None, "a1")]
    keys = {invoice_key(text, valid=valid, merchant_id=m) for m, text in pairs for valid in (True, False)}
    assert len(keys) == 2 * len(pairs)


def test_times_are_written_in_utc_with_milliseconds() -> None:
    """Whatever zone a time came in."""
    when = datetime(2026, 11, 22, 1, 2, 3, 4567, tzinfo=timezone(timedelta(hours=2)))
    assert utc_text(when) == "2026-11-21T23:02:03.004Z"


def test_now_is_written_if_no_time_is_given() -> None:
    """It lies between two readings of the clock."""
    before, text, after = datetime.now(UTC), utc_text(), datetime.now(UTC)
    assert before - timedelta(milliseconds=1) <= datetime.fromisoformat(text) <= after
    assert text.endswith("Z")


@pytest.mark.parametrize(
    ("status", "facts"),
    [
        (200, {"is_success"}),
        (299, {"is_success"}),
        (199, set()),
        (302, set()),
        (400, {"is_client_error"}),
        (401, {"is_client_error", "doubts_key"}),
        (403, {"is_client_error", "doubts_key"}),
        (407, {"is_client_error", "doubts_key"}),
        (404, {"is_client_error"}),
        (429, {"is_client_error", "is_throttled"}),
        (499, {"is_client_error"}),
        (500, {"is_server_error"}),
        (503, {"is_server_error"}),
    ],
)
def test_a_status_says_what_kind_of_reply_it_is(status: int, facts: set[str]) -> None:
    """At the bounds of each class."""
    names = ("is_success", "is_client_error", "is_server_error", "is_throttled", "doubts_key")
    assert {name for name in names if getattr(Reply(http_status=status), name)} == facts


def test_a_tally_counts_final_and_open_errors() -> None:
    """Both are error rows of this run; answers are none."""
    results = {Reason.CANCELED: 5, Reason.PAID: 4, Reason.NOT_FOUND: 2, Reason.UNKNOWN: 1}
    assert Tally(rows=12, results=results).errors == 3


@pytest.mark.parametrize(
    ("tally", "is_conserved"),
    [
        pytest.param(Tally(), True, id="nothing"),
        pytest.param(
            Tally(rows=10, results={Reason.CANCELED: 4}, settled_earlier=3, duplicates=2, open=1),
            True,
            id="all accounted for",
        ),
        pytest.param(Tally(rows=10, results={Reason.CANCELED: 9}), False, id="one lost"),
        pytest.param(Tally(rows=10, results={Reason.CANCELED: 10}, open=1), False, id="one twice"),
        pytest.param(Tally(rows=10, results={Reason.CANCELED: 11}, open=-1), False, id="one too many"),
    ],
)
def test_a_tally_is_conserved_if_every_row_is_counted_once(tally: Tally, *, is_conserved: bool) -> None:
    """Rows = results + settled earlier + duplicates + open."""
    assert tally.is_conserved is is_conserved


DATA = (*typing.get_args(Event), Invoice, ManifestRow, Reply, Result, RunSummary, Skip, Tally, Vitals)


@pytest.mark.parametrize("struct", DATA, ids=lambda one: one.__name__)
def test_all_data_is_frozen_and_keyword_only(struct: type[msgspec.Struct]) -> None:
    """What one part hands to another can't change on the way."""
    config = struct.__struct_config__
    assert config.frozen
    with pytest.raises(TypeError, match="positional"):
        struct("one")
