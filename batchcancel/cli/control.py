"""``status``, ``pause``, ``resume``, ``set-rate``, ``cancel``: what to ask of a job of ``submit``."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import click

from batchcancel.cli import say
from batchcancel.cli.engine import add_engine_flags, take_engine_options
from batchcancel.cli.flags import add_flags
from batchcancel.cli.help import TaskCommand, flag
from batchcancel.settings.options import Task

_job = click.argument("job", required=False, metavar="[JOB]")


@click.command(
    cls=TaskCommand,
    examples=[
        ("Every job that runs", "batchcancel status"),
        ("One job, until its end", "batchcancel status --follow test/apitest.visaacceptance.com/merchant"),
    ],
)
@_job
@flag(
    "--follow",
    task=Task.OUTPUT,
    is_flag=True,
    help="go on until they have ended: one in a live view (p pauses, q leaves), else a line a second",
)
@flag("--json", "as_json", task=Task.OUTPUT, is_flag=True, help="write it as JSON, a line each time")
@add_engine_flags
@add_flags(())
def status(job: str | None, *, follow: bool, as_json: bool, **flags: Any) -> int:  # noqa: ANN401 - of the engine
    """Say how far the jobs of 'batchcancel submit' are.

    JOB is environment/host/merchant, as this command shows it; without it, every job that runs. What workers
    have answers for counts before it is in the ledger.

    With --follow the exit code is 0 if every invoice has an answer and none is an error, 3 if not, 4 if the
    job was ended in Temporal, 7 if it was canceled.
    """
    options = take_engine_options(flags)

    from batchcancel.cli.asking import show_jobs  # noqa: PLC0415 - help has to be quick
    from batchcancel.cli.loop import run_in_loop  # noqa: PLC0415 - likewise

    return run_in_loop(partial(show_jobs, options, job, is_followed=follow, as_json=as_json))


@click.command(
    cls=TaskCommand,
    examples=[
        ("The only job that runs", "batchcancel pause"),
    ],
)
@_job
@add_engine_flags
@add_flags(())
def pause(job: str | None, **flags: Any) -> None:  # noqa: ANN401 - of the engine
    """Let no new cancelation of a job leave until 'batchcancel resume'.

    What is in flight is waited for and written. JOB may be left out if only one is running.
    """
    _tell(job, flags, "pause", said="is paused")


@click.command(
    cls=TaskCommand,
    examples=[
        ("The only job that runs", "batchcancel resume"),
    ],
)
@_job
@add_engine_flags
@add_flags(())
def resume(job: str | None, **flags: Any) -> None:  # noqa: ANN401 - of the engine
    """Let a job go on that was paused."""
    _tell(job, flags, "resume", said="goes on")


@click.command(
    cls=TaskCommand,
    examples=[
        ("Ten requests a second, for the only job that runs", "batchcancel set-rate 10"),
    ],
)
@click.argument("rate", type=click.FloatRange(0, 100_000, min_open=True), metavar="RATE")
@_job
@add_engine_flags
@add_flags(())
def set_rate(rate: float, job: str | None, **flags: Any) -> None:  # noqa: ANN401 - of the engine
    """Set how many requests a second a job may send, on all workers together."""
    if math.isnan(rate):  # which no range keeps out
        raise click.BadParameter("it has to be a number of requests a second.", param_hint="'RATE'")
    _tell(job, flags, "set_rate", rate, said=f"sends at most {rate:g} requests a second")


@click.command(
    cls=TaskCommand,
    examples=[
        ("The only job that runs", "batchcancel cancel"),
    ],
)
@_job
@add_engine_flags
@add_flags(())
def cancel(job: str | None, **flags: Any) -> None:  # noqa: ANN401 - of the engine
    """End a job: what is in flight is waited for and written, and 'submit' ends with code 7.

    Rows that are left stay open; the same 'batchcancel submit' asks about them.
    """
    _tell(job, flags, "cancel", said="is told to end")


def _tell(job: str | None, flags: dict[str, Any], signal: str, *arguments: float, said: str) -> None:
    options = take_engine_options(flags)

    from batchcancel.cli.asking import tell_job  # noqa: PLC0415 - help has to be quick
    from batchcancel.cli.loop import run_in_loop  # noqa: PLC0415 - likewise

    name = run_in_loop(partial(tell_job, options, job, signal, arguments))
    say(f"{name} {said}.")
