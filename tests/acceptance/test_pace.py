"""The adaptive pace over real sockets, as the simulator's request log shows it.

The promise is for a minute after the first ten seconds; here 12 s are measured, so that the suite stays
short. The whole minute, with every kind of limit, is held in virtual time by tests/unit/test_tempo.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import RunCommand, Simulator, StartSimulator

LEARNS_S: Final = 10
MEASURED_S: Final = 12
SLACK: Final = 0.95
"""A busy machine sends late, and what is late is lost: a twentieth is left to it."""


def write_manifest(folder: Path, count: int, *, throttled_every: int = 10**9) -> Path:
    """Write that many ids as a CSV, some of which are refused once."""
    path = folder / "invoices.csv"
    ids = (f"THROTTLE-{n}" if n % throttled_every == 7 else f"{10_000 + n}" for n in range(count))
    path.write_text("".join(f"{line}\n" for line in ("invoice_id", *ids)), encoding="utf-8")
    return path


def served(simulator: Simulator, since: float, until: float) -> tuple[float, float]:
    """Return the accepted requests a second and the refused share, between seconds of the run."""
    requests = simulator.requests()
    began = requests[0]["at"]
    statuses = [r["http_status"] for r in requests if since <= r["at"] - began < until]
    assert set(statuses) <= {200, 429}
    return statuses.count(200) / (until - since), statuses.count(429) / len(statuses)


@pytest.fixture
def run_for(command_path: Path, clean_environment: dict[str, str], tmp_path: Path) -> Callable[..., None]:
    """Run the command for some seconds at an unlimited rate and stop it with SIGTERM."""

    @contextmanager
    def started(simulator: Simulator) -> Iterator[subprocess.Popen[bytes]]:
        with subprocess.Popen(
            [command_path, "run", "invoices.csv", *simulator.flags, "--progress", "none"],
            env=clean_environment | simulator.env,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(simulator: Simulator, seconds: float) -> None:
        with started(simulator) as process:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(seconds)
            process.terminate()
            assert process.wait(15) == 143

    return run


def test_a_limit_is_used_to_nine_tenths_and_found_again_when_it_changes(
    start_simulator: StartSimulator, run_for: Callable[..., Any], tmp_path: Path
) -> None:
    """No rate was set: the run finds 40 a second by itself, and 80 within ten seconds of the change."""
    write_manifest(tmp_path, 4000)
    changes_at = LEARNS_S + MEASURED_S
    ends_at = changes_at + LEARNS_S + MEASURED_S
    simulator = start_simulator(
        "--rate-limit", "40", "--no-retry-after", "--rate-change", str(changes_at), "80"
    )
    run_for(simulator, ends_at + 2)
    for limit, until in ((40, changes_at), (80, ends_at)):
        accepted_per_s, refused_share = served(simulator, until - MEASURED_S, until)
        assert accepted_per_s >= 0.9 * limit * SLACK
        assert refused_share <= 0.05


def test_five_lone_refusals_cost_little(
    start_simulator: StartSimulator, run_command: RunCommand, tmp_path: Path
) -> None:
    """Of 300 invoices at 20 a second five are refused once; all are canceled, nearly as fast."""
    simulator = start_simulator("--no-retry-after")
    manifest = write_manifest(tmp_path, 300, throttled_every=60)
    ended = run_command("run", manifest, *simulator.flags, "--rate", "20", env=simulator.env)
    assert ended.returncode == 0, ended.stderr
    requests = simulator.requests()
    assert sum(request["http_status"] == 429 for request in requests) == 5
    took_s = requests[-1]["at"] - requests[0]["at"]
    # Two seconds are promised; the third is for a busy machine.
    assert took_s < len(requests) / 20 + 2.0 + 1.0
