"""The work of a run, done by workers; whoever dies, every id is once in the ledger."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.acceptance.many_hosts.conftest import Server, StartHosts


def test_two_workers_do_the_job_of_a_run(server: Server, start_hosts: StartHosts, command_path: Path) -> None:
    """Every id once, outcomes as the service has them; the ledger is one that every other command takes."""
    hosts = start_hosts(server)
    ids = hosts.write_manifest(4000)
    workers = [hosts.worker(), hosts.worker()]
    ended = hosts.end(hosts.submit("--json", "--ref", "T-1"))
    summary = json.loads(ended)
    assert (summary["state"], summary["exit_code"]) == ("complete", 0)
    assert hosts.check_truth(ids) == 0
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
    ids = hosts.write_manifest(900)
    victim = hosts.worker(slots=2)
    hosts.worker()
    submit = hosts.submit("--rate", "200")
    hosts.simulator.wait_for("cancel", 300)
    victim.kill()
    killed_at = time.time()
    hosts.end(submit)
    repeated = hosts.check_truth(ids)
    # Two of four shards were its own: half the rate, for a heartbeat and the time that one may take.
    assert repeated <= 100 * (hosts.HEARTBEAT_S + 0.5) + 16
    later = [request for request in hosts.simulator.requests() if request["at"] > killed_at + 8]
    assert later, "the rest was done after the take-over"


def test_quota_holds_while_workers_come_and_go(server: Server, start_hosts: StartHosts) -> None:
    """A worker that is told to go hands in all that it has: nothing is repeated, no second is too full."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = hosts.write_manifest(1200)
    goes = hosts.worker()
    submit = hosts.submit("--rate", "200", "--progress", "json")
    hosts.simulator.wait_for("cancel", 300)
    hosts.worker()
    goes.terminate()
    hosts.end(goes, 143)
    hosts.worker()
    hosts.end(submit)
    assert hosts.check_truth(ids) == 0
    assert hosts.worst_second() <= 1.1 * 200
    told = [json.loads(line) for line in hosts.said(submit).splitlines() if line.startswith(b"{")]
    assert any(one["workers"] for one in told), "so that the last one could tell of some"
    assert [told[-1][key] for key in ("ended", "done", "in_flight", "workers")] == [True, 1200, 0, 0]


def test_killed_coordinator_goes_on_where_it_was(server: Server, start_hosts: StartHosts) -> None:
    """Its shards go on without it; the next one takes their answers, and nothing is asked again."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = hosts.write_manifest(900)
    hosts.worker()
    submit = hosts.submit("--rate", "200")
    hosts.simulator.wait_for("cancel", 300)
    submit.kill()
    hosts.end(submit, -9)
    silent = hosts.start("status")
    hosts.end(silent, 2)
    assert b"does not answer" in hosts.said(silent)
    hosts.end(hosts.submit("--rate", "200"))
    assert hosts.check_truth(ids) == 0


def test_coordinator_that_is_killed_while_it_takes_over_can_be_taken_over(
    server: Server, start_hosts: StartHosts
) -> None:
    """The workflow is still that of the first one, whoever has begun a run in the ledger since."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = hosts.write_manifest(600)
    hosts.worker()
    first = hosts.submit("--rate", "60")
    hosts.simulator.wait_for("cancel", 100)
    first.kill()
    hosts.end(first, -9)
    second = hosts.submit("--rate", "60")

    def has_begun() -> bool:
        lines = hosts.read_ledger(hosts.folder / "ledger.jsonl")
        return [line["type"] for line in lines].count("run") == 2

    hosts.wait_until(has_begun)
    second.kill()
    hosts.end(second, -9)
    hosts.end(hosts.submit("--rate", "400"))
    assert hosts.check_truth(ids) == 0


@pytest.mark.parametrize(("told", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_take_over_that_ends_half_way_through_is_taken_over(
    server: Server, start_hosts: StartHosts, told: signal.Signals, code: int
) -> None:
    """Some shards have handed in what they had, and it is on disk; those of a frozen worker have not."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = hosts.write_manifest(600)
    workers = [hosts.worker(slots=2), hosts.worker(slots=2)]
    submit = hosts.submit("--rate", "100")
    hosts.simulator.wait_for("cancel", 120)
    submit.kill()
    hosts.end(submit, -9)
    workers[0].send_signal(signal.SIGSTOP)
    again = hosts.submit("--rate", "100")

    def has_taken_some() -> bool:
        lines = hosts.read_ledger(hosts.folder / "ledger.jsonl")
        *_, last_run = (place for place, line in enumerate(lines) if line["type"] == "run")
        return [line["type"] for line in lines].count("run") == 2 and len(lines) > last_run + 20

    hosts.wait_until(has_taken_some)
    again.send_signal(told)
    workers[0].send_signal(signal.SIGCONT)
    hosts.end(again, code)
    hosts.end(hosts.submit("--rate", "400"))
    repeated = hosts.check_truth(ids, leaves_doubts=told is signal.SIGTERM)
    assert repeated <= 50 * (hosts.HEARTBEAT_S + 0.5) + 16, "of the frozen one, if it was given up"


def test_what_waits_for_a_worker_is_not_begun_by_the_next_coordinator(
    server: Server, start_hosts: StartHosts
) -> None:
    """Whoever comes may have other flags: what is excluded by now, or beyond a limit, is left alone."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = hosts.write_manifest(700)
    hosts.worker()
    submit = hosts.submit("--rate", "200", "--shard-rows", "60")
    hosts.simulator.wait_for("cancel", 40)
    submit.kill()
    hosts.end(submit, -9)

    def have_shards_ended() -> bool:
        before = hosts.simulator.posts().total()
        time.sleep(1.5)
        return hosts.simulator.posts().total() == before

    hosts.wait_until(have_shards_ended)
    count = hosts.simulator.posts().total()
    (hosts.folder / "never.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    hosts.end(hosts.submit("--exclude", "never.txt"))
    assert hosts.simulator.posts().total() == count
    rows = [row for row in hosts.read_ledger(hosts.folder / "ledger.jsonl") if row["type"] == "result"]
    assert {row["invoice_id"] for row in rows} == set(hosts.simulator.posts()), "what was asked has its row"


def test_what_nobody_hears_is_said_and_kept_for_the_next_coordinator(
    server: Server, start_hosts: StartHosts
) -> None:
    """A pause that does not pause, and a cancel that does not end, must not be told as done."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = hosts.write_manifest(600)
    hosts.worker()
    submit = hosts.submit("--rate", "40", "--shard-rows", "20")
    hosts.simulator.wait_for("cancel", 40)
    name = hosts.job()
    submit.kill()
    hosts.end(submit, -9)
    for command in ("pause", "cancel"):
        told = hosts.start(command, name)
        hosts.end(told, 2)
        assert b"does not answer" in hosts.said(told)
        assert b"workers go on with what they have" in hosts.said(told)
    # The nightly export came anew meanwhile, which is no reason to forget it.
    (hosts.folder / "ids.csv").write_text("\n".join(["invoice_id", *reversed(ids)]) + "\n", encoding="utf-8")
    again = hosts.submit("--rate", "400")
    assert "'batchcancel cancel' asked for it" in hosts.end(again, 7)
    posts = hosts.simulator.posts()
    assert posts.total() == len(posts) < len(ids), "what the shards had begun, once"


def test_killed_coordinator_that_comes_back_with_another_manifest_goes_on_where_it_was(
    server: Server, start_hosts: StartHosts, command_path: Path
) -> None:
    """The nightly export came anew: answers are of the same invoices, wherever those stand now."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = hosts.write_manifest(900)
    hosts.worker()
    submit = hosts.submit("--rate", "200", "--shard-rows", "60")
    hosts.simulator.wait_for("cancel", 400)
    submit.kill()
    hosts.end(submit, -9)

    ids = [*map(str, range(200_000, 200_050)), *reversed(ids)]
    (hosts.folder / "ids.csv").write_text("\n".join(["invoice_id", *ids]) + "\n", encoding="utf-8")
    hosts.end(hosts.submit("--rate", "200"))
    assert hosts.check_truth(ids) == 0
    subprocess.run(
        [command_path, "verify", "ledger.jsonl", "--manifest", "ids.csv"],
        cwd=hosts.folder,
        check=True,
        capture_output=True,
    )


def test_pause_and_rate_outlive_a_killed_coordinator(server: Server, start_hosts: StartHosts) -> None:
    """Whoever brings 'submit' back, as a scheduler does, must not undo what a person has asked for."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = hosts.write_manifest(600)
    hosts.worker()
    submit = hosts.submit("--rate", "40")
    hosts.simulator.wait_for("cancel", 50)
    name = hosts.job()
    hosts.end(hosts.start("set-rate", "30", name))
    hosts.end(hosts.start("pause", name))
    hosts.wait_until(lambda: [one["shards_out"] for one in hosts.jobs(name)] == [0])
    (earlier,) = hosts.jobs(name)
    count = hosts.simulator.posts().total()
    submit.kill()
    hosts.end(submit, -9)
    again = hosts.submit("--rate", "40")
    found: list[dict[str, Any]] = []

    def has_taken_over() -> bool:
        look = hosts.start("status", "--json")
        look.wait(60)  # whatever it ends with: nobody answers for a while
        found[:] = [
            one for one in map(json.loads, hosts.said(look, "out").splitlines()) if one["job"] == name
        ]
        return [one["run_id"] for one in found] not in ([], [earlier["run_id"]])

    hosts.wait_until(has_taken_over)
    time.sleep(2)  # nothing has to leave, for as long as is waited
    assert [(one["state"], one["rate"]) for one in found] == [("paused", 30.0)]
    assert hosts.simulator.posts().total() == count
    hosts.end(hosts.start("set-rate", "400", name))
    hosts.end(hosts.start("resume", name))
    hosts.end(again)
    assert hosts.check_truth(ids) == 0


def test_told_coordinator_ends_as_a_run_does(server: Server, start_hosts: StartHosts) -> None:
    """Its workers drain, what they have is written, and the next one goes on; nothing is asked again."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = hosts.write_manifest(400)
    hosts.worker()
    submit = hosts.submit("--rate", "100")
    hosts.simulator.wait_for("cancel", 100)
    submit.terminate()
    assert "left open" in hosts.end(submit, 143)
    assert hosts.read_ledger(hosts.folder / "ledger.jsonl")[-1]["state"] == "interrupted"
    hosts.end(hosts.submit("--rate", "400"))
    assert hosts.check_truth(ids) == 0


def test_a_limit_of_the_service_is_kept_by_all_shards(server: Server, start_hosts: StartHosts) -> None:
    """What one shard learned of it, later ones begin with: few requests are refused."""
    hosts = start_hosts(server, "--rate-limit", "100", "--no-retry-after")
    ids = hosts.write_manifest(500)
    hosts.worker()
    hosts.end(hosts.submit("--rate", "400", "--shard-rows", "100"))
    refused = sum(request["http_status"] == 429 for request in hosts.simulator.requests())
    assert 0 < refused <= 0.1 * len(ids)
    hosts.check_truth(ids)


def test_job_that_is_ended_in_temporal_stops_and_goes_on(server: Server, start_hosts: StartHosts) -> None:
    """Somebody terminates its workflow: exit 4 with a sentence, and the next one waits for its workers."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = hosts.write_manifest(400)
    hosts.worker()
    submit = hosts.submit("--rate", "100")
    hosts.simulator.wait_for("cancel", 100)
    name = hosts.job()
    server.terminate(name)
    ended_at = time.time()
    hosts.end(submit, 4)
    assert b"ended in Temporal" in hosts.said(submit)
    hosts.end(hosts.submit("--rate", "400"))
    hosts.check_truth(ids)
    quiet = [request["at"] - ended_at for request in hosts.simulator.requests()]
    assert not [after_s for after_s in quiet if hosts.LEASE_S < after_s < hosts.LEASE_S + 0.9]


def test_killed_server_loses_nothing_and_repeats_nothing(
    server_that_keeps: Server, start_hosts: StartHosts
) -> None:
    """Workers stop when their leases end, and hand in what they did once it is back."""
    hosts = start_hosts(server_that_keeps, "--latency-ms", "20")
    ids = hosts.write_manifest(900)
    hosts.worker()
    submit = hosts.submit("--rate", "200")
    hosts.simulator.wait_for("cancel", 300)
    server_that_keeps.kill()
    killed_at = time.time()
    time.sleep(hosts.LEASE_S + 1)
    last = max(request["at"] for request in hosts.simulator.requests())
    assert last < killed_at + hosts.LEASE_S + 1
    server_that_keeps.start(keeps=True)
    assert "Complete" in hosts.end(submit)
    assert hosts.check_truth(ids) == 0


def test_job_that_is_told_to_end_while_the_server_is_away_ends(
    server_that_keeps: Server, start_hosts: StartHosts
) -> None:
    """It says what it waits for, and not for long; the next one takes what its shards have."""
    hosts = start_hosts(server_that_keeps, "--latency-ms", "20")
    ids = hosts.write_manifest(900)
    worker = hosts.worker()
    submit = hosts.submit("--rate", "200")
    hosts.simulator.wait_for("cancel", 300)
    server_that_keeps.kill()
    hosts.wait_until(lambda: b"engine_away" in hosts.said(submit))
    submit.terminate()
    told_at = time.monotonic()
    assert "Interrupted (SIGTERM)" in hosts.end(submit, 143)
    assert time.monotonic() - told_at < 20
    assert b"Temporal does not answer" in hosts.said(worker)
    server_that_keeps.start(keeps=True)
    hosts.end(hosts.submit("--rate", "400"))
    assert hosts.check_truth(ids) == 0
    assert b"Temporal answers again" in hosts.said(worker)


def test_worker_that_is_cut_off_stops_within_its_lease(server: Server, start_hosts: StartHosts) -> None:
    """The service stays in its reach, and yet it sends nothing more; its shards go to another one."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = hosts.write_manifest(700)
    with relayed(server) as relay:
        cut_off = hosts.worker(address=relay.address)
        submit = hosts.submit("--rate", "200")
        hosts.simulator.wait_for("cancel", 250)
        relay.cut()
        cut_at = time.time()
        time.sleep(hosts.LEASE_S + 2)
        posts = [request["at"] for request in hosts.simulator.requests() if request["operation"] == "cancel"]
        assert cut_at < max(posts) < cut_at + hosts.LEASE_S + 1
        hosts.worker()
        hosts.end(submit)
        cut_off.kill()
    repeated = hosts.check_truth(ids)
    assert repeated <= 200 * (hosts.HEARTBEAT_S + hosts.LEASE_S + 0.5) + 16


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
