"""Which invoices a list is to have. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum
from typing import Final, TypeVar

from msgspec import Struct

from batchcancel.manifest.ids import is_valid_id
from batchcancel.model import Invoice

T = TypeVar("T", str, float)

STATUSES: Final = ("DRAFT", "CREATED", "PENDING", "SENT", "PARTIAL", "PAID", "CANCELED")
"""What the service can be asked for, in the order in which an invoice may pass through them.

Read in this order, an invoice that goes on meanwhile is met again; a pending one may fall back to SENT.
"""
CANCELABLE: Final = ("DRAFT", "CREATED", "SENT")


class Fit(StrEnum):
    """Whether an invoice belongs into the list, or what of it is not known."""

    FITS = "fits"
    OTHER = "other"
    """It is another one than those that are wanted."""
    NO_ID = "id"
    """It has no id that may be sent: nobody can cancel it by one."""
    NO_STATUS = "status"
    NO_DUE_DATE = "due date"
    NO_AMOUNT = "amount"
    NO_CURRENCY = "currency"
    NO_CREATION = "date of creation"


class Wanted(Struct, frozen=True, kw_only=True):
    """What is asked of an invoice; None and nothing ask nothing."""

    statuses: tuple[str, ...] = CANCELABLE
    """One or more of ``STATUSES``, in their order."""
    due_from: str | None = None
    """ISO date, itself included."""
    due_before: str | None = None
    """ISO date; the day itself is not before."""
    currencies: frozenset[str] = frozenset()
    min_amount: Decimal | None = None
    """Of the total, itself included."""
    max_amount: Decimal | None = None
    created_from: float | None = None
    """Unix seconds, that moment included."""
    created_before: float | None = None
    """Unix seconds; that moment itself is not before."""


def judge(invoice: Invoice, wanted: Wanted) -> Fit:
    """Tell whether an invoice is wanted.

    The service's own filter is not relied on: in an example of the guide it answers with another status
    than it was asked for. What one condition rules out, no missing field of another makes doubtful, and
    the date of creation, which can be looked up, is doubtful only where everything else fits.
    """
    if invoice.id is None or not is_valid_id(invoice.id):
        return Fit.NO_ID
    found = list(_checks(invoice, wanted))
    if Fit.OTHER in found:
        return Fit.OTHER
    return next((fit for fit in found if fit is not Fit.FITS), Fit.FITS)


def _checks(invoice: Invoice, wanted: Wanted) -> Iterator[Fit]:
    """Yield what each condition says."""
    yield _check(invoice.status, Fit.NO_STATUS, is_wanted=invoice.status in wanted.statuses)
    if wanted.currencies:
        yield _check(invoice.currency, Fit.NO_CURRENCY, is_wanted=invoice.currency in wanted.currencies)
    yield _within(invoice.due_date, wanted.due_from, wanted.due_before, Fit.NO_DUE_DATE)
    yield _amount_within(invoice.amount, wanted.min_amount, wanted.max_amount)
    yield _within(invoice.created_at, wanted.created_from, wanted.created_before, Fit.NO_CREATION)


def _check(value: object, unknown: Fit, *, is_wanted: bool) -> Fit:
    if value is None:
        return unknown
    return Fit.FITS if is_wanted else Fit.OTHER


def _within(value: T | None, low: T | None, high: T | None, unknown: Fit) -> Fit:
    """Check that a value is not below the one and below the other bound."""
    if low is None and high is None:
        return Fit.FITS
    if value is None:
        return unknown
    is_wanted = (low is None or value >= low) and (high is None or value < high)
    return Fit.FITS if is_wanted else Fit.OTHER


def _amount_within(text: str | None, low: Decimal | None, high: Decimal | None) -> Fit:
    if low is None and high is None:
        return Fit.FITS
    if text is None:
        return Fit.NO_AMOUNT
    amount = Decimal(text)
    is_wanted = (low is None or amount >= low) and (high is None or amount <= high)
    return Fit.FITS if is_wanted else Fit.OTHER
