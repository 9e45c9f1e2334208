"""What a run leaves behind: its ledger and the service's log, read by no code of the package."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

_SEAL_BYTES: Final = len(',"crc":"00000000"}')
_SPOILED: Final = frozenset({"truncated", "empty", "wrong_type", "html"})
"""Faults that leave a 2xx without a readable word."""
_FINAL_ERRORS: Final = frozenset({"not_found", "invalid_id", "mismatch"})
OWN_MERCHANT: Final = "campaign_merchant"
"""Whose rows the ledger does not say whose they are."""


def name_of(invoice_id: str, merchant_id: str) -> str:
    """Return what tells an invoice from all others: the same id is another one at another merchant."""
    return invoice_id if merchant_id == OWN_MERCHANT else f"{invoice_id} of {merchant_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One line of the simulator's log."""

    at_s: float
    """When it arrived, Unix seconds on this machine's clock."""
    operation: str
    invoice: str | None
    """By ``name_of``."""
    http_status: int | None
    """None: the connection was reset instead."""
    committed: bool
    cause: str | None
    """The fault that it suffered."""

    @property
    def is_unanswered(self) -> bool:
        """Whether the reply does not tell what was done: neither a 4xx nor a readable 2xx."""
        if self.http_status is None or self.http_status >= 500:
            return True
        return self.http_status < 300 and self.cause in _SPOILED


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One ``result`` row of a ledger."""

    invoice: str
    """By ``name_of``."""
    outcome: str
    reason: str
    at_s: float
    """When it was decided, Unix seconds."""

    @property
    def is_final(self) -> bool:
        """Whether the invoice is not to be asked again."""
        return self.outcome != "error" or self.reason in _FINAL_ERRORS


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerImage:
    """A ledger's bytes at one moment and what they say."""

    good: bytes
    """Every byte before the tail."""
    rows: tuple[Row, ...]
    faults: tuple[str, ...]
    """What a ledger must never hold, in words."""


def read_log(path: Path, start: int, *, clock_offset_s: float) -> tuple[list[Request], int]:
    """Read the whole lines of a simulator's log from a byte on.

    Args:
        path: The log.
        start: That byte.
        clock_offset_s: How far the simulator's clock is ahead of this machine's.

    Returns:
        The requests in order of arrival, and where the next read begins.
    """
    with path.open("rb") as log:
        log.seek(start)
        data = log.read()
    whole = data[: data.rfind(b"\n") + 1]
    return [_request(json.loads(line), clock_offset_s) for line in whole.splitlines()], start + len(whole)


def read_ledger(path: Path) -> LedgerImage:
    """Read a ledger and check the seal of each line; one that is not there is empty."""
    data = path.read_bytes() if path.exists() else b""
    *lines, rest = data.split(b"\n")
    good = [_is_sealed(line) for line in lines]
    count = len(good) - next((back for back, is_good in enumerate(reversed(good)) if is_good), len(good))
    faults = [f"ledger line {number} is damaged" for number, ok in enumerate(good[:count], 1) if not ok]
    if not count and len(lines) > 1:
        faults.append("the ledger holds lines and no good one")
    kept = lines[:count]
    faults.extend(_wrong_digests(kept))
    records = [json.loads(line) for line, ok in zip(kept, good, strict=False) if ok]
    return LedgerImage(
        good=data[: len(data) - len(rest) - sum(len(line) + 1 for line in lines[count:])],
        rows=tuple(_row(record) for record in records if record["type"] == "result"),
        faults=tuple(faults),
    )


def _is_sealed(line: bytes) -> bool:
    body = line[:-_SEAL_BYTES]
    return line[-_SEAL_BYTES:] == b',"crc":"%08x"}' % zlib.crc32(body)


def _wrong_digests(lines: Iterable[bytes]) -> list[str]:
    """Name the ``end`` rows whose digest is not that of the bytes before them."""
    digest, wrong = hashlib.sha256(), []
    for number, line in enumerate(lines, 1):
        if line.startswith(b'{"type":"end"') and json.loads(line)["sha256"] != digest.hexdigest():
            wrong.append(f"ledger line {number} ends a run with a wrong digest")
        digest.update(line + b"\n")
    return wrong


def _request(line: dict[str, Any], clock_offset_s: float) -> Request:
    invoice_id = line["invoice_id"]
    return Request(
        at_s=line["at"] - clock_offset_s,
        operation=line["operation"],
        invoice=None if invoice_id is None else name_of(invoice_id, line["merchant_id"]),
        http_status=line["http_status"],
        committed=line["committed"],
        cause=line["cause"],
    )


def _row(record: dict[str, Any]) -> Row:
    return Row(
        invoice=name_of(record["invoice_id"], record.get("merchant_id", OWN_MERCHANT)),
        outcome=record["outcome"],
        reason=record["reason"],
        at_s=datetime.fromisoformat(record["at"]).timestamp(),
    )
