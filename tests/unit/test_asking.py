"""Lines about several jobs: what befalls one keeps nobody from hearing of the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from batchcancel.cli import asking
from batchcancel.cluster import following
from batchcancel.cluster.following import FollowedJob
from batchcancel.cluster.messages import Ended, Progress, Score
from batchcancel.errors import BatchCancelError, ClusterError, EngineError

RUNNING = Progress(state="running", score=Score(to_settle=2), shards_out=1, window=1, rate=None)
ENDED = Ended(is_canceled=False, score=Score(to_settle=2, outcomes={"canceled": 2}))
SILENT = EngineError("Nobody answers.")


@dataclass
class Job(FollowedJob):
    """Goes as it is told: a failure, still running, or ended, look after look."""

    title: str
    course: list[BatchCancelError | Ended | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.progress = RUNNING
        self.ended = None
        self._silent_since = None
        self._news = None

    async def look(self) -> None:
        step = self.course.pop(0)
        if isinstance(step, BatchCancelError):
            raise step
        self.ended = step


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "LOOK_EVERY_S", 0)


async def write(*jobs: Job, is_followed: bool) -> int:
    """Write the lines."""
    return await asking._write_lines(jobs, lambda job: getattr(job, "title", ""), is_followed=is_followed)


async def test_one_that_does_not_answer_hides_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    """It is told at the end, by its exit code too."""
    with pytest.raises(EngineError, match="Nobody answers"):
        await write(Job("a", [SILENT]), Job("b", [None]), is_followed=False)
    assert capsys.readouterr().out == "b\n"


async def test_followers_of_lines_endure_silence(capsys: pytest.CaptureFixture[str]) -> None:
    """As the view does: it is said once, and the line comes again when somebody answers."""
    assert await write(Job("a", [None, SILENT, SILENT, None, ENDED]), is_followed=True) == 0
    written = capsys.readouterr()
    assert written.out == "a\n" * 3
    assert written.err.count("It is asked again.") == 1


async def test_silence_that_lasts_is_an_end(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The others go on until theirs."""
    monkeypatch.setattr(following, "_PATIENCE_S", -1.0)
    with pytest.raises(EngineError, match="Nobody answers"):
        await write(Job("a", [SILENT, SILENT]), Job("b", [None, None, None, ENDED]), is_followed=True)
    assert capsys.readouterr().out == "b\n" * 4


async def test_a_job_that_was_ended_in_temporal_ends_only_its_own_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every failure is said; the first one is what the command ends with."""
    with pytest.raises(ClusterError, match="first"):
        await write(
            Job("a", [ClusterError("the first")]),
            Job("b", [None, ClusterError("the second")]),
            Job("c", [None, None, ENDED]),
            is_followed=True,
        )
    written = capsys.readouterr()
    assert written.out == "b\nc\nc\nc\n"
    assert "the second" in written.err


async def test_one_look_says_nothing_of_how_a_job_ended(capsys: pytest.CaptureFixture[str]) -> None:
    """It has just ended, with rows left: whoever has not followed it gets its line."""
    left = Ended(is_canceled=False, score=Score(to_settle=2))
    assert await write(Job("a", [left]), is_followed=False) == 0
    assert await write(Job("a", [left]), is_followed=True) == 3
    assert capsys.readouterr().out == "a\na\n"
