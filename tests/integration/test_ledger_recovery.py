"""Recovery: what a file's bytes say, and which of them may be cut."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchcancel import buckets
from batchcancel.errors import (
    LedgerDamagedError,
    LedgerFaultError,
    LedgerMismatchError,
    LedgerWriteError,
)
from batchcancel.ledger import lines
from batchcancel.ledger.reader import History, Line, Tail, read_lines, recover
from batchcancel.ledger.record import MAX_LINE_BYTES, RunRecord, encode_result, encode_run, encode_skip
from batchcancel.model import Reason, Result, Skip, SkipReason, invoice_key, key_digest

if TYPE_CHECKING:
    from tests.conftest import LatestReasons


def run_line(run_id: str = "r1", *, env: str = "test", merchant_id: str = "m1") -> bytes:
    """Encode a run record."""
    return encode_run(
        RunRecord(
            run_id=run_id,
            started_at=f"start of {run_id}",
            version="0",
            env=env,
            base_url="https://x",
            merchant_id=merchant_id,
            operator="o",
            host="h",
            pid=1,
            ref=None,
            manifest=(),
            options={},
        )
    )


def result_line(invoice_id: str, reason: Reason = Reason.CANCELED) -> bytes:
    """Encode a result row."""
    return encode_result(
        "r1",
        Result(row=1, invoice_id=invoice_id, outcome=reason.outcome, reason=reason, resolved_by=None, at="t"),
    )


LatestReason = Callable[[History, str], Reason | None]
SKIP_LINE = encode_skip("r1", Skip(row=9, invoice_id="1", why=SkipReason.DUPLICATE, of_row=1))
THREE = (run_line(), result_line("1"), result_line("2"))


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file for reading and close it again."""
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture
def latest_reason(latest_reasons: LatestReasons) -> LatestReason:
    """Give a function that tells the latest reason of an invoice by its key."""
    return lambda history, key: latest_reasons(history).get(key_digest(key))


@pytest.fixture
def recovered(tmp_path: Path) -> Callable[[bytes], History]:
    """Recover a ledger that holds the given bytes."""

    def recover_bytes(data: bytes) -> History:
        path = tmp_path / "x.ledger.jsonl"
        path.write_bytes(data)
        with opened(path) as fd:
            history = recover(fd, path)
        assert path.read_bytes() == data
        return history

    return recover_bytes


def test_empty_file_is_an_empty_ledger(
    recovered: Callable[[bytes], History], latest_reason: LatestReason
) -> None:
    """Nothing is known, and nothing has to be cut."""
    history = recovered(b"")
    assert (history.first_started_at, history.env, history.merchant_id) == (None, None, None)
    assert (history.good_size, history.tail) == (0, None)
    assert latest_reason(history, "1") is None


def test_whole_ledger_is_known(recovered: Callable[[bytes], History]) -> None:
    """Runs, rows, size and digest cover every byte."""
    data = run_line("r1") + result_line("1") + SKIP_LINE + run_line("r2") + result_line("2")
    history = recovered(data)
    assert (history.first_started_at, history.env, history.merchant_id) == ("start of r1", "test", "m1")
    assert (history.good_size, history.tail) == (len(data), None)
    assert history.sha256.hexdigest() == sha256(data).hexdigest()


@pytest.mark.parametrize("reason", [pytest.param(reason, id=reason.value) for reason in Reason])
def test_every_reason_is_read_back(
    recovered: Callable[[bytes], History], latest_reason: LatestReason, reason: Reason
) -> None:
    """By the invoice's key; another id's is not taken for it."""
    history = recovered(run_line() + result_line("007", reason))
    key = invoice_key("007", valid=reason is not Reason.INVALID_ID)
    assert latest_reason(history, key) is reason
    assert latest_reason(history, "7") is None


def test_an_invalid_row_never_settles_a_valid_id(
    recovered: Callable[[bytes], History], latest_reason: LatestReason
) -> None:
    """The JSON value true is recorded as the text of the valid id "true"; that id is still asked."""
    history = recovered(run_line() + result_line("true", Reason.INVALID_ID))
    assert latest_reason(history, "true") is None


def test_latest_row_by_position_is_the_answer(
    recovered: Callable[[bytes], History], latest_reason: LatestReason
) -> None:
    """A later open row overrides a final one and the reverse; skips say nothing."""
    history = recovered(
        run_line()
        + result_line("a", Reason.UNKNOWN)
        + result_line("b", Reason.CANCELED)
        + result_line("a", Reason.PAID)
        + result_line("b", Reason.UNKNOWN)
        + encode_skip("r1", Skip(row=1, invoice_id="c", why=SkipReason.DUPLICATE, of_row=1))
    )
    assert [latest_reason(history, key) for key in "abc"] == [Reason.PAID, Reason.UNKNOWN, None]


def test_row_of_text_that_is_no_unicode_is_found_again(
    recovered: Callable[[bytes], History], latest_reason: LatestReason
) -> None:
    """What is written with question marks is looked up with question marks."""
    history = recovered(run_line() + result_line("\udcff", Reason.INVALID_ID))
    assert latest_reason(history, invoice_key("\udcff", valid=False)) is Reason.INVALID_ID


def test_tail_is_found_at_every_cut_of_the_last_line(
    recovered: Callable[[bytes], History], latest_reason: LatestReason
) -> None:
    """A write may be torn anywhere, also just before the newline: the last row is then no row."""
    good = THREE[0] + THREE[1]
    for cut in range(1, len(THREE[2])):
        history = recovered(good + THREE[2][:cut])
        assert history.tail == Tail(len(good), cut, 1)
        assert history.good_size == len(good)
        assert history.sha256.digest() == sha256(good).digest()
        assert (latest_reason(history, "1"), latest_reason(history, "2")) == (Reason.CANCELED, None)
    assert recovered(good + THREE[2]).tail is None


def test_torn_first_line_is_a_tail_at_every_cut(recovered: Callable[[bytes], History]) -> None:
    """A crash during the very first write leaves a beginning of a ledger: all of it is a tail."""
    for cut in range(1, len(THREE[0])):
        assert recovered(THREE[0][:cut]).tail == Tail(0, cut, 1)


def test_a_ledger_without_a_good_line_is_never_cut(tmp_path: Path) -> None:
    """A crash leaves one unfinished line at most; a ledger that an editor spoiled has more."""
    path = tmp_path / "x.ledger.jsonl"
    path.write_bytes(b"".join(THREE).replace(b"\n", b"\r\n"))
    with opened(path) as fd, pytest.raises(LedgerDamagedError, match="every line after it is damaged"):
        recover(fd, path)


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(b"\x00" * 9000, id="nul-bytes"),
        pytest.param(b"\n\n", id="blank-lines"),
        pytest.param(b"garbage\ngarbage\n", id="ended-garbage"),
        pytest.param(b"garbage\n" + THREE[2][:-1], id="garbage-then-unended-good"),
        pytest.param(b"x" * (MAX_LINE_BYTES + 2), id="too-long"),
        pytest.param(b"x" * (2 * MAX_LINE_BYTES) + b"\n", id="too-long-and-ended"),
    ],
)
def test_bad_lines_to_the_end_are_a_tail(recovered: Callable[[bytes], History], tail: bytes) -> None:
    """However many and long they are, bad lines that nothing good follows may be cut."""
    good = THREE[0] + THREE[1]
    history = recovered(good + tail)
    assert history.tail is not None
    assert (history.tail.offset, history.tail.size_bytes) == (len(good), len(tail))
    assert history.sha256.digest() == sha256(good).digest()


def test_any_flipped_byte_in_the_middle_is_damage(tmp_path: Path) -> None:
    """CRC-32 finds every error of one byte.

    A flipped newline joins two lines into one bad line, and a byte flipped into a newline makes two
    bad ones; a good line follows either way, so it is damage too.
    """
    path = tmp_path / "x.ledger.jsonl"
    start = len(THREE[0])
    data = bytearray(b"".join(THREE) + result_line("3") + result_line("4"))
    for position in range(start, start + len(THREE[1])):
        for flip in (0x01, 0x20, 0xFF, data[position] ^ 0x0A):
            if not flip:
                continue  # the newline itself, flipped into a newline
            data[position] ^= flip
            path.write_bytes(data)
            data[position] ^= flip
            with opened(path) as fd, pytest.raises(LedgerDamagedError) as caught:
                recover(fd, path)
            assert f"{path}: line 2, at byte {start}, is damaged" in str(caught.value)
            assert "Keep the file" in str(caught.value)
            assert f"'batchcancel verify {path} --salvage NEW'" in str(caught.value)


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param(b"", id="removed"),
        pytest.param(b"\n", id="blanked"),
        pytest.param(b"x" * (5 << 20) + b"\n", id="too-long"),
    ],
)
def test_only_the_digest_tells_a_removed_line(
    recovered: Callable[[bytes], History], latest_reason: LatestReason, lost: bytes
) -> None:
    """A line that is gone without trace is found by the end record's digest, any other by its crc."""
    data = THREE[0] + lost + THREE[2]
    if lost:
        with pytest.raises(LedgerDamagedError, match="line 2"):
            recovered(data)
    else:
        assert latest_reason(recovered(data), "2") is Reason.CANCELED


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"invoice_id\n1\n2\n", id="csv"),
        pytest.param(b"\n" + THREE[0][:40], id="blank-line-first"),
        pytest.param(b'{"type":"result"', id="another-record"),
        pytest.param(b"\xef\xbb\xbf" + THREE[0], id="byte-order-mark"),
        pytest.param(b"x" + b"\x00" * 100, id="before-nul-bytes"),
        pytest.param(b"\x00" * 100 + b"x", id="after-nul-bytes"),
        pytest.param(b"[" + b"1," * (3 << 20), id="one-very-long-line"),
        pytest.param(b'{"x":1}', id="json"),
    ],
)
def test_somebody_elses_file_is_refused(recovered: Callable[[bytes], History], data: bytes) -> None:
    """A file that does not begin like a ledger is never cut."""
    with pytest.raises(LedgerMismatchError, match="is no ledger and was left as it is"):
        recovered(data)


@pytest.mark.parametrize("kept_bytes", [0, 1, 12, 13, 40])
def test_zeros_of_a_power_cut_in_the_first_write_are_a_tail(
    recovered: Callable[[bytes], History], kept_bytes: int
) -> None:
    """The file system knew the new length and not the bytes: no run has begun, and the next one may."""
    data = THREE[0][:kept_bytes] + b"\x00" * 300
    history = recovered(data)
    assert history.first_run is None
    assert history.tail == Tail(0, len(data), 1)


def test_ledger_without_its_run_record_is_refused(recovered: Callable[[bytes], History]) -> None:
    """A good first line of another type means that the beginning is gone."""
    with pytest.raises(LedgerMismatchError, match="does not begin with a run record"):
        recovered(THREE[1] + THREE[0])


def test_newer_ledger_is_refused_with_its_line(recovered: Callable[[bytes], History]) -> None:
    """The message names file and line."""
    newer = RunRecord(
        v=2,
        run_id="r",
        started_at="t",
        version="9",
        env="test",
        base_url="b",
        merchant_id="m1",
        operator="o",
        host="h",
        pid=1,
        ref=None,
        manifest=(),
        options={},
    )
    with pytest.raises(LedgerMismatchError, match=r"x\.ledger\.jsonl, line 2: .*newer version"):
        recovered(THREE[0] + encode_run(newer))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(run_line(env="production"), id="env"),
        pytest.param(run_line(merchant_id="m2"), id="merchant"),
    ],
)
def test_runs_of_two_accounts_are_damage(recovered: Callable[[bytes], History], other: bytes) -> None:
    """One ledger holds one environment and one merchant."""
    with pytest.raises(LedgerDamagedError, match=r"line 2, at byte .* another environment or merchant"):
        recovered(THREE[0] + other)


def test_unreadable_file_is_a_fault(tmp_path: Path) -> None:
    """An error of the disk while reading is named as such."""
    with opened(tmp_path) as fd, pytest.raises(LedgerFaultError, match="can't be read: Is a directory"):
        recover(fd, tmp_path)


def test_results_beyond_what_memory_should_hold_are_known_too(
    recovered: Callable[[bytes], History], latest_reason: LatestReason, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait in a file beside the ledger that has no name."""
    monkeypatch.setattr(buckets, "MAX_HELD", 2)
    results = [result_line(str(number), Reason.NETWORK) for number in range(9)]
    history = recovered(run_line() + b"".join(results) + result_line("4", Reason.PAID))
    with closing(history.reasons):
        reasons = [latest_reason(history, str(number)) for number in range(10)]
    assert reasons == [*[Reason.NETWORK] * 4, Reason.PAID, *[Reason.NETWORK] * 4, None]


def test_no_room_for_results_that_are_sorted_is_said(
    recovered: Callable[[bytes], History], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no damage and no fault of the ledger: it wants room beside it."""
    data = run_line() + result_line("1") + result_line("2")

    def full(_fd: int, _data: memoryview, _offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(buckets, "MAX_HELD", 1)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(LedgerWriteError, match=r"beside .*x\.ledger\.jsonl, and that failed: No space left"):
        recovered(data)


def test_a_reading_that_was_given_up_ends(tmp_path: Path) -> None:
    """Nobody has to wait for the end of a long ledger after Ctrl-C."""
    path = tmp_path / "x.ledger.jsonl"
    path.write_bytes(run_line() + result_line("1") * 10_000)
    asked = []

    def is_given_up() -> bool:
        asked.append(True)
        return len(asked) == 2

    with opened(path) as fd, pytest.raises(LedgerFaultError, match="was given up"):
        recover(fd, path, is_given_up=is_given_up)
    assert len(asked) == 2


@pytest.mark.parametrize("block_bytes", [pytest.param(size, id=str(size)) for size in (1, 2, 3, 7, 4096)])
def test_lines_do_not_depend_on_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    """Where a block ends has no bearing on number, offset, size and bytes of a line."""
    monkeypatch.setattr(lines, "BLOCK_BYTES", block_bytes)
    path = tmp_path / "f"
    path.write_bytes(b"one\n\ntwo\r\nthree")
    with opened(path) as fd:
        found = list(read_lines(fd))
    assert found == [
        Line(1, 0, 4, b"one", whole=True),
        Line(2, 4, 1, b"", whole=True),
        Line(3, 5, 5, b"two\r", whole=True),
        Line(4, 10, 5, b"three", whole=False),
    ]
