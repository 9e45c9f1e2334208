"""The bodies of replies, in the shapes of the service's documents.

The documents contradict each other, so invoices come in two forms: amounts as strings and times in
seconds (the specification), or amounts as JSON numbers and times in nanoseconds (the guide), both [D].
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from batchcancel.sandbox.faults import Status
from batchcancel.sandbox.invoices import Invoice

HTML_PAGE: Final = (
    b"<!DOCTYPE html><html><head><title>Gateway</title></head><body><h1>Sorry</h1></body></html>"
)

# Made once: json.dumps would make one for every reply.
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))
_ERRORS: Final[dict[HTTPStatus, dict[str, Any]]] = {
    # Documented [D]; one example for every operation, it says nothing of an invoice's status.
    HTTPStatus.BAD_REQUEST: {
        "status": "BADREQUEST",
        "reason": "VALIDATION_ERROR",
        "message": "Field validation errors.",
        "details": [{"field": "customerInformation.email", "reason": "Invalid email"}],
    },
    # Documented [D].
    HTTPStatus.NOT_FOUND: {
        "status": "NOTFOUND",
        "reason": "NOT_FOUND",
        "message": "Invoice does not exist.",
    },
    # Documented [D].
    HTTPStatus.BAD_GATEWAY: {
        "status": "SERVER_ERROR",
        "reason": "SERVER_ERROR",
        "message": "Error - General system failure.",
    },
}
_GATEWAY_MESSAGES: Final = {
    HTTPStatus.UNAUTHORIZED: "Authentication Failed",  # widely quoted, in no document
    HTTPStatus.FORBIDDEN: "Forbidden",  # [A]
    HTTPStatus.TOO_MANY_REQUESTS: "Too Many Requests",  # [A]
    HTTPStatus.INTERNAL_SERVER_ERROR: "Internal Server Error",  # [A]
}
# [D] returned for these only, so it disappears when an invoice is canceled.
_PAYABLE: Final = frozenset({Status.SENT, Status.CREATED, Status.PARTIAL, Status.PAID})
_LAST_EVENTS: Final = {
    Status.PARTIAL: "PAYMENT",
    Status.PAID: "PAYMENT",
    Status.CANCELED: "CANCEL",
    Status.PENDING: "PENDING",
}


def encode(body: dict[str, Any]) -> bytes:
    """Write a body as compact JSON."""
    return _ENCODER.encode(body).encode()


def error_body(status: HTTPStatus, now_s: float) -> bytes:
    """Write the body of an error that the service or its gateway answers with."""
    documented = _ERRORS.get(status)
    if documented is None:
        return encode({"response": {"rmsg": _GATEWAY_MESSAGES[status]}})
    return encode({"submitTimeUtc": _time_text(now_s), **documented})


def canceled_body(invoice: Invoice, now_s: float, *, invoice_id: str | None = None) -> bytes:
    """Write the reply to a cancelation [D].

    Args:
        invoice: The invoice as it is afterwards.
        now_s: The service's clock, Unix seconds.
        invoice_id: Another id to tell a lie with; None: the truth.
    """
    return encode(_invoice(invoice, now_s, invoice_id or invoice.invoice_id, Status.CANCELED))


def invoice_body(invoice: Invoice, now_s: float) -> bytes:
    """Write the reply to a look-up or a creation: with history and links [D]."""
    body = _invoice(invoice, now_s, invoice.invoice_id, invoice.status)
    body["_links"] |= _action_links(invoice.invoice_id)
    if invoice.status in _PAYABLE:
        body["invoiceInformation"]["paymentLink"] = f"https://payments.example/pay/{invoice.invoice_id}"
    body["invoiceHistory"] = _history(invoice)
    return encode(body)


def list_body(page: Sequence[Invoice], total: int, offset: int, limit: int, now_s: float) -> bytes:
    """Write a page of the list [D]."""

    def link(start: int) -> dict[str, str]:
        return _link(f"/?offset={start}&limit={limit}")

    links = {"self": link(offset)}
    if offset + limit < total:
        links["next"] = link(offset + limit)
    if offset > 0:
        links["previous"] = link(max(0, offset - limit))
    return encode(
        {
            "_links": links,
            "submitTimeUtc": _time_text(now_s),
            "totalInvoices": total,
            "invoices": [_list_item(invoice) for invoice in page],
        }
    )


def _invoice(invoice: Invoice, now_s: float, invoice_id: str, status: Status) -> dict[str, Any]:
    guide_form = invoice.guide_form
    return {
        "_links": {"self": _link(f"/{invoice_id}")},
        "id": invoice_id,
        "submitTimeUtc": _time_text(now_s, digits=9 if guide_form else 0),
        "status": status,
        "customerInformation": _customer(invoice),
        "processingInformation": {"requestPhone": False, "requestShipping": False},
        "invoiceInformation": {
            "invoiceNumber": invoice_id,
            "description": "This is a test invoice",
            "dueDate": invoice.due_date,
            "allowPartialPayments": True,
            "deliveryMode": "None" if guide_form else "email",
        },
        "orderInformation": {
            "amountDetails": {
                "totalAmount": _amount(invoice, invoice.cents),
                "currency": invoice.currency,
                "balanceAmount": _amount(invoice, _balance_cents(invoice, status)),
            },
            "lineItems": [
                {
                    "productSku": "P653727383",
                    "productName": "First line item's name",
                    "quantity": 1 if guide_form else "1",
                    "unitPrice": _amount(invoice, invoice.cents),
                }
            ],
        },
    }


def _list_item(invoice: Invoice) -> dict[str, Any]:
    # [D] the guide's examples have no date of creation, those of the specification have one at times.
    created = {} if invoice.guide_form else {"createdDate": _time_text(invoice.created_at_s)}
    return {
        "_links": {"self": _link(f"/{invoice.invoice_id}")} | _action_links(invoice.invoice_id),
        "id": invoice.invoice_id,
        "status": invoice.status,
        **created,
        "customerInformation": _customer(invoice),
        "invoiceInformation": {"dueDate": invoice.due_date},
        "orderInformation": {
            "amountDetails": {
                "totalAmount": _amount(invoice, invoice.cents),
                "currency": invoice.currency,
            }
        },
    }


def _customer(invoice: Invoice) -> dict[str, Any]:
    """Make up a customer, so that a test can prove that nothing of it leaks from the client."""
    return {
        "name": f"Tanya Lee {invoice.cents}",
        "firstName": "Tanya",
        "lastName": f"Lee {invoice.cents}",
        "email": f"tanya.lee.{invoice.cents}@customers.example",
        "merchantCustomerId": f"customer-{invoice.cents}",
        "company": {"name": "Made-Up Company"},
    }


def _action_links(invoice_id: str) -> dict[str, dict[str, str]]:
    # [D] offered whatever the status is, a cancelation of a paid invoice included.
    return {
        "update": _link(f"/{invoice_id}", "PUT"),
        "deliver": _link(f"/{invoice_id}/delivery", "POST"),
        "cancel": _link(f"/{invoice_id}/cancelation", "POST"),
    }


def _link(path: str, method: str = "GET") -> dict[str, str]:
    # [D] mostly without the prefix that the endpoint has.
    return {"href": f"/v2/invoices{path}", "method": method}


def _history(invoice: Invoice) -> list[dict[str, Any]]:
    """List the dated events, newest first [D]."""
    last = _LAST_EVENTS.get(invoice.status)
    events: list[dict[str, Any]] = []
    if last is not None:
        events.append({"event": last, "date": _time_text(invoice.changed_at_s, digits=2)})
    created = _time_text(invoice.created_at_s, digits=2)
    if invoice.first_status is Status.DRAFT:
        return [*events, {"event": "DRAFT", "date": created}]
    if invoice.first_status is not Status.CREATED:
        events.append({"event": "SEND", "date": created})
    return [*events, {"event": "CREATE", "date": created}]


def _balance_cents(invoice: Invoice, status: Status) -> int:
    if status is Status.PAID:
        return 0
    # [D] what is open after a cancelation is the total.
    return invoice.cents // 2 if status is Status.PARTIAL else invoice.cents


def _amount(invoice: Invoice, cents: int) -> str | float:
    if not invoice.guide_form:
        return f"{cents // 100}.{cents % 100:02d}"
    # The guide's numbers have no trailing zeros.
    return cents / 100 if cents % 100 else cents // 100


def _time_text(at_s: float, *, digits: int = 0) -> str:
    text = datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    if digits:
        text += f".{int(at_s % 1 * 10**digits):0{digits}d}"
    return text + "Z"
