"""Run the installed command, kill it, and run it again, manifest after manifest."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

from tests.campaign.audit import Audit, Figures, Kill
from tests.campaign.evidence import OWN_MERCHANT, Request, read_ledger, read_log
from tests.campaign.scenario import MERCHANTS, SLOW_MS, Scenario, draw

_COMMAND: Final = Path(sys.executable).parent / "batchcancel"
_PASSED_ON: Final = re.compile(r"COVERAGE_.*|PATH|LANG|LC_.*|TMPDIR")
_CREDENTIALS: Final = {
    "BATCHCANCEL_MERCHANT_ID": OWN_MERCHANT,
    "BATCHCANCEL_KEY_ID": "00000000-0000-4000-8000-000000000001",
    "BATCHCANCEL_SHARED_SECRET": "b3BlbnMgbm90aGluZw==",
}
_DONE: Final = (0, 3)
_MOST_S: Final = 120.0
"""After this long without an end a run hangs, which is a defect."""
_LATEST_KILL_S: Final = 1.5
_MOST_KILLS_A_MANIFEST: Final = 25
_POLL_S: Final = 0.005
_BOUNDARY_REQUESTS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one manifest is worked on."""

    folder: Path
    base_url: str

    @property
    def manifest(self) -> Path:
        """The manifest: the id, and whose it is."""
        return self.folder / "invoices.csv"

    @property
    def ledger(self) -> Path:
        """The ledger of all its runs."""
        return self.folder / "ledger.jsonl"

    @property
    def log(self) -> Path:
        """The simulator's log."""
        return self.folder / "service.log"


def run_lane(
    folder: Path, *, number: int, kills: int, chance: random.Random, say: Callable[[str], None]
) -> Figures:
    """Kill so many runs, let every manifest come to its end, and count.

    Every second manifest has the invoices of several merchants.

    Args:
        folder: An empty folder; what proved wrong is left there.
        number: Of this lane, from 0; those with an odd one begin with several merchants.
        kills: How many.
        chance: Where every choice comes from.
        say: Told how far it has come.

    Raises:
        RuntimeError: The simulator did not start.
    """
    figures = Figures()
    while figures.kills < kills:
        name = f"manifest {figures.manifests + 1} of {folder.name}"
        place = folder / f"{figures.manifests + 1:04d}"
        place.mkdir(parents=True)
        has_several = (figures.manifests + number) % 2 == 1
        scenario = draw(chance, merchants=MERCHANTS if has_several else ())
        figures.of_several_merchants += has_several
        audit = Audit((line.name for line in scenario.lines), figures, name=name)
        most = min(kills, figures.kills + _MOST_KILLS_A_MANIFEST)
        with _simulator(place, scenario) as base_url:
            _work_off(Place(folder=place, base_url=base_url), scenario, audit, figures, most, chance)
        if not figures.violations:
            for path in place.iterdir():
                path.unlink()
            place.rmdir()
        say(f"{folder.name}: {figures.kills} of {kills} kills, {len(figures.violations)} violations")
    return figures


def _work_off(
    place: Place, scenario: Scenario, audit: Audit, figures: Figures, kills: int, chance: random.Random
) -> None:
    """Run one manifest until it is done, killing until there have been so many kills in all."""
    lines = list(scenario.lines)
    position, ended = 0, False
    while not ended:
        rows = [("invoice_id", "merchant"), *lines, lines[0]]
        place.manifest.write_text("".join(f"{','.join(row)}\n" for row in rows), "utf-8")
        kill = None
        with _started(place, scenario) as process:
            if figures.kills < kills and _wait_for_post(process, place.log, position):
                left_s = len(audit.invoices - audit.settled) / scenario.per_s
                kill = _kill(process, scenario, chance.uniform(0, min(left_s, _LATEST_KILL_S)))
            if kill is None and not _ends(process):
                audit.complain([f"a run did not end within {_MOST_S:.0f} s"])
        requests, position = _read_to_the_end(place, position, scenario)
        audit.note_process(requests, read_ledger(place.ledger), kill)
        ended = kill is None
        if ended and process.returncode not in _DONE:
            audit.complain([f"a run ended with exit code {process.returncode}"])
        if chance.random() < 0.3:
            chance.shuffle(lines)
    audit.close()


@contextmanager
def _simulator(folder: Path, scenario: Scenario) -> Iterator[str]:
    """Run the simulator in a process of its own; yield its address."""
    with (
        (folder / "service.err").open("wb") as errors,
        subprocess.Popen(
            [_COMMAND, "sandbox", "--port", "0", "--log", folder / "service.log", *scenario.sandbox_flags],
            env=_environment(folder, scenario),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the simulator did not start; see {folder / 'service.err'}")
            yield line.split()[-1]
        finally:
            process.terminate()


@contextmanager
def _started(place: Place, scenario: Scenario) -> Iterator[subprocess.Popen[bytes]]:
    """Start a run; whatever happens, it is gone in the end."""
    target = ["--env", "sandbox", "--base-url", place.base_url, "--ledger", str(place.ledger)]
    with (
        (place.folder / "run.err").open("ab") as errors,
        subprocess.Popen(
            [_COMMAND, "run", place.manifest, *target, *scenario.run_flags],
            env=_environment(place.folder, scenario),
            cwd=place.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _environment(home: Path, scenario: Scenario) -> dict[str, str]:
    passed_on = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    portfolio = {"BATCHCANCEL_PORTFOLIO_ID": "campaign_portfolio"} if scenario.merchants else {}
    return passed_on | _CREDENTIALS | portfolio | {"HOME": str(home)}


def _wait_for_post(process: subprocess.Popen[bytes], log: Path, position: int) -> bool:
    """Return once a cancelation has reached the service; False if the run ends without one."""
    while process.poll() is None:
        with log.open("rb") as lines:
            lines.seek(position)
            if b'"operation":"cancel"' in lines.read():
                return True
        time.sleep(_POLL_S)
    return False


def _kill(process: subprocess.Popen[bytes], scenario: Scenario, after_s: float) -> Kill | None:
    """Kill -9 after some time; None if the run was quicker."""
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        before_s = time.time()
        process.kill()
        process.wait()
    if process.returncode != -9:
        return None
    return Kill(
        before_s=before_s,
        after_s=time.time(),
        concurrency=scenario.concurrency,
        latency_s=scenario.latency_ms / 1000,
        jitter_s=scenario.jitter_ms / 1000,
        slow_s=SLOW_MS / 1000,
    )


def _ends(process: subprocess.Popen[bytes]) -> bool:
    """Wait for a run that is not killed; False if it hangs."""
    try:
        process.wait(_MOST_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _read_to_the_end(place: Place, position: int, scenario: Scenario) -> tuple[list[Request], int]:
    """Read all that a process has sent since, once it is gone.

    What was in a socket's buffer at a kill is served after it. A request that is sent now comes behind
    all of that in the simulator's event loop; the second and third allow for what was not even accepted.
    """
    connection = HTTPConnection(place.base_url.removeprefix("http://"), timeout=_MOST_S)
    for _ in range(_BOUNDARY_REQUESTS):
        connection.request("GET", "/boundary")
        connection.getresponse().read()
    connection.close()
    requests, position = read_log(place.log, position, clock_offset_s=scenario.clock_offset_s)
    return [request for request in requests if request.operation != "other"], position
