"""One manifest of a campaign, drawn by chance: its invoices, the service's mood, the run's options."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from tests.campaign.evidence import OWN_MERCHANT, name_of

SLOW_MS: Final = 300
"""How much longer the reply to an invoice waits whose prefix says so."""
_MOST_PER_S: Final = 350.0
"""What one run sends on a machine that it shares with others; an estimate, which only times kills."""
_ODD: Final = (
    *("PAID-", "PARTIAL-", "CANCELED-", "MISSING-", "DRAFT-", "CREATED-", "b@d-"),
    *("RESET-AFTER-", "RESET-BEFORE-", "TRUNCATED-", "EMPTY-", "WRONGTYPE-", "SLOW-"),
    *("ERROR502-ONCE-", "LAPSED-", "UNAUTHORIZED-ONCE-"),
)
_ODD_SHARE: Final = 0.4
_CONCURRENCIES: Final = (1, 2, 4, 8, 16, 16, 32, 64, 128, 256, 500)
MERCHANTS: Final = (OWN_MERCHANT, "north_shop", "south_shop")


class Line(NamedTuple):
    """One line of a manifest."""

    invoice_id: str
    merchant_id: str = OWN_MERCHANT

    @property
    def name(self) -> str:
        """What tells its invoice from all others."""
        return name_of(self.invoice_id, self.merchant_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is run until it is done."""

    lines: tuple[Line, ...]
    """Each once, in the order of the manifest."""
    merchants: tuple[str, ...]
    """For whom a portfolio signs; empty where the run's own merchant does, for itself."""
    concurrency: int
    rate: int | None
    """Requests a second; None: no limit."""
    rate_per_merchant: int | None
    """Likewise, for each."""
    latency_ms: int
    jitter_ms: int
    fault_share: float
    """Share of requests that suffer each of three faults by chance."""
    clock_offset_s: int
    """How far the service's clock is ahead."""
    seed: int
    """Of the service's own chance."""

    @property
    def per_s(self) -> float:
        """Estimate how many requests a second are answered."""
        in_service_s = (self.latency_ms + self.jitter_ms / 2 + 3) / 1000
        return min(self.rate or _MOST_PER_S, self.concurrency / in_service_s, _MOST_PER_S)

    @property
    def run_flags(self) -> list[str]:
        """Return the flags of ``run``."""
        rate = [] if self.rate is None else ["--rate", str(self.rate)]
        rate += [] if self.rate_per_merchant is None else ["--rate-per-merchant", str(self.rate_per_merchant)]
        column = ["--merchant-column", "merchant"] if self.merchants else []
        quiet = ["--progress", "none", "--log-level", "error"]
        return ["--concurrency", str(self.concurrency), *rate, *column, *quiet]

    @property
    def sandbox_flags(self) -> list[str]:
        """Return the flags of the simulator."""
        numbers = {
            "--latency-ms": self.latency_ms,
            "--jitter-ms": self.jitter_ms,
            "--slow-ms": SLOW_MS,
            "--error-share": self.fault_share,
            "--reset-after-share": self.fault_share,
            "--truncate-share": self.fault_share,
            "--clock-offset-s": self.clock_offset_s,
            "--seed": self.seed,
        }
        named = [text for merchant in self.merchants for text in ("--merchant", merchant)]
        return [*named, *(text for flag, number in numbers.items() for text in (flag, str(number)))]


def draw(chance: random.Random, *, merchants: Sequence[str] = ()) -> Scenario:
    """Draw a scenario that takes some seconds of uninterrupted work.

    Args:
        chance: Where every choice comes from.
        merchants: Whose invoices a portfolio cancels; empty for those of the run's own merchant.
    """
    concurrency = chance.choice(_CONCURRENCIES)
    rate = chance.choice((None, None, None, 100, 200))
    plan = Scenario(
        lines=(),
        merchants=tuple(merchants),
        concurrency=concurrency,
        rate=None if rate is None or concurrency < 8 else rate,
        rate_per_merchant=chance.choice((None, 100)) if merchants and concurrency >= 8 else None,
        # Few requests without latency would leave nothing in flight between two of them.
        latency_ms=chance.choice((5, 10, 20, 40, 80) if rate is None and concurrency > 8 else (40, 80)),
        jitter_ms=chance.choice((0, 10, 40)),
        fault_share=chance.choice((0.0, 0.0, 0.01, 0.03)),
        clock_offset_s=chance.choice((0, 0, 0, 3600, -3600)),
        seed=chance.randrange(2**31),
    )
    count = max(30, round(plan.per_s * chance.uniform(1.5, 6)))
    # At the head, since it takes two seconds: nobody should have to wait for it at the end.
    lines = [Line("PENDING-PAID-0")]
    while len(lines) <= count:
        invoice_id = _draw_id(chance, len(lines))
        # Often the same id is an invoice of several merchants.
        owners = chance.sample(merchants, chance.randint(1, len(merchants))) if merchants else [OWN_MERCHANT]
        lines += [Line(invoice_id, owner) for owner in owners]
    return replace(plan, lines=tuple(lines))


def _draw_id(chance: random.Random, number: int) -> str:
    prefix = chance.choice(_ODD) if chance.random() < _ODD_SHARE else ""
    return f"{prefix}{number}"
