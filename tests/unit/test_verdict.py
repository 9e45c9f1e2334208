"""The two tables of the verdict, row by row, and that they are total."""

from __future__ import annotations

import itertools

import pytest

from batchcancel.errors import NotSentError, ReplyLostError
from batchcancel.model import Invoice, MatchField, Reason, Reply, RequestKind, ResolvedBy
from batchcancel.verdict import (
    Answer,
    AskKey,
    Cancelable,
    Decision,
    Facts,
    Send,
    Settle,
    SignAfresh,
    is_match,
    is_unanswered,
    judge_lookup,
    judge_post,
)

POST, GET = RequestKind.CANCEL, RequestKind.LOOK_UP
LOST, NOT_SENT = ReplyLostError("reset"), NotSentError("refused")
LOOK_UP_NOW, LOOK_UP_LATER, POST_LATER = Send(GET), Send(GET, None), Send(POST, None)


def reply(status: int, state: str | None = None, *, object_: bool = True, **invoice: object) -> Reply:
    """Build a reply; the invoice is 2675 unless told."""
    fields = {"id": "2675", "number": "2675", "status": state, **invoice}
    return Reply(http_status=status, is_object=object_, invoice=Invoice(**fields))  # type: ignore[arg-type]


def facts(**changes: object) -> Facts:
    """Build the facts of a first request with everything left."""
    return Facts(**{"invoice_id": "2675", "posts_left": 4, "lookups_left": 5, **changes})  # type: ignore[arg-type]


POST_ROWS: list[tuple[str, Answer, Facts, Decision]] = [
    ("good 2xx", reply(200, "CANCELED"), facts(), Settle(Reason.CANCELED, ResolvedBy.RESPONSE)),
    ("good 201", reply(201, "CANCELED"), facts(), Settle(Reason.CANCELED, ResolvedBy.RESPONSE)),
    (
        "asked id in invoiceNumber",
        reply(200, "CANCELED", id="7"),
        facts(),
        Settle(Reason.CANCELED, ResolvedBy.RESPONSE),
    ),
    ("good 2xx of a canary", reply(200, "CANCELED"), facts(is_canary=True), LOOK_UP_NOW),
    ("canceled but another invoice", reply(200, "CANCELED", id="1", number="1"), facts(), LOOK_UP_NOW),
    ("canceled but no id", reply(200, "CANCELED", id=None, number=None), facts(), LOOK_UP_NOW),
    ("2xx with another status", reply(200, "SENT"), facts(), LOOK_UP_NOW),
    ("2xx in lower case", reply(200, "canceled"), facts(), LOOK_UP_NOW),
    ("2xx that is no object", Reply(http_status=200), facts(), LOOK_UP_NOW),
    ("429", reply(429), facts(), Send(POST, free=True)),
    ("429, time used up", reply(429), facts(out_of_time=True), Settle(Reason.RATE_LIMITED)),
    (
        "429, time used up, unanswered",
        reply(429),
        facts(out_of_time=True, unanswered=True),
        Settle(Reason.UNKNOWN),
    ),
    ("401", reply(401), facts(), SignAfresh(POST)),
    ("403", reply(403), facts(), SignAfresh(POST)),
    ("407", reply(407), facts(), SignAfresh(POST)),
    ("401 again", reply(401), facts(signed_afresh=True), AskKey(POST_LATER)),
    ("407 again", reply(407), facts(signed_afresh=True), AskKey(POST_LATER)),
    (
        "401 again, attempts used up",
        reply(401),
        facts(signed_afresh=True, posts_left=0),
        AskKey(Settle(Reason.REFUSED, ResolvedBy.RESPONSE)),
    ),
    ("403 again", reply(403), facts(signed_afresh=True), LOOK_UP_NOW),
    ("not sent", NOT_SENT, facts(), POST_LATER),
    ("not sent, attempts used up", NOT_SENT, facts(posts_left=0), Settle(Reason.NETWORK)),
    (
        "not sent, an earlier one unanswered",
        NOT_SENT,
        facts(posts_left=0, unanswered=True),
        Settle(Reason.UNKNOWN),
    ),
    ("reply lost", LOST, facts(), LOOK_UP_NOW),
    ("reply lost, no look-up left", LOST, facts(lookups_left=0), Settle(Reason.UNKNOWN)),
    ("reply lost, time used up", LOST, facts(out_of_time=True), LOOK_UP_NOW),
    ("302", reply(302), facts(), LOOK_UP_NOW),
    ("400", reply(400), facts(), LOOK_UP_NOW),
    ("404", reply(404), facts(), LOOK_UP_NOW),
    ("409", reply(409), facts(), LOOK_UP_NOW),
    ("500", reply(500), facts(), LOOK_UP_NOW),
    ("502 with JSON", reply(502), facts(), LOOK_UP_NOW),
    ("504 with HTML", reply(504, object_=False), facts(), LOOK_UP_NOW),
]

REFUSED_ONCE = {"refusals": 1, "refused_last": True}
CANARY = facts(is_canary=True, unconfirmed=True)
LAST_CANARY = facts(is_canary=True, unconfirmed=True, lookups_left=0)
LATE_CANARY = facts(is_canary=True, unconfirmed=True, out_of_time=True)
LOOKUP_ROWS: list[tuple[str, Answer, Facts, Decision]] = [
    ("PAID", reply(200, "PAID"), facts(), Settle(Reason.PAID, ResolvedBy.LOOKUP)),
    ("PARTIAL", reply(200, "PARTIAL"), facts(), Settle(Reason.PARTIAL, ResolvedBy.LOOKUP)),
    (
        "another id is taken for the asked one",
        reply(200, "PAID", id="9", number="9"),
        facts(),
        Settle(Reason.PAID, ResolvedBy.LOOKUP),
    ),
    (
        "CANCELED by somebody",
        reply(200, "CANCELED"),
        facts(**REFUSED_ONCE),
        Settle(Reason.ALREADY_CANCELED, ResolvedBy.LOOKUP),
    ),
    (
        "CANCELED after an unanswered POST",
        reply(200, "CANCELED"),
        facts(unanswered=True),
        Settle(Reason.CANCELED, ResolvedBy.LOOKUP),
    ),
    (
        "CANCELED since the ledger began",
        reply(200, "CANCELED", canceled_at=1000.0),
        facts(ledger_began_at=1000.0),
        Settle(Reason.CANCELED, ResolvedBy.LOOKUP),
    ),
    (
        "CANCELED before the ledger began",
        reply(200, "CANCELED", canceled_at=999.0),
        facts(ledger_began_at=1000.0),
        Settle(Reason.ALREADY_CANCELED, ResolvedBy.LOOKUP),
    ),
    ("SENT after a lost reply", reply(200, "SENT"), facts(unanswered=True), POST_LATER),
    ("DRAFT after a lost reply", reply(200, "DRAFT"), facts(unanswered=True), POST_LATER),
    ("CREATED after a lost reply", reply(200, "CREATED"), facts(unanswered=True), POST_LATER),
    (
        "SENT at the end, unanswered",
        reply(200, "SENT"),
        facts(unanswered=True, posts_left=0),
        Settle(Reason.UNKNOWN),
    ),
    (
        "SENT at the end, all answered",
        reply(200, "SENT"),
        facts(posts_left=0),
        Settle(Reason.SERVER_ERROR, ResolvedBy.LOOKUP),
    ),
    ("SENT where the run began with a look-up", reply(200, "SENT"), facts(posted=False), Send(POST)),
    ("SENT after a 4xx", reply(200, "SENT"), facts(**REFUSED_ONCE), POST_LATER),
    (
        "SENT after a second 4xx",
        reply(200, "SENT"),
        facts(refusals=2, refused_last=True),
        Settle(Reason.REJECTED, ResolvedBy.LOOKUP),
    ),
    (
        "SENT after a 4xx, attempts used up",
        reply(200, "SENT"),
        facts(**REFUSED_ONCE, posts_left=0),
        Settle(Reason.REJECTED, ResolvedBy.LOOKUP),
    ),
    (
        "SENT after a second 403",
        reply(200, "SENT"),
        facts(forbidden=True),
        Settle(Reason.REFUSED, ResolvedBy.LOOKUP),
    ),
    (
        "PAID after a second 403",
        reply(200, "PAID"),
        facts(forbidden=True),
        Settle(Reason.PAID, ResolvedBy.LOOKUP),
    ),
    ("PENDING", reply(200, "PENDING"), facts(), Send(GET, 2.0)),
    ("PENDING again", reply(200, "PENDING"), facts(pendings=1), Send(GET, 10.0)),
    (
        "PENDING three times",
        reply(200, "PENDING"),
        facts(pendings=2),
        Settle(Reason.PENDING, ResolvedBy.LOOKUP),
    ),
    (
        "PENDING, look-ups used up",
        reply(200, "PENDING"),
        facts(lookups_left=0),
        Settle(Reason.PENDING, ResolvedBy.LOOKUP),
    ),
    (
        "PENDING, time used up",
        reply(200, "PENDING"),
        facts(out_of_time=True),
        Settle(Reason.PENDING, ResolvedBy.LOOKUP),
    ),
    (
        "a status that is not listed",
        reply(200, "ARCHIVED"),
        facts(),
        Settle(Reason.UNKNOWN_STATUS, ResolvedBy.LOOKUP),
    ),
    ("404 with JSON", reply(404), facts(), Settle(Reason.NOT_FOUND, ResolvedBy.LOOKUP)),
    ("404 with HTML", reply(404, object_=False), facts(), LOOK_UP_LATER),
    ("400", reply(400), facts(), AskKey(Settle(Reason.REFUSED, ResolvedBy.LOOKUP))),
    ("401", reply(401), facts(), SignAfresh(GET)),
    ("401 again", reply(401), facts(signed_afresh=True), AskKey(LOOK_UP_LATER)),
    (
        "401 again, look-ups used up",
        reply(401),
        facts(signed_afresh=True, lookups_left=0),
        AskKey(Settle(Reason.REFUSED, ResolvedBy.LOOKUP)),
    ),
    ("403", reply(403), facts(), SignAfresh(GET)),
    (
        "403 again",
        reply(403),
        facts(signed_afresh=True),
        AskKey(Settle(Reason.REFUSED, ResolvedBy.LOOKUP)),
    ),
    (
        "403 again after a lost reply",
        reply(403),
        facts(signed_afresh=True, unanswered=True),
        AskKey(Settle(Reason.UNKNOWN)),
    ),
    ("429", reply(429), facts(), Send(GET, free=True)),
    ("429, time used up", reply(429), facts(out_of_time=True), Settle(Reason.RATE_LIMITED)),
    ("500", reply(500), facts(), LOOK_UP_LATER),
    ("500, look-ups used up", reply(500), facts(lookups_left=0), Settle(Reason.UNKNOWN)),
    ("500, time used up", reply(500), facts(out_of_time=True), Settle(Reason.UNKNOWN)),
    ("302", reply(302), facts(), LOOK_UP_LATER),
    ("2xx without a status", reply(200), facts(), LOOK_UP_LATER),
    ("2xx that is no object", Reply(http_status=200), facts(), LOOK_UP_LATER),
    ("reply lost", LOST, facts(), LOOK_UP_LATER),
    ("not sent", NOT_SENT, facts(), LOOK_UP_LATER),
    ("canary CANCELED", reply(200, "CANCELED"), CANARY, Settle(Reason.CANCELED, ResolvedBy.LOOKUP)),
    ("canary SENT", reply(200, "SENT"), CANARY, LOOK_UP_LATER),
    ("canary PAID", reply(200, "PAID"), CANARY, LOOK_UP_LATER),
    ("canary 404", reply(404), CANARY, LOOK_UP_LATER),
    ("canary 400", reply(400), CANARY, LOOK_UP_LATER),
    ("canary 401", reply(401), CANARY, SignAfresh(GET)),
    ("canary 500, look-ups used up", reply(500), LAST_CANARY, Settle(Reason.UNKNOWN)),
    ("canary SENT, look-ups used up", reply(200, "SENT"), LAST_CANARY, Settle(Reason.UNKNOWN)),
    ("canary CANCELED by a 404", reply(404, "CANCELED"), CANARY, LOOK_UP_LATER),
    ("canary 429, time used up", reply(429), LATE_CANARY, Settle(Reason.UNKNOWN)),
]


@pytest.mark.parametrize(("_", "answer", "known", "expected"), POST_ROWS, ids=[row[0] for row in POST_ROWS])
def test_post_table(_: str, answer: Answer, known: Facts, expected: Decision) -> None:
    """Each row of the first table decides as the design says."""
    assert judge_post(answer, known) == expected


@pytest.mark.parametrize(
    ("_", "answer", "known", "expected"), LOOKUP_ROWS, ids=[row[0] for row in LOOKUP_ROWS]
)
def test_lookup_table(_: str, answer: Answer, known: Facts, expected: Decision) -> None:
    """Each row of the second table decides as the design says."""
    assert judge_lookup(answer, known) == expected


def _everything() -> list[Answer]:
    states = [None, "DRAFT", "CREATED", "SENT", "PARTIAL", "PAID", "CANCELED", "PENDING", "SOMETHING"]
    replies = [
        reply(status, state, object_=object_)
        for status, state, object_ in itertools.product(range(100, 600), states, [True, False])
    ]
    return [*replies, reply(999), LOST, NOT_SENT]


def test_only_a_good_reply_settles_a_post() -> None:
    """No status, body or failure but the documented success makes a POST an answer by itself."""
    settled = [answer for answer in _everything() if isinstance(judge_post(answer, facts()), Settle)]
    assert settled == [reply(status, "CANCELED") for status in range(200, 300)]


def test_every_answer_to_a_lookup_has_a_decision() -> None:
    """The second table is total, and what settles rests on a status or a 404 of the service."""
    for answer in _everything():
        decision = judge_lookup(answer, facts())
        if isinstance(decision, Settle):
            assert isinstance(answer, Reply)
            assert (answer.is_success and answer.invoice.status) or answer.http_status == 404
        else:
            assert isinstance(decision, Send | SignAfresh | AskKey)


def test_nothing_more_is_sent_when_budgets_are_used_up() -> None:
    """With no attempt, no look-up and no time left, every answer ends the invoice (after the key)."""
    spent = facts(posts_left=0, lookups_left=0, out_of_time=True, signed_afresh=True, pendings=2)
    for answer, judge in itertools.product(_everything(), [judge_post, judge_lookup]):
        decision = judge(answer, spent)
        final = decision.then if isinstance(decision, AskKey) else decision
        assert isinstance(final, Settle), answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(reply(200, "CANCELED"), False, id="good 2xx"),
        pytest.param(reply(200, "SENT"), True, id="bad 2xx"),
        pytest.param(reply(400), False, id="400"),
        pytest.param(reply(429), False, id="429"),
        pytest.param(reply(302), True, id="302"),
        pytest.param(reply(500), True, id="500"),
        pytest.param(LOST, True, id="lost"),
        pytest.param(NOT_SENT, False, id="not sent"),
    ],
)
def test_a_post_is_unanswered_unless_refused_or_done(answer: Answer, *, expected: bool) -> None:
    """Only a 4xx, a good 2xx and what never left say for sure what became of a POST."""
    assert is_unanswered(answer, "2675") is expected


INVOICE = Invoice(amount="2623.640", currency="USD", due_date="2019-07-11")


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        pytest.param(MatchField.TOTAL, "2623.64", True, id="total"),
        pytest.param(MatchField.TOTAL, " 2,623.6400 ", True, id="total, grouped"),
        pytest.param(MatchField.TOTAL, "2623.65", False, id="another total"),
        pytest.param(MatchField.TOTAL, "-2623.64", False, id="negative"),
        pytest.param(MatchField.TOTAL, "26,23.64", False, id="grouped wrongly"),
        pytest.param(MatchField.TOTAL, "2.623,64", False, id="points and commas the other way"),
        pytest.param(MatchField.TOTAL, "2.62364E3", False, id="damaged by a spreadsheet"),
        pytest.param(MatchField.TOTAL, "$2623.64", False, id="with a sign"),
        pytest.param(MatchField.TOTAL, "", False, id="empty total"),
        pytest.param(MatchField.TOTAL, "NaN", False, id="not a number"),
        pytest.param(MatchField.TOTAL, "٢٦٢٣.٦٤", False, id="other digits"),
        pytest.param(MatchField.CURRENCY, "usd ", True, id="currency"),
        pytest.param(MatchField.CURRENCY, "EUR", False, id="another currency"),
        pytest.param(MatchField.CURRENCY, "", False, id="empty currency"),
        pytest.param(MatchField.DUE_DATE, "2019-07-11", True, id="date"),
        pytest.param(MatchField.DUE_DATE, "11/07/2019", False, id="a date in another form"),
        pytest.param(MatchField.DUE_DATE, "", False, id="empty date"),
    ],
)
def test_a_field_matches_only_what_is_the_same(field: MatchField, text: str, *, expected: bool) -> None:
    """In doubt nothing matches, so that nothing is canceled."""
    assert is_match(INVOICE, {field: text}) is expected


@pytest.mark.parametrize("field", list(MatchField))
@pytest.mark.parametrize("text", ["", "0", "None"], ids=repr)
def test_what_the_invoice_lacks_matches_nothing(field: MatchField, text: str) -> None:
    """An absent field is not an empty one."""
    assert not is_match(Invoice(), {field: text})


def test_every_field_has_to_match() -> None:
    """One right field does not outweigh a wrong one."""
    right = {MatchField.TOTAL: "2623.64", MatchField.CURRENCY: "USD"}
    assert is_match(INVOICE, right)
    assert not is_match(INVOICE, right | {MatchField.DUE_DATE: "2019-07-12"})


def test_nothing_is_canceled_that_does_not_match() -> None:
    """Whatever a look-up says: no POST goes out, and no status is taken for the manifest's invoice."""
    for answer in _everything():
        decision = judge_lookup(answer, facts(posted=False, to_match={MatchField.TOTAL: "1"}))
        assert not (isinstance(decision, Send) and decision.kind is POST)
        if isinstance(decision, Settle):
            assert decision.reason in {Reason.MISMATCH, Reason.NOT_FOUND}


@pytest.mark.parametrize(
    ("status", "known", "reason"),
    [
        pytest.param("CANCELED", {"doubted_earlier": True}, Reason.ALREADY_CANCELED, id="left-unknown"),
        pytest.param("CANCELED", {"ledger_began_at": 50.0}, Reason.CANCELED, id="canceled-since-it-began"),
        pytest.param("CANCELED", {"ledger_began_at": 150.0}, Reason.MISMATCH, id="canceled-before"),
        pytest.param("SENT", {"doubted_earlier": True}, Reason.MISMATCH, id="left-unknown-and-still-open"),
        pytest.param("PAID", {"doubted_earlier": True}, Reason.MISMATCH, id="left-unknown-and-paid"),
    ],
)
def test_no_mismatch_hides_what_this_ledger_may_have_canceled(
    status: str, known: dict[str, object], reason: Reason
) -> None:
    """A mismatch says that nothing was canceled, and a run before this one may have been without --match."""
    wrong = facts(posted=False, to_match={MatchField.TOTAL: "1"}, **known)
    assert judge_lookup(reply(200, status, amount="2", canceled_at=100.0), wrong) == Settle(
        reason, ResolvedBy.LOOKUP
    )


def test_a_canary_is_never_posted_again() -> None:
    """Once its cancelation was accepted, it ends as canceled or unknown."""
    for answer, known in itertools.product(_everything(), (CANARY, LAST_CANARY)):
        decision = judge_lookup(answer, known)
        then = decision.then if isinstance(decision, AskKey) else decision
        if isinstance(then, Settle):
            assert then.reason in {Reason.CANCELED, Reason.UNKNOWN}
        else:
            assert isinstance(then, Send | SignAfresh)
            assert then.kind is GET


@pytest.mark.parametrize(
    ("status", "decision"),
    [
        ("DRAFT", Cancelable()),
        ("CREATED", Cancelable()),
        ("SENT", Cancelable()),
        ("PAID", Settle(Reason.PAID, ResolvedBy.LOOKUP)),
        ("PARTIAL", Settle(Reason.PARTIAL, ResolvedBy.LOOKUP)),
        ("CANCELED", Settle(Reason.ALREADY_CANCELED, ResolvedBy.LOOKUP)),
        ("PENDING", Settle(Reason.PENDING, ResolvedBy.LOOKUP)),
        ("ARCHIVED", Settle(Reason.UNKNOWN_STATUS, ResolvedBy.LOOKUP)),
    ],
)
def test_who_only_looks_takes_the_status_as_it_is(status: str, decision: Decision) -> None:
    """An open invoice would be canceled; a payment under way is not waited for."""
    assert judge_lookup(reply(200, status), facts(looks_only=True, posted=False)) == decision


def test_who_only_looks_is_never_told_to_post() -> None:
    """Whatever comes back, nothing follows but another look-up."""
    looking = [facts(looks_only=True, posted=False, lookups_left=left, to_match=wanted) for left in (0, 1, 5)
               for wanted in (None, {MatchField.CURRENCY: "USD"})]  # fmt: skip
    for answer, known in itertools.product(_everything(), looking):
        decision = judge_lookup(answer, known)
        then = decision.then if isinstance(decision, AskKey) else decision
        if isinstance(then, Send | SignAfresh):
            assert then.kind is GET
