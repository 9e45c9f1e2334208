"""The metrics over HTTP, for a Prometheus that scrapes the run itself."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import Thread
from typing import Any, Final

from batchcancel.errors import SettingsError
from batchcancel.observe.metrics.exposition import CONTENT_TYPE

_POLL_S: Final = 0.1
"""How long the end of a run waits for the server at most."""
_SILENCE_S: Final = 5.0
"""After so long without a word a client is hung up on."""


class Endpoint:
    """Serves ``/metrics`` from threads of its own, until it is closed."""

    def __init__(self, host: str, port: int, render: Callable[[], bytes]) -> None:
        """Begin to serve.

        Args:
            host: The address or name to listen on.
            port: 0 for a free one.
            render: Writes the metrics; called by several threads.

        Raises:
            SettingsError: Nobody can listen there.
        """
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._server: Final = _Server(family, address[:2], render)
        except (OSError, UnicodeError) as exc:
            # A name that no name can be, such as a..b, is refused as text before it is looked up.
            why = exc.strerror if isinstance(exc, OSError) else "no name of a host looks like that"
            raise SettingsError(f"The metrics can't be served at port {port} of {host}: {why}.") from exc
        self._thread = Thread(target=self._server.serve_forever, args=(_POLL_S,), daemon=True, name="metrics")
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host, port = self._server.server_address[:2]
        return f"http://[{host!s}]:{port}/metrics" if ":" in str(host) else f"http://{host!s}:{port}/metrics"

    def close(self) -> None:
        """Serve no more; once is enough."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = False  # whatever the base class thinks: two runs at one port would be scraped in turn

    def __init__(self, family: int, address: Any, render: Callable[[], bytes]) -> None:  # noqa: ANN401 - the socket module's
        self.address_family = family
        self.render: Final = render
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind, without the look-up of this machine's name that may take long."""
        TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the base class's
        """Say nothing of a client that hung up: it asks again. A defect is said."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    timeout = _SILENCE_S
    server: _Server

    def do_GET(self) -> None:
        """Answer with the metrics."""
        if self.path.partition("?")[0] not in {"/metrics", "/"}:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        body = self.server.render()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Name the program; its version is a metric."""
        return "batchcancel"

    def log_message(self, *_: object) -> None:
        """Write nothing: standard error is the run's."""
