"""What is called: nginx with a canned reply, so that the server is not what is measured."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from benchmarks.bounds import Delays
from benchmarks.process import ROOT, BenchmarkError, Command, running

_FOLDERS_OF_ADMINISTRATORS: Final = ("/usr/sbin", "/usr/local/sbin")
_START_S: Final = 10.0
# One process serves; it answers before it has read a body, writes no log, and never hangs up.
_CONFIGURATION: Final = Template(
    """\
daemon off;
master_process off;
pid nginx.pid;
error_log stderr error;
events { worker_connections 4096; }
http {
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    default_type application/json;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server {
        listen 127.0.0.1:$port backlog=1024;
        add_header v-c-correlation-id $$request_id;
        location = /invoicing/v2/invoices { return 200 '{"totalInvoices":0,"invoices":[]}'; }
        location ~ "^/invoicing/v2/invoices/([A-Za-z0-9._-]+)/cancelation$$" {
            return 200 '{"id":"$$1","submitTimeUtc":"2026-01-01T00:00:00Z","status":"CANCELED",$rest}';
        }
    }
}
"""
)
_REST: Final = (
    '"invoiceInformation":{"invoiceNumber":"$1","dueDate":"2026-12-31"},'
    '"orderInformation":{"amountDetails":{"totalAmount":"100.00","balanceAmount":"100.00","currency":"USD"}}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server that is running."""

    name: str
    """What it is, with its version."""
    base_url: str
    pid: int

    def cpu_s(self) -> float:
        """Return the CPU time that it has taken so far; Linux only."""
        # The command's name may hold anything, brackets and spaces too; what follows it does not.
        after_name = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def find_nginx() -> Path | None:
    """Return where nginx is; None if it is not installed."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *_FOLDERS_OF_ADMINISTRATORS))
    found = shutil.which("nginx", path=path)
    return Path(found) if found else None


@contextmanager
def fast_target(folder: Path, *, nginx: Path | None) -> Iterator[Target]:
    """Serve at once, for the length of a block.

    Args:
        folder: An empty folder for the server's files.
        nginx: Where it is; None serves with uvloop in a process of its own.

    Raises:
        BenchmarkError: The server did not start, or ended early.
    """
    if nginx is None:
        with _own_server() as target:
            yield target
        return
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.substitute(port=port, rest=_REST), encoding="utf-8")
    (folder / "logs").mkdir()  # where nginx looks before it has read where to log
    command: Command = [nginx, "-p", folder, "-c", configuration, "-e", "stderr"]
    with running(command, folder=folder) as process:
        if _listens(port, process):
            yield Target(name=_version_of(nginx), base_url=f"http://127.0.0.1:{port}", pid=process.pid)


@contextmanager
def slow_target(delays: Delays) -> Iterator[Target]:
    """Serve after a while, for the length of a block.

    Raises:
        BenchmarkError: The server did not start, or ended early.
    """
    flags = {
        "--delay-s": delays.usual_s,
        "--slow-delay-s": delays.slow_s,
        "--slow-share": delays.slow_share,
        "--seed": delays.seed,
    }
    with _own_server(*(f"{flag}={value}" for flag, value in flags.items())) as target:
        yield target


@contextmanager
def _own_server(*flags: str) -> Iterator[Target]:
    with running([sys.executable, "-m", "benchmarks.server", *flags], folder=ROOT) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        base_url = process.stdout.readline().strip()  # comes once it listens
        if base_url:
            yield Target(name="benchmarks.server", base_url=base_url, pid=process.pid)
        else:
            process.wait(_START_S)  # what it said is told where the block ends


def free_port() -> int:
    """Return a port of loopback where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _listens(port: int, process: subprocess.Popen[str]) -> bool:
    """Return true once a server listens, and false once it has ended, which is told where its block ends."""
    give_up_at = time.monotonic() + _START_S
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=_START_S).close()
        except ConnectionRefusedError as exc:
            if time.monotonic() > give_up_at:
                raise BenchmarkError("nginx does not listen.") from exc
            time.sleep(0.01)
        else:
            return True
    return False


def _version_of(nginx: Path) -> str:
    said = subprocess.run([nginx, "-v"], capture_output=True, encoding="utf-8", check=True).stderr
    version = re.search(r"nginx/\S+", said)
    return version[0] if version else "nginx"
