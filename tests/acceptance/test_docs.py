"""Every command in the tutorial and the how-to pages is run, and what they show is what it says.

The simulator stands in the place of the service: ``--env test`` and ``--env production`` become
``--env sandbox``. ``export.csv`` is the sample.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from batchcancel.settings.options import Options

if TYPE_CHECKING:
    from tests.acceptance.conftest import RunCommand, Simulator

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
PAGES: Final = (
    "tutorial.md",
    *(f"how-to/{name}.md" for name in ("audit", "clean-up", "list", "migrate", "resume")),
)
NOT_RUN: Final = {
    "install": "it would take the network; the README's own command is what .ci/run installs with",
    "key": "it names a key that is nobody's",
}
"""Blocks that are marked, and why no test runs them."""
EXPECTED_CODES: Final = {"3", "7"}
"""Some invoices ended in an error; stopped where asked."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block of commands."""

    marker: str
    script: str
    shown: str | None
    """What the page says that it writes; None if it does not say."""


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of commands of a page, each with the output that follows it directly."""
    pattern = r"(?:^<!-- ([\w-]+) -->\n)?^```sh\n(.*?)^```\n(?:\n^```text\n(.*?)^```\n)?"
    found = re.finditer(pattern, text, re.MULTILINE | re.DOTALL)
    return [Block(match[1] or "", match[2], match[3]) for match in found]


def in_the_sandbox(text: str) -> str:
    """Put the simulator in the place of the service."""
    text = re.sub(r"--env (?:test|production)\b", "--env sandbox", text)
    return re.sub(r"\.(?:test|production)\.ledger", ".sandbox.ledger", text)


def words(text: str) -> list[str]:
    """Split into words, whatever the rules, without what is of one run: times, sizes, users, random ids."""
    text = re.sub(r"^  (time|a run|2\d{3}-|-{3}).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"[\d,]+ bytes", "N bytes", text)
    of_one_run = "run_id|correlation_id|submitted_at|at|latency_ms|crc"
    return re.sub(rf'"({of_one_run})": .*', r'"\1"', text).split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with the samples."""
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    shutil.copy(ROOT / "samples/invoices.csv", tmp_path / "export.csv")
    return tmp_path


@pytest.fixture
def service(folder: Path, page: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """Return the variables that name the service: for the audit one that stays, with the ledger of a run."""
    if page != "how-to/audit.md":
        return {}
    simulator: Simulator = request.getfixturevalue("simulator")
    run_command: RunCommand = request.getfixturevalue("run_command")
    service = simulator.env | {"BATCHCANCEL_BASE_URL": simulator.base_url}
    assert run_command("run", "export.csv", "--env", "sandbox", env=service).returncode == 3
    return service


@pytest.mark.parametrize("page", PAGES)
def test_every_command_works_and_says_what_is_shown(
    page: str,
    folder: Path,
    service: dict[str, str],
    clean_environment: dict[str, str],
    command_path: Path,
) -> None:
    """In the order of the page, each block in a shell of its own; none fails in the middle."""
    environment = (
        clean_environment
        | service
        | {
            "PATH": f"{command_path.parent}{os.pathsep}{clean_environment['PATH']}",
            "BASH_ENV": str(folder / "watch"),
        }
    )
    codes = folder / "codes"
    (folder / "watch").write_text(f"trap 'echo $? >> {codes}' ERR\nset -o pipefail\n", encoding="utf-8")
    codes.touch()
    blocks = blocks_of((DOCS / page).read_text(encoding="utf-8"))
    for block in blocks:
        if block.marker in NOT_RUN:
            continue
        ended = subprocess.run(
            ["/bin/bash", "-c", in_the_sandbox(block.script)],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
            timeout=100,
        )
        said = ended.stdout
        assert set(codes.read_text(encoding="utf-8").split()) <= EXPECTED_CODES, said
        assert not re.search(r"^Error: |^bash: |^Traceback", said, re.MULTILINE), said
        if block.shown is not None:
            assert words(said) == words(block.shown)
    assert len([block for block in blocks if block.marker not in NOT_RUN]) >= 3


def test_only_blocks_with_a_reason_are_not_run() -> None:
    """One of each."""
    markers = [
        block.marker for page in PAGES for block in blocks_of((DOCS / page).read_text(encoding="utf-8"))
    ]
    assert sorted(marker for marker in markers if marker in NOT_RUN) == sorted(NOT_RUN)


def test_every_page_with_commands_is_run() -> None:
    """A new how-to page has to be listed here; nightly.md has a test of its own."""
    pages = {f"how-to/{path.name}" for path in (DOCS / "how-to").glob("*.md")} - {"how-to/nightly.md"}
    assert {"tutorial.md", *pages} == set(PAGES)


def test_the_installation_is_the_readme_s() -> None:
    """With the libraries for the page besides, and the environment switched on."""
    (block,) = (
        one
        for one in blocks_of((DOCS / "tutorial.md").read_text(encoding="utf-8"))
        if one.marker == "install"
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    installation = block.script.strip().replace("'.[report]'", ".").removesuffix(" && . .venv/bin/activate")
    assert f"{installation} && " in readme


def every_page() -> list[Path]:
    """Return every page for people."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", every_page(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file of the repository, and to a heading that it has."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)\s]*)\)", text):
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        if heading and file.is_file():
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {anchor(one) for one in headings}, target
        assert file.exists() or path.endswith("nightly.md"), target


def anchor(heading: str) -> str:
    """Return what a heading is linked by."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", every_page(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_variable_named_is_an_option(page: Path) -> None:
    """Two of them choose the file and its profile."""
    named = {
        name.lower() for name in re.findall(r"\bBATCHCANCEL_([A-Z0-9_]+)", page.read_text(encoding="utf-8"))
    }
    assert named - {"config", "profile"} <= set(Options.__struct_fields__)


def test_pictures_are_small() -> None:
    """They are loaded by everyone who reads the README."""
    pictures = [*DOCS.rglob("*.png")]
    assert pictures
    assert all(picture.stat().st_size < 150_000 for picture in pictures)
