r"""The ledger's format, version 1: what a line means, to bytes and back. Pure.

A ledger is a file of lines, each one JSON object in UTF-8 without white space, ended by ``\n``::

    {"type":"run","v":1,"run_id":"…", …,"crc":"0c1d2e3f"}

==========  ==================================================================================
``type``    meaning
==========  ==================================================================================
``run``     a run began: who, where, which manifests, which options. The first line is one
``result``  what became of one invoice. The latest one of an invoice, by position, is its answer
``skip``    a manifest row that another row stands for
``end``     a run came to its end; ``sha256`` covers every byte of the file before this line
==========  ==================================================================================

* Fields stand in the order of the structs below, ``type`` first. In ``result`` and ``skip``,
  ``run_id`` comes second and the fields of ``model.Result`` and ``model.Skip`` follow.
* The last field is ``crc``: CRC-32 as in zlib, eight lower-case hexadecimal digits, of the line's
  bytes before ``,"crc"``.
* ``file``, ``merchant_id`` (in ``result`` and ``skip``), ``of_file``, ``keep`` and ``why`` (in ``end``)
  are left out where they don't apply; every other field is always there, null where nothing is known.
* Amounts are decimal strings, digits as received. Times are UTC with a final ``Z``.
* A line is at most 4 MiB long, its newline not counted.
* Readers ignore fields and types that they don't know. ``v``, in ``run`` only, rises when a field
  changes its meaning; a reader refuses a higher one than its own.

A line is *bad* if it is not UTF-8, not JSON, too long, or not sealed by its own ``crc``. What bad
lines mean for the file is told in ``reader``.
"""

from __future__ import annotations

import json
import zlib
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from batchcancel.errors import LedgerMismatchError, LedgerWriteError
from batchcancel.model import Result, RunState, Skip

FORMAT_VERSION: Final = 1
MAX_LINE_BYTES: Final = 4 * 1024 * 1024
RUN_START: Final = b'{"type":"run"'
"""How the first line of every ledger begins."""
PLAN_START: Final = b'{"type":"plan"'
"""How the first line of every plan begins, which is no ledger."""


class ManifestRecord(Struct, frozen=True, kw_only=True):
    """One manifest of a run, as it was when the run began."""

    path: str
    sha256: str
    rows: int


class Beginning(Struct, frozen=True, kw_only=True):
    """What a run, or a plan, says of itself when it begins."""

    v: int = FORMAT_VERSION
    run_id: str
    started_at: str
    version: str
    """Of the program."""
    env: str
    base_url: str
    merchant_id: str
    """The merchant, or the portfolio that signs for several."""
    operator: str
    host: str
    pid: int
    ref: str | None
    """A ticket or a reason, as given by ``--ref``."""
    manifest: tuple[ManifestRecord, ...]
    options: dict[str, str | int | float | bool | list[str] | None]


class RunRecord(Beginning, frozen=True, kw_only=True, tag_field="type", tag="run"):
    """A run began."""


class ResultRecord(Result, frozen=True, kw_only=True, tag_field="type", tag="result"):
    """A ``result`` line as read: a result and the run that wrote it."""

    run_id: str


class SkipRecord(Skip, frozen=True, kw_only=True, tag_field="type", tag="skip"):
    """A ``skip`` line as read: a skip and the run that wrote it."""

    run_id: str


class EndRecord(Struct, frozen=True, kw_only=True, tag_field="type", tag="end"):
    """A run came to its end."""

    run_id: str
    ended_at: str
    state: RunState
    why: str | UnsetType = UNSET
    """Only if the state is ``stopped``."""
    counts: dict[str, int]
    sha256: str
    """Of every byte of the file before this line, lower-case hexadecimal."""


class UnknownRecord(Struct, frozen=True):
    """A good line of a type that a later version added: to be ignored."""

    type: str


KnownRecord = RunRecord | ResultRecord | SkipRecord | EndRecord
Record = KnownRecord | UnknownRecord

_KNOWN_TYPES: Final = frozenset({"run", "result", "skip", "end"})
_KNOWN: Final = msgspec.json.Decoder(KnownRecord)
_UNKNOWN: Final = msgspec.json.Decoder(UnknownRecord)
_ENCODER: Final = msgspec.json.Encoder()
_SEAL_BYTES: Final = len(',"crc":"00000000"}')


def encode_run(run: RunRecord) -> bytes:
    """Encode a ``run`` line, newline included.

    Raises:
        LedgerWriteError: The line would be longer than a reader accepts. So for every encoder.
    """
    return encode_line(run)


def encode_result(run_id: str, result: Result) -> bytes:
    """Encode a ``result`` line, newline included."""
    return encode_row("result", run_id, result)


def encode_skip(run_id: str, skip: Skip) -> bytes:
    """Encode a ``skip`` line, newline included."""
    return encode_row("skip", run_id, skip)


def encode_end(end: EndRecord) -> bytes:
    """Encode an ``end`` line, newline included."""
    return encode_line(end)


def encode_row(type_: str, run_id: str, row: Struct) -> bytes:
    """Encode a line about one row of a manifest, newline included."""
    return _sealed(b'{"type":"%b","run_id":%b,%b' % (type_.encode(), _ENCODER.encode(run_id), _json(row)[1:]))


def encode_line(record: Struct) -> bytes:
    """Encode any other line, newline included."""
    return _sealed(_json(record))


def is_sealed(line: bytes) -> bool:
    """Tell whether a line, without its newline, is sealed by its own ``crc``."""
    return len(line) <= MAX_LINE_BYTES and line[-_SEAL_BYTES:] == _seal(line[:-_SEAL_BYTES])


def decode(line: bytes) -> Record | None:
    """Decode one line.

    Args:
        line: The line's bytes without its newline.

    Returns:
        The record, or None if the line is bad.

    Raises:
        LedgerMismatchError: The line is sealed by its ``crc`` but was written by a newer version of
            the format. It is no damage, so it must never be cut off as such.
    """
    if not is_sealed(line):
        return None
    try:
        record = _decode_json(line.decode())
    except msgspec.ValidationError as exc:
        raise LedgerMismatchError(_NEWER) from exc
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    if isinstance(record, RunRecord) and record.v > FORMAT_VERSION:
        raise LedgerMismatchError(_NEWER)
    return record


_NEWER: Final = (
    f"The ledger was written by a newer version of batchcancel (this one knows format {FORMAT_VERSION}). "
    "Use that version, or another ledger."
)


def _decode_json(text: str) -> Record:
    try:
        known: KnownRecord = _KNOWN.decode(text)
    except msgspec.ValidationError:
        unknown = _UNKNOWN.decode(text)
        if unknown.type in _KNOWN_TYPES:
            raise
        return unknown
    return known


def _json(body: Struct) -> bytes:
    try:
        return _ENCODER.encode(body)
    except UnicodeEncodeError:
        # A file name or an argument that is not UTF-8 reaches Python as lone surrogates, which JSON
        # can't hold: each becomes a question mark.
        text = json.dumps(msgspec.to_builtins(body), ensure_ascii=False, separators=(",", ":"))
        return text.encode(errors="replace")


def _sealed(json_object: bytes) -> bytes:
    body = json_object[:-1]
    if len(body) + _SEAL_BYTES > MAX_LINE_BYTES:
        raise LedgerWriteError(
            f"A ledger line of {len(body)} bytes is longer than the {MAX_LINE_BYTES} that a reader accepts. "
            "Keep fewer or shorter columns."
        )
    return body + _seal(body) + b"\n"


def _seal(body: bytes) -> bytes:
    return b',"crc":"%08x"}' % zlib.crc32(body)
