"""Watching a run: the log, the progress, and that neither can end it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import re
import stat
import sys
import termios
import tty
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import pytest
from msgspec.structs import replace

from batchcancel.model import (
    AnswersUnclaimed,
    ClockSet,
    DecryptionFailed,
    Event,
    GroupCommitted,
    KeyFileChanged,
    ListProgressed,
    MerchantStopped,
    PauseCause,
    PauseEnded,
    PauseStarted,
    RateChanged,
    Reason,
    RequestFinished,
    RequestKind,
    ResolvedBy,
    Result,
    RetryScheduled,
    StopRequested,
    Vitals,
)
from batchcancel.observe import Broadcast
from batchcancel.observe.colour import wants_colour
from batchcancel.observe.logs import Log, open_log
from batchcancel.observe.progress import show_progress, tell_progress
from batchcancel.observe.screen import Screen
from batchcancel.observe.view import Line
from batchcancel.observe.watched import Count, Watched
from batchcancel.settings import Progress

InVirtualTime = Callable[[Coroutine[Any, Any, None]], None]


def committed(*reasons: Reason) -> GroupCommitted:
    """Build a group of results."""
    results = tuple(
        Result(
            row=row,
            invoice_id=str(row),
            outcome=reason.outcome,
            reason=reason,
            resolved_by=ResolvedBy.RESPONSE,
            at="2026-11-22T00:00:00.000Z",
        )
        for row, reason in enumerate(reasons, start=1)
    )
    return GroupCommitted(results=results, size_bytes=512, sync_s=0.00123)


STOP = StopRequested(why="SIGTERM")
OUTAGE = PauseStarted(cause=PauseCause.OUTAGE, wait_s=None, last_failure="connection refused")
LINES: list[tuple[Event, dict[str, object]]] = [
    (
        RequestFinished(
            kind=RequestKind.CANCEL,
            invoice_id="2675",
            http_status=200,
            failure=None,
            latency_ms=118.249,
            correlation_id="c-1",
        ),
        {
            "event": "request.finished",
            "level": "debug",
            "kind": "cancel",
            "invoice_id": "2675",
            "http_status": 200,
            "failure": None,
            "latency_ms": 118.2,
            "correlation_id": "c-1",
        },
    ),
    (
        RetryScheduled(invoice_id="2675", kind=RequestKind.LOOK_UP, wait_s=1.2345),
        {
            "event": "retry.scheduled",
            "level": "info",
            "invoice_id": "2675",
            "kind": "look_up",
            "wait_s": 1.23,
        },
    ),
    (
        PauseStarted(cause=PauseCause.RATE_LIMITED, wait_s=None),
        {
            "event": "pause.started",
            "level": "info",
            "cause": "rate_limited",
            "wait_s": None,
            "last_failure": None,
        },
    ),
    (
        PauseStarted(cause=PauseCause.KEY_IN_DOUBT, wait_s=2.5, last_failure="401"),
        {
            "event": "pause.started",
            "level": "info",
            "cause": "key_in_doubt",
            "wait_s": 2.5,
            "last_failure": "401",
        },
    ),
    (
        OUTAGE,
        {
            "event": "pause.started",
            "level": "warning",
            "cause": "outage",
            "wait_s": None,
            "last_failure": "connection refused",
        },
    ),
    (
        PauseEnded(cause=PauseCause.RATE_LIMITED, lasted_s=1.006),
        {"event": "pause.ended", "level": "info", "cause": "rate_limited", "lasted_s": 1.01},
    ),
    (
        PauseEnded(cause=PauseCause.OUTAGE, lasted_s=3.14159),
        {"event": "pause.ended", "level": "warning", "cause": "outage", "lasted_s": 3.14},
    ),
    (RateChanged(rate=38.04), {"event": "rate.changed", "level": "info", "rate": 38.0}),
    (
        ClockSet(offset_s=-61.04),
        {
            "event": "clock.set",
            "level": "warning",
            "offset_s": -61.0,
            "hint": "this machine's clock is off",
        },
    ),
    (
        committed(Reason.CANCELED, Reason.PAID),
        {"event": "group.committed", "level": "debug", "results": 2, "size_bytes": 512, "sync_ms": 1.2},
    ),
    (STOP, {"event": "stop.requested", "level": "info", "why": "SIGTERM"}),
    (
        MerchantStopped(merchant_id="shop_b", why="The key is refused."),
        {
            "event": "merchant.stopped",
            "level": "warning",
            "merchant_id": "shop_b",
            "why": "The key is refused.",
        },
    ),
    (
        AnswersUnclaimed(count=3),
        {
            "event": "answers.unclaimed",
            "level": "warning",
            "count": 3,
            "hint": "the manifest has no row that takes them; a plan of the earlier manifest shows them",
        },
    ),
    (
        KeyFileChanged(path="key.p12", problem=None),
        {"event": "key_file.changed", "level": "info", "path": "key.p12", "problem": None},
    ),
    (
        KeyFileChanged(path="key.p12", problem="It is empty."),
        {"event": "key_file.changed", "level": "warning", "path": "key.p12", "problem": "It is empty."},
    ),
    (
        DecryptionFailed(has_key=True),
        {
            "event": "decryption.failed",
            "level": "warning",
            "has_key": True,
            "hint": "encrypted replies can't be read; their invoices are looked up",
        },
    ),
    (
        ListProgressed(rows=2000, status="SENT", total=38449),
        {
            "event": "list.progressed",
            "level": "debug",
            "rows": 2000,
            "status": "SENT",
            "total": 38449,
            "looked_up": 0,
            "to_look_up": 0,
        },
    ),
]
IDS = [" ".join(str(fields[key]) for key in ("event", "cause") if key in fields) for _, fields in LINES]
LEVELS = ["debug", "info", "warning", "error"]


# --- the log --------------------------------------------------------------------------------------


def test_every_event_has_a_line_here() -> None:
    """A new event fails this test until its line is decided."""
    assert {type(event) for event, _ in LINES} == set(Event.__args__)


@pytest.mark.parametrize(("event", "fields"), LINES, ids=IDS)
def test_an_event_becomes_one_json_object(
    event: Event, fields: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """The keys are a contract with log pipelines."""
    open_log(level="debug", as_json=True, path=None)(event)
    text = capsys.readouterr().err
    line = json.loads(text)
    assert line.pop("timestamp").endswith("Z")
    assert line == fields
    assert text.count("\n") == 1


@pytest.mark.parametrize(("event", "fields"), LINES, ids=IDS)
def test_an_event_becomes_one_line_for_people(
    event: Event, fields: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Level, name and fields, without colour where there is no terminal."""
    open_log(level="debug", as_json=False, path=None)(event)
    line = capsys.readouterr().err
    assert f"[{fields['level']}" in line
    assert str(fields["event"]) in line
    assert all(f"{name}=" in line for name in fields.keys() - {"event", "level"})
    assert line.count("\n") == 1
    assert "\x1b" not in line


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("as_json", [True, False], ids=["json", "console"])
def test_nothing_below_the_level_is_written(
    level: str, *, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each event is written at its level and at all that show more."""
    log = open_log(level=level, as_json=as_json, path=None)
    for event, _ in LINES:
        log(event)
    shown = LEVELS[LEVELS.index(level) :]
    expected = [str(fields["event"]) for _, fields in LINES if fields["level"] in shown]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(expected)
    assert all(name in line for name, line in zip(expected, lines, strict=True))


@pytest.mark.parametrize("cause", PauseCause)
def test_only_what_is_out_of_reach_is_worth_a_warning(
    cause: PauseCause, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service that asks for patience is everyday; at the default level nobody is woken for it."""
    log = open_log(level="warning", as_json=True, path=None)
    log(PauseStarted(cause=cause, wait_s=1.0))
    log(PauseEnded(cause=cause, lasted_s=1.0))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    is_worth_it = cause in {PauseCause.OUTAGE, PauseCause.ENGINE_AWAY, PauseCause.NO_WORKER}
    assert [(line["event"], line["cause"]) for line in lines] == (
        [("pause.started", cause.value), ("pause.ended", cause.value)] if is_worth_it else []
    )


def test_the_log_s_file_is_private_and_appended_to(tmp_path: Path) -> None:
    """Invoice ids are nobody else's business, and earlier runs stay; every line is there at once."""
    path = tmp_path / "run.log"
    for count in (1, 2):
        log = open_log(level="warning", as_json=True, path=path)
        log(OUTAGE)
        assert path.read_text(encoding="utf-8").count("pause.started") == count
        log.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_log_s_file_that_can_not_be_opened_is_an_error(tmp_path: Path) -> None:
    """The caller hears of it before the run begins."""
    with pytest.raises(FileNotFoundError):
        open_log(level="warning", as_json=True, path=tmp_path / "gone" / "run.log")


def test_text_that_is_no_unicode_can_be_logged(tmp_path: Path) -> None:
    """A file name on Linux may be any bytes; a line about it must not end the run."""
    log = open_log(level="info", as_json=False, path=tmp_path / "run.log")
    log(StopRequested(why="manifest-\udcff.csv"))
    log.close()
    assert "manifest-\\udcff.csv" in (tmp_path / "run.log").read_text(encoding="utf-8")


def test_the_log_goes_to_the_standard_error_of_the_moment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bar replaces it for a while, so that lines don't cut through it."""
    log = open_log(level="warning", as_json=True, path=None)
    other = io.StringIO()
    monkeypatch.setattr(sys, "stderr", other)
    log(OUTAGE)
    log.close()
    assert capsys.readouterr().err == ""
    assert "pause.started" in other.getvalue()


@pytest.mark.parametrize(("no_color", "has_colour"), [("", True), ("1", False)], ids=["colour", "NO_COLOR"])
def test_colour_is_for_terminals_without_no_color(
    no_color: str, *, has_colour: bool, terminal: tuple[TextIO, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_COLOR is honoured."""
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys, "stderr", terminal[1])
    open_log(level="warning", as_json=False, path=None)(OUTAGE)
    assert ("\x1b[" in terminal[0].read()) is has_colour


# --- many listeners -------------------------------------------------------------------------------


def test_every_listener_hears_every_event_in_order() -> None:
    """In the order in which they joined; one that joins late hears what follows."""
    heard: list[tuple[str, Event]] = []
    broadcast = Broadcast(lambda event: heard.append(("first", event)))
    broadcast(STOP)
    broadcast.add(lambda event: heard.append(("second", event)))
    broadcast(STOP)
    assert heard == [("first", STOP), ("first", STOP), ("second", STOP)]


def broken_pipe() -> TextIO:
    """Open a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def full_disk() -> TextIO:
    """Open a device that has no room."""
    return open("/dev/full", "w", encoding="utf-8")  # noqa: PTH123 - by the name that people know


def closed() -> TextIO:
    """Close a stream that Python holds."""
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.fixture(params=[broken_pipe, full_disk, closed], ids=lambda one: one.__name__)
def gone(request: pytest.FixtureRequest) -> Iterator[TextIO]:
    """Give a stream that takes nothing."""
    stream: TextIO = request.param()
    yield stream
    with suppress(OSError):
        stream.close()


def test_a_listener_whose_stream_is_gone_is_dropped(gone: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others hear on, and the run never hears of it."""
    monkeypatch.setattr(sys, "stderr", gone)
    heard: list[Event] = []
    calls: list[Event] = []
    log = open_log(level="debug", as_json=True, path=None)

    def watch(event: Event) -> None:
        calls.append(event)
        log(event)

    broadcast = Broadcast(watch, heard.append)
    broadcast(STOP)
    broadcast(STOP)
    assert (calls, heard) == ([STOP], [STOP, STOP])


def test_a_log_whose_stream_is_gone_says_so_as_the_system_does(
    gone: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OSError whoever closed the stream: it is told apart from a defect by its type alone."""
    monkeypatch.setattr(sys, "stderr", gone)
    log = open_log(level="debug", as_json=True, path=None)
    with pytest.raises(OSError, match=r"Broken pipe|No space left|the log's stream is closed"):
        log(STOP)


def test_a_log_that_was_closed_takes_no_more_lines(tmp_path: Path) -> None:
    """An event after the end is an OSError with its cause, and the file stays as it was."""
    path = tmp_path / "run.log"
    log = open_log(level="debug", as_json=True, path=path)
    log.close()
    with pytest.raises(OSError, match="the log's stream is closed") as caught:
        log(STOP)
    assert isinstance(caught.value.__cause__, ValueError)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("defect", [KeyError, ValueError, UnicodeError], ids=lambda one: one.__name__)
def test_a_defect_in_a_listener_is_not_hidden(defect: type[Exception]) -> None:
    """Only streams may fail quietly, and the listener stays: the next event shows the defect again."""

    def fail(_event: Event) -> None:
        raise defect("a defect")

    broadcast = Broadcast(fail)
    for _ in range(2):
        with pytest.raises(defect, match="a defect"):
            broadcast(STOP)


# --- progress -------------------------------------------------------------------------------------


COUNTED = {"canceled": 2, "already_paid": 1, "partially_paid": 0, "error": 1}


class Run:
    """A run as those who watch it know it, which notes what they do with it."""

    def __init__(self, *, cancels: bool = True) -> None:
        self.cancels = cancels
        self.counted = dict.fromkeys(COUNTED, 0)
        self.vitals = Vitals(
            in_flight=3,
            allowed_rate=12.5,
            set_rate=20.0,
            held_by=None,
            rows_left=1496,
            amounts_canceled={"EUR": "1234.50", "USD": "0.10"},
            is_stopping=False,
        )
        self.done: list[str] = []

    @property
    def watched(self) -> Watched:
        return Watched(
            total=1500,
            counted_as="outcomes" if self.cancels else "seen",
            counts=lambda: tuple(
                Count(key=key, text=key.replace("_", " "), number=number, style="green")
                for key, number in self.counted.items()
            ),
            cancels=self.cancels,
            vitals=lambda: self.vitals,
            pause=lambda: self.note("pause", held_by=PauseCause.BY_HAND),
            resume=lambda: self.note("resume", held_by=None),
            stop=lambda: self.note("stop", is_stopping=True),
        )

    def note(self, what: str, **changes: object) -> None:
        self.done.append(what)
        self.vitals = replace(self.vitals, **changes)


def watch(kind: str, *, for_s: float, run: Run | None = None) -> Coroutine[Any, Any, None]:
    """Show the progress of a run that settles four invoices at once and goes on for some time."""

    async def go_on(one: Run) -> None:
        async with show_progress(kind, one.watched) as listener:
            one.counted = COUNTED
            listener(STOP)
            await asyncio.sleep(for_s)

    return go_on(run or Run())


@pytest.mark.parametrize("kind", ["plain", "auto", "bar"])
def test_plain_progress_is_a_line_every_half_minute(
    kind: str, capsys: pytest.CaptureFixture[str], in_virtual_time: InVirtualTime
) -> None:
    """Without a terminal, auto and bar are plain; the line has all that the live view has."""
    in_virtual_time(watch(kind, for_s=61))
    first, second = capsys.readouterr().err.splitlines()
    what = "4 of 1,500 invoices: 2 canceled, 1 already paid, 0 partially paid, 1 error"
    limit = "3 in flight, limit 12.5 a second, cut from 20 after a 429 or 503"
    money = "canceled so far: 1,234.50 EUR, 0.10 USD"
    assert first == f"{what}; 0.1 a second, {limit}, about 3 h 07 min left; {money}"
    assert second == f"{what}; 0.1 a second, {limit}, about 6 h 14 min left; {money}"


def test_a_short_run_has_no_plain_progress(
    capsys: pytest.CaptureFixture[str], in_virtual_time: InVirtualTime
) -> None:
    """The summary says it all."""
    in_virtual_time(watch("plain", for_s=29))
    assert capsys.readouterr().err == ""


def test_json_progress_is_an_object_a_second_and_a_last_one(
    capsys: pytest.CaptureFixture[str], in_virtual_time: InVirtualTime
) -> None:
    """The last one is there however short the run was; the keys are part of the interface."""
    in_virtual_time(watch("json", for_s=2.5))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line.pop("rate"), line.pop("eta_s"), line.pop("ended")) for line in lines] == [
        (4.0, 374.0, False),
        (2.0, 748.0, False),
        (1.6, 935.0, True),
    ]
    assert (
        lines
        == [
            {
                "type": "progress",
                "done": 4,
                "total": 1500,
                "outcomes": {"canceled": 2, "already_paid": 1, "partially_paid": 0, "error": 1},
                "amounts_canceled": {"EUR": "1234.50", "USD": "0.10"},
                "in_flight": 3,
                "allowed_rate": 12.5,
                "set_rate": 20.0,
                "held_by": None,
                "stopping": False,
                "merchants_stopped": 0,
            }
        ]
        * 3
    )


def test_what_only_looks_tells_of_no_money(
    capsys: pytest.CaptureFixture[str], in_virtual_time: InVirtualTime
) -> None:
    """Neither in the object nor in the sentence; its counts have a name of their own."""
    looks = Run(cancels=False)
    looks.vitals = replace(looks.vitals, amounts_canceled={}, is_stopping=True)
    in_virtual_time(watch("json", for_s=0.5, run=looks))
    shown = json.loads(capsys.readouterr().err)
    assert (shown["seen"], shown["stopping"]) == (COUNTED, True)
    assert not {"outcomes", "amounts_canceled"} & shown.keys()
    in_virtual_time(watch("plain", for_s=31, run=looks))
    assert capsys.readouterr().err.endswith("3 in flight, stopping: nothing new is asked\n")


@pytest.mark.parametrize(("kind", "lines"), [("bar", 12), ("plain", 2), ("auto", 2), ("none", 0)])
def test_lines_alone_come_oftener_where_somebody_waits(
    kind: str, lines: int, capsys: pytest.CaptureFixture[str], in_virtual_time: InVirtualTime
) -> None:
    """Of a command that has no view."""

    async def run() -> None:
        async with tell_progress(kind, line=lambda: "so far", document=lambda _ended: "{}"):
            await asyncio.sleep(61)

    in_virtual_time(run())
    assert capsys.readouterr().err == "so far\n" * lines


def test_json_progress_ends_with_its_last_object_where_the_run_fails(
    capsys: pytest.CaptureFixture[str], in_virtual_time: InVirtualTime
) -> None:
    """Whoever reads it waits for that one."""

    async def fail() -> None:
        async with show_progress("json", Run().watched):
            raise KeyError("a defect")

    with pytest.raises(KeyError):
        in_virtual_time(fail())
    assert json.loads(capsys.readouterr().err)["ended"] is True


def test_no_progress_is_silent(capsys: pytest.CaptureFixture[str], in_virtual_time: InVirtualTime) -> None:
    """Events are taken all the same."""
    in_virtual_time(watch("none", for_s=600))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["loud", "", "NONE"], ids=repr)
async def test_an_unknown_kind_of_progress_is_refused(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt kind must not be silence that nobody asked for."""
    with pytest.raises(ValueError, match=f"there is no way called {kind!r} to show progress"):
        await show_progress(kind, Run().watched).__aenter__()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", Progress)
async def test_every_kind_that_the_settings_take_is_known(
    kind: Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings have a list of their own: the two must not drift apart."""
    async with show_progress(kind.value, Run().watched) as listener:
        listener(STOP)
    async with tell_progress(kind.value, line=lambda: "", document=lambda _ended: ""):
        pass
    assert capsys.readouterr().out == "", "standard output carries results only"


@pytest.mark.parametrize("kind", ["plain", "json", "bar", "none"])
def test_progress_that_nobody_can_read_ends_no_run(
    kind: str, gone: TextIO, in_virtual_time: InVirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed pipe, a full disk, a closed stream: the run goes on, and so does its standard output."""
    monkeypatch.setattr(sys, "stderr", gone)
    before = os.fstat(1).st_ino
    in_virtual_time(watch(kind, for_s=61))
    assert os.fstat(1).st_ino == before


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TextIO, TextIO]]:
    """Open a pseudo terminal; give the end that a person looks at, and the end that a program writes to."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    watcher, shown = pty.openpty()
    tty.setraw(shown)
    os.set_blocking(watcher, False)
    with os.fdopen(watcher, "r", encoding="utf-8") as looks, open_terminal(shown) as writes:
        yield looks, writes


@contextmanager
def open_terminal(descriptor: int) -> Iterator[TextIO]:
    """Open a terminal to write to; it may be gone when it is closed."""
    stream = os.fdopen(descriptor, "w", encoding="utf-8")
    try:
        yield stream
    finally:
        with suppress(OSError):
            stream.close()


@pytest.mark.parametrize("kind", ["bar", "auto"])
def test_a_terminal_shows_a_view_and_lines_above_it(
    kind: str,
    terminal: tuple[TextIO, TextIO],
    monkeypatch: pytest.MonkeyPatch,
    in_virtual_time: InVirtualTime,
) -> None:
    """Auto is a view there; what others write meanwhile goes out as it is, and the view comes back."""
    looks, writes = terminal
    stdout = sys.stdout
    monkeypatch.setattr(sys, "stderr", writes)

    async def run() -> None:
        one = Run()
        async with show_progress(kind, one.watched):
            one.counted = COUNTED
            await asyncio.sleep(1.25)
            sys.stderr.write("a \x1b[31mwarning\x1b[0m" + " of many words" * 20 + "\n")
            sys.stderr.write("half a line")
            sys.stderr.flush()
            await asyncio.sleep(1.0)
            shown.append(looks.read())
            assert shown[0].endswith("half a line"), "nothing is drawn into it"
            sys.stderr.write(", and the rest\n")
            await asyncio.sleep(0.06)
            shown.append(looks.read())
            assert "4 of 1,500" in shown[1]
            assert sys.stdout is stdout, "standard output carries results only"

    shown: list[str] = []
    in_virtual_time(run())
    everything = "".join(shown)
    assert "a \x1b[31mwarning\x1b[0m" + " of many words" * 20 + "\n" in everything
    for words in ("0 %", "a second", "1 error", "3 in flight", "1,234.50 EUR", "cut from 20"):
        assert words in everything
    assert "p pause" not in everything, "there is no keyboard"
    assert sys.stderr is writes


@pytest.mark.parametrize("term", ["dumb", "", "unknown"])
def test_a_terminal_that_can_not_move_its_cursor_gets_lines(
    term: str,
    terminal: tuple[TextIO, TextIO],
    monkeypatch: pytest.MonkeyPatch,
    in_virtual_time: InVirtualTime,
) -> None:
    """Also where a bar was asked for: it would be a mess."""
    looks, writes = terminal
    monkeypatch.setattr(sys, "stderr", writes)
    monkeypatch.setenv("TERM", term)
    in_virtual_time(watch("bar", for_s=31))
    assert looks.read().startswith("4 of 1,500 invoices")


def test_a_view_has_no_colour_with_no_color(
    terminal: tuple[TextIO, TextIO], monkeypatch: pytest.MonkeyPatch, in_virtual_time: InVirtualTime
) -> None:
    """NO_COLOR is honoured: bold and dim may be, colours not."""
    looks, writes = terminal
    monkeypatch.setattr(sys, "stderr", writes)
    in_virtual_time(watch("bar", for_s=0.5))
    assert re.search(r"\x1b\[3[0-9]m", looks.read())
    monkeypatch.setenv("NO_COLOR", "1")
    in_virtual_time(watch("bar", for_s=0.5))
    assert not re.search(r"\x1b\[[0-9;]*[34][0-9]m", looks.read())


def test_a_terminal_that_takes_nothing_is_not_waited_for(
    terminal: tuple[TextIO, TextIO], monkeypatch: pytest.MonkeyPatch, in_virtual_time: InVirtualTime
) -> None:
    """Ctrl-S must not hold up the run."""
    looks, writes = terminal
    monkeypatch.setattr(sys, "stderr", writes)
    drawn: list[float] = []
    draw = Screen.draw

    def note(screen: Screen, lines: list[Line]) -> None:
        drawn.append(asyncio.get_running_loop().time())
        draw(screen, lines)

    monkeypatch.setattr(Screen, "draw", note)

    async def run() -> None:
        one = Run()
        async with show_progress("bar", one.watched):
            await asyncio.sleep(0.3)
            assert "0 of 1,500" in looks.read()
            termios.tcflow(writes.fileno(), termios.TCOOFF)
            one.counted = COUNTED
            await asyncio.sleep(60.0)
            with pytest.raises(BlockingIOError):
                os.read(looks.fileno(), 1)
            termios.tcflow(writes.fileno(), termios.TCOON)
            await asyncio.sleep(0.3)
            assert "4 of 1,500" in looks.read()
            termios.tcflow(writes.fileno(), termios.TCOOFF)

    in_virtual_time(run())
    assert not [at for at in drawn if 1000.3 < at < 1060.3], "what is lost must not count as shown"


async def test_a_terminal_that_is_closed_ends_no_run(
    terminal: tuple[TextIO, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window is closed while the bar is up: taking it down fails quietly."""
    looks, writes = terminal
    monkeypatch.setattr(sys, "stderr", writes)
    async with show_progress("bar", Run().watched) as listener:
        looks.close()
        listener(STOP)
        with pytest.raises(OSError, match="Input/output error"):
            os.write(writes.fileno(), b"x")
    assert sys.stderr is writes


def test_a_log_is_a_listener(capsys: pytest.CaptureFixture[str]) -> None:
    """It can be handed to a broadcast as it is."""
    log = open_log(level="info", as_json=True, path=None)
    assert isinstance(log, Log)
    Broadcast(log)(STOP)
    assert "SIGTERM" in capsys.readouterr().err


# --- colour ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "is_terminal", "has_colour"),
    [
        pytest.param({}, True, True, id="terminal"),
        pytest.param({}, False, False, id="pipe"),
        pytest.param({"NO_COLOR": "1"}, True, False, id="NO_COLOR"),
        pytest.param({"NO_COLOR": ""}, True, True, id="NO_COLOR, empty"),
        pytest.param({"TERM": "dumb"}, True, False, id="dumb terminal"),
        pytest.param({"FORCE_COLOR": "1"}, False, True, id="FORCE_COLOR"),
        pytest.param({"FORCE_COLOR": "1", "TERM": "dumb"}, True, True, id="FORCE_COLOR, dumb terminal"),
        pytest.param({"FORCE_COLOR": ""}, False, False, id="FORCE_COLOR, empty"),
        pytest.param({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False, id="both"),
    ],
)
def test_colour_is_for_terminals_unless_told(
    environ: dict[str, str], *, is_terminal: bool, has_colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables that other programs go by, too."""
    monkeypatch.setattr("os.environ", environ)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    assert wants_colour(stream) is has_colour
