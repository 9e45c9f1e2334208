"""One job under fire, in the short version that fits a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import RunCampaign

BLOWS = {
    "kill -9 of a worker",
    "kill -9 of the coordinator, another manifest",
    "kill -9 of the server, 6 s away",
    "kill -9 of all workers, SIGTERM of the coordinator",
    "a worker frozen for 6 to 14 s",
    "a worker cut off for 6 to 14 s",
}
SEED = "11952"
"""One that begins with just these, of all that the campaign has."""


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("server_binary")
def test_job_that_everything_befalls_loses_nothing(run_campaign: RunCampaign) -> None:
    """Worker, coordinator and server killed, workers frozen, cut off and all gone: in one run."""
    flags = ("--invoices", "5500", "--rate", "200", "--blows", str(len(BLOWS)), "--seed", SEED)
    figures = run_campaign("tests.cluster", *flags, "--within", "180")
    assert figures["blows"] == dict.fromkeys(BLOWS, 1)
    assert [figures[name] for name in ("lost", "wrong", "written_twice", "acted_on_twice")] == [0] * 4
    assert figures["posts_repeated"] <= figures["posts_repeated_at_most"]
    assert figures["worst_second"] <= 1.1 * 200
