"""One plan on the command line."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path

from batchcancel.cli import exit_codes, say, write_out
from batchcancel.cli.ahead import say_what_expires, say_what_is_ahead
from batchcancel.cli.log import open_log_of
from batchcancel.cli.loop import run_in_loop
from batchcancel.cli.signals import Stops, signals_cancel, signals_stop
from batchcancel.cli.watching import BAD, GOOD, SETTLED, count, most_rows, watch
from batchcancel.model import Outcome, RunState
from batchcancel.observe import Broadcast
from batchcancel.observe.progress import show_progress
from batchcancel.observe.watched import Count, Watched
from batchcancel.settings import Settings
from batchcancel.tasks.plan import PlanJob, PlanSummary
from batchcancel.tasks.plan.text import plan_json, plan_text


def look_ahead(settings: Settings, *, out: Path | None, force: bool) -> int:
    """Make a plan, show it to a person, and return the exit code.

    Raises:
        BatchCancelError: It could not begin, or its file can't be written.
        Interrupted: A signal came before anything was sent.
    """
    return run_in_loop(partial(_look_ahead, settings, out, force))


async def _look_ahead(settings: Settings, out: Path | None, force: bool, before: list[int]) -> int:  # noqa: FBT001 - bound above
    with signals_cancel(before), closing(open_log_of(settings)) as log:
        watchers = Broadcast(log)
        async with PlanJob(settings, out=out, force=force, on_event=watchers) as job:
            if job.check.rows:
                say_what_is_ahead(settings, job.check, merchant_id=job.merchant_id, verb="look up")
                say_what_expires(job.expiries)
            with signals_stop(job, cancels=False) as stops:
                async with show_progress(settings.options.progress, _watched(job, stops)) as progress:
                    watchers.add(progress)
                    summary = await job.run()
    code = exit_codes.of_summary(summary, signum=stops.received[0] if stops.received else None)
    _write(summary, as_json=settings.options.json, exit_code=code)
    return code


def _watched(job: PlanJob, stops: Stops) -> Watched:
    """Return what there is to watch of a plan: invoices that were seen, by what a run would find."""

    def counts() -> tuple[Count, ...]:
        tally, seen = job.tally(), Counter[Outcome]()
        for reason, number in tally.results.items():
            seen[reason.outcome] += number
        return (
            count("cancelable", tally.cancelable, GOOD),
            count("already_paid", seen[Outcome.ALREADY_PAID], SETTLED),
            count("partially_paid", seen[Outcome.PARTIALLY_PAID], SETTLED),
            count("already_canceled", seen[Outcome.CANCELED], SETTLED),
            count("error", seen[Outcome.ERROR], BAD),
        )

    total = most_rows(job.check, limit=job.settings.options.limit)
    return watch(job, stops, total=total, counted_as="seen", counts=counts, vitals=job.vitals)


def _write(summary: PlanSummary, *, as_json: bool, exit_code: int) -> None:
    if summary.state is RunState.STOPPED and not summary.as_asked:
        say(f"Stopped: {summary.why}", fg="red")
    write_out(plan_json(summary, exit_code=exit_code).decode() + "\n" if as_json else plan_text(summary))
