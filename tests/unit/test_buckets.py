"""Digests with a number each: what comes out is what went in, wherever it was held."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcancel import buckets as buckets_module
from batchcancel.buckets import BUCKETS, MAX_HELD, Buckets

DIGEST = bytes(range(16))


@contextmanager
def holding(pairs: int) -> Iterator[None]:
    """Hold that many pairs in memory and no more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets_module, "MAX_HELD", pairs)
        yield


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files_in(folder: Path) -> list[os.stat_result]:
    """List the files that this process holds open in a folder, those without a name included."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            if link.readlink().is_relative_to(folder):
                found.append(link.stat())
        except FileNotFoundError:
            continue  # the descriptor that lists them
    return found


@given(
    pairs=st.lists(
        st.tuples(
            st.builds(
                lambda first, rest: first + rest,
                st.sampled_from([b"\x00", b"\x07", b"\xff"]),
                st.binary(min_size=15, max_size=15),
            ),
            st.integers(0, 2**32 - 1),
        ),
        max_size=40,
    ),
    held=st.integers(1, 41),
)
def test_each_bucket_gives_back_its_pairs_in_order(pairs: list[tuple[bytes, int]], held: int) -> None:
    """However few may be held in memory, and as often as it is asked."""
    with TemporaryDirectory() as folder, holding(held), closing(Buckets(Path(folder))) as buckets:
        for digest, number in pairs:
            buckets.add(digest, number)
        for _ in range(2):
            for bucket in range(BUCKETS):
                assert list(buckets.read(bucket)) == [pair for pair in pairs if pair[0][0] == bucket]
        assert list(Path(folder).iterdir()) == []


def test_few_pairs_make_no_file(tmp_path: Path) -> None:
    """An ordinary run writes nothing that its ledger does not need."""
    with closing(Buckets(tmp_path)) as buckets:
        for number in range(10_000):
            buckets.add(DIGEST, number)
        assert files_in(tmp_path) == []
    assert MAX_HELD > 10_000


def test_the_file_is_private_and_has_no_name(tmp_path: Path) -> None:
    """Nobody else can open it, a kill leaves nothing, and closing gives the room back."""
    with holding(1), closing(Buckets(tmp_path)) as buckets:
        buckets.add(DIGEST, 1)
        (file,) = files_in(tmp_path)
        assert stat.S_IMODE(file.st_mode) == 0o600
        assert (file.st_nlink, list(tmp_path.iterdir())) == (0, [])
    assert files_in(tmp_path) == []
    buckets.close()


def test_nothing_is_read_of_what_is_closed(tmp_path: Path) -> None:
    """Forgotten answers must not pass for invoices that nobody has asked about."""
    buckets = Buckets(tmp_path)
    buckets.add(DIGEST, 1)
    buckets.close()
    with pytest.raises(ValueError, match="closed"):
        buckets.read(DIGEST[0])


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    """What does not fit stays held, also if half of it was written; with room again it goes on."""
    with holding(2), closing(Buckets(tmp_path)) as buckets:
        with files_up_to(70):
            buckets.add(DIGEST, 1)
            buckets.add(DIGEST, 2)
            buckets.add(DIGEST, 3)
            with pytest.raises(OSError, match="File too large"):
                buckets.add(DIGEST, 4)
            assert [number for _, number in buckets.read(0)] == [1, 2, 3, 4]
        buckets.add(DIGEST, 5)
        assert [number for _, number in buckets.read(0)] == [1, 2, 3, 4, 5]


def test_a_folder_that_takes_no_file_is_told(tmp_path: Path) -> None:
    """The caller knows what it means for the run."""
    with holding(1), closing(Buckets(tmp_path / "absent")) as buckets, pytest.raises(FileNotFoundError):
        buckets.add(DIGEST, 1)


def test_pairs_that_can_not_be_read_back_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is shorter than it was would otherwise pass for invoices that nobody has asked."""
    with holding(1), closing(Buckets(tmp_path)) as buckets:
        buckets.add(DIGEST, 1)
        pread = os.pread
        monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, size, offset)[:-1])
        with pytest.raises(OSError, match="Input/output error"):
            buckets.read(DIGEST[0])
