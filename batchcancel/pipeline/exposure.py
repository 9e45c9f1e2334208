"""What a kill can make the next run ask twice: bounded, whatever the service does."""

from __future__ import annotations

import asyncio

from batchcancel.retry import Case


class Exposure:
    """Let so many invoices at a time be with the service, or answered without a row that is taken.

    Nothing on disk tells of them yet, so the run after a kill posts their cancelations again. An invoice
    holds a *place* while it is asked about and until its row is taken; one that waits while the service
    may have acted on it gives its place back for a *doubt*, and needs no place any more.
    """

    def __init__(self, *, places: int, doubts: int) -> None:
        """Begin with nobody exposed.

        Args:
            places: Invoices that are asked about at the same time, 1 or more.
            doubts: Invoices that may wait while nobody knows what was done, 1 or more.
        """
        self._places = asyncio.Semaphore(places)
        self._doubts = asyncio.Semaphore(doubts)
        self._held: dict[Case, asyncio.Semaphore] = {}

    async def enter(self, case: Case) -> None:
        """Wait until an invoice may be asked about. If cancelled, it holds nothing more than before."""
        if case not in self._held:
            await self._places.acquire()
            self._held[case] = self._places

    async def park(self, case: Case) -> None:
        """Give an invoice's place back before it waits; in doubt, only once there is room for that."""
        if self._held[case] is self._doubts:
            return
        if case.may_have_acted:
            await self._doubts.acquire()
            self._held[case] = self._doubts
        else:
            del self._held[case]
        self._places.release()

    def leave(self, case: Case) -> None:
        """Let an invoice go whose row is taken, or that was never asked about."""
        held = self._held.pop(case, None)
        if held is not None:
            held.release()

    def note_departure(self, case: Case) -> None:
        """Note that a request of an invoice is leaving, which changes nothing here."""

    def holds(self, case: Case) -> bool:
        """Tell whether an invoice has its place or its doubt."""
        return case in self._held


class Turnstile:
    """One merchant's way into an exposure that several share.

    Only one invoice at a time holds a place before its request leaves: so a merchant whose rate makes its
    invoices wait keeps no places from the others, and when places are short each merchant gets one in turn.
    """

    def __init__(self, exposure: Exposure) -> None:
        """Begin with nobody in it."""
        self._exposure = exposure
        self._door = asyncio.Lock()
        self._in_it: Case | None = None

    async def enter(self, case: Case) -> None:
        """Wait until an invoice may be asked about. If cancelled, it holds nothing more than before."""
        if self._exposure.holds(case):
            return
        await self._door.acquire()
        self._in_it = case
        try:
            await self._exposure.enter(case)
        except BaseException:
            self.note_departure(case)
            raise

    def note_departure(self, case: Case) -> None:
        """Let the next invoice in: a request of this one is leaving."""
        if self._in_it is case:
            self._in_it = None
            self._door.release()

    async def park(self, case: Case) -> None:
        """Give an invoice's place back before it waits; see ``Exposure.park``."""
        self.note_departure(case)
        await self._exposure.park(case)

    def leave(self, case: Case) -> None:
        """Let an invoice go; see ``Exposure.leave``."""
        self.note_departure(case)
        self._exposure.leave(case)
