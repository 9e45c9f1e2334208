"""The ledger's format: exact bytes, key sets, seals, and what a reader makes of foreign lines."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from msgspec import UNSET

from batchcancel.errors import LedgerMismatchError, LedgerWriteError
from batchcancel.ledger.record import (
    MAX_LINE_BYTES,
    EndRecord,
    ManifestRecord,
    ResultRecord,
    RunRecord,
    SkipRecord,
    UnknownRecord,
    decode,
    encode_end,
    encode_result,
    encode_run,
    encode_skip,
)
from batchcancel.model import Outcome, Reason, ResolvedBy, Result, RunState, Skip, SkipReason, utc_text

RUN = RunRecord(
    run_id="r1",
    started_at="2026-11-22T10:00:00.000Z",
    version="0.1.0",
    env="test",
    base_url="https://apitest.visaacceptance.com",
    merchant_id="m1",
    operator="ana",
    host="box",
    pid=7,
    ref=None,
    manifest=(ManifestRecord(path="in.csv", sha256="ab", rows=5),),
    options={
        "rate": 20.5,
        "concurrency": 16,
        "yes": True,
        "limit": None,
        "keep": ["a", "b"],
        "format": "csv",
    },
)
RUN_BODY = (
    '{"type":"run","v":1,"run_id":"r1","started_at":"2026-11-22T10:00:00.000Z","version":"0.1.0","env":"test",'
    '"base_url":"https://apitest.visaacceptance.com","merchant_id":"m1","operator":"ana","host":"box","pid":7,'
    '"ref":null,"manifest":[{"path":"in.csv","sha256":"ab","rows":5}],"options":{"rate":20.5,"concurrency":16,'
    '"yes":true,"limit":null,"keep":["a","b"],"format":"csv"}'
)
RESULT = Result(
    row=2,
    invoice_id="2675",
    outcome=Outcome.CANCELED,
    reason=Reason.CANCELED,
    resolved_by=ResolvedBy.RESPONSE,
    invoice_status="CANCELED",
    http_status=200,
    attempts=1,
    amount="2623.64",
    balance="10.10",
    currency="USD",
    correlation_id="c1",
    submitted_at="2026-11-22T10:00:00Z",
    at="2026-11-22T10:00:01.000Z",
    latency_ms=118.2,
)
RESULT_BODY = (
    '{"type":"result","run_id":"r1","row":2,"invoice_id":"2675","outcome":"canceled","reason":"canceled",'
    '"resolved_by":"response","invoice_status":"CANCELED","http_status":200,"attempts":1,"lookups":0,'
    '"amount":"2623.64","balance":"10.10","currency":"USD","correlation_id":"c1",'
    '"submitted_at":"2026-11-22T10:00:00Z","at":"2026-11-22T10:00:01.000Z","latency_ms":118.2,"message":null'
)
BARE_RESULT = Result(
    row=3,
    file="b.csv",
    invoice_id="bäd \x1f",
    outcome=Outcome.ERROR,
    reason=Reason.INVALID_ID,
    resolved_by=None,
    at="2026-11-22T10:00:01.000Z",
    keep={"name": "x"},
)
BARE_RESULT_BODY = (
    '{"type":"result","run_id":"r1","row":3,"file":"b.csv","invoice_id":"bäd \\u001f","outcome":"error",'
    '"reason":"invalid_id","resolved_by":null,"invoice_status":null,"http_status":null,"attempts":0,"lookups":0,'
    '"amount":null,"balance":null,"currency":null,"correlation_id":null,"submitted_at":null,'
    '"at":"2026-11-22T10:00:01.000Z","latency_ms":null,"message":null,"keep":{"name":"x"}'
)
SKIP = Skip(row=9, invoice_id="2675", why=SkipReason.DUPLICATE, of_row=2)
SKIP_BODY = '{"type":"skip","run_id":"r1","row":9,"invoice_id":"2675","why":"duplicate","of_row":2'
END = EndRecord(
    run_id="r1",
    ended_at="2026-11-22T10:01:00.000Z",
    state=RunState.COMPLETE,
    counts={"canceled": 1, "open": 0},
    sha256="cd",
)
END_BODY = (
    '{"type":"end","run_id":"r1","ended_at":"2026-11-22T10:01:00.000Z","state":"complete",'
    '"counts":{"canceled":1,"open":0},"sha256":"cd"'
)
STOPPED = EndRecord(run_id="r1", ended_at="t", state=RunState.STOPPED, why="outage", counts={}, sha256="cd")
STOPPED_BODY = (
    '{"type":"end","run_id":"r1","ended_at":"t","state":"stopped","why":"outage","counts":{},"sha256":"cd"'
)


def sealed(body: str | bytes) -> bytes:
    """Seal a line independently of the package; ``body`` lacks its closing brace."""
    data = body.encode() if isinstance(body, str) else body
    return data + f',"crc":"{zlib.crc32(data):08x}"'.encode() + b"}"


@pytest.mark.parametrize(
    ("line", "body"),
    [
        pytest.param(encode_run(RUN), RUN_BODY, id="run"),
        pytest.param(encode_result("r1", RESULT), RESULT_BODY, id="result"),
        pytest.param(encode_result("r1", BARE_RESULT), BARE_RESULT_BODY, id="result-nulls-and-optional"),
        pytest.param(encode_skip("r1", SKIP), SKIP_BODY, id="skip"),
        pytest.param(encode_end(END), END_BODY, id="end"),
        pytest.param(encode_end(STOPPED), STOPPED_BODY, id="end-stopped"),
    ],
)
def test_record_is_written_byte_for_byte(line: bytes, body: str) -> None:
    """Each type has exactly the documented fields in the documented order, then its seal."""
    assert line == sealed(body) + b"\n"


def test_crc_of_a_known_line_is_pinned() -> None:
    """The checksum is plain CRC-32, eight lower-case digits, leading zeros kept."""
    assert encode_skip("r1", SKIP).endswith(b',"of_row":2,"crc":"%08x"}\n' % zlib.crc32(SKIP_BODY.encode()))
    small = next(
        line
        for row in range(1000)
        if b'"crc":"0' in (line := encode_skip("r", Skip(row=row, invoice_id="1", why=SkipReason.EXCLUDED)))
    )
    assert decode(small[:-1]) is not None


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        pytest.param(
            encode_run(RUN),
            "type v run_id started_at version env base_url merchant_id operator host pid ref manifest "
            "options crc",
            id="run",
        ),
        pytest.param(
            encode_result("r1", RESULT),
            "type run_id row invoice_id outcome reason resolved_by invoice_status http_status attempts "
            "lookups amount balance currency correlation_id submitted_at at latency_ms message crc",
            id="result",
        ),
        pytest.param(encode_skip("r1", SKIP), "type run_id row invoice_id why of_row crc", id="skip"),
        pytest.param(encode_end(END), "type run_id ended_at state counts sha256 crc", id="end"),
    ],
)
def test_key_sets_are_pinned(line: bytes, keys: str) -> None:
    """A field that is added or lost is a change of the contract."""
    assert list(json.loads(line)) == keys.split()


@pytest.mark.parametrize(
    ("line", "record"),
    [
        pytest.param(encode_run(RUN), RUN, id="run"),
        pytest.param(encode_end(END), END, id="end"),
        pytest.param(encode_end(STOPPED), STOPPED, id="end-stopped"),
    ],
)
def test_record_comes_back_as_it_was(line: bytes, record: RunRecord | EndRecord) -> None:
    """Decoding undoes encoding."""
    assert decode(line[:-1]) == record


def test_result_and_skip_come_back_with_their_run() -> None:
    """A read result is a Result that also knows its run; decimal strings keep their digits."""
    result = decode(encode_result("r1", RESULT)[:-1])
    assert isinstance(result, ResultRecord)
    assert (result.run_id, result.balance, result.keep, result.file) == ("r1", "10.10", UNSET, UNSET)
    assert result.reason is Reason.CANCELED
    skip = decode(encode_skip("r1", SKIP)[:-1])
    assert isinstance(skip, SkipRecord)
    assert (skip.run_id, skip.of_row, skip.why) == ("r1", 2, "duplicate")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x00" * 64, id="nul-bytes"),
        pytest.param(b"invoice_id,amount", id="csv"),
        pytest.param(RESULT_BODY.encode() + b"}", id="no-crc"),
        pytest.param(sealed(RESULT_BODY).replace(b"2675", b"2676"), id="wrong-crc"),
        pytest.param(sealed(RESULT_BODY)[:-10] + sealed(RESULT_BODY)[-10:].upper(), id="crc-in-upper-case"),
        pytest.param(sealed(RESULT_BODY)[:-1] + b',"x":1}', id="crc-not-last"),
        pytest.param(sealed(RESULT_BODY) + b"\r", id="carriage-return"),
        pytest.param(sealed(b'{"type":"result","run_id":"\xff"'), id="not-utf-8"),
        pytest.param(sealed(b'{"type":"result" "run_id"'), id="not-json"),
        pytest.param(sealed(b'{"type":"other" 1'), id="unknown-type-not-json"),
        pytest.param(sealed('{"type":"other","x":' + "[" * 100_000), id="nested-too-deep"),
        pytest.param(sealed('{"type":"other","x":"' + "x" * MAX_LINE_BYTES + '"'), id="too-long"),
    ],
)
def test_bad_line_is_none(line: bytes) -> None:
    """What is not sealed JSON is bad, quietly: the file's reader knows what that means."""
    assert decode(line) is None


def test_unknown_type_is_ignored_and_unknown_fields_too() -> None:
    """A later version may add both without raising v."""
    assert decode(sealed('{"type":"note","text":"x"')) == UnknownRecord("note")
    assert decode(sealed(SKIP_BODY + ',"new":{"a":[1]}')) == decode(sealed(SKIP_BODY))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(RUN_BODY.replace('"v":1', '"v":2'), id="higher-v"),
        pytest.param(
            RUN_BODY.replace('"v":1', '"v":2').replace('"pid":7', '"pid":"7"'), id="higher-v-other-shape"
        ),
        pytest.param(RESULT_BODY.replace('"reason":"canceled"', '"reason":"voided"'), id="unknown-reason"),
        pytest.param('{"type":"end"', id="fields-missing"),
        pytest.param('{"type":5', id="type-not-text"),
        pytest.param('{"kind":"run"', id="no-type"),
    ],
)
def test_sealed_line_of_another_format_is_refused_not_damaged(body: str) -> None:
    """A sealed line that can't be understood is somebody's work: refuse it, never cut it."""
    with pytest.raises(LedgerMismatchError, match="written by a newer version"):
        decode(sealed(body))


def test_text_that_is_no_unicode_becomes_question_marks() -> None:
    """A file name of foreign bytes must not stop a run, and the line stays readable."""
    line = encode_result(
        "r1",
        Result(
            row=1,
            file="caf\udce9.csv",
            invoice_id="1",
            outcome=Outcome.ERROR,
            reason=Reason.NETWORK,
            resolved_by=None,
            at="t",
            message="ü",
        ),
    )
    record = decode(line[:-1])
    assert isinstance(record, ResultRecord)
    assert (record.file, record.message, record.reason) == ("caf?.csv", "ü", Reason.NETWORK)
    assert list(json.loads(line))[:4] == ["type", "run_id", "row", "file"]


@pytest.mark.parametrize(
    "encode",
    [
        pytest.param(
            lambda text: encode_skip("r", Skip(row=1, invoice_id=text, why=SkipReason.EXCLUDED)), id="skip"
        ),
        pytest.param(
            lambda text: encode_end(
                EndRecord(run_id="r", ended_at="t", state=RunState.STOPPED, why=text, counts={}, sha256="")
            ),
            id="end",
        ),
    ],
)
def test_longest_line_is_readable_and_a_longer_one_is_refused(encode: Callable[[str], bytes]) -> None:
    """The writer never writes a line that a reader would call bad for its length."""
    longest = MAX_LINE_BYTES - (len(encode("")) - 1)
    assert decode(encode("x" * longest)[:-1]) is not None
    with pytest.raises(LedgerWriteError, match="Keep fewer or shorter columns"):
        encode("x" * (longest + 1))


def test_timestamp_is_utc_with_milliseconds() -> None:
    """Whatever its zone, a moment is written in UTC with a Z."""
    moment = datetime(2026, 11, 22, 1, 2, 3, 4567, tzinfo=timezone(timedelta(hours=2)))
    assert utc_text(moment) == "2026-11-21T23:02:03.004Z"
    assert utc_text(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000Z"
