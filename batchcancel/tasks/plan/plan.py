"""A plan over some manifests, from opening everything to its summary."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

from msgspec import structs

from batchcancel.api import Expiry
from batchcancel.job.account import Account, count
from batchcancel.job.course import COMPLETE, Ending
from batchcancel.job.opening import open_checked
from batchcancel.job.reading import Reading
from batchcancel.ledger import History
from batchcancel.ledger.plan import PlanRecord
from batchcancel.ledger.reader import opened, recover
from batchcancel.manifest import Check, Manifest
from batchcancel.model import Event, Result, Sighting, Skip, Tally, Vitals
from batchcancel.report.files import check_target
from batchcancel.settings import Settings
from batchcancel.tasks.plan.file import PlanFile
from batchcancel.tasks.plan.survey import PlanSummary, Survey


class PlanJob:
    """One plan: an async context manager, used as ``job.Job`` is.

    Entering reads the ledger, if there is one already, and checks the manifests; nothing is sent. ``run``
    then looks up what a run would ask about. Nothing but the plan's own file is ever written.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        out: Path | None = None,
        force: bool = False,
        on_event: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        """Prepare; nothing is opened.

        Args:
            settings: What a run would be told.
            out: The file for the plan; None for none.
            force: Whether a file that is there may be replaced.
            on_event: Told of requests, retries and pauses; must not block or raise.

        Raises:
            SettingsError: A file of keys can't be used.
            ReportError: The file must not be written there.
        """
        self.settings = settings
        if out is not None:
            inputs = [settings.ledger, *(Path(path) for path in settings.manifests if path != "-")]
            check_target(out, force=force, inputs=inputs)
        self._out = out
        self._resources = AsyncExitStack()
        self._reading = Reading(settings, on_event=on_event)
        self._manifest: Manifest
        self._survey = Survey()
        self._file: PlanFile | None = None
        self.check: Check
        """What the check of the manifests found."""

    @property
    def merchant_id(self) -> str:
        """The merchant whose invoices are looked up."""
        return self._reading.merchant_id

    @property
    def expiries(self) -> tuple[Expiry, ...]:
        """Until when each certificate is valid that requests are signed or encrypted with."""
        return self._reading.expiries

    async def __aenter__(self) -> Self:
        """Open and check everything; send nothing.

        Raises:
            UsageError: A manifest can't be read or is not what was expected, or the ledger is another
                environment's or merchant's.
            LedgerFaultError: The ledger is damaged.
        """
        try:
            await self._resources.enter_async_context(self._reading)
            history = await asyncio.to_thread(self._read_ledger)
            self._manifest, self.check = await open_checked(
                self.settings,
                merchant_id=self.merchant_id,
                history=history,
                spool_dir=self._folder,
                resources=self._resources,
            )
            await self._reading.open(self.check.merchants)
        except BaseException:
            await self._resources.aclose()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.discard()
        await self._resources.aclose()

    def pause(self) -> None:
        """Let nothing leave until ``resume``; as ``Job.pause`` does."""
        self._reading.pause()

    def resume(self) -> None:
        """Let requests leave again; a plan that is not paused is left as it is."""
        self._reading.resume()

    def stop(self, why: str) -> None:
        """Look up nothing more and wait for what is in flight; a second call does not wait."""
        self._reading.stop(why)

    def vitals(self) -> Vitals:
        """Tell what is going on at the moment."""
        return self._reading.vitals(to_settle=self.check.to_settle)

    def tally(self) -> Tally:
        """Count what became of the rows so far."""
        return self._reading.tally(rows=self.check.rows, settled_earlier=self.check.settled)

    async def run(self) -> PlanSummary:
        """Look up every invoice that a run would ask about, and sum up; once.

        The plan's file, if one is wanted, has its name when this returns; also a plan that was stopped is
        written, and says so.

        Raises:
            ReportError: The file can't be written.
        """
        began_at = monotonic()
        account = Account(self.settings, merchant_id=self.merchant_id)
        if self._out is not None:
            begun = account.open(self.check, base_url=self._reading.base_url)
            self._file = PlanFile(self._out, PlanRecord(**structs.asdict(begun)))
        ending = COMPLETE
        if self.check.rows:
            ending = await self._reading.look_up(
                self._manifest.rows(),
                self,
                open_of=self._open_of(),
                count=self.check.rows,
                settled_earlier=self.check.settled,
            )
        tally = self.tally()
        if self._file is not None:
            await self._file.end(state=ending.state, why=ending.why, counts=_counts(tally))
        return self._summary(ending, tally, duration_s=round(monotonic() - began_at, 3))

    # --- what the fleet hands over ----------------------------------------------------------------

    async def see(self, sighting: Sighting) -> None:
        """Take in what was seen of one invoice."""
        self._survey.add(sighting)
        if self._file is not None:
            await self._file.write(sighting)

    async def append(self, record: Result | Skip) -> None:
        """Take in a row that nobody is asked about."""
        if isinstance(record, Result):  # its id may not be sent
            await self.see(
                Sighting(
                    row=record.row,
                    file=record.file,
                    merchant_id=record.merchant_id,
                    invoice_id=record.invoice_id,
                    reason=record.reason,
                    at=record.at,
                )
            )
        elif self._file is not None:
            await self._file.write(record)

    # --- parts ------------------------------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        """Where unnamed files may lie: beside the ledger, where a run puts them."""
        folder = self.settings.ledger.parent
        return folder if folder.is_dir() else Path()

    def _read_ledger(self) -> History | None:
        """Read what the ledger knows, without a lock; None where there is none yet."""
        ledger = self.settings.ledger
        if ledger == Path(os.devnull) or not ledger.exists():
            return None
        with opened(self.settings.ledger) as fd:
            return recover(fd, self.settings.ledger)

    def _open_of(self) -> dict[str | None, int]:
        return {merchant: self.check.open_of.get(merchant, 0) for merchant in self.check.merchants}

    def _summary(self, ending: Ending, tally: Tally, *, duration_s: float) -> PlanSummary:
        options, survey = self.settings.options, self._survey
        estimate_s, estimate_by = survey.estimate(
            rate=self.settings.rate,
            concurrency=options.concurrency,
            matches=bool(options.match),
            takes_plan=self._out is not None,
            looked_for_s=duration_s,
        )
        return PlanSummary(
            env=self.settings.environment.value,
            host=self.settings.host,
            merchant_id=self.merchant_id,
            state=ending.state,
            why=ending.why,
            as_asked=ending.as_asked,
            tally=tally,
            statuses=survey.statuses,
            refused={reason: tuple(examples) for reason, examples in survey.refused.items()},
            estimate_s=estimate_s,
            estimate_by=estimate_by,
            duration_s=duration_s,
            out=None if self._out is None else str(self._out),
        )


def _counts(tally: Tally) -> dict[str, int]:
    """Write a tally as the plan's ``end`` line does: as a ledger's, and how many would be canceled."""
    return count(tally) | {"cancelable": tally.cancelable}
