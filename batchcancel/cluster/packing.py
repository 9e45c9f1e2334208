"""The invoices of a shard, and the answers to them, as few bytes. Pure.

Both are JSON lines without names, compressed: a thousand answers take 41 kB, and 221 kB where every one has
a message of 200 random characters. Temporal warns of a payload at 256 kB and refuses 2 MB; a shard therefore
has 1,000 invoices at most, and ends early where answers grow beyond ``FULL_BYTES``.

An answer does not repeat what the coordinator knows: id, file, and the kept columns, which never travel.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import UNSET, Struct

from batchcancel.errors import ClusterError
from batchcancel.model import ManifestRow, MatchField, Reason, ResolvedBy, Result, Standing

MOST_ROWS: Final = 1000
"""Invoices of one shard."""
FULL_BYTES: Final = 1_000_000
"""Of answers: a worker that has so many hands them in, and the rest of its shard is handed out again."""
MOST_TEXT: Final = 200
"""Characters of a cell that ``--match`` compares: no amount, currency or date is as long."""
_LEVEL: Final = 1
_JSON: Final = msgspec.json.Encoder()


class Ask(Struct, frozen=True, array_like=True, omit_defaults=True):
    """One invoice to ask about."""

    number: int
    """Its row's place among all rows of the manifests, from 0."""
    invoice_id: str
    is_in_doubt: bool = False
    """Whether a cancelation may have been acted on without an answer, so that a look-up comes first."""
    match: dict[MatchField, str] | None = None
    merchant_id: str | None = None
    """Whose it is, where that is not the account's own merchant."""

    @property
    def row(self) -> ManifestRow:
        """The row as a pipeline takes it."""
        return ManifestRow(
            row=self.number,
            invoice_id=self.invoice_id,
            merchant_id=self.merchant_id,
            match=self.match,
            standing=Standing.TO_LOOK_UP if self.is_in_doubt else Standing.TO_ASK,
        )


def match_of(row: ManifestRow) -> dict[MatchField, str] | None:
    """Return what a worker is told that an invoice has to be like; None if nothing is compared."""
    return row.match and {name: text[:MOST_TEXT] for name, text in row.match.items()}


class Answer(Struct, frozen=True, array_like=True):
    """What became of one invoice; the fields are those of ``model.Result``."""

    number: int
    reason: Reason
    resolved_by: ResolvedBy | None
    invoice_status: str | None
    http_status: int | None
    attempts: int
    lookups: int
    amount: str | None
    balance: str | None
    currency: str | None
    correlation_id: str | None
    submitted_at: str | None
    at: str
    latency_ms: float | None
    message: str | None

    @classmethod
    def of(cls, result: Result) -> Answer:
        """Take from a worker's result what the coordinator does not know."""
        return cls(
            number=result.row,
            reason=result.reason,
            resolved_by=result.resolved_by,
            invoice_status=result.invoice_status,
            http_status=result.http_status,
            attempts=result.attempts,
            lookups=result.lookups,
            amount=result.amount,
            balance=result.balance,
            currency=result.currency,
            correlation_id=result.correlation_id,
            submitted_at=result.submitted_at,
            at=result.at,
            latency_ms=result.latency_ms,
            message=result.message,
        )

    def result_for(self, row: ManifestRow) -> Result:
        """Return the row of the ledger."""
        return Result(
            row=row.row,
            file=row.file or UNSET,
            merchant_id=row.merchant_id or UNSET,
            invoice_id=row.invoice_id,
            outcome=self.reason.outcome,
            reason=self.reason,
            resolved_by=self.resolved_by,
            invoice_status=self.invoice_status,
            http_status=self.http_status,
            attempts=self.attempts,
            lookups=self.lookups,
            amount=self.amount,
            balance=self.balance,
            currency=self.currency,
            correlation_id=self.correlation_id,
            submitted_at=self.submitted_at,
            at=self.at,
            latency_ms=self.latency_ms,
            message=self.message,
            keep=row.keep or UNSET,
        )


class Packer:
    """Pack lines one by one; what is packed so far can be had at any time."""

    def __init__(self) -> None:
        """Begin without a line."""
        self._stream = zlib.compressobj(_LEVEL)
        self._packed = bytearray()
        self._waiting: list[bytes] = []
        self.count = 0
        """Lines so far."""

    def add(self, line: Ask | Answer) -> int:
        """Add a line; return how many bytes it is before it is packed."""
        encoded = _JSON.encode(line)
        self._waiting.append(encoded)
        self.count += 1
        return len(encoded)

    def packed(self) -> bytes:
        """Return all lines so far; costs only what the new ones do, and a copy."""
        if self._waiting:
            self._waiting.append(b"")
            self._packed += self._stream.compress(b"\n".join(self._waiting))
            self._waiting.clear()
        return bytes(self._packed) + self._stream.copy().flush()


def pack(lines: Iterable[Ask]) -> bytes:
    """Pack the invoices of a shard."""
    packer = Packer()
    for line in lines:
        packer.add(line)
    return packer.packed()


def unpack_asks(packed: bytes) -> list[Ask]:
    """Return the invoices of a shard, in their order.

    Raises:
        ClusterError: They are none that this version knows.
    """
    try:
        return _ASKS.decode_lines(_lines(packed))
    except (msgspec.MsgspecError, zlib.error):
        raise ClusterError("These invoices were not packed by this version of batchcancel.") from None


def unpack_answers(packed: bytes) -> list[Answer]:
    """Return answers, in the order in which they came.

    Raises:
        ClusterError: They are none that this version knows: a newer worker may have found what it has no word
            for. What they say is not shown.
    """
    try:
        return _ANSWERS.decode_lines(_lines(packed))
    except (msgspec.MsgspecError, zlib.error):
        raise ClusterError(
            "A worker has sent answers that this version of batchcancel does not understand: it may be "
            "newer. They wait in Temporal: update this one, and run the same command again."
        ) from None


_ASKS: Final = msgspec.json.Decoder(Ask)
_ANSWERS: Final = msgspec.json.Decoder(Answer)


def _lines(packed: bytes) -> bytes:
    return zlib.decompress(packed) if packed else b""
