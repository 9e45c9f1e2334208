"""Auditing and salvaging real files: every byte flipped, every cut, full disks and other runs."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from batchcancel.errors import (
    LedgerFaultError,
    LedgerInUseError,
    LedgerMismatchError,
    LedgerWriteError,
    UsageError,
)
from batchcancel.ledger.disk import Disk
from batchcancel.ledger.reader import recover
from batchcancel.ledger.record import EndRecord, RunRecord, encode_end, encode_result, encode_run, encode_skip
from batchcancel.ledger.writer import Ledger
from batchcancel.model import GroupCommitted, Reason, Result, RunState, Skip, key_digest
from batchcancel.tasks.verify import NoteKind, audit_ledger, salvage_ledger
from batchcancel.tasks.verify import salvage as salvage_module

if TYPE_CHECKING:
    from tests.conftest import LatestReasons

RUN = RunRecord(
    run_id="r1",
    started_at="t",
    version="0",
    env="test",
    base_url="b",
    merchant_id="m1",
    operator="o",
    host="h",
    pid=1,
    ref=None,
    manifest=(),
    options={},
)


def run(run_id: str = "r1", *, env: str = "test") -> bytes:
    """Encode a run record."""
    return encode_run(msgspec.structs.replace(RUN, run_id=run_id, env=env))


def result(invoice_id: str) -> Result:
    """Make a result row."""
    reason = Reason.CANCELED
    return Result(
        row=1, invoice_id=invoice_id, outcome=reason.outcome, reason=reason, resolved_by=None, at="t"
    )


def row(invoice_id: str, run_id: str = "r1") -> bytes:
    """Encode a result row."""
    return encode_result(run_id, result(invoice_id))


def skip(run_id: str = "r1") -> bytes:
    """Encode a skip."""
    return encode_skip(
        run_id, msgspec.convert({"row": 9, "invoice_id": "1", "why": "duplicate", "of_row": 1}, Skip)
    )


def end(before: list[bytes], run_id: str = "r1", **counts: int) -> bytes:
    """Encode the end of a run over all lines before it."""
    return encode_end(
        EndRecord(
            run_id=run_id,
            ended_at="t",
            state=RunState.COMPLETE,
            counts={"rows": sum(counts.values()), **counts},
            sha256=sha256(b"".join(before)).hexdigest(),
        )
    )


def two_runs() -> list[bytes]:
    """Write a ledger of two runs: lines 1 to 5 and 6 to 8."""
    lines = [run(), row("1"), row("2"), skip()]
    lines.append(end(lines, canceled=2, duplicates=1))
    lines += [run("r2"), row("3", "r2")]
    lines.append(end(lines, "r2", canceled=1))
    return lines


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Write a sound ledger."""
    path = tmp_path / "x.ledger.jsonl"
    path.write_bytes(b"".join(two_runs()))
    return path


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """Where the new ledger is to lie."""
    return tmp_path / "new.jsonl"


def assert_runs_accept(path: Path) -> None:
    """Hold a new ledger to what it is for: sound to verify, and nothing for a run to cut or refuse."""
    audited = audit_ledger(path)
    assert (audited.findings, {note.kind for note in audited.notes} - {NoteKind.NO_END}) == ((), set())
    with path.open("rb") as file:
        assert recover(file.fileno(), path).tail is None


# --- audit ----------------------------------------------------------------------------------------


def test_a_sound_ledger_is_read_and_left_alone(ledger: Path) -> None:
    """Neither its bytes nor its modification time change, and no lock stays behind."""
    before = (ledger.read_bytes(), ledger.stat().st_mtime_ns)
    audited = audit_ledger(ledger)
    assert audited.is_sound
    assert (audited.notes, audited.lines, audited.results) == ((), 8, 3)
    assert (ledger.read_bytes(), ledger.stat().st_mtime_ns) == before
    with ledger.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda _path: None, "can't be opened: No such file", id="missing"),
        pytest.param(lambda path: path.mkdir(), "not a regular file", id="folder"),
        pytest.param(os.mkfifo, "not a regular file", id="fifo"),
        pytest.param(lambda path: path.write_text("id\n1\n2\n"), "is no ledger", id="csv"),
        pytest.param(lambda path: path.write_bytes(run()[:8] + b"\0x"), "is no ledger", id="nearly"),
        pytest.param(
            lambda path: path.write_bytes(encode_run(msgspec.structs.replace(RUN, v=2))),
            "newer version",
            id="newer",
        ),
    ],
)
def test_what_is_no_ledger_is_refused(
    tmp_path: Path, new: Path, make: Callable[[Path], None], message: str
) -> None:
    """Neither a verdict nor a new ledger comes of it."""
    path = tmp_path / "other"
    make(path)
    with pytest.raises(LedgerMismatchError, match=message):
        audit_ledger(path)
    if message != "is no ledger":  # there the audit refuses, after a salvage that found no line
        with pytest.raises(LedgerMismatchError, match=message):
            salvage_ledger(path, new)
    else:
        assert salvage_ledger(path, new).path is None
    assert not new.exists()


def test_a_disk_that_cannot_be_read_is_a_fault(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither sound nor damaged: nobody knows."""

    def fail(*_: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(LedgerFaultError, match="can't be read: Input/output error"):
        audit_ledger(ledger)


def test_a_run_at_work_is_said_and_not_disturbed(ledger: Path) -> None:
    """While it holds the ledger, half a line is no damage and its end is not missed."""
    ledger.write_bytes(b"".join(two_runs()[:7]) + b'{"type":"res')
    with ledger.open("rb") as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        audited = audit_ledger(ledger)
    assert audited.is_sound
    assert [note.kind for note in audited.notes] == [NoteKind.IN_USE, NoteKind.TAIL]
    assert [note.kind for note in audit_ledger(ledger).notes] == [NoteKind.NO_END, NoteKind.TAIL]


def test_a_complete_ledger_is_never_locked(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cron job that verifies must not make the run that begins in that instant fail."""
    monkeypatch.delattr(fcntl, "flock")
    assert audit_ledger(ledger).is_sound


def test_a_file_system_without_locks_can_be_verified(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run can be at work there, so what is missing is missing; a salvage needs the lock."""
    ledger.write_bytes(b"".join(two_runs()[:7]))

    def refuse(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert [note.kind for note in audit_ledger(ledger).notes] == [NoteKind.NO_END]
    with pytest.raises(LedgerFaultError, match="can't be locked: No locks available"):
        salvage_ledger(ledger, ledger.with_name("new"))


def test_what_a_run_appends_meanwhile_is_left_for_the_next_time(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that writes faster than it is read is no endless audit; that it is at work is said."""
    ledger.write_bytes(b"".join(two_runs()[:6]))
    read = os.pread

    def read_and_append(fd: int, size: int, offset: int) -> bytes:
        with ledger.open("ab") as running:
            running.write(row(str(running.tell()), "r2"))
        return read(fd, size, offset)

    monkeypatch.setattr(os, "pread", read_and_append)
    audited = audit_ledger(ledger)
    assert (audited.lines, audited.is_sound) == (6, True)
    assert [note.kind for note in audited.notes] == [NoteKind.IN_USE]


# --- damage, byte by byte -------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(7), ids=lambda index: f"line-{index + 1}")
def test_every_flipped_byte_is_found_and_costs_no_other_row(ledger: Path, new: Path, index: int) -> None:
    """The audit names the line; a salvage keeps all that is vouched for, and runs accept what it made.

    Besides the line itself the ends over it go, and with a run record the rows of its run. A lost
    newline joins two lines, and both are lost.
    """
    lines = two_runs()
    start, line = len(b"".join(lines[:index])), lines[index]
    lost_run = {0: {1, 2, 3, 4}, 5: {6, 7}}.get(index, set())
    for position in range(len(line)):
        at_newline = position == len(line) - 1
        data = bytearray(b"".join(lines))
        data[start + position] ^= 0x01
        ledger.write_bytes(data)
        lost = {index, *lost_run, *({4, 7} if index < 4 else {7})}
        if at_newline:
            lost |= {index + 1, *({6, 7} if index + 1 == 5 else ())}
        kept = [one for number, one in enumerate(lines) if number not in lost]

        if index == 6 and at_newline:  # it joins the last line: all of it is a tail, which a run cuts
            assert audit_ledger(ledger).is_sound
        else:
            finding = audit_ledger(ledger).findings[0]
            assert (finding.kind, finding.line, finding.offset) == ("damaged", index + 1, start)
        salvaged = salvage_ledger(ledger, new)
        assert new.read_bytes() == b"".join(kept)
        assert salvaged.lines == len(kept)
        assert_runs_accept(new)
        new.unlink()
    assert ledger.read_bytes() == data


def test_every_cut_of_the_last_record_is_only_a_note(ledger: Path, new: Path) -> None:
    """What a crash leaves is not damage; a salvage leaves out that line and no other."""
    lines = two_runs()
    whole = b"".join(lines)
    for cut in range(1, len(lines[-1])):
        ledger.write_bytes(whole[:-cut])
        audited = audit_ledger(ledger)
        assert audited.is_sound
        tail = audited.notes[-1]
        assert (tail.kind, tail.line, tail.offset) == (NoteKind.TAIL, 8, len(whole) - len(lines[-1]))
        salvaged = salvage_ledger(ledger, new)
        assert new.read_bytes() == b"".join(lines[:-1])
        assert salvaged.lines_left_out == 1
        new.unlink()


async def test_a_run_goes_on_from_every_cut_of_the_last_row(
    tmp_path: Path, latest_reasons: LatestReasons
) -> None:
    """Every other row is kept, the torn one is open again, and the finished ledger is sound."""
    good, last = run() + row("1") + row("2"), row("3")

    async def told(_group: GroupCommitted) -> None: ...

    for cut in range(len(last)):
        path = tmp_path / f"{cut}.jsonl"
        path.write_bytes(good + last[:cut])
        async with await Ledger.open(path, disk=Disk(sync=lambda _fd: None)) as ledger:
            reasons = latest_reasons(ledger.history)
            assert reasons == {key_digest(invoice_id): Reason.CANCELED for invoice_id in "12"}
            again = msgspec.structs.replace(RUN, run_id="r2")
            await ledger.begin(again, on_commit=told, on_failure=lambda failure: pytest.fail(str(failure)))
            assert (ledger.history.tail.size_bytes if ledger.history.tail else 0) == cut
            await ledger.append(result("3"))
            counts = {"rows": 3, "canceled": 1, "settled_earlier": 2}
            await ledger.end(state=RunState.COMPLETE, counts=counts)
        assert path.read_bytes().startswith(good + run("r2") + row("3", "r2"))
        audited = audit_ledger(path)
        assert audited.is_sound
        assert audited.reasons == {Reason.CANCELED: 3}


# --- what a salvage copies ------------------------------------------------------------------------


def test_a_sound_ledger_is_copied_byte_for_byte(ledger: Path, new: Path) -> None:
    """All digests hold, so nothing is left out; the copy is private."""
    old_mask = os.umask(0)
    try:
        salvaged = salvage_ledger(ledger, new)
    finally:
        os.umask(old_mask)
    assert new.read_bytes() == ledger.read_bytes()
    assert (salvaged.path, salvaged.lines, salvaged.left_out) == (str(new), 8, ())
    assert stat.S_IMODE(new.stat().st_mode) == 0o600


def left_out(lines: list[bytes], ledger: Path, new: Path) -> list[tuple[int, int, str]]:
    """Salvage a ledger of some lines; tell first line, number of lines and cause of what was left out."""
    ledger.write_bytes(b"".join(lines))
    salvaged = salvage_ledger(ledger, new)
    for one in salvaged.left_out:
        offset = len(b"".join(lines[: one.line - 1]))
        size_bytes = len(b"".join(lines[one.line - 1 : one.line - 1 + one.lines]))
        assert (one.offset, one.size_bytes) == (offset, size_bytes)
    assert salvaged.lines_left_out == sum(one.lines for one in salvaged.left_out)
    assert_runs_accept(new)
    return [(one.line, one.lines, one.why) for one in salvaged.left_out]


DAMAGED = "damaged or unfinished"
NO_RUN = "of a run whose run record is not copied"
OVER_OTHERS = "an end record over bytes that are not copied"


def test_rows_of_a_lost_run_are_left_out(ledger: Path, new: Path) -> None:
    """Only the run record says whose invoices they are; the ledger begins with the next good one."""
    lines = [b"x\n", *two_runs()[1:]]
    assert left_out(lines, ledger, new) == [(1, 1, DAMAGED), (2, 4, NO_RUN), (8, 1, OVER_OTHERS)]
    assert new.read_bytes() == b"".join(lines[5:7])


def test_a_run_of_another_account_is_left_out(ledger: Path, new: Path) -> None:
    """Its ids mean other invoices, so its rows must settle nothing."""
    lines = [*two_runs(), run("r9", env="production"), row("4", "r9")]
    other = "a run of another environment or merchant"
    assert left_out(lines, ledger, new) == [(9, 1, other), (10, 1, NO_RUN)]


def test_ends_before_the_damage_are_kept(ledger: Path, new: Path) -> None:
    """Their digests hold, for every byte before them is copied."""
    lines = two_runs()
    lines[6:7] = [b"x\n", b"y\n"]
    assert left_out(lines, ledger, new) == [(7, 2, DAMAGED), (9, 1, OVER_OTHERS)]
    assert audit_ledger(new).runs["complete"] == 1


def test_lines_of_a_later_version_are_copied(ledger: Path, new: Path) -> None:
    """What this version ignores may be needed by the one that wrote it, but not before a run record."""
    later = b'{"type":"later","crc":"7057cb19"}\n'
    lines = [later, run(), later, b"x\n", row("1")]
    assert left_out(lines, ledger, new) == [(1, 1, "before the first run record"), (4, 1, DAMAGED)]
    assert new.read_bytes() == run() + later + row("1")


def test_what_no_copy_can_mend_is_copied(ledger: Path, new: Path) -> None:
    """Two answers for one invoice stay a finding: which of them is right can't be told from the file."""
    ledger.write_bytes(run() + row("1") + b"x\n" + row("1"))
    salvage_ledger(ledger, new)
    assert [finding.kind for finding in audit_ledger(new).findings] == ["answered_twice"]


def test_a_large_ledger_is_copied_in_groups(ledger: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is a group; the groups join without a seam, whether or not the last one is full."""
    monkeypatch.setattr(salvage_module, "_GROUP_BYTES", 2 * len(row("1")))
    for rows in (4, 5):
        ledger.write_bytes(run() + b"".join(row(str(number)) for number in range(rows)))
        writes: list[int] = []

        def write(fd: int, data: memoryview, writes: list[int] = writes) -> int:
            writes.append(len(data))
            return os.write(fd, data)

        assert salvage_ledger(ledger, new, disk=Disk(write=write)).lines == rows + 1
        assert new.read_bytes() == ledger.read_bytes()
        assert len(writes) == 1 + (rows + 1) // 2
        new.unlink()


def test_what_is_left_out_is_listed_up_to_a_bound(
    ledger: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger with damage everywhere costs no memory; the count goes on."""
    monkeypatch.setattr(salvage_module, "MAX_LISTED", 2)
    ledger.write_bytes(run() + (b"x\n" + skip()) * 5)
    salvaged = salvage_ledger(ledger, new)
    assert (len(salvaged.left_out), salvaged.lines_left_out, salvaged.lines) == (2, 5, 6)


# --- what a salvage never does --------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(run()[:-1], id="torn first line"),
        pytest.param(b"x\n" + row("1"), id="no run record"),
    ],
)
def test_nothing_to_copy_leaves_nothing_behind(ledger: Path, new: Path, data: bytes) -> None:
    """An empty new ledger would look like a success."""
    ledger.write_bytes(data)
    salvaged = salvage_ledger(ledger, new)
    assert (salvaged.path, salvaged.lines) == (None, 0)
    assert not new.exists()


@pytest.mark.parametrize("kind", ["file", "ledger", "folder", "dangling link"])
def test_what_is_there_is_never_overwritten(ledger: Path, new: Path, kind: str) -> None:
    """Not even the ledger itself, and not through a link to nowhere."""
    if kind == "file":
        new.write_text("precious", encoding="utf-8")
    elif kind == "folder":
        new.mkdir()
    elif kind == "dangling link":
        new.symlink_to("nowhere")
    before = ledger.read_bytes()
    with pytest.raises(UsageError, match="is there already and was left as it is"):
        salvage_ledger(ledger, ledger if kind == "ledger" else new)
    assert ledger.read_bytes() == before
    assert kind != "file" or new.read_text(encoding="utf-8") == "precious"
    assert not (new.parent / "nowhere").exists()


def test_a_file_that_comes_in_between_is_left_alone(
    ledger: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program made it after the first look: the exclusive creation tells."""
    new.write_bytes(run("r9"))
    monkeypatch.setattr(os.path, "lexists", lambda _path: False)
    with pytest.raises(UsageError, match="is there already"):
        salvage_ledger(ledger, new)
    assert new.read_bytes() == run("r9")


@pytest.mark.parametrize("after", [0, 1], ids=["at the run record", "at the rows"])
@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_disk_that_refuses_leaves_nothing_behind(ledger: Path, new: Path, call: str, after: int) -> None:
    """Success is claimed only for what is durable, and half a ledger is no success."""
    calls: list[int] = []

    def refuse(fd: int, *_: memoryview) -> int:
        calls.append(fd)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(fd, *_) if _ else 0

    def sync(fd: int) -> None:
        refuse(fd)

    disk = Disk(write=refuse) if call == "write" else Disk(sync=sync)
    with pytest.raises(LedgerWriteError, match=r"No space left on device. No new ledger was made"):
        salvage_ledger(ledger, new, disk=disk)
    assert not new.exists()


def test_an_interruption_leaves_nothing_behind(
    ledger: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the rows are being copied."""

    def interrupt(_fd: int, _data: memoryview) -> int:
        assert new.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        salvage_ledger(ledger, new, disk=Disk(write=interrupt))
    assert not new.exists()


def test_rows_and_the_folders_entry_are_synced(
    ledger: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut the new ledger is there, under its name."""
    synced: list[str] = []
    kinds = {stat.S_IFDIR: "folder", stat.S_IFREG: "file"}

    def note(fd: int) -> None:
        synced.append(kinds[stat.S_IFMT(os.fstat(fd).st_mode)])

    monkeypatch.setattr(os, "fsync", note)
    salvage_ledger(ledger, new, disk=Disk(sync=note))
    assert synced == ["file", "folder", "file"]


def test_a_ledger_that_a_run_holds_is_not_salvaged(ledger: Path, new: Path) -> None:
    """Its rows are still coming; a run can't begin while it is being copied either."""
    with ledger.open("rb") as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        with pytest.raises(LedgerInUseError, match="Wait until it has ended"):
            salvage_ledger(ledger, new)
    assert not new.exists()

    def begin_a_run(fd: int) -> None:
        with ledger.open("rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    assert salvage_ledger(ledger, new, disk=Disk(sync=begin_a_run)).lines == 8


def test_a_folder_that_is_missing_is_a_fault(ledger: Path, tmp_path: Path) -> None:
    """The new ledger can't be made there."""
    with pytest.raises(LedgerWriteError, match="Its folder has to exist"):
        salvage_ledger(ledger, tmp_path / "nowhere" / "new.jsonl")
