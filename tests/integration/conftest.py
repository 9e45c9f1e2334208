"""Which event loops the tests of the client run on: Python's own, and uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import pytest
import uvloop

_ON_BOTH: Final = frozenset({"test_client.py", "test_client_tls.py", "test_client_wire.py"})
"""What touches sockets, timers or TLS, which the two do each in its own way."""


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run a test once on each of the loops that are returned."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    return loops | {"uvloop": uvloop.new_event_loop} if item.path.name in _ON_BOTH else loops
