"""What a job's description says of its shards."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from batchcancel.cluster.converter import DATA_CONVERTER
from batchcancel.cluster.messages import Pulse
from batchcancel.cluster.running import pulses_in


def described(*heartbeats: list[Any]) -> Any:
    """Return what Temporal says of a workflow whose activities have sent heartbeats."""
    converter = DATA_CONVERTER.payload_converter
    activities = [
        SimpleNamespace(heartbeat_details=SimpleNamespace(payloads=converter.to_payloads(details)))
        for details in heartbeats
    ]
    return SimpleNamespace(raw_description=SimpleNamespace(pending_activities=activities))


PULSE = Pulse(
    shard=3,
    outcomes={"canceled": 2},
    amounts_canceled={"USD": "3.00"},
    in_flight=1,
    allowed_rate=None,
    set_rate=None,
    held_by=None,
    host="h",
    worker="h, process 1",
)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param([], id="none yet"),
        pytest.param([b"answers"], id="an older worker's"),
        pytest.param([b"answers", {"shard": "three"}], id="a newer one's that says it otherwise"),
        pytest.param([b"answers", 7], id="no pulse at all"),
    ],
)
def test_pulses_are_those_that_are_understood(other: list[Any]) -> None:
    """One that is not costs nobody the others."""
    assert pulses_in(described(other, [b"answers", PULSE, "more"], other)) == [PULSE]
