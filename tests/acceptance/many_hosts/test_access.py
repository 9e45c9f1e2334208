"""TLS, client certificates and an API key, before the real server."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import grpc
import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import (
        RunCommand,
        Simulator,
    )
    from tests.acceptance.many_hosts.conftest import Server, StartHosts
    from tests.conftest import Authority


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
    ids = hosts.write_manifest(200)
    (hosts.folder / "batchcancel.toml").write_text(f"temporal_tls_ca = '{authority.ca_file}'\n", "utf-8")
    worker = hosts.start("worker", *pair, *hosts.simulator.flags)
    submit = hosts.submit("--rate", "100", *pair)
    hosts.simulator.wait_for("cancel", 20)
    (job,) = hosts.end(hosts.start("status", "--json", *pair)).splitlines()
    assert json.loads(job)["ledger"] == str(hosts.folder / "ledger.jsonl")
    assert "Complete" in hosts.end(submit)
    assert hosts.check_truth(ids) == 0
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
    ids = hosts.write_manifest(900)
    worker = hosts.start("worker", *hosts.simulator.flags)
    submit = hosts.submit("--rate", "100", "--json")
    hosts.simulator.wait_for("cancel", 100)
    gate.keys = {f"{_KEY}-new"}
    key_file.write_text(f"{_KEY}-new\n", encoding="utf-8")
    hosts.end(submit)
    assert hosts.check_truth(ids) <= 100 * (hosts.HEARTBEAT_S + hosts.LEASE_S + 0.5) + 16
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
    ids = hosts.write_manifest(900)
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
    assert hosts.check_truth(ids) <= 100 * (hosts.HEARTBEAT_S + hosts.LEASE_S + 0.5) + 16
