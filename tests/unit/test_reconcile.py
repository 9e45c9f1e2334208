"""Ledger against service, as far as it is decided: marks, sums, samples, and what is said of them."""

from __future__ import annotations

import json
import math
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from batchcancel.job.course import COMPLETE, Ending
from batchcancel.ledger.reader import ResultRecord
from batchcancel.model import Reason, RunState, Sighting
from batchcancel.tasks.reconcile import (
    Account,
    Census,
    Mark,
    Note,
    Reconciled,
    Sample,
    compare,
    reconciled_json,
    reconciled_text,
)
from batchcancel.tasks.reconcile.comparison import not_asked
from batchcancel.tasks.reconcile.differences import COLUMNS, line_of
from batchcancel.tasks.reconcile.sample import Draw, least_found, size_of

OPEN_ERRORS = [reason for reason in Reason if not reason.is_final]
UNREAD = [Reason.REFUSED, Reason.RATE_LIMITED, Reason.SERVER_ERROR, Reason.NETWORK, Reason.UNKNOWN]
FINAL = {
    Reason.CANCELED: "CANCELED",
    Reason.ALREADY_CANCELED: "CANCELED",
    Reason.PAID: "PAID",
    Reason.PARTIAL: "PARTIAL",
}


def row(reason: Reason, **fields: Any) -> ResultRecord:
    """Build a row of a ledger."""
    usual = {"row": 1, "invoice_id": "2675", "resolved_by": None, "at": "t", "run_id": "r"}
    return ResultRecord(**{**usual, "reason": reason, "outcome": reason.outcome, **fields})


def seen(status: str | None, reason: Reason | None = None, **fields: Any) -> Sighting:
    """Build what a look-up found."""
    usual = {"row": 1, "invoice_id": "2675", "at": "t"}
    return Sighting(**{**usual, **fields}, reason=reason, invoice_status=status)


def judged(answer: ResultRecord, sighting: Sighting) -> tuple[Mark, Note | None]:
    """Compare the two."""
    one = compare(answer, sighting, merchant_id="m")
    return one.mark, one.note


# --- one invoice ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", FINAL)
@pytest.mark.parametrize("status", ["CANCELED", "PAID", "PARTIAL", "SENT", "DRAFT", "PENDING", "ON_HOLD"])
def test_a_final_answer_agrees_with_its_own_status_alone(reason: Reason, status: str) -> None:
    """Whatever else the service says is a difference."""
    mark, _ = judged(row(reason, invoice_status=FINAL[reason]), seen(status))
    assert mark is (Mark.SAME if status == FINAL[reason] else Mark.DIFFERENT)


def test_a_partial_payment_that_was_completed_is_told_as_such() -> None:
    """It differs, and yet it is how payments go; nothing else is told like that."""
    assert judged(row(Reason.PARTIAL), seen("PAID", Reason.PAID)) == (Mark.DIFFERENT, Note.PAID_SINCE)
    assert judged(row(Reason.CANCELED), seen("PAID", Reason.PAID)) == (Mark.DIFFERENT, None)
    assert judged(row(Reason.PARTIAL), seen("CANCELED", Reason.ALREADY_CANCELED)) == (Mark.DIFFERENT, None)


@pytest.mark.parametrize("reason", OPEN_ERRORS)
@pytest.mark.parametrize("status", ["CANCELED", "PAID", "PARTIAL", "SENT", "CREATED", "PENDING", "ON_HOLD"])
def test_an_open_error_agrees_as_long_as_there_is_no_answer(reason: Reason, status: str) -> None:
    """An answer that the ledger lacks is what a run would bring in."""
    expected = (
        (Mark.DIFFERENT, Note.RUN_AGAIN) if status in {"CANCELED", "PAID", "PARTIAL"} else (Mark.SAME, None)
    )
    assert judged(row(reason), seen(status)) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        *((row(reason), (Mark.MISSING, None)) for reason in FINAL),
        (row(Reason.NOT_FOUND), (Mark.SAME, None)),
        (row(Reason.MISMATCH, invoice_status="SENT"), (Mark.MISSING, None)),
        (row(Reason.PENDING, invoice_status="PENDING"), (Mark.MISSING, None)),
        (row(Reason.NETWORK), (Mark.DIFFERENT, Note.RUN_AGAIN)),
    ],
    ids=lambda value: value.reason.value if isinstance(value, ResultRecord) else None,
)
def test_a_404_is_missing_where_the_ledger_has_seen_the_invoice(
    answer: ResultRecord, expected: tuple[Mark, Note | None]
) -> None:
    """What nobody ever saw is not missing: the 404 is the answer that the ledger lacks."""
    assert judged(answer, seen(None, Reason.NOT_FOUND)) == expected


def test_an_invoice_that_was_not_there_and_now_is_differs() -> None:
    """Whatever its status."""
    assert judged(row(Reason.NOT_FOUND), seen("SENT")) == (Mark.DIFFERENT, Note.APPEARED)


@pytest.mark.parametrize(
    ("before", "now", "mark"),
    [("SENT", "CREATED", Mark.SAME), ("PAID", "PAID", Mark.SAME), ("SENT", "CANCELED", Mark.DIFFERENT)],
)
def test_a_mismatch_is_to_be_as_it_was_left(before: str, now: str, mark: Mark) -> None:
    """The run left it alone; from one open status to another it goes by itself."""
    assert judged(row(Reason.MISMATCH, invoice_status=before), seen(now)) == (mark, None)


@pytest.mark.parametrize("unread", UNREAD)
@pytest.mark.parametrize("reason", [Reason.CANCELED, Reason.NOT_FOUND, Reason.NETWORK])
def test_what_could_not_be_read_is_neither_same_nor_different(reason: Reason, unread: Reason) -> None:
    """The word of the service is why."""
    one = compare(row(reason), seen("SENT", unread), merchant_id="m")
    assert (one.mark, one.service) == (Mark.UNREAD, unread.value)


def test_a_status_that_is_not_listed_is_a_status() -> None:
    """It was read, so it is not marked as unread."""
    one = compare(row(Reason.CANCELED), seen("ON_HOLD", Reason.UNKNOWN_STATUS), merchant_id="m")
    assert (one.mark, one.service) == (Mark.DIFFERENT, "ON_HOLD")


@pytest.mark.parametrize(
    ("ours", "theirs", "mark"),
    [
        (("10.10", "USD"), ("10.1", "USD"), Mark.SAME),
        (("10.10", "USD"), ("10.11", "USD"), Mark.DIFFERENT),
        (("10.10", "USD"), ("10.10", "EUR"), Mark.DIFFERENT),
        ((None, None), ("10.10", "EUR"), Mark.SAME),
        (("10.10", "USD"), (None, None), Mark.SAME),
        (("many", "USD"), ("10.10", "USD"), Mark.SAME),
    ],
)
def test_amounts_are_compared_as_numbers_where_both_sides_have_one(
    ours: tuple[str | None, str | None], theirs: tuple[str | None, str | None], mark: Mark
) -> None:
    """A trailing zero is no difference, another currency is one."""
    answer = row(Reason.CANCELED, amount=ours[0], currency=ours[1])
    sighting = seen("CANCELED", Reason.ALREADY_CANCELED, amount=theirs[0], currency=theirs[1])
    assert judged(answer, sighting) == (mark, None if mark is Mark.SAME else Note.AMOUNT)


# --- sums -----------------------------------------------------------------------------------------


def account_of(*pairs: tuple[ResultRecord, Sighting]) -> Account:
    """Add up comparisons."""
    account = Account()
    for answer, sighting in pairs:
        account.note(compare(answer, sighting, merchant_id="m"))
    return account


def usd(amount: str | None, reason: Reason = Reason.CANCELED) -> ResultRecord:
    """Build the row of an invoice in dollars."""
    return row(reason, amount=amount, currency=None if amount is None else "USD")


def test_money_is_told_where_ledger_and_service_differ() -> None:
    """Only canceled invoices that were read and whose amount is known are in both sums."""
    canceled = seen("CANCELED", amount="10.00", currency="USD")
    account = account_of(
        (usd("10.00"), canceled),
        (usd("0.10"), seen("PAID", Reason.PAID, amount="0.10", currency="USD")),
        (usd("0.20", Reason.ALREADY_CANCELED), seen(None, Reason.NOT_FOUND)),
        (usd("1000"), seen(None, Reason.NETWORK)),
        (usd(None), canceled),
        (usd("5", Reason.PAID), seen("CANCELED", amount="5", currency="USD")),
        (usd("3.00"), seen("CANCELED")),
    )
    assert account.differing_money["USD"].ledger == Decimal("13.30")
    assert account.differing_money["USD"].service == Decimal("13.00")
    assert account.without_amount == 1
    assert (account.compared, account.findings) == (7, 4)


def test_money_that_agrees_is_not_told() -> None:
    """Another currency is two differences."""
    assert account_of((usd("1"), seen("CANCELED", amount="1.0", currency="USD"))).differing_money == {}
    account = account_of((usd("1"), seen("CANCELED", amount="1", currency="EUR")))
    differing = {code: (str(one.ledger), str(one.service)) for code, one in account.differing_money.items()}
    assert differing == {"EUR": ("0", "1"), "USD": ("1", "0")}


def test_any_number_of_invented_statuses_is_one_line() -> None:
    """A service that answers nonsense can't fill the memory with it."""
    account = account_of(*((row(Reason.CANCELED), seen(f"S{number}")) for number in range(50)))
    assert [(kind.service, count) for kind, count in account.kinds.items()] == [("another status", 50)]


# --- lines ----------------------------------------------------------------------------------------


def test_a_line_has_every_column_and_no_hostile_text_breaks_it() -> None:
    """Tabs and line ends stand as escapes, formulas get an apostrophe, nothing is left out."""
    one = compare(
        row(Reason.CANCELED, amount="1.50", currency="=HYPERLINK(1)"),
        seen("PA\tID\n\x1b[2J\u202e", currency="USD"),
        merchant_id="@shop",
    )
    cells = line_of(one).removesuffix("\n").split("\t")
    assert dict(zip(COLUMNS, cells, strict=True)) == {
        "mark": "*",
        "invoice_id": "2675",
        "merchant_id": "'@shop",
        "ledger": "canceled",
        "service": r"PA\tID\n\x1b[2J\u202e",
        "note": "",
        "ledger_amount": "1.50",
        "ledger_currency": "'=HYPERLINK(1)",
        "service_amount": "",
        "service_currency": "USD",
    }


def test_a_row_that_can_not_be_asked_about_is_a_line_too() -> None:
    """A ledger that somebody wrote by hand may hold anything for an id."""
    cells = line_of(not_asked(row(Reason.CANCELED, invoice_id="../\n=1"), merchant_id="m")).split("\t")
    assert cells[:6] == ["!", r"../\n=1", "m", "canceled", "", "not_asked"]


# --- samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("percent", "of", "size"),
    [(10, 300, 30), (1, 5, 1), (0.001, 1000, 1), (100, 7, 7), (50, 0, 0), (33, 10, 4)],
)
def test_a_sample_is_its_share_and_never_empty(percent: float, of: int, size: int) -> None:
    """Rounded up; of nothing there is none."""
    sample = Sample(percent=percent, seed=3)
    draw = Draw(sample, of=of)
    assert sum(draw.takes_next() for _ in range(of)) == draw.size == size_of(sample, of=of) == size


def test_the_same_seed_draws_the_same_sample_and_another_another() -> None:
    """Over a stream, without holding it."""

    def drawn(seed: int) -> list[int]:
        draw = Draw(Sample(percent=10, seed=seed), of=200)
        return [number for number in range(200) if draw.takes_next()]

    assert drawn(5) == drawn(5)
    assert drawn(5) != drawn(6)


def test_every_place_is_drawn_equally_often() -> None:
    """A thousand samples of two out of ten: each place about 200 times."""
    counts: Counter[int] = Counter()
    for seed in range(1000):
        draw = Draw(Sample(percent=20, seed=seed), of=10)
        counts.update(place for place in range(10) if draw.takes_next())
    assert set(counts) == set(range(10))
    assert all(150 < count < 250 for count in counts.values())


@pytest.mark.parametrize(("size", "of"), [(1, 30), (1, 2), (3, 6), (5, 9), (30, 300), (299, 300), (59, 100)])
def test_the_bound_is_the_exact_one(size: int, of: int) -> None:
    """Counted once more with whole numbers: fewer would be missed too often, so many are not."""

    def chance_of_none(wrong: int) -> float:
        return math.comb(of - wrong, size) / math.comb(of, size)

    bound = least_found(size, of=of)
    assert chance_of_none(bound) <= 0.05 + 1e-9
    assert chance_of_none(bound - 1) > 0.05


def test_the_bound_comes_to_the_rule_of_three() -> None:
    """300 of 100,000 without a difference: fewer than 1 % differ."""
    assert 0.0098 < least_found(300, of=100_000) / 100_000 < 0.01
    assert least_found(100_000, of=10_000_000) / 10_000_000 == pytest.approx(3e-5, rel=0.01)


# --- what is said ---------------------------------------------------------------------------------


def reconciled(account: Account, *, size: int = 0, of: int = 0, **fields: Any) -> Reconciled:
    """Build a reconciliation at its end."""
    census = Census(invoices=of, invalid=0, unfit=0, to_ask_of={None: of}, in_sample_of={None: size})
    return Reconciled(
        **{
            "ledger": "l",
            "env": "test",
            "host": "h",
            "merchant_id": "example_merchant",
            "is_live": False,
            "ending": COMPLETE,
            "census": census,
            "sample": Sample(percent=1, seed=7),
            "account": account,
            "differences": None,
            "duration_s": 0.5,
            **fields,
        }
    )


SAME = (usd("1"), seen("CANCELED", amount="1", currency="USD"))
WRONG = (usd("1"), seen("PAID", Reason.PAID, amount="1", currency="USD"))


def test_a_clean_sample_tells_what_it_tells() -> None:
    """The sentence, the number in JSON, and how to draw the same sample again."""
    one = reconciled(account_of(*[SAME] * 300), size=300, of=100_000)
    text = reconciled_text(one)
    assert "0 differences in 300 of 100,000: with 95 % confidence fewer than 993 of all (0.99 %)" in text
    assert "--sample 1% --seed 7 draws the same one" in text
    assert json.loads(reconciled_json(one, exit_code=0))["sample"] == {
        "percent": 1.0,
        "seed": 7,
        "size": 300,
        "fewer_than_differ": 993,
    }


@pytest.mark.parametrize(
    "one",
    [
        reconciled(account_of(SAME, WRONG), size=2, of=100),
        reconciled(account_of(SAME, (usd("1"), seen(None, Reason.NETWORK))), size=2, of=100),
        reconciled(account_of(SAME), size=2, of=100, ending=Ending(state=RunState.STOPPED, why="outage")),
        reconciled(account_of(SAME, SAME), size=2, of=2),
    ],
    ids=["a difference", "one was not read", "stopped in the middle", "everything was looked at"],
)
def test_no_other_sample_is_taken_for_a_proof(one: Reconciled) -> None:
    """What stopped early is no random part, and where something differs the sentence would be wrong."""
    assert one.most_unseen is None
    assert "confidence" not in reconciled_text(one)


def test_the_table_has_a_line_for_each_kind_of_difference() -> None:
    """Marks first; the money that is missing; the invoice that is not there."""
    pairs = [SAME, WRONG, (usd("2.5"), seen(None, Reason.NOT_FOUND)), (row(Reason.PARTIAL), seen("PAID"))]
    text = reconciled_text(reconciled(account_of(*pairs), size=4, of=4, sample=None, differences="d.tsv"))
    assert text == (
        "Differences: 1 as the ledger says, 2 different, 1 not known to the service.\n"
        "\n"
        "  mark  ledger    service   invoices\n"
        "  ----  --------  --------  --------\n"
        "  =     canceled  CANCELED         1\n"
        "  *     canceled  PAID             1\n"
        "  *     partial   PAID             1  paid in full since, as payments do\n"
        "  -     canceled  404              1\n"
        "\n"
        "  4 invoices in the ledger\n"
        "\n"
        "  amount canceled, where the two differ\n"
        "  currency  ledger  service  difference\n"
        "  --------  ------  -------  ----------\n"
        "  USD          4.5        1        -3.5\n"
        "\n"
        "  differences  d.tsv\n"
        "  ledger       l\n"
        "  time         0.5 s\n"
    )


@pytest.mark.parametrize(
    ("ending", "headline"),
    [
        (COMPLETE, "No difference: 1 as the ledger says."),
        (Ending(state=RunState.STOPPED, why="x"), "Stopped for safety, 2 invoices not reached; 1 as"),
        (
            Ending(state=RunState.STOPPED, why="--limit 1 was reached.", as_asked=True),
            "Stopped where asked: --limit 1 was reached. 2 invoices not reached; 1 as",
        ),
        (Ending(state=RunState.INTERRUPTED, why="SIGINT"), "Interrupted (SIGINT), 2 invoices not reached;"),
    ],
    ids=["complete", "safety", "as asked", "interrupted"],
)
def test_the_first_line_says_how_it_ended(ending: Ending, headline: str) -> None:
    """And how much of it there is."""
    one = reconciled(account_of(SAME), size=3, of=3, sample=None, ending=ending)
    assert reconciled_text(one).startswith(headline)


def test_the_json_has_these_keys() -> None:
    """They are an interface."""
    one = reconciled(account_of(WRONG), size=1, of=1, sample=None)
    document = json.loads(reconciled_json(one, exit_code=3))
    assert " ".join(document) == (
        "ledger env host merchant_id live state why invoices not_asked to_ask sample compared not_reached "
        "marks kinds amounts_canceled without_amount differences duration_s exit_code"
    )
    assert document["marks"] == {"same": 0, "different": 1, "missing": 0, "unread": 0}
    assert document["kinds"] == [
        {"mark": "*", "ledger": "canceled", "service": "PAID", "note": None, "invoices": 1}
    ]
    assert document["amounts_canceled"] == {"USD": {"ledger": "1", "service": "0"}}
    assert (document["merchant_id"], document["sample"]) == ("exa***nt", None)


def test_nothing_that_ledger_or_service_says_moves_a_cursor() -> None:
    """The summary is ASCII, currencies included."""
    answer = row(Reason.CANCELED, amount="1", currency="\x1b[2J\u202e")
    account = account_of((answer, seen("\x07")))
    text = reconciled_text(reconciled(account, ledger="l\x1b", size=1, of=1, sample=None))
    assert text.isascii()
    assert text.replace("\n", "").isprintable()
