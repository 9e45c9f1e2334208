"""What the README says, held against the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchcancel.cli.exit_codes import ExitCode
from batchcancel.model import Outcome, Reason, Result
from batchcancel.settings.options import Options

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


def section(text: str, heading: str) -> str:
    """Return the text under a heading."""
    return text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


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


def test_every_reason_and_outcome_is_explained(readme: str) -> None:
    """Each reason has its row, beside the right outcome, and says whether it is asked again."""
    rows = re.findall(
        r"^\|(.*?)\| (`.*?`) \| .*? \| (yes|no) \|$",
        section(readme, "What it does with each invoice"),
        re.MULTILINE,
    )
    explained, outcome = {}, ""
    for first, reasons, again in rows:
        outcome = first.strip("` ") or outcome
        for reason in re.findall(r"`(\w+)`", reasons):
            explained[reason] = (outcome, again)
    assert explained == {
        reason.value: (reason.outcome.value, "no" if reason.is_final else "yes") for reason in Reason
    }
    assert {outcome for outcome, _ in explained.values()} == set(Outcome)


def test_every_field_of_a_result_is_explained_in_order(readme: str) -> None:
    """The table of fields is the ledger's."""
    table = section(readme, "The ledger")
    cells = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert named == ["type", "run_id", *Result.__struct_fields__, "crc"]


def test_every_exit_code_is_explained(readme: str) -> None:
    """No code is missing, and none is made up."""
    codes = re.findall(r"^\| ([\d, ]+) \|", section(readme, "Exit codes"), re.MULTILINE)
    named = [int(code) for cell in codes for code in cell.split(",")]
    assert named == [*ExitCode, 129, 130, 143]


def test_every_variable_named_is_an_option(readme: str) -> None:
    """Variables in the README exist; two of them choose the file and its profile."""
    named = {name.lower() for name in re.findall(r"BATCHCANCEL_([A-Z0-9_]+)", readme)}
    assert named - {"config", "profile"} <= set(Options.__struct_fields__)


def test_transcripts_are_what_the_command_says(
    readme: str, run_command: RunCommand, project: Path, tmp_path: Path
) -> None:
    """Both runs of the samples and the report read as shown, word for word; only times and places differ."""
    (tmp_path / "samples").symlink_to(project / "samples")
    *runs, report = re.findall(r"^```text\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    for transcript in runs:
        ended = run_command("run", "samples/invoices.csv", "--env", "sandbox")
        assert _words(ended.stderr + ended.stdout) == _words(transcript)
    assert len(runs) == 2
    ended = run_command("report", "invoices.sandbox.ledger.jsonl")
    assert _words(ended.stdout) == _words(report)


def _words(text: str) -> list[str]:
    """Split into words, whatever the line breaks and rules, without what is of one run: time, user, host."""
    return re.sub(r"^  (time|2\d{3}-|-{3}).*$", "", text, flags=re.MULTILINE).split()
