"""Every exception that this package raises, under one root.

::

    BatchCancelError
    ├── UsageError                  the caller has to mend something; nothing was sent
    │   ├── SettingsError           an option, a credential, a configuration file
    │   ├── ManifestError           a manifest that can't be read, with file and line
    │   ├── LedgerMismatchError     the ledger belongs to another environment or merchant, or is none
    │   ├── ReportError             a page or an export that can't be made or written
    │   ├── ListRefusedError        the service does not list what it was asked for
    │   ├── GateRefusedError        a check before the first request said no
    │   └── EngineError             the engine of many hosts can't be used, or has such a job already
    ├── SafetyStopError             stopped while money was being touched; rows stay open
    │   ├── CredentialsRefusedError the service refuses the key
    │   ├── HostUntrustedError      the TLS certificate is untrusted or for another name
    │   ├── OutageTooLongError      no good reply for longer than allowed
    │   ├── ListUnreadableError     no page of the list comes, though the service is there
    │   ├── ThresholdExceededError  too many errors, or too many invoices of a wrong export
    │   ├── CanaryFailedError       the first few were not as their replies said
    │   ├── ManifestChangedError    the manifest changed between check and run
    │   └── ClusterError            a worker or the job's engine can't go on
    ├── LedgerInUseError            another run holds the ledger
    ├── LedgerFaultError            the ledger can't be written, or is damaged
    │   ├── LedgerWriteError        disk full, permission, file removed
    │   └── LedgerDamagedError      a bad line that good lines follow
    ├── ConservationError           the run's own count does not add up: a defect
    ├── ReadOnlyError               a request that changes something, where none may leave: a defect
    ├── TransportError              a request without a reply, for the verdict; never reaches the user
    │   ├── NotSentError            provably before a byte left
    │   └── ReplyLostError          a byte left, or may have
    └── RunStoppingError            a request that is not sent any more; never reaches the user

Messages are whole sentences for a person: what is wrong, then what to do. None holds a secret, a
token, a raw body or a customer's field.
"""

from __future__ import annotations


class BatchCancelError(Exception):
    """Root of every error that this package raises."""


class UsageError(BatchCancelError):
    """The caller has to mend something first; nothing was sent and no ledger was touched."""


class SettingsError(UsageError):
    """An option, a credential or a configuration file is missing, malformed or contradictory."""


class ManifestError(UsageError):
    """A manifest can't be read; the message names file and line."""


class LedgerMismatchError(UsageError):
    """The file is no ledger, or belongs to another environment or merchant."""


class ReportError(UsageError):
    """A page or an export can't be made or written; the ledger and what was there before are as they were."""


class ListRefusedError(UsageError):
    """The service does not list what it was asked for; nothing was changed or written."""


class GateRefusedError(UsageError):
    """A check before the first request said no."""


class EngineError(UsageError):
    """Temporal can't be reached or refuses us, or another job has the quota."""


class SafetyStopError(BatchCancelError):
    """The run stopped to protect money or rows; what is open stays open and can be run again."""


class CredentialsRefusedError(SafetyStopError):
    """The service refuses the key or the account."""


class HostUntrustedError(SafetyStopError):
    """The host's TLS certificate is untrusted or was issued for another name."""


class OutageTooLongError(SafetyStopError):
    """No good reply came for longer than ``--max-outage`` allows."""


class ListUnreadableError(SafetyStopError):
    """A page of the list got no good reply within its attempts, though the service is there."""


class ThresholdExceededError(SafetyStopError):
    """More rows ended badly than ``--max-errors``, ``--max-error-rate`` or ``--max-mismatch`` allow."""


class CanaryFailedError(SafetyStopError):
    """One of the invoices that ``--canary`` tries first did not become what its reply said."""


class ManifestChangedError(SafetyStopError):
    """The manifest changed between the check and the run."""


class ClusterError(SafetyStopError):
    """A worker can't do what it is given, or the engine has ended the job."""


class LedgerInUseError(BatchCancelError):
    """Another run holds the ledger's lock."""


class LedgerFaultError(BatchCancelError):
    """The ledger can't be relied on."""


class LedgerWriteError(LedgerFaultError):
    """The ledger can't be written: disk full, no permission, removed or replaced."""


class LedgerDamagedError(LedgerFaultError):
    """A bad line in the ledger is followed by a good one; the message names line and offset."""


class ConservationError(BatchCancelError):
    """The rows of the manifest and the rows accounted for differ: a defect in this program."""


class ReadOnlyError(BatchCancelError):
    """A request that changes something was to leave in a mode that only reads: a defect in this program."""


class TransportError(BatchCancelError):
    """A request came back without a reply.

    Raised by ``api`` and consumed by the verdict, so the message is for logs: the name of the
    foreign exception and nothing that it said.
    """


class NotSentError(TransportError):
    """The request failed provably before a byte of it left: DNS, connect, TLS handshake."""


class ReplyLostError(TransportError):
    """The request left, or may have, and no whole reply came: time-out, reset, broken framing."""


class RunStoppingError(BatchCancelError):
    """A request was not sent because the run is stopping; its invoice stays open.

    Raised by ``pace`` and consumed by ``retry``; never reaches the user.
    """
