"""The command `batchcancel sandbox`: serve the simulator until it is told to stop."""

from __future__ import annotations

import errno
import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from batchcancel.sandbox import SandboxOptions

_SHARE: Final = click.FloatRange(0, 1)
_FROM_ZERO: Final = click.FloatRange(min=0)


class _CannotServeError(click.ClickException):
    """The simulator can't start; nothing was served."""

    exit_code = 2


# Flags that are not given are left to SandboxOptions, which alone knows the defaults; it is not
# imported here, so that the help comes without the web server's import time.
@click.command(name="sandbox")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: a free one.")
@click.option("--seed", type=int, help="What chance is drawn from. Default: 0.")
@click.option("--latency-ms", type=_FROM_ZERO, help="How long every reply waits. Default: 0.")
@click.option("--jitter-ms", type=_FROM_ZERO, help="How much longer at most, evenly spread. Default: 0.")
@click.option("--slow-share", type=_SHARE, help="Share of replies that are slow, 0 to 1.")
@click.option("--slow-ms", type=_FROM_ZERO, help="How slow those, and SLOW- invoices, are. Default: 2000.")
@click.option(
    "--rate-limit", type=click.FloatRange(min=0, min_open=True), help="Requests a second before 429."
)
@click.option(
    "--rate-limit-kind",
    type=click.Choice(["sliding", "fixed", "bucket"]),
    help="Any second, each second by the clock, or a token bucket of one second. Default: sliding.",
)
@click.option(
    "--rate-change",
    type=(_FROM_ZERO, click.FloatRange(min=0, min_open=True)),
    metavar="AT_S LIMIT",
    help="Change the rate limit to LIMIT, AT_S seconds after the first request.",
)
@click.option("--retry-after-s", type=click.IntRange(min=0), help="Retry-After of every 429. Default: 1.")
@click.option("--no-retry-after", is_flag=True, help="Leave Retry-After out.")
@click.option("--error-share", type=_SHARE, help="Share of requests that get a 500.")
@click.option("--html-share", type=_SHARE, help="Share that get 200 with an HTML page; nothing is done.")
@click.option("--reset-before-share", type=_SHARE, help="Share reset before anything is done.")
@click.option("--reset-after-share", type=_SHARE, help="Share reset after it was done.")
@click.option("--truncate-share", type=_SHARE, help="Share done, with a reply that is cut short.")
@click.option(
    "--outage",
    type=(_FROM_ZERO, _FROM_ZERO),
    metavar="START LENGTH",
    help="Answer 503 for LENGTH seconds, START seconds after the first request.",
)
@click.option("--clock-offset-s", type=float, help="How far its clock is ahead. Default: 0.")
@click.option("--clock-skew-s", type=_FROM_ZERO, help="How far a request's date may be off. Default: 300.")
@click.option("--log", type=click.Path(dir_okay=False, path_type=Path), help="Append a JSON line a request.")
def sandbox(host: str, port: int, *, no_retry_after: bool, **flags: Any) -> None:  # noqa: ANN401 - click's values, checked by SandboxOptions
    """Serve a simulator of the invoicing API, for trials and tests.

    An invoice's id decides what it is: PAID-1 is paid, RESET-AFTER-1 is canceled but its reply is lost,
    anything without a known prefix can be canceled.

    Credentials are taken from BATCHCANCEL_MERCHANT_ID, BATCHCANCEL_KEY_ID, BATCHCANCEL_SHARED_SECRET (or
    BATCHCANCEL_SHARED_SECRET_FILE) and BATCHCANCEL_PORTFOLIO_ID where they are set, else they are made up.
    """
    import asyncio  # noqa: PLC0415 - keeps the help quick

    from batchcancel.sandbox import SandboxOptions  # noqa: PLC0415 - keeps the help quick

    given = {name: value for name, value in flags.items() if value is not None}
    if no_retry_after:
        given["retry_after_s"] = None
    try:
        options = SandboxOptions(**_credentials(), **given)
    except ValueError as exc:
        raise _CannotServeError(str(exc)) from exc
    if not _is_loopback(host):
        click.echo(f"Warning: {host} is not loopback; whoever reaches this port can use it.", err=True)
    try:
        asyncio.run(_serve(options, host, port))
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise _CannotServeError(
                f"Port {port} on {host} is in use; choose another one with --port."
            ) from exc
        raise _CannotServeError(f"The simulator can't start on {host}, port {port}: {exc}.") from exc


async def _serve(options: SandboxOptions, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        OSError: The address or the log can't be opened.
    """
    import asyncio  # noqa: PLC0415 - keeps the help quick
    import signal  # noqa: PLC0415 - keeps the help quick

    from batchcancel.sandbox import Sandbox  # noqa: PLC0415 - keeps the help quick

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with Sandbox(options, host, port) as running:
        # The instructions first: whoever waits for the line on standard output finds them complete.
        click.echo(_instructions(options, running.base_url), err=True)
        click.echo(f"batchcancel sandbox on {running.base_url}")
        await stopped.wait()


def _instructions(options: SandboxOptions, base_url: str) -> str:
    """Say how to use the simulator; a secret is shown only if it is the published one."""
    from batchcancel.sandbox import SANDBOX_SECRET  # noqa: PLC0415 - keeps the help quick

    secret = SANDBOX_SECRET if options.secret == SANDBOX_SECRET else "(yours)"
    lines = [
        f"BATCHCANCEL_MERCHANT_ID={options.merchant_id}",
        f"BATCHCANCEL_KEY_ID={options.key_id}",
        f"BATCHCANCEL_SHARED_SECRET={secret}",
    ]
    if options.portfolio_id is not None:
        lines.append(f"BATCHCANCEL_PORTFOLIO_ID={options.portfolio_id}")
    settings = "\n".join(f"  {line}" for line in lines)
    return (
        f"Set\n{settings}\nand run\n  batchcancel run --env sandbox --base-url {base_url} MANIFEST\n"
        "Ctrl-C ends the simulator."
    )


def _credentials() -> dict[str, Any]:
    """Take the credentials that the environment names.

    Raises:
        _CannotServeError: The secret's file can't be read.
    """
    names = {
        "merchant_id": "BATCHCANCEL_MERCHANT_ID",
        "key_id": "BATCHCANCEL_KEY_ID",
        "secret": "BATCHCANCEL_SHARED_SECRET",
        "portfolio_id": "BATCHCANCEL_PORTFOLIO_ID",
    }
    found = {option: value for option, name in names.items() if (value := os.environ.get(name))}
    path = os.environ.get("BATCHCANCEL_SHARED_SECRET_FILE")
    if path and "secret" not in found:
        try:
            found["secret"] = Path(path).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as exc:
            # The error's class only: what could not be decoded may be part of the secret.
            raise _CannotServeError(f"{path} can't be read ({type(exc).__name__}).") from None
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
