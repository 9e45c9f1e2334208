"""One descriptor, two passes: spooling, changes in between, cancellation."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import io
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from batchcancel import buckets
from batchcancel.errors import ManifestChangedError, ManifestError
from batchcancel.manifest import Format, Manifest, ManifestOptions, open_manifest
from batchcancel.manifest import source as source_module
from batchcancel.manifest.source import Source, open_source

DEFAULTS = ManifestOptions()
CSV = ManifestOptions(format=Format.CSV)


def is_open(path: Path) -> bool:
    """Tell whether this process holds a descriptor of a file."""
    return any(os.path.realpath(link) == str(path) for link in Path("/proc/self/fd").iterdir())


def holds_file_in(folder: Path) -> bool:
    """Tell whether this process holds a descriptor of any file in a folder, one without a name included."""
    return any(os.path.realpath(link).startswith(f"{folder}/") for link in Path("/proc/self/fd").iterdir())


def names_in(folder: Path) -> list[str]:
    """List a folder."""
    return [entry.name for entry in folder.iterdir()]


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    """Give a function that sends bytes to standard input, through a real pipe, and closes it."""
    reader, writer = os.pipe()

    def send(content: bytes) -> None:
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(content)

    with os.fdopen(reader, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield send


async def collected(manifest: Manifest) -> list[str]:
    """Check, then list the ids."""
    await manifest.check()
    return [row.invoice_id async for row in manifest.rows()]


async def read_into(ids: list[str], manifest: Manifest) -> None:
    """Collect ids until the rows end or fail."""
    async for row in manifest.rows():
        ids.append(row.invoice_id)  # noqa: PERF401 - what came before an error counts


async def test_standard_input_is_spooled_unnamed(tmp_path: Path, piped: Callable[[bytes], None]) -> None:
    """A pipe can be read twice, and leaves no file behind."""
    content = gzip.compress(b"id\n1\n2\n")
    piped(content)
    async with open_manifest(["-"], options=CSV, spool_dir=tmp_path) as manifest:
        assert names_in(tmp_path) == []
        check = await manifest.check()
        assert [row.invoice_id async for row in manifest.rows()] == ["1", "2"]
    assert check.files[0].path == "-"
    assert check.files[0].sha256 == hashlib.sha256(content).hexdigest()


async def test_the_spool_is_private(tmp_path: Path, piped: Callable[[bytes], None]) -> None:
    """Nobody else may read what came through a pipe."""
    piped(b"id\n1\n")
    async with AsyncExitStack() as stack:
        spooled = await open_source(stack, "-", encoding="utf-8", spool_dir=tmp_path)
        status = os.fstat(spooled._descriptor)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert spooled.name == "standard input"


async def test_a_fifo_is_spooled_once_its_writer_comes(tmp_path: Path) -> None:
    """Opening waits for the writer, and for its end, without blocking the event loop."""
    fifo = tmp_path / "m.txt"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(b"1\n2\n",))
    asyncio.get_running_loop().call_later(0.05, writer.start)
    async with (
        asyncio.timeout(10),
        open_manifest([str(fifo)], options=DEFAULTS, spool_dir=tmp_path) as manifest,
    ):
        assert await collected(manifest) == ["1", "2"]
    writer.join()


async def test_waiting_for_a_silent_fifo_can_be_canceled(tmp_path: Path) -> None:
    """Ctrl-C is not held up by a writer that never comes."""
    fifo = tmp_path / "m.txt"
    os.mkfifo(fifo)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), open_manifest([str(fifo)], options=DEFAULTS, spool_dir=tmp_path):
            pytest.fail("there was nothing to read")
    assert fifo.exists()


@pytest.mark.parametrize("stdin", [None, io.StringIO("id\n")], ids=["closed", "without-descriptor"])
async def test_standard_input_without_a_descriptor_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stdin: io.StringIO | None
) -> None:
    """Cron may start a process without standard input."""
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(ManifestError, match="Standard input is closed"):
        async with open_manifest(["-"], options=CSV, spool_dir=tmp_path):
            pytest.fail("the manifest was opened")


async def test_a_spool_that_can_not_be_written_names_its_folder(
    tmp_path: Path, piped: Callable[[bytes], None]
) -> None:
    """The sentence blames the folder, not the input."""
    piped(b"id\n")
    with pytest.raises(ManifestError, match=r"copied to a file in .*absent"):
        async with open_manifest(["-"], options=CSV, spool_dir=tmp_path / "absent"):
            pytest.fail("the manifest was opened")


async def test_a_file_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's refusal becomes a sentence, also where the tests run as root."""

    def refuse(_path: str, _flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(source_module, "_open_at_once", refuse)
    with pytest.raises(ManifestError, match="Check its permissions"):
        async with open_manifest(["m.csv"], options=DEFAULTS, spool_dir=tmp_path):
            pytest.fail("the manifest was opened")


async def test_a_replaced_path_does_not_matter(tmp_path: Path) -> None:
    """Both passes read the file that was opened, whatever its name points to by now."""
    path = tmp_path / "m.txt"
    path.write_text("1\n")
    async with open_manifest([str(path)], options=DEFAULTS, spool_dir=tmp_path) as manifest:
        await manifest.check()
        other = tmp_path / "other.txt"
        other.write_text("666\n")
        other.replace(path)
        assert [row.invoice_id async for row in manifest.rows()] == ["1"]


def grow(path: Path) -> None:
    """Append a row."""
    with path.open("a") as file:
        file.write("9\n")


def overwrite(path: Path) -> None:
    """Write other bytes of the same length in place."""
    path.write_bytes(path.read_bytes().replace(b"1", b"7"))


def touch(path: Path) -> None:
    """Change the modification time only."""
    os.utime(path, ns=(0, 0))


def truncate(path: Path) -> None:
    """Cut everything."""
    path.write_bytes(b"")


@pytest.mark.parametrize("change", [grow, overwrite, touch, truncate])
async def test_a_changed_file_yields_no_row(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """A change between the passes stops the second one before its first row."""
    path = tmp_path / "m.txt"
    path.write_text("1\n2\n")
    async with open_manifest([str(path)], options=DEFAULTS, spool_dir=tmp_path) as manifest:
        await manifest.check()
        change(path)
        rows = manifest.rows()
        with pytest.raises(ManifestChangedError, match=r"m\.txt: it changed since it was checked"):
            await anext(rows)


@pytest.mark.parametrize("change", [grow, overwrite, truncate])
async def test_a_change_that_keeps_size_and_time_is_found_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    """The digest decides where the file system's stamp does not tell."""
    monkeypatch.setattr(source_module, "_stamp", lambda _descriptor: (0, 0))
    path = tmp_path / "m.txt"
    path.write_text("1\n2\n")
    async with open_manifest([str(path)], options=DEFAULTS, spool_dir=tmp_path) as manifest:
        await manifest.check()
        change(path)
        with pytest.raises(ManifestChangedError):
            await anext(manifest.rows())


async def test_a_later_block_that_changed_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of earlier blocks are good; no row of the changed one goes out."""
    monkeypatch.setattr(source_module, "_stamp", lambda _descriptor: (0, 0))
    path = tmp_path / "m.txt"
    lines = [f"I{number:06d}" for number in range(300_000)]
    path.write_text("\n".join(lines))
    async with open_manifest([str(path)], options=DEFAULTS, spool_dir=tmp_path) as manifest:
        await manifest.check()
        with path.open("r+b") as file:
            file.seek(-6, os.SEEK_END)
            file.write(b"666666")
        read: list[str] = []
        with pytest.raises(ManifestChangedError):
            await read_into(read, manifest)
    assert 100_000 < len(read) < 300_000
    assert read == lines[: len(read)]


async def test_a_file_that_grows_under_the_check_is_refused(tmp_path: Path) -> None:
    """A manifest that is still being written is not checked."""
    path = tmp_path / "m.txt"
    path.write_text("1\n")
    async with open_manifest([str(path)], options=DEFAULTS, spool_dir=tmp_path) as manifest:
        grow(path)
        with pytest.raises(ManifestChangedError):
            await manifest.check()


async def test_a_file_that_changes_between_batches_stops_the_rows(tmp_path: Path) -> None:
    """Size and time are compared before each batch, not only at the end."""
    path = tmp_path / "m.txt"
    path.write_text("\n".join(f"I{number}" for number in range(3000)))
    async with open_manifest([str(path)], options=DEFAULTS, spool_dir=tmp_path) as manifest:
        await manifest.check()
        rows = manifest.rows()
        read = [(await anext(rows)).invoice_id]
        touch(path)
        read += [(await anext(rows)).invoice_id for _ in range(999)]
        with pytest.raises(ManifestChangedError):
            await anext(rows)
    assert read == [f"I{number}" for number in range(1000)]


async def test_a_fault_in_the_second_pass_is_a_safety_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was readable at the check and no longer is must not pass for a usage error."""
    path = tmp_path / "m.txt"
    path.write_text("1\n")
    async with open_manifest([str(path)], options=DEFAULTS, spool_dir=tmp_path) as manifest:
        await manifest.check()

        def fail(_descriptor: int, _size: int, _offset: int) -> bytes:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "pread", fail)
        with pytest.raises(ManifestChangedError, match="Input/output error"):
            await anext(manifest.rows())


@pytest.mark.parametrize("call", ["pwrite", "pread"])
async def test_ids_that_can_not_be_compared_beside_the_ledger_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A full or broken disk leaves the manifest unchecked; the file is given back."""
    spool = tmp_path / "spool"
    spool.mkdir()
    path = tmp_path / "m.txt"
    path.write_text("1\n2\n1\n")
    real = getattr(os, call)

    def fail(fd: int, data: Any, offset: int) -> Any:
        if Path(f"/proc/self/fd/{fd}").readlink().is_relative_to(spool):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data, offset)

    monkeypatch.setattr(buckets, "MAX_HELD", 1)
    monkeypatch.setattr(os, call, fail)
    async with open_manifest([str(path)], options=DEFAULTS, spool_dir=spool) as manifest:
        with pytest.raises(ManifestError, match=r"spool, and that failed \(No space left on device\)"):
            await manifest.check()
        with pytest.raises(RuntimeError, match="check"):
            await anext(manifest.rows())
        assert not holds_file_in(spool)


async def test_rows_need_a_check(tmp_path: Path) -> None:
    """Without a check nothing is known, so nothing is read."""
    path = tmp_path / "m.txt"
    path.write_text("1\n")
    async with open_manifest([str(path)], options=DEFAULTS, spool_dir=tmp_path) as manifest:
        with pytest.raises(RuntimeError, match="check"):
            await anext(manifest.rows())


def test_the_digest_needs_a_whole_pass(tmp_path: Path) -> None:
    """Half a pass sets nothing that a later one would be compared with."""
    path = tmp_path / "m.txt"
    path.write_text("1\n2\n")
    with path.open("rb") as file:
        half_read = Source(str(path), file.fileno(), encoding="utf-8")
        assert next(half_read.lines()) == "1\n"
        with pytest.raises(RuntimeError, match="not read yet"):
            _ = half_read.sha256


async def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """Half-read passes and errors give their descriptors back."""
    path = tmp_path / "m.txt"
    path.write_text("\n".join(f"I{number}" for number in range(5000)))
    async with open_manifest([str(path)], options=DEFAULTS, spool_dir=tmp_path) as manifest:
        await manifest.check()
        rows = manifest.rows()
        await anext(rows)
        assert is_open(path)
        await rows.aclose()  # type: ignore[attr-defined]  # an async generator behind its interface
    del rows, manifest
    for _ in range(200):  # a worker thread may hold its last piece of work for a moment longer
        if not is_open(path):
            break
        await asyncio.sleep(0.01)
    assert not is_open(path)


async def test_a_canceled_check_leaves_the_manifest_usable(tmp_path: Path) -> None:
    """Cancellation in the midst of a pass neither hangs nor counts as a check."""
    path = tmp_path / "m.txt"
    path.write_text("\n".join(f"I{number}" for number in range(50_000)))
    async with open_manifest([str(path)], options=DEFAULTS, spool_dir=tmp_path) as manifest:
        checking = asyncio.create_task(manifest.check())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(checking, timeout=0.005)
        assert checking.cancelled()
        with pytest.raises(RuntimeError):
            await anext(manifest.rows())
        assert len(await collected(manifest)) == 50_000
