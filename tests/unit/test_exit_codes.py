"""Exit codes are a contract with schedulers: every error and every end has its own."""

from __future__ import annotations

import signal

import pytest

from batchcancel.cli.exit_codes import ExitCode, of_error, of_signal, of_summary
from batchcancel.errors import (
    BatchCancelError,
    CanaryFailedError,
    ClusterError,
    ConservationError,
    CredentialsRefusedError,
    EngineError,
    GateRefusedError,
    HostUntrustedError,
    LedgerDamagedError,
    LedgerFaultError,
    LedgerInUseError,
    LedgerMismatchError,
    LedgerWriteError,
    ListRefusedError,
    ListUnreadableError,
    ManifestChangedError,
    ManifestError,
    NotSentError,
    OutageTooLongError,
    ReadOnlyError,
    ReplyLostError,
    ReportError,
    RunStoppingError,
    SafetyStopError,
    SettingsError,
    ThresholdExceededError,
    TransportError,
    UsageError,
)
from batchcancel.model import Reason, RunState, RunSummary, Tally

CODES: dict[type[BatchCancelError], int] = {
    BatchCancelError: 1,
    ConservationError: 1,
    ReadOnlyError: 1,
    TransportError: 1,
    NotSentError: 1,
    ReplyLostError: 1,
    RunStoppingError: 1,
    UsageError: 2,
    SettingsError: 2,
    ManifestError: 2,
    LedgerMismatchError: 2,
    ReportError: 2,
    ListRefusedError: 2,
    GateRefusedError: 2,
    EngineError: 2,
    SafetyStopError: 4,
    CredentialsRefusedError: 4,
    HostUntrustedError: 4,
    OutageTooLongError: 4,
    ListUnreadableError: 4,
    ThresholdExceededError: 4,
    CanaryFailedError: 4,
    ManifestChangedError: 4,
    ClusterError: 4,
    LedgerInUseError: 5,
    LedgerFaultError: 6,
    LedgerWriteError: 6,
    LedgerDamagedError: 6,
}


def family(error: type[BatchCancelError]) -> set[type[BatchCancelError]]:
    """Return an error class and all that descend from it in the package."""
    return {error}.union(*map(family, error.__subclasses__()))


def test_every_error_of_the_package_has_a_code_here() -> None:
    """A new error class fails this test until its code is decided."""
    assert {one for one in family(BatchCancelError) if one.__module__ == "batchcancel.errors"} == set(CODES)


@pytest.mark.parametrize(("error", "code"), CODES.items(), ids=lambda one: getattr(one, "__name__", None))
def test_every_error_ends_with_its_code(error: type[BatchCancelError], code: int) -> None:
    """Design section 4; what should never reach the user is a defect."""
    assert of_error(error("why")) == code


def test_the_codes_are_the_documented_ones() -> None:
    """Numbers never change."""
    assert {one.name: one.value for one in ExitCode} == {
        "DONE": 0,
        "DEFECT": 1,
        "USAGE": 2,
        "ERRORS": 3,
        "SAFETY_STOP": 4,
        "IN_USE": 5,
        "LEDGER_FAULT": 6,
        "AS_ASKED": 7,
    }


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)],
    ids=["SIGHUP", "SIGINT", "SIGTERM"],
)
def test_a_signal_ends_as_shells_count(signum: int, code: int) -> None:
    """128 and the signal's number."""
    assert of_signal(signum) == code


DONE = Tally(rows=2, results={Reason.CANCELED: 1, Reason.PAID: 1})
ERROR = Tally(rows=2, results={Reason.CANCELED: 1, Reason.NOT_FOUND: 1})
OPEN = Tally(rows=2, results={Reason.CANCELED: 1}, open=1)
COMPLETE, STOPPED, INTERRUPTED = RunState.COMPLETE, RunState.STOPPED, RunState.INTERRUPTED


@pytest.mark.parametrize(
    ("state", "tally", "signum", "code", "as_asked"),
    [
        pytest.param(COMPLETE, Tally(), None, 0, False, id="nothing to do"),
        pytest.param(COMPLETE, DONE, None, 0, False, id="paid is an answer"),
        pytest.param(COMPLETE, Tally(rows=9, settled_earlier=9), None, 0, False, id="all settled earlier"),
        pytest.param(COMPLETE, ERROR, None, 3, False, id="a final error of this run"),
        pytest.param(COMPLETE, OPEN, None, 3, False, id="left open"),
        pytest.param(INTERRUPTED, OPEN, None, 3, False, id="interrupted by no signal"),
        pytest.param(INTERRUPTED, DONE, signal.SIGTERM, 143, False, id="signal over done"),
        pytest.param(INTERRUPTED, ERROR, signal.SIGINT, 130, False, id="signal over errors"),
        pytest.param(COMPLETE, ERROR, signal.SIGINT, 130, False, id="signal at the very end"),
        pytest.param(STOPPED, ERROR, None, 4, False, id="safety stop over errors"),
        pytest.param(STOPPED, OPEN, signal.SIGTERM, 4, False, id="safety stop over signal"),
        pytest.param(STOPPED, OPEN, None, 7, True, id="stopped where asked"),
        pytest.param(STOPPED, ERROR, None, 7, True, id="stopped where asked over errors"),
        pytest.param(STOPPED, OPEN, signal.SIGTERM, 143, True, id="signal over stopped where asked"),
    ],
)
def test_the_first_of_safety_stop_signal_limit_and_errors_counts(
    state: RunState, tally: Tally, signum: int | None, code: int, *, as_asked: bool
) -> None:
    """Design section 4: several at once."""
    summary = RunSummary(
        run_id="r",
        env="test",
        host="h",
        merchant_id="m",
        ledger="l",
        state=state,
        why=None,
        as_asked=as_asked,
        tally=tally,
        amounts_canceled={},
        duration_s=1.0,
    )
    assert of_summary(summary, signum=signum) == code
