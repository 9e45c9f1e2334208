"""Closed sets of words, each with one meaning everywhere, and how times and ids are written."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Self

_MILLISECOND_NS: Final = 1_000_000


def utc_text(when: datetime | None = None) -> str:
    """Write a time as the ledger does: UTC, milliseconds, ``Z``; now if none is given."""
    if when is None:
        return _utc_millisecond(time.time_ns() // _MILLISECOND_NS)
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@lru_cache(maxsize=1)
def _utc_millisecond(milliseconds: int) -> str:
    """Write a Unix time, once for all rows that are decided in the same millisecond."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_utc_second(seconds)}.{rest:03}Z"


@lru_cache(maxsize=2)
def _utc_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


_KEY_SEPARATOR: Final = "\n"
"""Neither a merchant nor the text of an id holds it, so that no two pairs have the same key."""


def invoice_key(invoice_id: str, *, valid: bool, merchant_id: str | None = None) -> str:
    """Return what tells an invoice from others.

    An id that may not be sent never stands for one that may: the JSON value ``true`` is recorded as
    the text of the valid id "true". No valid id begins with an exclamation mark.

    Args:
        invoice_id: The id, or the text of what is none.
        valid: Whether it may be sent.
        merchant_id: Whose invoice it is; None if it is the run's own merchant's.
    """
    key = invoice_id if valid else f"!{invoice_id}"
    return key if merchant_id is None else f"{merchant_id}{_KEY_SEPARATOR}{key}"


def key_digest(key: str) -> bytes:
    """Return 16 bytes that stand for an invoice's key, however long it is.

    Digests are compared in place of keys. That any two of ten million keys share one has a probability
    below 10**-24, and BLAKE2b leaves nobody a way to make such a pair but to try 2**64 keys.

    Args:
        key: From ``invoice_key``. Lone surrogates count as question marks, as in a ledger.
    """
    return blake2b(key.encode(errors="replace"), digest_size=16).digest()


class Outcome(StrEnum):
    """What became of an invoice: exactly four words, for people and for sums."""

    CANCELED = "canceled"
    ALREADY_PAID = "already_paid"
    PARTIALLY_PAID = "partially_paid"
    ERROR = "error"


class Reason(StrEnum):
    """Why an invoice has its outcome.

    ``outcome`` is the word that it belongs to. ``is_final`` says that it is an answer: a later run
    asks only the others again.
    """

    outcome: Outcome
    is_final: bool

    def __new__(cls, word: str, outcome: Outcome = Outcome.ERROR, is_final: bool = False) -> Self:  # noqa: FBT001, FBT002 - columns of the table below
        """Make a member, which is the word itself; an open error where nothing more is said."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.outcome = outcome
        member.is_final = is_final
        return member

    CANCELED = ("canceled", Outcome.CANCELED, True)
    ALREADY_CANCELED = ("already_canceled", Outcome.CANCELED, True)
    PAID = ("paid", Outcome.ALREADY_PAID, True)
    PARTIAL = ("partial", Outcome.PARTIALLY_PAID, True)
    NOT_FOUND = ("not_found", Outcome.ERROR, True)
    INVALID_ID = ("invalid_id", Outcome.ERROR, True)
    MISMATCH = ("mismatch", Outcome.ERROR, True)
    PENDING = "pending"
    REJECTED = "rejected"
    REFUSED = "refused"
    UNKNOWN_STATUS = "unknown_status"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    NETWORK = "network"
    UNKNOWN = "unknown"


REASONS: Final = tuple(Reason)
"""Every reason, so that within a process its place here may stand for it."""


class ResolvedBy(StrEnum):
    """What the answer rests on: the cancelation's own reply, a look-up, or an earlier plan's look-up."""

    RESPONSE = "response"
    LOOKUP = "lookup"
    PLAN = "plan"


class Standing(StrEnum):
    """Where an invoice stands when a run comes to its row."""

    TO_ASK = "to_ask"
    TO_LOOK_UP = "to_look_up"
    """To be asked, by a look-up first: an earlier run may have canceled it without hearing so."""
    SETTLED = "settled"
    """It has its answer from an earlier run."""
    HELD_BACK = "held_back"
    """It ended in an error that this run is told not to ask about again."""
    EXCLUDED = "excluded"
    """It is never to be touched."""


class SkipReason(StrEnum):
    """Why a manifest row is skipped."""

    DUPLICATE = "duplicate"
    EXCLUDED = "excluded"


class MatchField(StrEnum):
    """What of an invoice ``--match`` compares with the manifest before anything is canceled."""

    TOTAL = "total"
    CURRENCY = "currency"
    DUE_DATE = "dueDate"


class RunState(StrEnum):
    """How a run ended."""

    COMPLETE = "complete"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
