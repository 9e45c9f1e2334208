"""What a manifest held against a ledger can say, in words that are safe to show.

A run *over the manifest* is one whose run record has the digests of all manifests that were named, in their
order. Only such a run is held to what the manifest says; an answer counts whichever run wrote it.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from batchcancel.manifest import ManifestFile
from batchcancel.model import Reason


class DisagreementKind(StrEnum):
    """What the manifest and the ledger say differently."""

    CHANGED = "changed"
    """No run of the ledger read the manifest as it is now."""
    NO_ROW = "no_row"
    """A run over the manifest says that it answered everything, and an invoice has no row."""
    STRANGER = "stranger"
    """A run over the manifest wrote a row of an invoice that is not in it."""
    SKIP = "skip"
    """A run over the manifest skipped a row that is no duplicate, or not in it."""
    COUNTS = "counts"
    """A run over the manifest counted its rows or its duplicates otherwise."""


class Disagreement(Struct, frozen=True, kw_only=True):
    """One of them, and where it is."""

    kind: DisagreementKind
    file: str | None = None
    """The manifest, where a row of one is meant."""
    row: int | None = None
    """1-based data row of that manifest."""
    line: int | None = None
    """1-based line of the ledger, where one is meant."""
    text: str
    """A sentence for people: printable ASCII."""


class OpenRow(Struct, frozen=True, kw_only=True):
    """A row of the manifest whose invoice has no final answer."""

    file: str
    row: int
    invoice_id: str
    """Printable ASCII, as is ``merchant_id``."""
    merchant_id: str | None
    """Whose invoice it is, where it is not the run's own merchant's."""
    reason: Reason | None
    """Of its open error; None if the ledger has no row of it."""


class Coverage(Struct, frozen=True, kw_only=True):
    """What a manifest's rows come to; each is counted once."""

    files: tuple[ManifestFile, ...]
    runs: int
    """Runs over the manifest."""
    complete_runs: int
    rows: int
    answered: dict[Reason, int]
    """Invoices with a final answer, by its reason; invalid ids are not among them."""
    invalid: int
    """Rows that the ledger has as an ``invalid_id``."""
    duplicates: int
    excluded: int
    """Invoices that a run over the manifest was told never to touch, and that have no row."""
    open_errors: dict[Reason, int]
    """Invoices with an open error, by its reason."""
    unanswered: int
    """Invoices, and rows that name none, without any row of the ledger."""
    open_rows: tuple[OpenRow, ...]
    """The first ``MAX_LISTED`` of those with an open error and of the unanswered, in the manifest's order."""
    disagreements: tuple[Disagreement, ...]
    """The first ``MAX_LISTED`` of each kind."""
    disagreement_count: int

    @property
    def open(self) -> int:
        """Rows whose invoices have no final answer."""
        return sum(self.open_errors.values()) + self.unanswered
