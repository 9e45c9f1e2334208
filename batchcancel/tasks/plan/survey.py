"""What look-ups come to: invoices by status, their money, and what a run would need. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from msgspec import Struct

from batchcancel.model import Reason, RunState, Sighting, Tally
from batchcancel.report.words import add, parse_amount
from batchcancel.verdict import PENDING_WAIT_S

EXAMPLES: Final = 3
"""Invoices of each reason that a summary names."""
STATUSES: Final = ("DRAFT", "CREATED", "SENT", "PENDING", "PARTIAL", "PAID", "CANCELED")
"""As the service lists them, those first that a run would cancel."""
_MUCH_SLOWER: Final = 1.25
"""From how many times the expected time on look-ups count as slow."""
_TELLING_S: Final = 1.0
"""Look-ups that took less tell of connecting above all."""
_CLOSED: Final = frozenset({"PAID", "CANCELED"})
"""Of these nothing is owed any more, whatever balance the service names."""


@dataclass(slots=True)
class StatusGroup:
    """The invoices of one status."""

    invoices: int = 0
    open_amounts: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    """What of them is not paid yet, by currency: the balance, or the total where no balance is said."""
    without_amount: int = 0


class Example(Struct, frozen=True, kw_only=True):
    """An invoice that a run would not cancel."""

    row: int
    file: str | None
    invoice_id: str


class PlanSummary(Struct, frozen=True, kw_only=True):
    """A plan at its end, for people and machines."""

    env: str
    host: str
    merchant_id: str
    state: RunState
    why: str | None
    as_asked: bool
    tally: Tally
    statuses: dict[str, StatusGroup]
    """By status as the service names it. What could not be read, and what is not there, is in none."""
    refused: dict[Reason, tuple[Example, ...]]
    """Of each reason that a run would not cancel for, the first few invoices."""
    estimate_s: float | None
    """How long a run would take; None if nothing is to be asked."""
    estimate_by: str
    """What that time follows from, in words."""
    duration_s: float
    out: str | None
    """The file that the plan was written to."""


class Survey:
    """Takes sightings in, one by one."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._statuses: dict[str, StatusGroup] = {}
        self.refused: dict[Reason, list[Example]] = {}
        self._reasons: Counter[Reason | None] = Counter()
        self._latency_ms = 0.0
        self._timed = 0

    @property
    def statuses(self) -> dict[str, StatusGroup]:
        """The invoices that have a status, those first that the service lists."""
        unlisted = sorted(self._statuses.keys() - set(STATUSES))
        return {one: self._statuses[one] for one in (*STATUSES, *unlisted) if one in self._statuses}

    def add(self, sighting: Sighting) -> None:
        """Take in what was seen of one invoice."""
        if sighting.invoice_status is not None:
            self._add_status(sighting.invoice_status, sighting)
        self._reasons[sighting.reason] += 1
        if sighting.latency_ms is not None:
            self._latency_ms += sighting.latency_ms
            self._timed += 1
        if sighting.reason is not None:
            examples = self.refused.setdefault(sighting.reason, [])
            if len(examples) < EXAMPLES:
                examples.append(
                    Example(row=sighting.row, file=sighting.file or None, invoice_id=sighting.invoice_id)
                )

    def estimate(
        self, *, rate: float | None, concurrency: int, matches: bool, takes_plan: bool, looked_for_s: float
    ) -> tuple[float | None, str]:
        """Estimate how long a run over these invoices would take, in seconds, and say what by.

        A cancelation takes one request, what can't be canceled the look-up after its refusal besides, and
        with ``--match`` each invoice is looked up first. Where retries and pauses made these look-ups
        slower than rate and latency say, a run will be as slow.

        Args:
            rate: Requests a second; None for no limit.
            concurrency: Requests in flight at most.
            matches: Whether each invoice is looked up first.
            takes_plan: Whether paid and canceled invoices will be taken from the plan.
            looked_for_s: How long all look-ups together took, in seconds.
        """
        requests = self._requests(matches=matches, takes_plan=takes_plan)
        if not requests or not self._timed:
            return None, "nothing is to be asked"
        latency_s = self._latency_ms / self._timed / 1000
        by_latency = requests * latency_s / concurrency
        by_rate = 0.0 if rate is None else requests / rate
        by_course = requests * looked_for_s / self._timed
        count = "1 request" if requests == 1 else f"about {requests:,} requests"
        waits = ""
        if pending := self._reasons[Reason.PENDING]:
            waits = f"; up to {PENDING_WAIT_S:.0f} s for {pending:,} pending"
        if looked_for_s > _TELLING_S and by_course > _MUCH_SLOWER * max(by_rate, by_latency):
            speed = self._timed / looked_for_s
            return by_course, f"{count}, at the {speed:,.1f} a second of these look-ups{waits}"
        if by_rate >= by_latency:
            return by_rate, f"{count} at {rate:g} a second{waits}"
        return by_latency, f"{count}, {concurrency} at a time, {latency_s * 1000:.0f} ms each{waits}"

    def _add_status(self, status: str, sighting: Sighting) -> None:
        group = self._statuses.setdefault(status, StatusGroup())
        group.invoices += 1
        if status in _CLOSED:
            return
        amount = parse_amount(sighting.amount if sighting.balance is None else sighting.balance)
        if amount is None or sighting.currency is None:
            group.without_amount += 1
        else:
            group.open_amounts[sighting.currency] = add(group.open_amounts[sighting.currency], amount)

    def _requests(self, *, matches: bool, takes_plan: bool) -> int:
        known = {Reason.PAID, Reason.ALREADY_CANCELED} if takes_plan else set()
        total = 0
        for reason, count in self._reasons.items():
            if reason is None:
                total += count * (2 if matches else 1)
            elif reason is not Reason.INVALID_ID and reason not in known:
                total += count * (1 if matches else 2)
        return total
