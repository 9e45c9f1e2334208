"""``batchcancel list``: a manifest made from the service itself."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from batchcancel.cli import say
from batchcancel.cli.conditions import STATUSES, Status, amount, currency, day
from batchcancel.cli.flags import CHOOSE_FILE, add_flags, given
from batchcancel.cli.help import TaskCommand, flag
from batchcancel.cli.mistakes import Word

if TYPE_CHECKING:
    from batchcancel.tasks.listing import Wanted

FORMATS: Final = ("csv", "jsonl")
_FLAGS: Final = (
    "env",
    "base_url",
    "concurrency",
    "rate",
    "timeout",
    "max_attempts",
    "max_outage",
    "progress",
    "log_format",
    "log_level",
    "log_file",
)
_WHICH: Final = "Which invoices; conditions hold together"
_WHERE: Final = "Where the manifest goes"
_DAY: Final = timedelta(days=1)


@click.command(
    name="list",
    cls=TaskCommand,
    examples=[
        (
            "Try it against the built-in simulator, which makes up 2,500 invoices",
            "batchcancel list --env sandbox --due-before 2025-03-01 --out old.csv",
        ),
        (
            "What was sent and is small, in dollars",
            "batchcancel list --env test --status SENT --max-amount 5 --currency USD",
        ),
    ],
)
@flag(
    "--status",
    "statuses",
    task=_WHICH,
    type=Status(),
    multiple=True,
    metavar="STATUS",
    help=f"of this status: {', '.join(STATUSES)}; may be repeated "
    "(default: DRAFT, CREATED and SENT, which can be canceled)",
)
@flag("--due-before", task=_WHICH, type=day, metavar="DAY", help="due on an earlier day")
@flag("--due-after", task=_WHICH, type=day, metavar="DAY", help="due on a later day")
@flag(
    "--currency",
    "currencies",
    task=_WHICH,
    type=currency,
    multiple=True,
    metavar="CODE",
    help="in this currency; may be repeated",
)
@flag(
    "--min-amount",
    task=_WHICH,
    type=amount,
    metavar="N",
    help="with this total at least, in whatever currency; say --currency too where that matters",
)
@flag(
    "--max-amount",
    task=_WHICH,
    type=amount,
    metavar="N",
    help="with this total at most, likewise",
)
@flag("--created-before", task=_WHICH, type=day, metavar="DAY", help="created on an earlier day, UTC")
@flag("--created-after", task=_WHICH, type=day, metavar="DAY", help="created on a later day, UTC")
@flag(
    "--out",
    task=_WHERE,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="write there; packed if it ends in .gz (default: standard output)",
)
@flag(
    "--format",
    "format_",
    task=_WHERE,
    type=Word(FORMATS),
    help="how to write (default: by the file's name, else csv)",
)
@flag("--force", task=_WHERE, is_flag=True, help="replace the file if it is there")
@add_flags(_FLAGS)
def list_invoices(
    statuses: tuple[str, ...],
    currencies: tuple[str, ...],
    out: Path | None,
    format_: str | None,
    *,
    force: bool,
    **flags: Any,  # noqa: ANN401 - conditions, and options that the settings check
) -> int:
    """Write a manifest of the invoices that the service lists: id, status, due, amount, currency.

    Look at it, then give it to 'batchcancel run'; with --match amount=total that cancels only what still
    has the amount that was listed.

    All pages are read before anything is written, by GET alone. Others may change the list meanwhile: that is
    noticed, and the list is read again, three times at most. If pages have lost each other even then, so
    that invoices may be missing, nothing is written.

    Exit code 0: written. 2: something to mend. 3: nothing was written because pages lost each other, or
    invoices were left out because it is not known whether they belong; both is said. 4: the key is
    refused, or the service can't be reached.
    """
    from batchcancel.cli.listing import run_list  # noqa: PLC0415 - help has to be quick
    from batchcancel.settings import load_settings  # noqa: PLC0415 - likewise

    conditions = {name: flags.pop(name) for name in list(flags) if name not in {*_FLAGS, *CHOOSE_FILE}}
    wanted = _wanted(statuses, currencies, **conditions)
    settings = load_settings((), for_run=False, **given(flags))
    for warning in settings.warnings:
        say(f"Warning: {warning}", fg="yellow")
    return run_list(settings, wanted, out=out, format_=format_, force=force)


def _wanted(
    statuses: tuple[str, ...],
    currencies: tuple[str, ...],
    *,
    due_before: date | None,
    due_after: date | None,
    created_before: date | None,
    created_after: date | None,
    min_amount: Decimal | None,
    max_amount: Decimal | None,
) -> Wanted:
    """Put the conditions together, in half-open ranges.

    Raises:
        click.UsageError: No invoice could fulfil them.
    """
    from batchcancel.tasks.listing import CANCELABLE, Wanted  # noqa: PLC0415 - help has to be quick

    _check_order("due", due_after, due_before)
    _check_order("created", created_after, created_before)
    if min_amount is not None and max_amount is not None and min_amount > max_amount:
        raise click.UsageError(f"--min-amount {min_amount} is more than --max-amount {max_amount}.")
    return Wanted(
        statuses=tuple(one for one in STATUSES if one in (statuses or CANCELABLE)),
        due_from=None if due_after is None else (due_after + _DAY).isoformat(),
        due_before=None if due_before is None else due_before.isoformat(),
        currencies=frozenset(currencies),
        min_amount=min_amount,
        max_amount=max_amount,
        created_from=None if created_after is None else _begin_of(created_after + _DAY),
        created_before=None if created_before is None else _begin_of(created_before),
    )


def _check_order(what: str, after: date | None, before: date | None) -> None:
    if after is not None and before is not None and after + _DAY >= before:
        raise click.UsageError(f"No day is after --{what}-after {after} and before --{what}-before {before}.")


def _begin_of(day: date) -> float:
    """Return when a day begins, UTC, as Unix seconds."""
    return datetime.combine(day, time(), UTC).timestamp()
