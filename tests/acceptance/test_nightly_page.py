"""What docs/how-to/nightly.md says, held against samples and code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from batchcancel.cli.exit_codes import ExitCode

_ALARMS = {1, 2, 3, 4, 6}


@pytest.fixture
def page(project: Path) -> str:
    """Read the page."""
    return (project / "docs" / "how-to" / "nightly.md").read_text(encoding="utf-8")


def test_every_exit_code_is_judged_once(page: str) -> None:
    """Those that a run can end with, and all others."""
    rows = re.findall(r"(?m)^\| ([0-9, ]+) \| (yes|no) \|", page)
    judged = {int(code): word == "yes" for codes, word in rows for code in codes.split(",")}
    assert judged == {code: code in _ALARMS for code in (*map(int, ExitCode), 129, 130, 143)}
    assert "| anything else | yes |" in page


def test_every_file_that_is_linked_is_there(page: str, project: Path) -> None:
    """And every sample of a schedule is named."""
    folder = project / "docs" / "how-to"
    links = re.findall(r"\]\((?!#)([^)#]+)\)", page)
    assert links
    assert [link for link in links if not (folder / link).exists()] == []
    samples = [
        path.name for name in ("cron", "kubernetes") for path in (project / "samples" / name).iterdir()
    ]
    assert [name for name in samples if name not in page and name != "secret.yaml"] == []


def test_every_place_inside_the_page_is_there(page: str) -> None:
    """Its table of contents leads somewhere."""
    headings = {re.sub(r"[^\w\s-]", "", line).strip().lower().replace(" ", "-") for line in _headings(page)}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= headings


def _headings(page: str) -> list[str]:
    return re.findall(r"(?m)^## (.+)$", page)


def test_every_path_of_a_real_machine_is_the_samples_own(page: str, project: Path) -> None:
    """What is installed by the page is looked for by the samples in the same places."""
    installed = {
        "/etc/batchcancel/batchcancel.toml": ("batchcancel-nightly", "batchcancel.service"),
        "/etc/batchcancel/shared-secret": ("batchcancel.service",),
        "/opt/batchcancel/bin/batchcancel": ("batchcancel-nightly", "batchcancel.service"),
        "/srv/export/unpaid.csv": ("batchcancel-nightly", "batchcancel.service"),
        "/usr/local/bin/batchcancel-nightly": ("crontab",),
    }
    for place, names in installed.items():
        assert place in page
        for name in names:
            assert place in (project / "samples" / "cron" / name).read_text(encoding="utf-8")
