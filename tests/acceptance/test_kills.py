"""The crash campaign, in the short version that fits a gate."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 30


@pytest.mark.timeout(240)
def test_thirty_kills_lose_nothing_and_write_nothing_wrong(
    project: Path, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    """Killed at random moments, every invoice ends in one true row; who is asked twice is bounded."""
    report = tmp_path / "campaign.json"
    ended = subprocess.run(
        [sys.executable, "-m", "tests.campaign", "--kills", str(KILLS), "--json", report],
        cwd=project,
        env=clean_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    figures = json.loads(report.read_text(encoding="utf-8"))
    assert (figures["kills"], figures["lost"], figures["wrong"], figures["twice"]) == (KILLS, 0, 0, 0)
    assert figures["share_in_flight"] >= 0.8
    assert figures["invoices"] > KILLS
    assert 0 < figures["of_several_merchants"] < figures["manifests"]
    assert figures["most_repeated_in_one_kill"] <= 512
