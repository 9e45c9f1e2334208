"""``batchcancel config``: the effective options, and why each has its value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from batchcancel.cli import say, write_out
from batchcancel.cli.engine import add_engine_flags
from batchcancel.cli.exit_codes import ExitCode
from batchcancel.cli.flags import add_flags, given
from batchcancel.cli.help import TaskCommand, complete_path

if TYPE_CHECKING:
    from batchcancel.settings.explanation import Explanation


@click.command(
    cls=TaskCommand,
    examples=[
        ("See what there is, and what a run would need", "batchcancel config"),
        (
            "See what a command means: put config in the place of run",
            "batchcancel config export.csv --profile nightly --rate 5",
        ),
    ],
)
@click.argument("manifests", nargs=-1, metavar="[MANIFEST]...", shell_complete=complete_path)
@add_flags()
@add_engine_flags
def config(manifests: tuple[str, ...], **flags: Any) -> int:  # noqa: ANN401 - checked by settings
    """Show the value of every option of a run and where it came from; secrets are masked.

    It takes what `batchcancel run` takes, with or without MANIFEST: put `config` in the place of `run` in a
    command to see what the command means. What a source overrode stands below it. Nothing is sent, and no
    ledger is touched. --json writes the same for programs.

    Exit code 0: every value that is given is good, whether or not a run would need more. 2: one is not.
    """
    from batchcancel.settings.explanation import explain_settings  # noqa: PLC0415 - help has to be quick

    explanation = explain_settings(manifests, **given(flags))
    for warning in explanation.warnings:
        say(f"Warning: {warning}", fg="yellow")
    if flags["json"]:
        write_out(_as_json(explanation))
    else:
        write_out("\n".join(_as_text(explanation)) + "\n")
    return ExitCode.DONE


def _as_json(explanation: Explanation) -> str:
    """Write one JSON object in ASCII.

    Keys: ``file profile profiles options missing warnings``; of each option ``value source overridden``,
    of what was overridden ``value source``.
    """
    import json  # noqa: PLC0415 - help has to be quick

    from msgspec import to_builtins  # noqa: PLC0415 - likewise

    return json.dumps(to_builtins(explanation)) + "\n"


def _as_text(explanation: Explanation) -> Iterator[str]:
    from batchcancel.report.words import aligned, ascii_only  # noqa: PLC0415 - help has to be quick

    profile = "" if explanation.profile is None else f", profile {ascii_only(explanation.profile)}"
    others = ", ".join(map(ascii_only, explanation.profiles))
    if explanation.file is None:
        yield "No configuration file."
    elif explanation.profile is None and others:
        yield f"Configuration file {ascii_only(explanation.file)}, no profile (it has {others})."
    else:
        yield f"Configuration file {ascii_only(explanation.file)}{profile}."
    yield ""
    rows = [("option", "value", "source")]
    for name, option in explanation.options.items():
        rows.append((name, ascii_only(_written(option.value)), ascii_only(option.source)))
        rows += [
            ("", ascii_only(_written(one.value)), f"overridden: {ascii_only(one.source)}")
            for one in option.overridden
        ]
    yield from aligned(rows, right=frozenset())
    if explanation.missing:
        yield ""
        yield "Missing for a run"
        yield from (f"  {sentence}" for sentence in explanation.missing)


def _written(value: Any) -> str:  # noqa: ANN401 - of any option
    """Write a value as it would stand in a command."""
    match value:
        case None:
            return "-"
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}"
        case list() | tuple():
            return ", ".join(map(str, value)) or "-"
        case _:
            return str(value)
