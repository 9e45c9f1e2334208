"""One invoice from its first request to its row, over a real pace, on a clock that costs no time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from batchcancel.errors import (
    CredentialsRefusedError,
    HostUntrustedError,
    NotSentError,
    ReplyLostError,
    TransportError,
)
from batchcancel.model import (
    Event,
    Invoice,
    ManifestRow,
    MatchField,
    Outcome,
    Reason,
    Reply,
    RequestKind,
    ResolvedBy,
    Result,
    RetryScheduled,
    Subject,
)
from batchcancel.pace import Pace, Quota
from batchcancel.retry import Case, LeftOpen, Retrier, Settled, Waiting

InVirtualTime = Callable[[Coroutine[Any, Any, Any]], Any]
Answer = Reply | TransportError
CANCEL, LOOK_UP, PROBE = RequestKind.CANCEL, RequestKind.LOOK_UP, RequestKind.PROBE
LOST, NOT_SENT = ReplyLostError("reset"), NotSentError("refused")


def said(http_status: int, status: str | None = None, message: str | None = None) -> Reply:
    """Build the reply about invoice 2675."""
    invoice = Invoice(id="2675", status=status, amount="10.10", currency="USD")
    return Reply(http_status=http_status, is_object=True, invoice=invoice, message=message)


DONE, SENT, REFUSED = said(200, "CANCELED"), said(200, "SENT"), said(400, "BADREQUEST", "Not allowed.")


class Script:
    """A service that answers each kind of request from a list; the last answer stays."""

    def __init__(
        self, posts: Sequence[Answer] = (), lookups: Sequence[Answer] = (), probes: Sequence[Answer] = ()
    ) -> None:
        self.answers = {CANCEL: list(posts), LOOK_UP: list(lookups), PROBE: list(probes) or [said(200)]}
        self.sent: list[str] = []
        self.times: list[float] = []
        self.events: list[Event] = []

    async def __call__(self, kind: RequestKind, _subject: Subject) -> Reply:
        self.sent.append(kind.value)
        self.times.append(asyncio.get_running_loop().time())
        answers = self.answers[kind]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, TransportError):
            raise answer
        return answer

    async def settle(
        self,
        *,
        max_attempts: int = 5,
        is_in_doubt: bool = False,
        is_canary: bool = False,
        match: dict[MatchField, str] | None = None,
        ledger_began_at: float | None = None,
        before: Callable[[Pace], object] = lambda _pace: None,
    ) -> Result | None:
        """Drive one invoice to its end; None if it is left open."""
        pace = Pace(
            self,
            slots=asyncio.Semaphore(4),
            quota=Quota(None, on_event=self.events.append),
            max_outage_s=600,
            on_event=self.events.append,
        )
        pace.unfinished = lambda: 1
        before(pace)
        retrier = Retrier(
            pace,
            max_attempts=max_attempts,
            ledger_began_at=None if ledger_began_at is None else lambda: ledger_began_at,
            on_event=self.events.append,
        )
        row = ManifestRow(row=1, invoice_id="2675", match=match)
        case = retrier.open_case(row, is_in_doubt=is_in_doubt)
        case.is_canary = is_canary
        step = await retrier.advance(case)
        if isinstance(step, Waiting):
            step = await retrier.persist(case, step)
        return step.result if isinstance(step, Settled) else None


SCENARIOS = [
    pytest.param(
        Script([DONE]), "cancel", Reason.CANCELED, ResolvedBy.RESPONSE, (1, 0), id="canceled at once"
    ),
    pytest.param(
        Script([REFUSED], [said(200, "PAID")]),
        "cancel look_up",
        Reason.PAID,
        ResolvedBy.LOOKUP,
        (1, 1),
        id="paid",
    ),
    pytest.param(
        Script([LOST], [DONE]),
        "cancel look_up",
        Reason.CANCELED,
        ResolvedBy.LOOKUP,
        (1, 1),
        id="commit whose reply was lost: one POST, one GET",
    ),
    pytest.param(
        Script([said(502), DONE], [SENT]),
        "cancel look_up cancel",
        Reason.CANCELED,
        ResolvedBy.RESPONSE,
        (2, 1),
        id="502 that did nothing",
    ),
    pytest.param(
        Script([REFUSED, DONE], [SENT]),
        "cancel look_up cancel",
        Reason.CANCELED,
        ResolvedBy.RESPONSE,
        (2, 1),
        id="a payment had lapsed",
    ),
    pytest.param(
        Script([REFUSED], [SENT]),
        "cancel look_up cancel look_up",
        Reason.REJECTED,
        ResolvedBy.LOOKUP,
        (2, 2),
        id="rejected twice",
    ),
    pytest.param(
        Script([REFUSED], [said(200, "PENDING")]),
        "cancel look_up look_up look_up",
        Reason.PENDING,
        ResolvedBy.LOOKUP,
        (1, 3),
        id="pending to the end",
    ),
    pytest.param(
        Script([said(429), said(429), DONE]),
        "cancel cancel cancel",
        Reason.CANCELED,
        ResolvedBy.RESPONSE,
        (1, 0),
        id="429 is no attempt",
    ),
    pytest.param(
        Script([said(401), DONE]),
        "cancel cancel",
        Reason.CANCELED,
        ResolvedBy.RESPONSE,
        (1, 0),
        id="401 signed afresh is no attempt",
    ),
    pytest.param(
        Script([said(401), said(401), DONE]),
        "cancel cancel probe cancel",
        Reason.CANCELED,
        ResolvedBy.RESPONSE,
        (2, 0),
        id="401 twice, and the key is fine",
    ),
    pytest.param(
        Script([said(403)], [said(403)]),
        "cancel cancel look_up look_up probe",
        Reason.REFUSED,
        ResolvedBy.LOOKUP,
        (1, 1),
        id="forbidden invoice",
    ),
    pytest.param(
        Script([said(403)], [SENT]),
        "cancel cancel look_up",
        Reason.REFUSED,
        ResolvedBy.LOOKUP,
        (1, 1),
        id="forbidden to cancel, still open",
    ),
    pytest.param(
        Script([NOT_SENT, DONE]),
        "cancel cancel",
        Reason.CANCELED,
        ResolvedBy.RESPONSE,
        (2, 0),
        id="first one did not leave",
    ),
    pytest.param(
        Script([said(404)], [said(404)]),
        "cancel look_up",
        Reason.NOT_FOUND,
        ResolvedBy.LOOKUP,
        (1, 1),
        id="not found",
    ),
]


@pytest.mark.parametrize(("script", "sent", "reason", "resolved_by", "counts"), SCENARIOS)
def test_invoice_ends_as_the_service_says(
    in_virtual_time: InVirtualTime,
    script: Script,
    sent: str,
    reason: Reason,
    resolved_by: ResolvedBy,
    counts: tuple[int, int],
) -> None:
    """Each course of replies sends exactly these requests and ends in this row."""
    result = in_virtual_time(script.settle())
    assert " ".join(script.sent) == sent
    assert (result.reason, result.resolved_by) == (reason, resolved_by)
    assert (result.attempts, result.lookups) == counts
    assert result.outcome is reason.outcome


def test_attempts_are_bounded_and_the_end_is_unknown_after_silence(in_virtual_time: InVirtualTime) -> None:
    """POSTs that nobody answers end in unknown: the service may have acted."""
    script = Script([said(500)], [SENT])
    result = in_virtual_time(script.settle(max_attempts=3))
    assert script.sent == ["cancel", "look_up"] * 3
    assert (result.reason, result.resolved_by, result.attempts, result.lookups) == (
        Reason.UNKNOWN,
        None,
        3,
        3,
    )


def test_requests_that_never_left_end_in_network(in_virtual_time: InVirtualTime) -> None:
    """Where nothing can have happened, the row says so; the signed read showed no outage."""
    script = Script([NOT_SENT])
    result = in_virtual_time(script.settle(max_attempts=2))
    assert script.sent.count("cancel") == 2
    assert "probe" in script.sent
    assert (result.reason, result.http_status) == (Reason.NETWORK, None)


def test_back_off_grows_with_jitter_from_half_a_second_to_twenty(in_virtual_time: InVirtualTime) -> None:
    """The waits are tenacity's jittered exponential, and each is announced before it begins."""
    script = Script([said(500)], [SENT])
    in_virtual_time(script.settle(max_attempts=9))
    waits = [event.wait_s for event in script.events if isinstance(event, RetryScheduled)]
    assert len(waits) == 8
    assert all(0.5 <= wait <= min(20.0, 2.0**number) for number, wait in enumerate(waits))
    assert len(set(waits)) > 4


def test_pending_is_looked_up_after_two_and_ten_seconds(in_virtual_time: InVirtualTime) -> None:
    """A payment in progress gets a little time."""
    script = Script([REFUSED], [said(200, "PENDING")])
    in_virtual_time(script.settle())
    assert [round(at - script.times[0], 3) for at in script.times] == [0.0, 0.0, 2.0, 12.0]


def test_an_invoice_has_five_minutes_in_all(in_virtual_time: InVirtualTime) -> None:
    """When its time is used up an invoice is not waited for any more."""
    script = Script([said(429)])
    result = in_virtual_time(script.settle(before=_with_patience))
    assert result.reason is Reason.RATE_LIMITED
    assert 300 < script.times[-1] - script.times[0] < 330


def _with_patience(pace: Pace) -> None:
    pace._max_outage_s = 1e6


def test_an_outage_costs_no_attempt(in_virtual_time: InVirtualTime) -> None:
    """One row, a service that is down for a while: the row gets its answer all the same."""
    script = Script([NOT_SENT] * 3 + [DONE], probes=[LOST] * 12 + [said(200)])
    result = in_virtual_time(script.settle(max_attempts=2))
    assert result.reason is Reason.CANCELED
    assert script.sent.count("probe") in {
        13,
        14,
    }  # the jitter decides whether the streak after it is asked about
    assert script.times[-1] - script.times[0] > 60


def test_a_run_after_unknown_begins_with_a_look_up(in_virtual_time: InVirtualTime) -> None:
    """Where an earlier POST may have acted, its effect is looked for before another is sent."""
    script = Script([DONE], [SENT])
    result = in_virtual_time(script.settle(is_in_doubt=True))
    assert script.sent == ["look_up", "cancel"]
    assert (result.reason, result.attempts, result.lookups) == (Reason.CANCELED, 1, 1)


@pytest.mark.parametrize("reply", [said(403), said(429), said(400)], ids=["403", "429", "400"])
def test_unknown_is_not_forgotten_until_a_look_up_has_read_the_status(
    in_virtual_time: InVirtualTime, reply: Reply
) -> None:
    """Where the next run's look-up is refused, the run after it has to look first too."""
    script = Script([DONE], [reply])
    result = in_virtual_time(script.settle(is_in_doubt=True, before=_with_patience))
    assert (result.reason, result.attempts) == (Reason.UNKNOWN, 0)


def test_another_invoices_fields_never_stand_in_a_row(in_virtual_time: InVirtualTime) -> None:
    """A 2xx about another invoice leads to a look-up; if that is not sent any more, nothing of it stays."""
    other = Reply(http_status=200, is_object=True, invoice=Invoice(id="9", status="CANCELED", amount="1.00"))

    def stop_then_throttle(pace: Pace) -> None:
        asyncio.get_running_loop().call_later(1, pace.stop)

    result = in_virtual_time(
        Script([other], [Reply(http_status=429, retry_after_s=60.0)]).settle(before=stop_then_throttle)
    )
    assert (result.reason, result.invoice_status, result.amount) == (Reason.UNKNOWN, None, None)


def test_an_untrusted_host_leaves_the_invoice_open(in_virtual_time: InVirtualTime) -> None:
    """The handshake failed, so nothing of this request left."""

    async def refuse(_kind: RequestKind, _subject: Subject) -> Reply:
        raise HostUntrustedError("untrusted")

    async def scenario() -> object:
        pace = Pace(refuse, slots=asyncio.Semaphore(1), quota=Quota(None), max_outage_s=600)
        retrier = Retrier(pace, max_attempts=5, ledger_began_at=None)
        case = retrier.open_case(ManifestRow(row=1, invoice_id="2675"))
        with pytest.raises(HostUntrustedError):
            await retrier.advance(case)
        return retrier.abandon(case)

    assert in_virtual_time(scenario()) == LeftOpen()


@pytest.mark.parametrize(
    ("canceled_at", "reason"),
    [(500.0, Reason.ALREADY_CANCELED), (1500.0, Reason.CANCELED), (None, Reason.ALREADY_CANCELED)],
    ids=["before the ledger", "since the ledger began", "undated"],
)
def test_history_tells_our_cancelation_from_an_earlier_one(
    in_virtual_time: InVirtualTime, canceled_at: float | None, reason: Reason
) -> None:
    """After a kill the POST is refused, and the invoice's own history says whose doing it was."""
    canceled = Reply(
        http_status=200, is_object=True, invoice=Invoice(status="CANCELED", canceled_at=canceled_at)
    )
    result = in_virtual_time(Script([REFUSED], [canceled]).settle(ledger_began_at=1000.0))
    assert result.reason is reason


def test_row_carries_the_deciding_reply_and_the_refusals_words(in_virtual_time: InVirtualTime) -> None:
    """Amounts come from the invoice, the message from the refusal, and only errors carry one."""
    rejected = in_virtual_time(Script([REFUSED], [SENT]).settle())
    assert (rejected.message, rejected.amount, rejected.currency) == ("Not allowed.", "10.10", "USD")
    assert (rejected.invoice_status, rejected.http_status) == ("SENT", 200)
    paid = in_virtual_time(Script([REFUSED], [said(200, "PAID")]).settle())
    assert (paid.message, paid.outcome) == (None, Outcome.ALREADY_PAID)


def test_an_error_bodys_status_is_not_the_invoices(in_virtual_time: InVirtualTime) -> None:
    """NOTFOUND and BADREQUEST are no statuses of an invoice."""
    result = in_virtual_time(Script([said(404)], [said(404, "NOTFOUND")]).settle())
    assert (result.invoice_status, result.amount, result.http_status) == (None, None, 404)


def test_a_refused_key_is_raised_and_leaves_the_invoice_open(in_virtual_time: InVirtualTime) -> None:
    """Three refused signed reads end the run; the invoice keeps no row."""
    script = Script([said(401)], probes=[said(401)])

    async def scenario() -> object:
        pace = Pace(script, slots=asyncio.Semaphore(1), quota=Quota(None), max_outage_s=600)
        retrier = Retrier(pace, max_attempts=5, ledger_began_at=None)
        case = retrier.open_case(ManifestRow(row=1, invoice_id="2675"))
        with pytest.raises(CredentialsRefusedError):
            await retrier.advance(case)
        return retrier.abandon(case)

    assert in_virtual_time(scenario()) == LeftOpen()
    assert script.sent == ["cancel", "cancel", "probe", "probe", "probe"]


def test_an_account_that_is_refused_everywhere_is_no_invoices_fault(in_virtual_time: InVirtualTime) -> None:
    """Invoicing that is not enabled answers 400 to the look-up and to the signed read: exit 4, no row."""
    script = Script([said(400)], [said(400)], probes=[said(400)])

    async def scenario() -> object:
        pace = Pace(script, slots=asyncio.Semaphore(1), quota=Quota(None), max_outage_s=600)
        await pace.greet()
        retrier = Retrier(pace, max_attempts=5, ledger_began_at=None)
        case = retrier.open_case(ManifestRow(row=1, invoice_id="2675"))
        with pytest.raises(CredentialsRefusedError, match="or the account"):
            await retrier.advance(case)
        return retrier.abandon(case)

    assert in_virtual_time(scenario()) == LeftOpen()
    assert script.sent == ["probe", "cancel", "look_up", "probe", "probe", "probe"]


# --- stopping ---------------------------------------------------------------------------------


def _stop_soon(pace: Pace) -> None:
    asyncio.get_running_loop().call_later(0.1, pace.stop)


def test_a_stop_before_the_first_post_leaves_the_invoice_open(in_virtual_time: InVirtualTime) -> None:
    """No new POST leaves, and there is nothing to say about the invoice."""
    script = Script([DONE])
    assert in_virtual_time(script.settle(before=Pace.stop)) is None
    assert script.sent == []


def test_a_stop_while_waiting_after_silence_looks_up_once_more(in_virtual_time: InVirtualTime) -> None:
    """A look-up is allowed while draining; if it does not settle, the row is unknown."""
    script = Script([LOST], [said(500), said(500), SENT])
    result = in_virtual_time(script.settle(before=_stop_soon))
    assert script.sent == ["cancel", "look_up", "look_up"]
    assert (result.reason, result.attempts) == (Reason.UNKNOWN, 1)


def test_a_stop_while_waiting_after_silence_may_still_settle(in_virtual_time: InVirtualTime) -> None:
    """The last look-up of the drain finds the cancelation."""
    script = Script([LOST], [said(500), DONE])
    result = in_virtual_time(script.settle(before=_stop_soon))
    assert (result.reason, result.resolved_by) == (Reason.CANCELED, ResolvedBy.LOOKUP)


def test_a_stop_while_waiting_to_post_after_a_refusal_leaves_it_open(in_virtual_time: InVirtualTime) -> None:
    """The service said no and the invoice is open: nothing happened, nothing is written."""
    script = Script([REFUSED], [SENT])
    assert in_virtual_time(script.settle(before=_stop_soon)) is None
    assert script.sent == ["cancel", "look_up"]


def test_a_post_that_is_cancelled_in_flight_is_unknown(in_virtual_time: InVirtualTime) -> None:
    """What has left and is not waited for may have acted; what had not left can't have."""

    async def hang(_kind: RequestKind, _subject: Subject) -> Reply:
        await asyncio.sleep(3600)
        return DONE

    async def scenario() -> tuple[object, object]:
        pace = Pace(hang, slots=asyncio.Semaphore(1), quota=Quota(None), max_outage_s=600)
        retrier = Retrier(pace, max_attempts=5, ledger_began_at=None)
        cases: list[Case] = [retrier.open_case(ManifestRow(row=row, invoice_id="2675")) for row in (1, 2)]
        tasks = [asyncio.create_task(retrier.advance(case)) for case in cases]
        await asyncio.sleep(1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return retrier.abandon(cases[0]), retrier.abandon(cases[1])

    in_flight, queued = in_virtual_time(scenario())
    assert in_flight.result.reason is Reason.UNKNOWN
    assert queued == LeftOpen()


MATCHING, OTHER = {MatchField.TOTAL: "10.1"}, {MatchField.TOTAL: "10.2"}


@pytest.mark.parametrize(
    ("script", "is_canary", "match", "sent", "reason"),
    [
        pytest.param(
            Script([DONE], [DONE]), True, None, "cancel look_up", Reason.CANCELED, id="canary confirmed"
        ),
        pytest.param(
            Script([DONE], [SENT, said(500), DONE]),
            True,
            None,
            "cancel look_up look_up look_up",
            Reason.CANCELED,
            id="canary confirmed late",
        ),
        pytest.param(
            Script([DONE], [SENT]),
            True,
            None,
            "cancel look_up look_up look_up look_up look_up",
            Reason.UNKNOWN,
            id="canary contradicted: no second POST",
        ),
        pytest.param(
            Script([DONE], [said(404)]),
            True,
            None,
            "cancel look_up look_up look_up look_up look_up",
            Reason.UNKNOWN,
            id="canary gone",
        ),
        pytest.param(
            Script([REFUSED], [said(200, "PAID")]),
            True,
            None,
            "cancel look_up",
            Reason.PAID,
            id="paid",
        ),
        pytest.param(
            Script([DONE], [SENT]), False, MATCHING, "look_up cancel", Reason.CANCELED, id="match, then POST"
        ),
        pytest.param(Script([], [SENT]), False, OTHER, "look_up", Reason.MISMATCH, id="no match, no POST"),
        pytest.param(
            Script([], [said(200, "PAID")]),
            False,
            OTHER,
            "look_up",
            Reason.MISMATCH,
            id="another is paid",
        ),
        pytest.param(
            Script([], [said(200, "PAID")]), False, MATCHING, "look_up", Reason.PAID, id="match, and paid"
        ),
        pytest.param(Script([], [said(404)]), False, MATCHING, "look_up", Reason.NOT_FOUND, id="no invoice"),
        pytest.param(
            Script([LOST], [SENT, said(200, "CANCELED")]),
            False,
            MATCHING,
            "look_up cancel look_up",
            Reason.CANCELED,
            id="match, lost reply",
        ),
        pytest.param(
            Script([DONE], [SENT, said(200, "CANCELED")]),
            True,
            MATCHING,
            "look_up cancel look_up",
            Reason.CANCELED,
            id="match and canary",
        ),
        pytest.param(
            Script([], [said(503)]),
            False,
            MATCHING,
            "look_up look_up look_up look_up look_up",
            Reason.SERVER_ERROR,
            id="match never read: nothing was done",
        ),
        pytest.param(
            Script([], [LOST]),
            False,
            MATCHING,
            "look_up look_up look_up look_up look_up",
            Reason.NETWORK,
            id="match never answered: nothing was done",
        ),
    ],
)
def test_what_is_confirmed_or_matched_is_looked_up(
    in_virtual_time: InVirtualTime,
    script: Script,
    *,
    is_canary: bool,
    match: dict[MatchField, str] | None,
    sent: str,
    reason: Reason,
) -> None:
    """A canary's cancelation counts once the invoice says so; what must match is canceled only if it does."""
    result = in_virtual_time(script.settle(is_canary=is_canary, match=match, before=_with_patience))
    asked = [kind for kind in script.sent if kind != "probe"]
    assert (" ".join(asked), result.reason) == (sent, reason)


def test_a_canary_that_is_dropped_before_its_look_up_is_unknown(in_virtual_time: InVirtualTime) -> None:
    """The next run begins with a look-up, so that nothing is taken for confirmed that is not."""

    async def drop() -> Settled | LeftOpen:
        script = Script([DONE], [said(500)])
        pace = Pace(script, slots=asyncio.Semaphore(1), quota=Quota(None), max_outage_s=600)
        retrier = Retrier(pace, max_attempts=5, ledger_began_at=None)
        case = retrier.open_case(ManifestRow(row=1, invoice_id="2675"))
        case.is_canary = True
        await retrier.advance(case)
        return retrier.abandon(case)

    ending = in_virtual_time(drop())
    assert isinstance(ending, Settled)
    assert (ending.result.reason, ending.result.attempts) == (Reason.UNKNOWN, 1)


@pytest.mark.parametrize(("held_up_s", "is_over"), [(0.0, True), (150.0, True), (250.0, False)])
def test_waits_behind_other_invoices_use_up_no_time(
    in_virtual_time: InVirtualTime, held_up_s: float, *, is_over: bool
) -> None:
    """With one place, an invoice that is throttled for minutes must not cost the others theirs."""

    async def is_out_of_time() -> bool:
        pace = Pace(Script([DONE]), slots=asyncio.Semaphore(1), quota=Quota(None), max_outage_s=600)
        retrier = Retrier(pace, max_attempts=5, ledger_began_at=None)
        case = retrier.open_case(ManifestRow(row=1, invoice_id="2675"))
        case.began_at = asyncio.get_running_loop().time() - 500.0
        case.held_up_s = held_up_s
        return retrier._facts(case).out_of_time

    assert in_virtual_time(is_out_of_time()) is is_over


def test_time_paused_by_hand_is_not_the_invoice_s(in_virtual_time: InVirtualTime) -> None:
    """An hour in which nobody was to ask leaves its 300 seconds as they were."""

    async def is_out_of_time() -> list[bool]:
        pace = Pace(Script([DONE]), slots=asyncio.Semaphore(1), quota=Quota(None), max_outage_s=600)
        retrier = Retrier(pace, max_attempts=5, ledger_began_at=None)
        case = retrier.open_case(ManifestRow(row=1, invoice_id="2675"))
        case.began_at = asyncio.get_running_loop().time() - 200.0
        pace.pause()
        await asyncio.sleep(3600.0)
        during = retrier._facts(case).out_of_time
        pace.resume()
        await asyncio.sleep(99.0)
        just_in_time = retrier._facts(case).out_of_time
        await asyncio.sleep(2.0)
        return [during, just_in_time, retrier._facts(case).out_of_time]

    assert in_virtual_time(is_out_of_time()) == [False, False, True]
