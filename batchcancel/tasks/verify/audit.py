"""From a ledger's file to its audit. Reads only."""

from __future__ import annotations

from pathlib import Path

from batchcancel.ledger.reader import check_beginning, is_being_written, opened, read_records
from batchcancel.tasks.verify.auditor import Auditor
from batchcancel.tasks.verify.findings import Audit


def audit_ledger(ledger: Path) -> Audit:
    """Check every line of a ledger, and the lines against each other. Blocks.

    A run may be writing meanwhile: what it appends after the beginning is left out, and its
    unfinished last line is no damage.

    Args:
        ledger: The ledger's file.

    Raises:
        LedgerMismatchError: There is no such file, it is no ledger, or a newer version wrote it.
        LedgerFaultError: It can't be read to its end.
    """
    auditor = Auditor()
    with opened(ledger) as fd:
        for line, record in read_records(fd, ledger):
            auditor.take(line, record)
        if not auditor.has_good_line:
            check_beginning(fd, ledger)
        is_held = not auditor.ends_with_an_end and is_being_written(fd, size_read=auditor.size_bytes)
        return auditor.close(is_held=is_held)
