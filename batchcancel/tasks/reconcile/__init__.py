"""The command ``reconcile``: a ledger against the service, by look-ups alone.

``comparison``, ``account`` and ``sample`` decide (pure), ``reconciliation`` looks up, ``differences`` and
``summary`` write.
"""

from batchcancel.tasks.reconcile.account import Account
from batchcancel.tasks.reconcile.comparison import Comparison, Mark, Note, compare
from batchcancel.tasks.reconcile.differences import Differences
from batchcancel.tasks.reconcile.reconciliation import (
    Census,
    Reconciliation,
    check_account,
    first_run_of,
    merchant_column_of,
)
from batchcancel.tasks.reconcile.sample import Sample
from batchcancel.tasks.reconcile.summary import Reconciled, reconciled_json, reconciled_text

__all__ = [
    "Account",
    "Census",
    "Comparison",
    "Differences",
    "Mark",
    "Note",
    "Reconciled",
    "Reconciliation",
    "Sample",
    "check_account",
    "compare",
    "first_run_of",
    "merchant_column_of",
    "reconciled_json",
    "reconciled_text",
]
