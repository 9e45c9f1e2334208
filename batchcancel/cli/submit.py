"""``batchcancel submit``: the main job, with the work done by workers on any number of hosts."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any, Final

import click

from batchcancel.cli import say
from batchcancel.cli.engine import add_engine_flags, take_engine_options
from batchcancel.cli.flags import FLAGS, add_flags, given
from batchcancel.cli.help import TaskCommand, complete_path, flag
from batchcancel.errors import SettingsError
from batchcancel.settings.options import Task

_NOT_HERE: Final = frozenset({"dry_run"})
"""Flags of a run that a job of many hosts does not know."""


@click.command(
    cls=TaskCommand,
    examples=[
        (
            "Cancel what an export names, on all hosts where 'batchcancel worker --env test' runs",
            "batchcancel submit export.csv --env test",
        ),
        (
            "Leave it to a process of its own, in production",
            "batchcancel submit export.csv --env production --yes --detach",
        ),
    ],
)
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...", shell_complete=complete_path)
@add_flags([name for name in FLAGS if name not in _NOT_HERE])
@flag(
    "--window",
    task=Task.PACE,
    type=click.IntRange(1, 32),
    default=8,
    show_default=True,
    metavar="N",
    help="most shards at work at the same time, on all workers together, which share rate and concurrency",
)
@flag(
    "--shard-rows",
    task=Task.PACE,
    type=click.IntRange(1, 1000),
    default=1000,
    show_default=True,
    metavar="N",
    help="most invoices of one shard",
)
@flag(
    "--detach",
    task=Task.OUTPUT,
    is_flag=True,
    help="leave the job to a process of its own on this host",
)
@add_engine_flags
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

    from batchcancel.cli.observers import observing  # noqa: PLC0415 - help has to be quick
    from batchcancel.cli.session import Elsewhere, run_job  # noqa: PLC0415 - likewise
    from batchcancel.cluster.connection import connect  # noqa: PLC0415 - likewise
    from batchcancel.cluster.submission import Submission  # noqa: PLC0415 - likewise
    from batchcancel.settings import Settings, load_receivers, load_settings  # noqa: PLC0415 - likewise

    async def open_elsewhere() -> Elsewhere:
        return Submission(await connect(options), options, window=window, shard_rows=shard_rows)

    def load() -> Settings:
        settings = load_settings(manifests, **given(flags))
        for name in sorted(_NOT_HERE & settings.sources.keys()):
            raise SettingsError(
                f"{settings.sources[name]} is for 'batchcancel run': a job of many hosts cancels."
            )
        for warning in settings.warnings:
            say(f"Warning: {warning}", fg="yellow")
        return settings

    if detach:
        from batchcancel.cli.detached import detach as see_off  # noqa: PLC0415 - few jobs are
        from batchcancel.cli.loop import run_in_loop  # noqa: PLC0415 - likewise

        arguments = [argument for argument in sys.argv[1:] if argument != "--detach"]
        return run_in_loop(partial(see_off, load(), options, arguments))
    with observing(load_receivers(**given(flags))) as observers:
        code = run_job(load(), observers, open_elsewhere=open_elsewhere)
        observers.end(code)
        return code
