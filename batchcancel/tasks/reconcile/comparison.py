"""What a ledger says of an invoice against what the service says of it now. Pure.

========================  ====================================================================
the ledger's reason       agrees (``=``) with the service if that says
========================  ====================================================================
canceled, already_canceled  CANCELED, and the same amount where both name one
paid                      PAID, likewise
partial                   PARTIAL, likewise; PAID later is told as what payments do
not_found                 404
mismatch                  the status that the ledger's row names: the run left the invoice alone
any open error            anything that is no answer either: DRAFT, CREATED, SENT, PENDING, a
                          status that is not listed. CANCELED, PAID and PARTIAL are answers that
                          the ledger lacks, and a run would bring them in; so is a 404, unless
                          the ledger's row names a status: then the invoice has gone
invalid_id                nobody is asked
========================  ====================================================================
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct

from batchcancel.ledger.reader import ResultRecord
from batchcancel.model import Reason, Sighting
from batchcancel.report.words import parse_amount

_EXPECTED: Final = {
    Reason.CANCELED: "CANCELED",
    Reason.ALREADY_CANCELED: "CANCELED",
    Reason.PAID: "PAID",
    Reason.PARTIAL: "PARTIAL",
}
_ANSWERS: Final = frozenset(_EXPECTED.values())
_STILL_OPEN: Final = frozenset({"DRAFT", "CREATED", "SENT"})
_UNREAD: Final = frozenset(
    {Reason.REFUSED, Reason.RATE_LIMITED, Reason.SERVER_ERROR, Reason.NETWORK, Reason.UNKNOWN}
)
"""How a look-up ends that says nothing of the invoice."""
LISTED: Final = _ANSWERS | _STILL_OPEN | {"PENDING"}
"""Every status that the service documents."""
MISSING: Final = "404"
"""What stands for the service's word where it doesn't know the invoice."""


class Mark(StrEnum):
    """How ledger and service compare, as the first column of the file of differences has it."""

    SAME = "="
    DIFFERENT = "*"
    MISSING = "-"
    """The service doesn't know an invoice that it should know."""
    UNREAD = "!"
    """The service said nothing of the invoice, or it can't be asked about it."""


class Note(StrEnum):
    """What else there is to say of a comparison."""

    PAID_SINCE = "paid_since"
    """A partial payment was completed, as payments are."""
    RUN_AGAIN = "run_again"
    """The ledger has no answer and the service has one: a run brings it in."""
    APPEARED = "appeared"
    """There was no such invoice, and now there is."""
    AMOUNT = "amount"
    """The status is the same; the total or its currency is not."""
    NOT_ASKED = "not_asked"
    """The ledger's row holds what is no id of an invoice or of a merchant: no run writes that."""


class Comparison(Struct, frozen=True, kw_only=True):
    """One invoice, on both sides."""

    mark: Mark
    invoice_id: str
    merchant_id: str
    """Whose invoice it is, the ledger's own merchant included."""
    ledger: Reason
    service: str | None
    """Its status as received, ``404``, or why it could not be read; None where nobody was asked."""
    note: Note | None = None
    ledger_amount: str | None = None
    ledger_currency: str | None = None
    service_amount: str | None = None
    service_currency: str | None = None


def compare(answer: ResultRecord, sighting: Sighting, *, merchant_id: str) -> Comparison:
    """Compare the latest row of an invoice with what a look-up found.

    Args:
        answer: The row.
        sighting: What was found.
        merchant_id: Whose invoice it is.
    """
    mark, note = _judge(answer, sighting)
    return Comparison(
        mark=mark,
        note=note,
        invoice_id=answer.invoice_id,
        merchant_id=merchant_id,
        ledger=answer.reason,
        service=_word_of(sighting),
        ledger_amount=answer.amount,
        ledger_currency=answer.currency,
        service_amount=sighting.amount,
        service_currency=sighting.currency,
    )


def not_asked(answer: ResultRecord, *, merchant_id: str) -> Comparison:
    """Tell of a row that names nothing which may be sent."""
    return Comparison(
        mark=Mark.UNREAD,
        note=Note.NOT_ASKED,
        invoice_id=answer.invoice_id,
        merchant_id=merchant_id,
        ledger=answer.reason,
        service=None,
        ledger_amount=answer.amount,
        ledger_currency=answer.currency,
    )


def _word_of(sighting: Sighting) -> str:
    if sighting.reason in _UNREAD:
        return str(sighting.reason)
    return MISSING if sighting.reason is Reason.NOT_FOUND else sighting.invoice_status or ""


def _judge(answer: ResultRecord, sighting: Sighting) -> tuple[Mark, Note | None]:
    if sighting.reason in _UNREAD:
        return Mark.UNREAD, None
    if sighting.reason is Reason.NOT_FOUND:
        return _judge_missing(answer)
    status = sighting.invoice_status
    if answer.reason is Reason.NOT_FOUND:
        return Mark.DIFFERENT, Note.APPEARED
    if answer.reason is Reason.MISMATCH:
        is_same = _kind_of(status) == _kind_of(answer.invoice_status)
        return (Mark.SAME if is_same else Mark.DIFFERENT), None
    if not answer.reason.is_final:
        return (Mark.DIFFERENT, Note.RUN_AGAIN) if status in _ANSWERS else (Mark.SAME, None)
    if status != _EXPECTED.get(answer.reason):
        is_paid = answer.reason is Reason.PARTIAL and status == "PAID"
        return Mark.DIFFERENT, Note.PAID_SINCE if is_paid else None
    return (Mark.SAME, None) if _is_same_amount(answer, sighting) else (Mark.DIFFERENT, Note.AMOUNT)


def _judge_missing(answer: ResultRecord) -> tuple[Mark, Note | None]:
    if answer.reason is Reason.NOT_FOUND:
        return Mark.SAME, None
    if answer.reason.is_final or answer.invoice_status is not None:
        return Mark.MISSING, None
    return Mark.DIFFERENT, Note.RUN_AGAIN


def _kind_of(status: str | None) -> str | None:
    """Take the statuses that can be canceled for one: an invoice goes from one to the next by itself."""
    return "SENT" if status in _STILL_OPEN else status


def _is_same_amount(answer: ResultRecord, sighting: Sighting) -> bool:
    """Tell whether both sides have the same total; one that a side does not name differs from nothing."""
    ours, theirs = parse_amount(answer.amount), parse_amount(sighting.amount)
    if ours is not None and theirs is not None and ours != theirs:
        return False
    return None in {answer.currency, sighting.currency} or answer.currency == sighting.currency
