"""From the service's pages to the rows of a list: everything is read before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from batchcancel.errors import SafetyStopError
from batchcancel.job.reading import Reading
from batchcancel.model import (
    Event,
    Listing,
    ListProgressed,
    ManifestRow,
    Page,
    Result,
    RunState,
    Sighting,
    Skip,
)
from batchcancel.retry import PageReader
from batchcancel.settings import Settings
from batchcancel.tasks.listing.paging import Pass, Steadiness
from batchcancel.tasks.listing.roll import Roll
from batchcancel.tasks.listing.rows import Row
from batchcancel.tasks.listing.wanted import Fit, Wanted

MAX_PASSES: Final = 3
"""How often the list of a status is read until nothing moves under it."""
SIMULATED_INVOICES: Final = 2500
"""What the simulator in the process begins with: an empty one would have nothing to list."""


class Unsettled(Struct, frozen=True, kw_only=True):
    """A status whose list moved each time that it was read."""

    status: str
    steadiness: Steadiness
    """Of the last time."""
    rows: int
    total: int | None


class Found(Struct, frozen=True, kw_only=True):
    """What was found."""

    merchant_id: str
    """Whose invoices they are."""
    rows: tuple[Row, ...]
    """Status by status, in the order of the service's list; each invoice once, those looked up last."""
    read: int
    """Invoices that were read, those that do not fit included."""
    pages: int
    looked_up: int
    """Invoices that were looked up for their date of creation."""
    doubtful: dict[Fit, int]
    """Invoices left out because what counts is not known of them, by what that is."""
    unsettled: tuple[Unsettled, ...]

    @property
    def is_torn(self) -> bool:
        """Whether invoices may be missing, so that nothing should be written."""
        return any(one.steadiness is Steadiness.TORN for one in self.unsettled)

    @property
    def is_whole(self) -> bool:
        """Whether nothing was left out that might belong here."""
        return not self.doubtful and all(one.steadiness is Steadiness.MOVED for one in self.unsettled)


class Reader(Protocol):
    """Where pages come from; ``retry.PageReader`` is the real one."""

    async def read(self, page: Page) -> Listing:
        """Return a page."""
        ...


async def collect(
    reading: Reading,
    wanted: Wanted,
    *,
    on_event: Callable[[Event], None] = lambda _event: None,
) -> Found:
    """Read the whole list, and look up what it does not say. Nothing but GETs leave.

    When the coroutine is cancelled, nothing is left to do: nothing was changed or written.

    Args:
        reading: Of ``for_one_merchant``, and not open yet.
        wanted: Which invoices are to be found.
        on_event: Told of pages and of retries of them; must not block.

    Raises:
        ListRefusedError: The service does not list what is asked for.
        SafetyStopError: The key is refused, an outage lasted too long, or a page could not be read.
    """
    await reading.open(simulated_invoices=SIMULATED_INVOICES)
    pace = reading.pace()
    pace.unfinished = lambda: 1
    await pace.greet()
    reader = PageReader(pace, max_attempts=reading.settings.options.max_attempts, on_event=on_event)
    collector = Collector(wanted, on_event=on_event)
    await collector.read(reader)
    rows = collector.rows_to_look_up()
    if rows:
        ending = await reading.look_up(_each(rows), collector, open_of={None: len(rows)}, count=len(rows))
        if ending.state is not RunState.COMPLETE:
            raise SafetyStopError(str(ending.why))
    return collector.found(reading.merchant_id)


def for_one_merchant(settings: Settings) -> Settings:
    """Leave out what is about a run's rows: its limits, and the merchants that a manifest names."""
    options = settings.options
    rates = [rate for rate in (settings.rate, options.rate_per_merchant) if rate is not None]
    return replace(
        settings,
        options=replace(options, limit=None, max_duration=None, merchant_column=None, rate_per_merchant=None),
        rate=min(rates, default=None),
    )


class Collector:
    """Gathers the invoices that fit, page by page and look-up by look-up.

    Besides its roll, memory is the id of every invoice of the status that is being read.
    """

    def __init__(self, wanted: Wanted, *, on_event: Callable[[Event], None] = lambda _event: None) -> None:
        """Prepare.

        Args:
            wanted: Which invoices are to be found.
            on_event: Told of every page and look-up.
        """
        self._wanted = wanted
        self._on_event = on_event
        self._roll = Roll(wanted)
        self._nameless = self._read = self._pages = self._to_look_up = self._looked_up = 0
        self._unsettled: list[Unsettled] = []

    async def read(self, reader: Reader) -> None:
        """Read the list of each status that is wanted, as far as its pages hold together."""
        for status in self._wanted.statuses:
            await self._read_status(reader, status)
            if self._is_torn:
                return

    def rows_to_look_up(self) -> Sequence[ManifestRow]:
        """Return the invoices whose date of creation is not known yet; none where the list is torn."""
        if self._is_torn:
            return ()
        self._to_look_up = len(self._roll.undated)
        return [ManifestRow(row=row, invoice_id=one) for row, one in enumerate(self._roll.undated, start=1)]

    async def see(self, sighting: Sighting) -> None:
        """Take what a look-up found."""
        self._roll.take_look_up(sighting)
        self._looked_up += 1
        self._on_event(
            ListProgressed(rows=self._read, to_look_up=self._to_look_up, looked_up=self._looked_up)
        )

    async def append(self, record: Result | Skip) -> None:
        """Refuse a row that nobody was asked about: there is none, for each id is valid and stands once."""
        raise AssertionError(f"a row of a list was not looked up: {type(record).__name__}")

    def found(self, merchant_id: str) -> Found:
        """Return what was found of a merchant."""
        doubtful = Counter(self._roll.doubtful.values())
        doubtful[Fit.NO_ID] += self._nameless
        return Found(
            merchant_id=merchant_id,
            rows=tuple(self._roll.rows.values()),
            read=self._read,
            pages=self._pages,
            looked_up=self._looked_up,
            doubtful={fit: count for fit, count in doubtful.items() if count},
            unsettled=tuple(self._unsettled),
        )

    @property
    def _is_torn(self) -> bool:
        return any(one.steadiness is Steadiness.TORN for one in self._unsettled)

    async def _read_status(self, reader: Reader, status: str) -> None:
        """Read the list of a status until nothing moves under it, a few times at most; the last counts."""
        for _ in range(MAX_PASSES):
            one, roll = await self._read_once(reader, status)
            if one.steadiness is Steadiness.STEADY:
                break
        else:
            self._unsettled.append(
                Unsettled(status=status, steadiness=one.steadiness, rows=one.rows, total=one.total)
            )
        self._read += one.rows
        self._nameless += one.nameless
        self._roll.merge(roll)

    async def _read_once(self, reader: Reader, status: str) -> tuple[Pass, Roll]:
        one, roll = Pass(status=status), Roll(self._wanted)
        while not one.is_over:
            listing = await reader.read(one.page)
            for invoice in listing.invoices:
                roll.take(invoice)
            one.take(listing)
            self._pages += 1
            self._on_event(ListProgressed(rows=self._read + one.rows, total=one.total, status=status))
        return one, roll


async def _each(rows: Sequence[ManifestRow]) -> AsyncIterator[ManifestRow]:
    for row in rows:
        yield row
