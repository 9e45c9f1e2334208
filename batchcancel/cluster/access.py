"""Whether Temporal answers and lets us in: the API key as its file has it now, an end where it is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from enum import Enum, auto
from typing import Any, Final, NoReturn, TypeVar

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client as Engine
from temporalio.service import RPCError

from batchcancel.cluster.connection import REFUSED, refused
from batchcancel.errors import SettingsError
from batchcancel.settings.engine import EngineOptions

_LOOK_S: Final = 3.0
"""How often it is looked at."""
_LOOK_CALL: Final = timedelta(seconds=3)
"""How long a look may take."""
_PATIENCE_S: Final = 20.0
"""How long a refusal may last: a new key may reach its file after the old one has ended."""
_SILENT_LOOKS: Final = 2
"""After so many in a row it is away; one may be lost."""

_Result = TypeVar("_Result")


class _Seen(Enum):
    """What a look at Temporal comes to."""

    LETS_IN = auto()
    REFUSES = auto()
    IS_SILENT = auto()


async def while_let_in(
    engine: Engine,
    options: EngineOptions,
    work: Coroutine[Any, Any, _Result],
    *,
    on_away: Callable[[bool], None],
) -> _Result:
    """Do some work, and end it where Temporal refuses us for good: the SDK would ask on without a word.

    Args:
        engine: A connection to Temporal.
        options: Where the API key is.
        work: What is to be done.
        on_away: Told that Temporal does not answer (true) and that it does again: the SDK waits for it
            without a word, too.

    Raises:
        EngineError: It did, for 20 s; the work has been cancelled.
    """
    working = asyncio.create_task(work)
    keeping = asyncio.create_task(_keep_access(engine, options, on_away))
    try:
        await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, keeping):
            task.cancel()
        await asyncio.gather(working, keeping, return_exceptions=True)
    if not keeping.cancelled():
        keeping.result()
    return working.result()


async def _keep_access(engine: Engine, options: EngineOptions, on_away: Callable[[bool], None]) -> NoReturn:
    """Hand a new API key over, until no key helps any more.

    Raises:
        EngineError: Temporal refuses us, and has for a while.
    """
    refused_since: float | None = None
    silent_looks = 0
    while True:
        await asyncio.sleep(_LOOK_S)
        await _renew_key(engine, options)
        seen = await _look(engine)
        if seen is _Seen.IS_SILENT:
            silent_looks += 1
            if silent_looks == _SILENT_LOOKS:
                on_away(True)
        else:
            if silent_looks >= _SILENT_LOOKS:
                on_away(False)
            silent_looks = 0
        if seen is not _Seen.REFUSES:
            refused_since = None
        elif refused_since is None:
            refused_since = time.monotonic()
        elif time.monotonic() - refused_since >= _PATIENCE_S:
            raise refused(options)


async def _renew_key(engine: Engine, options: EngineOptions) -> None:
    """Take the key that its file has now; one that can't be used is left alone, as it may be half written."""
    if options.api_key is None:
        return
    try:
        key = (await asyncio.to_thread(options.api_key.read_again)).decode()
    except SettingsError:
        return
    if key != engine.api_key:
        engine.api_key = key


async def _look(engine: Engine) -> _Seen:
    try:
        await engine.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=engine.namespace), timeout=_LOOK_CALL
        )
    except RPCError as exc:
        return _Seen.REFUSES if exc.status in REFUSED else _Seen.IS_SILENT
    return _Seen.LETS_IN
