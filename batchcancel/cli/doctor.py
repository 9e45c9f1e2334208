"""``batchcancel doctor``: what is well, what is not, and what to do about it."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import click

from batchcancel.cli import say, write_out
from batchcancel.cli.exit_codes import ExitCode, of_signal
from batchcancel.cli.flags import add_flags
from batchcancel.cli.help import TaskCommand, complete_path, flag
from batchcancel.observe.colour import wants_colour

if TYPE_CHECKING:
    from batchcancel.tasks.doctor import Check, Examination, Judged, LiveCheck

_COLOURS: Final = {
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
    "held": "green",
    "did_not_hold": "red",
}
_CHECKS: Final = "What is looked at besides"
_GRADE_WIDTH: Final = 4
_NAME_WIDTH: Final = 13
_VERDICT_WIDTH: Final = 12


@click.command(
    cls=TaskCommand,
    examples=[
        ("See what it looks at; nothing is needed for this", "batchcancel doctor --env sandbox"),
        ("Try the key and the way to the test host", "batchcancel doctor --env test"),
        ("Before a night's run", "batchcancel doctor --env production --ledger runs/july.ledger.jsonl"),
        (
            "Find out which assumed facts about the service hold",
            "batchcancel doctor --env test --live-check --json > facts.json",
        ),
    ],
)
@add_flags(("env", "base_url", "timeout"))
@flag(
    "--ledger",
    task=_CHECKS,
    metavar="PATH",
    shell_complete=complete_path,
    help="the ledger of a run to come: try its folder",
)
@flag(
    "--live-check",
    task=_CHECKS,
    is_flag=True,
    help="create three drafts, cancel them, and say which assumed facts about the service hold; test "
    "hosts and loopback only",
)
@flag("--json", "as_json", task="Output", is_flag=True, help="write everything as one JSON object")
def doctor(*, live_check: bool, as_json: bool, **flags: Any) -> int:  # noqa: ANN401 - checked by settings
    """Look at everything that a run needs, and say what to mend.

    One line a check: configuration, credentials, key files, ledger, network, certificate, and one signed
    read that changes nothing. Secrets are never shown, nor anything of them.

    --live-check creates three invoices over 1.00 USD, drafts that are sent to nobody, and cancels them,
    even when it fails half-way or is interrupted; any that it can't cancel are named. It asks for no
    confirmation. What it says of facts has no secret, no value of a reply and no id, so that it may be
    passed on.

    Exit code 0: nothing fails. 2: a run could not begin with these settings, or a live check was to be
    made in production. 3: a check failed, or an assumed fact did not hold.
    """
    from batchcancel.cli.loop import run_in_loop  # noqa: PLC0415 - help has to be quick
    from batchcancel.tasks.doctor import Examination  # noqa: PLC0415 - likewise

    colours = wants_colour(sys.stdout)
    examination = Examination(
        os.environ,
        flags,
        with_live_check=live_check,
        tell=(lambda _check: None) if as_json else lambda check: write_out(_line(check, colours=colours)),
    )
    received = run_in_loop(partial(_run, examination))
    code = _exit_code(examination, received)
    if as_json:
        write_out(_as_json(examination, code))
    else:
        write_out("".join(_end(examination, colours=colours)))
    return code


async def _run(examination: Examination, received: list[int]) -> list[int]:
    """Examine to the end, or until a signal; return the signals that came."""
    from asyncio import CancelledError  # noqa: PLC0415 - help has to be quick

    from batchcancel.cli.signals import signals_cancel  # noqa: PLC0415 - likewise

    with signals_cancel(received):
        try:
            await examination.run()
        except CancelledError:
            if not received:
                raise
            say("Interrupted: not everything was looked at.", fg="yellow")
    return received


def _exit_code(examination: Examination, received: list[int]) -> int:
    if received:
        return of_signal(received[0])
    if examination.settings is None:
        return ExitCode.USAGE
    return ExitCode.ERRORS if examination.has_finding else ExitCode.DONE


# --- for people -----------------------------------------------------------------------------------


def _line(check: Check, *, colours: bool) -> str:
    grade = _coloured(check.grade, _GRADE_WIDTH, colours=colours)
    todo = f" {check.todo}" if check.todo else ""
    stop = "." if todo and not check.found.endswith(".") else ""
    return f"{grade}  {check.name:<{_NAME_WIDTH}}  {_shown(check.found)}{stop}{_shown(todo)}\n"


def _end(examination: Examination, *, colours: bool) -> Iterator[str]:
    """Yield the facts of a live check, and the last line."""
    live = examination.live_check
    if live is not None:
        yield "\nWhat this package assumes of the service, and what was seen:\n\n"
        yield from (_fact(fact, colours=colours) for fact in live.facts)
        verdicts = Counter(fact.verdict for fact in live.facts)
        yield f"\n{', '.join(f'{count} {_words(verdict)}' for verdict, count in verdicts.items())}."
    counts = examination.counts
    failed = f"{_count(counts['fail'], 'check')} failed" if counts["fail"] else "No check failed"
    yield f"\n{failed}, {_count(counts['warn'], 'warning')}.\n"


def _fact(fact: Judged, *, colours: bool) -> str:
    verdict = _coloured(fact.verdict, _VERDICT_WIDTH, colours=colours)
    return f"{verdict}  {fact.assumed_by}: {fact.fact} Seen: {_shown(fact.seen)}.\n"


def _coloured(word: str, width: int, *, colours: bool) -> str:
    padded = f"{'FAIL' if word == 'fail' else _words(word):<{width}}"
    return click.style(padded, fg=_COLOURS.get(word)) if colours else padded


def _words(word: str) -> str:
    """Write a word of the JSON form for people."""
    return word.replace("_", " ")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _shown(text: str) -> str:
    """Make a text safe for every terminal: printable ASCII, escapes for the rest."""
    return "".join(
        char if char.isprintable() and char.isascii() else char.encode("unicode_escape").decode()
        for char in text
    )


# --- for programs ---------------------------------------------------------------------------------


def _as_json(examination: Examination, code: int) -> str:
    """Write one JSON object in ASCII.

    Keys: ``version env host merchant_id checks counts live_check exit_code``. ``checks`` have ``name grade
    found todo``; ``counts`` has every grade. ``live_check`` is null unless one has begun; it has ``requests
    made facts``: ``made`` lists ``id state`` of the invoices that it was to create, ``facts`` lists ``name
    verdict fact assumed_by seen``.
    """
    from batchcancel.report import mask  # noqa: PLC0415 - help has to be quick

    settings, target = examination.settings, examination.target
    credentials = None if settings is None else settings.credentials
    document = {
        "version": version("batchcancel"),
        "env": None if target is None else target.environment,
        "host": None if target is None else target.host,
        "merchant_id": None if credentials is None else mask(credentials.merchant_id),
        "checks": [
            {"name": one.name, "grade": one.grade, "found": one.found, "todo": one.todo}
            for one in examination.checks
        ],
        "counts": examination.counts,
        "live_check": None if examination.live_check is None else _live(examination.live_check),
        "exit_code": int(code),
    }
    return json.dumps(document) + "\n"


def _live(live: LiveCheck) -> dict[str, Any]:
    from msgspec import to_builtins  # noqa: PLC0415 - help has to be quick

    return {
        "requests": live.requests,
        "made": [{"id": one.id, "state": one.state} for one in live.made],
        "facts": to_builtins(live.facts),
    }
