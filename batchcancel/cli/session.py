"""One run on the command line: what it says, what it asks, and how signals end it."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Protocol

import click

from batchcancel.cli import exit_codes, say, write_out
from batchcancel.cli.ahead import say_what_expires, say_what_is_ahead
from batchcancel.cli.loop import run_in_loop
from batchcancel.cli.observers import Observers
from batchcancel.cli.signals import Stops, signals_cancel, signals_stop
from batchcancel.cli.watching import count_outcomes, most_rows, watch
from batchcancel.errors import BatchCancelError
from batchcancel.gates import check_typed_count, needs_typed_count
from batchcancel.job import Job
from batchcancel.job.planned import age_of
from batchcancel.job.workforce import Work, Workforce
from batchcancel.model import RunState, RunSummary
from batchcancel.observe.keyboard import open_again
from batchcancel.observe.progress import show_progress
from batchcancel.observe.watched import Count, Watched
from batchcancel.report import count_invoices, summary_json, summary_text
from batchcancel.report.words import show_duration
from batchcancel.settings import Environment, Settings


class Elsewhere(Protocol):
    """Where the work of a job is done, if not in this process; ``cluster.submission.Submission`` is one."""

    async def ensure_free(self, job: Job) -> None:
        """Raise if no job may begin there now."""
        ...

    def open_workforce(self, work: Work) -> AbstractAsyncContextManager[Workforce]:
        """Get the workforce ready: an ``OpenWorkforce``."""
        ...


def run_job(
    settings: Settings,
    observers: Observers,
    *,
    open_elsewhere: Callable[[], Awaitable[Elsewhere]] | None = None,
) -> int:
    """Run a job to its end, show it to a person, and return the exit code.

    Args:
        settings: What to do.
        observers: Who else watches; told of everything but the end.
        open_elsewhere: Reaches where the work is done; None for this process.

    Raises:
        BatchCancelError: The run could not begin, or its ledger failed.
        Interrupted: A signal came before anything was sent.
    """
    return run_in_loop(partial(_run_job, settings, observers, open_elsewhere, _checked_page(settings)))


async def _run_job(
    settings: Settings,
    observers: Observers,
    open_elsewhere: Callable[[], Awaitable[Elsewhere]] | None,
    page: Path | None,
    before_run: list[int],
) -> int:
    with signals_cancel(before_run):
        watchers = observers.begin(settings)
        elsewhere = None if open_elsewhere is None else await open_elsewhere()
        open_workforce = None if elsewhere is None else elsewhere.open_workforce
        job = Job(settings, on_event=watchers, open_workforce=open_workforce)
        async with job, observers.watching(job):
            if elsewhere is not None:
                await elsewhere.ensure_free(job)
            if job.has_rows:
                say_what_is_ahead(settings, job.check, merchant_id=job.merchant_id, verb="cancel")
                say(f"  ledger    {settings.ledger}")
                _say_what_is_planned(job)
                say_what_expires(job.expiries)
                _say_what_is_torn(job)
                await _confirm(job)
            with signals_stop(job, cancels=True) as stops:
                async with show_progress(settings.options.progress, _watched(job, stops)) as progress:
                    watchers.add(progress)
                    summary = await job.run()
    received = stops.received
    code = exit_codes.of_summary(summary, signum=received[0] if received else None)
    observers.note_summary(summary)
    _write_result(summary, as_json=settings.options.json, exit_code=code)
    if page is not None and summary.run_id is not None:
        _write_page(settings.ledger, page, is_interrupted=bool(received))
    return code


def _watched(job: Job, stops: Stops) -> Watched:
    """Return what there is to watch of a run: rows on disk, by outcome, and what workers elsewhere have."""

    def counts() -> tuple[Count, ...]:
        workers = job.vitals().workers
        return count_outcomes(job.outcomes if workers is None else workers.answered)

    total = most_rows(job.check, limit=job.settings.options.limit)
    return watch(job, stops, total=total, counted_as="outcomes", counts=counts, vitals=job.vitals)


def _checked_page(settings: Settings) -> Path | None:
    """Return where ``--report`` wants its page; None if it is not wanted.

    Raises:
        ReportError: It could not be written, so that nobody has to find out after the run.
    """
    if settings.options.report is None:
        return None
    from batchcancel.report.make import Outputs, check_outputs  # noqa: PLC0415 - few runs need it

    page = Path(settings.options.report)
    check_outputs(Outputs(html=page), inputs=[settings.ledger, *map(Path, settings.manifests)])
    return page


def _write_page(ledger: Path, page: Path, *, is_interrupted: bool) -> None:
    """Write the page; the run is over, so that nothing here may change its exit code."""
    from batchcancel.report.make import Outputs, make_report  # noqa: PLC0415 - few runs need it

    again = f"'batchcancel report {shlex.quote(str(ledger))} --html {shlex.quote(str(page))}' writes it."
    if is_interrupted:  # who sends a signal wants the end
        say(f"No page was written, since the run was interrupted. {again}", fg="yellow")
        return
    try:
        make_report([ledger], Outputs(html=page))
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is said, and what the run did stands
        said = str(exc) if isinstance(exc, BatchCancelError) else f"a defect ({type(exc).__name__})."
        say(f"Warning: no page was written: {said} {again}", fg="yellow")
    else:
        say(f"  page      {page}")


def _say_what_is_planned(job: Job) -> None:
    if job.plan is None:
        return
    age_s = age_of(job.plan.record)
    age = show_duration(max(0.0, age_s))
    if job.takes_from_plan:
        known = count_invoices(job.plan.answers, "paid or canceled ")
        say(f"  plan      {job.plan.path}, made {age} ago: {known} in it")
        return
    most = show_duration(job.settings.plan_max_age_s)
    why = (
        f"was made {age} ago, and --plan-max-age is {most}"
        if age_s > 0
        else f"says that it will be made in {show_duration(-age_s)}: the clocks of two machines disagree"
    )
    say(f"Warning: {job.plan.path} {why}: nothing is taken from it.", fg="yellow")


def _say_what_is_torn(job: Job) -> None:
    if job.torn_bytes:
        say(
            f"Note: the ledger's last write is unfinished. Its {job.torn_bytes} bytes are cut off and kept "
            f"in {job.settings.ledger}.torn; what they were about is asked again.",
            fg="yellow",
        )


async def _confirm(job: Job) -> None:
    """Have a person type the number of invoices, where that is asked for.

    Raises:
        GateRefusedError: It was not typed, or nobody could be asked.
    """
    count = min(job.check.open, job.settings.options.limit or job.check.open)
    if not count:
        return
    if needs_typed_count(
        is_production=job.settings.environment is Environment.PRODUCTION,
        yes=job.settings.options.yes,
        has_terminal=sys.stdin.isatty() and sys.stderr.isatty(),
    ):
        say("Canceling can't be undone.", fg="yellow")
        click.echo(f"Type the number of invoices ({count}) to go on: ", nl=False, err=True)
        check_typed_count(await _typed_line(), expected=count)


async def _typed_line() -> str:
    """Return the next line from the terminal; a signal ends the wait for it."""
    loop, descriptor, has_come = asyncio.get_running_loop(), open_again(sys.stdin.fileno()), asyncio.Event()
    loop.add_reader(descriptor, has_come.set)
    try:
        await has_come.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return sys.stdin.readline()


def _write_result(summary: RunSummary, *, as_json: bool, exit_code: int) -> None:
    """Write the summary to standard output, and why a run stopped to standard error."""
    if summary.state is RunState.STOPPED and not summary.as_asked:
        say(f"Stopped: {summary.why}", fg="red")
    write_out(
        summary_json(summary, exit_code=exit_code).decode() + "\n" if as_json else summary_text(summary)
    )
