"""Files of keys: read once, read again when they change, kept when the new ones are no good."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from batchcancel.api.keys import Expiry, KeyFile, KeyFiles
from batchcancel.errors import SettingsError
from batchcancel.model import KeyFileChanged

DAY_S = 86_400


class Reader:
    """Reads a file's text and counts how often."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.times = 0

    def __call__(self) -> str:
        self.times += 1
        try:
            text = self.path.read_text(encoding="ascii")
        except OSError as exc:
            raise SettingsError(f"{self.path.name}: {exc.strerror}.") from None
        if text == "broken":
            raise SettingsError(f"{self.path.name} is broken.")
        return text


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """Give a file with a good key."""
    path = tmp_path / "key"
    path.write_text("old", encoding="ascii")
    return Reader(path)


def replace(path: Path, text: str) -> None:
    """Put a new file in the old one's place, as tools do that care."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text, encoding="ascii")
    fresh.replace(path)


def write_over(path: Path, text: str) -> None:
    """Write into the same file, as editors do; a clock that stands still must not hide it."""
    path.write_text(text, encoding="ascii")
    before = path.stat().st_mtime_ns
    os.utime(path, ns=(before, before + 1))


def test_file_that_stays_is_read_once(reader: Reader) -> None:
    """However often its key is used and looked after."""
    file = KeyFile([reader.path], reader)
    assert [file.current() for _ in range(50)] == ["old"] * 50
    assert [file.reload() for _ in range(50)] == [[]] * 50
    assert reader.times == 1


@pytest.mark.parametrize("change", [replace, write_over], ids=["replaced", "written over"])
def test_changed_file_is_read_again(reader: Reader, change: Callable[[Path, str], None]) -> None:
    """Once a change; what it held before is gone."""
    file = KeyFile([reader.path], reader)
    for text in ("new", "two", "six"):
        change(reader.path, text)
        assert file.current() != text, "it is not looked at while signing"
        assert file.reload() == [KeyFileChanged(path=str(reader.path), problem=None)]
        assert file.current() == text
        assert file.reload() == []
    assert reader.times == 4


def test_file_that_can_not_be_used_leaves_the_old_key(reader: Reader) -> None:
    """It is told once, and a mended file is taken."""
    file = KeyFile([reader.path], reader)
    replace(reader.path, "broken")
    assert file.reload() == [KeyFileChanged(path=str(reader.path), problem="key is broken.")]
    assert file.reload() == []
    assert file.current() == "old"
    replace(reader.path, "new")
    assert file.reload() == [KeyFileChanged(path=str(reader.path), problem=None)]
    assert file.current() == "new"


def test_file_that_is_gone_leaves_the_old_key(reader: Reader) -> None:
    """A folder that is unmounted ends no run; it is told once."""
    file = KeyFile([reader.path], reader)
    content = reader.path.read_text(encoding="ascii")
    reader.path.unlink()
    change = KeyFileChanged(path=str(reader.path), problem="key: No such file or directory.")
    assert [file.reload(), file.reload()] == [[change], []]
    assert file.current() == "old"
    reader.path.write_text(content, encoding="ascii")
    assert file.reload() == [KeyFileChanged(path=str(reader.path), problem=None)]


def test_changed_mode_is_looked_at(reader: Reader) -> None:
    """A file that others can write from now on is not trusted from now on."""
    file = KeyFile([reader.path], reader)
    reader.path.chmod(0o666)
    assert file.reload() != []
    assert reader.times == 2


def test_pipe_is_read_once() -> None:
    """To read it again would wait for ever: a shell's <(...) gives its text one time."""
    receiving, sending = os.pipe()
    os.write(sending, b"piped")
    os.close(sending)
    try:
        reader = Reader(Path(f"/dev/fd/{receiving}"))
        file = KeyFile([reader.path], reader)
        assert [file.reload() for _ in range(3)] == [[]] * 3
    finally:
        os.close(receiving)
    assert file.reload() == []
    assert (file.current(), reader.times) == ("piped", 1)


def test_file_that_can_not_be_used_at_first_is_refused(reader: Reader) -> None:
    """There is no old key then."""
    replace(reader.path, "broken")
    with pytest.raises(SettingsError, match="key is broken"):
        KeyFile([reader.path], reader)


def test_files_are_looked_at_every_five_seconds_at_most(reader: Reader) -> None:
    """One caller does it; a thousand requests a second must not cost a thousand looks."""
    now_s = 100.0
    files = KeyFiles([KeyFile([reader.path], reader)], monotonic=lambda: now_s)
    looks = []
    for step in range(200):
        now_s = 100.0 + step / 10
        looks += [now_s for _ in range(3) if files.are_due()]
    assert looks == [105.0, 110.0, 115.0]


def test_without_files_there_is_never_anything_to_do() -> None:
    """Shared secrets are read once."""
    now_s = 0.0
    files = KeyFiles(monotonic=lambda: now_s)
    now_s = 1e9
    assert not files.are_due()
    assert files.reload() == []


def test_each_changed_file_is_told(tmp_path: Path) -> None:
    """In their order, those that stay left out."""
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text("old", encoding="ascii")
    files = KeyFiles([KeyFile([path], Reader(path)) for path in paths])
    replace(paths[0], "new")
    replace(paths[2], "broken")
    assert files.reload() == [
        KeyFileChanged(path=str(paths[0]), problem=None),
        KeyFileChanged(path=str(paths[2]), problem="c is broken."),
    ]


# --- keys that several files make ----------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Give a lock and a password file that fits it."""
    lock, word = tmp_path / "lock", tmp_path / "word"
    for path in (lock, word):
        path.write_text("one", encoding="ascii")
    return lock, word


def opened(pair: tuple[Path, Path]) -> KeyFile[str]:
    """Make a key that both files are needed for."""

    def load() -> str:
        lock, word = (path.read_text(encoding="ascii") for path in pair)
        if lock != word:
            raise SettingsError("lock can't be opened.")
        return lock

    return KeyFile(pair, load)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["lock first", "password first"])
def test_files_that_change_one_after_another_are_taken_once_they_fit(
    pair: tuple[Path, Path], order: tuple[int, int]
) -> None:
    """In between the old key stays, which is said once; the next change of either is tried."""
    file = opened(pair)
    first, second = (pair[index] for index in order)
    replace(first, "two")
    problem = KeyFileChanged(path=str(first), problem="lock can't be opened.")
    assert [file.reload(), file.reload()] == [[problem], []]
    assert file.current() == "one"
    replace(second, "two")
    assert file.reload() == [KeyFileChanged(path=str(second), problem=None)]
    assert file.current() == "two"
    assert file.reload() == []


def test_files_that_change_together_are_both_told(pair: tuple[Path, Path]) -> None:
    """As where a folder of secrets is exchanged for another."""
    file = opened(pair)
    for path in pair:
        replace(path, "two")
    assert file.reload() == [KeyFileChanged(path=str(path), problem=None) for path in pair]


def test_change_back_is_tried_too(pair: tuple[Path, Path]) -> None:
    """Whoever rotated the wrong file puts the old one in its place again."""
    file = opened(pair)
    for text, problem in (("two", "lock can't be opened."), ("one", None)):
        replace(pair[0], text)
        assert file.reload() == [KeyFileChanged(path=str(pair[0]), problem=problem)]
    assert file.current() == "one"


def test_key_before_the_present_one_is_kept(reader: Reader) -> None:
    """One of them: what was asked for with it may still be under way. A key that is no good is not."""
    file = KeyFile([reader.path], reader)
    assert file.recent() == ("old",)
    for text, recent in (("new", ("new", "old")), ("broken", ("new", "old")), ("next", ("next", "new"))):
        replace(reader.path, text)
        file.reload()
        assert file.recent() == recent


def test_pipe_among_the_files_is_read_once(pair: tuple[Path, Path]) -> None:
    """What a pipe gave is gone, so the other file alone can't be opened again."""
    receiving, sending = os.pipe()
    os.write(sending, b"one")
    os.close(sending)
    try:
        file = opened((pair[0], Path(f"/dev/fd/{receiving}")))
        replace(pair[0], "two")
        assert file.reload() == []
        assert (file.current(), file.is_watched) == ("one", False)
    finally:
        os.close(receiving)


def test_key_without_files_never_changes() -> None:
    """It came from the environment."""
    file = KeyFile([], lambda: "given")
    assert (file.current(), file.is_watched, file.reload()) == ("given", False, [])
    now_s = 0.0
    files = KeyFiles([file], monotonic=lambda: now_s)
    now_s = 1e9
    assert not files.are_due()


def test_slow_look_never_puts_an_older_key_over_a_newer_one(reader: Reader) -> None:
    """The next look waits for it, and finds what has changed meanwhile."""
    has_read, go_on = threading.Event(), threading.Event()

    def load() -> str:
        text = reader()
        if text == "slow":
            has_read.set()
            go_on.wait(30)
        return text

    file = KeyFile([reader.path], load)
    files = KeyFiles([file])
    replace(reader.path, "slow")
    first, second = threading.Thread(target=files.reload), threading.Thread(target=files.reload)
    first.start()
    assert has_read.wait(30)
    replace(reader.path, "newest")
    second.start()
    second.join(0.2)
    go_on.set()
    for thread in (first, second):
        thread.join(30)
    assert file.current() == "newest"


# --- the end of certificates ----------------------------------------------------------------------

EXPIRY = Expiry(what="signing certificate", path="key.p12", at=1_800_000_000.0)  # 2027-01-15


@pytest.mark.parametrize(
    ("left_s", "said"),
    [
        pytest.param(91 * DAY_S, None, id="91 days"),
        pytest.param(90 * DAY_S + 1, None, id="90 days and a second"),
        pytest.param(90 * DAY_S, "expires in 90 days", id="90 days"),
        pytest.param(1.5 * DAY_S, "expires in 1 days", id="a day and a half"),
        pytest.param(1, "expires in 0 days", id="a second"),
        pytest.param(0, "has expired", id="now"),
        pytest.param(-400 * DAY_S, "has expired", id="last year"),
    ],
)
def test_end_is_warned_about_ninety_days_ahead(left_s: float, said: str | None) -> None:
    """Time enough to make a new key; the file and the day are named."""
    expected = said and (
        f"The signing certificate in key.p12 {said} (2027-01-15): make a new key in the Business Center."
    )
    assert EXPIRY.warning(EXPIRY.at - left_s) == expected
