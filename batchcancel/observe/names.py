"""The addresses of a host, looked up without holding up the end of the program."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from threading import Thread

Addresses = list[tuple[int, str]]
"""Of each its family, IPv4 or IPv6, and its text."""


async def addresses_of(host: str, family: int) -> Addresses:
    """Look a name up; when cancelled, what is found is dropped.

    A name server that does not answer holds the system's call for half a minute. The event loop's own look-up
    runs in its pool of threads, which is waited for when the loop ends and once more when the program does.

    Args:
        host: A name or an address.
        family: ``AF_INET``, ``AF_INET6``, or ``AF_UNSPEC`` for either.

    Raises:
        OSError: The name has no address, or that can't be told.
        UnicodeError: It can be no name.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Addresses] = loop.create_future()

    def deliver(addresses: Addresses, error: Exception | None) -> None:
        if found.done():
            return  # whoever waited was cancelled
        if error is None:
            found.set_result(addresses)
        else:
            found.set_exception(error)

    def look_up() -> None:
        addresses: Addresses = []
        error: Exception | None = None
        try:
            infos = socket.getaddrinfo(
                host, None, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            )
            addresses = [(int(kind), str(address[0])) for kind, _, _, _, address in infos]
        except (OSError, UnicodeError) as exc:
            error = exc
        with suppress(RuntimeError):  # the loop has been closed, and nobody waits any more
            loop.call_soon_threadsafe(deliver, addresses, error)

    Thread(target=look_up, daemon=True, name="names").start()
    return await found
