"""The command ``verify``: audit a ledger, hold a manifest against it, and salvage a damaged one.

``findings`` and ``coverage`` are the words; ``auditor``, ``runs``, ``answers``, ``runs_over`` and
``comparing`` decide; ``audit``, ``manifests`` and ``covering`` read files; ``salvage`` writes a new ledger.
"""

from batchcancel.tasks.verify.audit import audit_ledger
from batchcancel.tasks.verify.coverage import Coverage, Disagreement, DisagreementKind, OpenRow
from batchcancel.tasks.verify.covering import Reading, audit_with_manifests
from batchcancel.tasks.verify.findings import Audit, Finding, FindingKind, NoteKind
from batchcancel.tasks.verify.salvage import LeftOut, Salvaged, salvage_ledger

__all__ = [
    "Audit",
    "Coverage",
    "Disagreement",
    "DisagreementKind",
    "Finding",
    "FindingKind",
    "LeftOut",
    "NoteKind",
    "OpenRow",
    "Reading",
    "Salvaged",
    "audit_ledger",
    "audit_with_manifests",
    "salvage_ledger",
]
