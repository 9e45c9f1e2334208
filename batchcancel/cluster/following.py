"""A job that another process holds, followed from anywhere: how it goes, and what it came to."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, Final

import msgspec
from temporalio.client import Client as Engine
from temporalio.client import WorkflowExecutionDescription, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import TerminatedError
from temporalio.service import RPCError, RPCStatusCode

from batchcancel.cluster.messages import Ended, Memo, Progress
from batchcancel.cluster.pulses import Pulses
from batchcancel.cluster.running import REPLACED, RunningJob, ended_of, first_run_id_of, job_in, pulses_in
from batchcancel.errors import ClusterError, EngineError
from batchcancel.model import Outcome, PauseCause, Vitals

_CALL: Final = timedelta(seconds=5)
_PATIENCE_S: Final = 60.0
"""A server or a coordinator that is started again may take so long to answer."""


class FollowedJob:
    """What is known of a job since it was looked at last; to be looked at before anything is asked."""

    def __init__(self, engine: Engine, job: RunningJob) -> None:
        """Prepare; nothing is known yet."""
        self._engine = engine
        self._job = job
        self.progress: Progress
        """What its workflow said last."""
        self._is_known = False
        """Whether it has said anything yet."""
        self._news: str | None = None
        """That another coordinator goes on with it, until that is told."""
        self.ended: Ended | None = None
        """What it came to, once it has ended."""
        self._pulses = Pulses()
        self._wish: bool | None = None
        """Whether it is to be paused, while it is told so."""
        self._silent_since: float | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return self._job.name

    @property
    def memo(self) -> Memo:
        """What it shows to everyone."""
        return self._job.memo

    async def look(self) -> None:
        """Find out how it goes, or what it came to.

        Raises:
            ClusterError: Somebody has ended it in Temporal, or a limit of the server.
            EngineError: Its coordinator does not answer, or Temporal does not, or another coordinator has
                come in its place and not begun.
        """
        try:
            await self._look()
        except RPCError as exc:
            if exc.status is RPCStatusCode.NOT_FOUND:
                raise ClusterError(self._was_ended) from None
            raise EngineError("Temporal can't be reached any more.") from None

    async def look_patiently(self) -> str | None:
        """Find out how it goes; where nobody answers, that is endured for a while.

        Returns:
            None, or a sentence where it has just fallen silent or another coordinator goes on with it.

        Raises:
            ClusterError: As ``look`` says.
            EngineError: Nobody has answered for 60 s.
        """
        try:
            await self.look()
        except EngineError as exc:
            now = time.monotonic()
            if self._silent_since is None:
                self._silent_since = now
                return f"{exc} It is asked again."
            if now > self._silent_since + _PATIENCE_S:
                raise
        else:
            self._silent_since = None
        news, self._news = self._news, None
        return news

    @property
    def is_silent(self) -> bool:
        """Whether nobody answered when it was looked at last: what is known of it is older."""
        return self._silent_since is not None

    async def tell(self, signal: str) -> None:
        """Have it paused or resumed.

        Raises:
            EngineError: It can't be told.
        """
        self._wish = signal == "pause"
        try:
            await self._job.handle.signal(signal, rpc_timeout=_CALL)
            await self._look()
        except RPCError:
            raise EngineError(f"Temporal does not take it: {self._job.name} goes on as it was.") from None
        finally:
            self._wish = None

    def answered(self) -> dict[Outcome, int]:
        """Count invoices that have an answer, by outcome: at the coordinator, or still with a worker."""
        return self._pulses.answered(self.progress.score)

    def vitals(self) -> Vitals:
        """Tell how it went when it was looked at last."""
        progress = self.progress
        score = progress.score
        if progress.rate is not None:
            score = msgspec.structs.replace(score, rate=progress.rate)
        is_paused = progress.state == "paused" if self._wish is None else self._wish
        return self._pulses.vitals(
            score,
            window=progress.window,
            held_by=PauseCause.BY_HAND if is_paused else None,
            is_stopping=progress.state == "ending",
        )

    @property
    def _was_ended(self) -> str:
        return f"The job {self.name} was ended in Temporal: by somebody, or by a limit of the server."

    async def _look(self) -> None:
        await self._look_at(self._job)

    async def _look_at(self, job: RunningJob) -> None:
        """Look at it, or at what another coordinator has made of it: that is followed from then on."""
        found = await self._describe()
        if _is_running(found, job):
            try:
                progress = await job.progress()
            except EngineError:
                if _is_running(await self._describe(), job):
                    self._pulses.note((), out=())  # what was known is old by now
                    raise
            else:
                self._note(job, progress, found)
                return
        ended = await self._ending(job)
        if ended is None:
            await self._look_at(await self._successor_of(job))
            return
        self.ended = ended
        state = "canceled" if ended.is_canceled else "ended"
        self._go_on_with(job)
        self.progress = Progress(state=state, score=ended.score, shards_out=0, window=1, rate=None)
        self._pulses.note((), out=())

    def _note(self, job: RunningJob, progress: Progress, found: WorkflowExecutionDescription) -> None:
        if progress.is_handed_over and self._is_known:
            return  # the score is another coordinator's, whose own job begins soon
        self._go_on_with(job)
        self.progress = progress
        self._is_known = True
        self._pulses.note(pulses_in(found), out=progress.score.out)

    def _go_on_with(self, job: RunningJob) -> None:
        if job is not self._job:
            self._job = job
            whose = f"{job.memo.operator} on {job.memo.host}"
            self._news = f"{job.name} goes on with another 'batchcancel submit', of {whose}."

    async def _describe(self) -> WorkflowExecutionDescription:
        return await self._job.handle.describe(rpc_timeout=_CALL)

    async def _successor_of(self, job: RunningJob) -> RunningJob:
        """Return the job of the coordinator that has come in the place of another one's.

        Raises:
            EngineError: That one has not begun.
        """
        self._pulses.note((), out=())
        successor = await job_in(await self._describe(), job.handle)
        is_another = successor.first_run_id != job.first_run_id
        if not is_another or successor.memo.ledger != job.memo.ledger:
            raise EngineError(f"Another 'batchcancel submit' takes over {job.name} and has not begun yet.")
        return successor

    async def _ending(self, job: RunningJob) -> Ended | None:
        """Return what it came to; None if another coordinator has come in the place of its own."""
        handle = self._engine.get_workflow_handle(job.handle.id, run_id=job.run_id)
        try:
            result: Any = await handle.result(rpc_timeout=_CALL)
        except WorkflowFailureError as exc:
            if isinstance(exc.cause, TerminatedError) and exc.cause.message == REPLACED:
                return None
            raise ClusterError(self._was_ended) from None
        ended = ended_of(result, self.progress.score if self._is_known else None)
        return None if ended.is_handed_over and not ended.is_canceled else ended


def _is_running(found: WorkflowExecutionDescription, job: RunningJob) -> bool:
    """Tell whether a job goes on; a later one may have its name by now."""
    is_this = first_run_id_of(found) == job.first_run_id
    return is_this and found.status is WorkflowExecutionStatus.RUNNING
