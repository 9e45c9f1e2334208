"""What came back over the wire, and what it says of an invoice."""

from __future__ import annotations

from msgspec import Struct


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
    due_date: str | None = None
    """``invoiceInformation.dueDate``, an ISO date."""
    submitted_at: str | None = None
    """``submitTimeUtc`` as received."""
    created_at: float | None = None
    """``createdDate``, or the first CREATE or DRAFT event of ``invoiceHistory``; Unix seconds on the
    service's clock."""
    canceled_at: float | None = None
    """The latest CANCEL event of ``invoiceHistory``, Unix seconds on the service's clock."""


class Listing(Struct, frozen=True, kw_only=True):
    """What a page of the list said."""

    total: int | None
    """``totalInvoices``: how many invoices the whole list has; None where that is not said."""
    invoices: tuple[Invoice, ...]
    """In the order of the page. One without a readable id has none here."""


class Reply(Struct, frozen=True, kw_only=True):
    """A reply that came back over the wire, whatever its status and body."""

    http_status: int
    is_object: bool = False
    """Whether the whole body came and was one JSON object."""
    invoice: Invoice = Invoice()
    """What the body said; every field None where it said nothing readable."""
    listing: Listing | None = None
    """What a page of the list said; None for any other reply, and where no list could be read."""
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
