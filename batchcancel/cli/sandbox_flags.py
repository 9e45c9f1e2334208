"""The flags of ``batchcancel sandbox``, by what they are for.

Flags that are not given are left to ``SandboxOptions``, which alone knows the defaults; it is not imported
here, so that the help comes without the web server's import time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from batchcancel.cli.help import flag
from batchcancel.cli.mistakes import Word

_Command = TypeVar("_Command", bound=Callable[..., Any])

_SHARE: Final = click.FloatRange(0, 1)
_FROM_ZERO: Final = click.FloatRange(min=0)
_FILE: Final = click.Path(dir_okay=False, path_type=Path)

_LISTEN: Final = "Where it listens, and what it writes down"
_SPEED: Final = "How slow it is"
_RATE: Final = "Its rate limit"
_FAULTS: Final = "What goes wrong"
_KEYS: Final = "Merchants, certificates and encryption"

_FLAGS: Final = (
    flag(
        "--host",
        task=_LISTEN,
        metavar="ADDRESS",
        default="127.0.0.1",
        show_default=True,
        help="address to listen on",
    ),
    flag(
        "--port",
        task=_LISTEN,
        type=click.IntRange(0, 65535),
        metavar="N",
        default=8080,
        show_default=True,
        help="0: a free one",
    ),
    flag(
        "--invoices",
        task=_LISTEN,
        type=click.IntRange(0, 1_000_000),
        metavar="N",
        help="begin with so many made-up invoices of every kind, for 'batchcancel list' (default: 0)",
    ),
    flag("--seed", task=_LISTEN, type=int, metavar="N", help="what chance is drawn from (default: 0)"),
    flag("--log", task=_LISTEN, type=_FILE, metavar="FILE", help="append a JSON line a request"),
    flag(
        "--latency-ms",
        task=_SPEED,
        type=_FROM_ZERO,
        metavar="MS",
        help="how long every reply waits (default: 0)",
    ),
    flag(
        "--jitter-ms",
        task=_SPEED,
        type=_FROM_ZERO,
        metavar="MS",
        help="how much longer at most, evenly spread (default: 0)",
    ),
    flag(
        "--slow-share",
        task=_SPEED,
        type=_SHARE,
        metavar="SHARE",
        help="share of replies that are slow, 0 to 1",
    ),
    flag(
        "--slow-ms",
        task=_SPEED,
        type=_FROM_ZERO,
        metavar="MS",
        help="how slow those, and SLOW- invoices, are (default: 2000)",
    ),
    flag(
        "--rate-limit",
        task=_RATE,
        type=click.FloatRange(min=0, min_open=True),
        metavar="N",
        help="requests a second before 429",
    ),
    flag(
        "--rate-limit-kind",
        task=_RATE,
        type=Word(["sliding", "fixed", "bucket"]),
        help="any second, each second by the clock, or a token bucket of one second (default: sliding)",
    ),
    flag(
        "--rate-change",
        task=_RATE,
        type=(_FROM_ZERO, click.FloatRange(min=0, min_open=True)),
        metavar="AT_S LIMIT",
        help="change the rate limit to LIMIT, AT_S seconds after the first request",
    ),
    flag(
        "--retry-after-s",
        task=_RATE,
        type=click.IntRange(min=0),
        metavar="S",
        help="Retry-After of every 429 (default: 1)",
    ),
    flag("--no-retry-after", task=_RATE, is_flag=True, help="leave Retry-After out"),
    flag(
        "--error-share", task=_FAULTS, type=_SHARE, metavar="SHARE", help="share of requests that get a 500"
    ),
    flag(
        "--html-share",
        task=_FAULTS,
        type=_SHARE,
        metavar="SHARE",
        help="share that get 200 with an HTML page; nothing is done",
    ),
    flag(
        "--reset-before-share",
        task=_FAULTS,
        type=_SHARE,
        metavar="SHARE",
        help="share reset before anything is done",
    ),
    flag(
        "--reset-after-share",
        task=_FAULTS,
        type=_SHARE,
        metavar="SHARE",
        help="share reset after it was done",
    ),
    flag(
        "--truncate-share",
        task=_FAULTS,
        type=_SHARE,
        metavar="SHARE",
        help="share done, with a reply that is cut short",
    ),
    flag(
        "--outage",
        task=_FAULTS,
        type=(_FROM_ZERO, _FROM_ZERO),
        metavar="START LENGTH",
        help="answer 503 for LENGTH seconds, START seconds after the first request",
    ),
    flag(
        "--clock-offset-s",
        task=_FAULTS,
        type=float,
        metavar="S",
        help="how far its clock is ahead (default: 0)",
    ),
    flag(
        "--clock-skew-s",
        task=_FAULTS,
        type=_FROM_ZERO,
        metavar="S",
        help="how far a request's date may be off (default: 300)",
    ),
    flag(
        "--merchant",
        "merchants",
        task=_KEYS,
        multiple=True,
        metavar="ID",
        help="one more merchant of the portfolio; may be repeated",
    ),
    flag(
        "--certificate",
        task=_KEYS,
        type=_FILE,
        metavar="FILE",
        help="whose key signs tokens (RS256): a certificate, PEM",
    ),
    flag(
        "--mle-key",
        task=_KEYS,
        type=_FILE,
        metavar="FILE",
        help="decrypts requests: certificate and private key, PEM",
    ),
    flag(
        "--response-mle-certificate",
        task=_KEYS,
        type=_FILE,
        metavar="FILE",
        help="replies are encrypted for it: PEM",
    ),
    flag(
        "--make-keys",
        task=_KEYS,
        type=click.Path(file_okay=False, path_type=Path),
        metavar="FOLDER",
        help="serve with the throwaway keys in this folder; make them first if it has none",
    ),
    flag("--require-mle", task=_KEYS, is_flag=True, help="refuse bodies that are not encrypted with 400"),
    flag(
        "--plain-status",
        "plain_statuses",
        task=_KEYS,
        type=click.IntRange(200, 599),
        metavar="STATUS",
        multiple=True,
        help="never encrypt replies with this status; may be repeated",
    ),
)


def add_flags(command: _Command) -> _Command:
    """Add every flag to the command, in the order of the table."""
    for add in reversed(_FLAGS):
        command = add(command)
    return command
