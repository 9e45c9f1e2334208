"""What others ask of a job, and workers of other accounts and versions."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from batchcancel.cluster.messages import FIRST_PROTOCOL, PROTOCOL

if TYPE_CHECKING:
    from tests.acceptance.many_hosts.conftest import Hosts, Server, StartHosts


def test_job_is_watched_paused_and_ended_by_others(server: Server, start_hosts: StartHosts) -> None:
    """And a second job on its quota is refused in a sentence, with nothing sent."""
    hosts = start_hosts(server, "--latency-ms", "20")
    hosts.write_manifest(4000)
    hosts.worker()
    submit = hosts.submit("--rate", "100")
    hosts.simulator.wait_for("cancel", 100)
    name = hosts.job()
    second = hosts.start("submit", "ids.csv", "--ledger", "other.jsonl", *hosts.simulator.flags)
    hosts.end(second, 2)
    assert b"ledger.jsonl" in hosts.said(second)
    assert b"uses this quota" in hosts.said(second)
    assert not (hosts.folder / "other.jsonl").exists()

    hosts.end(hosts.start("pause", name))
    hosts.wait_until(lambda: [one["shards_out"] for one in hosts.jobs(name)] == [0])
    count = len(hosts.simulator.requests())
    (paused,) = hosts.jobs(name)
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


def test_shards_that_no_worker_has_are_taken_back(server: Server, start_hosts: StartHosts) -> None:
    """Nobody has started a worker yet, or all are busy: a job can be paused and ended all the same."""
    hosts = start_hosts(server)
    ids = hosts.write_manifest(400)
    submit = hosts.submit("--shard-rows", "50")
    name = hosts.job()
    hosts.wait_until(lambda: all(one["shards_out"] >= 4 for one in hosts.jobs(name)))
    hosts.end(hosts.start("pause", name))
    hosts.wait_until(lambda: [one["shards_out"] for one in hosts.jobs(name)] == [0])
    hosts.end(hosts.start("resume", name))
    hosts.wait_until(lambda: all(one["shards_out"] >= 4 for one in hosts.jobs(name)))
    hosts.wait_until(lambda: b"no_worker" in hosts.said(submit))
    submit.terminate()
    assert "left open" in hosts.end(submit, 143)
    again = hosts.submit("--shard-rows", "50")
    hosts.worker(slots=1)
    hosts.end(again)
    assert b"no_worker" not in hosts.said(again)
    assert hosts.check_truth(ids) == 0


def test_detached_job_goes_on_by_itself(server: Server, start_hosts: StartHosts) -> None:
    """The command returns once the job is there; its end stands in its summary and its ledger."""
    hosts = start_hosts(server, "--latency-ms", "20")
    ids = hosts.write_manifest(1000)
    hosts.worker()
    (name,) = hosts.end(hosts.submit("--rate", "100", "--detach")).split()
    assert [one["ledger"] for one in hosts.jobs(name)] == [str(hosts.folder / "ledger.jsonl")]
    second = hosts.submit("--rate", "100", "--detach")
    hosts.end(second, 5)
    assert b"has ended already, with exit code 5" in hosts.said(second), "the first one's job is not its own"
    followed = hosts.end(hosts.start("status", "--follow", name))
    assert followed.startswith(f"{name}: running")
    summary = hosts.folder / "ledger.jsonl.submit.out"
    hosts.wait_until(lambda: "Complete" in summary.read_text(encoding="utf-8"))
    assert hosts.check_truth(ids) == 0
    refused = hosts.start(
        "submit", "--detach", "--ledger", "ledger.jsonl", "-", "--format", "txt", *hosts.simulator.flags
    )
    hosts.end(refused, 2)


def test_worker_refuses_the_shards_of_another_account(server: Server, start_hosts: StartHosts) -> None:
    """Where somebody gave two of them one queue; the job stops with a sentence, and nothing was sent."""
    hosts, others = start_hosts(server), start_hosts(server)
    hosts.write_manifest(100)
    queue = ("--task-queue", f"shared-{uuid4()}")
    worker = others.start("worker", *queue, *others.simulator.flags)
    submit = hosts.start("submit", "ids.csv", "--ledger", "ledger.jsonl", *queue, *hosts.simulator.flags)
    hosts.end(submit, 4)
    assert b"a task queue of its own" in hosts.said(submit)
    assert b"A shard was stopped: This worker (" in others.said(worker)
    assert not hosts.simulator.requests()
    assert not others.simulator.requests()
    worker.terminate()


def test_worker_whose_key_is_refused_says_so_too(server: Server, start_hosts: StartHosts) -> None:
    """Whoever looks at its host sees why the job stopped; nothing was sent but the signed reads."""
    hosts = start_hosts(server)
    hosts.write_manifest(100)
    worker = hosts.worker(secret="b3BlbnMgbm90aGluZw==")
    submit = hosts.submit()
    hosts.end(submit, 4)
    for process in (submit, worker):
        assert b"The service refuses the key or the account" in hosts.said(process)
    assert {request["operation"] for request in hosts.simulator.requests()} == {"list"}


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
    ids = hosts.write_manifest(100)
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
    assert hosts.check_truth(ids) == 0


def test_worker_that_is_newer_than_the_job_does_it(server: Server, start_hosts: StartHosts) -> None:
    """Beside one of the job's own version, as during a rollout."""
    hosts = start_hosts(server)
    ids = hosts.write_manifest(400)
    with of_version(hosts, PROTOCOL + 1):
        hosts.worker()
    hosts.worker()
    hosts.end(hosts.submit("--shard-rows", "50"))
    assert hosts.check_truth(ids) == 0
