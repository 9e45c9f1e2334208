"""The crash campaign, in the short version that fits a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import RunCampaign

KILLS = 30


@pytest.mark.timeout(240)
def test_thirty_kills_lose_nothing_and_write_nothing_wrong(run_campaign: RunCampaign) -> None:
    """Killed at random moments, every invoice ends in one true row; who is asked twice is bounded."""
    figures = run_campaign("tests.campaign", "--kills", str(KILLS))
    assert (figures["kills"], figures["lost"], figures["wrong"], figures["twice"]) == (KILLS, 0, 0, 0)
    assert figures["share_in_flight"] >= 0.8
    assert figures["invoices"] > KILLS
    assert 0 < figures["of_several_merchants"] < figures["manifests"]
    assert figures["most_repeated_in_one_kill"] <= 512
