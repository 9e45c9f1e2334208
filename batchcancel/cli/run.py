"""``batchcancel run``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from batchcancel.cli import say
from batchcancel.cli.flags import add_flags, given


@click.command(context_settings={"max_content_width": 100})
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="with --dry-run: write the plan there"
)
@click.option("--force", is_flag=True, help="with --dry-run: replace that file if it is there")
@add_flags()
def run(manifests: tuple[str, ...], out: Path | None, *, force: bool, **flags: Any) -> int:  # noqa: ANN401 - checked by settings
    """Cancel the invoices that MANIFEST names, and write what became of each into a ledger.

    MANIFEST is a CSV, TSV, JSONL or plain text file of invoice ids, also as .gz; - is standard input.
    Run the same command again after any interruption: what has an answer is not asked again.

    Credentials come from the environment or batchcancel.toml, never from the command line:
    BATCHCANCEL_MERCHANT_ID, BATCHCANCEL_KEY_ID, BATCHCANCEL_SHARED_SECRET (or _FILE).
    """
    from batchcancel.cli.session import run_job  # noqa: PLC0415 - help has to be quick
    from batchcancel.settings import load_settings  # noqa: PLC0415 - likewise

    settings = load_settings(manifests, **given(flags))
    for warning in settings.warnings:
        say(f"Warning: {warning}", fg="yellow")
    if settings.options.dry_run:
        from batchcancel.cli.look_ahead import look_ahead  # noqa: PLC0415 - few runs are

        return look_ahead(settings, out=out, force=force)
    if out is not None or force:
        raise click.UsageError("--out and --force belong to --dry-run: a run writes its ledger.")
    return run_job(settings)
