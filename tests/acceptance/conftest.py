"""Fixtures that drive the installed command as a user does: in processes of its own.

For annotations only, a test may import ``Simulator`` and the protocols from here under
``TYPE_CHECKING``; at run time everything comes as fixtures.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from batchcancel.sandbox import SANDBOX_KEY_ID, SANDBOX_MERCHANT_ID, SANDBOX_SECRET

_ROOT: Final = Path(__file__).parents[2]
_END_S: Final = 10.0
# COVERAGE_ tells a child process to measure itself.
_PASSED_ON: Final = re.compile(r"COVERAGE_.*|PATH|LANG|LC_.*|TMPDIR")


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

        Keys: ``at method target operation invoice_id http_status cause committed in_flight``.
        """
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


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


@pytest.fixture
def project() -> Path:
    """Name the checkout's folder."""
    return _ROOT


@pytest.fixture
def samples(project: Path) -> Path:
    """Name the folder of samples."""
    return project / "samples"


@pytest.fixture
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
