"""One reconciliation on the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Final

from batchcancel.cli import say, write_out
from batchcancel.cli.ahead import say_what_expires
from batchcancel.cli.exit_codes import ExitCode, of_signal
from batchcancel.cli.log import open_log_of
from batchcancel.cli.loop import run_in_loop
from batchcancel.cli.signals import Stops, signals_cancel, signals_stop
from batchcancel.cli.watching import BAD, DOUBTFUL, GOOD, watch
from batchcancel.errors import SettingsError
from batchcancel.job.course import COMPLETE, Ending
from batchcancel.job.reading import Reading
from batchcancel.model import RunState
from batchcancel.observe import Broadcast
from batchcancel.observe.progress import show_progress
from batchcancel.observe.watched import Count, Watched
from batchcancel.report import count_invoices, mask
from batchcancel.report.files import check_target, writing
from batchcancel.report.reading import LedgerFile, open_ledgers
from batchcancel.settings import Settings
from batchcancel.tasks.reconcile import (
    Account,
    Census,
    Comparison,
    Differences,
    Mark,
    Reconciled,
    Reconciliation,
    Sample,
    check_account,
    first_run_of,
    reconciled_json,
    reconciled_text,
)

_FORGETFUL: Final = (
    "The simulator that --env sandbox starts begins anew with each command, so it knows nothing of what the "
    "ledger's runs did. Start one that stays ('batchcancel sandbox --port 8080'), and name it with "
    "--base-url in the run and here."
)
_MARKS: Final = {
    Mark.SAME: ("same", GOOD),
    Mark.DIFFERENT: ("different", DOUBTFUL),
    Mark.MISSING: ("missing", BAD),
    Mark.UNREAD: ("unread", BAD),
}


def reconcile_ledger(
    settings: Settings, sample: Sample | None, differences: Path | None, *, force: bool
) -> int:
    """Compare a ledger with the service, show what differs, and return the exit code.

    Args:
        settings: What is called, how fast, and the ledger.
        sample: Which part is looked at; None for everything.
        differences: Where the file of differences goes; None for none.
        force: Whether that file may be replaced.

    Raises:
        BatchCancelError: It could not begin, the ledger is damaged, or the file can't be written.
        Interrupted: A signal came before anything was sent.
    """
    if settings.base_url is None:
        raise SettingsError(_FORGETFUL)
    ledger, watchers = settings.ledger, Broadcast()
    reading = Reading(settings, on_event=watchers)
    run = first_run_of(ledger)
    if run is not None:  # at once: the rest of the ledger may take minutes
        env, merchant_id = settings.environment, reading.merchant_id
        check_account(run, env=env, merchant_id=merchant_id, ledger=str(ledger))
    if differences is not None:
        check_target(differences, force=force, inputs=[ledger])
    account, received = Account(), list[int]()
    with open_ledgers([ledger]) as read:
        if not read.answers:
            say(f"Nothing to do: {ledger} has no row of an invoice.")
            return ExitCode.DONE
        with _kept(account, differences) as take:
            reconciliation = Reconciliation(read, sample=sample, on_comparison=take)
            _say_what_is_ahead(reading, reconciliation, read.files[0])
            began_at, ending = monotonic(), COMPLETE
            if reconciliation.census.in_sample:
                look_up = partial(_look_up, reading, reconciliation, account, watchers, received)
                ending = run_in_loop(look_up)
    reconciled = Reconciled(
        ledger=str(ledger),
        env=settings.environment,
        host=settings.host,
        merchant_id=reading.merchant_id,
        is_live=read.files[0].is_live,
        ending=ending,
        census=reconciliation.census,
        sample=sample,
        account=account,
        differences=None if differences is None else str(differences),
        duration_s=round(monotonic() - began_at, 3),
    )
    code = _code_of(ending, account, signum=received[0] if received else None)
    _write(reconciled, as_json=settings.options.json, exit_code=code)
    return code


async def _look_up(
    reading: Reading,
    reconciliation: Reconciliation,
    account: Account,
    watchers: Broadcast,
    received: list[int],
    before: list[int],
) -> Ending:
    """Look up what there is to look up; ``received`` takes the signals that stop it."""
    settings, census = reading.settings, reconciliation.census
    with signals_cancel(before), closing(open_log_of(settings)) as log:
        watchers.add(log)
        async with reading:
            await reading.open(census.in_sample_of.keys())
            with signals_stop(reading, cancels=False) as stops:
                watched = _watched(reading, census, account, stops)
                async with show_progress(settings.options.progress, watched) as progress:
                    watchers.add(progress)
                    ending = await reconciliation.look_up(reading)
    received += stops.received
    return ending


def _watched(reading: Reading, census: Census, account: Account, stops: Stops) -> Watched:
    """Return what there is to watch of a reconciliation: invoices that were compared, by their mark."""

    def counts() -> tuple[Count, ...]:
        return tuple(
            Count(key=key, text=f"{mark} {key}", number=account.count(mark), style=style)
            for mark, (key, style) in _MARKS.items()
        )

    limit = reading.settings.options.limit
    to_ask = census.in_sample if limit is None else min(census.in_sample, limit)
    return watch(
        reading,
        stops,
        total=census.unfit + to_ask,  # those that nobody can be asked about have their mark by now
        counted_as="marks",
        counts=counts,
        vitals=partial(reading.vitals, to_settle=census.in_sample),
    )


@contextmanager
def _kept(account: Account, path: Path | None) -> Iterator[Callable[[Comparison], None]]:
    """Give what takes comparisons: into the account, and into a file if one is wanted.

    The file is in its place once the block has ended well, and as far as it came if the look-ups stopped.

    Raises:
        ReportError: The file can't be written.
    """
    if path is None:
        yield account.note
        return
    with writing([path]) as files, files[path].temporary.open("w", encoding="utf-8", newline="") as file:
        differences = Differences(file)

        def take(one: Comparison) -> None:
            account.note(one)
            differences.write(one)

        yield take


def _say_what_is_ahead(reading: Reading, reconciliation: Reconciliation, file: LedgerFile) -> None:
    settings, census = reading.settings, reconciliation.census
    part = f"{census.in_sample:,} of " if census.in_sample < census.to_ask else ""
    say(
        f"batchcancel {version('batchcancel')}: {part}{count_invoices(census.to_ask)} to look up, "
        f"at {settings.host} ({settings.environment}), merchant {mask(reading.merchant_id)}"
    )
    say(f"  ledger    {file.path}")
    say_what_expires(reading.expiries)
    if file.is_live:
        say("Note: a run is writing to the ledger. Its rows as of now are compared.", fg="yellow")
    elif file.torn_bytes:
        say(
            f"Note: the ledger's last write is unfinished ({file.torn_bytes:,} bytes), as a crash leaves it; "
            "what it was about is not compared.",
            fg="yellow",
        )


def _write(reconciled: Reconciled, *, as_json: bool, exit_code: int) -> None:
    ending = reconciled.ending
    if ending.state is RunState.STOPPED and not ending.as_asked:
        say(f"Stopped: {ending.why}", fg="red")
    text = (
        reconciled_json(reconciled, exit_code=exit_code).decode() + "\n"
        if as_json
        else reconciled_text(reconciled)
    )
    write_out(text)


def _code_of(ending: Ending, account: Account, *, signum: int | None) -> int:
    if ending.state is RunState.STOPPED and not ending.as_asked:
        return ExitCode.SAFETY_STOP
    if signum is not None:
        return of_signal(signum)
    if ending.as_asked:
        return ExitCode.AS_ASKED
    return ExitCode.ERRORS if account.findings else ExitCode.DONE
