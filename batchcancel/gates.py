"""What must hold before and while money is touched. Pure: facts in, a refusal or nothing out."""

from __future__ import annotations

from collections import deque
from typing import Final

from msgspec import Struct

from batchcancel.errors import (
    CanaryFailedError,
    GateRefusedError,
    LedgerWriteError,
    ThresholdExceededError,
)
from batchcancel.model import Outcome, Reason, ResolvedBy, Result

WINDOW_ROWS: Final = 200
"""Rows over which rates are taken, the latest ones."""
LEAST_ROWS: Final = 100
"""Rows that have to be there before a rate means anything."""
_ROW_BYTES: Final = 450
"""What a row needs in the ledger: measured, without kept columns."""
_RUN_BYTES: Final = 4096
"""What the run's own records and the folder's entry need."""
_WRONG_EXPORT: Final = frozenset({Reason.PAID, Reason.PARTIAL, Reason.NOT_FOUND, Reason.MISMATCH})
"""What many invoices of a wrong export end as."""
_NO_ANSWER: Final = frozenset({Reason.UNKNOWN, Reason.NETWORK, Reason.SERVER_ERROR, Reason.RATE_LIMITED})
"""Endings of an invoice that the service gave no word on."""
_LOOK_FIRST: Final = "Look at the ledger before the next run."
_ENCRYPTION_HINT: Final = (
    " Most of them were refused although their status is open, and requests were not encrypted: the service "
    "may require message-level encryption for this account, see BATCHCANCEL_MLE."
)
"""A service that requires encryption refuses a plain cancelation like any that is not allowed."""

# --- before the first request --------------------------------------------------------------------


def needs_typed_count(*, is_production: bool, yes: bool, has_terminal: bool) -> bool:
    """Tell whether a person has to type the number of invoices before the first request.

    Args:
        is_production: Whether the host that is called is production.
        yes: Whether the caller said ``--yes``.
        has_terminal: Whether there is a terminal to ask on.

    Raises:
        GateRefusedError: Nobody said yes and nobody can be asked.
    """
    if not is_production or yes:
        return False
    if not has_terminal:
        raise GateRefusedError(
            "This would cancel invoices in production, and there is no terminal to confirm it on. "
            "Add --yes if that is what you want."
        )
    return True


def check_typed_count(typed: str, *, expected: int) -> None:
    """Compare what a person typed with the number of invoices.

    Raises:
        GateRefusedError: It is another number, or none.
    """
    if typed.strip().replace(",", "") != str(expected):
        raise GateRefusedError(f"Not confirmed: {expected} was to be typed. Nothing was sent.")


def check_count(distinct: int, expected: tuple[int, int] | None) -> None:
    """Compare the number of distinct valid ids with what the caller expects.

    Args:
        distinct: Of the manifest, settled and excluded ones included.
        expected: The least and the most; None expects nothing.

    Raises:
        GateRefusedError: It lies outside.
    """
    if expected is None or expected[0] <= distinct <= expected[1]:
        return
    low, high = expected
    wanted = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    raise GateRefusedError(
        f"The manifest has {distinct:,} distinct valid ids, and --expect-count says {wanted}. "
        "Nothing was sent."
    )


def check_free_space(free_bytes: int, *, rows: int, folder: str) -> None:
    """Make sure that the ledger has room for every row that is to come.

    Args:
        free_bytes: What an unprivileged user may still write there.
        rows: Rows that this run will write at most.
        folder: The ledger's, for the message.

    Raises:
        LedgerWriteError: There is surely too little.
    """
    needed = _RUN_BYTES + rows * _ROW_BYTES
    if free_bytes < needed:
        raise LedgerWriteError(
            f"{folder} has {free_bytes / 1e6:,.1f} MB free, and the ledger needs about "
            f"{needed / 1e6:,.1f} MB. Nothing was sent: make room, or name another ledger with --ledger."
        )


# --- while invoices are being canceled -----------------------------------------------------------


class Gates(Struct, frozen=True, kw_only=True):
    """What has to hold while invoices are asked about; by default nothing stops a run."""

    limit: int | None = None
    """Invoices that are asked about at most; None for all."""
    canary: int = 0
    """Invoices that have to end well before the others are asked about."""
    max_errors: int | None = None
    """Error rows that the run may write; None for any number."""
    max_error_rate: float = 100.0
    """Percent of the latest rows that may be errors."""
    max_mismatch: float | None = None
    """Percent of the latest rows that may be paid, partially paid, missing or not what the manifest says;
    None for any share."""
    is_encrypted: bool = True
    """Whether requests are encrypted; only a hint depends on it."""


class Canary:
    """The first few invoices: the rest is let through once each of them is what its reply said."""

    def __init__(self, size: int) -> None:
        """Prepare.

        Args:
            size: How many invoices are tried first; 0 for none.
        """
        self._to_admit = size
        self._to_end = size

    def admit(self) -> bool:
        """Take the next invoice; tell whether it is one of the few."""
        self._to_admit -= 1
        return self._to_admit >= 0

    @property
    def is_trying(self) -> bool:
        """Whether not all of the few have ended well."""
        return self._to_end > 0

    @property
    def holds_back(self) -> bool:
        """Whether the few are all on their way and not all of them have ended well."""
        return self._to_admit <= 0 < self._to_end

    def note(self, result: Result) -> CanaryFailedError | None:
        """Take in how one of the few ended; return why the run has to stop, if it has to."""
        if result.reason not in _NO_ANSWER:
            self._to_end -= 1
            return None
        return CanaryFailedError(
            f"One of the invoices that --canary tries first, {result.invoice_id}, ended as {result.reason}: "
            "its reply could not be confirmed. Look at that invoice before the next run."
        )


class Thresholds:
    """How many rows may end badly: in all, and as a share of the latest."""

    def __init__(self, gates: Gates) -> None:
        """Begin to count."""
        self._max_errors = gates.max_errors
        self._errors = 0
        self._error_rate = _Rate(gates.max_error_rate)
        self._rejected = _Rate(100.0)
        self._is_encrypted = gates.is_encrypted
        self._mismatch = _Rate(100.0 if gates.max_mismatch is None else gates.max_mismatch)

    def note(self, result: Result) -> ThresholdExceededError | None:
        """Take in a row; return why the run has to stop, if it has to.

        Rates are taken over rows that requests of this run answered: an id that may not be sent says
        nothing there, nor does what a plan found earlier.
        """
        is_error = result.outcome is Outcome.ERROR
        self._errors += is_error
        if self._max_errors is not None and self._errors > self._max_errors:
            return ThresholdExceededError(
                f"{self._errors:,} rows ended in an error, and --max-errors allows {self._max_errors:,}. "
                f"{_LOOK_FIRST}"
            )
        if result.reason is Reason.INVALID_ID or result.resolved_by is ResolvedBy.PLAN:
            return None
        self._error_rate.add(is_error)
        self._rejected.add(result.reason is Reason.REJECTED)
        self._mismatch.add(result.reason in _WRONG_EXPORT)
        if self._error_rate.is_exceeded:
            # A hint is all that it can be: why a cancelation was refused is never certain.
            is_likely = not self._is_encrypted and self._rejected.count * 2 > self._error_rate.count
            return ThresholdExceededError(
                f"{self._error_rate} ended in an error (--max-error-rate). {_LOOK_FIRST}"
                + (_ENCRYPTION_HINT if is_likely else "")
            )
        if self._mismatch.is_exceeded:
            return ThresholdExceededError(
                f"{self._mismatch} are paid, partially paid, missing or not what the manifest says "
                f"(--max-mismatch), so this may be the wrong export. {_LOOK_FIRST}"
            )
        return None


class _Rate:
    """A share of the latest rows, and how large it may be."""

    def __init__(self, most_percent: float) -> None:
        self._most_percent = most_percent
        self._latest: deque[bool] = deque()
        self.count = 0
        """How many of the latest rows are of the kind."""

    def __str__(self) -> str:
        return f"{self.count} of the latest {len(self._latest)} invoices, more than {self._most_percent:g} %,"

    def add(self, is_one: bool) -> None:  # noqa: FBT001 - one row's yes or no
        """Take in a row."""
        self._latest.append(is_one)
        self.count += is_one
        if len(self._latest) > WINDOW_ROWS:
            self.count -= self._latest.popleft()

    @property
    def is_exceeded(self) -> bool:
        """Whether the share is too large."""
        rows = len(self._latest)
        return rows >= LEAST_ROWS and self.count * 100 > self._most_percent * rows
