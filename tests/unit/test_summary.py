"""The closing summary: what a person reads and what a program reads."""

from __future__ import annotations

import json
from textwrap import dedent
from typing import Any

import pytest

from batchcancel.job.account import Account
from batchcancel.job.course import COMPLETE
from batchcancel.model import (
    Outcome,
    Reason,
    ResolvedBy,
    Result,
    RunState,
    RunSummary,
    StoppedMerchant,
    Tally,
)
from batchcancel.report import mask, summary_json, summary_text
from batchcancel.settings import load_settings


def summary(
    *,
    tally: Tally,
    state: RunState = RunState.COMPLETE,
    why: str | None = None,
    **changes: Any,
) -> RunSummary:
    """Build a summary of a run against the test host."""
    return RunSummary(
        **{
            "run_id": "0b5c",
            "env": "test",
            "host": "apitest.visaacceptance.com",
            "merchant_id": "example_merchant",
            "ledger": "invoices.test.ledger.jsonl",
            "amounts_canceled": {},
            "duration_s": 2.0,
            **changes,
        },
        tally=tally,
        state=state,
        why=why,
    )


def result(reason: Reason, *, amount: str | None, currency: str | None) -> Result:
    """Build a result row with an amount."""
    return Result(
        row=1,
        invoice_id="2675",
        outcome=reason.outcome,
        reason=reason,
        resolved_by=ResolvedBy.RESPONSE,
        amount=amount,
        currency=currency,
        at="2026-11-22T00:00:00.000Z",
    )


MANY = Tally(
    rows=1_234_580,
    results={
        Reason.CANCELED: 1_234_000,
        Reason.ALREADY_CANCELED: 500,
        Reason.PAID: 40,
        Reason.PARTIAL: 30,
        Reason.NOT_FOUND: 2,
        Reason.UNKNOWN: 1,
    },
    settled_earlier=4,
    duplicates=3,
)


def test_nothing_to_do_is_one_sentence() -> None:
    """An empty manifest is no table."""
    assert summary_text(summary(tally=Tally(), run_id=None)) == "Nothing to do: the manifest has no rows.\n"


def test_a_complete_run_says_so() -> None:
    """Every invoice has an answer."""
    tally = Tally(rows=2, results={Reason.CANCELED: 1, Reason.PAID: 1})
    text = summary_text(summary(tally=tally, amounts_canceled={"USD": "2623.64"}))
    assert text == dedent(
        """\
        Complete: every invoice has an answer.

          outcome       reason    invoices
          ------------  --------  --------
          canceled      canceled         1
          already_paid  paid             1

          rows                           2

          amount canceled by this run
            USD  2,623.64

          ledger   invoices.test.ledger.jsonl
          time     2.0 s, 1.0 invoices a second
        """
    )


def test_a_run_over_settled_invoices_says_that_nothing_was_asked() -> None:
    """A second run of the same command."""
    assert summary_text(summary(tally=Tally(rows=3, settled_earlier=2, duplicates=1))) == dedent(
        """\
        Complete: every invoice had its answer already, nothing was asked.

          outcome          reason  invoices
          ---------------  ------  --------
          settled earlier                 2
          duplicate rows                  1
          rows                            3

          ledger   invoices.test.ledger.jsonl
          time     2.0 s
        """
    )


def test_errors_are_told_apart_by_whether_they_are_asked_again() -> None:
    """Each outcome stands on its first row; errors say what becomes of them; sums are grouped."""
    amounts = {"JPY": "1000", "USD": "1234567.10"}
    assert summary_text(summary(tally=MANY, amounts_canceled=amounts)) == dedent(
        """\
        Finished, 3 invoices ended in an error.

          outcome          reason             invoices
          ---------------  ----------------  ---------
          canceled         canceled          1,234,000
                           already_canceled        500
          already_paid     paid                     40
          partially_paid   partial                  30
          error            not_found                 2  final
                           unknown                   1  open: the next run asks again

          settled earlier                            4
          duplicate rows                             3
          rows                               1,234,580

          amount canceled by this run
            JPY         1,000
            USD  1,234,567.10

          ledger   invoices.test.ledger.jsonl
          time     2.0 s, 617,286.5 invoices a second
        """
    )


@pytest.mark.parametrize(
    ("tally", "state", "why", "headline"),
    [
        pytest.param(
            Tally(rows=1, results={Reason.INVALID_ID: 1}),
            RunState.COMPLETE,
            None,
            "Finished, 1 invoice ended in an error.",
            id="one error",
        ),
        pytest.param(
            Tally(rows=9, open=9),
            RunState.STOPPED,
            "The service refuses the key.",
            "Stopped for safety, 9 rows left open.",
            id="stopped",
        ),
        pytest.param(
            Tally(rows=9, results={Reason.CANCELED: 8}, open=1),
            RunState.STOPPED,
            "The service refuses the key.",
            "Stopped for safety, 1 row left open.",
            id="stopped, one open",
        ),
        pytest.param(
            Tally(rows=2_500, results={Reason.CANCELED: 8, Reason.UNKNOWN: 2}, open=2_490),
            RunState.STOPPED,
            "The service refuses the key.",
            "Stopped for safety, 2,490 rows left open.",
            id="stopped, many open",
        ),
        pytest.param(
            Tally(rows=9, results={Reason.CANCELED: 4}, open=5),
            RunState.INTERRUPTED,
            "SIGTERM",
            "Interrupted (SIGTERM). Run the same command again to go on.",
            id="interrupted",
        ),
    ],
)
def test_the_headline_says_how_the_run_ended(
    tally: Tally, state: RunState, why: str | None, headline: str
) -> None:
    """One line that can be read alone; what is open is counted below it."""
    lines = summary_text(summary(tally=tally, state=state, why=why)).splitlines()
    assert lines[0] == headline
    assert [line.split()[-1] for line in lines[1:] if "left open" in line] == (
        [f"{tally.open:,}"] * bool(tally.open)
    )


def test_why_a_run_stopped_is_not_part_of_the_table() -> None:
    """The command says it on standard error; programs find it in the JSON."""
    stopped = summary(tally=Tally(rows=9, open=9), state=RunState.STOPPED, why="The key is refused.")
    assert "refused" not in summary_text(stopped)
    assert json.loads(summary_json(stopped, exit_code=4))["why"] == "The key is refused."


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "0"),
        ("0.10", "0.10"),
        ("-1234.50", "-1,234.50"),
        ("-0.50", "-0.50"),
        ("1234.567", "1,234.567"),
        ("123456789012345678901234567890.12345", "123,456,789,012,345,678,901,234,567,890.12345"),
    ],
)
def test_amounts_keep_every_digit(amount: str, shown: str) -> None:
    """Grouped in thousands, never rounded, never floats."""
    tally = Tally(rows=1, results={Reason.CANCELED: 1})
    text = summary_text(summary(tally=tally, amounts_canceled={"USD": amount}))
    assert next(line for line in text.splitlines() if "USD" in line) == f"    USD  {shown}"


def test_a_run_that_canceled_nothing_has_no_amounts() -> None:
    """A heading without a line would be a question."""
    text = summary_text(summary(tally=Tally(rows=1, results={Reason.PAID: 1})))
    assert "amount" not in text
    assert "\n\n\n" not in text


def test_only_what_this_run_canceled_is_an_amount_of_it() -> None:
    """Earlier cancelations, paid and failed invoices, and rows without amount or currency add nothing."""
    account = Account(load_settings(["invoices.csv"], environ={}, env="sandbox"), merchant_id="merchant")
    account.note([result(reason, amount="0.10", currency="USD") for reason in Reason])
    account.note(
        [
            result(Reason.CANCELED, amount="0.20", currency="USD"),
            result(Reason.CANCELED, amount="1000", currency="JPY"),
            result(Reason.CANCELED, amount=None, currency="USD"),
            result(Reason.CANCELED, amount="5", currency=None),
        ]
    )
    closed = account.close("0b5c", COMPLETE, Tally())
    assert closed.amounts_canceled == {"JPY": "1000", "USD": "0.30"}
    errors = sum(reason.outcome is Outcome.ERROR for reason in Reason)
    assert list(account.outcomes.values()) == [6, 1, 1, errors]


@pytest.mark.parametrize(
    ("done", "duration_s", "time"),
    [
        pytest.param(4, 0.0, "0.0 s", id="no time"),
        pytest.param(4, 0.9, "0.9 s", id="below a second"),
        pytest.param(4, 1.0, "1.0 s, 4.0 invoices a second", id="a second"),
        pytest.param(9_000, 2.0, "2.0 s, 4,500.0 invoices a second", id="grouped"),
        pytest.param(0, 2.0, "2.0 s", id="nothing done"),
    ],
)
def test_the_rate_is_shown_where_it_means_something(done: int, duration_s: float, time: str) -> None:
    """A fraction of a second says nothing about a service, and no work has no rate."""
    tally = Tally(rows=done + 1, results={Reason.CANCELED: done} if done else {}, open=1)
    text = summary_text(summary(tally=tally, duration_s=duration_s))
    assert text.splitlines()[-1] == f"  time     {time}"


def test_a_run_without_duration_has_no_rate() -> None:
    """Nothing is divided by zero."""
    document = json.loads(summary_json(summary(tally=MANY, duration_s=0.0), exit_code=0))
    assert document["invoices_per_s"] == 0.0


def test_stopped_merchants_are_listed_up_to_twenty() -> None:
    """One reason stands once below those it holds for; programs get them all."""
    stopped = tuple(
        StoppedMerchant(merchant_id=f"shop_{number:02}", open=number, why="Refused." if number else "Gone.")
        for number in range(25)
    )
    given = summary(tally=Tally(rows=300, open=300), state=RunState.STOPPED, stopped_merchants=stopped)
    text = summary_text(given)
    assert text.startswith("Stopped for 25 merchants, 300 rows left open.\n")
    assert "    shop_00  0 invoices left open\n      Gone.\n    shop_01  1 invoice left open\n" in text
    assert text.count("Refused.") == 1
    assert (
        "    shop_19  19 invoices left open\n      Refused.\n    and 5 more; --json lists them all\n" in text
    )
    listed = json.loads(summary_json(given, exit_code=4))["stopped_merchants"]
    assert [one["open"] for one in listed] == list(range(25))
    assert listed[24] == {"merchant_id": "shop_24", "open": 24, "why": "Refused."}


def test_the_json_summary_is_pinned() -> None:
    """Programs read it: the keys and their meaning never change."""
    given = summary(
        tally=MANY, state=RunState.STOPPED, why="Because.", amounts_canceled={"USD": "1234567.10"}
    )
    assert json.loads(summary_json(given, exit_code=4)) == {
        "run_id": "0b5c",
        "env": "test",
        "host": "apitest.visaacceptance.com",
        "merchant_id": "exa***nt",
        "ledger": "invoices.test.ledger.jsonl",
        "state": "stopped",
        "why": "Because.",
        "rows": 1_234_580,
        "outcomes": {"canceled": 1_234_500, "already_paid": 40, "partially_paid": 30, "error": 3},
        "reasons": {
            "canceled": 1_234_000,
            "already_canceled": 500,
            "paid": 40,
            "partial": 30,
            "not_found": 2,
            "unknown": 1,
        },
        "settled_earlier": 4,
        "duplicates": 3,
        "excluded": 0,
        "open": 0,
        "stopped_merchants": [],
        "amounts_canceled": {"USD": "1234567.10"},
        "duration_s": 2.0,
        "invoices_per_s": 617286.5,
        "exit_code": 4,
    }


def test_the_json_summary_of_nothing_has_every_key() -> None:
    """All four outcomes are there, with a run or without one."""
    document = json.loads(summary_json(summary(tally=Tally(), run_id=None), exit_code=0))
    assert document["outcomes"] == {"canceled": 0, "already_paid": 0, "partially_paid": 0, "error": 0}
    assert (document["run_id"], document["why"], document["amounts_canceled"]) == (None, None, {})


@pytest.mark.parametrize(
    ("merchant_id", "shown"),
    [("", "***"), ("merchant", "***"), ("merchants", "mer***ts"), ("example_merchant", "exa***nt")],
    ids=repr,
)
def test_a_merchant_id_is_masked(merchant_id: str, shown: str) -> None:
    """Enough to recognise, never all of it."""
    assert mask(merchant_id) == shown
