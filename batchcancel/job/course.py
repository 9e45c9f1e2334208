"""The course of a run: a workforce at work, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from batchcancel.errors import LedgerFaultError, SafetyStopError
from batchcancel.job.workforce import Workforce
from batchcancel.model import ManifestRow, PauseCause, Reason, RunState, StoppedMerchant, Tally, Vitals
from batchcancel.settings import Settings


class Ending(Struct, frozen=True, kw_only=True):
    """How a run ended."""

    state: RunState
    why: str | None = None
    """A sentence if it stopped, a word such as SIGINT if it was interrupted."""
    as_asked: bool = False
    """Whether it stopped where it was told to: ``--limit`` or ``--max-duration``."""


COMPLETE: Final = Ending(state=RunState.COMPLETE)


class Course:
    """What a workforce is at, from before it begins until after its end.

    It may be stopped at any time, even before there is one.
    """

    def __init__(self, settings: Settings) -> None:
        """Prepare; its limits are those of the settings."""
        self._settings = settings
        self.own_merchant_id = ""
        """The merchant whose rows name none; set once it is known."""
        self._workforce: Workforce | None = None
        self._is_paused = False
        """Whether it is paused by hand, or is to begin so."""
        self._stopped: Ending | None = None

    def pause(self) -> None:
        """Let nothing leave until ``resume``; what is in flight comes back. It may begin paused."""
        self._is_paused = True
        if self._workforce is not None:
            self._workforce.pause()

    def resume(self) -> None:
        """Let requests leave again."""
        self._is_paused = False
        if self._workforce is not None:
            self._workforce.resume()

    def stop(self, why: str) -> None:
        """Let no new cancelation leave and drain what is in flight; a second call aborts.

        Args:
            why: What interrupts, such as the name of a signal.
        """
        is_first = self._stopped is None or self._stopped.as_asked
        self._stop(Ending(state=RunState.INTERRUPTED, why=why))
        if not is_first and self._workforce is not None:
            self._workforce.abort(why)

    def stop_as_asked(self, why: str) -> None:
        """Stop as ``stop`` does, at the end of what was asked for: that is no alarm.

        Args:
            why: A sentence that says where that end is.
        """
        self._stop(Ending(state=RunState.STOPPED, why=why, as_asked=True))

    def fail(self, failure: LedgerFaultError) -> None:
        """Stop at once, since rows can't be written any more; ``run`` raises that at its end."""
        if self._workforce is not None:
            self._workforce.fail(failure)

    def tally(self, *, rows: int, settled_earlier: int) -> Tally:
        """Count what became of the rows so far; one that was not read is open, if it has no answer already.

        Args:
            rows: As the check counted them.
            settled_earlier: Those of them that had their answer before, likewise.
        """
        read = Tally() if self._workforce is None else self._workforce.tally()
        return read.with_unread(rows=rows, settled_earlier=settled_earlier)

    def vitals(self, *, to_settle: int) -> Vitals:
        """Tell what is going on at the moment; costs microseconds a merchant.

        Args:
            to_settle: Invoices that are to be given a row, as the check counted them.
        """
        set_rate = self._settings.rate
        if self._workforce is not None:
            return self._workforce.vitals(to_settle=to_settle, set_rate=set_rate)
        return Vitals(
            in_flight=0,
            allowed_rate=set_rate,
            set_rate=set_rate,
            held_by=PauseCause.BY_HAND if self._is_paused else None,
            rows_left=to_settle,
            is_stopping=self._stopped is not None,
        )

    def stopped_merchants(self) -> tuple[StoppedMerchant, ...]:
        """Name the merchants that were stopped while others went on."""
        stopped = () if self._workforce is None else self._workforce.stopped_merchants
        return tuple(replace(one, merchant_id=one.merchant_id or self.own_merchant_id) for one in stopped)

    async def run(
        self, workforce: Workforce, rows: AsyncIterator[ManifestRow], *, count: int, settled_earlier: int
    ) -> Ending:
        """Have a workforce bring rows to their ends; a safety stop, a limit and a stop are ways to end.

        If cancelled, the workforce aborts and the cancellation is raised again.

        Args:
            workforce: At work from here on.
            rows: What it works on.
            count: How many rows there are, as the check counted them.
            settled_earlier: How many of them have their answer already, likewise.

        Raises:
            LedgerFaultError: Rows can't be written any more.
            Exception: A defect.
        """
        self._workforce = workforce
        if self._is_paused:
            workforce.pause()
        if self._stopped is not None:
            workforce.stop(str(self._stopped.why))
        try:
            with self._time_limit(self._settings.options.max_duration):
                await workforce.run(rows)
        except SafetyStopError as exc:
            return Ending(state=RunState.STOPPED, why=str(exc))
        return self._ending(workforce, self.tally(rows=count, settled_earlier=settled_earlier))

    def _stop(self, ending: Ending) -> None:
        """Stop for a reason from outside; an interruption counts more than a limit."""
        if self._stopped is None or self._stopped.as_asked:
            self._stopped = ending
        if self._workforce is not None:
            self._workforce.stop(str(ending.why))

    def _ending(self, workforce: Workforce, tally: Tally) -> Ending:
        """Tell how a run ended that nothing went wrong in, but for single merchants perhaps."""
        if stopped_merchants := self.stopped_merchants():
            first, count_of_all = stopped_merchants[0], workforce.merchant_count
            stopped_of_all = f"{len(stopped_merchants):,} of {count_of_all:,} merchants"
            why = f"{stopped_of_all} were stopped. {first.merchant_id}: {first.why}"
            return Ending(state=RunState.STOPPED, why=why)
        stopped = self._stopped
        if stopped is None and workforce.is_at_limit:
            why = f"--limit {self._settings.options.limit} was reached."
            stopped = Ending(state=RunState.STOPPED, why=why, as_asked=True)
        is_through = not tally.open and not tally.results.get(Reason.UNKNOWN)
        if stopped is None or (stopped.as_asked and is_through):
            return COMPLETE
        return stopped

    @contextmanager
    def _time_limit(self, seconds: float | None) -> Iterator[None]:
        """Stop the run once it has lasted that long; None for never."""
        if seconds is None:
            yield
            return
        why = f"--max-duration {seconds:g} is over."
        timer = asyncio.get_running_loop().call_later(seconds, self.stop_as_asked, why)
        try:
            yield
        finally:
            timer.cancel()
