"""The way in for invoices: how many, which of them first, and until when."""

from __future__ import annotations

import asyncio

from batchcancel.errors import SafetyStopError
from batchcancel.gates import Canary, Gates, Thresholds
from batchcancel.model import Result
from batchcancel.retry import Case


class Entrance:
    """Hold a run against its gates: who may be asked about, and whether it may go on.

    All pipelines of a run share it, for its limit and its thresholds are the run's.
    """

    def __init__(self, gates: Gates = Gates()) -> None:  # noqa: B008 - frozen
        """Begin with nobody let through.

        Args:
            gates: What has to hold.
        """
        self._thresholds = Thresholds(gates)
        self._canary = Canary(gates.canary)
        self._left_to_ask = gates.limit
        self._let_through = asyncio.Event()
        self.is_at_limit = False
        """Whether an invoice was left because the limit was reached."""

    @property
    def is_trying(self) -> bool:
        """Whether canaries are still to come or to end well."""
        return self._canary.is_trying

    @property
    def holds_back(self) -> bool:
        """Whether everyone waits for the canaries."""
        return self._canary.holds_back

    async def admit(self, case: Case, *, stopping: asyncio.Event) -> bool:
        """Let an invoice through: as a canary, or once they are through.

        Args:
            case: The invoice.
            stopping: Set once nobody is to be let through any more.

        Returns:
            Whether it may be asked about; not if the limit is reached, or that has been set.
        """
        if not self._is_left():
            return False
        if self._canary.admit():
            case.is_canary = True
        elif self._canary.holds_back:
            await _any_of(self._let_through, stopping)
        if stopping.is_set() or not self._is_left():  # others may have come in meanwhile
            return False
        if self._left_to_ask is not None:
            self._left_to_ask -= 1
        return True

    def count_in(self) -> None:
        """Count an invoice that others have asked about and this run has the answer of."""
        if self._left_to_ask:
            self._left_to_ask -= 1

    def let_in(self) -> bool:
        """Let an invoice through that others have begun with; not if the limit is reached."""
        is_left = self._is_left()
        self.count_in()
        return is_left

    def note(self, case: Case, result: Result) -> SafetyStopError | None:
        """Take in a row; return why the run has to stop, if it has to."""
        failure: SafetyStopError | None = self._thresholds.note(result)
        if case.is_canary:
            failure = self._canary.note(result) or failure
            if not self._canary.holds_back:
                self._let_through.set()
        return failure

    def _is_left(self) -> bool:
        self.is_at_limit |= self._left_to_ask == 0
        return self._left_to_ask != 0


async def _any_of(*events: asyncio.Event) -> None:
    """Wait for the first of some events."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
