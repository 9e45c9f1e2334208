"""A way to Temporal that can come apart: it forwards bytes until it is told not to."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self

_CHUNK = 65_536


class Relay:
    """Stands between one worker and the server, which may be away at times."""

    def __init__(self, target: int) -> None:
        """Listen on a free port of loopback.

        Args:
            target: The server's port there.
        """
        self._target = target
        self._is_cut = threading.Event()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._hang_up()

    def cut(self) -> None:
        """Forward nothing any more, and close nothing: neither side is told."""
        self._is_cut.set()

    def mend(self) -> None:
        """Forward again; connections that have lost bytes are closed, and made anew by who wants them."""
        self._hang_up()
        self._is_cut.clear()

    def _hang_up(self) -> None:
        for pair in self._pairs:
            for one in pair:
                with suppress(OSError):  # it has ended by itself
                    one.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target), 1)
            except OSError:  # the server is away
                near.close()
                continue
            far.settimeout(None)
            self._pairs.append((near, far))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):  # one of the two has ended
            while data := source.recv(_CHUNK):
                if not self._is_cut.is_set():
                    sink.sendall(data)
        if not self._is_cut.is_set():
            with suppress(OSError):  # likewise
                sink.shutdown(socket.SHUT_RDWR)
