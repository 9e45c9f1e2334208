"""What must hold after every kill and at the end, judged from the ledger and the service's log alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.campaign.evidence import LedgerImage, Request, Row

MOST_REPEATED: Final = 512
"""Most POSTs that a run after a kill may repeat, whatever its concurrency (design, "Durability")."""
_GROUP_S: Final = 0.05
_WRITE_S: Final = 1.0
"""How long a write and its sync may take on a busy machine, the wait for the processor included."""
_CLOCK_S: Final = 0.005

_TRUTHS: Final = {
    "PAID-": ("already_paid", "paid"),
    "PENDING-PAID-": ("already_paid", "paid"),
    "PARTIAL-": ("partially_paid", "partial"),
    "CANCELED-": ("canceled", "already_canceled"),
    "MISSING-": ("error", "not_found"),
    "b@d-": ("error", "invalid_id"),
}
"""The only right answer about an invoice that no POST canceled, by the prefix that tells its state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """How a process met its end."""

    before_s: float
    """Just before the signal was sent, Unix seconds."""
    after_s: float
    """When the process was gone."""
    concurrency: int
    latency_s: float
    """Every reply waits at least this long in the service."""
    jitter_s: float
    """And at most this much longer."""
    slow_s: float
    """And a slow one that much on top."""


@dataclass(slots=True, kw_only=True)
class Figures:
    """What a campaign has counted; those of several lanes add up."""

    kills: int = 0
    with_request_in_flight: int = 0
    runs: int = 0
    manifests: int = 0
    of_several_merchants: int = 0
    invoices: int = 0
    requests: int = 0
    lost: int = 0
    wrong: int = 0
    twice: int = 0
    repeated: int = 0
    most_repeated_in_one_kill: int = 0
    bound_of_that_kill: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        """Add another lane's figures."""
        if other.most_repeated_in_one_kill > self.most_repeated_in_one_kill:
            self.most_repeated_in_one_kill = other.most_repeated_in_one_kill
            self.bound_of_that_kill = other.bound_of_that_kill
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.violations += other.violations


_SUMS: Final = (
    *("kills", "with_request_in_flight", "runs", "manifests", "of_several_merchants", "invoices", "requests"),
    *("lost", "wrong", "twice", "repeated"),
)


class Audit:
    """Watches one ledger from its first run to its last."""

    def __init__(self, invoices: Iterable[str], figures: Figures, *, name: str) -> None:
        """Begin with an empty ledger.

        Args:
            invoices: What the manifest names, by ``evidence.name_of``, invalid ids too, each once.
            figures: Where everything is counted.
            name: Of this ledger, for messages.
        """
        self.invoices = frozenset(invoices)
        self.settled: frozenset[str] = frozenset()
        """Those whose final row is in the file."""
        self._figures = figures
        self._name = name
        self._image = LedgerImage(good=b"", rows=(), faults=())
        self._committed: set[str] = set()
        self._unanswered: set[str] = set()
        self._suspended: tuple[frozenset[str], int] = frozenset(), 0
        """After a kill: those that may be asked a second time, and how many at most."""

    def note_process(self, requests: Sequence[Request], image: LedgerImage, kill: Kill | None) -> None:
        """Check what one process has done.

        Args:
            requests: All that reached the service from it, in order of arrival.
            image: The ledger after its end.
            kill: How it was killed; None if it ended by itself.
        """
        self._figures.runs += 1
        self._figures.requests += len(requests)
        self._check_greeting(requests)
        self._check_repeats(requests)
        self._check_settled_stay_unasked(requests)
        self._check_look_ups_between(requests)
        self._committed |= {request.invoice or "" for request in requests if request.committed}
        self._unanswered = {request.invoice or "" for request in _posts(requests) if request.is_unanswered}
        self._check_file(image)
        self._check_rows(image.rows, requests)
        self._image = image
        self.settled = frozenset(row.invoice for row in image.rows if row.is_final)
        if kill is not None:
            self._note_kill(requests, kill)

    def close(self) -> None:
        """Check that every invoice has its row, once its last run has come to an end."""
        self._figures.manifests += 1
        self._figures.invoices += len(self.invoices)
        lost = self.invoices - self.settled
        self._figures.lost += len(lost)
        self.complain(f"{invoice} has no final row" for invoice in sorted(lost))

    def complain(self, complaints: Iterable[str]) -> None:
        """Record what must not be, in words."""
        self._figures.violations += [f"{self._name}: {complaint}" for complaint in complaints]

    # --- one process --------------------------------------------------------------------------

    def _check_greeting(self, requests: Sequence[Request]) -> None:
        """Check that the log was cut between processes: each begins with the signed read."""
        if requests and requests[0].operation != "list":
            self.complain(["the requests of two processes can't be told apart"])

    def _check_repeats(self, requests: Sequence[Request]) -> None:
        """Count the POSTs that the kill before this process made it send a second time."""
        suspended, bound = self._suspended
        self._suspended = frozenset(), 0
        repeated = len({request.invoice for request in _posts(requests)} & suspended)
        figures = self._figures
        figures.repeated += repeated
        if repeated > figures.most_repeated_in_one_kill:
            figures.most_repeated_in_one_kill, figures.bound_of_that_kill = repeated, bound
        if repeated > bound:
            self.complain([f"{repeated} POSTs were repeated after a kill, and {bound} are allowed"])

    def _check_settled_stay_unasked(self, requests: Sequence[Request]) -> None:
        self.complain(
            f"{request.operation} for {request.invoice}, whose final row was in the ledger already"
            for request in requests
            if request.invoice in self.settled
        )

    def _check_look_ups_between(self, requests: Sequence[Request]) -> None:
        in_doubt: set[str] = set()
        for request in requests:
            if request.invoice is None:
                continue
            if request.operation == "get":
                in_doubt.discard(request.invoice)
            elif request.invoice in in_doubt:
                self.complain([f"{request.invoice} was POSTed again without a look-up"])
            elif request.is_unanswered or request.committed:
                in_doubt.add(request.invoice)

    # --- the ledger ---------------------------------------------------------------------------

    def _check_file(self, image: LedgerImage) -> None:
        self.complain(image.faults)
        if not image.good.startswith(self._image.good):
            self.complain(["bytes of the ledger that were there have changed"])

    def _check_rows(self, rows: Sequence[Row], requests: Sequence[Request]) -> None:
        """Check every row that this process has added."""
        added = [row for row in rows[len(self._image.rows) :] if row.is_final]
        last_post_s = {request.invoice: request.at_s for request in _posts(requests)}
        for row in added:
            if (row.outcome, row.reason) != self._truth(row.invoice):
                self._figures.wrong += 1
                self.complain([f"{row.invoice} is written {row.reason}, which the service denies"])
            if last_post_s.get(row.invoice, 0.0) > row.at_s + _CLOCK_S:
                self.complain([f"{row.invoice} was POSTed after its answer was known"])
        counts = Counter(row.invoice for row in added)
        counts.update(counts.keys() & self.settled)
        twice = [invoice for invoice, count in counts.items() if count > 1]
        self._figures.twice += len(twice)
        self.complain(f"{invoice} has more than one final row" for invoice in twice)

    def _truth(self, invoice: str) -> tuple[str, str]:
        """Return outcome and reason by the service's own log."""
        if invoice in self._committed:
            return "canceled", "canceled"
        if invoice.startswith("CANCELED-") and invoice in self._unanswered:
            # Where a POST of the run itself was not answered, a look-up that says CANCELED is taken for
            # its doing (design, "The verdict").
            return "canceled", "canceled"
        known = (truth for prefix, truth in _TRUTHS.items() if invoice.startswith(prefix))
        return next(known, ("", ""))

    # --- a kill -------------------------------------------------------------------------------

    def _note_kill(self, requests: Sequence[Request], kill: Kill) -> None:
        by_invoice: defaultdict[str, list[Request]] = defaultdict(list)
        for request in requests:
            if request.invoice is not None and request.invoice not in self.settled:
                by_invoice[request.invoice].append(request)
        # Surely unanswered, or asked about and canceled, and the ledger doesn't know it.
        in_flight = any(
            asked[-1].at_s + kill.latency_s > kill.after_s or invoice in self._committed
            for invoice, asked in by_invoice.items()
        )
        self._figures.kills += 1
        self._figures.with_request_in_flight += in_flight
        # An invoice that was looked up and found open would have been POSTed again without the kill too.
        suspended = frozenset(
            invoice
            for invoice, asked in by_invoice.items()
            if any(request.committed for request in asked) or asked[-1].operation == "cancel"
        )
        fresh_s = kill.before_s - _GROUP_S - _WRITE_S - kill.latency_s - kill.jitter_s
        answered_lately = sum(
            any(request.at_s + kill.slow_s * (request.cause == "slow") > fresh_s for request in asked)
            for asked in by_invoice.values()
        )
        self._suspended = suspended, min(MOST_REPEATED, kill.concurrency + answered_lately)


def _posts(requests: Iterable[Request]) -> Iterable[Request]:
    return (request for request in requests if request.operation == "cancel")
