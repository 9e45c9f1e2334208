"""The command `batchcancel sandbox`: serve the simulator until it is told to stop."""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from batchcancel.sandbox import SandboxOptions
    from batchcancel.sandbox.keys import SandboxKeys
    from batchcancel.sandbox.throwaway import ThrowawayKeys

_SHARE: Final = click.FloatRange(0, 1)
_FROM_ZERO: Final = click.FloatRange(min=0)
_FILE: Final = click.Path(dir_okay=False, path_type=Path)
_KEY_FILES: Final = {
    "certificate": "signing",
    "mle_key": "encryption",
    "response_mle_certificate": "response",
}
"""Flags that name a PEM file, and what the simulator calls the key in it."""


class _CannotServeError(click.ClickException):
    """The simulator can't start; nothing was served."""

    exit_code = 2


# Flags that are not given are left to SandboxOptions, which alone knows the defaults; it is not
# imported here, so that the help comes without the web server's import time.
@click.command(name="sandbox")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: a free one.")
@click.option(
    "--invoices",
    type=click.IntRange(0, 1_000_000),
    help="Begin with so many invoices of every kind, for 'batchcancel list'. Default: 0.",
)
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
@click.option("--log", type=_FILE, help="Append a JSON line a request.")
@click.option(
    "--merchant",
    "merchants",
    multiple=True,
    metavar="ID",
    help="One more merchant of the portfolio. Repeat it.",
)
@click.option("--certificate", type=_FILE, help="Whose key signs tokens (RS256): a certificate, PEM.")
@click.option("--mle-key", type=_FILE, help="Decrypts requests: certificate and private key, PEM.")
@click.option("--response-mle-certificate", type=_FILE, help="Replies are encrypted for it: PEM.")
@click.option(
    "--make-keys",
    type=click.Path(file_okay=False, path_type=Path),
    help="Serve with the throwaway keys in this folder; make them first if it has none.",
)
@click.option("--require-mle", is_flag=True, help="Refuse bodies that are not encrypted with 400.")
@click.option(
    "--plain-status",
    "plain_statuses",
    type=click.IntRange(200, 599),
    multiple=True,
    help="Never encrypt replies with this status. Repeat it.",
)
def sandbox(
    host: str,
    port: int,
    *,
    no_retry_after: bool,
    make_keys: Path | None,
    **flags: Any,  # noqa: ANN401 - click's values, checked by SandboxOptions
) -> None:
    """Serve a simulator of the invoicing API, for trials and tests.

    An invoice's id decides what it is: PAID-1 is paid, RESET-AFTER-1 is canceled but its reply is lost,
    anything without a known prefix can be canceled.

    Credentials are taken from BATCHCANCEL_MERCHANT_ID, BATCHCANCEL_KEY_ID, BATCHCANCEL_SHARED_SECRET (or
    BATCHCANCEL_SHARED_SECRET_FILE) and BATCHCANCEL_PORTFOLIO_ID where they are set, else they are made up.
    Certificates come from files, or with --make-keys from nowhere.
    """
    import asyncio  # noqa: PLC0415 - keeps the help quick

    from batchcancel.sandbox import SandboxOptions  # noqa: PLC0415 - keeps the help quick

    paths = {key: path for flag, key in _KEY_FILES.items() if (path := flags.pop(flag)) is not None}
    given = {name: value for name, value in flags.items() if value is not None}
    if no_retry_after:
        given["retry_after_s"] = None
    credentials = _credentials()
    throwaway = None if make_keys is None else _throwaway_keys(make_keys, paths, credentials)
    try:
        options = SandboxOptions(**credentials, **given, keys=_keys(paths, throwaway))
    except ValueError as exc:
        raise _CannotServeError(str(exc)) from exc
    if not _is_loopback(host):
        click.echo(f"Warning: {host} is not loopback; whoever reaches this port can use it.", err=True)
    try:
        asyncio.run(_serve(options, host, port, throwaway))
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise _CannotServeError(
                f"Port {port} on {host} is in use; choose another one with --port."
            ) from exc
        raise _CannotServeError(f"The simulator can't start on {host}, port {port}: {exc}.") from exc


async def _serve(options: SandboxOptions, host: str, port: int, throwaway: ThrowawayKeys | None) -> None:
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
        click.echo(_instructions(options, running.base_url, throwaway), err=True)
        click.echo(f"batchcancel sandbox on {running.base_url}")
        await stopped.wait()


def _instructions(options: SandboxOptions, base_url: str, throwaway: ThrowawayKeys | None) -> str:
    """Say how to use the simulator; a secret is shown only if it is the published one."""
    from batchcancel.sandbox import SANDBOX_SECRET  # noqa: PLC0415 - keeps the help quick

    secret = SANDBOX_SECRET if options.secret == SANDBOX_SECRET else "(yours)"
    names: dict[str, object] = {"MERCHANT_ID": options.merchant_id}
    if options.portfolio_id is not None:
        names["PORTFOLIO_ID"] = options.portfolio_id
    with_secret = names | {"KEY_ID": options.key_id, "SHARED_SECRET": secret}
    if throwaway is None or options.keys is None or options.keys.signing is None:
        settings = _settings(with_secret)
    else:
        encryption = {
            "MLE": "both",
            "MLE_CERT_FILE": throwaway.encryption_certificate,
            "MLE_RESPONSE_KEY_FILE": throwaway.response_p12,
            "MLE_RESPONSE_KEY_PASSWORD_FILE": throwaway.password_file,
        }
        certificate = {
            "AUTH": "p12",
            "KEY_ALIAS": options.keys.signing.alias,
            "P12_FILE": throwaway.signing_p12,
            "P12_PASSWORD_FILE": throwaway.password_file,
        }
        if options.require_mle:
            with_secret |= encryption
        with_certificate = names | certificate | encryption
        settings = (
            f"{_settings(with_secret)}\n"
            f"or, to sign with a certificate and encrypt both ways,\n{_settings(with_certificate)}"
        )
    return (
        f"Set\n{settings}\nand run\n  batchcancel run --env sandbox --base-url {base_url} MANIFEST\n"
        "Ctrl-C ends the simulator."
    )


def _settings(values: Mapping[str, object]) -> str:
    return "\n".join(f"  BATCHCANCEL_{name}={value}" for name, value in values.items())


def _throwaway_keys(folder: Path, paths: Mapping[str, Path], credentials: Mapping[str, str]) -> ThrowawayKeys:
    """Find the throwaway keys in a folder, or make them.

    Raises:
        _CannotServeError: They can't be made, or other keys are named as well.
    """
    from batchcancel.sandbox import SANDBOX_MERCHANT_ID  # noqa: PLC0415 - keeps the help quick
    from batchcancel.sandbox.throwaway import keys_in  # noqa: PLC0415 - slow, and seldom needed

    if paths:
        raise _CannotServeError("--make-keys stands for all keys; name no file of a key beside it.")
    signer_id = credentials.get("portfolio_id") or credentials.get("merchant_id") or SANDBOX_MERCHANT_ID
    try:
        return keys_in(folder.absolute(), signer_id)
    except OSError as exc:
        raise _CannotServeError(f"Keys can't be made: {exc.filename}: {exc.strerror}.") from exc


def _keys(paths: Mapping[str, Path], throwaway: ThrowawayKeys | None) -> SandboxKeys | None:
    """Read the simulator's side of all keys; None if there are none.

    Raises:
        _CannotServeError: A file can't be read, or does not hold what it should.
    """
    if not paths and throwaway is None:
        return None
    from batchcancel.sandbox.keys import read_keys  # noqa: PLC0415 - slow, and seldom needed

    try:
        return read_keys(**paths) if throwaway is None else throwaway.read()
    except ValueError as exc:
        raise _CannotServeError(str(exc)) from exc
    except OSError as exc:
        raise _CannotServeError(f"{exc.filename} can't be read: {exc.strerror}.") from exc


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
