"""``batchcancel run``: the main job."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from types import UnionType
from typing import Any, Final, get_args, get_origin

import click
from msgspec import Meta

from batchcancel.cli import say
from batchcancel.cli.help import TaskCommand, complete_path, flag
from batchcancel.cli.mistakes import Word
from batchcancel.settings.options import HINTS, Options, Task

_PATHS: Final = frozenset({"PATH", "FILE"})
"""What a flag's value is called where it is a path."""


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add every flag of ``Options`` to a command: by task, then in their order."""
    tasks = list(Task)
    annotated = {name: get_args(HINTS[name]) for name in Options.__struct_fields__}
    flags = [name for name, (_, meta) in annotated.items() if meta.extra["flag"]]
    flags.sort(key=lambda name: tasks.index(annotated[name][1].extra["task"]))
    for name in reversed(flags):
        command = _option(name, *annotated[name])(command)
    return command


def _option(name: str, hint: Any, meta: Meta) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # noqa: ANN401
    """Make one flag; its value goes on as text, settings convert and check it."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kind = kinds[0]
    extra = meta.extra or {}
    given: dict[str, Any] = {"default": None, "help": _help(name, meta), "task": extra["task"]}
    if kind is bool:
        given["is_flag"] = True
    elif isinstance(kind, type) and issubclass(kind, StrEnum):
        given["type"] = Word([str(choice) for choice in kind])
    else:
        given |= {"metavar": extra["metavar"], "multiple": get_origin(kind) is tuple}
    if extra["metavar"] in _PATHS:
        given["shell_complete"] = complete_path
    return flag("--" + name.replace("_", "-"), name, **given)


def _help(name: str, meta: Meta) -> str:
    default = Options.__struct_defaults__[Options.__struct_fields__.index(name)]
    shown = f" (default: {default:g})" if isinstance(default, int | float) and default is not False else ""
    if isinstance(default, str):
        shown = f" (default: {default})"
    return f"{meta.description}{shown}".replace(") (", "; ")


@click.command(
    cls=TaskCommand,
    examples=[
        (
            "Try it without credentials, against the built-in simulator",
            "batchcancel run samples/invoices.csv --env sandbox",
        ),
        (
            "Cancel an export that should hold 300 invoices, five of them first",
            "batchcancel run export.csv --env production --expect-count 300 --canary 5",
        ),
        (
            "Cancel only what still has the amount that the export says",
            "batchcancel run export.csv --env production --match 'Open amount=total'",
        ),
        (
            "Every night, without a terminal, for an hour at most",
            "batchcancel run export.csv --env production --yes --max-duration 3600",
        ),
        (
            "One invoice, from standard input",
            "echo 2675 | batchcancel run - --format txt --env test --ledger one.jsonl",
        ),
    ],
)
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...", shell_complete=complete_path)
@_options
def run(manifests: tuple[str, ...], **flags: Any) -> int:  # noqa: ANN401 - checked by settings
    """Cancel the invoices that MANIFEST names, and write what became of each into a ledger.

    MANIFEST is a CSV, TSV, JSONL or plain text file of invoice ids, also as .gz; - is standard input.
    Run the same command again after any interruption: what has an answer is not asked again.

    Credentials come from the environment or batchcancel.toml, never from the command line:
    BATCHCANCEL_MERCHANT_ID, BATCHCANCEL_KEY_ID, BATCHCANCEL_SHARED_SECRET (or _FILE).
    """
    from batchcancel.cli.session import run_job  # noqa: PLC0415 - help has to be quick
    from batchcancel.settings import load_settings  # noqa: PLC0415 - likewise

    settings = load_settings(
        manifests, **{name: value for name, value in flags.items() if value is not False}
    )
    for warning in settings.warnings:
        say(f"Warning: {warning}", fg="yellow")
    return run_job(settings)
