"""How Temporal is reached, and what to mend if it is not."""

from __future__ import annotations

import asyncio
import logging
import re
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode, TLSConfig

from batchcancel.cluster.converter import DATA_CONVERTER
from batchcancel.cluster.messages import Account
from batchcancel.errors import EngineError, SettingsError
from batchcancel.settings import Settings
from batchcancel.settings.engine import EngineOptions

JOB_PREFIX: Final = "batchcancel/"
"""How the names of all our workflows begin."""
_CONNECT_S: Final = 10.0
REFUSED: Final = frozenset({RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED})
"""What a server says that does not let us in."""
_STATUS: Final = re.compile(r"Status \{ code: (\w+),")
_REFUSED_WORDS: Final = frozenset({"PermissionDenied", "Unauthenticated"})
_NO_PEM: Final = ("ParseError", "KeyMismatch", "NoCertificatesPresented")
_HUNG_UP: Final = ("transport error", "connection closed")
"""The same, as the SDK writes them into its error when the first call of a connection fails."""


async def connect(options: EngineOptions) -> Client:
    """Connect, and make sure that the namespace is there.

    Raises:
        EngineError: The server can't be reached, refuses us, or has no such namespace.
        SettingsError: A file of certificates or keys can't be read.
    """
    tls = _tls(options)
    try:
        async with asyncio.timeout(_CONNECT_S):
            client = await Client.connect(
                options.address,
                namespace=options.namespace,
                data_converter=DATA_CONVERTER,
                tls=tls,
                runtime=_runtime(),
                api_key=None if options.api_key is None else options.api_key.reveal().decode(),
            )
            await client.workflow_service.describe_namespace(
                DescribeNamespaceRequest(namespace=options.namespace)
            )
    except RPCError as exc:
        raise _explained(exc.status, options) from None
    except RuntimeError as exc:  # its words may quote what it was given, and are not passed on
        raise _translated(str(exc), options) from None
    except (TimeoutError, ValueError):
        raise unreachable(options) from None
    return client


def account_of(settings: Settings, *, merchant_id: str) -> Account:
    """Return whose quota a job uses.

    Raises:
        SettingsError: The simulator inside a process can't be called by others.
    """
    if settings.base_url is None:
        raise SettingsError(
            "Many hosts need one service: name the simulator's address with --base-url, as "
            "'batchcancel sandbox' prints it. The simulator inside a process is that process's alone."
        )
    return Account(
        env=settings.environment.value, host=urlsplit(settings.base_url).netloc, merchant_id=merchant_id
    )


def shard_queue_of(account: Account, options: EngineOptions) -> str:
    """Return the queue of the workers that can work for an account."""
    return options.task_queue or f"batchcancel-shards/{account}"


def workflow_id_of(account: Account) -> str:
    """Return the name under which there is one job at a time."""
    return f"{JOB_PREFIX}{account}"


@cache
def _runtime() -> Runtime:
    """Return a runtime of the SDK that writes nothing: by itself it logs to standard output."""
    logging.getLogger("temporalio").setLevel(logging.ERROR)  # warnings tell of failures that we tell of
    return Runtime(telemetry=TelemetryConfig(logging=None))


def _tls(options: EngineOptions) -> bool | TLSConfig:
    if options.tls_ca is None and options.tls_cert is None:
        return options.tls or options.api_key is not None
    return TLSConfig(
        server_root_ca_cert=_read(options.tls_ca),
        client_cert=_read(options.tls_cert),
        client_private_key=_read(options.tls_key),
    )


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as exc:
        raise SettingsError(f"{path} can't be read: {exc.strerror}.") from None


def unreachable(options: EngineOptions) -> EngineError:
    """Return the error that says so."""
    return EngineError(
        f"Temporal can't be reached at {options.address}. Look whether the server runs there, and at "
        "--address and --tls. Nothing was sent."
    )


def _explained(status: RPCStatusCode, options: EngineOptions) -> EngineError:
    if status is RPCStatusCode.NOT_FOUND:
        return EngineError(
            f"Temporal at {options.address} has no namespace {options.namespace!r}. Name another one with "
            "--namespace, or have it made: temporal operator namespace create."
        )
    return lost(status, options)


def lost(status: RPCStatusCode, options: EngineOptions) -> EngineError:
    """Return the error that says why Temporal can't be asked any more, though it could."""
    return refused(options) if status in REFUSED else unreachable(options)


def refused(options: EngineOptions) -> EngineError:
    """Return the error that says that we are not let in."""
    return EngineError(
        f"Temporal at {options.address} refuses this client for the namespace {options.namespace!r}. "
        "Look at the API key (BATCHCANCEL_TEMPORAL_API_KEY or its file) or at --tls-cert."
    )


def _translated(words: str, options: EngineOptions) -> EngineError:
    """Return what the SDK's words about a failed connection mean for who has to mend it.

    It has no other way to tell. What is not known by its words is a server that can't be reached.
    """
    status = _STATUS.search(words)
    if status is not None and status[1] in _REFUSED_WORDS:
        return refused(options)
    if "InvalidCertificate(NotValidForName" in words:
        why = "shows a certificate for another name. Use the name that it is for in --address."
    elif "InvalidCertificate(Expired" in words:
        why = "shows a certificate that has expired."
    elif "InvalidCertificate(" in words:
        why = "shows a certificate that is not trusted. Name the root that signed it with --tls-ca."
    elif "InvalidMessage(" in words:
        why = "does not speak TLS. Leave out --tls and certificates, and an API key, which needs it."
    elif any(mark in words for mark in _NO_PEM):
        why = "was not called: --tls-cert and --tls-key are no certificate and its key, in PEM."
    elif any(mark in words for mark in _HUNG_UP):
        why = f"hangs up. {_what_it_may_want(options)}"
    else:
        return unreachable(options)
    return EngineError(f"Temporal at {options.address} {why} Nothing was sent.")


def _what_it_may_want(options: EngineOptions) -> str:
    if options.tls_cert is not None:
        return "It may not take the certificate of --tls-cert."
    if options.tls or options.tls_ca is not None or options.api_key is not None:
        return "It may want a certificate: --tls-cert and --tls-key."
    return "It may want TLS: --tls, or --tls-ca with its root."
