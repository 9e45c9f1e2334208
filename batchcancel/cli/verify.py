"""``batchcancel verify``: the offline audit of a ledger, and of a manifest against it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from batchcancel.cli import write_out
from batchcancel.cli.exit_codes import ExitCode
from batchcancel.cli.help import TaskCommand, flag
from batchcancel.cli.mistakes import Word
from batchcancel.model import Outcome, Reason
from batchcancel.settings.words import ManifestFormat

if TYPE_CHECKING:
    from batchcancel.tasks.verify import Audit, Coverage, Finding, Salvaged

_HEADER: Final = ("outcome", "reason", "invoices")


@click.command(
    cls=TaskCommand,
    examples=[
        ("Check a ledger", "batchcancel verify invoices.test.ledger.jsonl"),
        (
            "Hold the manifest against it that it is about",
            "batchcancel verify invoices.test.ledger.jsonl --manifest invoices.csv",
        ),
        (
            "Save what is good of a damaged one",
            "batchcancel verify invoices.test.ledger.jsonl --salvage new.ledger.jsonl",
        ),
    ],
)
@click.argument("ledger", type=click.Path(path_type=Path))
@flag(
    "--salvage",
    "new",
    task="Repair",
    type=click.Path(path_type=Path),
    metavar="NEW",
    help="copy the good lines into a new ledger and list the rest",
)
@flag(
    "--manifest",
    "manifests",
    task="Against a manifest",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="also hold this manifest against LEDGER; may be repeated, in the order of the run",
)
@flag(
    "--column",
    task="Against a manifest",
    metavar="NAME",
    help="the manifest's id column (default: as its run read it)",
)
@flag(
    "--merchant-column",
    task="Against a manifest",
    metavar="NAME",
    help="its merchant column (default: likewise)",
)
@flag(
    "--format",
    task="Against a manifest",
    type=Word([str(one) for one in ManifestFormat]),
    help="how it is written (default: likewise, else by its name)",
)
@flag(
    "--encoding", task="Against a manifest", metavar="NAME", help="its encoding (default: as its run read it)"
)
@flag("--json", "as_json", task="Output", is_flag=True, help="write the audit as JSON")
def verify(
    ledger: Path, new: Path | None, manifests: tuple[Path, ...], *, as_json: bool, **reading: str | None
) -> int:
    """Check LEDGER from its file alone: every line whole, every invoice with one answer, every count right.

    With --manifest also whether each of its rows has its answer or is open, an invalid id, a duplicate or
    excluded, and whether the runs over it wrote of nothing else.

    Nothing is sent and LEDGER is left as it is. Exit code 0: sound. 6: damaged, or not what a run may
    write, whether or not it was salvaged. 3: sound, and the manifest disagrees with it; an open row is no
    disagreement. What a crash leaves (an unfinished last line, a run without its end) is no damage: the
    next run deals with it.
    """
    from batchcancel.tasks.verify import audit_ledger, salvage_ledger  # noqa: PLC0415 - help has to be quick

    if any(reading.values()) and not manifests:
        raise click.UsageError("--column, --merchant-column, --format and --encoding go with --manifest.")
    salvaged = salvage_ledger(ledger, new) if new is not None else None  # first: it refuses at once
    audit, coverage = _audit(ledger, manifests, reading)
    copied = audit_ledger(Path(salvaged.path)) if salvaged and salvaged.path else None
    is_well = audit.is_sound and not (salvaged and copied is None)
    code = ExitCode.DONE if is_well else ExitCode.LEDGER_FAULT
    if is_well and coverage is not None and coverage.disagreement_count:
        code = ExitCode.ERRORS
    if as_json:
        write_out(_as_json(ledger, audit, salvaged, copied, coverage, code))
    else:
        write_out("\n".join(_as_text(ledger, audit, salvaged, copied, coverage)) + "\n")
    return code


def _audit(
    ledger: Path, manifests: tuple[Path, ...], reading: dict[str, str | None]
) -> tuple[Audit, Coverage | None]:
    from batchcancel.manifest import Format  # noqa: PLC0415 - help has to be quick
    from batchcancel.tasks.verify import Reading, audit_ledger, audit_with_manifests  # noqa: PLC0415 - likewise

    if not manifests:
        return audit_ledger(ledger), None
    format_ = reading.pop("format")
    return audit_with_manifests(
        ledger, manifests, Reading(format=Format(format_) if format_ else None, **reading)
    )


# --- for programs ---------------------------------------------------------------------------------


def _as_json(
    ledger: Path,
    audit: Audit,
    salvaged: Salvaged | None,
    copied: Audit | None,
    coverage: Coverage | None,
    code: ExitCode,
) -> str:
    """Write one JSON object in ASCII, so that nothing of a ledger reaches a terminal raw.

    Keys: ``ledger sound env merchant_id size_bytes lines runs results skips invoices outcomes reasons
    findings finding_count notes salvage manifest exit_code``. ``invoices``, ``outcomes`` (always all
    four) and ``reasons`` count invoices by their latest row. ``salvage`` and ``manifest`` are null unless
    they were asked for.
    """
    from msgspec import to_builtins  # noqa: PLC0415 - help has to be quick

    document: dict[str, Any] = {
        "ledger": str(ledger),
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
        "manifest": None,
        "exit_code": int(code),
    }
    if salvaged is not None:
        document["salvage"] = {**to_builtins(salvaged), "sound": copied.is_sound if copied else None}
    if coverage is not None:
        from batchcancel.cli.coverage import coverage_json  # noqa: PLC0415 - help has to be quick

        document["manifest"] = coverage_json(coverage)
    return json.dumps(document) + "\n"


def _identity(audit: Audit) -> dict[str, str | None]:
    from batchcancel.report import mask  # noqa: PLC0415 - help has to be quick
    from batchcancel.tasks.verify.findings import shown  # noqa: PLC0415 - likewise

    return {
        "env": None if audit.env is None else shown(audit.env),
        "merchant_id": None if audit.merchant_id is None else shown(mask(audit.merchant_id)),
    }


# --- for people -----------------------------------------------------------------------------------


def _as_text(
    ledger: Path,
    audit: Audit,
    salvaged: Salvaged | None,
    copied: Audit | None,
    coverage: Coverage | None,
) -> Iterator[str]:
    """Yield the lines of the audit, without anything that could move a cursor."""
    from batchcancel.manifest.ids import recorded_text  # noqa: PLC0415 - help has to be quick

    if audit.is_sound:
        yield f"Sound: {recorded_text(str(ledger))} keeps its promise."
    else:
        findings = "1 finding" if audit.finding_count == 1 else f"{audit.finding_count:,} findings"
        yield f"Not sound: {recorded_text(str(ledger))} has {findings}."
    identity = _identity(audit)
    if identity["env"] is not None:
        yield f"Environment {identity['env']}, merchant {identity['merchant_id']}."
    yield ""
    yield from _table(_counts(audit))
    yield from _places("Findings", audit.findings, audit.finding_count)
    yield from _places("Notes", audit.notes, len(audit.notes))
    if coverage is not None:
        from batchcancel.cli.coverage import coverage_lines  # noqa: PLC0415 - help has to be quick

        yield from coverage_lines(coverage)
    if salvaged is not None:
        yield ""
        yield from _salvage(salvaged, copied)


def _counts(audit: Audit) -> Iterator[tuple[str, str, str]]:
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


def _table(rows: Iterator[tuple[str, str, str]]) -> Iterator[str]:
    cells = [_HEADER, ("", "", ""), *rows]
    first, second, third = (max(len(row[column]) for row in cells) for column in range(3))
    cells[1] = ("-" * first, "-" * second, "-" * third)
    for row in cells:
        yield f"  {row[0]:<{first}}  {row[1]:<{second}}  {row[2]:>{third}}".rstrip()


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
    from batchcancel.manifest.ids import recorded_text  # noqa: PLC0415 - help has to be quick

    if salvaged.path is None or copied is None:
        yield "Nothing can be salvaged: there is no whole run record. No new ledger was made."
    else:
        new = recorded_text(salvaged.path)
        yield f"Salvaged: {salvaged.lines:,} lines are in {new}. Run the same command with --ledger {new}:"
        yield "what the lines that were left out said is asked again."
        if not copied.is_sound:
            yield f"It still has {copied.finding_count:,} of the findings: a copy can't tell what is right."
    if salvaged.lines_left_out:
        yield f"Left out: {salvaged.lines_left_out:,} lines"
    for one in salvaged.left_out:
        lines = f"line {one.line}" if one.lines == 1 else f"lines {one.line} to {one.line + one.lines - 1}"
        yield f"  {lines}, byte {one.offset}, {one.size_bytes:,} bytes: {one.why}"
    if (rest := salvaged.lines_left_out - sum(one.lines for one in salvaged.left_out)) > 0:
        yield f"  and {rest:,} more"
