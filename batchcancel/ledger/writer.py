"""The ledger while a run writes it: group commit with a bounded promise.

A row counts once its group is on disk, and only then is anyone told. A group is one write and one
sync in the ledger's own thread; at most ``max_pending`` rows are ever undurable, so at most that
many invoices can be asked twice after a crash.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from msgspec import UNSET

from batchcancel.errors import LedgerWriteError
from batchcancel.ledger.disk import Disk, LedgerFile
from batchcancel.ledger.reader import History
from batchcancel.ledger.record import (
    EndRecord,
    RunRecord,
    encode_end,
    encode_result,
    encode_run,
    encode_skip,
)
from batchcancel.ledger.room import Room
from batchcancel.model import GroupCommitted, Result, RunState, Skip, utc_text

T = TypeVar("T")

GROUP_LINES: Final = 512
GROUP_WAIT_S: Final = 0.05
_REAL_DISK: Final = Disk()
_utc_now: Final = partial(datetime.now, UTC)


class Ledger:
    """One run's hold on a ledger: open, begin, append, end, close.

    An async context manager: leaving it closes, whatever happened inside. Belongs to one event loop.
    """

    def __init__(
        self,
        file: LedgerFile,
        thread: ThreadPoolExecutor,
        *,
        max_pending: int,
        group_wait_s: float,
        now: Callable[[], datetime],
    ) -> None:
        self._file = file
        self._thread = thread
        self._group_lines = min(GROUP_LINES, max_pending)
        self._group_wait_s = group_wait_s
        self._now = now
        self._run_id = ""
        self._pending: list[tuple[bytes, Result | Skip]] = []
        self._room = Room(max_pending)
        self._handed_over = 0
        self._told = 0
        """Of the lines that were handed over, those that are on disk and were told of."""
        self._flushes: deque[tuple[int, asyncio.Future[None]]] = deque()
        """Who waits for so many lines to be told of, in that order."""
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._committer: asyncio.Task[None] | None = None
        self._stopping = False
        self._closed = False
        self._failure: LedgerWriteError | None = None
        self._refusal: LedgerWriteError | None = LedgerWriteError(f"No run has begun in {file.path}.")

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        max_pending: int = GROUP_LINES,
        group_wait_s: float = GROUP_WAIT_S,
        disk: Disk = _REAL_DISK,
        now: Callable[[], datetime] = _utc_now,
    ) -> Self:
        """Open or create a ledger, lock it and read what it knows. Writes nothing.

        Args:
            path: The ledger; its folder has to exist.
            max_pending: Most lines that may wait undurable, the group being written included; 1 or more.
            group_wait_s: Longest that a line waits for company, in seconds; 0 or more.
            disk: The calls that reach the disk.
            now: The clock for the ``end`` record; aware.

        Raises:
            LedgerInUseError: Another run holds it.
            LedgerMismatchError: It is no ledger, or a newer version wrote it.
            LedgerDamagedError: It is damaged before its end.
            LedgerFaultError: It can't be opened or read.

        Cancellation gives the reading up and is raised once the file is closed again.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        given_up = threading.Event()
        opening = asyncio.get_running_loop().run_in_executor(
            thread, LedgerFile.open, path, disk, given_up.is_set
        )
        try:
            file = await _settled(opening, on_cancel=given_up.set)
        except BaseException:
            thread.shutdown()
            if not opening.cancelled() and opening.exception() is None:
                opening.result().close()
            raise
        return cls(file, thread, max_pending=max_pending, group_wait_s=group_wait_s, now=now)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def history(self) -> History:
        """What the ledger knew when it was opened."""
        return self._file.history

    async def begin(
        self,
        run: RunRecord,
        *,
        on_commit: Callable[[GroupCommitted], Awaitable[None]],
        on_failure: Callable[[LedgerWriteError], None],
    ) -> None:
        """Cut the tail, write the run record and start taking rows; once.

        Returns once both are durable. The tail, if ``history`` tells of one, is kept in ``PATH.torn``.

        Args:
            run: The run record.
            on_commit: Awaited after each group is on disk, before the next is written.
            on_failure: Called once, when the ledger can't be written any more.

        Raises:
            LedgerWriteError: The disk refused; no run has begun.

        Cancellation is raised once the disk has answered; no row is taken then.
        """
        await self._in_thread(partial(self._file.begin, encode_run(run)))
        self._run_id = run.run_id
        self._refusal = None
        self._committer = asyncio.create_task(self._commit_groups(on_commit, on_failure))

    async def append(self, record: Result | Skip) -> None:
        """Hand a row over; returns when there is room for it, not when it is durable.

        Raises:
            LedgerWriteError: The ledger failed, has ended or has not begun; the row is not in it.

        Cancelled while it waits for room, it hands nothing over; it does not wait after that.
        """
        if isinstance(record, Result):
            line = encode_result(self._run_id, record)
        else:
            line = encode_skip(self._run_id, record)
        while self._refusal is None and self._room.is_full:
            await self._room.wait()
        self._check_open()
        self._room.take()
        self._pending.append((line, record))
        self._handed_over += 1
        if len(self._pending) >= self._group_lines:
            self._due.set()
        elif len(self._pending) == 1:
            self._timer = asyncio.get_running_loop().call_later(self._group_wait_s, self._due.set)

    async def flush(self) -> None:
        """Return once every row that was handed over before is durable, and ``on_commit`` was told.

        Raises:
            LedgerWriteError: The ledger failed, has ended or has not begun.

        Cancellation changes nothing for the rows.
        """
        self._check_open()
        if self._told == self._handed_over:
            return
        flushed = asyncio.get_running_loop().create_future()
        self._flushes.append((self._handed_over, flushed))
        await flushed

    async def end(self, *, state: RunState, counts: Mapping[str, int], why: str | None = None) -> None:
        """Write every row that waits, then the end record; returns once all of it is durable.

        Args:
            state: How the run ended.
            counts: Whatever the run counted, by name.
            why: The reason of a stop; None for every other state.

        Raises:
            LedgerWriteError: The disk refused, now or earlier.

        Cancellation leaves the rows to be written; the end record is written whole or not at all.
        """
        self._check_open()
        await self._stop()
        if self._failure is not None:
            raise LedgerWriteError(*self._failure.args) from self._failure
        end = EndRecord(
            run_id=self._run_id,
            ended_at=utc_text(self._now()),
            state=state,
            why=UNSET if why is None else why,
            counts=dict(counts),
            sha256=self._file.sha256.hexdigest(),
        )
        await self._in_thread(partial(self._file.append, encode_end(end)))

    async def close(self) -> None:
        """Let the group on its way to disk finish, drop what waits, unlock and close. Once is enough.

        A file that ``open`` made and no run began in is removed.

        Raises:
            Exception: Whatever ``on_commit`` raised: a defect, which ended the writer.

        Cancellation is raised once the file is closed.
        """
        if self._closed:
            return
        self._closed = True
        self._pending.clear()
        self._fail_flushes(LedgerWriteError(f"{self._file.path} was closed with rows that were not written."))
        try:
            await self._stop()
        finally:
            self._thread.shutdown()
            self._file.close()
        if self._committer is not None and not self._committer.cancelled():
            self._committer.result()

    def _check_open(self) -> None:
        if self._refusal is not None:
            raise LedgerWriteError(*self._refusal.args) from self._refusal

    async def _stop(self) -> None:
        """Refuse further rows and wait until the committer has written those that it has."""
        self._refuse(LedgerWriteError(f"The run in {self._file.path} has ended; it takes no more rows."))
        self._stopping = True
        self._due.set()
        if self._committer is not None:
            await asyncio.wait([self._committer])

    def _refuse(self, why: LedgerWriteError) -> None:
        self._refusal = self._refusal or why
        self._room.let_all_in()

    async def _commit_groups(
        self,
        on_commit: Callable[[GroupCommitted], Awaitable[None]],
        on_failure: Callable[[LedgerWriteError], None],
    ) -> None:
        """Write group after group until stopped. However it ends early, nobody waits for it in vain."""
        try:
            while self._pending or not self._stopping:
                await self._due.wait()
                self._due.clear()
                if self._pending:
                    # A task of its own: what is on disk is told, though this one be cancelled.
                    await _settled(asyncio.create_task(self._commit_group(on_commit)))
        except LedgerWriteError as exc:
            self._fail(exc)
            on_failure(exc)
        except BaseException as exc:
            failure = LedgerWriteError(f"The writer of {self._file.path} broke off. Run it again.")
            failure.__cause__ = exc
            self._fail(failure)
            on_failure(failure)
            raise

    async def _commit_group(self, on_commit: Callable[[GroupCommitted], Awaitable[None]]) -> None:
        group, self._pending = self._pending[: self._group_lines], self._pending[self._group_lines :]
        if self._timer is not None:
            self._timer.cancel()
        if self._pending:
            self._due.set()
        data = b"".join(line for line, _ in group)
        sync_s = await self._in_thread(partial(self._file.append, data))
        self._room.give_back(len(group))
        results = tuple(record for _, record in group if isinstance(record, Result))
        await on_commit(GroupCommitted(results=results, size_bytes=len(data), sync_s=sync_s))
        self._told += len(group)
        while self._flushes and self._flushes[0][0] <= self._told:
            _, flushed = self._flushes.popleft()
            if not flushed.done():
                flushed.set_result(None)

    def _fail(self, failure: LedgerWriteError) -> None:
        self._failure = failure
        self._pending.clear()
        self._fail_flushes(failure)
        self._refuse(failure)

    def _fail_flushes(self, failure: LedgerWriteError) -> None:
        for _, flushed in self._flushes:
            if not flushed.done():
                flushed.set_exception(LedgerWriteError(*failure.args))
        self._flushes.clear()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await _settled(asyncio.get_running_loop().run_in_executor(self._thread, call))


async def _settled(work: asyncio.Future[T], *, on_cancel: Callable[[], object] = lambda: None) -> T:
    """Await work that can't be called off, only told; a cancellation is raised only once it is done."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        on_cancel()
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        raise
