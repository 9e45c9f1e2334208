"""What ``verify --manifest`` says of the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import to_builtins

from batchcancel.report import count_rows
from batchcancel.report.words import aligned
from batchcancel.tasks.verify import Coverage, Disagreement, OpenRow
from batchcancel.tasks.verify.findings import shown


def coverage_json(coverage: Coverage) -> dict[str, Any]:
    """Return it for the JSON document.

    Keys: ``files runs complete_runs rows answered invalid duplicates excluded open_errors unanswered
    open_rows disagreements disagreement_count``, as ``tasks.verify.coverage`` explains them.
    """
    document: dict[str, Any] = to_builtins(coverage)
    for file in document["files"]:
        file["path"] = shown(file["path"])
    return document


def coverage_lines(coverage: Coverage) -> Iterator[str]:
    """Yield its lines: printable ASCII."""
    names = ", ".join(shown(file.path) for file in coverage.files)
    yield ""
    yield f"{_headline(coverage)}: {names}"
    yield ""
    yield from aligned(list(_counts(coverage)), right=frozenset({2}))
    is_alone = len(coverage.files) == 1
    disagreements = (_disagreement(one, is_alone=is_alone) for one in coverage.disagreements)
    yield from _listed("Disagreements", disagreements)
    if more := coverage.disagreement_count - len(coverage.disagreements):
        yield f"  and {more:,} more"
    yield from _listed("Open rows", (_open_row(one, is_alone=is_alone) for one in coverage.open_rows))
    if more := coverage.open - len(coverage.open_rows):
        yield f"  and {more:,} more"


def _headline(coverage: Coverage) -> str:
    count = coverage.disagreement_count
    if count:
        return f"Manifest: {'1 disagreement' if count == 1 else f'{count:,} disagreements'} with the ledger"
    if coverage.open:
        return f"Manifest: agrees with the ledger, {count_rows(coverage.open)} open"
    return "Manifest: agrees with the ledger, every row is accounted for"


def _counts(coverage: Coverage) -> Iterator[tuple[str, str, str]]:
    yield "manifest", "", "rows"
    for reason, count in coverage.answered.items():
        yield "answered", reason, f"{count:,}"
    for reason, count in coverage.open_errors.items():
        yield "open", reason, f"{count:,}"
    for name, count in (
        ("without a row", coverage.unanswered),
        ("invalid ids", coverage.invalid),
        ("duplicates", coverage.duplicates),
        ("excluded", coverage.excluded),
    ):
        if count:
            yield name, "", f"{count:,}"
    yield "all", "", f"{coverage.rows:,}"
    yield "runs over it", "", f"{coverage.runs:,}"


def _listed(heading: str, lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        if not number:
            yield from ("", heading)
        yield f"  {line}"


def _disagreement(one: Disagreement, *, is_alone: bool) -> str:
    if one.line is not None:
        return f"ledger line {one.line}: {one.text}"
    return one.text if one.row is None else f"{_place(one, is_alone=is_alone)}: {one.text}"


def _open_row(one: OpenRow, *, is_alone: bool) -> str:
    whose = "" if one.merchant_id is None else f" of {one.merchant_id}"
    return f"{_place(one, is_alone=is_alone)}: {one.invoice_id}{whose}, {one.reason or 'without a row'}"


def _place(one: Disagreement | OpenRow, *, is_alone: bool) -> str:
    return f"row {one.row}" if is_alone else f"{one.file}, row {one.row}"
