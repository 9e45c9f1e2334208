"""The page on the architecture: its tables are made from the table of arrows and from the modules themselves.

``.venv/bin/pytest tests/unit --rewrite-docs -k docs`` writes them anew.
"""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from tests.conftest import HoldBlock

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs/architecture.md"


@pytest.fixture(scope="module")
def arrows() -> dict[str, Any]:
    """Read the table of arrows, and what finds the package's modules, from the test that holds them."""
    return runpy.run_path(str(ROOT / "tests/unit/test_architecture.py"))


def purpose(source: str) -> str:
    """Return the first paragraph of a module's docstring as a line of Markdown."""
    text = ast.get_docstring(ast.parse(source)) or ""
    line = " ".join(text.split("\n\n")[0].split()).replace("``", "`")
    return line.replace("<", "\\<").replace("|", "\\|")


def test_docs_of_parts_are_generated(hold_block: HoldBlock, arrows: dict[str, Any]) -> None:
    """A row for each part of the table of arrows."""
    lines = ["| part | of the package | third party |", "|---|---|---|"]
    for name, part in arrows["TABLE"].items():
        order = [one for one in arrows["TABLE"] if one in part.of_package]
        order += sorted(part.of_package - set(order))
        cells = [" ".join(f"`{one}`" for one in names) for names in (order, sorted(part.third_party))]
        lines.append(f"| `{name}` | {cells[0] or '-'} | {cells[1] or '-'} |")
    hold_block("architecture.md", "parts", "\n".join(lines))


def test_docs_of_modules_are_generated(hold_block: HoldBlock, arrows: dict[str, Any]) -> None:
    """A line for each module, in its own words, the parts in the order of the table."""
    found: dict[str, str] = arrows["modules"]()
    parts = list(arrows["TABLE"])
    ordered = sorted(found, key=lambda module: (parts.index(module.partition(".")[0]), module))
    lines = [f"{'  ' * module.count('.')}- `{module}`: {purpose(found[module])}" for module in ordered]
    hold_block("architecture.md", "modules", "\n".join(lines))


def test_every_module_says_in_a_line_what_it_is_for(arrows: dict[str, Any]) -> None:
    """Short enough for a map."""
    said = {module: purpose(source) for module, source in arrows["modules"]().items()}
    assert {module for module, line in said.items() if not line} == set()
    assert {module: len(line) for module, line in said.items() if len(line) > 200} == {}


def test_the_page_names_only_modules_that_are_there(arrows: dict[str, Any]) -> None:
    """In its prose too."""
    prose = PAGE.read_text(encoding="utf-8").partition("## The parts")[0]
    modules = set(arrows["modules"]())
    parts = {module.partition(".")[0] for module in modules}
    named = {one for one in re.findall(r"`([a-z_]+(?:\.[a-z_]+)*)`", prose) if one.partition(".")[0] in parts}
    assert len(named) > 15
    assert named - modules == set()
