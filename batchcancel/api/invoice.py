"""What a reply's JSON says of invoices. Pure, and total for any JSON.

Every field is read by itself: what is absent, malformed or absurd is None and spoils nothing else.
Nothing about the customer is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from batchcancel.api.dates import is_utc, utc_s
from batchcancel.api.masking import mask
from batchcancel.model import Invoice, Listing

_MAX_TEXT: Final = 64
"""Ids that are sent have 64 characters at most; a longer text can't be one of them."""
_MAX_EXPONENT: Final = 32
_MAX_INTEGER: Final = 10**32

_DECIMAL: Final = re.compile(r"-?[0-9]{1,32}(?:\.[0-9]{1,32})?(?:[eE](?P<exponent>[+-]?[0-9]{1,3}))?")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_ISO_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_LISTED_STATUSES: Final = frozenset({"DRAFT", "CREATED", "SENT", "PARTIAL", "PAID", "CANCELED", "PENDING"})
_CREATED: Final = frozenset({"DRAFT", "CREATE"})
_CANCELED: Final = frozenset({"CANCEL"})
"""Events of an invoice's history."""


class Number(str):
    """A JSON number with a point or an exponent, digits as received: ``10.10`` is no float."""

    __slots__ = ()


def read_invoice(fields: dict[str, object]) -> Invoice:
    """Read an invoice, whole or as the list shows it: there, without history and balance."""
    amounts = _object(_object(fields.get("orderInformation")).get("amountDetails"))
    information = _object(fields.get("invoiceInformation"))
    currency = amounts.get("currency")
    submitted_at = fields.get("submitTimeUtc")
    history = fields.get("invoiceHistory")
    return Invoice(
        id=_id(fields.get("id")),
        number=_id(information.get("invoiceNumber")),
        status=_status(fields.get("status")),
        amount=_amount(amounts.get("totalAmount")),
        balance=_amount(amounts.get("balanceAmount")),
        due_date=_date(information.get("dueDate")),
        currency=currency if isinstance(currency, str) and _CURRENCY.fullmatch(currency) else None,
        submitted_at=submitted_at if isinstance(submitted_at, str) and is_utc(submitted_at) else None,
        created_at=_created_at(fields.get("createdDate"), history),
        canceled_at=None if history is None else max(_dates_of(history, _CANCELED), default=None),
    )


def read_listing(fields: dict[str, object]) -> Listing | None:
    """Read a page of the list; None if there is none."""
    items, total = fields.get("invoices"), fields.get("totalInvoices")
    if not isinstance(items, list):
        return None
    is_count = isinstance(total, int) and not isinstance(total, bool) and 0 <= total < _MAX_INTEGER
    return Listing(
        total=total if is_count else None,  # type: ignore[arg-type]  # is_count says that it is an int
        invoices=tuple(read_invoice(_object(item)) for item in items),
    )


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _id(value: object) -> str | None:
    """Return a JSON string or integer as an id; None for what no id looks like."""
    if isinstance(value, str):
        is_one = not isinstance(value, Number) and 0 < len(value) <= _MAX_TEXT and value.isprintable()
        return value if is_one else None
    return _integer(value)


def _status(value: object) -> str | None:
    if not isinstance(value, str) or isinstance(value, Number) or not value:
        return None
    if value in _LISTED_STATUSES:
        return value
    # A character is replaced, never dropped: damaged text must not turn into a status that is listed.
    return mask("".join(char if char.isprintable() else "\ufffd" for char in value[:_MAX_TEXT]))


def _amount(value: object) -> str | None:
    """Return a decimal with its digits as received; an exponent is written out."""
    if not isinstance(value, str):
        return _integer(value)
    match = _DECIMAL.fullmatch(value)
    if match is None:
        return None
    exponent = match["exponent"]
    if exponent is None:
        return str(match[0])
    return f"{Decimal(match[0]):f}" if abs(int(exponent)) <= _MAX_EXPONENT else None


def _integer(value: object) -> str | None:
    is_one = isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MAX_INTEGER
    return str(value) if is_one else None


def _date(value: object) -> str | None:
    """Return an ISO date, ``2019-07-11``; None for anything else."""
    return str(value) if isinstance(value, str) and _ISO_DATE.fullmatch(value) else None


def _created_at(created: object, history: object) -> float | None:
    """Return when an invoice was created: as the list says it, or by its history."""
    if created is None and history is None:
        return None
    at = utc_s(created) if isinstance(created, str) else None
    return min(_dates_of(history, _CREATED), default=None) if at is None else at


def _dates_of(history: object, events: frozenset[str]) -> Iterator[float]:
    """Yield the dates of some events of a history, Unix seconds."""
    for entry in history if isinstance(history, list) else ():
        event = {name.lower(): value for name, value in _object(entry).items()}
        date, name = event.get("date"), event.get("event")
        if isinstance(name, str) and name in events and isinstance(date, str):
            at = utc_s(date)
            if at is not None:
                yield at
