"""Run a program to its end and count what it costs, or keep one running for as long as it is needed."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Final

ROOT: Final = Path(__file__).parent.parent
"""The checkout: the working directory of whatever is run as a module of the benchmarks."""
COMMAND: Final = Path(sys.executable).parent / "batchcancel"
"""The installed command."""
_PASSED_ON: Final = re.compile(r"PATH|LANG|LC_.*|TMPDIR|LD_LIBRARY_PATH")
_MOST_S: Final = 1800.0
"""After this long a program hangs, and is killed."""
_END_S: Final = 10.0

Command = Sequence[str | Path]


class BenchmarkError(Exception):
    """A program did not do what was to be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A program that ended well."""

    output: str
    wall_s: float
    """From its start to its end, the interpreter's start-up included."""
    cpu_s: float
    """User and system time, those of its own children included."""

    def json(self) -> dict[str, Any]:
        """Read what it wrote as one JSON object."""
        fields: dict[str, Any] = json.loads(self.output)
        return fields


def run(
    command: Command, *, folder: Path, env: Mapping[str, str] | None = None, on_terminal: bool = False
) -> Ended:
    """Run a program to its end. No other child of this process may end meanwhile, or its time counts too.

    Args:
        command: Program and arguments.
        folder: Its working directory.
        env: Variables over a clean environment.
        on_terminal: Whether its standard error is a terminal, as for somebody who watches.

    Raises:
        BenchmarkError: It failed or hung; the end of what it said is in the message.
    """
    before, began_at = _children_cpu_s(), time.perf_counter()
    with _errors(on_terminal=on_terminal) as (errors, said):
        try:
            ended = subprocess.run(
                command,
                cwd=folder,
                env=clean_environment(folder, env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                timeout=_MOST_S,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise BenchmarkError(f"{_name(command)} did not end within {_MOST_S:.0f} s.") from exc
        wall_s = time.perf_counter() - began_at
        if ended.returncode != 0:
            raise BenchmarkError(f"{_name(command)} ended with {ended.returncode}: {said()[-2000:]}")
    return Ended(output=ended.stdout, wall_s=wall_s, cpu_s=_children_cpu_s() - before)


@contextmanager
def _errors(*, on_terminal: bool) -> Iterator[tuple[int, Callable[[], str]]]:
    """Yield a descriptor for a program's standard error, and what reads what was written there."""
    with TemporaryFile("w+b") as kept:

        def said() -> str:
            kept.seek(0)
            return kept.read().decode(errors="replace")

        if not on_terminal:
            yield kept.fileno(), said
            return
        ours, its = os.openpty()
        reading = threading.Thread(target=_copy, args=(ours, kept))
        reading.start()
        try:
            yield its, said
        finally:
            os.close(its)
            reading.join()
            os.close(ours)


def _copy(terminal: int, kept: BinaryIO) -> None:
    """Read a terminal to its end, so that nobody who writes there has to wait."""
    try:
        while text := os.read(terminal, 65536):
            kept.write(text)
    except OSError:
        return  # how a terminal says that nobody is there any more


@contextmanager
def running(command: Command, *, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Keep a program running inside a block; its standard output is a pipe.

    Raises:
        BenchmarkError: It had ended before the block did; what it said is in the message.
    """
    with (
        TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            command,
            cwd=folder,
            env=clean_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
        ) as process,
    ):
        try:
            yield process
            if process.poll() is not None:
                errors.seek(0)
                raise BenchmarkError(f"{_name(command)} ended by itself: {errors.read()[-2000:]}")
        finally:
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()


def clean_environment(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Make an environment without options, proxies or configuration of whoever runs the benchmarks."""
    passed_on = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    return passed_on | {"HOME": str(folder)} | dict(more or {})


def _children_cpu_s() -> float:
    """Return the CPU time of all children that have ended and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _name(command: Command) -> str:
    return " ".join(map(str, command))
