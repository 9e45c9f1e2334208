"""The words of the domain: outcomes, reasons, rows, replies, results and the run's events.

Everything here is frozen and knows nothing of HTTP, files or asyncio.
"""

from batchcancel.model.events import (
    ClockSet,
    DecryptionFailed,
    Event,
    GroupCommitted,
    KeyFileChanged,
    MerchantStopped,
    PauseCause,
    PauseEnded,
    PauseStarted,
    RateChanged,
    RequestFinished,
    RetryScheduled,
    StopRequested,
)
from batchcancel.model.replies import (
    Invoice,
    Reply,
)
from batchcancel.model.rows import (
    ManifestRow,
    Result,
    RunSummary,
    Skip,
    StoppedMerchant,
    Tally,
)
from batchcancel.model.vitals import Vitals
from batchcancel.model.words import (
    REASONS,
    MatchField,
    Outcome,
    Reason,
    RequestKind,
    ResolvedBy,
    RunState,
    SkipReason,
    Standing,
    invoice_key,
    key_digest,
    utc_text,
)

__all__ = [
    "REASONS",
    "ClockSet",
    "DecryptionFailed",
    "Event",
    "GroupCommitted",
    "Invoice",
    "KeyFileChanged",
    "ManifestRow",
    "MatchField",
    "MerchantStopped",
    "Outcome",
    "PauseCause",
    "PauseEnded",
    "PauseStarted",
    "RateChanged",
    "Reason",
    "Reply",
    "RequestFinished",
    "RequestKind",
    "ResolvedBy",
    "Result",
    "RetryScheduled",
    "RunState",
    "RunSummary",
    "Skip",
    "SkipReason",
    "Standing",
    "StopRequested",
    "StoppedMerchant",
    "Tally",
    "Vitals",
    "invoice_key",
    "key_digest",
    "utc_text",
]
