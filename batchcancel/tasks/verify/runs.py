"""What a ledger says of one run, and whether the run's ``end`` agrees with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from batchcancel.ledger.reader import Line
from batchcancel.ledger.record import ResultRecord, SkipRecord
from batchcancel.model import Outcome, RunState
from batchcancel.tasks.verify.findings import number, shown

_SKIPS: Final = {"duplicate": "duplicates", "excluded": "excluded"}
"""What an ``end`` record counts, by the ``why`` of a skip."""
_WRITTEN: Final = (*(outcome.value for outcome in Outcome), *_SKIPS.values())
_ACCOUNTED: Final = (*_WRITTEN, "settled_earlier", "open")


@dataclass(slots=True)
class Run:
    """One run, as far as it was read."""

    run_id: str
    line: Line
    """Where it begins, or where it is first named if its run record is missing; without its bytes."""
    is_whole: bool = True
    """Whether no line within it is lost, so that its rows can be counted."""
    state: RunState | None = None
    """Of its ``end``; None without one."""
    rows: Counter[str] = field(default_factory=Counter)
    """Rows that it wrote, by the names of ``end.counts``."""

    def note(self, record: ResultRecord | SkipRecord) -> None:
        """Count a row of this run."""
        if isinstance(record, ResultRecord):
            self.rows[record.outcome] += 1
        else:
            self.rows[_SKIPS.get(record.why, record.why)] += 1

    def wrong_counts(self, counts: Mapping[str, int]) -> str | None:
        """Say what an ``end`` counts otherwise than the rows that are there; None if nothing.

        Args:
            counts: Of the ``end``; a name that is missing counts as 0.
        """
        if not self.is_whole:
            return None
        wrong = [
            f"{number(counts.get(name, 0))} {name} where the ledger has {self.rows[name]:,}"
            for name in _WRITTEN
            if counts.get(name, 0) != self.rows[name]
        ]
        return f"This end record counts {', '.join(wrong)}." if wrong else None

    def why_no_end(self) -> str:
        """Say what it means that this run has no ``end``."""
        why = (
            "It was killed, or a salvage left its end out"
            if self.is_whole
            else "It was killed, or its end is among the lost lines"
        )
        return f"Run {shown(self.run_id)} has no end record. {why}; its rows count."


def unaccounted(counts: Mapping[str, int]) -> str | None:
    """Say how an ``end`` fails to account for every row of its manifest; None if it does not fail.

    Args:
        counts: Of the ``end``; a name that is missing counts as 0.
    """
    rows, accounted = counts.get("rows", 0), sum(counts.get(name, 0) for name in _ACCOUNTED)
    if accounted == rows:
        return None
    return f"This end record accounts for {number(accounted)} of {number(rows)} manifest rows."
