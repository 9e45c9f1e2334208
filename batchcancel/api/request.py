"""What each kind of request asks for on the wire."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, urlencode

import msgspec

from batchcancel.model import NewInvoice, Page, RequestKind, Subject

_INVOICES: Final = "/invoicing/v2/invoices"
_CANCEL_BODY: Final = b"{}"
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9_.~-]+")
"""What needs no encoding (RFC 3986), as nearly every id."""


def method_and_body(kind: RequestKind, subject: Subject) -> tuple[str, bytes | None]:
    """Return the method, and the plain body where there is one: only what changes something has.

    Raises:
        ValueError: The subject is none of that kind.
    """
    match kind:
        case RequestKind.CANCEL:
            return "POST", _CANCEL_BODY
        case RequestKind.CREATE:
            return "POST", _creation(subject)
        case _:
            return "GET", None


def target(kind: RequestKind, subject: Subject) -> str:
    """Return path and query as sent, an id percent-encoded once as a single segment.

    Args:
        kind: What to ask.
        subject: About what.

    Raises:
        ValueError: The subject is none of that kind, or an id would lead elsewhere.
    """
    match kind:
        case RequestKind.CANCEL:  # first, as nearly all are
            return f"{_invoice(kind, subject)}/cancelation"
        case RequestKind.LOOK_UP:
            return _invoice(kind, subject)
        case RequestKind.PROBE:
            return f"{_INVOICES}?offset=0&limit=1"
        case RequestKind.LIST:
            return _page(subject)
        case RequestKind.CREATE:
            return _INVOICES


def _invoice(kind: RequestKind, subject: Subject) -> str:
    if not isinstance(subject, str) or subject in {"", ".", ".."}:
        raise ValueError(f"{kind} needs an invoice id")
    encoded = subject if _UNRESERVED.fullmatch(subject) else quote(subject, safe="")
    return f"{_INVOICES}/{encoded}"


def _page(subject: Subject) -> str:
    if not isinstance(subject, Page):
        raise ValueError("list needs a page")  # noqa: TRY004 - as documented
    query = {"offset": subject.offset, "limit": subject.limit}
    return f"{_INVOICES}?{urlencode(query if subject.status is None else query | {'status': subject.status})}"


def _creation(subject: Subject) -> bytes:
    if not isinstance(subject, NewInvoice):
        raise ValueError("create needs a new invoice")  # noqa: TRY004 - as documented
    return msgspec.json.encode(
        {
            "invoiceInformation": {
                "invoiceNumber": subject.number,
                "description": subject.description,
                "dueDate": subject.due_date,
                "sendImmediately": False,
                "deliveryMode": "none",
            },
            "orderInformation": {
                "amountDetails": {"totalAmount": subject.amount, "currency": subject.currency}
            },
        }
    )
