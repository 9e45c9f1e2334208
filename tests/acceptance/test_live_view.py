"""The live view in a real terminal: keys, what stands on the screen, and the terminal given back.

The bytes that the installed command writes to a pseudo terminal go into a terminal emulator, and what it
shows is what a person would see.
"""

from __future__ import annotations

import os
import re
import signal
import termios
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import pytest

from batchcancel.sandbox import SANDBOX_MERCHANT_ID

if TYPE_CHECKING:
    from tests.acceptance.conftest import ReadLedger, Simulator, StartSimulator, StartTerminal, Terminal
    from tests.conftest import WriteLedger

LEDGER: Final = "ledger.jsonl"
VIEW: Final = re.compile(r" % +[\d,]+ of |\d in flight|p pause|q stop|[━─]{3}")


class OpenTerminal(Protocol):
    """Opens terminals in which a command goes on, for the length of the test."""

    def __call__(
        self, simulator: Simulator, *flags: str | Path, command: str = "run", columns: int = 80
    ) -> Terminal:
        """Start a command: a run or a plan of ``ids.txt``, or a reconciliation of the ledger."""
        ...


@pytest.fixture
def open_terminal(
    command_path: Path, clean_environment: dict[str, str], tmp_path: Path, start_terminal: StartTerminal
) -> OpenTerminal:
    """Start commands in terminals."""

    def start(simulator: Simulator, *flags: str | Path, command: str = "run", columns: int = 80) -> Terminal:
        what = [LEDGER] if command == "reconcile" else ["ids.txt", "--ledger", LEDGER]
        line = [command_path, command, *what, *simulator.flags, *flags]
        return start_terminal(line, env=clean_environment | simulator.env, folder=tmp_path, columns=columns)

    return start


@pytest.fixture
def slow(start_simulator: StartSimulator) -> Simulator:
    """Run a simulator that takes a while for each reply."""
    return start_simulator("--latency-ms", "50")


def write_ids(folder: Path, count: int) -> list[str]:
    """Write ``ids.txt`` and return its ids."""
    ids = [f"SECRET{number}" for number in range(count)]
    (folder / "ids.txt").write_text("\n".join(ids), encoding="utf-8")
    return ids


def view_of(lines: list[str]) -> list[str]:
    """Return the lines that belong to the view."""
    return [line for line in lines if VIEW.search(line)]


# --- what is seen ---------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_view_fits_and_leaves_nothing_behind(
    open_terminal: OpenTerminal, slow: Simulator, tmp_path: Path, columns: int
) -> None:
    """While it runs everything is there once, nothing wraps; at the end only the summary is."""
    write_ids(tmp_path, 300)
    terminal = open_terminal(slow, "--concurrency", "8", columns=columns)
    for words in ("of 300", "in flight", "no limit", "canceled so far", "q stop"):
        terminal.wait_for(words)
    lines = terminal.look()
    assert terminal.attributes()[3] & (termios.ICANON | termios.ECHO) == 0
    assert terminal.screen.cursor.hidden
    for words in ("of 300", "in flight", "canceled so far", "p pause"):
        assert sum(words in line for line in lines) == 1, lines
    assert terminal.end() == 0
    shown = terminal.history()
    assert view_of(shown) == []
    assert any("Complete: every invoice has an answer." in line for line in shown)
    assert not terminal.screen.cursor.hidden
    assert terminal.attributes() == terminal.before
    assert b"SECRET" not in terminal.raw, "ids are not for the screen"


def test_the_view_follows_the_terminal_s_width(
    open_terminal: OpenTerminal, slow: Simulator, tmp_path: Path
) -> None:
    """Made narrower and wider again while it runs."""
    write_ids(tmp_path, 400)
    terminal = open_terminal(slow, "--concurrency", "8", columns=120)
    terminal.wait_for("q stop")
    for columns in (45, 30, 150):
        terminal.resize(columns)
        time.sleep(0.6)
        lines = view_of(terminal.look())
        assert len([line for line in lines if "in flight" in line]) == 1, lines
        assert "q stop" in lines[-1]
    assert terminal.end() == 0
    assert terminal.attributes() == terminal.before


def test_log_lines_are_whole_above_the_view(
    open_terminal: OpenTerminal, start_simulator: StartSimulator, tmp_path: Path
) -> None:
    """Hundreds of them, some longer than the terminal is wide, and never with a piece of the view in it."""
    simulator = start_simulator("--latency-ms", "20")
    write_ids(tmp_path, 200)
    terminal = open_terminal(
        simulator, "--concurrency", "4", "--log-level", "debug", "--log-format", "json", columns=400
    )
    terminal.wait_for("q stop")
    assert terminal.end() == 0
    logged = [line for line in terminal.history() if "request.finished" in line]
    assert len(logged) == 201
    for line in logged:
        assert re.fullmatch(r'\{"kind": .*"timestamp": "[^"]*Z"\}', line), line
    assert view_of(terminal.history()) == []


@pytest.mark.parametrize(
    ("variables", "is_plain", "has_colour"),
    [({"TERM": "dumb"}, True, False), ({"NO_COLOR": "1"}, False, False), ({}, False, True)],
    ids=["dumb", "no-color", "usual"],
)
def test_a_terminal_s_wishes_are_respected(
    slow: Simulator,
    command_path: Path,
    clean_environment: dict[str, str],
    start_terminal: StartTerminal,
    tmp_path: Path,
    variables: dict[str, str],
    *,
    is_plain: bool,
    has_colour: bool,
) -> None:
    """No escape sequence at all on a dumb terminal, and no colour where none is wanted."""
    write_ids(tmp_path, 60)
    wishes = [f"{name}={value}" for name, value in variables.items()]
    flags = ["--ledger", LEDGER, *slow.flags, "--concurrency", "2"]
    terminal = start_terminal(
        ["env", *wishes, command_path, "run", "ids.txt", *flags],
        env=clean_environment | slow.env,
        folder=tmp_path,
    )
    assert terminal.end() == 0
    assert (b"\x1b" not in terminal.raw) is is_plain
    assert bool(re.search(rb"\x1b\[[0-9;]*3[0-9]m", terminal.raw)) is has_colour


# --- keys -----------------------------------------------------------------------------------------


def test_p_pauses_and_goes_on(
    open_terminal: OpenTerminal, slow: Simulator, read_ledger: ReadLedger, tmp_path: Path
) -> None:
    """What is in flight comes back, nothing else leaves, and every invoice is asked once."""
    ids = write_ids(tmp_path, 300)
    terminal = open_terminal(slow, "--concurrency", "8")
    slow.wait_for("cancel", 20)
    terminal.wait_for("p pause")
    terminal.press("p")
    terminal.wait_for("paused by you")
    terminal.wait_for(lambda lines: any("0 in flight" in line for line in lines))
    terminal.wait_for("p go on")
    arrived = len(slow.requests())
    time.sleep(1.0)
    assert len(slow.requests()) == arrived
    assert arrived < 200
    terminal.press("xP")  # other keys do nothing
    terminal.wait_for("p pause")
    assert terminal.end() == 0
    assert slow.posts() == Counter(ids)
    assert terminal.attributes() == terminal.before
    assert [row["reason"] for row in read_ledger(tmp_path / LEDGER) if row["type"] == "result"] == [
        "canceled"
    ] * 300


def test_q_ends_as_a_first_ctrl_c_does(
    open_terminal: OpenTerminal, slow: Simulator, read_ledger: ReadLedger, tmp_path: Path
) -> None:
    """What is in flight is drained and has its row; exit code 130."""
    write_ids(tmp_path, 500)
    terminal = open_terminal(slow, "--concurrency", "8")
    slow.wait_for("cancel", 20)
    terminal.wait_for("q stop")
    terminal.press("q")
    assert terminal.end() == 130
    rows = read_ledger(tmp_path / LEDGER)
    assert rows[-1]["state"] == "interrupted"
    assert Counter(row["invoice_id"] for row in rows if row["type"] == "result") == slow.posts()
    assert {row["reason"] for row in rows if row["type"] == "result"} == {"canceled"}
    shown = "\n".join(terminal.history())
    assert "q: no new cancelation leaves" in shown
    assert "Interrupted (SIGINT)." in shown
    assert view_of(terminal.history()) == []
    assert terminal.attributes() == terminal.before


def test_a_second_q_stops_at_once(
    open_terminal: OpenTerminal, start_simulator: StartSimulator, read_ledger: ReadLedger, tmp_path: Path
) -> None:
    """What has not come back is unknown, and the next run looks it up."""
    simulator = start_simulator("--latency-ms", "6000")
    write_ids(tmp_path, 20)
    terminal = open_terminal(simulator, "--concurrency", "4", "--timeout", "20")
    simulator.wait_for("cancel", 4)
    terminal.press("q")
    terminal.wait_for("q stop at once")
    pressed_at = time.monotonic()
    terminal.press("q")
    assert terminal.end() == 130
    assert time.monotonic() - pressed_at < 4
    reasons = [row["reason"] for row in read_ledger(tmp_path / LEDGER) if row["type"] == "result"]
    assert reasons == ["unknown"] * 4
    assert terminal.attributes() == terminal.before


def test_q_ends_a_paused_run_at_once(open_terminal: OpenTerminal, slow: Simulator, tmp_path: Path) -> None:
    """Without another request."""
    write_ids(tmp_path, 500)
    terminal = open_terminal(slow, "--concurrency", "8")
    terminal.wait_for("p pause")
    slow.wait_for("cancel", 8)
    terminal.press("p")
    terminal.wait_for(lambda lines: any("0 in flight" in line for line in lines))
    arrived, pressed_at = len(slow.requests()), time.monotonic()
    terminal.press("q")
    assert terminal.end() == 130
    assert time.monotonic() - pressed_at < 3
    assert len(slow.requests()) == arrived


# --- commands that only look ----------------------------------------------------------------------

LOOKING: Final = ("plan", "reconcile")
COUNTED: Final = {
    "plan": ("0 already paid", "0 partially paid", "0 already canceled", "0 error"),
    "reconcile": ("0 * different", "0 - missing", "0 ! unread"),
}


@pytest.fixture
def open_look(open_terminal: OpenTerminal, tmp_path: Path, write_ledger: WriteLedger) -> OpenTerminal:
    """Start a command over 400 invoices that all are as expected, once for each test."""

    def start(simulator: Simulator, *flags: str | Path, command: str = "plan", columns: int = 80) -> Terminal:
        if command == "reconcile":
            rows = [{"invoice_id": f"CANCELED-SECRET{number}"} for number in range(400)]
            write_ledger(tmp_path / LEDGER, *rows, env="sandbox", merchant_id=SANDBOX_MERCHANT_ID)
        else:
            write_ids(tmp_path, 400)
        return open_terminal(simulator, *flags, command=command, columns=columns)

    return start


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("command", LOOKING)
def test_a_look_has_the_view_of_a_run_but_for_money(
    open_look: OpenTerminal, slow: Simulator, command: str, columns: int
) -> None:
    """Everything is there once, nothing wraps; at the end only what it writes on standard output is."""
    terminal = open_look(slow, "--concurrency", "8", command=command, columns=columns)
    for words in ("of 400", "in flight", "no limit", "q stop", "left"):
        terminal.wait_for(words)
    lines = terminal.look()
    assert terminal.screen.cursor.hidden
    for words in ("of 400", "in flight", "p pause", *COUNTED[command]):
        assert sum(words in line for line in lines) == 1, lines
    assert not any("canceled so far" in line for line in lines)
    assert terminal.end() == 0
    shown = terminal.history()
    assert view_of(shown) == []
    said = "A run would cancel 400 of 400" if command == "plan" else "No difference: 400 as the ledger"
    assert any(said[:columns] in line for line in shown), shown
    assert not terminal.screen.cursor.hidden
    assert terminal.attributes() == terminal.before
    assert b"SECRET" not in terminal.raw, "ids are not for the screen"
    assert slow.posts() == Counter()


@pytest.mark.parametrize("command", LOOKING)
def test_p_pauses_a_look_and_it_goes_on(open_look: OpenTerminal, slow: Simulator, command: str) -> None:
    """What is in flight comes back, nothing else leaves, and every invoice is asked about once."""
    terminal = open_look(slow, "--concurrency", "8", command=command)
    slow.wait_for("get", 20)
    terminal.wait_for("p pause")
    terminal.press("p")
    terminal.wait_for("paused by you")
    terminal.wait_for(lambda lines: any("0 in flight" in line for line in lines))
    terminal.wait_for("p go on")
    arrived = len(slow.requests())
    time.sleep(1.0)
    assert len(slow.requests()) == arrived
    assert arrived < 300
    terminal.press("p")
    terminal.wait_for("p pause")
    assert terminal.end() == 0
    asked = Counter(one["invoice_id"] for one in slow.requests() if one["operation"] == "get")
    assert (len(asked), set(asked.values())) == (400, {1})
    assert terminal.attributes() == terminal.before


@pytest.mark.parametrize("is_paused", [True, False], ids=["paused", "at-work"])
@pytest.mark.parametrize("command", LOOKING)
def test_q_ends_a_look_as_a_first_ctrl_c_does(
    open_look: OpenTerminal, slow: Simulator, command: str, *, is_paused: bool
) -> None:
    """It says what that means for it; exit code 130."""
    terminal = open_look(slow, "--concurrency", "8", command=command)
    slow.wait_for("get", 20)
    terminal.wait_for("q stop")
    if is_paused:
        terminal.press("p")
        terminal.wait_for("paused by you")
    terminal.press("q")
    assert terminal.end() == 130
    shown = "\n".join(terminal.history())
    assert "q: nothing new is asked; waiting up to 8 s for what is in flight." in shown
    assert "Interrupted (SIGINT)" in shown
    assert "cancelation" not in shown
    assert view_of(terminal.history()) == []
    assert terminal.attributes() == terminal.before
    assert not terminal.screen.cursor.hidden


@pytest.mark.parametrize("command", LOOKING)
def test_a_second_q_ends_a_look_at_once(
    open_look: OpenTerminal, start_simulator: StartSimulator, command: str
) -> None:
    """Nothing is waited for."""
    simulator = start_simulator("--latency-ms", "6000")
    terminal = open_look(simulator, "--concurrency", "4", "--timeout", "20", command=command)
    simulator.wait_for("get", 4)
    terminal.press("q")
    terminal.wait_for("q stop at once")
    terminal.wait_for("stopping: nothing new is asked")
    pressed_at = time.monotonic()
    terminal.press("q")
    assert terminal.end() == 130
    assert time.monotonic() - pressed_at < 4
    assert "q: stopping at once." in "\n".join(terminal.history())
    assert terminal.attributes() == terminal.before


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda one: one.name)
@pytest.mark.parametrize("command", LOOKING)
def test_a_signal_to_a_look_leaves_the_terminal_as_it_was(
    open_look: OpenTerminal, slow: Simulator, command: str, signum: signal.Signals
) -> None:
    """And says that nothing new is asked."""
    terminal = open_look(slow, "--concurrency", "8", command=command)
    terminal.wait_for("q stop")
    assert terminal.attributes() != terminal.before
    terminal.process.send_signal(signum)
    assert terminal.end() == 128 + signum
    assert terminal.attributes() == terminal.before
    assert not terminal.screen.cursor.hidden
    assert f"{signum.name}: nothing new is asked" in "\n".join(terminal.history())
    assert view_of(terminal.history()) == []


@pytest.mark.parametrize("command", LOOKING)
def test_log_lines_of_a_look_are_whole_above_the_view(
    open_look: OpenTerminal, start_simulator: StartSimulator, command: str
) -> None:
    """Each request is a line, and none has a piece of the view in it."""
    flags = ("--concurrency", "4", "--log-level", "debug", "--log-format", "json")
    terminal = open_look(start_simulator("--latency-ms", "10"), *flags, command=command, columns=400)
    terminal.wait_for("q stop")
    assert terminal.end() == 0
    logged = [line for line in terminal.history() if "request.finished" in line]
    assert len(logged) == 401
    for line in logged:
        assert re.fullmatch(r'\{"kind": .*"timestamp": "[^"]*Z"\}', line), line
    assert view_of(terminal.history()) == []


# --- the terminal is given back -------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda one: one.name)
@pytest.mark.parametrize("times", [1, 2], ids=["drained", "aborted"])
def test_a_signal_leaves_the_terminal_as_it_was(
    open_terminal: OpenTerminal, slow: Simulator, tmp_path: Path, signum: signal.Signals, times: int
) -> None:
    """In whatever way it ends."""
    write_ids(tmp_path, 500)
    terminal = open_terminal(slow, "--concurrency", "8")
    terminal.wait_for("q stop")
    assert terminal.attributes() != terminal.before
    for _ in range(times):
        terminal.process.send_signal(signum)
        time.sleep(0.01)
    assert terminal.end() == 128 + signum
    assert terminal.attributes() == terminal.before
    assert not terminal.screen.cursor.hidden
    assert view_of(terminal.history()) == []


def test_ctrl_c_is_still_a_signal(open_terminal: OpenTerminal, slow: Simulator, tmp_path: Path) -> None:
    """Keys are read one by one, and those of the terminal itself keep their meaning."""
    write_ids(tmp_path, 500)
    terminal = open_terminal(slow)
    terminal.wait_for("q stop")
    assert not terminal.is_non_blocking()  # a slow terminal is waited for, and no line is lost
    terminal.press("\x03")
    assert terminal.end() == 130
    assert not terminal.is_non_blocking()
    assert "SIGINT: no new cancelation leaves" in "\n".join(terminal.history())
    assert terminal.attributes() == terminal.before


def test_a_defect_leaves_the_terminal_as_it_was(
    slow: Simulator,
    command_path: Path,
    clean_environment: dict[str, str],
    start_terminal: StartTerminal,
    tmp_path: Path,
) -> None:
    """A traceback is to be read below the last line, with what one types shown again."""
    write_ids(tmp_path, 500)
    code = (
        "import asyncio, sys\n"
        "from batchcancel.job import Job\n"
        "from batchcancel.cli import main\n"
        "async def fail(self):\n"
        "    await asyncio.sleep(1.0)\n"
        "    raise KeyError('a defect')\n"
        "Job.run = fail\n"
        f"main(['run', 'ids.txt', '--ledger', {LEDGER!r}, *sys.argv[1:]])\n"
    )
    terminal = start_terminal(
        [command_path.with_name("python"), "-c", code, *slow.flags],
        env=clean_environment | slow.env,
        folder=tmp_path,
    )
    terminal.wait_for("q stop")
    assert terminal.end() == 1
    assert terminal.attributes() == terminal.before
    assert not terminal.screen.cursor.hidden
    shown = terminal.history()
    assert any("KeyError: 'a defect'" in line for line in shown)
    assert view_of(shown) == []


# --- in a shell -----------------------------------------------------------------------------------


@contextmanager
def shell(
    start_terminal: StartTerminal,
    simulator: Simulator,
    command_path: Path,
    env: Mapping[str, str],
    folder: Path,
) -> Iterator[Terminal]:
    """Open a terminal with a shell that has job control."""
    terminal = start_terminal(
        ["bash", "--norc", "--noprofile", "-i"],
        env={**env, **simulator.env, "PS1": "shell> ", "PATH": f"{command_path.parent}:{os.environ['PATH']}"},
        folder=folder,
        columns=120,
    )
    try:
        terminal.wait_for("shell>")
        yield terminal
    finally:
        os.killpg(terminal.process.pid, signal.SIGHUP)


def run_line(simulator: Simulator, *flags: str) -> str:
    """Write a run as one types it."""
    return " ".join(["batchcancel run ids.txt --ledger", LEDGER, *simulator.flags, *flags])


def test_ctrl_z_gives_the_terminal_to_the_shell_and_fg_takes_it_back(
    slow: Simulator,
    command_path: Path,
    clean_environment: dict[str, str],
    start_terminal: StartTerminal,
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> None:
    """The view goes, the shell works; then the view is there again, and so are its keys."""
    write_ids(tmp_path, 400)
    with shell(start_terminal, slow, command_path, clean_environment, tmp_path) as terminal:
        terminal.press(run_line(slow, "--concurrency", "4") + "\n")
        terminal.wait_for("q stop")
        terminal.press("\x1a")
        lines = terminal.wait_for("Stopped")
        assert view_of(lines) == []
        assert not terminal.screen.cursor.hidden
        terminal.press("stty -a | grep -o ' -\\?icanon\\| -\\?echo '\n")
        terminal.wait_for(lambda lines: " icanon" in lines and " echo" in lines)
        terminal.press("fg\n")
        terminal.wait_for("q stop")
        terminal.press("p")
        terminal.wait_for("paused by you")
        terminal.press("p")
        terminal.wait_for("p pause")
        terminal.press("q")
        terminal.wait_for("Interrupted (SIGINT).")
        terminal.press("stty -a | grep -o ' -\\?icanon'; echo code $?\n")
        terminal.wait_for(" icanon")
    assert read_ledger(tmp_path / LEDGER)[-1]["state"] == "interrupted"


def test_a_run_in_the_background_reads_and_draws_nothing_and_is_not_stopped(
    slow: Simulator,
    command_path: Path,
    clean_environment: dict[str, str],
    start_terminal: StartTerminal,
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> None:
    """What is typed is the shell's; brought to the foreground, the view is there with its keys."""
    write_ids(tmp_path, 300)
    with shell(start_terminal, slow, command_path, clean_environment, tmp_path) as terminal:
        terminal.press(run_line(slow, "--concurrency", "2") + " &\n")
        slow.wait_for("cancel", 20)
        terminal.press("echo typed $((6 * 7)) p q\n")
        terminal.wait_for("typed 42 p q")
        terminal.press("sleep 1; echo slept $((6 * 7))\n")  # meanwhile the terminal waits for lines again
        terminal.wait_for("slept 42")
        slow.wait_for("cancel", 60)
        terminal.press("jobs\n")
        lines = terminal.wait_for("Running")
        assert view_of(lines) == []
        terminal.press("fg\n")
        terminal.wait_for("q stop")
        terminal.press("q")
        terminal.wait_for("Interrupted (SIGINT).")
    assert read_ledger(tmp_path / LEDGER)[-1]["state"] == "interrupted"


def test_a_run_that_ends_in_the_background_leaves_the_shell_its_terminal(
    slow: Simulator,
    command_path: Path,
    clean_environment: dict[str, str],
    start_terminal: StartTerminal,
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> None:
    """It was in the foreground, was stopped and sent back: to its end it is not stopped again."""
    write_ids(tmp_path, 120)
    with shell(start_terminal, slow, command_path, clean_environment, tmp_path) as terminal:
        terminal.press(run_line(slow, "--concurrency", "4") + "\n")
        terminal.wait_for("q stop")
        terminal.press("\x1a")
        terminal.wait_for("Stopped")
        terminal.press("bg\n")
        terminal.wait_for("Complete: every invoice has an answer.")
        terminal.press("wait; echo ended $((6 * 7))\n")
        lines = terminal.wait_for("ended 42")
        assert view_of(lines) == []
    assert read_ledger(tmp_path / LEDGER)[-1]["state"] == "complete"
