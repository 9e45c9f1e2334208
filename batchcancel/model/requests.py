"""What is asked of the service, and about what."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class RequestKind(StrEnum):
    """The requests that this package sends."""

    CANCEL = "cancel"
    LOOK_UP = "look_up"
    PROBE = "probe"
    """The signed read: list with limit 1. It changes nothing and needs a good key and a clock."""
    LIST = "list"
    """One page of the merchant's invoices."""
    CREATE = "create"
    """A new invoice, for the live check at a test host only."""

    @property
    def is_read(self) -> bool:
        """Whether it changes nothing."""
        return self not in {RequestKind.CANCEL, RequestKind.CREATE}


class Page(Struct, frozen=True, kw_only=True):
    """A part of the list of invoices."""

    offset: int
    """Invoices to leave out, from 0; they are counted, not pages."""
    limit: int
    """Most invoices of the page, 1 to 1000."""
    status: str | None = None
    """Only invoices of this status, such as ``SENT``; None for all."""


class NewInvoice(Struct, frozen=True, kw_only=True):
    """An invoice that is to be created: a draft, sent to nobody."""

    number: str
    amount: str
    """Decimal, such as ``1.00``."""
    currency: str
    due_date: str
    """ISO date."""
    description: str


Subject = str | Page | NewInvoice | None
"""What a request is about: an invoice by its id, a page, a new invoice; None for a probe."""
