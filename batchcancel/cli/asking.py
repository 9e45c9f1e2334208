"""What other processes ask of a job of ``submit``, and how its answer reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Final

from batchcancel.cli import say, write_out
from batchcancel.cluster.messages import Progress
from batchcancel.cluster.running import RunningJob, asking, find_jobs, the_job
from batchcancel.settings.engine import EngineOptions

_EVERY_S: Final = 1.0


async def show_jobs(
    options: EngineOptions, name: str | None, _received: list[int], *, is_followed: bool, as_json: bool
) -> None:
    """Write how far jobs are to standard output.

    Args:
        options: Where Temporal is.
        name: Of one job; None for all.
        is_followed: Whether to write it every second, until they have ended.
        as_json: Whether to write JSON, a line each time.

    Raises:
        EngineError: Temporal or a job's coordinator can't be reached, or there is no job of that name.
    """
    async with asking(options) as engine:
        jobs = await find_jobs(engine) if name is None else [await the_job(engine, name)]
        names = {job.name for job in jobs}
        if not jobs:
            say("No job is running.")
        while jobs:
            for job in jobs:
                progress = await job.progress()
                write_out(_json_of(job, progress) if as_json else _text_of(job, progress))
            if not is_followed:
                return
            await asyncio.sleep(_EVERY_S)
            jobs = [job for job in await find_jobs(engine) if job.name in names]


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
        EngineError: Temporal can't be reached, or it is not clear which job is meant.
    """
    async with asking(options) as engine:
        job = await the_job(engine, name)
        await job.handle.signal(signal, args=arguments)
    return job.name


def _text_of(job: RunningJob, progress: Progress) -> str:
    score = progress.score
    counts = ", ".join(f"{count:,} {outcome.replace('_', ' ')}" for outcome, count in score.outcomes.items())
    rate = f"{score.done / max(score.duration_s, 1e-3):,.1f} a second"
    limit = "" if progress.rate is None else f"; at most {progress.rate:g} requests a second"
    return (
        f"{job.name}: {progress.state}, {score.done:,} of {score.to_settle:,} invoices: {counts}; "
        f"{rate}{limit}; {progress.shards_out} shards out\n"
    )


def _json_of(job: RunningJob, progress: Progress) -> str:
    score = progress.score
    return (
        json.dumps(
            {
                "job": job.name,
                "state": progress.state,
                "done": score.done,
                "total": score.to_settle,
                **score.outcomes,
                "invoices_per_s": round(score.done / max(score.duration_s, 1e-3), 1),
                "rate": progress.rate,
                "shards_out": progress.shards_out,
                "window": progress.window,
                "run_id": job.memo.run_id,
                "ledger": job.memo.ledger,
                "host": job.memo.host,
                "started_at": job.memo.started_at,
            }
        )
        + "\n"
    )
