"""One job under fire, in the short version that fits a gate."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BLOWS = {
    "kill -9 of a worker",
    "kill -9 of the coordinator",
    "kill -9 of the server, 6 s away",
    "kill -9 of all workers, SIGTERM of the coordinator",
    "a worker frozen for 6 to 14 s",
    "a worker cut off for 6 to 14 s",
}
SEED = "3348"
"""One that begins with just these, of all that the campaign has."""


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("server_binary")
def test_job_that_everything_befalls_loses_nothing(
    project: Path, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    """Worker, coordinator and server killed, workers frozen, cut off and all gone: in one run."""
    report = tmp_path / "campaign.json"
    flags = ("--invoices", "7000", "--rate", "200", "--blows", str(len(BLOWS)), "--within", "180")
    ended = subprocess.run(
        [sys.executable, "-m", "tests.cluster", *flags, "--seed", SEED, "--json", report],
        cwd=project,
        env=clean_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    figures = json.loads(report.read_text(encoding="utf-8"))
    assert figures["blows"] == dict.fromkeys(BLOWS, 1)
    assert [figures[name] for name in ("lost", "wrong", "written_twice", "acted_on_twice")] == [0] * 4
    assert figures["posts_repeated"] <= figures["posts_repeated_at_most"]
    assert figures["worst_second"] <= 1.1 * 200
