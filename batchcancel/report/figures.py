"""What the rows of a report come to: counts, money, runs. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final

from batchcancel.ledger.reader import EndRecord, ResultRecord, RunRecord
from batchcancel.model import Outcome, Reason, RunState
from batchcancel.report.activity import Latencies, RunActivity
from batchcancel.report.reading import Entry, LedgerFile, Ledgers
from batchcancel.report.words import add, parse_amount, parse_time

_EXAMPLES: Final = 3


class Money(StrEnum):
    """What became of an amount, in the words that people read."""

    CANCELED = "canceled"
    CANCELED_BEFORE = "canceled before"
    """By somebody else, or nothing shows that these ledgers' runs did it."""
    ALREADY_PAID = "already paid"
    PARTIALLY_PAID = "partially paid"
    """The whole amount of such an invoice."""
    STILL_OWED = "of it unpaid"
    """What partially paid invoices still owe: a part of the column before."""
    OPEN = "open"
    """Of invoices that ended in an error: neither canceled nor, as far as is known, paid."""


class Ending(StrEnum):
    """How a run ended, one that has no end included."""

    COMPLETE = "complete"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    LIVE = "live"
    """It is still writing."""
    NO_END = "no end"
    """It was killed, or its end was lost."""


@dataclass(slots=True)
class Run:
    """One run of a report."""

    record: RunRecord
    ledger: LedgerFile
    rows: int = 0
    errors: int = 0
    posts: int = 0
    lookups: int = 0
    end: EndRecord | None = None
    is_last: bool = True
    """Whether no other run follows it in its ledger."""

    @property
    def ending(self) -> Ending:
        """How it ended."""
        if self.end is None:
            return Ending.LIVE if self.ledger.is_live and self.is_last else Ending.NO_END
        match self.end.state:
            case RunState.COMPLETE:
                return Ending.COMPLETE
            case RunState.STOPPED:
                return Ending.STOPPED
            case RunState.INTERRUPTED:
                return Ending.INTERRUPTED

    @property
    def lasted_s(self) -> float | None:
        """Seconds from its beginning to its end, to the millisecond; None where one of them is not known."""
        if self.end is None:
            return None
        began, ended = parse_time(self.record.started_at), parse_time(self.end.ended_at)
        return None if began is None or ended is None else round(max(0.0, ended - began), 3)


@dataclass(slots=True)
class Example:
    """An invoice that stands for others of its reason."""

    invoice_id: str
    merchant_id: str | None


@dataclass(slots=True)
class Figures:
    """Everything that a report says besides its single rows."""

    ledgers: tuple[LedgerFile, ...]
    first_run: RunRecord | None
    reasons: Counter[Reason] = field(default_factory=Counter)
    """Invoices by the reason of their answer."""
    money: dict[str, dict[Money, Decimal]] = field(default_factory=dict)
    """Known amounts by currency."""
    without_amount: Counter[Outcome] = field(default_factory=Counter)
    """Invoices whose amount or currency the ledgers don't know."""
    examples: dict[Reason, list[Example]] = field(default_factory=dict)
    merchants: set[str] = field(default_factory=set)
    """Merchants besides the runs' own."""
    runs: list[Run] = field(default_factory=list)
    """In the order in which they began, whatever ledger they are of."""
    latencies: Latencies = field(default_factory=Latencies)
    largest: tuple[Run, RunActivity] | None = None
    """The run with most rows, and its course."""

    @property
    def invoices(self) -> int:
        """Invoices that have an answer."""
        return self.reasons.total()

    @property
    def is_live(self) -> bool:
        """Whether a run is writing to one of the ledgers."""
        return any(one.is_live for one in self.ledgers)

    def of_outcome(self, outcome: Outcome) -> dict[Reason, int]:
        """Return the reasons of an outcome that there are, and how often."""
        return {one: self.reasons[one] for one in Reason if one.outcome is outcome and self.reasons[one]}

    @property
    def final_errors(self) -> int:
        """Invoices that ended in an error which no run asks about again by itself."""
        return sum(n for one, n in self.of_outcome(Outcome.ERROR).items() if one.is_final)

    @property
    def open_errors(self) -> int:
        """Invoices that the next run asks about again."""
        return sum(n for one, n in self.of_outcome(Outcome.ERROR).items() if not one.is_final)


class Account:
    """Takes the entries of the second pass in their order; ``figures`` is what they come to."""

    def __init__(self, ledgers: Ledgers) -> None:
        self.figures = Figures(ledgers=ledgers.files, first_run=ledgers.first_run)
        self._runs: dict[str, Run] = {}
        self._start = ""
        self._starts: list[str] = []  # when each of the figures' runs began
        self._ledger = -1
        self._run: Run | None = None
        self._activity: RunActivity | None = None

    def take(self, entry: Entry) -> None:
        """Take the next entry.

        A run that an earlier ledger has too (a copy, or a salvaged ledger beside the damaged one)
        is told once: its rows count as answers, not as work done twice.
        """
        if entry.ledger != self._ledger:
            self._ledger, self._run, self._activity, self._start = entry.ledger, None, None, ""
        record = entry.record
        match record:
            case ResultRecord():
                self._take_work(record)
                if entry.is_answer:
                    self._take_answer(record)
            case RunRecord():
                self._begin(record)
            case EndRecord() if self._run is not None:
                self._run.end = record

    def _begin(self, record: RunRecord) -> None:
        ledger = self.figures.ledgers[self._ledger]
        if self._run is not None:
            self._run.is_last = False
        self._activity = None
        self._run = None
        if record.run_id not in self._runs:
            self._run = self._runs[record.run_id] = Run(record, ledger)
            # Within a ledger runs never begin earlier than those before them, whatever a clock said.
            self._start = max(self._start, record.started_at)
            place = bisect_right(self._starts, self._start)
            self._starts.insert(place, self._start)
            self.figures.runs.insert(place, self._run)
            if (began_s := parse_time(record.started_at)) is not None:
                self._activity = RunActivity(began_s)

    def _take_work(self, record: ResultRecord) -> None:
        run, figures = self._run, self.figures
        if run is None:
            return
        run.rows += 1
        run.errors += record.outcome is Outcome.ERROR
        run.posts += record.attempts
        run.lookups += record.lookups
        if record.latency_ms is not None:
            figures.latencies.add(record.latency_ms)
        if self._activity is not None:
            self._activity.note(record, parse_time(record.at))
            if figures.largest is None or run.rows > figures.largest[0].rows:
                figures.largest = (run, self._activity)

    def _take_answer(self, record: ResultRecord) -> None:
        figures = self.figures
        figures.reasons[record.reason] += 1
        merchant_id = record.merchant_id or None
        if merchant_id is not None:
            figures.merchants.add(merchant_id)
        examples = figures.examples.setdefault(record.reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(Example(record.invoice_id, merchant_id))
        amount = parse_amount(record.amount)
        if amount is None or record.currency is None:
            figures.without_amount[record.reason.outcome] += 1
            return
        sums = figures.money.get(record.currency)
        if sums is None:
            sums = figures.money[record.currency] = dict.fromkeys(Money, Decimal(0))
        kind = _kind_of(record.reason)
        sums[kind] = add(sums[kind], amount)
        if kind is Money.PARTIALLY_PAID:
            balance = parse_amount(record.balance) or Decimal(0)
            sums[Money.STILL_OWED] = add(sums[Money.STILL_OWED], balance)


def _kind_of(reason: Reason) -> Money:
    """Tell which sum an invoice's amount belongs to."""
    if reason is Reason.ALREADY_CANCELED:
        return Money.CANCELED_BEFORE
    match reason.outcome:
        case Outcome.CANCELED:
            return Money.CANCELED
        case Outcome.ALREADY_PAID:
            return Money.ALREADY_PAID
        case Outcome.PARTIALLY_PAID:
            return Money.PARTIALLY_PAID
        case Outcome.ERROR:
            return Money.OPEN
