"""Whatever a file holds, recovery answers or refuses with an error of the project's own."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import TYPE_CHECKING, Final
from zlib import crc32

from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchcancel.errors import BatchCancelError, LedgerDamagedError, LedgerMismatchError
from batchcancel.ledger.reader import History, recover
from batchcancel.ledger.record import RunRecord, decode, encode_result, encode_run
from batchcancel.model import Reason, Result
from batchcancel.tasks.verify import FindingKind, audit_ledger, salvage_ledger

if TYPE_CHECKING:
    from tests.conftest import LatestReasons

RUN: Final = encode_run(
    RunRecord(
        run_id="r",
        started_at="t",
        version="0",
        env="test",
        base_url="b",
        merchant_id="m",
        operator="o",
        host="h",
        pid=1,
        ref=None,
        manifest=(),
        options={},
    )
)
PATH: Final = Path("x.ledger.jsonl")


def row(invoice_id: str, reason: Reason) -> bytes:
    """Encode a result row."""
    return encode_result(
        "r",
        Result(row=1, invoice_id=invoice_id, outcome=reason.outcome, reason=reason, resolved_by=None, at="t"),
    )


def recover_bytes(data: bytes) -> History:
    """Recover a file that holds the given bytes."""
    with TemporaryFile() as file:
        file.write(data)
        file.flush()
        history = recover(file.fileno(), PATH)
        assert os.fstat(file.fileno()).st_size == len(data)
    return history


def seal(body: bytes) -> bytes:
    """End a JSON object that lacks its closing brace as a good line is ended."""
    return body + b',"crc":"%08x"}' % crc32(body)


def bomb(opening: bytes, depth: int) -> bytes:
    """Make a line whose seal is right and whose nesting has no end."""
    return seal(b'{"type":"run","options":' + opening * depth)


fields = st.sampled_from(
    [
        "type", "v", "run_id", "env", "merchant_id", "manifest", "options", "row", "invoice_id", "outcome",
        "reason", "resolved_by", "http_status", "attempts", "at", "keep", "why", "of_row", "counts", "sha256",
    ]
)  # fmt: skip
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["run", "result", "skip", "end", "canceled", "error", "paid", "response"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=3),
    max_leaves=6,
)
sealed_objects = st.dictionaries(fields, values, min_size=1).map(
    lambda body: seal(json.dumps(body).encode()[:-1])
)
sealed_variants = st.builds(
    lambda line, changes: seal(json.dumps({**json.loads(line), **changes}).encode()[:-1]),
    st.sampled_from([RUN]) | st.builds(row, st.text(max_size=8), st.sampled_from(Reason)),
    st.dictionaries(fields, values, max_size=2),
)


rows = st.lists(
    st.builds(row, st.text(max_size=8), st.sampled_from(Reason)),
    max_size=6,
)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_arbitrary_line_is_decoded_or_bad(line: bytes) -> None:
    """No bytes are a record unless they were sealed as one."""
    assert decode(line) is None


@given(st.binary(max_size=400), st.booleans())
def test_arbitrary_file_is_never_a_crash(
    latest_reasons: LatestReasons,
    data: bytes,
    behind_a_run: bool,  # noqa: FBT001 - drawn
) -> None:
    """Bytes of any kind are a tail, or are refused; none is ever a row."""
    whole = RUN + data if behind_a_run else data
    try:
        history = recover_bytes(whole)
    except LedgerMismatchError:
        assert not behind_a_run
        return
    assert len(latest_reasons(history)) == 0
    assert history.good_size + (history.tail.size_bytes if history.tail else 0) == len(whole)


@given(st.lists(sealed_objects | sealed_variants | st.binary(max_size=40).map(seal), max_size=4))
@example([bomb(b"[", 100_000)])
@example([bomb(b'{"a":', 100_000)])
@example([seal(b'{"type":"future","n":' + b"9" * 5000)])
@example([seal(RUN[:-1].rpartition(b",")[0].replace(b'"pid":1', b'"pid":' + b"9" * 5000))])
@example([seal(RUN[:-1].rpartition(b",")[0].replace(b'"pid":1', b'"pid":1e999'))])
@example([seal(b'{"type":"\xff"')])
@settings(max_examples=300)
def test_a_good_seal_on_wrong_content_is_never_a_crash(
    latest_reasons: LatestReasons, lines: list[bytes]
) -> None:
    """Whoever can compute a checksum can write anything; it is read, or refused in the project's words."""
    try:
        history = recover_bytes(RUN + b"".join(line + b"\n" for line in lines))
    except BatchCancelError as exc:
        assert isinstance(exc, LedgerDamagedError | LedgerMismatchError)  # noqa: PT017 - some draws raise nothing
        return
    assert len(latest_reasons(history)) <= len(lines)


@given(rows, st.data())
@settings(max_examples=200)
def test_arbitrary_damage_never_makes_a_row(
    latest_reasons: LatestReasons, lines: list[bytes], data: st.DataObject
) -> None:
    """A damaged ledger is cut at its end or refused; rows that stay are those that were written."""
    whole = b"".join([RUN, *lines])
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    damaged = whole[:start] + data.draw(st.binary(max_size=40)) + whole[end:]
    try:
        history = recover_bytes(damaged)
    except BatchCancelError as exc:
        assert isinstance(exc, LedgerDamagedError | LedgerMismatchError)  # noqa: PT017 - most draws raise nothing
        return
    good = damaged[: history.good_size]
    assert history.sha256.digest() == sha256(good).digest()
    assert set(good.splitlines(keepends=True)) <= {RUN, *lines}
    assert len(latest_reasons(history)) <= len(lines)


@given(rows, st.data())
def test_every_cut_leaves_the_rows_before_it(
    latest_reasons: LatestReasons, lines: list[bytes], data: st.DataObject
) -> None:
    """Truncation anywhere loses the row that it hits and no other."""
    whole = b"".join([RUN, *lines])
    cut = data.draw(st.integers(0, len(whole)))
    history = recover_bytes(whole[:cut])
    ends = [len(b"".join([RUN, *lines[:count]])) for count in range(len(lines) + 1)]
    assert history.good_size == max((end for end in ends if end <= cut), default=0)
    kept = lines[: max(0, sum(end <= cut for end in ends) - 1)]
    results = [json.loads(line) for line in kept]
    invoices = {(result["invoice_id"], result["reason"] == "invalid_id") for result in results}
    assert len(latest_reasons(history)) == len(invoices)


@given(rows, st.data())
def test_audit_and_recovery_agree_and_a_salvage_satisfies_both(
    lines: list[bytes], data: st.DataObject
) -> None:
    """What is sound a run accepts; what a salvage makes of anything is accepted, and holds no new line."""
    whole = b"".join([RUN, *lines])
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    damaged = whole[:start] + data.draw(st.binary(max_size=40)) + whole[end:]
    with TemporaryDirectory() as folder:
        ledger, new = Path(folder, "x"), Path(folder, "new")
        ledger.write_bytes(damaged)
        try:
            is_sound = audit_ledger(ledger).is_sound
        except LedgerMismatchError:
            return
        if is_sound:
            recover_bytes(damaged)
        salvaged = salvage_ledger(ledger, new)
        assert salvaged.path is not None or not new.exists()
        assert ledger.read_bytes() == damaged
        if salvaged.path is not None:
            copied = new.read_bytes()
            assert set(copied.splitlines(keepends=True)) <= {RUN, *lines}
            assert copied.startswith(RUN)
            assert recover_bytes(copied).tail is None
            # Drawn rows may answer an invoice twice, which no copy can mend.
            assert {one.kind for one in audit_ledger(new).findings} <= {FindingKind.ANSWERED_TWICE}
