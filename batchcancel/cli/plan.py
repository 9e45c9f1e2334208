"""``batchcancel plan``, and ``run --dry-run``: what a run would do, by looking alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from batchcancel.cli import say
from batchcancel.cli.flags import FLAGS, add_flags, given
from batchcancel.cli.help import TaskCommand, complete_path, flag

_NOT_HERE: Final = frozenset(
    {
        "canary",
        "max_errors",
        "max_error_rate",
        "max_mismatch",
        "yes",
        "report",
        "dry_run",
        "plan",
        "plan_max_age",
        "metrics_file",
        "metrics_port",
        "metrics_host",
        "ping_url",
        "notify_url",
    }
)
"""Flags of a run that say something of canceling only."""
_FILE: Final = "The plan's file"


@click.command(
    cls=TaskCommand,
    examples=[
        (
            "Try it without credentials, against the built-in simulator",
            "batchcancel plan samples/invoices.csv --env sandbox",
        ),
        ("See what a run would do", "batchcancel plan export.csv --env production"),
        (
            "Keep it: a run takes what it knows from there",
            "batchcancel plan export.csv --env production --out plan.jsonl",
        ),
    ],
)
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...", shell_complete=complete_path)
@flag(
    "--out",
    task=_FILE,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="write what was found, for 'run --plan FILE' and for programs",
)
@flag("--force", task=_FILE, is_flag=True, help="replace that file if it is there")
@add_flags([name for name in FLAGS if name not in _NOT_HERE])
def plan(manifests: tuple[str, ...], out: Path | None, *, force: bool, **flags: Any) -> int:  # noqa: ANN401
    """Look up the invoices that MANIFEST names, and say what a run would do with each.

    Nothing is canceled: no request but a GET can leave. What the ledger of such a run knows already is not
    asked again, and that ledger is only read.

    Exit code 0: a run would end every invoice with an answer. 3: at least one would end in an error, or
    could not be read. 2, 4, 7 and signals as for a run.
    """
    from batchcancel.cli.look_ahead import look_ahead  # noqa: PLC0415 - help has to be quick
    from batchcancel.settings import load_settings  # noqa: PLC0415 - likewise

    settings = load_settings(manifests, for_run=False, **given(flags))
    for warning in settings.warnings:
        say(f"Warning: {warning}", fg="yellow")
    return look_ahead(settings, out=out, force=force)
