"""The file that a plan is written to: under another name until it is whole."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Final

from msgspec import UNSET

from batchcancel.errors import ReportError
from batchcancel.ledger.plan import PlanRecord, encode_plan, encode_sighting
from batchcancel.ledger.record import EndRecord, encode_end, encode_skip
from batchcancel.model import RunState, Sighting, Skip, utc_text
from batchcancel.report.files import NewFile

_LINES_AT_ONCE: Final = 512


class PlanFile:
    """Lines on their way into a file; the file has its name only once ``end`` has returned."""

    def __init__(self, path: Path, plan: PlanRecord) -> None:
        """Make the file, under another name; blocks.

        Raises:
            ReportError: Its folder can't be written.
        """
        self._new = NewFile(path)
        self._run_id = plan.run_id
        self._lines = [encode_plan(plan)]
        self._sha256 = sha256()
        self._one_at_a_time = asyncio.Lock()

    async def write(self, row: Sighting | Skip) -> None:
        """Write a row's line.

        Raises:
            ReportError: The disk is full, say.
        """
        match row:
            case Skip():
                self._lines.append(encode_skip(self._run_id, row))
            case Sighting():
                self._lines.append(encode_sighting(self._run_id, row))
        if len(self._lines) >= _LINES_AT_ONCE:
            await self._flush()

    async def end(self, *, state: RunState, why: str | None, counts: dict[str, int]) -> None:
        """Write the last line and give the file its name; returns once it is on disk.

        Raises:
            ReportError: That can't be done.
        """
        await self._flush()
        end = EndRecord(
            run_id=self._run_id,
            ended_at=utc_text(),
            state=state,
            why=UNSET if why is None else why,
            counts=counts,
            sha256=self._sha256.hexdigest(),
        )
        self._lines.append(encode_end(end))
        await self._flush()
        try:
            await asyncio.to_thread(self._new.commit)
        except OSError as exc:
            raise self._unwritable(exc) from exc

    def discard(self) -> None:
        """Remove what has no name yet."""
        self._new.discard()

    async def _flush(self) -> None:
        async with self._one_at_a_time:
            data, self._lines = b"".join(self._lines), []
            try:
                await asyncio.to_thread(self._append, data)
            except OSError as exc:
                raise self._unwritable(exc) from exc

    def _append(self, data: bytes) -> None:
        with self._new.temporary.open("ab") as file:
            file.write(data)
        self._sha256.update(data)

    def _unwritable(self, exc: OSError) -> ReportError:
        return ReportError(f"{self._new.path} can't be written: {exc.strerror or exc}.")
