"""The command ``verify``: audit a ledger from its file alone, and salvage a damaged one.

``findings`` are the words, ``auditor`` and ``runs`` decide (pure), ``audit`` and ``salvage`` read the
file and write the new one.
"""

from batchcancel.tasks.verify.audit import audit_ledger
from batchcancel.tasks.verify.findings import Audit, Finding, FindingKind, NoteKind
from batchcancel.tasks.verify.salvage import LeftOut, Salvaged, salvage_ledger

__all__ = [
    "Audit",
    "Finding",
    "FindingKind",
    "LeftOut",
    "NoteKind",
    "Salvaged",
    "audit_ledger",
    "salvage_ledger",
]
