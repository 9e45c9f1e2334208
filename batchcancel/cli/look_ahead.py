"""One plan on the command line."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

from batchcancel.cli import exit_codes, say, write_out
from batchcancel.cli.ahead import say_what_is_ahead
from batchcancel.cli.log import open_log_of
from batchcancel.cli.loop import run_in_loop
from batchcancel.cli.signals import signals_cancel, signals_stop
from batchcancel.model import RunState
from batchcancel.observe import Broadcast
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
            with signals_stop(job, what="look-up") as stops:
                summary = await job.run()
    code = exit_codes.of_summary(summary, signum=stops.received[0] if stops.received else None)
    _write(summary, as_json=settings.options.json, exit_code=code)
    return code


def _write(summary: PlanSummary, *, as_json: bool, exit_code: int) -> None:
    if summary.state is RunState.STOPPED and not summary.as_asked:
        say(f"Stopped: {summary.why}", fg="red")
    write_out(plan_json(summary, exit_code=exit_code).decode() + "\n" if as_json else plan_text(summary))
