"""Keeping runs out of a ledger while it is salvaged."""

from __future__ import annotations

import fcntl
from pathlib import Path

from batchcancel.errors import LedgerFaultError, LedgerInUseError


def hold(fd: int, ledger: Path) -> None:
    """Keep runs out of a ledger until it is closed; others may read it meanwhile.

    Raises:
        LedgerInUseError: A run holds it.
        LedgerFaultError: Its file system has no locks.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise LedgerInUseError(f"A run holds {ledger}. Wait until it has ended.") from exc
    except OSError as exc:
        raise LedgerFaultError(f"{ledger} can't be locked: {exc.strerror}. Copy it elsewhere first.") from exc
