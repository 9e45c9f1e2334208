"""The metrics of one run on the command line: where they go, and what an earlier run left there."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from batchcancel.cli import say
from batchcancel.errors import SettingsError
from batchcancel.job import Job
from batchcancel.observe import Broadcast
from batchcancel.observe.metrics import (
    Ended,
    Endpoint,
    RunMetrics,
    TextFile,
    publishing,
    read_ended,
    render,
)
from batchcancel.settings import Settings


class Metering:
    """Counts a run, and shows the numbers in a file, at a port, or both."""

    def __init__(self, settings: Settings, *, warn: Callable[[str], None]) -> None:
        """Begin; nothing is opened.

        Args:
            settings: With a metrics file, a port, or both.
            warn: Told why the file can't be written, once it could be.
        """
        options = settings.options
        self._path = None if options.metrics_file is None else Path(options.metrics_file)
        self._port = options.metrics_port
        self._host = options.metrics_host
        self._warn = warn
        self._has_warned = False
        self._file: TextFile | None = None
        self._was_opened = False
        self._metrics = RunMetrics(
            env=settings.environment.value,
            name=None if self._path is None else _name_of(self._path),
        )

    @asynccontextmanager
    async def watching(self, job: Job, events: Broadcast) -> AsyncIterator[None]:
        """Count the run's events for the length of the block, and show them.

        Raises:
            SettingsError: The file can't be written, or the port is taken.
        """
        metrics = self._metrics
        metrics.vitals = job.vitals()
        endpoint = None
        if self._port is not None:
            endpoint = Endpoint(self._host, self._port, partial(render, metrics))
        try:
            self._open_file()
            if endpoint is not None:
                say(f"Metrics are served at {endpoint.url}.")
            events.add(metrics.counts)
            async with publishing(
                metrics, vitals=job.vitals, file=self._file, on_failure=self._warn_of_failure
            ):
                yield
        finally:
            if endpoint is not None:
                endpoint.close()

    def end(self, exit_code: int) -> None:
        """Write the file for the last time.

        A run that failed before it was watched is written too, unless the file is not for us to write.
        """
        if not self._was_opened:
            try:
                self._open_file()
            except SettingsError as exc:
                self._warn(str(exc))
        self._metrics.end(exit_code)
        if self._file is not None:
            try:
                self._file.write(render(self._metrics))
            except OSError as exc:
                self._warn_of_failure(exc)

    def _open_file(self) -> None:
        self._was_opened = True
        if self._path is None:
            return
        file = TextFile(self._path)
        try:
            self._metrics.ended = read_ended(file.earlier)
        except ValueError:
            self._metrics.ended = Ended()  # cut off by somebody else's hand: nothing can be told from it
        file.begin(render(self._metrics))
        self._file = file

    def _warn_of_failure(self, exc: OSError) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._warn(f"The metrics file {self._path} can't be written: {exc.strerror}.")


def _name_of(path: Path) -> str:
    """Return what tells a job's metrics from those of others: the file's name, as text in UTF-8.

    Of all files in node_exporter's folder no two have the same, and it stays the same each night.
    """
    return os.fsencode(path.name.removesuffix(".prom")).decode(errors="replace")
