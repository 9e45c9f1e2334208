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
        run_id = self.memo.run_id
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
        if self.memo.run_id != run_id:
            whose = f"{self.memo.operator} on {self.memo.host}"
            return f"{self.name} goes on with another 'batchcancel submit', of {whose}."
        return None

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
        found = await self._describe()
        if self._is_running(found):
            try:
                self.progress = await self._job.progress()
            except EngineError:
                if self._is_running(await self._describe()):
                    self._pulses.note((), out=())  # what was known is old by now
                    raise
            else:
                self._pulses.note(pulses_in(found), out=self.progress.score.out)
                return
        ended = await self._ending()
        if ended is None:
            await self._follow_on()
            return
        self.ended = ended
        state = "canceled" if ended.is_canceled else "ended"
        self.progress = Progress(state=state, score=ended.score, shards_out=0, window=1, rate=None)
        self._pulses.note((), out=())

    async def _describe(self) -> WorkflowExecutionDescription:
        return await self._job.handle.describe(rpc_timeout=_CALL)

    def _is_running(self, found: WorkflowExecutionDescription) -> bool:
        """Tell whether it goes on; a later job may have its name by now."""
        is_this = first_run_id_of(found) == self._job.first_run_id
        return is_this and found.status is WorkflowExecutionStatus.RUNNING

    async def _follow_on(self) -> None:
        """Go on with the job of the coordinator that has come in the place of this one's.

        Raises:
            EngineError: That one has not begun.
        """
        self._pulses.note((), out=())
        successor = await job_in(await self._describe(), self._job.handle)
        is_another = successor.first_run_id != self._job.first_run_id
        if not is_another or successor.memo.ledger != self.memo.ledger:
            raise EngineError(f"Another 'batchcancel submit' takes over {self.name} and has not begun yet.")
        self._job = successor
        await self._look()

    async def _ending(self) -> Ended | None:
        """Return what it came to; None if another coordinator has come in the place of its own."""
        handle = self._engine.get_workflow_handle(self._job.handle.id, run_id=self._job.run_id)
        try:
            result: Any = await handle.result(rpc_timeout=_CALL)
        except WorkflowFailureError as exc:
            if isinstance(exc.cause, TerminatedError) and exc.cause.message == REPLACED:
                return None
            raise ClusterError(self._was_ended) from None
        ended = ended_of(result, self.progress.score)
        return None if ended.is_handed_over and not ended.is_canceled else ended
