"""Exit codes (design section 4), and the one place that turns an error or a summary into one."""

from __future__ import annotations

import signal
from enum import IntEnum
from typing import Final, Protocol

import click

from batchcancel.errors import (
    BatchCancelError,
    LedgerFaultError,
    LedgerInUseError,
    SafetyStopError,
    UsageError,
)
from batchcancel.model import RunState, Tally


class ExitCode(IntEnum):
    """What a caller may rely on. Codes that are not here count as failures."""

    DONE = 0
    """Every invoice has an answer, and this run wrote no ``error`` row."""
    DEFECT = 1
    """A defect in the program; the ledger is consistent."""
    USAGE = 2
    """Usage, configuration, manifest or gate: nothing was sent."""
    ERRORS = 3
    """Finished, but this run wrote an ``error`` row or left one open."""
    SAFETY_STOP = 4
    """Stopped by a safety stop; rows remain."""
    IN_USE = 5
    """Another run holds the ledger."""
    LEDGER_FAULT = 6
    """The ledger can't be written, or is damaged."""
    AS_ASKED = 7
    """Stopped where it was told to, by ``--limit`` or ``--max-duration``; rows remain, and all is well."""


NO_ALARM: Final = frozenset({ExitCode.DONE, ExitCode.IN_USE, ExitCode.AS_ASKED})
"""Codes after which nobody has to do anything. After 5 the run that holds the ledger tells how it went."""


def of_exception(exc: BaseException) -> int:
    """Return the exit code that an exception of any kind ends the program with."""
    match exc:
        case KeyboardInterrupt():
            return of_signal(getattr(exc, "signum", signal.SIGINT))
        case click.ClickException():
            return exc.exit_code
        case BatchCancelError():
            return of_error(exc)
        case _:
            return ExitCode.DEFECT


def of_error(error: BatchCancelError) -> ExitCode:
    """Return the exit code that an error ends the program with."""
    match error:
        case UsageError():
            return ExitCode.USAGE
        case SafetyStopError():
            return ExitCode.SAFETY_STOP
        case LedgerInUseError():
            return ExitCode.IN_USE
        case LedgerFaultError():
            return ExitCode.LEDGER_FAULT
        case _:
            return ExitCode.DEFECT


def of_signal(signum: int) -> int:
    """Return the exit code after a signal, as shells count: 129, 130 or 143."""
    return 128 + signum


class Ended(Protocol):
    """What came to an end: a run, or whatever ends as a run does."""

    @property
    def state(self) -> RunState:
        """How it ended."""
        ...

    @property
    def as_asked(self) -> bool:
        """Whether it stopped where it was told to."""
        ...

    @property
    def tally(self) -> Tally:
        """What became of its rows."""
        ...


def of_summary(summary: Ended, *, signum: int | None) -> int:
    """Return the exit code of a run that came to an end, or of what ends as one does.

    Args:
        summary: The run.
        signum: The signal that interrupted it, if one did.
    """
    if summary.state is RunState.STOPPED and not summary.as_asked:
        return ExitCode.SAFETY_STOP
    if signum is not None:
        return of_signal(signum)
    if summary.as_asked:
        return ExitCode.AS_ASKED
    return ExitCode.ERRORS if summary.tally.errors or summary.tally.open else ExitCode.DONE
