"""What a request asks for: its operation, and what its query or body says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, Final
from urllib.parse import parse_qs, unquote

from batchcancel.sandbox.faults import Status
from batchcancel.sandbox.invoices import is_id

_ROOT: Final = "/invoicing/v2/invoices"
_MAX_LIMIT: Final = 1000  # documented [D]
_MAX_CENTS: Final = 10**14
_LISTED: Final = frozenset(Status) - {Status.ARCHIVED}


class Operation(StrEnum):
    """What a request asks for."""

    CANCEL = "cancel"
    GET = "get"
    LIST = "list"
    CREATE = "create"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """Which page of the list is asked for."""

    offset: int
    """How many invoices to leave out, from 0 [D]."""
    limit: int
    """1 to 1000 [D]."""
    status: Status | None
    """Only these; None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """The invoice that is to be created."""

    invoice_id: str | None
    """None: the service chooses."""
    status: Status
    cents: int
    currency: str


def route(method: str, target: str) -> tuple[Operation, str | None]:
    """Read a request's operation, and its invoice id if it has one, from method and target."""
    path = target.partition("?")[0]
    if path == _ROOT:
        return {"GET": Operation.LIST, "POST": Operation.CREATE}.get(method, Operation.OTHER), None
    if path.startswith(f"{_ROOT}/"):
        segment, slash, rest = path.removeprefix(f"{_ROOT}/").partition("/")
        # A trailing slash counts [D], so that neither form passes for the other.
        if method == "GET" and segment and not slash:
            return Operation.GET, unquote(segment)
        if method == "POST" and segment and rest == "cancelation":
            return Operation.CANCEL, unquote(segment)
    return Operation.OTHER, None


def read_list_query(target: str) -> ListQuery | None:
    """Read the query of a list request; None if it is not a proper one."""
    query = parse_qs(target.partition("?")[2])
    offset, limit = _whole_number(query.get("offset")), _whole_number(query.get("limit"))
    if offset is None or limit is None or not 1 <= limit <= _MAX_LIMIT:
        return None
    # The links of the documents show the status in lower case [D], so either is taken.
    status = query.get("status", [""])[0].upper()
    if not status:
        return ListQuery(offset=offset, limit=limit, status=None)
    return ListQuery(offset=offset, limit=limit, status=Status(status)) if status in _LISTED else None


def read_creation(body: bytes) -> Creation | None:
    """Read what is to be created; None if the body does not say it properly."""
    wanted = _read_object(body) or {}
    information, order = _member(wanted, "invoiceInformation"), _member(wanted, "orderInformation")
    details = _member(order, "amountDetails")
    cents, currency = _cents(details.get("totalAmount")), details.get("currency")
    invoice_id = information.get("invoiceNumber")
    if cents is None or not isinstance(currency, str) or not currency:
        return None
    if invoice_id is not None and not (isinstance(invoice_id, str) and is_id(invoice_id)):
        return None
    # An invoice is a draft until it is sent [S].
    status = Status.SENT if information.get("sendImmediately") is True else Status.DRAFT
    return Creation(invoice_id=invoice_id, status=status, cents=cents, currency=currency)


def is_object(body: bytes) -> bool:
    """Tell whether a body is one JSON object, as a cancelation's has to be [S]."""
    return body == b"{}" or _read_object(body) is not None


def _read_object(body: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _member(parent: dict[str, Any], name: str) -> dict[str, Any]:
    member = parent.get(name)
    return member if isinstance(member, dict) else {}


def _cents(amount: object) -> int | None:
    """Read an amount, which comes as a string or as a number [D], in hundredths."""
    if isinstance(amount, bool) or not isinstance(amount, str | int | float):
        return None
    try:
        cents = Decimal(str(amount)) * 100
    except InvalidOperation:
        return None
    if not cents.is_finite() or not 0 <= cents <= _MAX_CENTS or cents != int(cents):
        return None
    return int(cents)


def _whole_number(values: list[str] | None) -> int | None:
    # Nine digits are plenty, and keep int() and islice() within their bounds.
    text = values[0] if values else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None
