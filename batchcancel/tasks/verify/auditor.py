"""Whether a ledger keeps its promise: its lines in, findings and notes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import sha256

from batchcancel.ledger.reader import Line, digest_of
from batchcancel.ledger.record import EndRecord, Record, ResultRecord, RunRecord, SkipRecord
from batchcancel.model import Reason, RunState
from batchcancel.tasks.verify.answers import Answers, Compared
from batchcancel.tasks.verify.findings import MAX_LISTED, Audit, Finding, FindingKind, NoteKind, shown
from batchcancel.tasks.verify.runs import Run, unaccounted


class Auditor:
    """Takes a ledger's lines in their order; ``close`` tells what they come to.

    Memory is what ``Answers`` takes, a few numbers for each run, and ``MAX_LISTED`` findings.
    """

    def __init__(self, answers: Answers) -> None:
        """Begin before the first line.

        Args:
            answers: Takes the result rows; ``close`` is told what they come to.
        """
        self._answers = answers
        self._size_bytes = self._lines = self._results = self._skips = 0
        self._sha256 = sha256()
        self._digests_hold = True
        self._unchecked: Line | None = None
        self._unchecked_count = 0
        self._first_run: RunRecord | None = None
        self._has_good_line = False
        self._runs: dict[str, Run] = {}
        self._run: Run | None = None
        self._bad: Line | None = None  # the first of the bad lines that no good one has followed yet
        self._bad_lines = 0
        self._findings: list[Finding] = []
        self._finding_count = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all lines so far."""
        return self._size_bytes

    @property
    def has_good_line(self) -> bool:
        """Whether any line was good; a file without one may be somebody else's."""
        return self._has_good_line

    @property
    def ends_with_an_end(self) -> bool:
        """Whether the last run is complete, so that it does not matter whether a run is at work."""
        return self._bad is None and self._run is not None and self._run.state is not None

    def take(self, line: Line, record: Record | None, *, is_marked: bool = False) -> None:
        """Take the next line.

        Args:
            line: The line.
            record: What it says; None if it is bad.
            is_marked: Of a result row, for those who compare the answers later.
        """
        self._size_bytes += line.size_bytes
        self._lines += 1
        if record is None:
            self._bad = self._bad or _place(line)
            self._bad_lines += 1
            return
        self._judge_bad_lines()
        if not self._has_good_line and not isinstance(record, RunRecord):
            self._find(
                FindingKind.BEGINNING, line, "The first whole line is no run record: the beginning is lost."
            )
        self._has_good_line = True
        match record:
            case RunRecord():
                self._begin_run(line, record)
            case ResultRecord():
                self._take_result(line, record, is_marked=is_marked)
            case SkipRecord():
                self._skips += 1
                self._run_of(line, record.run_id).note(record)
            case EndRecord():
                self._end_run(line, record)
        self._sha256.update(line.data + b"\n")

    def close(
        self, compared: Compared, rows: Mapping[int, tuple[Line, ResultRecord]], *, is_held: bool
    ) -> Audit:
        """Sum up, once, after the last line.

        Args:
            compared: What the answers come to.
            rows: The repeated ones among the result rows, by number, read once more.
            is_held: Whether a run is at work, so that its last line and its end are still to come.
        """
        repeated = [_repetition(*rows[one.number], one.earlier) for one in compared.repeated]
        if self._bad_lines > 1 and not self._has_good_line:
            # A crash in the very first write leaves one line at most.
            self._judge_bad_lines()
        states = Counter("no_end" if run.state is None else run.state.value for run in self._runs.values())
        return Audit(
            size_bytes=self._size_bytes,
            lines=self._lines,
            env=self._first_run.env if self._first_run else None,
            merchant_id=self._first_run.merchant_id if self._first_run else None,
            runs={state: states[state] for state in (*RunState, "no_end")},
            results=self._results,
            skips=self._skips,
            reasons=compared.reasons,
            findings=tuple(sorted([*self._findings, *repeated], key=lambda one: one.line)[:MAX_LISTED]),
            finding_count=self._finding_count + compared.repeated_count,
            notes=tuple(self._closing_notes(is_held=is_held)),
        )

    # --- lines ------------------------------------------------------------------------------------

    def _judge_bad_lines(self) -> None:
        """Take the bad lines so far, which are no tail, for the damage that they are."""
        if self._bad is None:
            return
        what = "This line is" if self._bad_lines == 1 else f"{self._bad_lines:,} lines from here on are"
        self._find(FindingKind.DAMAGED, self._bad, f"{what} damaged.")
        # No program wrote an end record over bad lines: every later digest covers other bytes.
        self._digests_hold = False
        if self._run is not None:
            self._run.is_whole = False
        self._bad, self._bad_lines = None, 0

    def _begin_run(self, line: Line, record: RunRecord) -> None:
        first = self._first_run = self._first_run or record
        if (record.env, record.merchant_id) != (first.env, first.merchant_id):
            self._find(
                FindingKind.ACCOUNT, line, "This run is of another environment or merchant than the first."
            )
        if record.run_id in self._runs:
            self._find(FindingKind.REPEATED_RUN, line, f"Run {shown(record.run_id)} begins a second time.")
        self._run = self._runs[record.run_id] = Run(record.run_id, _place(line))
        self._answers.begin_run()

    def _run_of(self, line: Line, run_id: str) -> Run:
        """Return the run that a line belongs to, which has to be the one that is under way."""
        run = self._runs.get(run_id)
        if run is None:
            self._find(
                FindingKind.UNKNOWN_RUN,
                line,
                f"Run {shown(run_id)} writes from here on, and no line before says that it began.",
            )
            run = self._runs[run_id] = Run(run_id, _place(line), is_whole=False)
            self._answers.begin_run()
        elif run is not self._run:
            self._find(
                FindingKind.INTERLEAVED,
                line,
                f"Run {shown(run_id)} writes on from here although another run began after it.",
            )
        elif run.state is not None:
            self._find(
                FindingKind.AFTER_END, line, f"Run {shown(run_id)} writes on from here after its own end."
            )
        self._run = run
        return run

    def _take_result(self, line: Line, record: ResultRecord, *, is_marked: bool) -> None:
        self._results += 1
        self._run_of(line, record.run_id).note(record)
        if record.outcome is not record.reason.outcome:
            self._find(
                FindingKind.OUTCOME,
                line,
                f"The reason {record.reason} belongs to {record.reason.outcome}, not to {record.outcome}.",
            )
        self._answers.add(digest_of(record), record.reason, is_marked=is_marked)

    # --- ends -------------------------------------------------------------------------------------

    def _end_run(self, line: Line, record: EndRecord) -> None:
        run = self._run_of(line, record.run_id)
        run.state = record.state
        self._check_digest(line, record)
        if wrong := run.wrong_counts(record.counts):
            self._find(FindingKind.COUNTS, line, wrong)
        if missing := unaccounted(record.counts):
            self._find(FindingKind.CONSERVATION, line, missing)

    def _check_digest(self, line: Line, record: EndRecord) -> None:
        if not self._digests_hold:
            self._unchecked = self._unchecked or _place(line)
            self._unchecked_count += 1
        elif record.sha256 != self._sha256.hexdigest():
            self._find(
                FindingKind.DIGEST,
                line,
                "The sha256 of this end record is not that of the bytes before it: "
                "a whole line was removed, added or replaced.",
            )
            self._digests_hold = False

    # --- findings and notes -----------------------------------------------------------------------

    def _find(self, kind: FindingKind, line: Line, text: str) -> None:
        self._finding_count += 1
        if len(self._findings) < MAX_LISTED:
            self._findings.append(_finding(kind, line, text))

    def _closing_notes(self, *, is_held: bool) -> Iterator[Finding]:
        start = Line(1, 0, 0, b"", whole=False)
        if not self._lines:
            yield _finding(NoteKind.EMPTY, start, "The ledger is empty: no run has begun in it.")
        for run in self._runs.values():
            if run.state is None and not (is_held and run is self._run):
                yield _finding(NoteKind.NO_END, run.line, run.why_no_end())
        if self._unchecked is not None:
            yield _finding(
                NoteKind.UNCHECKED,
                self._unchecked,
                f"From here on, {self._unchecked_count:,} end records cover bytes that have changed: "
                "their sha256 says nothing any more.",
            )
        if is_held:
            yield _finding(
                NoteKind.IN_USE,
                self._run.line if self._run else start,
                "A run is writing to the ledger: its end is still to come. Verify again when it has ended.",
            )
        if self._bad is not None:
            size_bytes = self._size_bytes - self._bad.offset
            yield _finding(NoteKind.TAIL, self._bad, _tail(size_bytes, is_held=is_held))


def _finding(kind: FindingKind | NoteKind, line: Line, text: str) -> Finding:
    return Finding(kind=kind, line=line.number, offset=line.offset, text=text)


def _repetition(line: Line, record: ResultRecord, earlier: Reason) -> Finding:
    return _finding(
        FindingKind.ANSWERED_TWICE,
        line,
        f"Invoice {shown(record.invoice_id)} has its final answer already, {earlier}; "
        f"this row says {record.reason}.",
    )


def _place(line: Line) -> Line:
    """Keep where a line is, not its bytes."""
    return Line(line.number, line.offset, line.size_bytes, b"", line.whole)


def _tail(size_bytes: int, *, is_held: bool) -> str:
    if is_held:
        return f"The last {size_bytes:,} bytes are no whole line yet."
    return (
        f"The last {size_bytes:,} bytes are no whole line, as a crash leaves them. The next run cuts them "
        "off, keeps them in LEDGER.torn, and asks again what they were about."
    )
