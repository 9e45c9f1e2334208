"""How far a run is: a bar on a terminal, lines elsewhere; always on standard error."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from time import monotonic
from typing import IO, Any, Final, TextIO, cast

from batchcancel.model import Event, GroupCommitted, Outcome
from batchcancel.observe import Listener

_PLAIN_EVERY_S: Final = 30.0
_JSON_EVERY_S: Final = 1.0


class _Count:
    """What is on disk so far."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.outcomes: Counter[Outcome] = Counter()
        self._began_at = monotonic()

    def listen(self, event: Event) -> None:
        if isinstance(event, GroupCommitted):
            self.outcomes.update(result.outcome for result in event.results)

    @property
    def done(self) -> int:
        return self.outcomes.total()

    @property
    def rate(self) -> float:
        return self.done / max(monotonic() - self._began_at, 1e-3)

    def text(self) -> str:
        counts = ", ".join(f"{self.outcomes[outcome]:,} {outcome.replace('_', ' ')}" for outcome in Outcome)
        return f"{self.done:,} of {self.total:,} invoices: {counts}; {self.rate:,.1f} a second"

    def json(self) -> str:
        counts = {outcome.value: self.outcomes[outcome] for outcome in Outcome}
        return json.dumps(
            {"done": self.done, "total": self.total, **counts, "invoices_per_s": round(self.rate, 1)}
        )


@asynccontextmanager
async def show_progress(kind: str, *, total: int) -> AsyncIterator[Listener]:
    """Show progress for the length of the block; give the listener that feeds it.

    Args:
        kind: ``auto`` (a bar on a terminal, plain lines elsewhere), ``bar``, ``plain`` (a line every
            30 s), ``json`` (an object a second, and a last one) or ``none``.
        total: Invoices that the run will settle.
    """
    if kind == "auto":
        kind = "bar" if sys.stderr.isatty() else "plain"
    count = _Count(total)
    match kind:
        case "bar":
            with _bar(count) as listener:
                yield listener
        case "plain":
            async with _ticking(_PLAIN_EVERY_S, count.text):
                yield count.listen
        case "json":
            async with _ticking(_JSON_EVERY_S, count.json, at_end=True):
                yield count.listen
        case "none":
            yield count.listen
        case _:
            raise ValueError(f"there is no way called {kind!r} to show progress")


class _Screen:
    """Standard error for rich, without the errors of a terminal that has gone.

    Left to itself, rich ends the process on a closed pipe, and with it the run.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever else rich asks a stream
        return getattr(self._stream, name)


@contextmanager
def _bar(count: _Count) -> Iterator[Listener]:
    from rich.console import Console  # noqa: PLC0415 - slow, and needed on terminals only
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    console = Console(file=cast("IO[str]", _Screen(sys.stderr)))
    with Progress(
        *columns, console=console, transient=True, refresh_per_second=4, redirect_stdout=False
    ) as progress:
        task = progress.add_task("", total=count.total)

        def listen(event: Event) -> None:
            count.listen(event)
            if isinstance(event, GroupCommitted):
                errors = count.outcomes[Outcome.ERROR]
                progress.update(
                    task, completed=count.done, description=f"errors {errors:,}, {count.rate:,.1f}/s"
                )

        yield listen


@asynccontextmanager
async def _ticking(every_s: float, line: Callable[[], str], *, at_end: bool = False) -> AsyncIterator[None]:
    async def tick() -> None:
        while True:
            await asyncio.sleep(every_s)
            _say(line())

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()
        if at_end:
            _say(line())


def _say(line: str) -> None:
    # Nobody may be listening any more; the run goes on all the same.
    with suppress(OSError, ValueError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
