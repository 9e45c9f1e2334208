"""The simulator's invoices: their state, and the book that holds them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from batchcancel.sandbox.faults import CANCELABLE, Behavior, Fault, Status, behavior_of

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CURRENCIES: Final = ("USD",) * 7 + ("EUR",) * 2 + ("GBP",)
_MAX_CENTS: Final = 1_000_000
_AGE_S: Final = 30 * 86_400.0
_LAST_CHANGE_AGE_S: Final = 7 * 86_400.0
_SETTLES_AFTER_S: Final = 1.0
_FIRST_MADE_UP_NUMBER: Final = 10_001
_MADE_UP_PREFIXES: Final = (
    "",
    "",
    "",
    "DRAFT-",
    "",
    "",
    "PAID-",
    "",
    "CREATED-",
    "PARTIAL-",
    "",
    "CANCELED-",
)
"""What made-up invoices are, in turn."""
_MADE_UP_FROM: Final = datetime(2025, 1, 15, tzinfo=UTC)
_MADE_UP_DAYS: Final = 340
_DUE_AFTER: Final = timedelta(days=30)


@dataclass(slots=True, kw_only=True)
class Invoice:
    """One invoice. Its customer is made up from its id when a body is written."""

    invoice_id: str
    behavior: Behavior
    status: Status
    first_status: Status
    """The status when it was first seen."""
    cents: int
    """The total, in hundredths of the currency."""
    currency: str
    guide_form: bool
    """Whether bodies follow the guide's examples (amounts as numbers) or the specification's (strings)."""
    created_at_s: float
    changed_at_s: float
    """When it took its status; Unix seconds on the service's clock."""
    seen_at_s: float
    due_date: str = "2019-07-11"
    fault_spent: bool = False
    """Whether the fault that happens once has happened."""

    def settle(self, now_s: float) -> None:
        """Let a pending payment come to its end, if its time is over."""
        settles_as = self.behavior.settles_as
        if settles_as is not None and now_s >= self.seen_at_s + _SETTLES_AFTER_S:
            self.status = settles_as
            self.changed_at_s = self.seen_at_s + _SETTLES_AFTER_S

    def next_fault(self, *, is_cancelation: bool) -> Fault | None:
        """Take the fault, if any, that the invoice's prefix has in store for a request."""
        fault = self.behavior.fault
        if fault is None or not (is_cancelation or fault.every_request):
            return None
        if fault.once and self.fault_spent:
            return None
        # What happens after the commit can only happen where there is one.
        if fault.commits and self.status not in CANCELABLE:
            return None
        self.fault_spent = True
        return fault

    def cancel(self, now_s: float) -> bool:
        """Cancel the invoice if its status allows it.

        Returns:
            Whether it was canceled by this call.
        """
        if self.status not in CANCELABLE:
            return False
        self.status = Status.CANCELED
        self.changed_at_s = now_s
        return True


class InvoiceBook:
    """All invoices that were seen or created, oldest first."""

    def __init__(self) -> None:
        self.by_id: dict[str, Invoice] = {}
        self._next_number = 1000

    def see(self, invoice_id: str, now_s: float) -> Invoice | None:
        """Find an invoice, or make it up as its prefix says.

        Returns:
            None if there is no such invoice and the id's form or prefix forbids one.
        """
        invoice = self.by_id.get(invoice_id)
        if invoice is not None:
            invoice.settle(now_s)
            return invoice
        behavior = behavior_of(invoice_id)
        if behavior.status is None or not is_id(invoice_id):
            return None
        number = _number_from(invoice_id)
        return self._add(
            Invoice(
                invoice_id=invoice_id,
                behavior=behavior,
                status=behavior.status,
                first_status=behavior.status,
                cents=1 + number % _MAX_CENTS,
                currency=_CURRENCIES[(number >> 24) % len(_CURRENCIES)],
                guide_form=(number >> 32) % 4 == 0,
                created_at_s=now_s - _AGE_S,
                changed_at_s=now_s - _LAST_CHANGE_AGE_S,
                seen_at_s=now_s,
            )
        )

    def create(
        self, invoice_id: str | None, *, status: Status, cents: int, currency: str, now_s: float
    ) -> Invoice | None:
        """Create an invoice as a merchant does.

        Args:
            invoice_id: The merchant's own number, or None for the next free one.
            status: Its status; the prefix of its id decides only on faults.
            cents: The total in hundredths, from 0.
            currency: Three letters.
            now_s: The service's clock, Unix seconds.

        Returns:
            None if the number is taken.
        """
        if invoice_id is None:
            invoice_id = self._free_number()
        elif invoice_id in self.by_id:
            return None
        return self._add(
            Invoice(
                invoice_id=invoice_id,
                behavior=Behavior(fault=behavior_of(invoice_id).fault),
                status=status,
                first_status=status,
                cents=cents,
                currency=currency,
                guide_form=False,
                created_at_s=now_s,
                changed_at_s=now_s,
                seen_at_s=now_s,
            )
        )

    def make_up(self, count: int, now_s: float) -> None:
        """Make up invoices of every kind, created one after the other in the course of 2025.

        Each is what its id says, as if it had been seen first: another simulator knows the same ones.
        """
        for number in range(count):
            prefix = _MADE_UP_PREFIXES[number % len(_MADE_UP_PREFIXES)]
            invoice = self.see(f"{prefix}{_FIRST_MADE_UP_NUMBER + number}", now_s)
            assert invoice is not None  # noqa: S101 - no prefix above forbids it
            created_at = _MADE_UP_FROM + timedelta(days=number * _MADE_UP_DAYS / count)
            invoice.created_at_s = created_at.timestamp()
            invoice.due_date = (created_at + _DUE_AFTER).date().isoformat()

    def page(self, offset: int, limit: int, status: Status | None, now_s: float) -> tuple[int, list[Invoice]]:
        """List a page, newest first.

        Returns:
            How many invoices match in all, and those of the page.
        """
        if status is None:
            page = list(islice(reversed(self.by_id.values()), offset, offset + limit))
            for invoice in page:
                invoice.settle(now_s)
            return len(self.by_id), page
        for invoice in self.by_id.values():
            invoice.settle(now_s)
        matching = [invoice for invoice in reversed(self.by_id.values()) if invoice.status is status]
        return len(matching), matching[offset : offset + limit]

    def _free_number(self) -> str:
        while str(self._next_number) in self.by_id:
            self._next_number += 1
        return str(self._next_number)

    def _add(self, invoice: Invoice) -> Invoice:
        self.by_id[invoice.invoice_id] = invoice
        return invoice


def is_id(text: str) -> bool:
    """Tell whether a text has the form of an invoice id [A]."""
    return _ID.fullmatch(text) is not None


def _number_from(invoice_id: str) -> int:
    """Spread an id over 64 bits, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(invoice_id.encode(), digest_size=8).digest(), "big")
