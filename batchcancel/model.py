"""The words of the domain: outcomes, reasons, rows, replies, results and the run's events.

Everything here is frozen and knows nothing of HTTP, files or asyncio.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from msgspec import UNSET, Struct, UnsetType


def utc_text(when: datetime | None = None) -> str:
    """Write a time as the ledger does: UTC, milliseconds, ``Z``; now if none is given."""
    when = when or datetime.now(UTC)
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def invoice_key(invoice_id: str, *, valid: bool) -> str:
    """Return what tells an invoice from others.

    An id that may not be sent never stands for one that may: the JSON value ``true`` is recorded as
    the text of the valid id "true". No valid id begins with an exclamation mark.
    """
    return invoice_id if valid else f"!{invoice_id}"


class Outcome(StrEnum):
    """What became of an invoice: exactly four words, for people and for sums."""

    CANCELED = "canceled"
    ALREADY_PAID = "already_paid"
    PARTIALLY_PAID = "partially_paid"
    ERROR = "error"


class Reason(StrEnum):
    """Why an invoice has its outcome.

    ``outcome`` is the word that it belongs to. ``is_final`` says that it is an answer: a later run
    asks only the others again.
    """

    CANCELED = "canceled"
    ALREADY_CANCELED = "already_canceled"
    PAID = "paid"
    PARTIAL = "partial"
    NOT_FOUND = "not_found"
    INVALID_ID = "invalid_id"
    MISMATCH = "mismatch"
    PENDING = "pending"
    REJECTED = "rejected"
    REFUSED = "refused"
    UNKNOWN_STATUS = "unknown_status"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    NETWORK = "network"
    UNKNOWN = "unknown"

    @property
    def outcome(self) -> Outcome:
        """The outcome that this reason belongs to."""
        return _OUTCOMES.get(self, Outcome.ERROR)

    @property
    def is_final(self) -> bool:
        """Whether this is an answer, so that no later run asks again."""
        return self in _OUTCOMES or self in _FINAL_ERRORS


_OUTCOMES: Final = {
    Reason.CANCELED: Outcome.CANCELED,
    Reason.ALREADY_CANCELED: Outcome.CANCELED,
    Reason.PAID: Outcome.ALREADY_PAID,
    Reason.PARTIAL: Outcome.PARTIALLY_PAID,
}
_FINAL_ERRORS: Final = frozenset({Reason.NOT_FOUND, Reason.INVALID_ID, Reason.MISMATCH})


class ResolvedBy(StrEnum):
    """What the answer rests on: the cancelation's own reply, or a look-up."""

    RESPONSE = "response"
    LOOKUP = "lookup"


class RequestKind(StrEnum):
    """The three requests that this package sends."""

    CANCEL = "cancel"
    LOOK_UP = "look_up"
    PROBE = "probe"
    """The signed read: list with limit 1. It changes nothing and needs a good key and a clock."""


class ManifestRow(Struct, frozen=True, kw_only=True):
    """One data row of a manifest."""

    row: int
    """1-based number of the data row in its file; header and blank lines are not counted."""
    invoice_id: str
    """The id, trimmed. If ``valid`` is false: the text as read, 256 characters at most, escaped."""
    valid: bool = True
    """Whether the id may be sent (design section 7)."""
    duplicate_of: int | None = None
    """The row where this id stood first, or None."""
    duplicate_of_file: str | None = None
    """That row's file, where several manifests are read."""
    file: str | None = None
    """The row's file, where several manifests are read."""
    keep: dict[str, str] | None = None
    """The columns that ``--keep`` asked to carry into the ledger."""

    @property
    def key(self) -> str:
        """What tells this row's invoice from others."""
        return invoice_key(self.invoice_id, valid=self.valid)


class Invoice(Struct, frozen=True, kw_only=True):
    """What a reply says of an invoice. Nothing about the customer is read from it."""

    id: str | None = None
    number: str | None = None
    """``invoiceInformation.invoiceNumber``; usually, not always, the same text as ``id``."""
    status: str | None = None
    """As received. Listed: DRAFT, CREATED, SENT, PARTIAL, PAID, CANCELED, PENDING."""
    amount: str | None = None
    """``totalAmount`` as a decimal string, digits as received."""
    balance: str | None = None
    """``balanceAmount`` as a decimal string, digits as received."""
    currency: str | None = None
    submitted_at: str | None = None
    """``submitTimeUtc`` as received."""
    canceled_at: float | None = None
    """The latest CANCEL event of ``invoiceHistory``, Unix seconds on the service's clock."""


class Reply(Struct, frozen=True, kw_only=True):
    """A reply that came back over the wire, whatever its status and body."""

    http_status: int
    is_object: bool = False
    """Whether the whole body came and was one JSON object."""
    invoice: Invoice = Invoice()
    """What the body said; every field None where it said nothing readable."""
    correlation_id: str | None = None
    """``v-c-correlation-id``, for the service's support."""
    message: str | None = None
    """The error's own text: printable, masked, 200 characters at most. Never decides anything."""
    retry_after_s: float | None = None
    """``Retry-After`` in seconds from now, a date taken against the service's clock."""
    latency_ms: float = 0.0
    """From before the request left to after the body's end."""

    @property
    def is_success(self) -> bool:
        """Whether the status is a 2xx; says nothing about the body."""
        return 200 <= self.http_status < 300

    @property
    def is_client_error(self) -> bool:
        """Whether the status is a 4xx: the service has looked at the request and refused it."""
        return 400 <= self.http_status < 500

    @property
    def is_server_error(self) -> bool:
        """Whether the status is a 5xx: the service may have acted or not."""
        return self.http_status >= 500

    @property
    def is_unreadable(self) -> bool:
        """Whether the reply is no word of the service: neither a JSON object nor a refusal.

        A page of HTML with 200, a redirect, or a 404 that is no JSON may come from a gateway or a page
        for maintenance.
        """
        return not self.is_object and (self.http_status < 400 or self.http_status == 404)

    @property
    def is_throttled(self) -> bool:
        """Whether the request was refused for its rate alone."""
        return self.http_status == 429

    @property
    def doubts_key(self) -> bool:
        """Whether the refusal may be about the key (or the proxy's) rather than the invoice."""
        return self.http_status in {401, 403, 407}


class Result(Struct, frozen=True, kw_only=True):
    """What became of one invoice: a result row of the ledger (design section 5)."""

    row: int
    file: str | UnsetType = UNSET
    invoice_id: str
    outcome: Outcome
    reason: Reason
    resolved_by: ResolvedBy | None
    """None where nothing was asked (``invalid_id``) or nothing was answered."""
    invoice_status: str | None = None
    http_status: int | None = None
    """Of the reply that decided; None without one."""
    attempts: int = 0
    """POSTs sent by this run, refused ones signed afresh and 429s not counted."""
    lookups: int = 0
    """Look-ups sent by this run, counted likewise."""
    amount: str | None = None
    balance: str | None = None
    currency: str | None = None
    correlation_id: str | None = None
    submitted_at: str | None = None
    """The service's ``submitTimeUtc`` of the reply that decided."""
    at: str
    """When this row was decided, UTC, on this machine's clock."""
    latency_ms: float | None = None
    message: str | None = None
    keep: dict[str, str] | UnsetType = UNSET


class Skip(Struct, frozen=True, kw_only=True):
    """A manifest row that is not asked because another row stands for it."""

    row: int
    file: str | UnsetType = UNSET
    invoice_id: str
    why: str
    of_row: int
    of_file: str | UnsetType = UNSET


class Tally(Struct, frozen=True, kw_only=True):
    """What became of the manifest's rows in one run; every row is counted exactly once."""

    rows: int = 0
    results: dict[Reason, int] = {}
    """Rows that this run gave a result."""
    settled_earlier: int = 0
    duplicates: int = 0
    open: int = 0
    """Rows without an answer and without a row of this run."""

    @property
    def errors(self) -> int:
        """Error rows that this run wrote, open ones and final ones."""
        return sum(n for reason, n in self.results.items() if reason.outcome is Outcome.ERROR)

    @property
    def is_conserved(self) -> bool:
        """Whether every row of the manifest is accounted for (design section 5)."""
        accounted = sum(self.results.values()) + self.settled_earlier + self.duplicates + self.open
        return accounted == self.rows


class RunState(StrEnum):
    """How a run ended."""

    COMPLETE = "complete"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"


class RunSummary(Struct, frozen=True, kw_only=True):
    """A run at its end, for people and machines."""

    run_id: str | None
    """None where there was nothing to do and no ledger was touched."""
    env: str
    host: str
    merchant_id: str
    ledger: str
    state: RunState
    why: str | None
    """Why it is not complete: a sentence if it stopped, a word such as SIGINT if it was interrupted."""
    tally: Tally
    amounts_canceled: dict[str, str]
    """Total amount of the invoices that this run canceled (reason ``canceled``), by currency."""
    duration_s: float


# --- the run's events, for listeners -------------------------------------------------------------


class RequestFinished(Struct, frozen=True, kw_only=True):
    """A request of any kind came to its end."""

    kind: RequestKind
    invoice_id: str | None
    http_status: int | None
    """None if there was no reply; ``failure`` names it then."""
    failure: str | None
    latency_ms: float
    correlation_id: str | None


class RetryScheduled(Struct, frozen=True, kw_only=True):
    """An invoice waits for its next request."""

    invoice_id: str
    kind: RequestKind
    wait_s: float


class PauseCause(StrEnum):
    """Why nothing leaves for a while."""

    RATE_LIMITED = "rate_limited"
    KEY_IN_DOUBT = "key_in_doubt"
    OUTAGE = "outage"


class PauseStarted(Struct, frozen=True, kw_only=True):
    """Everyone waits."""

    cause: PauseCause
    wait_s: float | None
    """How long at least, if that is known."""
    last_failure: str | None = None
    """What the last request failed with, where that is the cause."""


class PauseEnded(Struct, frozen=True, kw_only=True):
    """Requests leave again."""

    cause: PauseCause
    lasted_s: float


class ClockSet(Struct, frozen=True, kw_only=True):
    """The service's clock was read; requests are dated by it from here on."""

    offset_s: float
    """What has to be added to this machine's clock."""


class GroupCommitted(Struct, frozen=True, kw_only=True):
    """A group of ledger lines is on disk."""

    results: tuple[Result, ...]
    size_bytes: int
    sync_s: float


class StopRequested(Struct, frozen=True, kw_only=True):
    """No new cancelation leaves; what is in flight is drained."""

    why: str


Event = (
    RequestFinished | RetryScheduled | PauseStarted | PauseEnded | ClockSet | GroupCommitted | StopRequested
)
