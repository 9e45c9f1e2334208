"""``batchcancel run``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from batchcancel.cli import say
from batchcancel.cli.flags import add_flags, given
from batchcancel.cli.help import TaskCommand, complete_path, flag
from batchcancel.settings.options import Task


@click.command(
    cls=TaskCommand,
    examples=[
        (
            "Try it without credentials, against the built-in simulator",
            "batchcancel run samples/invoices.csv --env sandbox",
        ),
        (
            "Cancel an export that should hold 300 invoices, five of them first",
            "batchcancel run export.csv --env production --expect-count 300 --canary 5",
        ),
        (
            "Cancel what a plan has found to be open; what it knows is not asked again",
            "batchcancel run export.csv --env production --plan plan.jsonl",
        ),
        (
            "Cancel only what still has the amount that the export says",
            "batchcancel run export.csv --env production --match 'Open amount=total'",
        ),
        (
            "Every night, without a terminal, for an hour at most",
            "batchcancel run export.csv --env production --yes --max-duration 3600",
        ),
        (
            "One invoice, from standard input",
            "echo 2675 | batchcancel run - --format txt --env test --ledger one.jsonl",
        ),
    ],
)
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...", shell_complete=complete_path)
@add_flags()
@flag(
    "--out",
    task=Task.GATES,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="with --dry-run: write the plan there",
)
@flag("--force", task=Task.GATES, is_flag=True, help="with --dry-run: replace that file if it is there")
def run(manifests: tuple[str, ...], out: Path | None, *, force: bool, **flags: Any) -> int:  # noqa: ANN401 - checked by settings
    """Cancel the invoices that MANIFEST names, and write what became of each into a ledger.

    MANIFEST is a CSV, TSV, JSONL or plain text file of invoice ids, also as .gz; - is standard input.
    Run the same command again after any interruption: what has an answer is not asked again.

    Credentials come from the environment or batchcancel.toml, never from the command line:
    BATCHCANCEL_MERCHANT_ID, BATCHCANCEL_KEY_ID, BATCHCANCEL_SHARED_SECRET (or _FILE).
    """
    from batchcancel.cli.observers import observing  # noqa: PLC0415 - help has to be quick
    from batchcancel.cli.session import run_job  # noqa: PLC0415 - likewise
    from batchcancel.settings import load_receivers, load_settings  # noqa: PLC0415 - likewise

    with observing(load_receivers(**given(flags))) as observers:
        settings = load_settings(manifests, **given(flags))
        for warning in settings.warnings:
            say(f"Warning: {warning}", fg="yellow")
        if settings.options.dry_run:
            from batchcancel.cli.look_ahead import look_ahead  # noqa: PLC0415 - few runs are

            if settings.options.report or settings.options.plan:
                say("Note: a dry run writes no page and takes nothing from a plan.", fg="yellow")
            return look_ahead(settings, out=out, force=force)
        if out is not None or force:
            raise click.UsageError("--out and --force belong to --dry-run: a run writes its ledger.")
        code = run_job(settings, observers)
        observers.end(code)
        return code
