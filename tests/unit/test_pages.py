"""A page of the list from its first request until it is there, over a real pace, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from batchcancel.errors import (
    CredentialsRefusedError,
    ListRefusedError,
    ListUnreadableError,
    NotSentError,
    OutageTooLongError,
    ReplyLostError,
    TransportError,
)
from batchcancel.model import (
    Event,
    Invoice,
    Listing,
    Page,
    PauseCause,
    PauseStarted,
    Reason,
    Reply,
    RequestKind,
    ResolvedBy,
    RetryScheduled,
    Subject,
)
from batchcancel.pace import Pace, Quota
from batchcancel.retry import PageReader
from batchcancel.retry.pages import MAX_THROTTLED_S
from batchcancel.verdict import AskKey, PageDecision, Send, Settle, SignAfresh, judge_page

InVirtualTime = Callable[[Coroutine[Any, Any, Any]], Any]
Answer = Reply | TransportError
LIST, PROBE = RequestKind.LIST, RequestKind.PROBE
LOST, NOT_SENT = ReplyLostError("reset"), NotSentError("refused")
EMPTY = Listing(total=None, invoices=())
PAGE = Listing(total=1, invoices=(Invoice(id="2675"),))
AGAIN = Send(LIST, after_s=None)


def said(http_status: int, listing: Listing | None = None, *, is_object: bool = True, **fields: Any) -> Reply:
    """Build a reply to a request for a page."""
    return Reply(http_status=http_status, is_object=is_object, listing=listing, **fields)


GOOD = said(200, PAGE)
REFUSED = Settle(Reason.REFUSED, ResolvedBy.RESPONSE)


@pytest.mark.parametrize(
    ("answer", "facts", "decision"),
    [
        pytest.param(GOOD, {}, PAGE, id="page"),
        pytest.param(GOOD, {"requests_left": 0}, PAGE, id="page at the last try"),
        pytest.param(said(404), {}, EMPTY, id="nothing found"),
        pytest.param(said(404, is_object=False), {}, AGAIN, id="404 that is no JSON"),
        pytest.param(said(200), {}, AGAIN, id="200 without a list"),
        pytest.param(said(200, is_object=False), {}, AGAIN, id="HTML"),
        pytest.param(said(302, is_object=False), {}, AGAIN, id="redirect"),
        pytest.param(said(405), {}, AGAIN, id="another 4xx"),
        pytest.param(said(502), {}, AGAIN, id="5xx"),
        pytest.param(LOST, {}, AGAIN, id="reply lost"),
        pytest.param(said(502), {"requests_left": 0}, Settle(Reason.SERVER_ERROR), id="5xx at the last try"),
        pytest.param(LOST, {"requests_left": 0}, Settle(Reason.NETWORK), id="reply lost at the last try"),
        pytest.param(said(429), {"requests_left": 0}, Send(LIST, free=True), id="429 is no try"),
        pytest.param(
            said(429), {"is_throttled_for_long": True}, Settle(Reason.RATE_LIMITED), id="429 for long"
        ),
        pytest.param(said(400), {}, REFUSED, id="400"),
        pytest.param(said(401), {}, SignAfresh(LIST), id="401"),
        pytest.param(said(401), {"signed_afresh": True}, AskKey(then=AGAIN), id="401 again"),
        pytest.param(said(403), {"signed_afresh": True}, AskKey(then=AGAIN), id="403 again"),
        pytest.param(
            said(403),
            {"signed_afresh": True, "requests_left": 0},
            AskKey(then=REFUSED),
            id="403 at the last try",
        ),
    ],
)
def test_a_reply_to_a_page_is_judged_like_one_to_a_look_up(
    answer: Answer, facts: dict[str, Any], decision: PageDecision
) -> None:
    """Only a list, or the service's own word that there is none, is a page."""
    assert judge_page(answer, **({"requests_left": 3} | facts)) == decision


class Script:
    """A service that answers pages and signed reads from a list each; the last answer stays."""

    def __init__(self, pages: Sequence[Answer], probes: Sequence[Answer] = ()) -> None:
        self.answers = {LIST: list(pages), PROBE: list(probes) or [said(200, PAGE)]}
        self.sent: list[str] = []
        self.events: list[Event] = []

    async def __call__(self, kind: RequestKind, _subject: Subject) -> Reply:
        self.sent.append(kind.value)
        await asyncio.sleep(0.1)
        answers = self.answers[kind]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, TransportError):
            raise answer
        return answer

    async def read(self, *, max_attempts: int = 5, status: str | None = None) -> Listing:
        """Read one page."""
        pace = Pace(
            self,
            slots=asyncio.Semaphore(4),
            quota=Quota(None, on_event=self.events.append),
            max_outage_s=600,
            on_event=self.events.append,
        )
        pace.unfinished = lambda: 1
        reader = PageReader(pace, max_attempts=max_attempts, on_event=self.events.append)
        return await reader.read(Page(offset=0, limit=1000, status=status))


@pytest.mark.parametrize(
    ("script", "sent"),
    [
        pytest.param(Script([GOOD]), "list", id="at once"),
        pytest.param(Script([LOST, GOOD]), "list list", id="transient"),
        pytest.param(Script([said(500), LOST, GOOD]), None, id="transient for seconds"),
        pytest.param(Script([said(401), GOOD]), "list list", id="401 once"),
        pytest.param(Script([said(401), said(401), GOOD]), "list list probe list", id="401 twice"),
        pytest.param(Script([said(429), said(429), GOOD]), "list list list", id="429"),
        pytest.param(
            # 2 s after the streak's begin the signed read shows an outage: its failures are given back.
            Script([NOT_SENT] * 4 + [GOOD], [NOT_SENT, NOT_SENT, said(200, PAGE)]),
            None,
            id="outage",
        ),
    ],
)
def test_a_page_is_asked_for_until_it_is_there(
    in_virtual_time: InVirtualTime, script: Script, sent: str | None
) -> None:
    """Whatever comes in between, as often as the budget lets."""
    assert in_virtual_time(script.read()) == PAGE
    assert sent is None or script.sent == sent.split()


def test_waits_are_told_and_belong_to_no_invoice(in_virtual_time: InVirtualTime) -> None:
    """A log says that a page waits, and how long."""
    script = Script([said(500), GOOD])
    in_virtual_time(script.read())
    waits = [event for event in script.events if isinstance(event, RetryScheduled)]
    assert [(event.invoice_id, event.kind) for event in waits] == [(None, LIST)]
    assert 0.5 <= waits[0].wait_s <= 20


def test_an_outage_gives_tries_back(in_virtual_time: InVirtualTime) -> None:
    """With two tries alone, a page survives an outage in which more were in vain."""
    script = Script(
        [NOT_SENT, NOT_SENT, NOT_SENT, GOOD], [NOT_SENT, NOT_SENT, said(200, PAGE), said(200, PAGE)]
    )
    assert in_virtual_time(script.read(max_attempts=2)) == PAGE
    assert any(
        isinstance(event, PauseStarted) and event.cause is PauseCause.OUTAGE for event in script.events
    )


def test_a_page_that_fails_while_the_service_is_there_is_given_up(in_virtual_time: InVirtualTime) -> None:
    """The budget counts, since the signed read shows that it is no outage."""
    script = Script([said(500)])
    with pytest.raises(ListUnreadableError, match=r"ended with HTTP 500\. Say"):
        in_virtual_time(script.read(max_attempts=3))
    assert script.sent.count("list") == 3
    script = Script([LOST])
    with pytest.raises(ListUnreadableError, match="no reply"):
        in_virtual_time(script.read(max_attempts=3))


def test_an_outage_that_lasts_is_the_outage_s_own_error(in_virtual_time: InVirtualTime) -> None:
    """It ends with the time for outages."""
    with pytest.raises(OutageTooLongError, match="600 s"):
        in_virtual_time(Script([LOST], [LOST]).read())


def test_a_service_that_only_throttles_is_given_up(in_virtual_time: InVirtualTime) -> None:
    """A 429 is no try, so time is what ends it."""

    async def read() -> float:
        began_at = asyncio.get_running_loop().time()
        with pytest.raises(ListUnreadableError, match="HTTP 429"):
            await Script([said(429, retry_after_s=7.0)]).read()
        return asyncio.get_running_loop().time() - began_at

    assert MAX_THROTTLED_S < in_virtual_time(read()) < MAX_THROTTLED_S + 15


def test_throttling_is_timed_from_its_last_beginning(in_virtual_time: InVirtualTime) -> None:
    """Any other reply in between shows that the service lets something through."""
    throttled = [said(429, retry_after_s=200.0)] * 2
    script = Script([*throttled, said(200), *throttled, GOOD])
    assert in_virtual_time(script.read()) == PAGE


def test_a_429_is_no_try(in_virtual_time: InVirtualTime) -> None:
    """Two tries are left for what fails after five of them."""
    script = Script([*[said(429, retry_after_s=1.0)] * 5, said(500), GOOD])
    assert in_virtual_time(script.read(max_attempts=2)) == PAGE


def test_a_refused_key_is_the_key_s_own_error(in_virtual_time: InVirtualTime) -> None:
    """The signed read decides, as it does for an invoice."""
    with pytest.raises(CredentialsRefusedError):
        in_virtual_time(Script([said(401)], [said(401)]).read())


@pytest.mark.parametrize(
    ("answers", "status", "sentence"),
    [
        pytest.param(
            [said(400, message="Field validation errors.")],
            "PENDING",
            "refuses the list (HTTP 400): invoicing is not enabled for this merchant, or it does not list by "
            "the status PENDING. It said: Field validation errors.",
            id="400 with a status",
        ),
        pytest.param(
            [said(400)],
            None,
            "refuses the list (HTTP 400): invoicing is not enabled for this merchant.",
            id="400 without",
        ),
        pytest.param([said(403)], None, "refuses the list (HTTP 403)", id="403 though the key is good"),
    ],
)
def test_a_refused_list_is_a_sentence(
    in_virtual_time: InVirtualTime, answers: list[Answer], status: str | None, sentence: str
) -> None:
    """It says what may be wrong, and what the service said."""
    with pytest.raises(ListRefusedError) as refused:
        in_virtual_time(Script(answers).read(status=status))
    assert sentence in str(refused.value)
