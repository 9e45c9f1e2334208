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
from batchcancel.model.words import (
    MatchField,
    Outcome,
    Reason,
    RequestKind,
    ResolvedBy,
    RunState,
    SkipReason,
    Standing,
    id_of_key,
    invoice_key,
    utc_text,
)

__all__ = [
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
    "id_of_key",
    "invoice_key",
    "utc_text",
]
