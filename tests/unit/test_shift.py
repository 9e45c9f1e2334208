"""What a worker on the command line keeps to itself."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any, cast

import pytest
from temporalio.worker._activity import _ActivityWorker

from batchcancel.cli.shift import _without_noise


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
