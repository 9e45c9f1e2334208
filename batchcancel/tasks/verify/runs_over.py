"""What a ledger's runs over some manifests say of them."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Final

from batchcancel.ledger.reader import EndRecord, Line, Record, ResultRecord, RunRecord, SkipRecord
from batchcancel.model import RunState, SkipReason, invoice_key, key_digest
from batchcancel.tasks.verify.answers import open_buckets, room_for_comparing


class RunsOver:
    """Collects it, record by record.

    Memory is what ``buckets`` holds, and nine bytes for each row that such runs skipped.
    """

    def __init__(self, digests: tuple[str, ...]) -> None:
        """Begin before the first record.

        Args:
            digests: Of the manifests, in hex.
        """
        self._digests = digests
        self._ids: set[str] = set()
        self._like: RunRecord | None = None
        self._latest: RunRecord | None = None
        self.over: list[tuple[int, RunRecord]] = []
        """Line and record of each run over the manifests."""
        self.ends: list[tuple[int, Mapping[str, int]]] = []
        """Line and counts of the end of each that was complete."""
        self.skips = open_buckets()
        """By digest, twice a skipped row's number, and one more for a duplicate."""
        self.skip_lines: Final = array("Q")
        """The line of each skipped row."""

    @property
    def model(self) -> RunRecord | None:
        """The run whose way of reading is followed: over them, or one of them, or else the latest."""
        return self.over[-1][1] if self.over else self._like or self._latest

    def note(self, line: Line, record: Record) -> bool:
        """Take the next record; tell whether it is of a run over the manifests.

        Raises:
            UsageError: There is no room for temporary files.
        """
        match record:
            case RunRecord():
                self._note_run(line, record)
            case SkipRecord() if record.run_id in self._ids:
                self._note_skip(line, record)
            case EndRecord() if record.run_id in self._ids and record.state is RunState.COMPLETE:
                self.ends.append((line.number, record.counts))
        return isinstance(record, ResultRecord | SkipRecord | EndRecord) and record.run_id in self._ids

    def close(self) -> None:
        """Give file and memory back."""
        self.skips.close()

    def _note_run(self, line: Line, record: RunRecord) -> None:
        digests = tuple(one.sha256 for one in record.manifest)
        self._latest = record
        if digests == self._digests:
            self._ids.add(record.run_id)
            self.over.append((line.number, record))
        elif set(digests) & set(self._digests):
            self._like = record

    def _note_skip(self, line: Line, record: SkipRecord) -> None:
        """Add a skipped row; of a duplicate it is not known whether its text is a valid id."""
        is_duplicate = record.why is SkipReason.DUPLICATE
        word = 2 * len(self.skip_lines) + is_duplicate
        self.skip_lines.append(line.number)
        with room_for_comparing():
            for valid in (True, False) if is_duplicate else (True,):
                key = invoice_key(record.invoice_id, valid=valid, merchant_id=record.merchant_id or None)
                self.skips.add(key_digest(key), word)
