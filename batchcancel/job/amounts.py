"""Money that was canceled, by currency."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal

from batchcancel.model import Reason, Result


class Amounts:
    """Add up what results canceled."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self._totals: defaultdict[str, Decimal] = defaultdict(Decimal)

    def note(self, results: Iterable[Result]) -> None:
        """Add what results canceled, where they say what that was."""
        for result in results:
            if result.reason is Reason.CANCELED and result.amount and result.currency:
                self._totals[result.currency] += Decimal(result.amount)

    @property
    def totals(self) -> dict[str, str]:
        """What was added up so far, as decimal strings by currency, in their order."""
        return _texts(self._totals)


def add_up(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Add up what several have added up."""
    totals: defaultdict[str, Decimal] = defaultdict(Decimal)
    for part in parts:
        for currency, amount in part.items():
            totals[currency] += Decimal(amount)
    return _texts(totals)


def _texts(totals: Mapping[str, Decimal]) -> dict[str, str]:
    return {currency: f"{total:f}" for currency, total in sorted(totals.items())}
