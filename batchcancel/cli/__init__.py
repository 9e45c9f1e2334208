"""Arguments in, exit code out."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Final, NoReturn

import click

from batchcancel.cli.help import MAX_WIDTH, Example, write_examples
from batchcancel.cli.mistakes import did_you_mean, sentence
from batchcancel.observe.colour import wants_colour

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_COMMANDS: Final[dict[str, dict[str, str]]] = {
    "Look before": {
        "list": "Make a manifest of the invoices that the service lists.",
        "plan": "Say what a run would do with the invoices of a manifest, and change nothing.",
    },
    "Do it": {
        "run": "Cancel the invoices of a manifest and write what became of each.",
    },
    "On many hosts": {
        "submit": "Do what run does, with the work done by workers on any number of hosts.",
        "worker": "Work on what submit hands out, until told to go.",
        "status": "Say how far the jobs of submit are.",
        "pause": "Let no new cancelation of such a job leave for now.",
        "resume": "Let it go on.",
        "set-rate": "Set how many requests a second it may send.",
        "cancel": "End it.",
    },
    "Understand after": {
        "report": "Say what became of the invoices; write a page, CSV, XLSX, JSONL or what is left.",
        "verify": "Check a ledger from its file alone; salvage a damaged one.",
        "reconcile": "Compare a ledger with the service by look-ups; list every difference.",
    },
    "Set up and try": {
        "doctor": "Look at everything that a run needs, and say what to mend.",
        "config": "Show the value of every option, where it came from and what it overrode.",
        "sandbox": "Serve a simulator of the invoicing API on loopback.",
        "completion": "Print the script with which a shell completes commands, flags and paths.",
    },
}
"""By task, each command with its purpose; its module and its function have its name, but see ``_NAMES``."""
_PURPOSES: Final = {name: purpose for commands in _COMMANDS.values() for name, purpose in commands.items()}

COMPLETION_VARIABLE: Final = "_BATCHCANCEL_COMPLETE"
"""What a shell sets to ask for completions; click's name for it."""


_NAMES: Final = {"list": "list_invoices"}
"""Commands whose module and function are called otherwise: a module of that name would hide a builtin."""


_HOMES: Final = dict.fromkeys(("status", "pause", "resume", "set-rate", "cancel"), "control")
"""Where commands are that share a module; each other one has a module of its own name."""


class _LazyGroup(click.Group):
    """Commands whose modules are imported only when they are called: help has to be quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(_PURPOSES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in _PURPOSES:
            return None
        name = _NAMES.get(cmd_name, cmd_name.replace("-", "_"))
        command: click.Command = getattr(import_module(f"batchcancel.cli.{_HOMES.get(cmd_name, name)}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not ctx.resilient_parsing and args[0] not in _PURPOSES and not args[0].startswith("-"):
            raise click.UsageError(
                f"There is no command {args[0]!r}.{did_you_mean(args[0], _PURPOSES)}"
                " 'batchcancel --help' lists them all."
            )
        return super().resolve_command(ctx, args)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        write_examples(formatter, _EXAMPLES)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        width = max(map(len, _PURPOSES))
        for task, commands in _COMMANDS.items():
            if commands:
                with formatter.section(task):
                    formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete commands from the table: click would import every one for its description."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - help has to be quick

        commands = [
            CompletionItem(name, help=purpose)
            for name, purpose in _PURPOSES.items()
            if name.startswith(incomplete)
        ]
        return commands + click.Command.shell_complete(self, ctx, incomplete)


_EXAMPLES: Final[tuple[Example, ...]] = (
    (
        "Try it without credentials, against the built-in simulator",
        "batchcancel run samples/invoices.csv --env sandbox",
    ),
    (
        "See what became of the invoices",
        "batchcancel report invoices.sandbox.ledger.jsonl --html report.html",
    ),
    ("See every flag of a command", "batchcancel run --help"),
)


@click.group(
    cls=_LazyGroup,
    context_settings={"max_content_width": MAX_WIDTH},
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
)
@click.version_option(
    package_name="batchcancel",
    message=f"batchcancel %(version)s, Python {sys.version.split()[0]}",
    help="show the version, and Python's, and exit",
)
@click.help_option("-h", "--help", help="show this and exit")
@click.pass_context
def batchcancel(ctx: click.Context) -> None:
    """Cancel unpaid Visa Acceptance (Cybersource) invoices in bulk."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process with its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, as in 2>&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - to the end
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    """Run a command; known errors become one red line, only defects show a traceback."""
    from batchcancel.cli import exit_codes  # noqa: PLC0415 - see _LazyGroup
    from batchcancel.errors import BatchCancelError, ConservationError, ReadOnlyError  # noqa: PLC0415

    if COMPLETION_VARIABLE in os.environ:
        from batchcancel.cli.completion import register  # noqa: PLC0415 - for shells only

        register()
    try:
        code = batchcancel.main(arguments, prog_name="batchcancel", standalone_mode=False)
    except click.ClickException as exc:
        say(f"Error: {sentence(exc)}", fg="red")
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt) as exc:
        # click turns every KeyboardInterrupt into its own Abort.
        interrupt = exc.__cause__ or exc
        say(f"Interrupted; {getattr(interrupt, 'what_was_left', 'nothing was sent')}.", fg="yellow")
        return exit_codes.of_signal(getattr(interrupt, "signum", signal.SIGINT))
    except (ConservationError, ReadOnlyError):
        raise
    except BatchCancelError as exc:
        say(f"Error: {exc}", fg="red")
        return exit_codes.of_error(exc)
    return int(code or 0)


def say(line: str, *, fg: str | None = None) -> None:
    """Write a line for people to standard error, in colour on terminals only.

    A closed standard error is no reason to fail.
    """
    try:
        click.secho(line, fg=fg, err=True, color=wants_colour(sys.stderr))
    except OSError:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for the rest of the process


def write_out(text: str) -> bool:
    """Write a result to standard output; where that can't be done, the exit code still tells.

    A reader that has gone away is no reason to fail, and no reason to say so.

    Returns:
        False if the result is lost, for commands that have nothing else to tell.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as exc:
        if not isinstance(exc, BrokenPipeError):
            say(f"Warning: standard output can't be written: {exc.strerror}.", fg="yellow")
        # The interpreter would complain once more when it flushes at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return isinstance(exc, BrokenPipeError)
    return True
