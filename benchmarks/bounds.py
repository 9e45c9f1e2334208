"""What can be reached at best: where the service takes its time, and where RSA does. Pure."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """How long each invoice's reply takes: the same whoever asks, and whenever."""

    usual_s: float
    slow_s: float
    slow_share: float
    """How many are slow, 0 to 1."""
    seed: int

    def of(self, invoice_id: str) -> float:
        """Return one reply's delay in seconds."""
        digest = hashlib.blake2b(f"{self.seed}:{invoice_id}".encode(), digest_size=8).digest()
        return self.slow_s if int.from_bytes(digest) < self.slow_share * 2**64 else self.usual_s


def ideal_s(durations_s: Iterable[float], *, places: int) -> float:
    """Return how long work takes by list scheduling: each piece in its turn, on the first place that is free.

    Args:
        durations_s: How long each piece takes, in the order in which they are begun.
        places: How many pieces are worked on at the same time, 1 or more.

    Returns:
        Seconds until the last piece is done; 0.0 without any.
    """
    free_at_s = [0.0] * places
    for duration_s in durations_s:
        heapq.heapreplace(free_at_s, free_at_s[0] + duration_s)
    return max(free_at_s)


def bound_per_s(*, rsa_per_s: float, other_cpu_s: float, cores: int) -> float:
    """Return the invoices a second that cores allow which have to do everything else besides RSA.

    Args:
        rsa_per_s: Signatures a second that all cores make which do nothing else.
        other_cpu_s: CPU time of everything else for an invoice, the server's too, in seconds.
        cores: How many cores share all of it.
    """
    return 1 / (1 / rsa_per_s + other_cpu_s / cores)
