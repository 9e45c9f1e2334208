"""What the README says, held against the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import RunCommand


@pytest.fixture
def readme(project: Path) -> str:
    """Read the README."""
    return (project / "README.md").read_text(encoding="utf-8")


def block_after(text: str, marker: str) -> str:
    """Return the first code block after a marker."""
    match = re.search(rf"^{re.escape(marker)}$.*?^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert match, f"{marker} has no code block"
    return match.group(1)


def test_library_example_runs_as_it_stands(
    readme: str, project: Path, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    """The example cancels the samples in the simulator and prints what became of each."""
    program = block_after(readme, "## As a library")
    (tmp_path / "samples").symlink_to(project / "samples")
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=clean_environment,
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    lines = ended.stdout.splitlines()
    assert lines[0] == "300 invoices to cancel"
    assert lines[-1].startswith("complete Tally(")
    assert len(lines) == 308


def test_transcripts_are_what_the_command_says(
    readme: str, run_command: RunCommand, project: Path, tmp_path: Path
) -> None:
    """Both runs of the samples read as shown, but for times and places; the report can be made of them."""
    (tmp_path / "samples").symlink_to(project / "samples")
    runs = re.findall(r"^```text\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    for transcript in runs:
        ended = run_command("run", "samples/invoices.csv", "--env", "sandbox")
        assert _words(ended.stderr + ended.stdout) == _words(transcript)
    assert len(runs) == 2
    command = block_after(readme, "## See what became of them").split()
    assert run_command(*command[1:]).returncode == 0


def _words(text: str) -> list[str]:
    """Split into words, whatever the line breaks and rules, without what is of one run: time, user, host."""
    return re.sub(r"^  (time|2\d{3}-|-{3}).*$", "", text, flags=re.MULTILINE).split()
