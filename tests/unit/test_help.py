"""What help shows: commands and flags by task, examples that work, lines that fit."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from batchcancel.cli import batchcancel as group
from batchcancel.cli import mistakes
from batchcancel.cli.help import TaskCommand, TaskOption
from batchcancel.settings.options import HINTS, Task

CONTEXT = click.Context(group)
COMMANDS = group.list_commands(CONTEXT)


def command(name: str) -> TaskCommand:
    """Return a command; every one has to be of the kind with examples and tasks."""
    found = group.get_command(CONTEXT, name)
    assert isinstance(found, TaskCommand)
    return found


def help_of(*words: str, width: int = 100) -> str:
    """Return what ``--help`` shows on a terminal of that width."""
    result = CliRunner().invoke(group, [*words, "--help"], terminal_width=width, prog_name="batchcancel")
    assert result.exit_code == 0
    return result.output


def sections(text: str) -> dict[str, list[str]]:
    """Return the lines under each heading."""
    parts = re.split(r"(?m)^(\S.*):$", text)
    return {
        heading: body.strip("\n").split("\n") for heading, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def command_lines(name: str) -> Iterator[list[str]]:
    """Yield the words of each example of a command that a shell would start, without the command's name."""
    for _, line in command(name).examples:
        for part in re.split(r"\||\$\(", line):
            words = shlex.split(part.split(">")[0].rstrip(')" '))
            if words[0] == "batchcancel":
                yield words[1:]


def test_every_command_stands_in_one_task_with_its_purpose() -> None:
    """The whole list, each once, and nothing under a heading that has nothing."""
    shown = sections(help_of())
    tasks = {heading: lines for heading, lines in shown.items() if heading not in {"Examples", "Options"}}
    named = [line.split()[0] for lines in tasks.values() for line in lines if re.match(r"  \w", line)]
    assert sorted(named) == sorted(COMMANDS)
    assert next(iter(tasks)) in {"Look before", "Do it"}
    assert all(lines != [""] for lines in tasks.values())


def test_every_flag_of_run_stands_in_the_section_that_its_declaration_names() -> None:
    """The declaration is the only list, and no section is empty."""
    shown = sections(help_of("run"))
    named = {
        flag: heading
        for heading, lines in shown.items()
        if heading != "Examples"
        for line in lines
        if (flag := line.strip().partition(" ")[0]).startswith("--")
    }
    declared = {
        "--" + name.replace("_", "-"): hint.__metadata__[0].extra["task"].value
        for name, hint in HINTS.items()
        if hint.__metadata__[0].extra["flag"]
    }
    assert {flag: named[flag] for flag in declared} == declared
    others = {"--out", "--force", "--config", "--profile"}
    assert named.keys() - declared.keys() == others, "flags of the command alone, and what chooses the file"
    assert [heading for heading in shown if heading != "Examples"] == [*Task, named["--config"], "Help"]


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("name", ["", *COMMANDS], ids=lambda name: name or "all")
def test_help_fits_its_terminal(name: str, width: int) -> None:
    """No line is broken by the terminal, command lines in examples included."""
    text = help_of(*name.split(), width=width)
    assert [line for line in text.splitlines() if len(line) > width] == []
    assert max(map(len, text.splitlines())) > 60


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_parse(name: str) -> None:
    """Each is a call that the command takes, and is shown."""
    lines = list(command_lines(name))
    assert lines
    for words in lines:
        assert words[0] == name
        with command(name).make_context(name, list(words[1:]), resilient_parsing=False) as context:
            assert context.params
    assert all(line in help_of(name) for _, line in command(name).examples)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_says_what_it_does(name: str) -> None:
    """In one style: no capital at its start, no full stop at its end, a task of its own."""
    flags = [one for one in command(name).params if isinstance(one, click.Option)]
    for flag in flags:
        assert isinstance(flag, TaskOption), flag.opts
        assert flag.help, flag.opts
        assert not flag.help.endswith("."), flag.opts
        assert flag.help[0].islower() or flag.help.startswith(("POST", "Retry-After", "0:")), flag.opts


def test_descriptions_begin_at_one_column() -> None:
    """Also where a section has a flag that is too long for its column, as run has."""
    text = help_of("run", width=100)
    columns = {match.end() for match in re.finditer(r"(?m)^  --[\w-]+ (?:\S+ )? {1,}(?=\S)", text)}
    starts = {
        match.end() - text.rfind("\n", 0, match.end())
        for match in re.finditer(r"(?m)^  --\S+ \S* {2,}", text)
    }
    assert columns
    assert len(starts) == 1


def test_no_command_shows_the_help_and_is_a_mistake() -> None:
    """The same text as --help, on standard error."""
    result = CliRunner().invoke(group, [], prog_name="batchcancel", terminal_width=100)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == help_of()


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(
            ["reprot", "x"],
            "There is no command 'reprot'. Did you mean report? 'batchcancel --help' lists them all.",
            id="command",
        ),
        pytest.param(
            ["zzz"], "There is no command 'zzz'. 'batchcancel --help' lists them all.", id="command, not near"
        ),
        pytest.param(
            ["--vrsion"], "There is no flag --vrsion. Did you mean --version?", id="flag before a command"
        ),
        pytest.param(["run", "x", "--evn", "test"], "There is no flag --evn. Did you mean --env?", id="flag"),
        pytest.param(
            ["run", "x", "--max-eror", "1"],
            "There is no flag --max-eror. Did you mean --max-errors?",
            id="flag, nearest of three",
        ),
        pytest.param(["run", "x", "--zzz"], "There is no flag --zzz.", id="flag, not near"),
        pytest.param(
            ["run", "x", "--env", "prodcution"],
            "--env takes sandbox, test or production, not 'prodcution'. Did you mean production?",
            id="word",
        ),
        pytest.param(
            ["report", "x", "--outcome", "partial_paid"],
            "--outcome takes canceled, already_paid, partially_paid or error, not 'partial_paid'. "
            "Did you mean partially_paid?",
            id="word of another command",
        ),
        pytest.param(
            ["completion", "powershell"],
            "This command takes bash, zsh or fish, not 'powershell'.",
            id="word without a flag",
        ),
        pytest.param(["verify", "a", "b"], "Got unexpected extra argument (b).", id="too many"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_nearest_right_word(words: list[str], said: str) -> None:
    """The words of click itself would name three, or none."""
    with pytest.raises(click.ClickException) as caught:
        group.main(words, prog_name="batchcancel", standalone_mode=False)
    assert mistakes.sentence(caught.value) == said
    assert caught.value.exit_code == 2
