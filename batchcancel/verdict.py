"""What a reply or a failure means: the two tables of the design's section 6, pure and total.

``judge_page`` is about no invoice and follows the second table's rules. ``judge_post`` and
``judge_lookup`` take what came back and the facts about the invoice so far, and
return one decision. They send nothing, wait for nothing and remember nothing. The text of a refusal
is never looked at: nothing that the service documents tells a paid invoice from a partially paid one
in the reply to a cancelation, so the invoice's own status, from a look-up, decides.

One row of the tables is not here: a TLS certificate that is untrusted never becomes an answer, the
client raises ``HostUntrustedError`` and the run stops.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from msgspec import Struct

from batchcancel.errors import NotSentError, TransportError
from batchcancel.model import Invoice, Listing, MatchField, Reason, Reply, RequestKind, ResolvedBy

Answer = Reply | TransportError
"""What came back for one request: a reply, or the failure that stands in its place."""

_STILL_OPEN: Final = frozenset({"DRAFT", "CREATED", "SENT"})
_SETTLED: Final = {"PAID": Reason.PAID, "PARTIAL": Reason.PARTIAL}
_PENDING_LOOKUPS_AFTER_S: Final = (2.0, 10.0)
PENDING_WAIT_S: Final = sum(_PENDING_LOOKUPS_AFTER_S)
"""How long a run waits at most for a pending invoice to become anything else."""
_PLAIN_AMOUNT: Final = re.compile(r"-?(?:[0-9]{1,32}|[0-9]{1,3}(?:,[0-9]{3}){1,9})(?:\.[0-9]{1,32})?")
"""An amount as spreadsheets write it; commas only between groups of three digits."""


class Facts(Struct, frozen=True, kw_only=True):
    """What is known about an invoice when an answer is judged."""

    invoice_id: str
    posts_left: int
    """POSTs that may still be sent; 0 also when the invoice's time is used up."""
    lookups_left: int
    out_of_time: bool = False
    """Whether the invoice's total time is used up: nothing more is waited for."""
    signed_afresh: bool = False
    """Whether this very request was already refused once and signed again."""
    unanswered: bool = False
    """Whether a POST of this run went unanswered."""
    doubted_earlier: bool = False
    """Whether an earlier run left the invoice ``unknown`` and no look-up has read its status since."""
    posted: bool = True
    """Whether this run has sent a POST at all; not so where it began with a look-up."""
    refusals: int = 0
    """POSTs that the service itself refused (4xx, not about the key), the last one among them."""
    refused_last: bool = False
    """Whether the last POST was such a refusal."""
    forbidden: bool = False
    """Whether the last POST was answered 403, also when signed afresh."""
    pendings: int = 0
    """Look-ups that said PENDING so far, this one not counted."""
    ledger_began_at: float | None = None
    """When the ledger's first run began: Unix seconds on the service's clock."""
    is_canary: bool = False
    """Whether a cancelation counts only once a look-up has confirmed it."""
    unconfirmed: bool = False
    """Whether a canary's cancelation was accepted and is to be confirmed."""
    to_match: Mapping[MatchField, str] | None = None
    """What the invoice has to be like before anything is sent; None once it was found so."""
    looks_only: bool = False
    """Whether nothing is to be canceled: what the look-up finds at this moment is all that counts."""


class Settle(Struct, frozen=True):
    """The invoice has its row; for a page of the list, there will be none for that reason."""

    reason: Reason
    resolved_by: ResolvedBy | None = None


class Send(Struct, frozen=True):
    """Ask (again).

    ``after_s`` is how long to wait first: 0 for at once, None for the back-off. ``free`` says that
    the request that was just answered counts neither as a POST nor as a look-up.
    """

    kind: RequestKind
    after_s: float | None = 0.0
    free: bool = False


class SignAfresh(Struct, frozen=True):
    """Send the same request at once with a new signature; the refused one counts for nothing."""

    kind: RequestKind


class Cancelable(Struct, frozen=True):
    """The invoice is open, and looking was all that was asked for."""


class AskKey(Struct, frozen=True):
    """Find out whether it is the key or the account; if it is not, do ``then``."""

    then: Settle | Send


Decision = Settle | Send | SignAfresh | Cancelable | AskKey

PageDecision = Listing | Settle | Send | SignAfresh | AskKey

_ACCEPTED: Final = Settle(Reason.CANCELED, ResolvedBy.RESPONSE)


def is_transient(answer: Answer) -> bool:
    """Tell whether an answer is no word of the service: no reply, a 5xx, or a page that is no JSON."""
    return isinstance(answer, TransportError) or answer.is_server_error or answer.is_unreadable


def is_canceled(answer: Answer, invoice_id: str) -> bool:
    """Tell whether a POST's reply is a good 2xx: CANCELED, and for the invoice that was asked."""
    return (
        isinstance(answer, Reply)
        and answer.is_success
        and answer.is_object
        and answer.invoice.status == "CANCELED"
        and invoice_id in (answer.invoice.id, answer.invoice.number)
    )


def is_unanswered(answer: Answer, invoice_id: str) -> bool:
    """Tell whether a POST may have acted without saying so: all but a 4xx, a good 2xx, or not sent."""
    if isinstance(answer, TransportError):
        return not isinstance(answer, NotSentError)
    return not (answer.is_client_error or is_canceled(answer, invoice_id))


def is_refusal(answer: Answer) -> bool:
    """Tell whether the service itself refused: a 4xx about neither the key nor the rate."""
    return (
        isinstance(answer, Reply)
        and answer.is_client_error
        and not answer.is_throttled
        and not answer.doubts_key
    )


def accept(answer: Answer, invoice_id: str) -> Settle | None:
    """Settle an invoice by the good reply to its cancelation; None if it is no such reply.

    Nothing else about the invoice matters then, but for a canary, whose reply has to be confirmed.
    """
    return _ACCEPTED if is_canceled(answer, invoice_id) else None


def judge_post(answer: Answer, facts: Facts) -> Decision:
    """Decide on the reply to a cancelation.

    Args:
        answer: What came back.
        facts: The invoice so far, this POST counted in.

    Returns:
        ``Settle`` only for a good 2xx, or where nothing more may be sent.
    """
    match answer:
        case _ if accepted := accept(answer, facts.invoice_id):
            return Send(RequestKind.LOOK_UP) if facts.is_canary else accepted
        case NotSentError():
            return _post_again(facts, otherwise=Reason.NETWORK)
        case Reply(is_throttled=True):
            return _throttled(RequestKind.CANCEL, facts)
        case Reply(doubts_key=True) if not facts.signed_afresh:
            return SignAfresh(RequestKind.CANCEL)
        case Reply(http_status=401 | 407):
            return AskKey(then=_post_again(facts, otherwise=Reason.REFUSED))
        case _:
            return _look_up(0.0, facts)


def judge_lookup(answer: Answer, facts: Facts) -> Decision:
    """Decide on the reply to a look-up.

    The answer is taken for the invoice that was asked, whatever id it carries.

    Args:
        answer: What came back.
        facts: The invoice so far, this look-up counted in.
    """
    match answer:
        case Reply(is_throttled=True):
            return _throttled(RequestKind.LOOK_UP, facts)
        case Reply(doubts_key=True) if not facts.signed_afresh:
            return SignAfresh(RequestKind.LOOK_UP)
        case Reply(http_status=401 | 407):
            return AskKey(then=_look_up(None, facts, otherwise=Reason.REFUSED))
        case _ if facts.unconfirmed:
            return _confirm(answer, facts)
        case Reply(http_status=400 | 403):
            return AskKey(then=_give_up(facts, Reason.REFUSED, ResolvedBy.LOOKUP))
        case Reply(http_status=404, is_object=True):
            return Settle(Reason.NOT_FOUND, ResolvedBy.LOOKUP)
        case Reply(is_success=True, is_object=True, invoice=Invoice(status=str(status))) if status:
            return _judge_status(answer, status, facts)
        case _:
            return _look_up(None, facts, otherwise=_silence(answer, facts))


def judge_page(
    answer: Answer, *, requests_left: int, signed_afresh: bool = False, is_throttled_for_long: bool = False
) -> PageDecision:
    """Decide on the reply to a request for a page of the list.

    Args:
        answer: What came back.
        requests_left: Requests for this page that may still be sent.
        signed_afresh: Whether this very request was already refused once and signed again.
        is_throttled_for_long: Whether nothing but 429 has come for longer than is waited.

    Returns:
        The page, which is empty where the service says that it finds no invoices, or what to do.
    """
    match answer:
        case Reply(is_success=True, listing=Listing() as page):
            return page
        case Reply(http_status=404, is_object=True):
            return Listing(total=None, invoices=())
        case Reply(is_throttled=True):
            again = Send(RequestKind.LIST, free=True)
            return Settle(Reason.RATE_LIMITED) if is_throttled_for_long else again
        case Reply(doubts_key=True) if not signed_afresh:
            return SignAfresh(RequestKind.LIST)
        case Reply(http_status=400):
            return Settle(Reason.REFUSED, ResolvedBy.RESPONSE)
        case Reply(doubts_key=True):
            # The signed read is a list too: where it is accepted, so will this one be.
            return AskKey(then=_list_again(requests_left, Settle(Reason.REFUSED, ResolvedBy.RESPONSE)))
        case TransportError():
            return _list_again(requests_left, Settle(Reason.NETWORK))
        case _:
            return _list_again(requests_left, Settle(Reason.SERVER_ERROR))


def _list_again(requests_left: int, otherwise: Settle) -> Settle | Send:
    return Send(RequestKind.LIST, after_s=None) if requests_left else otherwise


def is_match(invoice: Invoice, wanted: Mapping[MatchField, str]) -> bool:
    """Tell whether an invoice is what the manifest says of it.

    What either side lacks, or what can't be read as what it should be, matches nothing.

    Args:
        invoice: As a look-up read it.
        wanted: Text of the manifest's cells. A total is compared as a number, ``1,234.50`` being
            1234.5; a currency in any case; a date as ``2019-07-11``.
    """
    return all(_is_like(field, text.strip(), invoice) for field, text in wanted.items())


def _is_like(field: MatchField, text: str, invoice: Invoice) -> bool:
    match field:
        case MatchField.TOTAL:
            is_amount = _PLAIN_AMOUNT.fullmatch(text) and invoice.amount is not None
            return bool(is_amount) and Decimal(text.replace(",", "")) == Decimal(invoice.amount or 0)
        case MatchField.CURRENCY:
            return text.upper() == invoice.currency
        case MatchField.DUE_DATE:
            return text == invoice.due_date


def _confirm(answer: Answer, facts: Facts) -> Decision:
    """Hold a canary's cancelation against the invoice's own status; a contradiction is ``unknown``."""
    if isinstance(answer, Reply) and answer.is_success and answer.invoice.status == "CANCELED":
        return Settle(Reason.CANCELED, ResolvedBy.LOOKUP)
    return _look_up(None, facts)


def _silence(answer: Answer, facts: Facts) -> Reason:
    """Name a look-up without an answer: where no POST ever left, nothing can have been done."""
    if facts.posted or facts.doubted_earlier:
        return Reason.UNKNOWN
    return Reason.NETWORK if isinstance(answer, TransportError) else Reason.SERVER_ERROR


def _judge_status(reply: Reply, status: str, facts: Facts) -> Decision:
    if facts.to_match and not is_match(reply.invoice, facts.to_match):
        # What this ledger's runs may have canceled, before --match was given, is told all the same.
        is_ours = status == "CANCELED" and (
            facts.doubted_earlier or _who_canceled(reply, facts) is Reason.CANCELED
        )
        if not is_ours:
            return Settle(Reason.MISMATCH, ResolvedBy.LOOKUP)
    if status in _SETTLED:
        return Settle(_SETTLED[status], ResolvedBy.LOOKUP)
    if status == "CANCELED":
        return Settle(_who_canceled(reply, facts), ResolvedBy.LOOKUP)
    if status == "PENDING":
        return _pending(facts)
    if status in _STILL_OPEN:
        return Cancelable() if facts.looks_only else _still_open(facts)
    return Settle(Reason.UNKNOWN_STATUS, ResolvedBy.LOOKUP)


def _who_canceled(reply: Reply, facts: Facts) -> Reason:
    """Tell our cancelation from an earlier one: by an unanswered POST, or by the invoice's history."""
    canceled_at = reply.invoice.canceled_at
    by_history = (
        canceled_at is not None and facts.ledger_began_at is not None and canceled_at >= facts.ledger_began_at
    )
    return Reason.CANCELED if facts.unanswered or by_history else Reason.ALREADY_CANCELED


def _pending(facts: Facts) -> Decision:
    """Wait for a payment that is under way, unless nothing but the present moment counts."""
    may_wait = facts.lookups_left and not facts.out_of_time and not facts.looks_only
    if facts.pendings < len(_PENDING_LOOKUPS_AFTER_S) and may_wait:
        return Send(RequestKind.LOOK_UP, _PENDING_LOOKUPS_AFTER_S[facts.pendings])
    return Settle(Reason.PENDING, ResolvedBy.LOOKUP)


def _still_open(facts: Facts) -> Decision:
    if facts.forbidden:
        return Settle(Reason.REFUSED, ResolvedBy.LOOKUP)
    if facts.refused_last:
        # A payment in progress may just have lapsed, so a refusal is tested once more.
        if facts.refusals == 1 and facts.posts_left:
            return Send(RequestKind.CANCEL, after_s=None)
        return Settle(Reason.REJECTED, ResolvedBy.LOOKUP)
    if facts.posts_left:
        return Send(RequestKind.CANCEL, after_s=None if facts.posted else 0.0)
    return _give_up(facts, Reason.SERVER_ERROR, ResolvedBy.LOOKUP)


def _post_again(facts: Facts, *, otherwise: Reason) -> Settle | Send:
    if facts.posts_left:
        return Send(RequestKind.CANCEL, after_s=None)
    return _give_up(facts, otherwise, None if otherwise is Reason.NETWORK else ResolvedBy.RESPONSE)


def _look_up(after_s: float | None, facts: Facts, *, otherwise: Reason = Reason.UNKNOWN) -> Settle | Send:
    """Look up, unless the budget is used up; a look-up at once is due even when time is."""
    if facts.lookups_left and (after_s == 0 or not facts.out_of_time):
        return Send(RequestKind.LOOK_UP, after_s)
    return _give_up(facts, otherwise, ResolvedBy.LOOKUP if otherwise is Reason.REFUSED else None)


def _throttled(kind: RequestKind, facts: Facts) -> Settle | Send:
    """Ask again once everyone's pause is over: a 429 is no attempt."""
    if facts.out_of_time:
        return _give_up(facts, Reason.RATE_LIMITED, None)
    return Send(kind, free=True)


def _give_up(facts: Facts, reason: Reason, resolved_by: ResolvedBy | None) -> Settle:
    """Write an open error; ``unknown`` wherever the service may have acted."""
    if facts.unanswered or facts.doubted_earlier or facts.unconfirmed:
        return Settle(Reason.UNKNOWN)
    return Settle(reason, resolved_by)
