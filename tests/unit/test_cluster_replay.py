"""A job that an older coordinator began is taken over by a newer one: it does again what the history says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from batchcancel.cluster import workflow as workflow_module
from batchcancel.cluster.converter import DATA_CONVERTER
from batchcancel.cluster.workflow import AccountRun

_HISTORIES: Final = sorted((Path(__file__).parents[1] / "vectors" / "cluster").glob("*.json"))


@pytest.mark.parametrize("path", _HISTORIES, ids=lambda path: path.stem)
async def test_history_of_every_version_can_be_gone_on_with(path: Path) -> None:
    """If this fails, the change needs ``workflow.patched``: the recorded histories stay as they are."""
    history = WorkflowHistory.from_json(path.stem, _read(path))
    await Replayer(workflows=[AccountRun], data_converter=DATA_CONVERTER).replay_workflow(history)


async def test_a_change_of_what_is_done_is_found() -> None:
    """The replay above can fail: an activity of another name is one that the history does not have."""
    path = next(path for path in _HISTORIES if "whole" in path.name)
    text = _read(path).replace('"run_shard"', '"run_slice"')
    history = WorkflowHistory.from_json("changed", text)
    replayer = Replayer(workflows=[AccountRun], data_converter=DATA_CONVERTER)
    with pytest.raises(Exception, match="run_s"):
        await replayer.replay_workflow(history)


def test_histories_tell_what_can_happen_to_a_job() -> None:
    """Every kind of end, and nothing of the machine that they were recorded on."""
    texts = {path.stem.partition("-")[2]: _read(path) for path in _HISTORIES}
    wanted = {
        "whole": "EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED",
        "asked": "EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED",
        "canceled": '"signalName": "cancel"',
        "handed-over": '"signalName": "hand_over"',
        "untouched": "EVENT_TYPE_ACTIVITY_TASK_CANCELED",
        "given-up": "EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT",
        "failed": "EVENT_TYPE_ACTIVITY_TASK_FAILED",
        "renewed": "EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW",
    }
    assert {name for name, event in wanted.items() if event in texts[name]} == set(wanted)
    for text in texts.values():
        identities = set(re.findall(r'"identity": "([^"]*)"', json.dumps(json.loads(text))))
        assert identities == {"recorder"}
    assert workflow_module.MOST_SHARDS <= 500


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
