"""``batchcancel submit``: the main job, with the work done by workers on any number of hosts."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any, Final

import click

from batchcancel.cli import say
from batchcancel.cli.engine import add_engine_flags, take_engine_options
from batchcancel.cli.flags import FLAGS, add_flags, given
from batchcancel.errors import SettingsError

_NOT_HERE: Final = frozenset({"dry_run", "merchant_column", "rate_per_merchant"})
"""Flags of a run that a job of many hosts does not know: one job is for one merchant."""


@click.command(context_settings={"max_content_width": 100})
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...")
@add_engine_flags
@click.option(
    "--window",
    type=click.IntRange(1, 32),
    default=8,
    show_default=True,
    metavar="N",
    help="most shards at work at the same time, on all workers together; rate and concurrency are shared",
)
@click.option(
    "--shard-rows",
    type=click.IntRange(1, 1000),
    default=1000,
    show_default=True,
    metavar="N",
    help="most invoices of one shard",
)
@click.option(
    "--detach",
    is_flag=True,
    help="leave the job to a process of its own on this host; 'batchcancel status' shows how far it is",
)
@add_flags([flag for flag in FLAGS if flag not in _NOT_HERE])
def submit(
    manifests: tuple[str, ...],
    window: int,
    shard_rows: int,
    *,
    detach: bool,
    **flags: Any,  # noqa: ANN401 - checked by settings
) -> int:
    """Cancel the invoices that MANIFEST names, with the work done by 'batchcancel worker' on any host.

    This process holds the ledger, hands out shards of invoices through Temporal, and writes what the workers
    found. It has the flags, the summary and the exit codes of 'run'. If it is killed, the same command goes
    on where it was.
    """
    options = take_engine_options(flags)

    from batchcancel.cli.session import Elsewhere, run_job  # noqa: PLC0415 - help has to be quick
    from batchcancel.cluster.connection import connect  # noqa: PLC0415 - likewise
    from batchcancel.cluster.submission import Submission  # noqa: PLC0415 - likewise
    from batchcancel.settings import load_settings  # noqa: PLC0415 - likewise

    settings = load_settings(manifests, **given(flags))
    for name in sorted(_NOT_HERE & settings.sources.keys()):
        raise SettingsError(
            f"{settings.sources[name]} is for 'batchcancel run': a job of many hosts is for one merchant, "
            "and cancels."
        )
    for warning in settings.warnings:
        say(f"Warning: {warning}", fg="yellow")

    if detach:
        from batchcancel.cli.detached import detach as leave_behind  # noqa: PLC0415 - few jobs are
        from batchcancel.cli.loop import run_in_loop  # noqa: PLC0415 - likewise

        arguments = [argument for argument in sys.argv[1:] if argument != "--detach"]
        return run_in_loop(partial(leave_behind, settings, options, arguments))

    async def open_elsewhere() -> Elsewhere:
        return Submission(await connect(options), options, window=window, shard_rows=shard_rows)

    return run_job(settings, open_elsewhere=open_elsewhere)
