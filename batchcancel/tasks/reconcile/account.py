"""What comparisons come to: counts by mark, and money where it differs. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from msgspec import Struct

from batchcancel.model import Outcome, Reason
from batchcancel.report.words import add, parse_amount
from batchcancel.tasks.reconcile.comparison import LISTED, MISSING, Comparison, Mark, Note

ANOTHER: Final = "another status"
"""What stands for statuses that the service does not document: there may be any number of them."""


class Kind(Struct, frozen=True):
    """What the comparisons of one line of the summary have in common."""

    mark: Mark
    ledger: Reason
    service: str
    """A documented status, ``404``, why nothing was read, ``ANOTHER``, or nothing."""
    note: Note | None


@dataclass(slots=True)
class Money:
    """The canceled invoices of one currency that were read and whose amount the ledger knows."""

    ledger: Decimal = Decimal(0)
    """Their amounts."""
    service: Decimal = Decimal(0)
    """The totals of those that the service calls CANCELED."""


@dataclass(slots=True)
class Account:
    """Adds comparisons up."""

    kinds: Counter[Kind] = field(default_factory=Counter)
    canceled: dict[str, Money] = field(default_factory=dict)
    """By currency."""
    without_amount: int = 0
    """Canceled invoices that were read and are in no sum: the ledger does not know their amount."""

    def note(self, one: Comparison) -> None:
        """Take a comparison."""
        self.kinds[Kind(one.mark, one.ledger, _service_of(one), one.note)] += 1
        if one.ledger.outcome is Outcome.CANCELED and one.mark is not Mark.UNREAD:
            self._note_canceled(one)

    def count(self, mark: Mark) -> int:
        """Return how many invoices have a mark."""
        return sum(count for kind, count in self.kinds.items() if kind.mark is mark)

    @property
    def compared(self) -> int:
        """All invoices that have a mark."""
        return self.kinds.total()

    @property
    def findings(self) -> int:
        """Those that somebody should look at."""
        return self.compared - self.count(Mark.SAME)

    @property
    def differing_money(self) -> dict[str, Money]:
        """The currencies, sorted, whose two sums are not the same."""
        return {
            currency: money
            for currency, money in sorted(self.canceled.items())
            if money.ledger != money.service
        }

    def _note_canceled(self, one: Comparison) -> None:
        ours = parse_amount(one.ledger_amount)
        if ours is None or one.ledger_currency is None:
            self.without_amount += 1
            return
        money = self.canceled.setdefault(one.ledger_currency, Money())
        money.ledger = add(money.ledger, ours)
        if one.service != "CANCELED":
            return
        theirs = parse_amount(one.service_amount)
        if theirs is None or one.service_currency is None:  # it names none, so it contradicts none
            theirs = ours
        elif one.service_currency != one.ledger_currency:
            money = self.canceled.setdefault(one.service_currency, Money())
        money.service = add(money.service, theirs)


def _service_of(one: Comparison) -> str:
    if one.mark is Mark.UNREAD or one.service is None:
        return one.service or ""
    return one.service if one.service in LISTED or one.service == MISSING else ANOTHER
