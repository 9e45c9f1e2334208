"""``batchcancel verify``: the offline audit of a ledger, and of a manifest against it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchcancel.cli import write_out
from batchcancel.cli.exit_codes import ExitCode
from batchcancel.cli.help import TaskCommand, flag
from batchcancel.cli.mistakes import Word
from batchcancel.settings.words import ManifestFormat

if TYPE_CHECKING:
    from batchcancel.tasks.verify import Audit, Coverage


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
    from batchcancel.cli.auditing import Audited  # noqa: PLC0415 - help has to be quick
    from batchcancel.tasks.verify import audit_ledger, salvage_ledger  # noqa: PLC0415 - likewise

    if any(reading.values()) and not manifests:
        raise click.UsageError("--column, --merchant-column, --format and --encoding go with --manifest.")
    salvaged = salvage_ledger(ledger, new) if new is not None else None  # first: it refuses at once
    audit, coverage = _audit(ledger, manifests, reading)
    copied = audit_ledger(Path(salvaged.path)) if salvaged and salvaged.path else None
    is_well = audit.is_sound and not (salvaged and copied is None)
    code = ExitCode.DONE if is_well else ExitCode.LEDGER_FAULT
    if is_well and coverage is not None and coverage.disagreement_count:
        code = ExitCode.ERRORS
    audited = Audited(ledger=ledger, audit=audit, salvaged=salvaged, copied=copied, coverage=coverage)
    write_out(audited.as_json(exit_code=code) if as_json else audited.as_text())
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
