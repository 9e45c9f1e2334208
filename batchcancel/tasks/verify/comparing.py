"""The rows of manifests against a ledger's answers: which have one, and what contradicts which.

Memory is what ``buckets`` holds, and ``MAX_LISTED`` numbers of each kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from batchcancel.buckets import BUCKETS
from batchcancel.errors import ConservationError
from batchcancel.ledger.reader import Line, ResultRecord
from batchcancel.manifest import ManifestFile
from batchcancel.model import Reason, invoice_key, key_digest
from batchcancel.tasks.verify.answers import Answers, First, open_buckets, room_for_comparing
from batchcancel.tasks.verify.coverage import Coverage, Disagreement, DisagreementKind, OpenRow
from batchcancel.tasks.verify.findings import MAX_LISTED, number, shown
from batchcancel.tasks.verify.manifests import Row
from batchcancel.tasks.verify.runs_over import RunsOver


class Comparing:
    """Holds the rows of manifests against a ledger's answers, bucket by bucket."""

    def __init__(self, runs: RunsOver, answers: Answers) -> None:
        """Begin before the first row.

        Args:
            runs: What the runs over the manifests say.
            answers: Of the whole ledger; those of these runs are marked.
        """
        self._runs = runs
        self._answers = answers
        self._rows = open_buckets()
        self._row_count = 0
        self._answered: Counter[Reason] = Counter()
        self._invalid = self._duplicates = self._excluded = self._unanswered = 0
        self._open_errors: Counter[Reason] = Counter()
        self._skip_holds = bytearray(len(runs.skip_lines))
        self.open: First[Reason | None] = First()
        """By the number of their row, from 0 through all manifests, those without a final answer."""
        self.strangers: First[None] = First()
        """By their number among the ledger's result rows, those of invoices that are not there."""

    def add(self, row: Row) -> None:
        """Take the next row.

        Raises:
            UsageError: There is no room for temporary files.
        """
        record = row.record
        key = invoice_key(record.text, valid=record.valid, merchant_id=record.merchant_id)
        with room_for_comparing():
            self._rows.add(key_digest(key), self._row_count)
        self._row_count += 1

    def compare(self) -> None:
        """Compare, once, after the last row.

        Raises:
            UsageError: Temporary files can't be read.
        """
        with room_for_comparing():
            for bucket in range(BUCKETS):
                self._compare(bucket)

    def sum_up(
        self,
        files: tuple[ManifestFile, ...],
        rows: Mapping[int, Row],
        strangers: Mapping[int, tuple[Line, ResultRecord]],
    ) -> Coverage:
        """Sum up, once everything was compared.

        Args:
            files: What was read.
            rows: Those that ``open`` numbers, read once more.
            strangers: Those that ``strangers`` numbers, likewise.

        Raises:
            ConservationError: The rows do not add up: a defect.
        """
        open_rows = tuple(_open_row(files, rows[one], reason) for one, reason in self.open.items())
        changed, miscounted = self._changed(files), self._miscounted(files)
        found = [*changed, *miscounted, *self._unheld_skips()]
        found += [_stranger(*strangers[one]) for one, _ in self.strangers.items()]
        count = len(changed) + len(miscounted) + self._skip_holds.count(0) + self.strangers.count
        if self._is_all_answered:
            found += [_no_row(one) for one in open_rows if one.reason is None]
            count += self._unanswered
        coverage = Coverage(
            files=files,
            runs=len(self._runs.over),
            complete_runs=len(self._runs.ends),
            rows=self._row_count,
            answered={reason: self._answered[reason] for reason in Reason if self._answered[reason]},
            invalid=self._invalid,
            duplicates=self._duplicates,
            excluded=self._excluded,
            open_errors={reason: self._open_errors[reason] for reason in Reason if self._open_errors[reason]},
            unanswered=self._unanswered,
            open_rows=open_rows,
            disagreements=tuple(found),
            disagreement_count=count,
        )
        accounted = sum(coverage.answered.values()) + self._invalid + self._duplicates + self._excluded
        if accounted + coverage.open != coverage.rows:
            raise ConservationError(f"The manifest's rows do not add up, which is a defect: {coverage.rows}.")
        return coverage

    def close(self) -> None:
        """Give file and memory back."""
        self._rows.close()

    # --- one bucket ---------------------------------------------------------------------------

    def _compare(self, bucket: int) -> None:
        first: dict[bytes, int] = {}
        repeated: set[bytes] = set()
        for digest, row in self._rows.read(bucket):
            if digest in first:
                self._duplicates += 1
                repeated.add(digest)
            else:
                first[digest] = row
        latest: dict[bytes, Reason] = {}
        for digest, place, reason, is_over in self._answers.of_bucket(bucket):
            if digest in first:
                latest[digest] = reason
            elif is_over:
                self.strangers.add(place, None)
        excluded: set[bytes] = set()
        for digest, word in self._runs.skips.read(bucket):
            skip, is_duplicate = divmod(word, 2)
            if digest in (repeated if is_duplicate else first):
                self._skip_holds[skip] = True
                if not is_duplicate:
                    excluded.add(digest)
        for digest, row in first.items():
            self._classify(row, latest.get(digest), is_excluded=digest in excluded)

    def _classify(self, row: int, reason: Reason | None, *, is_excluded: bool) -> None:
        if reason is None and is_excluded:
            self._excluded += 1
        elif reason is None:
            self._unanswered += 1
            self.open.add(row, None)
        elif reason is Reason.INVALID_ID:
            self._invalid += 1
        elif reason.is_final:
            self._answered[reason] += 1
        else:
            self._open_errors[reason] += 1
            self.open.add(row, reason)

    # --- what contradicts ---------------------------------------------------------------------

    @property
    def _is_all_answered(self) -> bool:
        """Whether a complete run over the manifests says that it left nothing open."""
        return any(not counts.get("open", 0) for _, counts in self._runs.ends)

    def _changed(self, files: tuple[ManifestFile, ...]) -> list[Disagreement]:
        if self._runs.over:
            return []
        names = shown(", ".join(file.path for file in files))
        text = f"No run of this ledger read {names} as it is now: it changed since, or it is another one."
        if len(files) > 1:
            text += " Several manifests have to be named in the order in which their run read them."
        return [Disagreement(kind=DisagreementKind.CHANGED, text=text)]

    def _miscounted(self, files: tuple[ManifestFile, ...]) -> list[Disagreement]:
        wrong = [
            (line, f"has {number(one.rows)} rows of {shown(file.path)}, which has {file.rows:,}")
            for line, run in self._runs.over
            for one, file in zip(run.manifest, files, strict=True)
            if one.rows != file.rows
        ]
        there = {"rows": self._row_count, "duplicates": self._duplicates}
        wrong += [
            (line, f"counts {number(counts.get(name, 0))} {name}; the manifest has {count:,}")
            for line, counts in self._runs.ends
            for name, count in there.items()
            if counts.get(name, 0) != count
        ]
        return [
            Disagreement(kind=DisagreementKind.COUNTS, line=line, text=f"This run {what}.")
            for line, what in wrong
        ]

    def _unheld_skips(self) -> list[Disagreement]:
        lines = [
            line for line, holds in zip(self._runs.skip_lines, self._skip_holds, strict=True) if not holds
        ]
        text = "This row was skipped as a duplicate or as excluded, and the manifest has none like that."
        return [Disagreement(kind=DisagreementKind.SKIP, line=line, text=text) for line in lines[:MAX_LISTED]]


def _stranger(line: Line, record: ResultRecord) -> Disagreement:
    return Disagreement(
        kind=DisagreementKind.STRANGER,
        line=line.number,
        text=f"Invoice {shown(record.invoice_id)} is not in the manifest of the run that wrote this row.",
    )


def _no_row(one: OpenRow) -> Disagreement:
    return Disagreement(
        kind=DisagreementKind.NO_ROW,
        file=one.file,
        row=one.row,
        text=f"Invoice {one.invoice_id} has no row, though a run over the manifest left nothing open.",
    )


def _open_row(files: tuple[ManifestFile, ...], row: Row, reason: Reason | None) -> OpenRow:
    record = row.record
    return OpenRow(
        file=shown(files[row.file].path),
        row=row.row,
        invoice_id=shown(record.text),
        merchant_id=None if record.merchant_id is None else shown(record.merchant_id),
        reason=reason,
    )
