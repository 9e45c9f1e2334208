"""What a program that signs is given, how it is timed, and what it says. Standard library only."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WAYS: Final = ("jwt", "http_signature", "p12", "p12_encrypted", "decrypt")
"""Four ways to make a request's headers, the last with its body encrypted; and to read an encrypted reply."""
HOST: Final = "apitest.cybersource.com"
BODY: Final = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningTask:
    """One way to sign, for a while."""

    way: str
    least_s: float
    folder: Path
    """With throwaway keys, and a reply that was encrypted for them."""

    @property
    def password(self) -> str:
        """Of both P12 files."""
        return (self.folder / "password").read_text(encoding="ascii").strip()

    @property
    def encrypted_reply(self) -> bytes:
        """The body of an encrypted reply."""
        return reply_file(self.folder).read_bytes()


def reply_file(folder: Path) -> Path:
    """Return where an encrypted reply lies among keys."""
    return folder / "reply.json"


def read_signing_task() -> SigningTask:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--least-s", type=float, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    return SigningTask(way=arguments.way, least_s=arguments.least_s, folder=arguments.folder)


def targets() -> Iterator[str]:
    """Yield what is to be signed for: a new invoice each time."""
    return (f"/invoicing/v2/invoices/INV-{number:08d}/cancelation" for number in itertools.count())


def tell_rate(call: Callable[[], object], least_s: float) -> None:
    """Call again and again until it has taken so much CPU time; say how often that is in a second of it.

    The first call, which may read files, is not counted.
    """
    call()
    calls = 1
    while (took_s := _cpu_s(call, calls)) < least_s:
        calls = max(2 * calls, int(calls * least_s / max(took_s, 1e-6)))
    json.dump({"per_cpu_s": calls / took_s}, sys.stdout)


def _cpu_s(call: Callable[[], object], calls: int) -> float:
    began_at = time.process_time()
    for _ in range(calls):
        call()
    return time.process_time() - began_at
