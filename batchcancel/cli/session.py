"""One run on the command line: what it says, what it asks, and how signals end it."""

from __future__ import annotations

import asyncio
import gc
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Final

import click

from batchcancel.cli import exit_codes, say, write_out
from batchcancel.errors import BatchCancelError, SettingsError
from batchcancel.gates import check_typed_count, needs_typed_count
from batchcancel.job import Job
from batchcancel.model import RunState, RunSummary
from batchcancel.observe import Broadcast
from batchcancel.observe.controls import Controls
from batchcancel.observe.logs import Log, open_log
from batchcancel.observe.progress import show_progress
from batchcancel.pipeline import DRAIN_S
from batchcancel.report import count_invoices, count_merchants, count_rows, mask, summary_json, summary_text
from batchcancel.settings import Environment, LogFormat, Settings

_GARBAGE_AFTER: Final = 50_000
"""Objects that are made and still there, before garbage is looked for."""
_SIGNALS: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal came while nothing was being sent."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


def run_job(settings: Settings) -> int:
    """Run a job to its end, show it to a person, and return the exit code.

    Raises:
        BatchCancelError: The run could not begin, or its ledger failed.
        Interrupted: A signal came before anything was sent.
    """
    page = _checked_page(settings)
    received: list[int] = []
    with (
        _signals_raise(),
        _collected_seldom(),
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        try:
            code, is_interrupted, has_ledger = runner.run(_run_job(settings, received))
        except asyncio.CancelledError:
            if not received:
                raise
            raise Interrupted(received[0]) from None
        if page is not None and has_ledger:
            _write_page(settings.ledger, page, is_interrupted=is_interrupted)
        return code


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the fastest event loop that is installed; None for Python's own."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415 - it may not be there
    except ImportError:
        return None
    return new_event_loop


async def _run_job(settings: Settings, before_run: list[int]) -> tuple[int, bool, bool]:
    """Return the exit code, whether a signal ended the run, and whether it wrote into the ledger."""
    with _signals_cancel(before_run), closing(_open_log(settings)) as log:
        watchers = Broadcast(log)
        async with Job(settings, on_event=watchers) as job:
            if job.has_rows:
                _say_what_is_ahead(job)
                _say_what_expires(job)
                _say_what_is_torn(job)
                await _confirm(job)
            stops = _Stops(job)
            with _signals_stop(stops):
                async with show_progress(
                    settings.options.progress, total=_most_rows(job), controls=_controls(job, stops)
                ) as progress:
                    watchers.add(progress)
                    summary = await job.run()
    code = exit_codes.of_summary(summary, signum=stops.received[0] if stops.received else None)
    _write_result(summary, as_json=settings.options.json, exit_code=code)
    return code, bool(stops.received), summary.run_id is not None


def _most_rows(job: Job) -> int:
    """Return how many results there will be if nothing stops the run but its limit."""
    check, limit = job.check, job.settings.options.limit
    return check.to_settle if limit is None else check.to_settle - check.open + min(check.open, limit)


def _controls(job: Job, stops: _Stops) -> Controls:
    """Say what the keys of the live view do; q is Ctrl-C in all but the name."""
    return Controls(
        vitals=job.vitals,
        pause=job.pause,
        resume=job.resume,
        stop=lambda: stops.stop(signal.SIGINT, said_by="q"),
    )


def _checked_page(settings: Settings) -> Path | None:
    """Return where ``--report`` wants its page; None if it is not wanted.

    Raises:
        ReportError: It could not be written, so that nobody has to find out after the run.
    """
    if settings.options.report is None:
        return None
    from batchcancel.report.make import Outputs, check_outputs  # noqa: PLC0415 - few runs need it

    page = Path(settings.options.report)
    check_outputs(Outputs(html=page), inputs=[settings.ledger, *map(Path, settings.manifests)])
    return page


def _write_page(ledger: Path, page: Path, *, is_interrupted: bool) -> None:
    """Write the page; the run is over, so that nothing here may change its exit code."""
    from batchcancel.report.make import Outputs, make_report  # noqa: PLC0415 - few runs need it

    again = f"'batchcancel report {shlex.quote(str(ledger))} --html {shlex.quote(str(page))}' writes it."
    if is_interrupted:  # who sends a signal wants the end
        say(f"No page was written, since the run was interrupted. {again}", fg="yellow")
        return
    try:
        make_report([ledger], Outputs(html=page))
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is said, and what the run did stands
        said = str(exc) if isinstance(exc, BatchCancelError) else f"a defect ({type(exc).__name__})."
        say(f"Warning: no page was written: {said} {again}", fg="yellow")
    else:
        say(f"  page      {page}")


def _open_log(settings: Settings) -> Log:
    options = settings.options
    try:
        return open_log(
            level=options.log_level,
            as_json=options.log_format is LogFormat.JSON,
            path=Path(options.log_file) if options.log_file else None,
        )
    except OSError as exc:
        raise SettingsError(f"The log file {options.log_file} can't be written: {exc.strerror}.") from exc


def _say_what_is_ahead(job: Job) -> None:
    check, settings = job.check, job.settings
    limit = settings.options.limit
    most = f", at most {limit:,} of them now" if limit is not None and limit < check.open else ""
    notes = [
        f"{count:,} {what}"
        for count, what in (
            (check.distinct - check.open - check.excluded - check.held_back, "settled earlier"),
            (check.excluded, "excluded"),
            (check.held_back, "with an error that is held back"),
            (check.invalid, "with an invalid id"),
            (check.duplicates, "repeated"),
        )
        if count
    ]
    whose = f"merchant {mask(job.merchant_id)}"
    if settings.options.merchant_column is not None:
        whose = f"portfolio {mask(job.merchant_id)}, {count_merchants(len(check.merchants))}"
    say(
        f"batchcancel {version('batchcancel')}: {count_invoices(check.open)} to cancel{most}, "
        f"at {settings.host} ({settings.environment}), {whose}"
    )
    say(
        f"  manifest  {count_rows(check.rows)}, {count_invoices(check.distinct, 'distinct ')}"
        + (f" ({', '.join(notes)})" if notes else "")
    )
    say(f"  ledger    {settings.ledger}")


def _say_what_expires(job: Job) -> None:
    for expiry in job.expiries:
        say(f"  key       {expiry.what} {expiry.path}, valid until {expiry.date}")
    for expiry in job.expiries:
        if (warning := expiry.warning(time.time())) is not None:
            say(f"Warning: {warning}", fg="yellow")


def _say_what_is_torn(job: Job) -> None:
    if job.torn_bytes:
        say(
            f"Note: the ledger's last write is unfinished. Its {job.torn_bytes} bytes are cut off and kept "
            f"in {job.settings.ledger}.torn; what they were about is asked again.",
            fg="yellow",
        )


async def _confirm(job: Job) -> None:
    """Have a person type the number of invoices, where that is asked for.

    Raises:
        GateRefusedError: It was not typed, or nobody could be asked.
    """
    count = min(job.check.open, job.settings.options.limit or job.check.open)
    if not count:
        return
    if needs_typed_count(
        is_production=job.settings.environment is Environment.PRODUCTION,
        yes=job.settings.options.yes,
        has_terminal=sys.stdin.isatty() and sys.stderr.isatty(),
    ):
        say("Canceling can't be undone.", fg="yellow")
        click.echo(f"Type the number of invoices ({count}) to go on: ", nl=False, err=True)
        check_typed_count(await _typed_line(), expected=count)


async def _typed_line() -> str:
    """Return the next line from the terminal; a signal ends the wait for it."""
    loop, descriptor, has_come = asyncio.get_running_loop(), sys.stdin.fileno(), asyncio.Event()
    loop.add_reader(descriptor, has_come.set)
    try:
        await has_come.wait()
    finally:
        loop.remove_reader(descriptor)
    return sys.stdin.readline()


@contextmanager
def _collected_seldom() -> Iterator[None]:
    """Look for garbage seldom: a run makes hardly any that counting references does not free.

    By default the collector walks all requests in flight hundreds of times a second, for nothing.
    """
    thresholds = gc.get_threshold()
    gc.freeze()  # what was imported stays
    gc.set_threshold(_GARBAGE_AFTER, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Make each signal that ends a run raise while no loop runs; one that is ignored (nohup) stays so."""

    def interrupt(signum: int, _frame: FrameType | None) -> None:
        raise Interrupted(signum)

    previous = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    for signum, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(signum, interrupt)
    try:
        yield
    finally:
        for signum, handler in previous.items():
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, handler)


@contextmanager
def _signals_cancel(received: list[int]) -> Iterator[None]:
    """Make the first signal cancel this task, until ``_signals_stop`` takes over; collect those that came.

    A handler that raises would do so anywhere in the event loop's own work, too: what a thread has done
    might then never be told, and the run would wait for it without an end.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine asks

    def cancel(signum: int) -> None:
        if not received:
            task.cancel()
        received.append(signum)

    previous = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    for signum, handler in previous.items():
        if handler is not signal.SIG_IGN:
            loop.add_signal_handler(signum, cancel, signum)
    try:
        yield
    finally:
        for signum, handler in previous.items():
            if loop.remove_signal_handler(signum):
                signal.signal(signum, handler)


class _Stops:
    """Stop a job for a signal or a key, and abort it for the second one."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.received: list[int] = []
        """The signals that came; a key counts as the signal that it stands for."""

    def stop(self, signum: int, *, said_by: str | None = None) -> None:
        """Stop, and say so.

        Args:
            signum: The signal.
            said_by: The key that stands for it; None for the signal itself.
        """
        self.received.append(signum)
        name = signal.Signals(signum).name
        say(
            f"{said_by or name}: no new cancelation leaves; "
            f"waiting up to {DRAIN_S:.0f} s for what is in flight."
            if len(self.received) == 1
            else f"{said_by or name}: stopping at once.",
            fg="yellow",
        )
        self._job.stop(name)


@contextmanager
def _signals_stop(stops: _Stops) -> Iterator[None]:
    """Make each signal stop the job, and a second one abort it."""
    loop = asyncio.get_running_loop()
    previous = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    for signum, handler in previous.items():
        if handler is not signal.SIG_IGN:
            loop.add_signal_handler(signum, stops.stop, signum)
    try:
        yield
    finally:
        for signum, handler in previous.items():
            loop.remove_signal_handler(signum)
            # Once one has come, the exit code is its own: those after it must not change it on the way out.
            # Where none has, everything is on disk and a signal may end the process as it likes: the
            # handler from before the run would say that nothing was sent.
            ended_handler = signal.SIG_IGN if stops.received or handler is signal.SIG_IGN else signal.SIG_DFL
            signal.signal(signum, ended_handler)


def _write_result(summary: RunSummary, *, as_json: bool, exit_code: int) -> None:
    """Write the summary to standard output, and why a run stopped to standard error."""
    if summary.state is RunState.STOPPED and not summary.as_asked:
        say(f"Stopped: {summary.why}", fg="red")
    write_out(
        summary_json(summary, exit_code=exit_code).decode() + "\n" if as_json else summary_text(summary)
    )
