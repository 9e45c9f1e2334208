"""One list on the command line: what it says, where it goes, and how signals end it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

from batchcancel.cli import say
from batchcancel.cli.ahead import say_what_expires
from batchcancel.cli.exit_codes import ExitCode
from batchcancel.cli.log import open_log_of
from batchcancel.cli.loop import run_in_loop
from batchcancel.cli.signals import Interrupted, signals_cancel, signals_raise
from batchcancel.errors import ReportError, SafetyStopError
from batchcancel.job.reading import Reading
from batchcancel.manifest import Format
from batchcancel.model import Event, ListProgressed
from batchcancel.observe import Broadcast
from batchcancel.observe.progress import tell_progress
from batchcancel.observe.words import list_json_line, list_sentence
from batchcancel.report import count_invoices, count_rows, mask
from batchcancel.report.files import NewFile, check_target
from batchcancel.settings import Settings
from batchcancel.tasks.listing import (
    Fit,
    Found,
    Row,
    Steadiness,
    Unsettled,
    Wanted,
    collect,
    for_one_merchant,
    format_of,
    write_rows,
    write_rows_to,
)

_CURRENCIES_NAMED: Final = 5


def run_list(
    settings: Settings, wanted: Wanted, *, out: Path | None, format_: str | None, force: bool
) -> int:
    """Read the list, write it, and return the exit code.

    Raises:
        BatchCancelError: It could not be read, or not be written.
        Interrupted: A signal came first.
    """
    kind = format_of(out) if format_ is None else Format(format_)
    if out is not None:
        check_target(out, force=force, inputs=())
        NewFile(out).discard()  # so that nobody has to find out after the last page
    what = f"batchcancel {version('batchcancel')}: listing {', '.join(wanted.statuses)}"
    say(f"{what} at {settings.host} ({settings.environment})")
    try:
        found = run_in_loop(partial(_collect, settings, wanted))
    except Interrupted as exc:
        raise Interrupted(exc.signum, what_was_left="nothing was written") from None
    except SafetyStopError:
        say("Nothing was written.", fg="yellow")
        raise
    _say_what_was_read(found)
    if found.is_torn:
        say(
            "Error: Invoices may be missing, so nothing was written. They end faster than they can be "
            "listed: say the same command again once that is over.",
            fg="red",
        )
        return ExitCode.ERRORS
    _say_what_was_compared(wanted, found.rows)
    _write(found.rows, kind, out)
    return ExitCode.DONE if found.is_whole else ExitCode.ERRORS


async def _collect(settings: Settings, wanted: Wanted, received: list[int]) -> Found:
    so_far = ListProgressed(rows=0)

    def note(event: Event) -> None:
        nonlocal so_far
        if isinstance(event, ListProgressed):
            so_far = event

    with signals_cancel(received), closing(open_log_of(settings)) as log:
        watchers = Broadcast(log, note)
        async with Reading(for_one_merchant(settings), on_event=watchers) as reading:
            say_what_expires(reading.expiries)
            async with tell_progress(
                settings.options.progress,
                line=lambda: list_sentence(so_far),
                document=lambda ended: list_json_line(so_far, ended=ended),
            ):
                return await collect(reading, wanted, on_event=watchers)


def _write(rows: tuple[Row, ...], format_: Format, out: Path | None) -> None:
    if out is None:
        _write_out(rows, format_)
        return
    try:
        with signals_raise():
            write_rows_to(out, rows, format_)
    except Interrupted as exc:
        raise Interrupted(exc.signum, what_was_left=f"{out} is there whole, or as it was") from None
    say(f"  wrote  {out}: {count_rows(len(rows))}, {out.stat().st_size:,} bytes")


def _write_out(rows: Iterable[Row], format_: Format) -> None:
    """Write to standard output; a reader that has gone away has had enough.

    Raises:
        ReportError: It can't be written.
    """
    try:
        write_rows(sys.stdout, rows, format_)
        sys.stdout.flush()
    except OSError as exc:
        # The interpreter would complain once more when it flushes at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(exc, BrokenPipeError):
            raise ReportError(f"Standard output can't be written: {exc.strerror}.") from exc


def _say_what_was_read(found: Found) -> None:
    pages = "1 page" if found.pages == 1 else f"{found.pages:,} pages"
    say(
        f"  read   {count_invoices(found.read)} of merchant {mask(found.merchant_id)} in {pages}, "
        f"{len(found.rows):,} fit"
    )
    if found.looked_up:
        say(
            f"  asked  {count_invoices(found.looked_up)} one by one: the list does not say when "
            f"{'it was' if found.looked_up == 1 else 'they were'} created"
        )
    for one in found.unsettled:
        say(_note_on(one), fg="yellow")
    for fit, count in found.doubtful.items():
        what = "without an id that can be sent" if fit is Fit.NO_ID else f"whose {fit} is not known"
        say(f"Warning: {count_invoices(count)} {what}, left out.", fg="yellow")


def _say_what_was_compared(wanted: Wanted, rows: Iterable[Row]) -> None:
    """Say so where a limit was held against several currencies: 100 of one is not 100 of another."""
    if wanted.min_amount is None and wanted.max_amount is None:
        return
    currencies = sorted({row.currency for row in rows if row.currency is not None})
    if len(currencies) > 1:
        say(
            f"Note: amounts were compared as numbers, in {len(currencies)} currencies: "
            f"{', '.join(currencies[:_CURRENCIES_NAMED])}{' ...' * (len(currencies) > _CURRENCIES_NAMED)}. "
            "--currency asks for one.",
            fg="yellow",
        )


def _note_on(one: Unsettled) -> str:
    """Say what happened to the list of a status while it was read."""
    counted = "" if one.total is None else f" It counts {one.total:,} now, and {one.rows:,} were listed."
    match one.steadiness:
        case Steadiness.SHORT:
            return f"Warning: the service lists fewer {one.status} invoices than it counts.{counted}"
        case Steadiness.TORN:
            return f"Warning: two pages of {one.status} had no invoice in common, whenever read.{counted}"
        case _:
            return (
                f"Note: the list of {one.status} changed whenever it was read. Each page was tied to the one "
                f"before: what may be missing was created, moved or ended meanwhile.{counted}"
            )
