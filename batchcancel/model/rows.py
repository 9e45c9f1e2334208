"""Rows on their way in and out: of a manifest, of the ledger, and their sum."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from batchcancel.model.words import (
    MatchField,
    Outcome,
    Reason,
    ResolvedBy,
    RunState,
    SkipReason,
    Standing,
)


class ManifestRow(Struct, frozen=True, kw_only=True):
    """One data row of a manifest."""

    row: int
    """1-based number of the data row in its file; header and blank lines are not counted."""
    invoice_id: str
    """The id, trimmed. If ``valid`` is false: the text as read, 256 characters at most, escaped."""
    valid: bool = True
    """Whether the id may be sent (design section 7)."""
    duplicate_of: int | None = None
    """The row where this id stood first, or None."""
    duplicate_of_file: str | None = None
    """That row's file, where several manifests are read."""
    file: str | None = None
    """The row's file, where several manifests are read."""
    merchant_id: str | None = None
    """Whose invoice it is, where the manifest says so and it is not the run's own merchant."""
    keep: dict[str, str] | None = None
    """The columns that ``--keep`` asked to carry into the ledger."""
    match: dict[MatchField, str] | None = None
    """What ``--match`` says that the invoice has to be like, as read."""
    standing: Standing = Standing.TO_ASK
    """Where its invoice stands before the run; of no account where another row stands for this one."""
    planned: Result | None = None
    """The answer that a plan has for its invoice, so that nobody has to be asked."""


class Result(Struct, frozen=True, kw_only=True):
    """What became of one invoice: a result row of the ledger (design section 5)."""

    row: int
    file: str | UnsetType = UNSET
    merchant_id: str | UnsetType = UNSET
    """Whose invoice it is, where that is not the run's own merchant."""
    invoice_id: str
    outcome: Outcome
    reason: Reason
    resolved_by: ResolvedBy | None
    """None where nothing was asked (``invalid_id``) or nothing was answered."""
    invoice_status: str | None = None
    http_status: int | None = None
    """Of the reply that decided; None without one."""
    attempts: int = 0
    """POSTs sent by this run, refused ones signed afresh and 429s not counted."""
    lookups: int = 0
    """Look-ups sent by this run, counted likewise."""
    amount: str | None = None
    balance: str | None = None
    currency: str | None = None
    correlation_id: str | None = None
    submitted_at: str | None = None
    """The service's ``submitTimeUtc`` of the reply that decided."""
    at: str
    """When this row was decided, UTC, on this machine's clock."""
    latency_ms: float | None = None
    message: str | None = None
    keep: dict[str, str] | UnsetType = UNSET


class Sighting(Struct, frozen=True, kw_only=True):
    """What a look-up found of one invoice where nothing but looking was asked for."""

    row: int
    file: str | UnsetType = UNSET
    merchant_id: str | UnsetType = UNSET
    """Whose invoice it is, where that is not the own merchant."""
    invoice_id: str
    reason: Reason | None
    """How a run would end the invoice without canceling it; None where it would cancel it."""
    invoice_status: str | None = None
    http_status: int | None = None
    """Of the reply that decided; None without one."""
    lookups: int = 0
    amount: str | None = None
    balance: str | None = None
    currency: str | None = None
    due_date: str | None = None
    created_at: str | None = None
    """When the invoice was created, UTC, on the service's clock."""
    correlation_id: str | None = None
    submitted_at: str | None = None
    at: str
    """When this was decided, UTC, on this machine's clock."""
    latency_ms: float | None = None
    message: str | None = None


class Skip(Struct, frozen=True, kw_only=True):
    """A manifest row that is not asked: another row stands for it, or it is never to be touched."""

    row: int
    file: str | UnsetType = UNSET
    merchant_id: str | UnsetType = UNSET
    """Whose invoice it is, where that is not the run's own merchant."""
    invoice_id: str
    why: SkipReason
    of_row: int | UnsetType = UNSET
    """The row that stands for a duplicate."""
    of_file: str | UnsetType = UNSET


class Tally(Struct, frozen=True, kw_only=True):
    """What became of the rows of a manifest, or of those that were read; each is counted exactly once."""

    rows: int = 0
    results: dict[Reason, int] = {}
    """Rows that this run gave a result."""
    cancelable: int = 0
    """Rows whose invoices were found open where nothing but looking was asked for."""
    settled_earlier: int = 0
    duplicates: int = 0
    excluded: int = 0
    """Rows that ``--exclude`` names."""
    open: int = 0
    """Rows without an answer and without a row of this run."""

    @property
    def errors(self) -> int:
        """Error rows that this run wrote, open ones and final ones."""
        return sum(n for reason, n in self.results.items() if reason.outcome is Outcome.ERROR)

    @property
    def done(self) -> int:
        """Rows that were brought to an end: by a result, or by looking."""
        return sum(self.results.values()) + self.cancelable

    @property
    def is_conserved(self) -> bool:
        """Whether every row of the manifest is accounted for (design section 5)."""
        skipped = self.settled_earlier + self.duplicates + self.excluded
        return self.done + skipped + self.open == self.rows and self.open >= 0

    def with_unread(self, *, rows: int, settled_earlier: int) -> Tally:
        """Add the rows that were not read: those that had their answer earlier, and others, which are open.

        Args:
            rows: All rows of the manifest, as its check counted them.
            settled_earlier: Those that had their answer before the run, as it counted them.
        """
        unread = rows - self.rows - (settled_earlier - self.settled_earlier)
        return replace(self, rows=rows, settled_earlier=settled_earlier, open=self.open + unread)


class StoppedMerchant(Struct, frozen=True, kw_only=True):
    """A merchant whose rows were stopped while those of others went on."""

    merchant_id: str | None
    """None for the run's own merchant."""
    open: int
    """Its invoices that were to be asked about and have no row of this run."""
    why: str


class RunSummary(Struct, frozen=True, kw_only=True):
    """A run at its end, for people and machines."""

    run_id: str | None
    """None where there was nothing to do and no ledger was touched."""
    env: str
    host: str
    merchant_id: str
    ledger: str
    state: RunState
    why: str | None
    """Why it is not complete: a sentence if it stopped, a word such as SIGINT if it was interrupted."""
    as_asked: bool = False
    """Whether it stopped where it was told to: ``--limit`` or ``--max-duration``."""
    tally: Tally
    stopped_merchants: tuple[StoppedMerchant, ...] = ()
    """Those whose rows were stopped while others' went on."""
    amounts_canceled: dict[str, str]
    """Total amount of the invoices that this run canceled (reason ``canceled``), by currency."""
    duration_s: float
