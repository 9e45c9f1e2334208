"""A job that another process holds, in the live view of a run: p pauses its workers, q leaves it alone."""

from __future__ import annotations

import asyncio

from batchcancel.cli import exit_codes, say, write_out
from batchcancel.cli.job_words import exit_code_of, sentence
from batchcancel.cli.signals import signals_cancel
from batchcancel.cli.watching import count_outcomes
from batchcancel.cluster.following import FollowedJob
from batchcancel.cluster.running import LOOK_EVERY_S
from batchcancel.errors import ClusterError, EngineError
from batchcancel.observe.progress import show_progress
from batchcancel.observe.watched import Watched


async def show_until_its_end(job: FollowedJob, received: list[int]) -> int:
    """Show a job until it has ended, or whoever watches leaves; return the exit code.

    Args:
        job: What is shown.
        received: Takes the signal that ends the view, if one does.

    Raises:
        ClusterError: It was ended in Temporal.
        EngineError: Temporal or its coordinator does not answer any more.
    """
    await job.look()
    view = _View(job)
    try:
        with signals_cancel(received):
            await view.show()
    except asyncio.CancelledError:
        if not received:
            raise
    if job.ended is not None:
        write_out(f"{sentence(job)}\n")
        return exit_code_of(job)
    say(f"{job.name} goes on: 'batchcancel status --follow {job.name}' shows it again.")
    return exit_codes.of_signal(received[0]) if received else exit_codes.ExitCode.DONE


class _View:
    """What the keys do, and what keeps the view fresh."""

    def __init__(self, job: FollowedJob) -> None:
        self._job = job
        self._left = asyncio.Event()
        """Set once whoever watches wants to leave."""
        self._telling: set[asyncio.Task[None]] = set()

    async def show(self) -> None:
        """Show it until it has ended or is left; what another coordinator goes on with begins anew."""
        while self._job.ended is None and not self._left.is_set():
            await self._show_run()

    async def _show_run(self) -> None:
        job = self._job
        watched = Watched(
            total=job.progress.score.to_settle,
            counted_as="outcomes",
            counts=lambda: count_outcomes(job.answered()),
            cancels=True,
            vitals=job.vitals,
            pause=lambda: self._tell("pause"),
            resume=lambda: self._tell("resume"),
            stop=self._left.set,
            goes_on=True,
        )
        async with show_progress("bar", watched):
            tasks = {asyncio.create_task(self._keep_fresh()), asyncio.create_task(self._left.wait())}
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                tasks |= self._telling
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _keep_fresh(self) -> None:
        """Look again and again until this run has ended; one that does not answer gets some time to."""
        run_id = self._job.memo.run_id
        while self._job.ended is None and self._job.memo.run_id == run_id:
            await asyncio.sleep(LOOK_EVERY_S)
            if said := await self._job.look_patiently():
                say(said, fg="yellow")

    def _tell(self, signal: str) -> None:
        task = asyncio.create_task(self._told(signal))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _told(self, signal: str) -> None:
        try:
            await self._job.tell(signal)
        except EngineError as exc:
            say(str(exc), fg="yellow")
        except ClusterError:
            pass  # whoever keeps the view fresh meets it too, and ends it
