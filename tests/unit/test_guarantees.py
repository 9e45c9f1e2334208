"""No promise without a test: what docs/guarantees.md names has to be there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


def test_the_page_names_tests() -> None:
    """A page without names would pass everything below."""
    assert len(NAMED) > 40


@pytest.mark.parametrize(("path", "name"), NAMED, ids=lambda part: part.rpartition("/")[2])
def test_every_test_that_is_named_exists(path: str, name: str) -> None:
    """As a function of that file, at its top level."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in functions


def test_every_row_of_a_table_names_a_test() -> None:
    """A fault and a promise alone are only words."""
    rows = re.findall(r"^\| (?!fault|-).*", PAGE.partition("## The campaign")[0], re.MULTILINE)
    assert len(rows) > 30
    assert [row for row in rows if not re.search(r"`tests/[\w/]+\.py::\w+`", row)] == []
