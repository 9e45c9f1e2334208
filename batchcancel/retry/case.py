"""One invoice on its way, and where a step has brought it."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec import UNSET, Struct

from batchcancel.model import (
    ManifestRow,
    MatchField,
    Outcome,
    Reason,
    Reply,
    RequestKind,
    Result,
    Sighting,
    utc_text,
)
from batchcancel.verdict import (
    Answer,
    Cancelable,
    Send,
    Settle,
    SignAfresh,
    is_canceled,
    is_refusal,
    is_unanswered,
)


class Settled(Struct, frozen=True):
    """The invoice has its row."""

    result: Result


class Waiting(Struct, frozen=True):
    """The invoice has to wait before its next request: that long, or (None) with back-off."""

    after_s: float | None


class Seen(Struct, frozen=True):
    """The invoice was looked at, and nothing more was asked for."""

    sighting: Sighting


class LeftOpen(Struct, frozen=True):
    """The run is stopping and nothing is known to have been done: no row, the next run asks."""


Step = Settled | Seen | Waiting | LeftOpen


class Case(Struct, kw_only=True, eq=False):
    """One invoice on its way: what was asked about it, and what is known of it."""

    row: ManifestRow
    next: RequestKind
    began_at: float | None = None
    """When its first request left, monotonic seconds."""
    held_up_s: float = 0.0
    """How long it has waited for its turn behind other invoices."""
    posts: list[float] = []
    """When each POST that counts left, monotonic seconds."""
    lookups: list[float] = []
    in_doubt: bool = False
    """Whether a POST has left whose answer is not known yet."""
    unanswered: bool = False
    doubted_earlier: bool = False
    signed_afresh: bool = False
    refused_at: float = 0.0
    refusals: int = 0
    refused_last: bool = False
    forbidden: bool = False
    pendings: int = 0
    is_canary: bool = False
    unconfirmed: bool = False
    """Whether it is a canary whose cancelation was accepted and not confirmed yet."""
    to_match: dict[MatchField, str] | None = None
    """What it has to be like before anything is sent; None once it was found so."""
    reply: Reply | None = None
    """The last reply, if the last request had one."""
    replied_to: RequestKind | None = None
    message: str | None = None
    """What the service said with its last refusal."""

    @property
    def may_have_acted(self) -> bool:
        """Whether the service may have canceled the invoice without our knowing."""
        return self.in_doubt or self.unanswered or self.unconfirmed

    def depart(self, kind: RequestKind, now: float) -> None:
        """Note that a request is leaving."""
        self.began_at = now if self.began_at is None else self.began_at
        self.reply = None
        if kind is RequestKind.CANCEL:
            self.in_doubt = True
            self.posts.append(now)
        else:
            self.lookups.append(now)

    def take_in(self, kind: RequestKind, answer: Answer) -> None:
        """Note what an answer says beyond the decision on it."""
        self.reply = reply = answer if isinstance(answer, Reply) else None
        self.replied_to = kind
        if reply and reply.message:
            self.message = reply.message
        if kind is RequestKind.CANCEL:
            self.in_doubt = False
            self.unanswered |= is_unanswered(answer, self.row.invoice_id)
            self.refused_last = is_refusal(answer)
            self.refusals += self.refused_last
            self.unconfirmed |= self.is_canary and is_canceled(answer, self.row.invoice_id)
            self.forbidden = self.signed_afresh and reply is not None and reply.http_status == 403
        elif reply and reply.is_success and reply.invoice.status:
            self.doubted_earlier = False

    def conclude(self, answer: Answer) -> None:
        """Note the good reply that settles the invoice."""
        self.reply = answer if isinstance(answer, Reply) else None
        self.replied_to = RequestKind.CANCEL
        self.in_doubt = False

    def follow(
        self, kind: RequestKind, decision: Settle | Send | SignAfresh | Cancelable, now: float
    ) -> Settle | Send | Cancelable:
        """Bring the case up to date with a decision; return what is left to do."""
        if isinstance(decision, Send) and decision.kind is RequestKind.CANCEL and kind is RequestKind.LOOK_UP:
            self.to_match = None  # the verdict lets a cancelation go out only for an invoice that matches
        sent = self.posts if kind is RequestKind.CANCEL else self.lookups
        if isinstance(decision, SignAfresh):
            sent.pop()
            self.signed_afresh = True
            self.refused_at = now
            return Send(kind)
        self.signed_afresh = False
        self.refused_at = 0.0
        if isinstance(decision, Send) and decision.free:
            sent.pop()
        return decision

    def result(self, settle: Settle) -> Result:
        """Write the invoice's row."""
        reply = self.reply
        # Only a look-up's success and a cancelation that is believed speak of this invoice: error bodies
        # have a status and a time of their own, and another 2xx may be about another invoice.
        speaks = settle.reason is Reason.CANCELED or self.replied_to is RequestKind.LOOK_UP
        invoice = reply.invoice if reply and reply.is_success and speaks else None
        return Result(
            row=self.row.row,
            file=self.row.file or UNSET,
            merchant_id=self.row.merchant_id or UNSET,
            invoice_id=self.row.invoice_id,
            outcome=settle.reason.outcome,
            reason=settle.reason,
            resolved_by=settle.resolved_by,
            invoice_status=invoice.status if invoice else None,
            http_status=reply.http_status if reply else None,
            attempts=len(self.posts),
            lookups=len(self.lookups),
            amount=invoice.amount if invoice else None,
            balance=invoice.balance if invoice else None,
            currency=invoice.currency if invoice else None,
            correlation_id=reply.correlation_id if reply else None,
            submitted_at=invoice.submitted_at if invoice else None,
            at=utc_text(),
            latency_ms=round(reply.latency_ms, 1) if reply else None,
            message=self.message if settle.reason.outcome is Outcome.ERROR else None,
            keep=self.row.keep or UNSET,
        )

    def sighting(self, found: Settle | Cancelable) -> Sighting:
        """Write what a look-up found, where nothing but looking was asked for."""
        reply = self.reply
        invoice = reply.invoice if reply and reply.is_success else None
        return Sighting(
            row=self.row.row,
            file=self.row.file or UNSET,
            merchant_id=self.row.merchant_id or UNSET,
            invoice_id=self.row.invoice_id,
            reason=found.reason if isinstance(found, Settle) else None,
            invoice_status=invoice.status if invoice else None,
            http_status=reply.http_status if reply else None,
            lookups=len(self.lookups),
            amount=invoice.amount if invoice else None,
            balance=invoice.balance if invoice else None,
            currency=invoice.currency if invoice else None,
            due_date=invoice.due_date if invoice else None,
            created_at=_time_text(invoice.created_at) if invoice else None,
            correlation_id=reply.correlation_id if reply else None,
            submitted_at=invoice.submitted_at if invoice else None,
            at=utc_text(),
            latency_ms=round(reply.latency_ms, 1) if reply else None,
            message=self.message
            if isinstance(found, Settle) and found.reason.outcome is Outcome.ERROR
            else None,
        )


def _time_text(at: float | None) -> str | None:
    """Write a time as a ledger does; None where it is not known."""
    return None if at is None else utc_text(datetime.fromtimestamp(at, UTC))
