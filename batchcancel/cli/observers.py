"""Who watches a run besides the person at the terminal: log, metrics, and those who are told of its end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING

from batchcancel.cli import exit_codes, say
from batchcancel.cli.log import open_log_of
from batchcancel.cli.signals import ENDING_SIGNALS
from batchcancel.job import Job
from batchcancel.model import RunSummary, utc_text
from batchcancel.observe import Broadcast
from batchcancel.observe.logs import Log
from batchcancel.observe.notices import end_notice, start_notice
from batchcancel.observe.notify import Notices, Receiver
from batchcancel.settings import Receiver as Address
from batchcancel.settings import Receivers, Settings

if TYPE_CHECKING:
    from batchcancel.cli.metering import Metering


@contextmanager
def observing(receivers: Receivers) -> Iterator[Observers]:
    """Let others watch what happens in the block; where it raises, they are told of the end.

    Where it does not, whoever knows the exit code calls ``Observers.end``.
    """
    for warning in receivers.warnings:
        say(f"Warning: {warning}", fg="yellow")
    observers = Observers(receivers)
    try:
        yield observers
    except BaseException as exc:
        observers.end(exit_codes.of_exception(exc))
        raise


class Observers:
    """Those who watch one run. None of them can change how it goes or ends, once they are there."""

    def __init__(self, receivers: Receivers) -> None:
        self._notices: Notices | None = None
        if receivers.ping is not None or receivers.notify is not None:
            self._notices = Notices(
                ping=_receiver(receivers.ping),
                notify=_receiver(receivers.notify),
                on_failure=self._warn_of_notice,
            )
        self._events = Broadcast()
        self._started_at = utc_text()
        self._settings: Settings | None = None
        self._log: Log | None = None
        self._metering: Metering | None = None
        self._summary: RunSummary | None = None

    def begin(self, settings: Settings) -> Broadcast:
        """Open the log, and return what tells everyone of the run's events.

        Raises:
            SettingsError: The log can't be written.
        """
        self._settings = settings
        options = settings.options
        if options.metrics_file is not None or options.metrics_port is not None:
            from batchcancel.cli.metering import Metering  # noqa: PLC0415 - not every run needs it

            self._metering = Metering(settings, warn=self._warn_of_metrics)
        self._log = open_log_of(settings)
        self._events.add(self._log)
        return self._events

    @asynccontextmanager
    async def watching(self, job: Job) -> AsyncIterator[None]:
        """Count the run, and tell of its start, once the job holds its ledger.

        Raises:
            SettingsError: The metrics can't be written or served; nothing was sent.
        """
        async with AsyncExitStack() as stack:
            if self._metering is not None:
                await stack.enter_async_context(self._metering.watching(job, self._events))
            if self._notices is not None:
                stack.push_async_callback(self._notices.finish_beginning)
                self._notices.begin(
                    start_notice(
                        version=version("batchcancel"),
                        env=job.settings.environment.value,
                        host=job.settings.host,
                        started_at=self._started_at,
                        to_settle=job.check.to_settle,
                    )
                )
            yield

    def note_summary(self, summary: RunSummary) -> None:
        """Keep what the run came to, for those who are told of its end."""
        self._summary = summary

    def end(self, exit_code: int) -> None:
        """Tell everyone how the run ended, and close the log.

        While another run holds the ledger nobody is told: the file is its, and so is the word of the end.
        """
        if exit_code != exit_codes.ExitCode.IN_USE:
            if self._metering is not None:
                self._metering.end(exit_code)
            if self._notices is not None:
                # Who sends a signal by now wants the process to be gone; the run has ended as it has.
                with suppress(KeyboardInterrupt, asyncio.CancelledError):
                    asyncio.run(self._tell_of_end(self._notices, exit_code))
        if self._log is not None:
            self._log.close()

    async def _tell_of_end(self, notices: Notices, exit_code: int) -> None:
        """Tell everyone who is told; a signal gives that up, and changes nothing else."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine asks
        for signum in ENDING_SIGNALS:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                loop.add_signal_handler(signum, task.cancel)
        settings = self._settings
        notice = end_notice(
            version=version("batchcancel"),
            env=None if settings is None else settings.environment.value,
            host=None if settings is None else settings.host,
            started_at=self._started_at,
            exit_code=exit_code,
            summary=self._summary,
        )
        await notices.end(
            notice,
            is_failure=exit_code not in exit_codes.NO_ALARM,
            in_a_hurry=exit_code > exit_codes.of_signal(0),
        )

    def _warn_of_notice(self, host: str, why: str) -> None:
        if self._log is None:
            say(f"Warning: {host} could not be told of the run: {why}.", fg="yellow")
        else:
            self._log.warn("notice.failed", host=host, why=why)

    def _warn_of_metrics(self, why: str) -> None:
        if self._log is None:
            say(f"Warning: {why}", fg="yellow")
        else:
            self._log.warn("metrics.failed", why=why)


def _receiver(address: Address | None) -> Receiver | None:
    if address is None:
        return None
    proxy = None if address.proxy is None else address.proxy.reveal().decode()
    return Receiver(url=address.url.reveal().decode(), proxy=proxy)
