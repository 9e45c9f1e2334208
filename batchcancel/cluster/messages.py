"""What travels through Temporal. Pure, and nothing in it is secret or a customer's.

Everything stays readable for an older or newer version: fields are only ever added, with a default, and
unknown ones are ignored.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct


class Account(Struct, frozen=True, kw_only=True):
    """Whose invoices, and where: what has an API quota of its own."""

    env: str
    host: str
    """With its port, if it is not the usual one."""
    merchant_id: str
    """The merchant, or the portfolio that signs for several."""

    def __str__(self) -> str:
        return f"{self.env}/{self.host}/{self.merchant_id}"


class Conditions(Struct, frozen=True, kw_only=True):
    """How the invoices of a job are asked about, whichever worker does it; units as in the options."""

    timeout: float
    max_attempts: int
    max_outage: float
    max_errors: int | None
    max_error_rate: float
    max_mismatch: float | None
    ledger_began_at: str
    """When the ledger's first run began, as the ledger writes it."""


PROTOCOL: Final = 2
"""Rises when a field of a shard changes what it means, so that an older worker would do something else."""
FIRST_PROTOCOL: Final = 1
"""Of a shard for one merchant: every worker knows what to do with it."""


class Shard(Struct, frozen=True, kw_only=True):
    """So many invoices to bring to their ends, and with what share of the quota."""

    protocol: int = FIRST_PROTOCOL
    """2 where invoices name their merchant, or merchants have a rate of their own: to an older worker all
    would be its own merchant's, and that rate no limit."""

    number: int
    """From 0 in each job; invoices that a shard left are handed out again in one with a new number."""
    account: Account
    conditions: Conditions
    rows: bytes
    """See ``packing``."""
    count: int
    """How many invoices."""
    rate: float | None
    """Its share of the requests a second; None for no limit."""
    merchant_rate: float | None = None
    """Its share of the requests a second that each merchant may have; None for no limit of its own."""
    concurrency: int
    """Its share of the requests in flight."""
    is_canary: bool = False
    """Whether each of its invoices has to be looked up after its cancelation, and all have to be right."""


class Stop(Struct, frozen=True, kw_only=True):
    """Why a shard was stopped that nobody asked to stop."""

    kind: str
    """Name of the error's class."""
    why: str


class MerchantStop(Struct, frozen=True, kw_only=True):
    """Why a merchant's rows were left while those of others went on."""

    merchant_id: str | None
    """None for the account's own merchant."""
    why: str


class ShardReport(Struct, frozen=True, kw_only=True):
    """What a worker has to say at the end of a shard, or of its part in it."""

    answers: bytes = b""
    """See ``packing``. What has no answer is to be asked about again."""
    stop: Stop | None = None
    stopped_merchants: tuple[MerchantStop, ...] = ()
    refused_at: float | None = None
    """The requests a second that were left of the shard's share after the service had refused some for their
    number, or of the share of the merchant that it refused last; None if it refused none."""
    worker: str = ""
    """Who did it."""


class Pulse(Struct, frozen=True, kw_only=True):
    """How a shard goes on at its worker: what a heartbeat says besides all answers so far."""

    shard: int
    outcomes: dict[str, int]
    """Answers so far, by outcome."""
    amounts_canceled: dict[str, str]
    """Total amount of the invoices that it has canceled so far, by currency."""
    in_flight: int
    """Requests that have left and not come back."""
    allowed_rate: float | None
    """Requests a second that its share lets out now; None for no limit."""
    set_rate: float | None
    """What its share was to let out: less is allowed after refusals only."""
    held_by: str | None
    """Why nothing leaves at the moment: a ``PauseCause``; None if something may."""
    host: str
    worker: str
    """Who has it, for people."""


class Score(Struct, frozen=True, kw_only=True):
    """How far a job is; what is counted is on disk."""

    to_settle: int
    """Invoices that the job gives a result."""
    outcomes: dict[str, int] = {}
    """Results by outcome."""
    duration_s: float = 0.0
    """Since the job began in this coordinator."""
    rate: float | None = None
    """Requests a second of all shards together, as somebody asked for; None for no limit."""
    is_cut: bool = False
    """Whether shards begin with less than their part of it, since the service has refused some requests."""
    amounts_canceled: dict[str, str] = {}
    """Total amount of the invoices that were canceled, by currency."""
    out: tuple[int, ...] = ()
    """The shards whose answers are not counted yet."""

    @property
    def done(self) -> int:
        """Results so far."""
        return sum(self.outcomes.values())


class ShardRequest(Struct, frozen=True, kw_only=True):
    """The workflow wants shards."""

    offset: int
    """The number of the first one. Asked again with the same, the coordinator gives the same."""
    rate: float | None = None
    """Requests a second that somebody set meanwhile, for all shards together; None for what the job began
    with."""


class Issue(Struct, frozen=True, kw_only=True):
    """The next shards."""

    shards: tuple[Shard, ...]
    is_end: bool
    """Whether there will be no more, unless one that is out leaves something."""
    window: int
    """How many may be worked on at the same time. As many again lie ready, if there are so many."""
    score: Score


class Receipt(Struct, frozen=True, kw_only=True):
    """The answers of a shard are durable."""

    is_over: bool
    """Whether the coordinator wants to end: no shard is to go on."""
    leaves_rest: bool
    """Whether invoices of the shard are to be handed out again."""
    takes_back: bool = False
    """Whether shards that no worker has yet are to be gathered anew: a merchant was stopped."""
    score: Score


class Task(Struct, frozen=True, kw_only=True):
    """What a workflow begins with, and what it leaves to its own continuation."""

    shard_queue: str
    offset: int = 0
    is_paused: bool = False
    is_canceled: bool = False
    """Whether it is to end at once: somebody asked that of an earlier job, and nobody heard it."""
    is_handed_over: bool = False
    rate: float | None = None
    score: Score


class Progress(Struct, frozen=True, kw_only=True):
    """What a job answers to whoever asks how it is."""

    state: str
    """``running``, ``paused`` or ``ending``."""
    score: Score
    shards_out: int
    """At work, ready to be worked on, or with their answers on the way back."""
    window: int
    rate: float | None
    """Requests a second that somebody set; None for what the job began with."""
    is_handed_over: bool = False
    """Whether another coordinator has come, whose score is given then: it goes on with the rest itself."""


class Ended(Struct, frozen=True, kw_only=True):
    """What a job's workflow came to."""

    is_canceled: bool
    """Whether somebody ended it who watched it."""
    score: Score
    is_handed_over: bool = False
    """Whether another coordinator has ended it, to go on with the rest itself."""


class Memo(Struct, frozen=True, kw_only=True):
    """What a running job shows to everyone."""

    run_id: str
    """Of the run in the ledger."""
    ledger: str
    host: str
    """The coordinator's."""
    operator: str
    manifest: tuple[str, ...]
    """SHA-256 of each file: for people, who see it in Temporal."""
    started_at: str
