"""``batchcancel worker``: work on shards that a ``batchcancel submit`` hands out, on any host."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import click

from batchcancel.cli import say
from batchcancel.cli.engine import add_engine_flags, take_engine_options
from batchcancel.cli.flags import add_flags, given
from batchcancel.cli.help import TaskCommand, flag
from batchcancel.settings.options import Task

_FLAGS: Final = ("env", "base_url", "merchant_column", "log_format", "log_level", "log_file")


@click.command(
    cls=TaskCommand,
    examples=[
        ("Work for the test host, on this host", "batchcancel worker --env test"),
        (
            "With a server of your own",
            "batchcancel worker --env test --address temporal.example:7233 --tls",
        ),
    ],
)
@add_engine_flags
@flag(
    "--slots",
    task=Task.PACE,
    type=click.IntRange(1, 100),
    default=8,
    show_default=True,
    metavar="N",
    help="most shards at work in this process at the same time",
)
@add_flags(_FLAGS)
def worker(slots: int, **flags: Any) -> int:  # noqa: ANN401 - checked by settings
    """Work on shards of invoices that 'batchcancel submit' hands out, until a signal ends it.

    Credentials are this worker's own, from its environment or batchcancel.toml, as for a run. It takes only
    shards of the environment, host and merchant that they are for; with --merchant-column, those of a
    portfolio's merchants. How fast, how often and how long is the job's affair.

    On SIGTERM no new cancelation leaves, what is in flight is waited for, and what there is is handed in; the
    rest of its shards goes to other workers at once.
    """
    options = take_engine_options(flags)

    from batchcancel.cli.loop import run_in_loop  # noqa: PLC0415 - help has to be quick
    from batchcancel.cli.shift import work  # noqa: PLC0415 - likewise
    from batchcancel.settings import load_settings  # noqa: PLC0415 - likewise

    settings = load_settings([], for_run=False, **given(flags))
    for warning in settings.warnings:
        say(f"Warning: {warning}", fg="yellow")
    return run_in_loop(partial(work, settings, options, slots))
