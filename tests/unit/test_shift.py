"""What a worker on the command line keeps to itself."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any, cast

import pytest
from temporalio.worker._activity import _ActivityWorker

from batchcancel.cli import shift
from batchcancel.cli.shift import _Stops, _without_noise


def test_what_all_shards_have_to_say_is_said_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again when it is met again."""
    stops = _Stops()
    for why in ("refused", "refused", "cut off", "refused"):
        stops.say(why)
    monkeypatch.setattr(shift, "_AT_ONCE_S", -1.0)
    stops.say("refused")
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[-1] for line in said] == ["refused", "cut off", "refused", "refused"]


def test_a_shard_that_is_taken_back_too_late_is_no_news(recwarn: pytest.WarningsRecorder) -> None:
    """The SDK's own warning of it is kept back, and no other one."""
    nobody = cast("Any", SimpleNamespace(_running_activities={}))

    def take_back() -> None:
        _ActivityWorker._handle_cancel_activity_task(nobody, b"token", cast("Any", None))

    with _without_noise():
        take_back()
        warnings.warn("another one", stacklevel=1)
    assert [str(one.message) for one in recwarn] == ["another one"]
    with pytest.warns(UserWarning, match="Cannot find activity to cancel"):
        take_back()
