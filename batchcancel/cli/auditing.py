"""What ``verify`` says of a ledger: tables for people, JSON for programs.

Nothing of a ledger reaches a terminal raw: all of it is printable ASCII.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins

from batchcancel.cli.coverage import coverage_json, coverage_lines
from batchcancel.cli.exit_codes import ExitCode
from batchcancel.manifest.ids import recorded_text
from batchcancel.model import Outcome, Reason
from batchcancel.report import mask
from batchcancel.report.words import aligned
from batchcancel.tasks.verify import Audit, Coverage, Finding, Salvaged
from batchcancel.tasks.verify.findings import shown


class Audited(Struct, frozen=True, kw_only=True):
    """All that one call found out."""

    ledger: Path
    audit: Audit
    salvaged: Salvaged | None
    """None unless it was asked for; so is ``coverage``."""
    copied: Audit | None
    """Of the salvaged ledger; None where there is none."""
    coverage: Coverage | None

    def as_json(self, *, exit_code: ExitCode) -> str:
        """Write it as one JSON object.

        Keys: ``ledger sound env merchant_id size_bytes lines runs results skips invoices outcomes reasons
        findings finding_count notes salvage manifest exit_code``. ``invoices``, ``outcomes`` (always all
        four) and ``reasons`` count invoices by their latest row. ``salvage`` and ``manifest`` are null
        unless they were asked for.
        """
        audit = self.audit
        document: dict[str, Any] = {
            "ledger": str(self.ledger),
            "sound": audit.is_sound,
            **_identity(audit),
            "size_bytes": audit.size_bytes,
            "lines": audit.lines,
            "runs": audit.runs,
            "results": audit.results,
            "skips": audit.skips,
            "invoices": sum(audit.reasons.values()),
            "outcomes": {
                outcome: sum(count for reason, count in audit.reasons.items() if reason.outcome is outcome)
                for outcome in Outcome
            },
            "reasons": audit.reasons,
            "findings": to_builtins(audit.findings),
            "finding_count": audit.finding_count,
            "notes": to_builtins(audit.notes),
            "salvage": None,
            "manifest": None if self.coverage is None else coverage_json(self.coverage),
            "exit_code": int(exit_code),
        }
        if self.salvaged is not None:
            is_sound = self.copied.is_sound if self.copied else None
            document["salvage"] = {**to_builtins(self.salvaged), "sound": is_sound}
        return json.dumps(document) + "\n"

    def as_text(self) -> str:
        """Write it for people, ending with a newline."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        audit, ledger = self.audit, recorded_text(str(self.ledger))
        if audit.is_sound:
            yield f"Sound: {ledger} keeps its promise."
        else:
            findings = "1 finding" if audit.finding_count == 1 else f"{audit.finding_count:,} findings"
            yield f"Not sound: {ledger} has {findings}."
        identity = _identity(audit)
        if identity["env"] is not None:
            yield f"Environment {identity['env']}, merchant {identity['merchant_id']}."
        yield ""
        yield from aligned(list(_counts(audit)), right=frozenset({2}))
        yield from _places("Findings", audit.findings, audit.finding_count)
        yield from _places("Notes", audit.notes, len(audit.notes))
        if self.coverage is not None:
            yield from coverage_lines(self.coverage)
        if self.salvaged is not None:
            yield ""
            yield from _salvage(self.salvaged, self.copied)


def _identity(audit: Audit) -> dict[str, str | None]:
    return {
        "env": None if audit.env is None else shown(audit.env),
        "merchant_id": None if audit.merchant_id is None else shown(mask(audit.merchant_id)),
    }


def _counts(audit: Audit) -> Iterator[tuple[str, str, str]]:
    yield "outcome", "reason", "invoices"
    for outcome in Outcome:
        reasons = [reason for reason in Reason if reason.outcome is outcome and reason in audit.reasons]
        for reason in reasons:
            yield outcome if reason is reasons[0] else "", reason, f"{audit.reasons[reason]:,}"
    if audit.reasons:
        yield "", "", ""
    yield "result rows", "", f"{audit.results:,}"
    yield "skipped rows", "", f"{audit.skips:,}"
    yield "runs", "", f"{sum(audit.runs.values()):,}"
    for state, count in audit.runs.items():
        if count:
            yield "", state.replace("_", " "), f"{count:,}"
    yield "lines", "", f"{audit.lines:,}"


def _places(heading: str, listed: Sequence[Finding], count: int) -> Iterator[str]:
    if not listed:
        return
    yield ""
    yield heading
    for one in listed:
        yield f"  line {one.line}, byte {one.offset}: {one.text}"
    if count > len(listed):
        yield f"  and {count - len(listed):,} more"


def _salvage(salvaged: Salvaged, copied: Audit | None) -> Iterator[str]:
    if salvaged.path is None or copied is None:
        yield "Nothing can be salvaged: there is no whole run record. No new ledger was made."
    elif not salvaged.lines_left_out:
        yield f"Salvaged: all {salvaged.lines:,} lines are in {recorded_text(salvaged.path)}, a plain copy."
    else:
        new = recorded_text(salvaged.path)
        yield f"Salvaged: {salvaged.lines:,} lines are in {new}. Run the same command with --ledger {new}:"
        yield "what the lines that were left out said is asked again."
    if copied is not None and not copied.is_sound:
        yield f"It still has {copied.finding_count:,} of the findings: a copy can't tell what is right."
    if salvaged.lines_left_out:
        yield f"Left out: {salvaged.lines_left_out:,} lines"
    for one in salvaged.left_out:
        lines = f"line {one.line}" if one.lines == 1 else f"lines {one.line} to {one.line + one.lines - 1}"
        yield f"  {lines}, byte {one.offset}, {one.size_bytes:,} bytes: {one.why}"
    if (rest := salvaged.lines_left_out - sum(one.lines for one in salvaged.left_out)) > 0:
        yield f"  and {rest:,} more"
