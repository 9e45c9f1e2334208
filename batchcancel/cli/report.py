"""``batchcancel report``: what ledgers come to, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from batchcancel.cli import say, write_out
from batchcancel.cli.exit_codes import ExitCode
from batchcancel.cli.help import TaskCommand, flag
from batchcancel.cli.mistakes import Word
from batchcancel.model import Outcome
from batchcancel.report import count_rows

if TYPE_CHECKING:
    from batchcancel.report.make import Report
    from batchcancel.tasks.open_rows import Left

_Command = TypeVar("_Command", bound=Callable[..., Any])


_FILES: Final = "Files to write, besides the summary"
_LEFT: Final = "What is left of a manifest"


def _file(name: str, task: str, metavar: str, description: str) -> Callable[[_Command], _Command]:
    return flag(name, task=task, type=click.Path(path_type=Path), metavar=metavar, help=description)


@click.command(
    cls=TaskCommand,
    examples=[
        ("Read it here", "batchcancel report night.jsonl"),
        (
            "Show it to others, on a page for a browser",
            "batchcancel report night.jsonl --html report.html",
        ),
        (
            "Give the errors to whoever mends them",
            "batchcancel report night.jsonl --xlsx errors.xlsx --outcome error",
        ),
        (
            "Write the rows of the manifest that are left",
            "batchcancel report night.jsonl --open-rows left.csv",
        ),
    ],
)
@click.argument("ledgers", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="LEDGER...")
@_file("--html", _FILES, "PATH", "write a page for a browser: one file, works offline")
@_file("--csv", _FILES, "PATH", "write one row an invoice, for spreadsheets")
@_file("--xlsx", _FILES, "PATH", "the same as an Excel workbook, digits and leading zeros kept")
@_file("--jsonl", _FILES, "PATH", "the same as one JSON object a line, for programs")
@flag(
    "--outcome",
    "outcomes",
    task=_FILES,
    multiple=True,
    type=Word([outcome.value for outcome in Outcome]),
    help="only these rows in the exports; may be repeated",
)
@_file("--open-rows", _LEFT, "PATH", "write what is left of a manifest, unaltered and ready to run again")
@_file(
    "--manifest", _LEFT, "FILE", "the manifest that is about (default: the one that the ledger's runs read)"
)
@flag("--force", task=_FILES, is_flag=True, help="replace files that are there")
@flag("--json", "as_json", task="Output", is_flag=True, help="write the summary as JSON")
def report(
    ledgers: tuple[Path, ...],
    outcomes: tuple[str, ...],
    open_rows: Path | None,
    manifest: Path | None,
    *,
    force: bool,
    as_json: bool,
    **files: Path | None,
) -> int:
    """Say what became of the invoices in LEDGER, and write it for browsers, spreadsheets and programs.

    Several ledgers of one environment and merchant count as one: an invoice's answer is its latest row,
    by the beginning of the run that wrote it. Nothing is sent, and no ledger is changed; a run may be
    writing to it meanwhile.

    Exit code 0: done. 2: no ledger, ledgers of different merchants, or a file or standard output that can't
    be written.
    6: a ledger is damaged.
    """
    from batchcancel.report.make import Outputs, make_report  # noqa: PLC0415 - help has to be quick
    from batchcancel.report.text import report_text  # noqa: PLC0415 - likewise
    from batchcancel.tasks.open_rows import OpenRows  # noqa: PLC0415 - likewise

    if open_rows is None and manifest is not None:
        raise click.UsageError("--manifest says what --open-rows is about: say that too.")
    outputs = Outputs(
        **files, outcomes=frozenset(map(Outcome, outcomes)) if outcomes else frozenset(Outcome), force=force
    )
    if outcomes and not {"csv", "xlsx", "jsonl"} & {name for name, path in files.items() if path}:
        say(
            "Note: --outcome says which rows --csv, --xlsx and --jsonl have; none of them is wanted.",
            fg="yellow",
        )
    left = None
    if open_rows is not None:
        left = OpenRows(manifest, open_rows, inputs=[*ledgers, *outputs.paths], force=force)
    made = make_report(ledgers, outputs) if left is None else make_report(ledgers, outputs, watch=left.note)
    for file in made.written:
        say(f"  wrote  {file.path}: {count_rows(file.rows)}, {file.size_bytes:,} bytes")
    rest = None if left is None else left.write()
    if rest is not None:
        _say_what_is_left(rest)
    is_told = write_out(_as_json(made, rest) if as_json else report_text(made.figures))
    return ExitCode.DONE if is_told else ExitCode.USAGE


def _as_json(made: Report, rest: Left | None) -> str:
    """Write the summary, and what was written, as one JSON object.

    Keys: those of ``report_document``, then ``written left exit_code``. ``left`` is null unless
    ``--open-rows`` asked for it.
    """
    from batchcancel.report.document import as_json, report_document  # noqa: PLC0415 - help has to be quick
    from batchcancel.report.exports import ledger_name  # noqa: PLC0415 - likewise

    written = [
        {"path": ledger_name(file.path), "rows": file.rows, "size_bytes": file.size_bytes}
        for file in made.written
    ]
    left = rest and {
        "path": ledger_name(rest.path),
        "rows": rest.rows,
        "unanswered": rest.unanswered,
        "excluded": rest.excluded,
        "known": rest.is_known,
    }
    document = report_document(made.figures)
    return as_json(document | {"written": written, "left": left, "exit_code": int(ExitCode.DONE)})


def _say_what_is_left(left: Left) -> None:
    answered = left.rows - left.unanswered
    if left.rows:
        say(
            f"  wrote  {left.path}: {count_rows(left.rows)}, {answered:,} with an open error and "
            f"{left.unanswered:,} without an answer. Run it with the same --ledger."
        )
    else:
        say(f"  wrote  {left.path}: nothing is left of {left.manifest}.")
    if left.excluded:
        say(f"  {count_rows(left.excluded)} of {left.manifest} left out: a run was told never to touch them.")
    if not left.is_known:
        say(f"Warning: no run of these ledgers has read {left.manifest} as it is now.", fg="yellow")
