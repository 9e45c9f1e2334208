"""How invoices behave by their id's prefix, and which requests suffer a fault by chance."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from itertools import accumulate
from typing import Final

from batchcancel.sandbox.options import SandboxOptions


class Status(StrEnum):
    """The status of an invoice [D], and one that no document lists."""

    DRAFT = "DRAFT"
    CREATED = "CREATED"
    SENT = "SENT"
    PARTIAL = "PARTIAL"
    PAID = "PAID"
    CANCELED = "CANCELED"
    PENDING = "PENDING"
    ARCHIVED = "ARCHIVED"
    """Not documented: stands for whatever the service may add."""


CANCELABLE: Final = frozenset({Status.DRAFT, Status.CREATED, Status.SENT})
"""CREATED and SENT [D], DRAFT [S]."""


class Shown(StrEnum):
    """What the client gets to see instead of the good reply."""

    ERROR = "error"
    HTML = "html"
    EMPTY = "empty"
    GARBAGE = "garbage"
    OTHER_INVOICE = "other_invoice"
    TRUNCATED = "truncated"
    LATE = "late"
    NEVER = "never"
    RESET = "reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A way to misbehave."""

    name: str
    """As it stands in the log."""
    shown: Shown
    http_status: HTTPStatus = HTTPStatus.OK
    commits: bool = False
    """Whether what was asked is done all the same."""
    once: bool = False
    """By prefix: only the invoice's first request suffers."""
    every_request: bool = False
    """By prefix: look-ups suffer too, not only cancelations."""


ERROR: Final = Fault(
    name="error500", shown=Shown.ERROR, http_status=HTTPStatus.INTERNAL_SERVER_ERROR, every_request=True
)
HTML: Final = Fault(name="html", shown=Shown.HTML)
RESET_BEFORE: Final = Fault(name="reset_before", shown=Shown.RESET, once=True)
RESET_AFTER: Final = Fault(name="reset_after", shown=Shown.RESET, commits=True)
TRUNCATED: Final = Fault(name="truncated", shown=Shown.TRUNCATED, commits=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behavior:
    """What an invoice is like when it is first seen."""

    prefix: str = ""
    status: Status | None = Status.SENT
    """None: there is no such invoice."""
    fault: Fault | None = None
    settles_as: Status | None = None
    """The status that it takes one second after it was first seen."""


_PLAIN: Final = Behavior()
_BEHAVIORS: Final = (
    Behavior(prefix="PAID-", status=Status.PAID),
    Behavior(prefix="PARTIAL-", status=Status.PARTIAL),
    Behavior(prefix="CANCELED-", status=Status.CANCELED),
    # Before PENDING-, which would match as well.
    Behavior(prefix="PENDING-PAID-", status=Status.PENDING, settles_as=Status.PAID),
    Behavior(prefix="PENDING-", status=Status.PENDING),
    Behavior(prefix="DRAFT-", status=Status.DRAFT),
    Behavior(prefix="CREATED-", status=Status.CREATED),
    Behavior(prefix="MISSING-", status=None),
    Behavior(prefix="UNKNOWNSTATUS-", status=Status.ARCHIVED),
    Behavior(
        prefix="LAPSED-",
        fault=Fault(name="lapsed", shown=Shown.ERROR, http_status=HTTPStatus.BAD_REQUEST, once=True),
    ),
    Behavior(prefix="ERROR500-", fault=ERROR),
    Behavior(
        prefix="ERROR502-ONCE-",
        fault=Fault(name="error502_once", shown=Shown.ERROR, http_status=HTTPStatus.BAD_GATEWAY, once=True),
    ),
    Behavior(
        prefix="FORBIDDEN-",
        fault=Fault(
            name="forbidden", shown=Shown.ERROR, http_status=HTTPStatus.FORBIDDEN, every_request=True
        ),
    ),
    Behavior(
        prefix="UNAUTHORIZED-ONCE-",
        fault=Fault(
            name="unauthorized_once",
            shown=Shown.ERROR,
            http_status=HTTPStatus.UNAUTHORIZED,
            once=True,
            every_request=True,
        ),
    ),
    Behavior(
        prefix="THROTTLE-",
        fault=Fault(name="throttle", shown=Shown.ERROR, http_status=HTTPStatus.TOO_MANY_REQUESTS, once=True),
    ),
    Behavior(prefix="HTML-", fault=HTML),
    Behavior(prefix="MISMATCH-", fault=Fault(name="mismatch", shown=Shown.OTHER_INVOICE)),
    Behavior(prefix="RESET-BEFORE-", fault=RESET_BEFORE),
    Behavior(prefix="RESET-AFTER-", fault=RESET_AFTER),
    Behavior(prefix="EMPTY-", fault=Fault(name="empty", shown=Shown.EMPTY, commits=True)),
    Behavior(prefix="TRUNCATED-", fault=TRUNCATED),
    Behavior(prefix="WRONGTYPE-", fault=Fault(name="wrong_type", shown=Shown.GARBAGE, commits=True)),
    Behavior(prefix="SLOW-", fault=Fault(name="slow", shown=Shown.LATE, commits=True)),
    Behavior(prefix="HANG-", fault=Fault(name="hang", shown=Shown.NEVER, commits=True)),
)


_PREFIXES: Final = tuple(behavior.prefix for behavior in _BEHAVIORS)


def behavior_of(invoice_id: str) -> Behavior:
    """Find how an invoice behaves by its id's prefix."""
    if not invoice_id.startswith(_PREFIXES):
        return _PLAIN  # nearly all, so that they don't pay for the search
    return next(known for known in _BEHAVIORS if invoice_id.startswith(known.prefix))


class Chance:
    """Draws each request's fault and latency, the same for the same seed and order of requests."""

    def __init__(self, options: SandboxOptions) -> None:
        self._options = options
        self._random = random.Random(options.seed)  # noqa: S311 - has to be repeatable, not secret
        shares = {
            ERROR: options.error_share,
            HTML: options.html_share,
            RESET_BEFORE: options.reset_before_share,
            RESET_AFTER: options.reset_after_share,
            TRUNCATED: options.truncate_share,
        }
        self._thresholds = tuple(zip(accumulate(shares.values()), shares, strict=True))

    def draw(self) -> tuple[Fault | None, float]:
        """Draw for the next request.

        Returns:
            The fault that it suffers, None for none, and how long its reply waits, in seconds.
        """
        # Always three draws, so that one option does not shift what another one hits.
        fate, jitter, slow = self._random.random(), self._random.random(), self._random.random()
        fault = next((fault for threshold, fault in self._thresholds if fate < threshold), None)
        wait_ms = self._options.latency_ms + jitter * self._options.jitter_ms
        if slow < self._options.slow_share:
            wait_ms += self._options.slow_ms
        return fault, wait_ms / 1000
