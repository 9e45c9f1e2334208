"""From a ledger's file to its audit. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from pathlib import Path

from batchcancel.errors import LedgerFaultError
from batchcancel.ledger.reader import (
    Line,
    Record,
    ResultRecord,
    check_beginning,
    is_being_written,
    opened,
    read_records,
)
from batchcancel.tasks.verify.answers import Answers
from batchcancel.tasks.verify.auditor import Auditor
from batchcancel.tasks.verify.findings import Audit


def audit_ledger(ledger: Path) -> Audit:
    """Check every line of a ledger, and the lines against each other. Blocks.

    A run may be writing meanwhile: what it appends after the beginning is left out, and its
    unfinished last line is no damage.

    Args:
        ledger: The ledger's file.

    Raises:
        LedgerMismatchError: There is no such file, it is no ledger, or a newer version wrote it.
        LedgerFaultError: It can't be read to its end.
        UsageError: There is no room to compare so many rows.
    """
    with closing(Answers()) as answers, opened(ledger) as fd:
        return audit_opened(fd, ledger, answers)


def audit_opened(
    fd: int,
    ledger: Path,
    answers: Answers,
    *,
    is_marked: Callable[[Line, Record], bool] = lambda _line, _record: False,
) -> Audit:
    """Check a ledger as ``audit_ledger`` does, and keep what its result rows say.

    Args:
        fd: The open ledger.
        ledger: Its name, for messages.
        answers: Takes its result rows; the caller closes it.
        is_marked: Told of every record; says whether a result row is marked among the answers.
    """
    auditor = Auditor(answers)
    for line, record in read_records(fd, ledger):
        auditor.take(line, record, is_marked=record is not None and is_marked(line, record))
    if not auditor.has_good_line:
        check_beginning(fd, ledger)
    is_held = not auditor.ends_with_an_end and is_being_written(fd, size_read=auditor.size_bytes)
    compared = answers.compare()
    rows = result_rows(read_records(fd, ledger), {one.number for one in compared.repeated})
    return auditor.close(compared, rows, is_held=is_held)


def result_rows(
    lines: Iterable[tuple[Line, Record | None]], numbers: Collection[int]
) -> dict[int, tuple[Line, ResultRecord]]:
    """Read result rows once more; nothing is read if none is wanted.

    Args:
        lines: Those of the ledger, from its start.
        numbers: Of the rows among all result rows, from 0.

    Raises:
        LedgerFaultError: They are not there any more, or the ledger can't be read.
    """
    found: dict[int, tuple[Line, ResultRecord]] = {}
    number = -1
    for line, record in lines if numbers else ():
        if isinstance(record, ResultRecord):
            number += 1
            if number in numbers:
                found[number] = (line, record)
                if len(found) == len(numbers):
                    break
    if len(found) < len(numbers):
        raise LedgerFaultError("The ledger was changed while it was read, otherwise than by a run.")
    return found
