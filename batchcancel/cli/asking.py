"""What other processes ask of a job of ``submit``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence

from batchcancel.cli import say, write_out
from batchcancel.cli.exit_codes import ExitCode
from batchcancel.cli.job_words import exit_code_of, json_line, sentence
from batchcancel.cluster.following import FollowedJob
from batchcancel.cluster.running import LOOK_EVERY_S, asking, find_jobs, the_job
from batchcancel.errors import BatchCancelError, EngineError
from batchcancel.observe.progress import can_show_a_view
from batchcancel.settings.engine import EngineOptions


async def show_jobs(
    options: EngineOptions, name: str | None, received: list[int], *, is_followed: bool, as_json: bool
) -> int:
    """Tell how far jobs are, one in a live view on a terminal, in lines on standard output elsewhere.

    Args:
        options: Where Temporal is.
        name: Of one job; None for all.
        received: Takes the signals that end the view.
        is_followed: Whether to go on until they have ended.
        as_json: Whether to write JSON, a line each time.

    Returns:
        The exit code: of the job that ended worst, if they were followed until they ended.

    Raises:
        ClusterError: A job was ended in Temporal.
        EngineError: Temporal or a job's coordinator can't be reached, or there is no job of that name.
    """
    async with asking(options) as engine:
        found = await find_jobs(engine) if name is None else [await the_job(engine, name)]
        jobs = [FollowedJob(engine, job) for job in found]
        if not jobs:
            say("No job is running.")
        if is_followed and not as_json and len(jobs) == 1 and sys.stdout.isatty() and can_show_a_view():
            from batchcancel.cli.following import show_until_its_end  # noqa: PLC0415 - on terminals only

            return await show_until_its_end(jobs[0], received)
        return await _write_lines(jobs, json_line if as_json else sentence, is_followed=is_followed)


async def _write_lines(
    jobs: Sequence[FollowedJob], line: Callable[[FollowedJob], str], *, is_followed: bool
) -> int:
    """Write a line for each job, again and again until they have ended if they are followed.

    What befalls one job keeps nobody from hearing of the others; it is raised at the end.
    """
    code = int(ExitCode.DONE)
    failures: list[BatchCancelError] = []
    while jobs:
        going_on = []
        for job in jobs:
            try:
                await _write_line(job, line, is_followed=is_followed)
            except BatchCancelError as exc:
                failures.append(exc)
                continue
            if is_followed:
                code = max(code, exit_code_of(job))
            if job.ended is None:
                going_on.append(job)
        if not is_followed:
            break
        jobs = going_on
        if jobs:
            await asyncio.sleep(LOOK_EVERY_S)
    for failure in failures[1:]:
        say(str(failure), fg="yellow")
    if failures:
        raise failures[0]
    return code


async def _write_line(job: FollowedJob, line: Callable[[FollowedJob], str], *, is_followed: bool) -> None:
    if is_followed:
        if said := await job.look_patiently():
            say(said, fg="yellow")
    else:
        await job.look()
    if not job.is_silent:
        write_out(f"{line(job)}\n")


async def tell_job(
    options: EngineOptions,
    name: str | None,
    signal: str,
    arguments: Sequence[float],
    _received: list[int],
) -> str:
    """Tell a job something; return its name.

    Args:
        options: Where Temporal is.
        name: Of the job; None if it is the only one.
        signal: What to tell: the name of a signal of the workflow.
        arguments: Of the signal.

    Raises:
        EngineError: Temporal can't be reached, it is not clear which job is meant, or no coordinator hears
            it: Temporal keeps it for the next one.
    """
    async with asking(options) as engine:
        job = await the_job(engine, name)
        await job.handle.signal(signal, args=arguments)
        try:
            await job.progress()
        except EngineError as exc:
            if await job.is_there():
                raise EngineError(
                    f"{exc} It hears of this then; until that, workers go on with what they have."
                ) from None
    return job.name
