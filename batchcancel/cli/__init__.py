"""Arguments in, exit code out."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NoReturn

import click

_COMMANDS: Final = {
    "plan": "Look before: say what a run would do, and change nothing.",
    "run": "Cancel the invoices of a manifest and write what became of each.",
    "submit": "Do what run does, with the work done by workers on any number of hosts.",
    "worker": "Work on what submit hands out, until told to go.",
    "status": "Say how far the jobs of submit are.",
    "pause": "Let no new cancelation of such a job leave for now.",
    "resume": "Let it go on.",
    "set-rate": "Set how many requests a second it may send.",
    "cancel": "End it.",
    "report": "Say what became of the invoices; write a page, CSV, XLSX, JSONL or what is left.",
    "verify": "Check a ledger from its file alone; salvage a damaged one.",
    "doctor": "Look at everything that a run needs, and say what to mend.",
    "sandbox": "Serve a simulator of the invoicing API on loopback.",
}


_HOMES: Final = dict.fromkeys(("status", "pause", "resume", "set-rate", "cancel"), "control")
"""Where commands are that share a module; each other one has a module of its own name."""


class _LazyGroup(click.Group):
    """Commands whose modules are imported only when they are called: help has to be quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(
            import_module(f"batchcancel.cli.{_HOMES.get(cmd_name, cmd_name)}"), cmd_name.replace("-", "_")
        )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="batchcancel", message="batchcancel %(version)s")
def batchcancel() -> None:
    """Cancel unpaid Visa Acceptance (Cybersource) invoices in bulk.

    Try it without credentials, against the built-in simulator:

        batchcancel run samples/invoices.csv --env sandbox
    """


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

    try:
        code = batchcancel.main(arguments, prog_name="batchcancel", standalone_mode=False)
    except click.ClickException as exc:
        say(f"Error: {exc.format_message()}", fg="red")
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt) as exc:
        # click turns every KeyboardInterrupt into its own Abort.
        interrupt = exc.__cause__ or exc
        say("Interrupted; nothing was sent.", fg="yellow")
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
    colour = None if not os.environ.get("NO_COLOR") else False
    try:
        click.secho(line, fg=fg, err=True, color=colour)
    except OSError:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for the rest of the process


def write_out(text: str) -> None:
    """Write a result to standard output; where that can't be done, the exit code still tells.

    A reader that has gone away is no reason to fail, and no reason to say so.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as exc:
        if not isinstance(exc, BrokenPipeError):
            say(f"Warning: standard output can't be written: {exc.strerror}.", fg="yellow")
        # The interpreter would complain once more when it flushes at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
