"""The words of the domain: outcomes, reasons, rows, replies, results and the run's events.

Everything here is frozen and knows nothing of HTTP, files or asyncio.
"""

from batchcancel.model.events import (
    ClockSet,
    DecryptionFailed,
    Event,
    GroupCommitted,
    KeyFileChanged,
    ListProgressed,
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
    Listing,
    Reply,
)
from batchcancel.model.requests import (
    NewInvoice,
    Page,
    RequestKind,
    Subject,
)
from batchcancel.model.rows import (
    ManifestRow,
    Result,
    RunSummary,
    Sighting,
    Skip,
    StoppedMerchant,
    Tally,
)
from batchcancel.model.vitals import Vitals, Workers
from batchcancel.model.words import (
    REASONS,
    MatchField,
    Outcome,
    Reason,
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
    "ListProgressed",
    "Listing",
    "ManifestRow",
    "MatchField",
    "MerchantStopped",
    "NewInvoice",
    "Outcome",
    "Page",
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
    "Sighting",
    "Skip",
    "SkipReason",
    "Standing",
    "StopRequested",
    "StoppedMerchant",
    "Subject",
    "Tally",
    "Vitals",
    "Workers",
    "invoice_key",
    "key_digest",
    "utc_text",
]
