"""Shells complete the installed command: in a real bash, zsh and fish, each where it is installed."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import RunCommand

FLAGS_MAX: Final = {
    "--max-duration", "--max-errors", "--max-error-rate", "--max-mismatch", "--max-attempts", "--max-outage",
}  # fmt: skip
# What is typed, and what is offered: the words, or the names of files.
WORDS: Final[dict[str, set[str]]] = {
    "batchcancel repo": {"report"},
    "batchcancel comp": {"completion"},
    "batchcancel run --max-": FLAGS_MAX,
    "batchcancel run --env ": {"sandbox", "test", "production"},
    "batchcancel run --env t": {"test"},
    "batchcancel run some.csv --rate 3 --env t": {"test"},
    "batchcancel run --env=test --retry-errors ": {"open", "all", "none"},
    "batchcancel report some.csv --outcome p": {"partially_paid"},
    "batchcancel completion ": {"bash", "zsh", "fish"},
}
PATHS: Final = (
    "batchcancel run so",
    "batchcancel run --ledger so",
    "batchcancel run --exclude so",
    "batchcancel report so",
    "batchcancel report --html so",
    "batchcancel verify so",
    "batchcancel sandbox --certificate so",
)
_WAIT_S: Final = 30.0


@pytest.fixture
def shell_environment(
    clean_environment: dict[str, str], command_path: Path, tmp_path: Path
) -> dict[str, str]:
    """Make an environment in which shells find the command, and a folder with one file that may be meant."""
    (tmp_path / "some.csv").touch()
    (tmp_path / "other.csv").touch()
    path = f"{command_path.parent}{os.pathsep}{clean_environment.get('PATH', os.defpath)}"
    return clean_environment | {"PATH": path, "TERM": "dumb", "PS1": "> ", "COLUMNS": "200"}


def shell(name: str) -> str:
    """Return where a shell is; the test is skipped, and says so, where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {name}")
    return found


def run_script(command: list[str], script: str, env: Mapping[str, str], folder: Path) -> str:
    """Run a shell's script and return what it writes; it must have nothing to complain about."""
    ended = subprocess.run(
        [*command, script], env=env, cwd=folder, capture_output=True, encoding="utf-8", check=True, timeout=60
    )
    assert ended.stderr == ""
    return ended.stdout


# --- bash -----------------------------------------------------------------------------------------

BASH: Final = r"""
eval "$(batchcancel completion bash)"
compopt() { COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")); }
COMP_LINE=$1 words=${1//=/ = }
read -ra COMP_WORDS <<< "$words"
[[ $1 == *[\ =] ]] && COMP_WORDS+=("")
[[ $1 == *= ]] && unset 'COMP_WORDS[-1]'
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
complete -p batchcancel > /dev/null
_batchcancel_completion batchcancel
printf '%s\n' "${COMPREPLY[@]}"
"""


def in_bash(line: str, env: Mapping[str, str], folder: Path) -> set[str]:
    """Return what bash offers after a line; it splits words at an equals sign, as by default."""
    command = [shell("bash"), "--norc", "-c", BASH, "bash"]
    return set(run_script(command, line, env, folder).split())


@pytest.mark.parametrize("line", [*WORDS, "batchcancel run --env=t", "batchcancel run --env="])
def test_bash_completes_words(line: str, shell_environment: dict[str, str], tmp_path: Path) -> None:
    """Commands, flags and the words that a flag takes; behind an equals sign too."""
    expected = WORDS.get(line) or WORDS[line.replace("=", " ")]
    assert in_bash(line, shell_environment, tmp_path) == expected


@pytest.mark.parametrize("line", PATHS)
def test_bash_completes_paths(line: str, shell_environment: dict[str, str], tmp_path: Path) -> None:
    """Manifests, ledgers and whatever else is a file."""
    assert in_bash(line, shell_environment, tmp_path) == {"some.csv"}


# --- fish -----------------------------------------------------------------------------------------


def in_fish(line: str, env: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return what fish offers after a line, with its descriptions."""
    script = f"batchcancel completion fish | source; complete --do-complete '{line}'"
    offered = run_script([shell("fish"), "--no-config", "-c"], script, env, folder)
    return {
        word: description for word, _, description in (one.partition("\t") for one in offered.splitlines())
    }


@pytest.mark.parametrize("line", [*WORDS, "batchcancel run --env=t"])
def test_fish_completes_words(line: str, shell_environment: dict[str, str], tmp_path: Path) -> None:
    """Behind an equals sign the whole argument comes back, as fish wants it."""
    expected = WORDS.get(line) or {"--env=test"}
    assert set(in_fish(line, shell_environment, tmp_path)) == expected


def test_fish_shows_descriptions_to_their_end(shell_environment: dict[str, str], tmp_path: Path) -> None:
    """The first comma is not the end."""
    (description,) = in_fish("batchcancel run --max-mis", shell_environment, tmp_path).values()
    assert description.startswith("stop when more of them are paid, missing or not")


@pytest.mark.parametrize("line", PATHS)
def test_fish_completes_paths(line: str, shell_environment: dict[str, str], tmp_path: Path) -> None:
    """Manifests, ledgers and whatever else is a file."""
    assert set(in_fish(line, shell_environment, tmp_path)) == {"some.csv"}


# --- zsh ------------------------------------------------------------------------------------------


def complete_in_zsh(typed: str, completed: str, env: Mapping[str, str], folder: Path) -> None:
    """Type a line and a tab into an interactive zsh; fail unless the line becomes what it should."""
    script = run_script(["sh", "-c"], "batchcancel completion zsh", env, folder)
    (folder / "_batchcancel").write_text(script, encoding="utf-8")
    terminal, inside = pty.openpty()
    with subprocess.Popen(
        [shell("zsh"), "-f", "-i"], stdin=inside, stdout=inside, stderr=inside, env=env, cwd=folder,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            os.close(inside)
            os.write(terminal, b"fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D; print RE''ADY\n")
            _read_until(terminal, lambda seen: "READY\r\n" in seen)
            os.write(terminal, typed.encode() + b"\t")
            _read_until(terminal, lambda seen: _last_line(seen).removeprefix("> ").rstrip() == completed)
        finally:
            process.kill()
            os.close(terminal)


def _read_until(terminal: int, is_there: Callable[[str], bool]) -> None:
    seen, give_up_at = "", time.monotonic() + _WAIT_S
    while not is_there(seen):
        assert time.monotonic() < give_up_at, f"the terminal shows {seen!r}"
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 65536).decode()


def _last_line(seen: str) -> str:
    """Return a terminal's line as a person sees it: carriage returns and backspaces applied."""
    line: list[str] = []
    column = 0
    for char in re.sub(r"\x1b\[\?\d+[hl]", "", seen):
        if char == "\n":
            line = []
        elif char == "\r":
            column = 0
        elif char == "\b":
            column -= 1
        elif char.isprintable():
            line[column : column + 1] = char
            column += 1
    return "".join(line)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("batchcancel repo", "batchcancel report"),
        ("batchcancel run --env t", "batchcancel run --env test"),
        ("batchcancel run --env=t", "batchcancel run --env=test"),
        ("batchcancel run --max-o", "batchcancel run --max-outage"),
        ("batchcancel run so", "batchcancel run some.csv"),
        ("batchcancel run --ledger so", "batchcancel run --ledger some.csv"),
        ("batchcancel run --ledger=so", "batchcancel run --ledger=some.csv"),
    ],
)
def test_zsh_completes(typed: str, completed: str, shell_environment: dict[str, str], tmp_path: Path) -> None:
    """Commands, flags, words and paths, as a person sees them; nothing of the line is lost."""
    complete_in_zsh(typed, completed, shell_environment, tmp_path)


# --- the scripts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shell_name", "parts"),
    [
        ("bash", ("_BATCHCANCEL_COMPLETE=bash_complete", "complete -o nosort")),
        ("zsh", ("#compdef batchcancel", "compset -P '--*='\n            _path_files -f")),
        ("fish", ("_BATCHCANCEL_COMPLETE=fish_complete", 'string split --max 1 ","')),
    ],
)
def test_each_script_is_click_s_with_what_is_mended(
    shell_name: str, parts: tuple[str, ...], run_command: RunCommand
) -> None:
    """Where a shell is not installed, at least a change of click's own scripts is noticed."""
    ended = run_command("completion", shell_name)
    assert (ended.returncode, ended.stderr) == (0, "")
    for part in parts:
        assert part in ended.stdout


# --- what it costs --------------------------------------------------------------------------------

LOADED: Final = (
    "import sys\n"
    "from batchcancel.cli import main\n"
    "try:\n"
    "    main([])\n"
    "finally:\n"
    "    print(*sys.modules, file=sys.stderr)\n"
)


@pytest.mark.parametrize("words", ["batchcancel ", "batchcancel run --", "batchcancel report --outcome "])
def test_completion_is_quick_and_loads_nothing_heavy(
    words: str, clean_environment: dict[str, str], command_path: Path, tmp_path: Path
) -> None:
    """A person waits for it: as little CPU time as the help, and no library of a run."""
    count = str(len(words.split()) if words.endswith(" ") else len(words.split()) - 1)
    asked = {"_BATCHCANCEL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": count}
    environ = {name: text for name, text in clean_environment.items() if not name.startswith("COVERAGE_")}
    python = command_path.parent / "python"
    used = []
    for _ in range(3):
        before = os.times()
        ended = subprocess.run(
            [python, "-c", LOADED], env=environ | asked, cwd=tmp_path, capture_output=True, encoding="utf-8",
            check=True, timeout=60,
        )  # fmt: skip
        after = os.times()
        used.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    assert ended.stdout.startswith("plain,")
    assert min(used) < 0.3
    loaded = {name.partition(".")[0] for name in ended.stderr.split()}
    assert loaded & {"aiohttp", "structlog", "rich", "asyncio", "cryptography", "jinja2", "uvloop"} == set()


@pytest.mark.parametrize(
    "words", ["batchcancel nosuch ", "batchcancel run --nosuch ", "batchcancel run --env x "]
)
def test_completion_never_complains(words: str, run_command: RunCommand) -> None:
    """A line that is wrong already, or not yet right, is no reason to write into a person's prompt."""
    asked = {
        "_BATCHCANCEL_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split())),
    }
    ended = run_command(env=asked)
    assert (ended.returncode, ended.stderr) == (0, "")
