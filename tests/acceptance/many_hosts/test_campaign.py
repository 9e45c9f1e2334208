"""One job under fire, in the short version that fits a gate."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("server_binary")
def test_job_that_everything_befalls_loses_nothing(
    project: Path, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    """Each of its blows once: killed, told to go, frozen, cut off, paused, without workers, in one run."""
    report = tmp_path / "campaign.json"
    flags = ("--invoices", "9000", "--rate", "200", "--blows", "11", "--seed", "8", "--within", "180")
    ended = subprocess.run(
        [sys.executable, "-m", "tests.cluster", *flags, "--json", report],
        cwd=project,
        env=clean_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    figures = json.loads(report.read_text(encoding="utf-8"))
    assert list(figures["blows"].values()) == [1] * 11
    assert [figures[name] for name in ("lost", "wrong", "written_twice", "acted_on_twice")] == [0] * 4
    assert figures["posts_repeated"] <= figures["posts_repeated_at_most"]
    assert figures["worst_second"] <= 1.1 * 200
