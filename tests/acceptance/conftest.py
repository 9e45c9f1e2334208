"""Fixtures that drive the installed command as a user does: in processes of its own.

For annotations only, a test may import ``Simulator`` and the protocols from here under
``TYPE_CHECKING``; at run time everything comes as fixtures.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Protocol

import pyte
import pytest

from batchcancel.sandbox import SANDBOX_KEY_ID, SANDBOX_MERCHANT_ID, SANDBOX_SECRET

_ROOT: Final = Path(__file__).parents[2]
_END_S: Final = 10.0
_GIVE_UP_S: Final = 30.0
# COVERAGE_ tells a child process to measure itself.
_PASSED_ON: Final = re.compile(r"COVERAGE_.*|PATH|LANG|LC_.*|TMPDIR")


class RunCampaign(Protocol):
    """Runs a slow campaign of the checkout, in a short version."""

    def __call__(self, module: str, *flags: str) -> dict[str, Any]:
        """Run it to its end, which has to be a good one, and return its figures."""
        ...


class RunCommand(Protocol):
    """Runs ``batchcancel`` with some arguments to its end."""

    def __call__(
        self,
        *arguments: str | Path,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run the command in ``tmp_path`` and return its exit code and what it wrote.

        Args:
            arguments: Of the command.
            stdin: What it reads, as UTF-8.
            env: Variables over the clean environment; None: it alone.
            timeout_s: After this long the process is killed and the test fails.

        Raises:
            subprocess.TimeoutExpired: It took longer than ``timeout_s``.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulator:
    """A simulator that runs as a process."""

    process: subprocess.Popen[str]
    base_url: str
    log: Path
    """One JSON line a request, written before its reply leaves."""

    @property
    def env(self) -> dict[str, str]:
        """The variables with which the client is let in."""
        return {
            "BATCHCANCEL_MERCHANT_ID": SANDBOX_MERCHANT_ID,
            "BATCHCANCEL_KEY_ID": SANDBOX_KEY_ID,
            "BATCHCANCEL_SHARED_SECRET": SANDBOX_SECRET,
        }

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of ``run`` that call it."""
        return ("--env", "sandbox", "--base-url", self.base_url)

    def requests(self) -> list[dict[str, Any]]:
        """Read the log: every request so far, in order of arrival.

        Keys: ``at method target operation invoice_id http_status cause committed in_flight merchant_id
        scheme request_encrypted reply_encrypted``.
        """
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def posts(self) -> Counter[str]:
        """Count the cancelations that have arrived, by invoice."""
        return Counter(
            request["invoice_id"] for request in self.requests() if request["operation"] == "cancel"
        )

    def wait_for(self, operation: str, count: int = 1) -> None:
        """Return once that many requests of an operation have arrived; fail after 30 s without."""
        give_up_at = time.monotonic() + 30
        while self.log.read_bytes().count(f'"operation":"{operation}"'.encode()) < count:
            assert time.monotonic() < give_up_at, f"no {operation} number {count} has arrived"
            time.sleep(0.01)


class Terminal:
    """A program in a pseudo terminal of its own, as its session's leader and in the foreground."""

    def __init__(
        self,
        command: list[str | Path],
        *,
        env: Mapping[str, str],
        folder: Path,
        columns: int = 80,
    ) -> None:
        self._watcher, self._slave = pty.openpty()
        self.screen = pyte.HistoryScreen(columns, 24, history=5000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.resize(columns)
        self.before = self.attributes()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],  # noqa: S607 - wherever it is
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            cwd=folder,
            env={**env, "TERM": "xterm-256color"},
        )

    def attributes(self) -> list[Any]:
        """Read the terminal's modes."""
        return termios.tcgetattr(self._slave)

    def is_non_blocking(self) -> bool:
        """Tell whether whoever writes is refused once the terminal is slow."""
        return bool(fcntl.fcntl(self._slave, fcntl.F_GETFL) & os.O_NONBLOCK)

    def resize(self, columns: int) -> None:
        """Change the terminal's width, of which the foreground is told."""
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.screen.resize(24, columns)

    def press(self, keys: str) -> None:
        """Type something."""
        os.write(self._watcher, keys.encode())

    def look(self, wait_s: float = 0.05) -> list[str]:
        """Take in what comes within a moment; return the lines on the screen, empty ones left out."""
        while select.select([self._watcher], [], [], wait_s)[0]:
            try:
                data = os.read(self._watcher, 65536)
            except OSError:
                break
            self.raw += data
            self._stream.feed(data)
            wait_s = 0.0
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def history(self) -> list[str]:
        """Return everything that stands in the terminal, what has left its top first."""
        gone = ["".join(line[x].data for x in range(self.screen.columns)) for line in self.screen.history.top]
        return [line.rstrip() for line in [*gone, *self.screen.display]]

    def wait_for(self, what: str | Callable[[list[str]], bool]) -> list[str]:
        """Return the lines on the screen once some words, or what a test looks for, stand there."""
        give_up_at = time.monotonic() + _GIVE_UP_S
        while True:
            lines = self.look()
            if what(lines) if callable(what) else any(what in line for line in lines):
                return lines
            assert time.monotonic() < give_up_at, f"{what} does not come:\n" + "\n".join(lines)
            assert self.process.poll() is None or self.look(), "the program has ended"

    def end(self) -> int:
        """Return the exit code once the program has ended, and what it wrote is on the screen."""
        give_up_at = time.monotonic() + _GIVE_UP_S
        while self.process.poll() is None:
            self.look()
            assert time.monotonic() < give_up_at, "it does not end:\n" + "\n".join(self.look())
        self.look()
        return self.process.returncode

    def close(self) -> None:
        """End the program and close the terminal."""
        self.process.kill()
        self.process.wait()
        os.close(self._watcher)
        os.close(self._slave)


class StartTerminal(Protocol):
    """Starts programs in terminals, which end with the test."""

    def __call__(
        self, command: list[str | Path], *, env: Mapping[str, str], folder: Path, columns: int = 80
    ) -> Terminal:
        """Start a program in a pseudo terminal of its own.

        Args:
            command: The program and its arguments.
            env: Its variables, but for ``TERM``.
            folder: Where it runs.
            columns: How wide the terminal is.
        """
        ...


@pytest.fixture
def start_terminal() -> Iterator[StartTerminal]:
    """Start programs in terminals."""
    terminals: list[Terminal] = []

    def start(
        command: list[str | Path], *, env: Mapping[str, str], folder: Path, columns: int = 80
    ) -> Terminal:
        terminal = Terminal(command, env=env, folder=folder, columns=columns)
        terminals.append(terminal)
        return terminal

    yield start
    for terminal in terminals:
        terminal.close()


class StartRun(Protocol):
    """Starts ``batchcancel run`` as a process that is gone at the end of the block."""

    def __call__(
        self,
        simulator: Simulator,
        *arguments: str | Path,
        command: str = "run",
        base_url: str | None = None,
        env: Mapping[str, str] | None = None,
        file_size_bytes: int | None = None,
    ) -> AbstractContextManager[subprocess.Popen[str]]:
        """Start a run in ``tmp_path``; its standard output and error are pipes.

        Args:
            simulator: What it calls, and whose credentials it has.
            arguments: Manifests and flags.
            command: Another one that takes the flags of a run.
            base_url: Where it calls instead; None: the simulator itself.
            env: Other credentials, over the clean environment; None: those of the simulator.
            file_size_bytes: How long its files may become, by the system's limit; None: as long as
                they like. With a limit the process does not measure its coverage.
        """
        ...


class StartRelay(Protocol):
    """Starts relays, which end with the test."""

    def __call__(self, simulator: Simulator, refuse: Callable[[str, str], int | None]) -> str:
        """Start a server that passes every request on to the simulator, or answers it itself.

        Args:
            simulator: What stands behind it.
            refuse: By method and path, the status to answer with, or None to pass it on. Called by
                several threads at once.

        Returns:
            The relay's address.
        """
        ...


ReadLedger = Callable[[Path], list[dict[str, Any]]]


class StartSimulator(Protocol):
    """Starts simulators, which end with the test."""

    def __call__(self, *flags: str | Path, env: Mapping[str, str] | None = None) -> Simulator:
        """Start ``batchcancel sandbox`` on a free port and return once it listens.

        Args:
            flags: Of the command, after ``--port 0 --log FILE``; the last one of a kind counts.
            env: Variables over the clean environment; None: it alone.
        """
        ...


@pytest.fixture(scope="session")
def project() -> Path:
    """Name the checkout's folder."""
    return _ROOT


@pytest.fixture
def run_campaign(project: Path, clean_environment: dict[str, str], tmp_path: Path) -> RunCampaign:
    """Run campaigns with this environment's commands."""
    report = tmp_path / "campaign.json"

    def run(module: str, *flags: str) -> dict[str, Any]:
        ended = subprocess.run(
            [sys.executable, "-m", module, *flags, "--json", report],
            cwd=project,
            env=clean_environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        assert ended.returncode == 0, ended.stdout
        figures: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return figures

    return run


@pytest.fixture(scope="session")
def samples(project: Path) -> Path:
    """Name the folder of samples."""
    return project / "samples"


@pytest.fixture(scope="session")
def command_path() -> Path:
    """Name the installed console script, which lies beside the interpreter."""
    path = Path(sys.executable).parent / "batchcancel"
    assert path.is_file(), f"{path} is missing: install the package first"
    return path


@pytest.fixture
def clean_environment(tmp_path: Path) -> dict[str, str]:
    """Make an environment without options, proxies or configuration of the machine's user."""
    passed_on = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    return passed_on | {"HOME": str(tmp_path)}


@pytest.fixture
def run_command(command_path: Path, clean_environment: dict[str, str], tmp_path: Path) -> RunCommand:
    """Run the installed command in ``tmp_path`` with a clean environment."""

    def run(
        *arguments: str | Path,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command_path, *arguments],
            input=stdin,
            env=clean_environment | dict(env or {}),
            cwd=tmp_path,
            timeout=timeout_s,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    return run


@pytest.fixture
def start_simulator(
    command_path: Path, clean_environment: dict[str, str], tmp_path: Path
) -> Iterator[StartSimulator]:
    """Start simulators with flags of the test's choice, and end them with the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(*flags: str | Path, env: Mapping[str, str] | None = None) -> Simulator:
        number = len(processes)
        log, errors = tmp_path / f"simulator-{number}.log", tmp_path / f"simulator-{number}.err"
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                [command_path, "sandbox", "--port", "0", "--log", log, *flags],
                env=clean_environment | dict(env or {}),
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                encoding="utf-8",
            )
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()  # comes once it listens; empty if it died
        assert line, f"the simulator did not start: {errors.read_text(encoding='utf-8')}"
        return Simulator(process=process, base_url=line.split()[-1], log=log)

    yield start
    for process in processes:
        end_process(process)


@pytest.fixture
def simulator(start_simulator: StartSimulator) -> Simulator:
    """Run a faultless simulator on a free port of loopback."""
    return start_simulator()


@pytest.fixture
def start_run(command_path: Path, clean_environment: dict[str, str], tmp_path: Path) -> StartRun:
    """Start the installed command's main job, to be signaled, watched or outrun."""

    @contextmanager
    def start(
        simulator: Simulator,
        *arguments: str | Path,
        command: str = "run",
        base_url: str | None = None,
        env: Mapping[str, str] | None = None,
        file_size_bytes: int | None = None,
    ) -> Iterator[subprocess.Popen[str]]:
        environment = clean_environment | (simulator.env if env is None else dict(env))
        limit: list[str] = []
        if file_size_bytes is not None:
            limit = ["prlimit", f"--fsize={file_size_bytes}"]
            environment = {
                name: environment[name] for name in environment if not name.startswith("COVERAGE_")
            }
        target = ["--env", "sandbox", "--base-url", base_url or simulator.base_url]
        with subprocess.Popen(
            [*limit, command_path, command, *arguments, *target],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    return start


@pytest.fixture
def start_relay() -> Iterator[StartRelay]:
    """Start relays between command and simulator, and end them with the test."""
    servers: list[ThreadingHTTPServer] = []

    def start(simulator: Simulator, refuse: Callable[[str, str], int | None]) -> str:
        handler = type("Handler", (_Relay,), {"target": simulator.base_url, "refuse": staticmethod(refuse)})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class _Relay(BaseHTTPRequestHandler):
    """Passes requests on, each over a connection of its own, or refuses them."""

    protocol_version = "HTTP/1.1"
    target: str
    refuse: Callable[[str, str], int | None]

    def do_GET(self) -> None:
        self._relay()

    def do_POST(self) -> None:
        self._relay()

    def log_message(self, *_: object) -> None:
        """Write nothing to standard error."""

    def _relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status = self.refuse(self.command, self.path)
        if status is not None:
            self._send(status, "application/json", b'{"status":"REFUSED_BY_RELAY"}')
            return
        upstream = HTTPConnection(self.target.removeprefix("http://"), timeout=_END_S)
        upstream.request(self.command, self.path, body or None, dict(self.headers))
        reply = upstream.getresponse()
        self._send(reply.status, reply.getheader("Content-Type") or "", reply.read(), reply.getheader("Date"))
        upstream.close()

    def _send(self, status: int, content_type: str, body: bytes, date: str | None = None) -> None:
        self.send_response_only(status)
        self.send_header("Date", date or self.date_time_string())
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="session")
def read_ledger() -> ReadLedger:
    """Read a ledger's lines as JSON objects, by no code of the package."""

    def read(path: Path) -> list[dict[str, Any]]:
        text = path.read_text(encoding="utf-8")
        assert text.endswith("\n"), f"{path.name} ends in the middle of a line"
        return [json.loads(line) for line in text.splitlines()]

    return read


def end_process(process: subprocess.Popen[str]) -> None:
    """End a process politely, so that its coverage is written, or kill it."""
    with process:  # closes its pipes and waits
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
