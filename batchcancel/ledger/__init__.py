"""The ledger: one truthful row per invoice, on disk before anyone is told.

``record`` is the format, ``reader`` learns what a file already knows, ``disk`` owns the file and
``writer`` appends to it in groups.
"""

from batchcancel.ledger.reader import History
from batchcancel.ledger.record import ManifestRecord, RunRecord
from batchcancel.ledger.writer import Ledger

__all__ = ["History", "Ledger", "ManifestRecord", "RunRecord"]
