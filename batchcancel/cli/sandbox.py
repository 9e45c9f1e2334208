"""The command `batchcancel sandbox`: serve the simulator until it is told to stop."""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from batchcancel.cli import say
from batchcancel.cli.help import TaskCommand
from batchcancel.cli.sandbox_flags import add_flags

if TYPE_CHECKING:
    from batchcancel.sandbox import SandboxOptions
    from batchcancel.sandbox.keys import SandboxKeys
    from batchcancel.sandbox.throwaway import ThrowawayKeys

_KEY_FILES: Final = {
    "certificate": "signing",
    "mle_key": "encryption",
    "response_mle_certificate": "response",
}
"""Flags that name a PEM file, and what the simulator calls the key in it."""


class _CannotServeError(click.ClickException):
    """The simulator can't start; nothing was served."""

    exit_code = 2


@click.command(
    name="sandbox",
    cls=TaskCommand,
    examples=[
        ("Serve it, and see which variables a run needs", "batchcancel sandbox"),
        (
            "A slow service that takes ten requests a second and loses some replies",
            "batchcancel sandbox --latency-ms 80 --rate-limit 10 --reset-after-share 0.02",
        ),
        ("Down for half a minute", "batchcancel sandbox --outage 5 30"),
        ("With certificates and encryption", "batchcancel sandbox --make-keys keys --require-mle"),
    ],
)
@add_flags
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
        say(f"Warning: {host} is not loopback; whoever reaches this port can use it.", fg="yellow")
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
