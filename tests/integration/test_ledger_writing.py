"""Writing: the lock, the file's place, groups, failures of the disk, and cancellation."""

# ruff: noqa: ASYNC240 - a test looks at its file while nothing else has to run

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec.structs import replace

from batchcancel.errors import LedgerInUseError, LedgerMismatchError, LedgerWriteError
from batchcancel.ledger import disk as disk_module
from batchcancel.ledger.disk import Disk
from batchcancel.ledger.reader import recover
from batchcancel.ledger.record import RunRecord, encode_result, encode_run, encode_skip
from batchcancel.ledger.room import Room
from batchcancel.ledger.writer import Ledger
from batchcancel.model import GroupCommitted, Outcome, Reason, Result, RunState, Skip, SkipReason

LONG_S = 3600.0
RUN = RunRecord(
    run_id="r1",
    started_at="t",
    version="0",
    env="test",
    base_url="https://x",
    merchant_id="m",
    operator="o",
    host="h",
    pid=1,
    ref=None,
    manifest=(),
    options={},
)
RUN_LINE = encode_run(RUN)


def result(row: int) -> Result:
    """Make a result row."""
    return Result(
        row=row,
        invoice_id=str(row),
        outcome=Outcome.CANCELED,
        reason=Reason.CANCELED,
        resolved_by=None,
        at="t",
    )


def line(row: int) -> bytes:
    """Encode a result row."""
    return encode_result("r1", result(row))


@dataclass
class Listener:
    """Remembers what the ledger told."""

    groups: list[GroupCommitted] = field(default_factory=list)
    failures: list[LedgerWriteError] = field(default_factory=list)
    told: asyncio.Event = field(default_factory=asyncio.Event)

    async def on_commit(self, group: GroupCommitted) -> None:
        self.groups.append(group)
        self.told.set()

    def on_failure(self, failure: LedgerWriteError) -> None:
        self.failures.append(failure)
        self.told.set()

    async def begin(self, ledger: Ledger) -> None:
        await ledger.begin(RUN, on_commit=self.on_commit, on_failure=self.on_failure)

    @property
    def rows(self) -> list[int]:
        return [result.row for group in self.groups for result in group.results]


@dataclass
class SlowDisk:
    """A disk whose syncs wait until they are let through."""

    open: threading.Event = field(default_factory=threading.Event)
    syncing: threading.Event = field(default_factory=threading.Event)
    syncs: int = 0

    def sync(self, fd: int) -> None:
        self.syncs += 1
        self.syncing.set()
        assert self.open.wait(30)
        os.fdatasync(fd)

    def shut(self) -> None:
        self.open.clear()
        self.syncing.clear()

    async def until_syncing(self) -> None:
        assert await asyncio.to_thread(self.syncing.wait, 30)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger lies."""
    return tmp_path / "x.ledger.jsonl"


@pytest.fixture
def listener() -> Listener:
    """Who listens to the ledger."""
    return Listener()


@pytest.fixture
def slow() -> Iterator[SlowDisk]:
    """Yield a slow disk, open at first; it is opened at the end so that no thread hangs."""
    disk = SlowDisk()
    disk.open.set()
    yield disk
    disk.open.set()


async def turns(count: int = 20) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- open and close ------------------------------------------------------------------------------


async def test_new_ledger_is_private_and_holds_its_run(path: Path, listener: Listener) -> None:
    """Opening writes nothing; beginning makes the run record durable; the mode is 0600."""
    old_mask = os.umask(0)
    try:
        async with await Ledger.open(path) as ledger:
            assert path.read_bytes() == b""
            assert ledger.history.first_started_at is None
            await listener.begin(ledger)
            assert path.read_bytes() == RUN_LINE
            assert ledger.history.tail is None
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == RUN_LINE


async def test_refused_run_leaves_no_trace(path: Path) -> None:
    """A ledger that was made and never begun is removed."""
    async with await Ledger.open(path):
        assert path.exists()
    assert not path.exists()


async def test_ledger_that_was_there_is_left_untouched(path: Path) -> None:
    """Without a run, neither an empty file nor a tail changes."""
    for data in (b"", RUN_LINE + b"torn"):
        path.write_bytes(data)
        async with await Ledger.open(path):
            assert path.read_bytes() == data
        assert path.read_bytes() == data
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


async def test_closing_twice_is_closing_once(path: Path) -> None:
    """A second close touches no descriptor: its number may be somebody else's by now."""
    ledger = await Ledger.open(path)
    await ledger.close()
    with (path.parent / "other").open("w") as other:
        await ledger.close()
        assert os.fstat(other.fileno()).st_size == 0


async def test_new_ledger_removed_before_its_run_stays_removed(path: Path) -> None:
    """Closing a ledger that was never begun does not mind that somebody removed or replaced it."""
    async with await Ledger.open(path):
        path.unlink()
    async with await Ledger.open(path):
        path.unlink()
        path.write_text("mine")
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda path: path.mkdir(), "Is a directory", id="folder"),
        pytest.param(os.mkfifo, "not a regular file", id="fifo"),
        pytest.param(lambda path: path.symlink_to("nothing"), "link to nothing", id="dangling-link"),
        pytest.param(lambda path: path.symlink_to("/dev/null"), "not a regular file", id="device"),
        pytest.param(lambda path: path.symlink_to(path), "symbolic links", id="link-loop"),
    ],
)
async def test_what_is_no_file_is_refused(path: Path, make: Callable[[Path], None], message: str) -> None:
    """Only a regular file can be a ledger."""
    make(path)
    with pytest.raises(LedgerWriteError, match=message):
        await Ledger.open(path)


async def test_folder_has_to_exist(path: Path) -> None:
    """A missing folder is named, not made."""
    with pytest.raises(LedgerWriteError, match="No such file or directory"):
        await Ledger.open(path / "deeper")


async def test_somebody_elses_file_is_refused_and_unlocked(path: Path) -> None:
    """A refusal leaves the file as it is and holds no lock."""
    path.write_bytes(b"id\n1\n")
    for _ in range(2):
        with pytest.raises(LedgerMismatchError):
            await Ledger.open(path)
    assert path.read_bytes() == b"id\n1\n"


async def test_ledger_of_another_process_is_in_use(path: Path) -> None:
    """The lock holds across processes and ends with the one that held it."""
    path.write_bytes(RUN_LINE)
    code = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(1, flush=True); input()"
    with subprocess.Popen(  # noqa: ASYNC220 - the interpreter itself, and the test waits for it anyway
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"1\n"
        with pytest.raises(LedgerInUseError, match=str(path)):
            await Ledger.open(path)
        holder.communicate(b"\n")
    async with await Ledger.open(path) as ledger:
        assert ledger.history.first_started_at == "t"


async def test_one_process_holds_a_ledger_once(path: Path) -> None:
    """A second hold is refused even within the process, and does not break the first."""
    async with await Ledger.open(path):
        with pytest.raises(LedgerInUseError):
            await Ledger.open(path)
        assert path.exists()


@pytest.mark.parametrize(
    ("replacements", "opens"), [pytest.param(1, True, id="once"), pytest.param(99, False, id="always")]
)
async def test_ledger_replaced_while_it_is_locked_is_opened_anew(
    path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch, replacements: int, *, opens: bool
) -> None:
    """The lock of a file that the path no longer leads to protects nothing."""
    path.write_bytes(b"")
    left = replacements

    def replace_and_lock(fd: int, operation: int) -> None:
        nonlocal left
        if left:
            left -= 1
            path.unlink()
            if left % 2:
                path.write_bytes(b"")
        real_flock(fd, operation)

    real_flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", replace_and_lock)
    if not opens:
        with pytest.raises(LedgerWriteError, match="replaced again and again"):
            await Ledger.open(path)
        return
    async with await Ledger.open(path) as ledger:
        await listener.begin(ledger)
    assert path.read_bytes() == RUN_LINE


async def test_file_system_without_locks_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be locked, nothing is promised."""

    def no_locks(_fd: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(LedgerWriteError, match="No locks available"):
        await Ledger.open(path)


# --- the tail ------------------------------------------------------------------------------------


async def test_tail_is_kept_then_cut(path: Path, listener: Listener) -> None:
    """What a crash left goes to PATH.torn, one tail after the other, and good bytes stay."""
    torn = path.with_name(path.name + ".torn")
    path.write_bytes(RUN_LINE + line(1) + b"garbage\n" + line(2)[:-1])
    async with await Ledger.open(path) as ledger:
        await listener.begin(ledger)
        assert ledger.history.tail is not None
        assert ledger.history.tail.size_bytes == len(b"garbage\n" + line(2)) - 1
    assert path.read_bytes() == RUN_LINE + line(1) + RUN_LINE
    assert stat.S_IMODE(torn.stat().st_mode) == 0o600
    with path.open("ab") as file:
        file.write(b"again")
    async with await Ledger.open(path) as ledger:
        await listener.begin(ledger)
    assert path.read_bytes() == RUN_LINE + line(1) + RUN_LINE * 2
    assert torn.read_bytes() == b"garbage\n" + line(2)[:-1] + b"again"


async def test_tail_that_cannot_be_kept_is_not_cut(path: Path, listener: Listener) -> None:
    """No byte is cut before its copy is safe."""
    path.write_bytes(RUN_LINE + b"torn")
    path.with_name(path.name + ".torn").mkdir()
    async with await Ledger.open(path) as ledger:
        with pytest.raises(LedgerWriteError, match="Is a directory"):
            await listener.begin(ledger)
        with pytest.raises(LedgerWriteError, match="No run has begun"):
            await ledger.append(result(1))
    assert path.read_bytes() == RUN_LINE + b"torn"


async def test_folder_that_cannot_be_synced_refuses_the_run(
    path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new file is durable only once its folder is."""

    def broken(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with await Ledger.open(path) as ledger:
        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(LedgerWriteError, match="Input/output error"):
            await listener.begin(ledger)


# --- rows and groups -----------------------------------------------------------------------------


async def test_run_is_written_in_order_and_ends_with_its_digest(path: Path, listener: Listener) -> None:
    """Earlier bytes stay, rows follow in order, and the end record covers every byte before it."""
    earlier = RUN_LINE + line(77)
    path.write_bytes(earlier)
    skip = Skip(row=2, invoice_id="1", why=SkipReason.DUPLICATE, of_row=1)
    now = datetime(2026, 11, 22, tzinfo=UTC)
    async with await Ledger.open(path, group_wait_s=LONG_S, now=lambda: now) as ledger:
        await listener.begin(ledger)
        for record in (result(1), skip, result(3)):
            await ledger.append(record)
        await ledger.end(state=RunState.STOPPED, counts={"canceled": 2}, why="outage")
    before = earlier + RUN_LINE + line(1) + encode_skip("r1", skip) + line(3)
    data = path.read_bytes()
    assert data.startswith(before)
    end = json.loads(data[len(before) :])
    assert end.pop("crc")
    assert end == {
        "type": "end",
        "run_id": "r1",
        "ended_at": "2026-11-22T00:00:00.000Z",
        "state": "stopped",
        "why": "outage",
        "counts": {"canceled": 2},
        "sha256": sha256(before).hexdigest(),
    }
    assert listener.rows == [1, 3]
    assert sum(group.size_bytes for group in listener.groups) == len(before) - len(earlier + RUN_LINE)
    assert all(group.sync_s > 0 for group in listener.groups)


async def test_end_without_stop_has_no_why(path: Path, listener: Listener) -> None:
    """The clock is this machine's unless told, and why is left out."""
    async with await Ledger.open(path) as ledger:
        await listener.begin(ledger)
        await ledger.end(state=RunState.COMPLETE, counts={})
    end = json.loads(path.read_bytes().splitlines()[-1])
    assert "why" not in end
    assert end["ended_at"].endswith("Z")


async def test_rows_appended_at_once_share_a_sync(path: Path, listener: Listener, slow: SlowDisk) -> None:
    """512 rows are one group: one write, one sync."""
    async with await Ledger.open(path, group_wait_s=LONG_S, disk=Disk(sync=slow.sync)) as ledger:
        await listener.begin(ledger)
        begun = slow.syncs
        for row in range(512):
            await ledger.append(result(row))
        await listener.told.wait()
        assert slow.syncs - begun == 1
        assert listener.rows == list(range(512))


async def test_group_is_never_larger_than_512_lines(path: Path, listener: Listener) -> None:
    """With more room than that, groups follow each other at once."""
    async with await Ledger.open(path, group_wait_s=LONG_S, max_pending=2000) as ledger:
        await listener.begin(ledger)
        for row in range(1300):
            await ledger.append(result(row))
        await ledger.end(state=RunState.COMPLETE, counts={})
    assert [len(group.results) for group in listener.groups] == [512, 512, 276]
    assert listener.rows == list(range(1300))


async def test_lone_row_does_not_wait_for_ever(path: Path, listener: Listener) -> None:
    """A group goes out when its first line has waited long enough."""
    async with await Ledger.open(path, group_wait_s=0.001) as ledger:
        await listener.begin(ledger)
        for row in (1, 2):
            listener.told.clear()
            await ledger.append(result(row))
            await listener.told.wait()
    assert path.read_bytes() == RUN_LINE + line(1) + line(2)


async def test_row_is_told_only_once_it_is_on_disk(path: Path, listener: Listener, slow: SlowDisk) -> None:
    """While the sync is under way nobody is told, though the bytes are written."""
    async with await Ledger.open(path, group_wait_s=0, disk=Disk(sync=slow.sync)) as ledger:
        await listener.begin(ledger)
        slow.shut()
        await ledger.append(result(1))
        await slow.until_syncing()
        assert listener.rows == []
        slow.open.set()
        await listener.told.wait()
        assert listener.rows == [1]


async def test_room_is_bounded_and_a_cancelled_row_is_not_written(
    path: Path, listener: Listener, slow: SlowDisk
) -> None:
    """The group being written counts too; a row that was cancelled waiting leaves nothing."""
    async with await Ledger.open(path, max_pending=2, group_wait_s=0, disk=Disk(sync=slow.sync)) as ledger:
        await listener.begin(ledger)
        slow.shut()
        await ledger.append(result(1))
        await slow.until_syncing()
        await ledger.append(result(2))
        third = asyncio.create_task(ledger.append(result(3)))
        fourth = asyncio.create_task(ledger.append(result(4)))
        await turns()
        assert not third.done()
        third.cancel()
        await turns()
        assert third.cancelled()
        assert not fourth.done()
        slow.open.set()
        await fourth
        await ledger.end(state=RunState.COMPLETE, counts={})
    assert listener.rows == [1, 2, 4]


async def test_many_who_wait_are_let_in_as_there_is_room(
    path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of five hundred is woken about once, not with every group; and all rows are written."""
    waits: list[None] = []
    wait = Room.wait

    async def counted(room: Room) -> None:
        waits.append(None)
        await wait(room)

    monkeypatch.setattr(Room, "wait", counted)
    async with await Ledger.open(path, max_pending=6, group_wait_s=0) as ledger:
        await listener.begin(ledger)
        await asyncio.gather(*(ledger.append(result(row)) for row in range(500)))
        await ledger.end(state=RunState.COMPLETE, counts={})
    assert sorted(listener.rows) == list(range(500))
    assert len(waits) < 1000


async def test_short_writes_are_completed(path: Path, listener: Listener) -> None:
    """A write may take less than it is given."""
    few = Disk(write=lambda fd, data: os.write(fd, data[:7]))
    async with await Ledger.open(path, group_wait_s=0, disk=few) as ledger:
        await listener.begin(ledger)
        await ledger.append(result(1))
        await listener.told.wait()
    assert path.read_bytes() == RUN_LINE + line(1)


async def test_rows_are_taken_only_between_begin_and_end(path: Path, listener: Listener) -> None:
    """Before and after, a row is refused and nothing is written."""
    async with await Ledger.open(path) as ledger:
        with pytest.raises(LedgerWriteError, match="No run has begun"):
            await ledger.end(state=RunState.COMPLETE, counts={})
        await listener.begin(ledger)
        await ledger.end(state=RunState.COMPLETE, counts={})
        with pytest.raises(LedgerWriteError, match="has ended"):
            await ledger.append(result(1))
        with pytest.raises(LedgerWriteError, match="has ended"):
            await ledger.end(state=RunState.COMPLETE, counts={})
    assert len(path.read_bytes().splitlines()) == 2


async def test_closing_without_end_drops_what_waits(path: Path, listener: Listener) -> None:
    """What is not durable was never promised: close flushes nothing."""
    async with await Ledger.open(path, group_wait_s=LONG_S) as ledger:
        await listener.begin(ledger)
        await ledger.append(result(1))
        await turns()
    assert path.read_bytes() == RUN_LINE
    assert listener.rows == []


# --- failures ------------------------------------------------------------------------------------


async def assert_failed(ledger: Ledger, listener: Listener, message: str) -> None:
    """Check that the failure was told once, sticks, and claims nothing."""
    await listener.told.wait()
    assert len(listener.failures) == 1
    assert message in str(listener.failures[0])
    with pytest.raises(LedgerWriteError, match=message):
        await ledger.append(result(9))
    with pytest.raises(LedgerWriteError, match=message):
        await ledger.end(state=RunState.COMPLETE, counts={})
    assert listener.rows == []


async def test_full_disk_fails_for_good_and_claims_nothing(path: Path, listener: Listener) -> None:
    """The kernel's own "no space left" within a group: the file is cut back to the last good row."""
    full = os.open("/dev/full", os.O_WRONLY)
    allowed = len(RUN_LINE) + 10

    def write(fd: int, data: memoryview) -> int:
        nonlocal allowed
        if not allowed:
            return os.write(full, data)
        allowed -= (written := os.write(fd, data[:allowed]))
        return written

    try:
        async with await Ledger.open(path, group_wait_s=0, disk=Disk(write=write)) as ledger:
            await listener.begin(ledger)
            await ledger.append(result(1))
            await assert_failed(
                ledger, listener, "No space left on device. Every row that is on disk is safe"
            )
            allowed = 10_000
            with pytest.raises(LedgerWriteError):
                await ledger.append(result(2))
    finally:
        os.close(full)
    assert path.read_bytes() == RUN_LINE


async def test_file_size_limit_of_the_system_is_a_full_disk(path: Path, listener: Listener) -> None:
    """The real thing, without any stand-in: the kernel writes a part, then refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with await Ledger.open(path, group_wait_s=0) as ledger:
        await listener.begin(ledger)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(RUN_LINE) + 10, hard))
            await ledger.append(result(1))
            await assert_failed(ledger, listener, "File too large")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == RUN_LINE


async def test_failed_sync_is_a_failed_group(path: Path, listener: Listener, slow: SlowDisk) -> None:
    """Bytes that were written and not synced are cut off again, and those who wait for room hear of it."""

    def sync(fd: int) -> None:
        slow.sync(fd)
        if slow.syncs > 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with await Ledger.open(path, max_pending=1, group_wait_s=0, disk=Disk(sync=sync)) as ledger:
        await listener.begin(ledger)
        slow.shut()
        await ledger.append(result(1))
        await slow.until_syncing()
        waiting = [asyncio.create_task(ledger.append(result(row))) for row in (2, 3, 4)]
        await turns()
        slow.open.set()
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, LedgerWriteError)
        await assert_failed(ledger, listener, "Input/output error")
    assert path.read_bytes() == RUN_LINE


async def test_disk_that_fails_at_the_end_record_says_so(path: Path, listener: Listener) -> None:
    """The rows stay; the end record is not claimed."""
    broken = False

    def write(fd: int, data: memoryview) -> int:
        if broken:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return os.write(fd, data)

    async with await Ledger.open(path, group_wait_s=0, disk=Disk(write=write)) as ledger:
        await listener.begin(ledger)
        await ledger.append(result(1))
        await listener.told.wait()
        broken = True
        with pytest.raises(LedgerWriteError, match=os.strerror(errno.EDQUOT)):
            await ledger.end(state=RunState.COMPLETE, counts={})
    assert path.read_bytes() == RUN_LINE + line(1)


async def test_rows_that_fail_while_the_run_ends_leave_it_without_an_end(
    path: Path, listener: Listener, slow: SlowDisk
) -> None:
    """An end record never follows a group that was lost."""

    def sync(fd: int) -> None:
        slow.sync(fd)
        if slow.syncs == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with await Ledger.open(path, group_wait_s=LONG_S, disk=Disk(sync=sync)) as ledger:
        await listener.begin(ledger)
        await ledger.append(result(1))
        with pytest.raises(LedgerWriteError, match="Input/output error"):
            await ledger.end(state=RunState.COMPLETE, counts={})
    assert path.read_bytes() == RUN_LINE
    assert len(listener.failures) == 1


async def test_run_record_that_cannot_be_written_leaves_no_trace(path: Path, listener: Listener) -> None:
    """A disk that is full from the start: no run, no file."""

    def write(fd: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with await Ledger.open(path, disk=Disk(write=write)) as ledger:
        with pytest.raises(LedgerWriteError, match="No space left"):
            await listener.begin(ledger)
    assert not path.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda path: path.unlink(), "was removed", id="removed"),
        pytest.param(lambda path: path.rename(path.with_name("moved")), "was removed", id="moved"),
        pytest.param(
            lambda path: path.with_name("new").rename(path), "was replaced by another file", id="replaced"
        ),
        pytest.param(lambda path: os.truncate(path, 3), "was changed by another program", id="truncated"),
        pytest.param(
            lambda path: path.write_bytes(path.read_bytes() + b"x"),
            "was changed by another program",
            id="grown",
        ),
    ],
)
async def test_ledger_that_is_no_longer_its_own_fails(
    path: Path, listener: Listener, change: Callable[[Path], None], message: str
) -> None:
    """Rows written into a file that nobody will find again would be no rows."""
    path.with_name("new").write_bytes(RUN_LINE)
    async with await Ledger.open(path, group_wait_s=0) as ledger:
        await listener.begin(ledger)
        change(path)
        before = path.read_bytes() if path.exists() else None
        await ledger.append(result(1))
        await assert_failed(ledger, listener, message)
    assert (path.read_bytes() if path.exists() else None) == before


async def test_defect_of_a_listener_is_neither_hidden_nor_waited_for(path: Path, listener: Listener) -> None:
    """Rows are refused from then on, and leaving the ledger raises what the listener raised."""

    async def defective(_group: GroupCommitted) -> None:
        raise ZeroDivisionError

    ledger = await Ledger.open(path, max_pending=1, group_wait_s=0)
    await ledger.begin(RUN, on_commit=defective, on_failure=listener.on_failure)
    await ledger.append(result(1))
    await listener.told.wait()
    with pytest.raises(LedgerWriteError, match="broke off"):
        await ledger.append(result(2))
    with pytest.raises(ZeroDivisionError):
        await ledger.close()
    assert path.read_bytes() == RUN_LINE + line(1)


# --- cancellation --------------------------------------------------------------------------------


async def test_group_under_way_outlives_cancellation(path: Path, listener: Listener, slow: SlowDisk) -> None:
    """Cancelled in mid-sync, even twice, the committer still tells what is on disk; then it is over."""
    async with await Ledger.open(path, group_wait_s=0, disk=Disk(sync=slow.sync)) as ledger:
        await listener.begin(ledger)
        slow.shut()
        await ledger.append(result(1))
        await slow.until_syncing()
        committer = ledger._committer
        assert committer is not None
        for _ in range(2):
            committer.cancel()
            await turns()
        assert not committer.done()
        slow.open.set()
        await asyncio.wait([committer])
        assert committer.cancelled()
        assert listener.rows == [1]
        with pytest.raises(LedgerWriteError, match="broke off"):
            await ledger.append(result(2))
    assert path.read_bytes() == RUN_LINE + line(1)


async def test_cancelled_end_still_writes_the_rows(path: Path, listener: Listener, slow: SlowDisk) -> None:
    """The rows were taken, so they go out; the end record does not."""
    async with await Ledger.open(path, group_wait_s=LONG_S, disk=Disk(sync=slow.sync)) as ledger:
        await listener.begin(ledger)
        slow.shut()
        await ledger.append(result(1))
        ending = asyncio.create_task(ledger.end(state=RunState.COMPLETE, counts={}))
        await slow.until_syncing()
        ending.cancel()
        await asyncio.wait([ending])
        assert ending.cancelled()
        slow.open.set()
    assert path.read_bytes() == RUN_LINE + line(1)
    assert listener.rows == [1]


async def test_cancelled_begin_takes_no_rows(path: Path, listener: Listener, slow: SlowDisk) -> None:
    """The run record is on disk whole, the cancellation is raised after it."""
    async with await Ledger.open(path, disk=Disk(sync=slow.sync)) as ledger:
        slow.shut()
        beginning = asyncio.create_task(listener.begin(ledger))
        await slow.until_syncing()
        beginning.cancel()
        await turns()
        assert not beginning.done()
        slow.open.set()
        await asyncio.wait([beginning])
        assert beginning.cancelled()
        with pytest.raises(LedgerWriteError, match="No run has begun"):
            await ledger.append(result(1))
    assert path.read_bytes() == RUN_LINE


async def test_cancelled_open_lets_the_ledger_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long recovery is told and waited for, then the file is unlocked and, being new, removed."""
    reading, go_on = threading.Event(), threading.Event()
    told: list[bool] = []

    def slow_recover(fd: int, path: Path, *, is_given_up: Callable[[], bool]) -> object:
        reading.set()
        assert go_on.wait(30)
        told.append(is_given_up())
        return recover(fd, path)

    monkeypatch.setattr(disk_module, "recover", slow_recover)
    opening = asyncio.create_task(Ledger.open(path))
    assert await asyncio.to_thread(reading.wait, 30)
    opening.cancel()
    await turns()
    assert not opening.done()
    go_on.set()
    await asyncio.wait([opening])
    assert opening.cancelled()
    assert not path.exists()
    async with await Ledger.open(path):
        assert path.exists()
    assert told == [True, False]


# --- flush ----------------------------------------------------------------------------------------


async def test_flush_returns_once_all_that_was_handed_over_is_told_of(
    path: Path, listener: Listener, slow: SlowDisk
) -> None:
    """Who answers for rows towards somebody else may say so only then."""
    async with await Ledger.open(path, group_wait_s=0, disk=Disk(sync=slow.sync)) as ledger:
        await listener.begin(ledger)
        await ledger.flush()  # nothing waits
        slow.shut()
        for row in (1, 2):
            await ledger.append(result(row))
        flushing = asyncio.create_task(ledger.flush())
        await slow.until_syncing()
        await ledger.append(result(3))
        assert not flushing.done()
        slow.open.set()
        await flushing
        assert listener.rows[:2] == [1, 2]


async def test_flush_of_a_ledger_that_fails_or_closes_raises(path: Path, listener: Listener) -> None:
    """Nobody waits in vain for rows that will never be written."""

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with await Ledger.open(path, group_wait_s=LONG_S) as ledger:
        await listener.begin(ledger)
        await ledger.append(result(1))
        flushing = asyncio.create_task(ledger.flush())
        await turns()
    with pytest.raises(LedgerWriteError, match="closed"):
        await flushing
    async with await Ledger.open(path, group_wait_s=0) as ledger:
        await listener.begin(ledger)
        ledger._file._disk = Disk(sync=full)
        await ledger.append(result(1))
        with pytest.raises(LedgerWriteError):
            await ledger.flush()
        with pytest.raises(LedgerWriteError):
            await ledger.flush()


async def test_history_names_every_run(path: Path) -> None:
    """Whoever comes after a kill can tell whether work that is still under way is this ledger's."""
    async with await Ledger.open(path) as ledger:
        assert ledger.history.run_ids == frozenset()
    path.write_bytes(RUN_LINE + line(1) + encode_run(replace(RUN, run_id="r2")) + line(2))
    async with await Ledger.open(path) as ledger:
        assert ledger.history.run_ids == {RUN.run_id, "r2"}
