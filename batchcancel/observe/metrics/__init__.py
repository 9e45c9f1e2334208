"""Metrics for Prometheus: a file that node_exporter reads, or a port that is scraped.

Events are counted in plain numbers (``counts``); metrics are made of them (``table``, ``exposition``) only
when the file is written or somebody asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from batchcancel.model import Vitals
from batchcancel.observe.metrics.endpoint import Endpoint
from batchcancel.observe.metrics.exposition import read_ended, render
from batchcancel.observe.metrics.run import Ended, RunMetrics
from batchcancel.observe.metrics.textfile import TextFile

__all__ = ["Ended", "Endpoint", "RunMetrics", "TextFile", "publishing", "read_ended", "render"]

_LOOK_EVERY_S: Final = 1.0
_WRITE_EVERY: Final = 10
"""Looks from one writing of the file to the next."""


@asynccontextmanager
async def publishing(
    run: RunMetrics,
    *,
    vitals: Callable[[], Vitals],
    file: TextFile | None,
    on_failure: Callable[[OSError], None],
) -> AsyncIterator[None]:
    """Keep metrics up to date for the length of the block: a look a second, and the file every 10 s.

    Args:
        run: What the metrics are made of.
        vitals: Tells what the run is doing. Asked in the event loop, for it is not made for other threads.
        file: Written here only while the block lasts; None for no file.
        on_failure: Told once, if the file can't be written. It is tried again all the same.
    """
    run.vitals = vitals()
    keeping = asyncio.create_task(_keep(run, vitals, file, on_failure))
    try:
        yield
    finally:
        run.vitals = vitals()
        keeping.cancel()
        # A defect in there is told by asyncio: it is no reason to end a run otherwise than it ended.
        await asyncio.wait([keeping])


async def _keep(
    run: RunMetrics,
    vitals: Callable[[], Vitals],
    file: TextFile | None,
    on_failure: Callable[[OSError], None],
) -> None:
    looks = 0
    has_failed = False
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        run.vitals = vitals()
        looks += 1
        if file is None or looks % _WRITE_EVERY:
            continue
        writing = asyncio.create_task(asyncio.to_thread(file.write, render(run)))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])  # whoever writes at the end has to be the last one
            raise
        except OSError as exc:
            if not has_failed:
                on_failure(exc)
            has_failed = True
