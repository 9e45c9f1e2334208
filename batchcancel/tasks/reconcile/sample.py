"""A random part of a ledger, and what it tells of the whole. Pure."""

from __future__ import annotations

import math
from random import Random
from typing import Final

from msgspec import Struct

_DOUBT: Final = 0.05
"""How likely it may be that a sample shows nothing although that much is wrong."""
_ROUNDING: Final = 1e-9
"""What logarithms may be off by where a chance is this doubt exactly, as for 3 of 6."""


class Sample(Struct, frozen=True, kw_only=True):
    """How a sample is drawn: the same ledger and the same seed give the same one."""

    percent: float
    """Above 0, at most 100."""
    seed: int


class Draw:
    """Picks a number of things out of a stream whose length is known; every choice is equally likely.

    Each thing is taken with the probability that the rest of the sample needs of the rest of the stream,
    so that memory holds two numbers (selection sampling; Knuth, volume 2, 3.4.2, algorithm S).
    """

    def __init__(self, sample: Sample, *, of: int) -> None:
        """Begin before the first thing.

        Args:
            sample: How to draw.
            of: How many things there are.
        """
        self.size: Final = size_of(sample, of=of)
        self._missing = self.size
        self._left = of
        self._random = Random(sample.seed)  # noqa: S311 - a sample that can be drawn again

    def takes_next(self) -> bool:
        """Tell whether the next thing is in the sample; to be asked once for each."""
        is_taken = self._random.randrange(self._left) < self._missing
        self._left -= 1
        self._missing -= is_taken
        return is_taken


def size_of(sample: Sample, *, of: int) -> int:
    """Return how many things a sample has: its share, rounded up, so that it is never empty."""
    return min(of, math.ceil(of * sample.percent / 100))


def least_found(size: int, *, of: int) -> int:
    """Return how many differences there must be for a sample to show one with 95 % confidence.

    If a random sample shows none, there are fewer than that many with this confidence. It is counted
    exactly, without replacement, so it holds for small samples too; for large ones in larger ledgers it
    comes to the rule of three: 3/size of all.

    Args:
        size: Things that were looked at, from 1.
        of: Things that there are.
    """
    low, high = 0, of - size + 1  # none are always missed, and so many never
    while high - low > 1:
        middle = (low + high) // 2
        if _log_chance_of_none(size, of, middle) <= math.log(_DOUBT) + _ROUNDING:
            high = middle
        else:
            low = middle
    return high


def _log_chance_of_none(size: int, of: int, wrong: int) -> float:
    """Return the logarithm of the chance that none of the wrong ones is in the sample."""
    return (
        math.lgamma(of - wrong + 1)
        - math.lgamma(of - wrong - size + 1)
        - math.lgamma(of + 1)
        + math.lgamma(of - size + 1)
    )
