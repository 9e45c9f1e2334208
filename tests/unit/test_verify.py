"""The audit of a ledger: what breaks the promise, what is only worth a note, and where each is."""

from __future__ import annotations

import errno
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256

import msgspec
import pytest

from batchcancel import buckets
from batchcancel.errors import LedgerFaultError, UsageError
from batchcancel.ledger.reader import Line
from batchcancel.ledger.record import (
    EndRecord,
    Record,
    RunRecord,
    decode,
    encode_end,
    encode_result,
    encode_run,
    encode_skip,
)
from batchcancel.model import Outcome, Reason, Result, RunState, Skip
from batchcancel.tasks.verify import Audit, FindingKind, NoteKind
from batchcancel.tasks.verify.answers import Answers
from batchcancel.tasks.verify.audit import result_rows
from batchcancel.tasks.verify.auditor import Auditor
from batchcancel.tasks.verify.findings import MAX_LISTED, number, shown

RUN = RunRecord(
    run_id="r1",
    started_at="t",
    version="0",
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
UNKNOWN_TYPE = b'{"type":"later","crc":"7057cb19"}\n'


class Writer:
    """Builds a ledger as runs write it, and with whatever is to be wrong."""

    def __init__(self) -> None:
        self.data = b""
        self.run_id = ""
        self.rows: Counter[str] = Counter()

    def add(self, data: bytes) -> Writer:
        self.data += data
        return self

    def run(self, run_id: str = "r1", *, env: str = "test", merchant_id: str = "m1") -> Writer:
        self.run_id, self.rows = run_id, Counter()
        return self.add(
            encode_run(msgspec.structs.replace(RUN, run_id=run_id, env=env, merchant_id=merchant_id))
        )

    def row(self, invoice_id: str, reason: Reason = Reason.CANCELED, **other: str) -> Writer:
        outcome = Outcome(other.get("outcome", reason.outcome))
        self.rows[outcome] += 1
        result = Result(
            row=1, invoice_id=invoice_id, outcome=outcome, reason=reason, resolved_by=None, at="t"
        )
        return self.add(encode_result(other.get("run_id", self.run_id), result))

    def skip(self, why: str = "duplicate", **other: str) -> Writer:
        self.rows["duplicates" if why == "duplicate" else why] += 1
        skip = msgspec.convert({"row": 9, "invoice_id": "1", "why": why, "of_row": 1}, Skip)
        return self.add(encode_skip(other.get("run_id", self.run_id), skip))

    def end(self, *, run_id: str | None = None, digest_of: bytes | None = None, **counts: int) -> Writer:
        written = {"rows": self.rows.total(), **self.rows, **counts}
        data = self.data if digest_of is None else digest_of
        return self.add(
            encode_end(
                EndRecord(
                    run_id=run_id or self.run_id,
                    ended_at="t",
                    state=RunState.COMPLETE,
                    counts=written,
                    sha256=sha256(data).hexdigest(),
                )
            )
        )


def new() -> Writer:
    """Begin a ledger."""
    return Writer()


def audit(ledger: Writer | bytes, *, is_held: bool = False) -> Audit:
    """Audit a ledger's bytes."""
    data = ledger if isinstance(ledger, bytes) else ledger.data
    with closing(Answers()) as answers:
        auditor = Auditor(answers)
        for line, record in lines_of(data):
            auditor.take(line, record)
        compared = answers.compare()
        rows = result_rows(lines_of(data), {one.number for one in compared.repeated})
        return auditor.close(compared, rows, is_held=is_held)


def lines_of(data: bytes) -> Iterator[tuple[Line, Record | None]]:
    """Cut a ledger's bytes into its lines."""
    offset = 0
    for number_, piece in enumerate(data.split(b"\n"), start=1):
        whole = offset + len(piece) < len(data)
        if piece or whole:
            line = Line(number_, offset, len(piece) + whole, piece, whole)
            yield line, decode(piece) if whole else None
        offset += len(piece) + 1


def found(audited: Audit) -> list[tuple[str, int]]:
    """Name the kind and the line of every finding."""
    return [(finding.kind.value, finding.line) for finding in audited.findings]


def noted(audited: Audit) -> list[tuple[str, int]]:
    """Name the kind and the line of every note."""
    return [(note.kind.value, note.line) for note in audited.notes]


SOUND = new().run().row("1").row("2", Reason.NETWORK).row("3", Reason.NOT_FOUND).skip().end()
SOUND.run("r2").row("2", Reason.PAID).end(settled_earlier=2, rows=3)


def test_a_sound_ledger_has_neither_findings_nor_notes() -> None:
    """Runs, rows and invoices are counted, an invoice by its latest row."""
    audited = audit(SOUND)
    assert audited.is_sound
    assert (audited.findings, audited.notes) == ((), ())
    assert (audited.env, audited.merchant_id) == ("test", "m1")
    assert audited.runs == {"complete": 2, "stopped": 0, "interrupted": 0, "no_end": 0}
    assert (audited.lines, audited.results, audited.skips) == (9, 4, 1)
    assert audited.size_bytes == len(SOUND.data)
    assert audited.reasons == {Reason.CANCELED: 1, Reason.PAID: 1, Reason.NOT_FOUND: 1}


@pytest.mark.parametrize(
    ("ledger", "expected"),
    [
        pytest.param(new().run().add(b"x\n").row("1"), [("damaged", 2)], id="a bad line"),
        pytest.param(new().run().add(b"x\ny\n\n").row("1"), [("damaged", 2)], id="bad lines side by side"),
        pytest.param(
            new().run().add(b"x\n").row("1").add(b"y\n").row("2"),
            [("damaged", 2), ("damaged", 4)],
            id="bad lines apart",
        ),
        pytest.param(b"x\n" + new().run().row("1").data, [("damaged", 1)], id="a bad first line"),
        pytest.param(b"x\ny\n", [("damaged", 1)], id="no good line at all"),
        pytest.param(
            new().row("1", run_id="r1").run("r2").end(),
            [("beginning", 1), ("unknown_run", 1)],
            id="the first line is gone",
        ),
        pytest.param(new().add(UNKNOWN_TYPE).run(), [("beginning", 1)], id="begins with an unknown type"),
        pytest.param(new().run().run("r2", env="production"), [("account", 2)], id="another environment"),
        pytest.param(new().run().run("r2", merchant_id="m2"), [("account", 2)], id="another merchant"),
        pytest.param(
            new().run().row("1").row("2", run_id="r9").row("3", run_id="r9"),
            [("unknown_run", 3)],
            id="rows of an unknown run",
        ),
        pytest.param(new().run().skip(run_id="r9"), [("unknown_run", 2)], id="a skip of an unknown run"),
        pytest.param(new().run().end(run_id="r9"), [("unknown_run", 2)], id="an end of an unknown run"),
        pytest.param(new().run().end().run("r1").end(), [("repeated_run", 3)], id="a run that begins twice"),
        pytest.param(
            new().run().run("r2").row("1", run_id="r1").row("2", run_id="r2"),
            [("interleaved", 3), ("interleaved", 4)],
            id="two runs interleaved",
        ),
        pytest.param(new().run().run("r2").end(run_id="r1"), [("interleaved", 3)], id="an end too late"),
        pytest.param(new().run().end().row("1"), [("after_end", 3)], id="a row after the end"),
        pytest.param(new().run().row("1").end().end(), [("after_end", 4)], id="a second end"),
        pytest.param(new().run().end(digest_of=b""), [("digest", 2)], id="a digest of other bytes"),
        pytest.param(new().run().row("1").end(canceled=2, rows=2), [("counts", 3)], id="a row missing"),
        pytest.param(
            new().run().row("1", Reason.PAID).end(canceled=1, already_paid=0), [("counts", 3)], id="swapped"
        ),
        pytest.param(new().run().skip().end(duplicates=0, open=1), [("counts", 3)], id="a skip not counted"),
        pytest.param(
            new().run().skip("excluded").end(excluded=2, rows=2), [("counts", 3)], id="excluded otherwise"
        ),
        pytest.param(new().run().row("1").end(rows=2), [("conservation", 3)], id="a row not accounted for"),
        pytest.param(new().run().end(open=1), [("conservation", 2)], id="a row too many"),
        pytest.param(
            new().run().row("1", Reason.PAID, outcome="canceled").end(),
            [("outcome", 2)],
            id="an outcome of another reason",
        ),
    ],
)
def test_what_breaks_the_promise_is_found_where_it_is(
    ledger: Writer | bytes, expected: list[tuple[str, int]]
) -> None:
    """Each kind of finding, alone, with its line and that line's offset."""
    audited = audit(ledger)
    assert found(audited) == expected
    assert not audited.is_sound
    data = ledger if isinstance(ledger, bytes) else ledger.data
    starts = [0, *(index + 1 for index, byte in enumerate(data) if byte == 0x0A)]
    assert [finding.offset for finding in audited.findings] == [starts[line - 1] for _, line in expected]


@pytest.mark.parametrize("later", [Reason.CANCELED, Reason.UNKNOWN], ids=["final", "open"])
@pytest.mark.parametrize("first", [pytest.param(reason, id=reason.value) for reason in Reason])
@pytest.mark.parametrize("by_another_run", [True, False], ids=["later run", "same run"])
def test_a_final_answer_stays_the_only_one(first: Reason, later: Reason, *, by_another_run: bool) -> None:
    """An open error may be followed; a final one only by another run (--retry-errors all); others never."""
    ledger = new().run().row("007", first)
    if by_another_run:
        ledger.end().run("r2")
    line = ledger.data.count(b"\n") + 1
    # The text of an invalid id may be that of a valid one, and is still another invoice.
    may_follow = not first.is_final or first is Reason.INVALID_ID
    may_follow |= by_another_run and first.outcome is Outcome.ERROR
    assert found(audit(ledger.row("007", later))) == ([] if may_follow else [("answered_twice", line)])


def test_an_invalid_id_is_answered_once_in_a_run() -> None:
    """Two rows of the same unusable text are one invoice and its duplicate."""
    ledger = new().run().row("a b", Reason.INVALID_ID).row("a b", Reason.INVALID_ID)
    assert found(audit(ledger)) == [("answered_twice", 3)]


def test_a_fourth_row_is_compared_with_the_latest() -> None:
    """Asked again and again while it was open, then once more although it was answered."""
    ledger = new().run().row("1", Reason.UNKNOWN).end().run("r2").row("1", Reason.PENDING).end()
    ledger.run("r3").row("1", Reason.PAID).end()
    assert audit(ledger).is_sound
    assert found(audit(ledger.run("r4").row("1", Reason.PAID).end())) == [("answered_twice", 11)]


# --- lines that were changed, lost or added -------------------------------------------------------


def test_a_line_removed_without_trace_is_found_by_digest_and_counts() -> None:
    """Every line left is sealed by its own crc; the end record tells that one is missing."""
    lines = SOUND.data.splitlines(keepends=True)
    audited = audit(b"".join([*lines[:1], *lines[2:]]))
    assert found(audited) == [("digest", 5), ("counts", 5)]
    assert noted(audited) == [("unchecked", 8)]


def test_one_damaged_line_is_one_finding() -> None:
    """Digests over it and counts of its run say nothing new; the later run's counts are still checked."""
    lines = SOUND.data.splitlines(keepends=True)
    damaged = b"".join([lines[0], b"x" + lines[1][1:], *lines[2:]])
    assert found(audit(damaged)) == [("damaged", 2)]
    assert noted(audit(damaged)) == [("unchecked", 6)]
    wrong = new().run().add(b"x\n").end().run("r2").end(canceled=1, rows=1)
    assert found(audit(wrong)) == [("damaged", 2), ("counts", 5)]


def test_a_lost_run_record_is_told_once() -> None:
    """Its rows belong to nobody, which is one finding and not one a row; their counts are not compared."""
    lines = SOUND.data.splitlines(keepends=True)
    audited = audit(b"".join([*lines[:6], b"x\n", *lines[7:]]))
    assert found(audited) == [("damaged", 7), ("unknown_run", 8)]
    assert audited.runs["complete"] == 2


# --- notes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ledger", "is_held", "expected"),
    [
        pytest.param(b"", False, [("empty", 1)], id="empty"),
        pytest.param(b"", True, [("empty", 1), ("in_use", 1)], id="empty and held"),
        pytest.param(b'{"type":"r', False, [("tail", 1)], id="torn first line"),
        pytest.param(new().run().row("1"), False, [("no_end", 1)], id="killed"),
        pytest.param(new().run().row("1"), True, [("in_use", 1)], id="at work"),
        pytest.param(
            new().run().end().run("r2").row("1").add(b'{"typ'),
            True,
            [("in_use", 3), ("tail", 5)],
            id="writing",
        ),
        pytest.param(
            new().run().row("1").run("r2").end(), False, [("no_end", 1)], id="killed, then another run"
        ),
        pytest.param(
            new().run().row("1").run("r2"), True, [("no_end", 1), ("in_use", 3)], id="killed, another at work"
        ),
        pytest.param(new().run().end().add(b"x\ny\nz"), False, [("tail", 3)], id="bad lines to the end"),
        pytest.param(new().run().end().add(new().run("r2").data[:-1]), False, [("tail", 3)], id="no newline"),
    ],
)
def test_what_a_crash_or_a_run_leaves_is_a_note(
    ledger: Writer | bytes,
    *,
    is_held: bool,
    expected: list[tuple[str, int]],
) -> None:
    """The next run cuts a tail and asks again, so nothing is broken; where a run is at work that is said."""
    audited = audit(ledger, is_held=is_held)
    assert audited.is_sound
    assert noted(audited) == expected


def test_the_tail_says_who_left_it() -> None:
    """Without a run at work it is what a crash left; with one it is a line on its way."""
    torn = new().run().add(b"xyz")
    crash, writing = audit(torn), audit(torn, is_held=True)
    assert "The last 3 bytes are no whole line, as a crash leaves them." in crash.notes[-1].text
    assert writing.notes[-1].text == "The last 3 bytes are no whole line yet."
    assert crash.notes[-1].offset == len(torn.data) - 3


@pytest.mark.parametrize(
    ("ledger", "sentence"),
    [
        pytest.param(new().run(), "It was killed, or a salvage left its end out", id="whole"),
        pytest.param(new().run().add(b"x\n").run("r2").end(), "among the lost lines", id="lines lost"),
    ],
)
def test_a_run_without_end_says_why(ledger: Writer, sentence: str) -> None:
    """Where lines of it are lost, its end may be one of them."""
    assert sentence in audit(ledger).notes[0].text
    assert audit(ledger).runs["no_end"] == 1


# --- hostile ledgers ------------------------------------------------------------------------------


def test_findings_are_bounded() -> None:
    """A ledger that is wrong on every line is counted to its end and listed at its beginning."""
    ledger = new().run().row("1")
    again = len(ledger.data)
    ledger.row("1")
    audited = audit(ledger.data + ledger.data[again:] * (MAX_LISTED + 6))
    assert (len(audited.findings), audited.finding_count) == (MAX_LISTED, MAX_LISTED + 7)


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda text: new().run().row(text).row(text), id="invoice"),
        pytest.param(lambda text: new().run(text), id="run"),
        pytest.param(lambda text: new().run().row("1", run_id=text), id="unknown run"),
    ],
)
def test_text_of_a_ledger_never_reaches_a_terminal_raw(build: Callable[[str], Writer]) -> None:
    """Whoever seals a line can write anything into it."""
    audited = audit(build("\x1b[2J\x9b\u202e\u2028\x7f\né"))
    texts = [one.text for one in (*audited.findings, *audited.notes)]
    assert texts
    assert all(text.isascii() and text.isprintable() for text in texts)
    assert "\\x1b[2J\\x9b\\u202e\\u2028\\x7f\\x0a\\xe9" in "".join(texts)


def test_long_text_is_cut() -> None:
    """An id of a megabyte would push everything else off the screen."""
    assert len(shown("x" * 10_000)) == 256


def test_absurd_counts_are_a_finding_and_no_crash() -> None:
    """Python refuses to write a number of thousands of digits."""
    absurd = audit(new().run().end(canceled=int("9" * 4300), open=int("9" * 4300)))
    assert found(absurd) == [("counts", 2), ("conservation", 2)]
    assert number(-(10**4000)) == "an absurd number of"
    assert number(12345) == "12,345"


def test_kinds_are_pinned() -> None:
    """Programs read them in the JSON."""
    assert {kind.value for kind in NoteKind} == {"empty", "tail", "no_end", "in_use", "unchecked"}
    assert {kind.value for kind in FindingKind} == {
        "damaged",
        "beginning",
        "account",
        "unknown_run",
        "repeated_run",
        "interleaved",
        "after_end",
        "digest",
        "counts",
        "conservation",
        "answered_twice",
        "outcome",
    }


# --- in little memory -----------------------------------------------------------------------------


@pytest.mark.parametrize("held", [1, 3, 1000])
def test_answers_are_compared_alike_in_memory_and_in_a_file(
    monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    """However many are held: the same counts, findings, and order."""
    ledger = new().run()
    for one in range(40):
        ledger.row(str(one), Reason.PAID if one % 3 else Reason.NOT_FOUND)
    ledger.end().run("r2").row("1").row("0", Reason.PAID).row("9", Reason.NETWORK).row("9", Reason.PAID)
    ledger.row("12", Reason.NOT_FOUND).row("12", Reason.CANCELED).end(rows=46, settled_earlier=40)
    expected = audit(ledger)
    monkeypatch.setattr(buckets, "MAX_HELD", held)
    assert audit(ledger) == expected
    assert found(expected) == [("answered_twice", 44), ("answered_twice", 49)]
    assert expected.reasons == {Reason.CANCELED: 2, Reason.PAID: 27, Reason.NOT_FOUND: 11}


def test_the_first_of_many_repetitions_are_listed_and_all_are_counted() -> None:
    """In the order of the ledger, among the other findings."""
    ledger = new().run()
    for one in range(MAX_LISTED + 500):
        ledger.row(str(one))
    ledger.end().run("r2").add(b"x\n")
    for one in reversed(range(MAX_LISTED + 500)):
        ledger.row(str(one))
    audited = audit(ledger)
    assert audited.finding_count == MAX_LISTED + 501
    first_line = MAX_LISTED + 504
    assert found(audited) == [
        ("damaged", first_line),
        *(("answered_twice", first_line + one) for one in range(1, MAX_LISTED)),
    ]


def test_a_disk_without_room_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit can't be finished, and that is not the ledger's fault."""
    monkeypatch.setattr(buckets, "MAX_HELD", 1)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UsageError, match=r"No space left on device\. Make room there, or .* TMPDIR"):
        audit(SOUND)


def test_rows_that_are_gone_at_the_second_look_are_a_fault() -> None:
    """Somebody shortened the file meanwhile; a run never does."""
    with pytest.raises(LedgerFaultError, match="changed while it was read"):
        result_rows(lines_of(new().run().row("1").data), {1})
