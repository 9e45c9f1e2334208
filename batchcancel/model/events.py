"""What a run tells its listeners while it goes on."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from batchcancel.model.requests import RequestKind
from batchcancel.model.rows import Result


class RequestFinished(Struct, frozen=True, kw_only=True):
    """A request of any kind came to its end."""

    kind: RequestKind
    invoice_id: str | None
    http_status: int | None
    """None if there was no reply; ``failure`` names it then."""
    failure: str | None
    latency_ms: float
    correlation_id: str | None


class RetryScheduled(Struct, frozen=True, kw_only=True):
    """An invoice waits for its next request, or a page of the list does."""

    invoice_id: str | None
    """None for a page."""
    kind: RequestKind
    wait_s: float


class PauseCause(StrEnum):
    """Why nothing leaves for a while."""

    RATE_LIMITED = "rate_limited"
    KEY_IN_DOUBT = "key_in_doubt"
    OUTAGE = "outage"
    BY_HAND = "by_hand"
    """Whoever watches the run asked for it."""
    ENGINE_AWAY = "engine_away"
    """Temporal does not answer, through which workers are reached."""
    NO_WORKER = "no_worker"
    """No worker has taken any of what was handed out."""


class PauseStarted(Struct, frozen=True, kw_only=True):
    """Everyone waits."""

    cause: PauseCause
    wait_s: float | None
    """How long at least, if that is known."""
    last_failure: str | None = None
    """What the last request failed with, where that is the cause."""


class PauseEnded(Struct, frozen=True, kw_only=True):
    """Requests leave again."""

    cause: PauseCause
    lasted_s: float


class RateChanged(Struct, frozen=True, kw_only=True):
    """The service refused more: from here on so many requests a second may leave, and then slowly more."""

    rate: float


class ClockSet(Struct, frozen=True, kw_only=True):
    """The service's clock was read; requests are dated by it from here on."""

    offset_s: float
    """What has to be added to this machine's clock."""


class GroupCommitted(Struct, frozen=True, kw_only=True):
    """A group of ledger lines is on disk."""

    results: tuple[Result, ...]
    size_bytes: int
    sync_s: float


class StopRequested(Struct, frozen=True, kw_only=True):
    """No new cancelation leaves; what is in flight is drained."""

    why: str


class MerchantStopped(Struct, frozen=True, kw_only=True):
    """One merchant's rows are stopped, those of others go on."""

    merchant_id: str | None
    """None for the run's own merchant."""
    why: str


class AnswersUnclaimed(Struct, frozen=True, kw_only=True):
    """Workers of an earlier job have answers that no row of this one's manifests can take."""

    count: int


class KeyFileChanged(Struct, frozen=True, kw_only=True):
    """A file of keys is another one than when it was read last."""

    path: str
    problem: str | None
    """Why the new file can't be used, so that the old keys stay in force; None if the new ones are."""


class DecryptionFailed(Struct, frozen=True, kw_only=True):
    """A reply came encrypted and can't be read; told once a client, for the cause is rarely one reply's."""

    has_key: bool
    """Whether there is a key to decrypt with; without one, no encrypted reply was asked for."""


class ListProgressed(Struct, frozen=True, kw_only=True):
    """A page of the list was read, or an invoice of it was looked up."""

    rows: int
    """Invoices that were read so far, of every status."""
    status: str | None = None
    """Whose pages are read; None once all are."""
    total: int | None = None
    """How many invoices of that status there are; None where that is not said."""
    to_look_up: int = 0
    """Invoices that are looked up for what the list does not say, once all pages are read."""
    looked_up: int = 0


Event = (
    RequestFinished
    | RetryScheduled
    | PauseStarted
    | PauseEnded
    | RateChanged
    | ClockSet
    | GroupCommitted
    | StopRequested
    | MerchantStopped
    | AnswersUnclaimed
    | KeyFileChanged
    | DecryptionFailed
    | ListProgressed
)
