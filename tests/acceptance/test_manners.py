"""How the command speaks: one line for a mistake, colours for terminals, the nearest right name."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import RunCommand

RED = "\x1b[31m"
MISTAKES = [
    pytest.param(("reprot",), id="command"),
    pytest.param(("run", "x.csv", "--evn", "sandbox"), id="flag"),
    pytest.param(("run", "x.csv", "--env", "sandbx"), id="word"),
    pytest.param(("run", "x.csv", "--env"), id="no value"),
    pytest.param(("run", "x.csv", "--env", "sandbox", "--rate", "fast"), id="number"),
    pytest.param(("run", "x.csv", "--env", "sandbox"), id="missing file"),
    pytest.param(("run",), id="no manifest"),
    pytest.param(("report", "x.jsonl"), id="missing ledger"),
    pytest.param(("report", "x.jsonl", "--manifest", "y"), id="half a pair"),
    pytest.param(("verify", "x.jsonl"), id="missing ledger to verify"),
    pytest.param(("sandbox", "--port", "abc"), id="port"),
    pytest.param(("sandbox", "--mle-key", "nowhere.pem"), id="key of the simulator"),
    pytest.param(("completion", "tcsh"), id="shell"),
]


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_red_line(run_command: RunCommand, words: tuple[str, ...]) -> None:
    """For people on a terminal; a pipe gets the same line without colours."""
    plain = run_command(*words)
    assert plain.stdout == ""
    (line,) = plain.stderr.splitlines()
    assert line.startswith("Error: ")
    assert line.endswith((".", "?"))
    assert "\x1b" not in line
    coloured = run_command(*words, env={"FORCE_COLOR": "1"})
    assert coloured.stderr == f"{RED}{line}\x1b[0m\n"
    assert coloured.returncode == plain.returncode != 0


@pytest.mark.parametrize(
    ("env", "has_colour"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=["terminal", "NO_COLOR", "dumb terminal"],
)
def test_a_terminal_gets_colours_unless_told(
    env: dict[str, str],
    *,
    has_colour: bool,
    command_path: Path,
    clean_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """On a real pseudo-terminal."""
    terminal, inside = pty.openpty()
    ended = subprocess.run(
        [command_path, "reprot"],
        stderr=inside,
        env=clean_environment | env,
        cwd=tmp_path,
        check=False,
        timeout=60,
    )
    os.close(inside)
    seen = os.read(terminal, 4096).decode()
    os.close(terminal)
    assert ended.returncode == 2
    assert "Did you mean report?" in seen
    assert ("\x1b" in seen) is has_colour


@pytest.mark.parametrize(
    ("flags", "nearest"),
    [
        (("--column", "invoce"), "invoice"),
        (("--column", "invoice", "--keep", "custmer"), "customer"),
        (("--column", "invoice", "--match", "amont=total"), "amount"),
        (("--column", "invoice", "--merchant-column", "shp"), "shop"),
    ],
    ids=["column", "keep", "match", "merchant-column"],
)
@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_a_mistyped_column_is_answered_with_the_nearest(
    run_command: RunCommand, tmp_path: Path, flags: tuple[str, ...], nearest: str, name: str
) -> None:
    """And with all that there are; nothing is sent."""
    columns = ("invoice", "customer", "amount", "shop")
    table = f"{','.join(columns)}\n1,2,3,4\n"
    objects = "{" + ",".join(f'"{column}":"1"' for column in columns) + "}\n"
    (tmp_path / name).write_text(objects if name.endswith("jsonl") else table, encoding="utf-8")
    ended = run_command("run", name, "--env", "sandbox", *flags)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert f"Did you mean {nearest!r}? There are: {', '.join(columns)}." in line
    assert list(tmp_path.glob("*.ledger.jsonl")) == []


def test_a_mistyped_variable_is_a_warning_with_the_nearest(run_command: RunCommand, tmp_path: Path) -> None:
    """The run goes on; where the option is needed, the error tells it."""
    (tmp_path / "m.txt").write_text("1\n", encoding="utf-8")
    mistyped = {"BATCHCANCEL_CONCURENCY": "3"}
    ended = run_command("run", "m.txt", "--env", "sandbox", env=mistyped)
    assert ended.returncode == 0
    assert "Did you mean BATCHCANCEL_CONCURRENCY?" in ended.stderr
    refused = run_command("run", "m.txt", env={"BATCHCANCEL_EVN": "sandbox"})
    assert refused.returncode == 2
    assert "Did you mean BATCHCANCEL_ENV?" in refused.stderr
