"""What each kind of request asks for on the wire."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from batchcancel.model import RequestKind

_INVOICES: Final = "/invoicing/v2/invoices"
_CANCEL_BODY: Final = b"{}"


def method_and_body(kind: RequestKind) -> tuple[str, bytes | None]:
    """Return the method, and the plain body where there is one: only a cancelation has."""
    return ("POST", _CANCEL_BODY) if kind is RequestKind.CANCEL else ("GET", None)


def target(kind: RequestKind, invoice_id: str | None) -> str:
    """Return path and query as sent, the id percent-encoded once as a single segment.

    Args:
        kind: What to ask.
        invoice_id: Which invoice; None for a probe.

    Raises:
        ValueError: There is no id, or one that would lead elsewhere.
    """
    if kind is RequestKind.PROBE:
        return f"{_INVOICES}?offset=0&limit=1"
    if not invoice_id or invoice_id in {".", ".."}:
        raise ValueError(f"{kind} needs an invoice id")
    invoice = f"{_INVOICES}/{quote(invoice_id, safe='')}"
    return f"{invoice}/cancelation" if kind is RequestKind.CANCEL else invoice
