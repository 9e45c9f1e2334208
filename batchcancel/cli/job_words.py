"""How far a job of ``submit`` is, in words and as JSON, and the exit code of who has followed it. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Protocol

from batchcancel.cli.exit_codes import ExitCode
from batchcancel.cluster.messages import Ended, Memo, Progress
from batchcancel.model import Outcome, PauseCause, Vitals
from batchcancel.observe.words import hold_text, workers_text


class Followed(Protocol):
    """A job that was looked at; ``cluster.following.FollowedJob`` is one."""

    progress: Progress
    ended: Ended | None

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def memo(self) -> Memo:
        """What it shows to everyone."""
        ...

    def answered(self) -> dict[Outcome, int]:
        """Count invoices that have an answer, by outcome."""
        ...

    def vitals(self) -> Vitals:
        """Tell how it goes."""
        ...


def sentence(job: Followed) -> str:
    """Say how far it is in one line."""
    progress, vitals = job.progress, job.vitals()
    counts = ", ".join(f"{count:,} {outcome.replace('_', ' ')}" for outcome, count in job.answered().items())
    parts = [
        f"{progress.state}, {_done(job):,} of {progress.score.to_settle:,} invoices: {counts}",
        f"{_speed(job):,.1f} a second",
    ]
    if progress.rate is not None:
        parts.append(f"at most {progress.rate:g} requests a second")
    if job.ended is None:
        workers = workers_text(vitals)
        parts.append(f"{vitals.in_flight:,} in flight" + ("" if workers is None else f", {workers}"))
        if vitals.held_by is not None and vitals.held_by is not PauseCause.BY_HAND:
            parts.append(hold_text(vitals.held_by, elsewhere=True))
        parts.append(f"{progress.shards_out} shards out")
    return f"{job.name}: {'; '.join(parts)}"


def json_line(job: Followed) -> str:
    """Write how far it is as one JSON object; the keys are part of the interface (docs/many-hosts.md)."""
    progress, vitals, memo = job.progress, job.vitals(), job.memo
    workers = vitals.workers
    return json.dumps(
        {
            "job": job.name,
            "state": progress.state,
            "done": _done(job),
            "on_disk": progress.score.done,
            "total": progress.score.to_settle,
            **{outcome.value: count for outcome, count in job.answered().items()},
            "invoices_per_s": round(_speed(job), 1),
            "rate": progress.rate,
            "in_flight": vitals.in_flight,
            "allowed_rate": None if vitals.allowed_rate is None else round(vitals.allowed_rate, 1),
            "held_by": vitals.held_by,
            "workers": 0 if workers is None else workers.processes,
            "hosts": 0 if workers is None else workers.hosts,
            "shards_out": progress.shards_out,
            "window": progress.window,
            "run_id": memo.run_id,
            "ledger": memo.ledger,
            "host": memo.host,
            "started_at": memo.started_at,
        }
    )


def exit_code_of(job: Followed) -> int:
    """Return the exit code of who has followed a job; 0 while it goes on.

    What ``submit`` itself ends with may say more: from here a safety stop and a signal look like rows that
    were left.
    """
    if job.ended is None:
        return ExitCode.DONE
    score = job.ended.score
    is_through = score.done >= score.to_settle
    if job.ended.is_canceled and not is_through:
        return ExitCode.AS_ASKED
    return ExitCode.DONE if is_through and not score.outcomes.get(Outcome.ERROR) else ExitCode.ERRORS


def _done(job: Followed) -> int:
    return sum(job.answered().values())


def _speed(job: Followed) -> float:
    """Return invoices a second since the job began; while it goes on, by the clocks of two hosts."""
    lasted_s = job.progress.score.duration_s
    if job.ended is None:
        began_at = datetime.fromisoformat(job.memo.started_at)
        lasted_s = max(lasted_s, (datetime.now(UTC) - began_at).total_seconds())
    return _done(job) / max(lasted_s, 1e-3)
