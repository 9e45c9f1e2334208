"""What the simulator can be told: credentials, pace, faults, clock."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # not loaded for those who sign with the shared secret: it is slow to import
    from batchcancel.sandbox.keys import SandboxKeys

SANDBOX_MERCHANT_ID: Final = "sandbox_merchant"
SANDBOX_PORTFOLIO_ID: Final = "sandbox_portfolio"
SANDBOX_KEY_ID: Final = "5a0db0c5-0000-4000-8000-5a0db0c50001"
SANDBOX_SECRET: Final = base64.b64encode(b"batchcancel sandbox: not a secret").decode()
"""Published on purpose: it opens nothing but the simulator."""

_SHARES: Final = ("error_share", "html_share", "reset_before_share", "reset_after_share", "truncate_share")
_MAX_INVOICES: Final = 1_000_000
_NOT_NEGATIVE: Final = ("latency_ms", "jitter_ms", "slow_ms", "clock_skew_s")


class RateLimitKind(StrEnum):
    """How the requests of a second are counted."""

    SLIDING = "sliding"
    """In any second."""
    FIXED = "fixed"
    """In each second by the clock."""
    BUCKET = "bucket"
    """By tokens that come at the limit's rate; those of one second can be saved up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxOptions:
    """Everything that the simulator can be told; the defaults make a fast, faultless service.

    Shares lie between 0 and 1 and are drawn per request, in request order, from ``seed``; a request
    suffers at most one of them.

    Raises:
        ValueError: A value is out of range, the shares add up to more than 1, the secret is not
            base64, or keys or a portfolio are missing for what is asked.
    """

    merchant_id: str = SANDBOX_MERCHANT_ID
    """The transacting merchant."""
    key_id: str = SANDBOX_KEY_ID
    secret: str = field(default=SANDBOX_SECRET, repr=False)
    """The shared secret, base64 text."""
    portfolio_id: str | None = None
    """The portfolio that must sign (meta key); None: the merchant signs."""
    merchants: tuple[str, ...] = ()
    """More merchants that the portfolio may transact for; each has invoices of its own."""
    keys: SandboxKeys | None = None
    """Key pairs for tokens and for encryption, from `batchcancel.sandbox.keys`; None: the secret alone."""
    require_mle: bool = False
    """Whether a POST whose body is not encrypted gets 400; otherwise both are taken, as documented [D]."""
    plain_statuses: tuple[int, ...] = ()
    """HTTP statuses that are answered in plain even where an encrypted reply was asked for: nothing says
    whether a gateway's errors come encrypted. Refused credentials are always answered in plain."""
    invoices: int = 0
    """How many made-up invoices of every kind each merchant begins with, 0 to 1,000,000."""
    seed: int = 0
    latency_ms: float = 0.0
    """Every reply waits this long, from 0."""
    jitter_ms: float = 0.0
    """Every reply waits up to this much longer, evenly distributed, from 0."""
    slow_share: float = 0.0
    """Share of replies that wait ``slow_ms`` longer."""
    slow_ms: float = 2000.0
    """How slow the slow share and invoices with the prefix ``SLOW-`` are."""
    rate_limit: float | None = None
    """Requests a second that are served, above 0; more get 429. None: no limit."""
    rate_limit_kind: RateLimitKind = RateLimitKind.SLIDING
    rate_change: tuple[float, float] | None = None
    """When another limit sets in, in seconds from the first request, and that limit. None: never."""
    retry_after_s: int | None = 1
    """``Retry-After`` of every 429, whole seconds; None: the header is left out."""
    error_share: float = 0.0
    """Share of requests that get a 500 and do nothing."""
    html_share: float = 0.0
    """Share that get a 200 with an HTML page and do nothing."""
    reset_before_share: float = 0.0
    """Share whose connection is reset before anything is done."""
    reset_after_share: float = 0.0
    """Share whose connection is reset after it was done."""
    truncate_share: float = 0.0
    """Share that is done and whose reply is cut short."""
    outage: tuple[float, float] | None = None
    """Start and length in seconds, counted from the first request: every reply is a 503. None: never."""
    clock_offset_s: float = 0.0
    """How far the service's clock is ahead of this machine's; negative: behind."""
    clock_skew_s: float = 300.0
    """How far a request's date may be off the service's clock."""
    log: Path | None = None
    """File to which one JSON line a request is appended; None: no log."""

    def __post_init__(self) -> None:
        shares = [getattr(self, name) for name in _SHARES]
        if not all(0 <= share <= 1 for share in (*shares, self.slow_share)):
            raise ValueError("A share must lie between 0 and 1.")
        # fsum, so that ten tenths are exactly one.
        if math.fsum(shares) > 1:
            raise ValueError(f"The shares {', '.join(_SHARES)} add up to more than 1.")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a finite number from 0.")
        if not 0 <= self.invoices <= _MAX_INVOICES:
            raise ValueError(f"invoices must be a number from 0 to {_MAX_INVOICES}.")
        self._check_limits()
        if self.outage is not None and not all(0 <= seconds < math.inf for seconds in self.outage):
            raise ValueError("outage must be two finite numbers from 0: start and length in seconds.")
        if not self.secret_bytes:
            raise ValueError("The shared secret is empty.")
        self._check_signers()

    def _check_signers(self) -> None:
        if self.merchants and self.portfolio_id is None:
            raise ValueError("Only a portfolio that signs can transact for several merchants.")
        if self.require_mle and (self.keys is None or self.keys.encryption is None):
            raise ValueError("Encryption can't be required without a key to decrypt with.")

    def _check_limits(self) -> None:
        if self.rate_limit is not None and not 0 < self.rate_limit < math.inf:
            raise ValueError("rate_limit must be a finite number above 0.")
        if self.rate_change is not None:
            if self.rate_limit is None:
                raise ValueError("rate_change needs a rate_limit to change.")
            at_s, limit = self.rate_change
            if not (0 <= at_s < math.inf and 0 < limit < math.inf):
                raise ValueError("rate_change must be finite: seconds from 0 and a limit above 0.")
        if self.retry_after_s is not None and self.retry_after_s < 0:
            raise ValueError("retry_after_s must not be negative.")

    @property
    def signer_id(self) -> str:
        """Who signs: the portfolio where there is one, else the merchant [D]."""
        return self.portfolio_id or self.merchant_id

    @property
    def secret_bytes(self) -> bytes:
        """The decoded secret, which is the HMAC key [S].

        Raises:
            ValueError: The secret is not base64.
        """
        try:
            return base64.b64decode(self.secret, validate=True)
        except ValueError:
            # Not chained: what went wrong inside could quote the secret.
            raise ValueError("The shared secret is not base64.") from None
