"""One signed read: whether the service knows the key, what its clock says, and whether it is understood."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from batchcancel.api import Client
from batchcancel.api.observation import Observation
from batchcancel.errors import HostUntrustedError, TransportError
from batchcancel.model import Reply, RequestKind
from batchcancel.settings import Auth, Mle, Options
from batchcancel.tasks.doctor.checks import Check, fail, ok, skip, warn

_MOST_OFF_S: Final = 30.0
_SLOW_MS: Final = 5000.0
NAMES: Final = ("signed read", "feature", "clock", "encryption")
"""The checks that are made, in their order."""

_CHECK_PERMISSION: Final = (
    "Check the key's permissions, and that invoicing is enabled for the merchant; a gateway on the way may "
    "refuse this machine's address."
)
_NAME_TO_PROXY: Final = "Write user and password into BATCHCANCEL_PROXY, as http://USER:PASSWORD@HOST:PORT."
_TRY_LATER: Final = (
    "Try again in a while; test hosts do so more often. If it stays so, ask the service's support."
)
_CHECK_HOST: Final = "Check --base-url, and whether a proxy or a sign-in page answers in its stead."


class SignedRead(Struct, frozen=True, kw_only=True):
    """A read that was answered."""

    reply: Reply
    seen: Observation
    offset_s: float | None
    """How far the service's clock is ahead of this machine's, to about a second; None: it did not say."""
    was_refused_first: bool = False
    """Whether the first try, signed by this machine's clock, was a 401."""


class Sightings:
    """Keeps what each reply was like, as the client tells it."""

    def __init__(self) -> None:
        self.all: list[Observation] = []

    def __call__(self, seen: Observation) -> None:
        """Keep one."""
        self.all.append(seen)


async def read_signed(
    client: Client, sightings: Sightings, *, now: Callable[[], float] = time.time
) -> SignedRead | str:
    """Send the signed read; once more after a 401, signed by the service's clock then.

    Args:
        client: What sends it, telling ``sightings``.
        sightings: Of the client.
        now: This machine's clock, Unix seconds.

    Returns:
        What came back, or the sentence about why nothing did.
    """
    was_refused = False
    while True:
        started = now()
        try:
            reply = await client.send(RequestKind.PROBE)
        except HostUntrustedError as exc:
            return str(exc)
        except TransportError as exc:
            return f"There is no reply: {exc}."
        if not sightings.all:
            return f"The proxy answers {reply.http_status}."
        seen, middle = sightings.all[-1], (started + now()) / 2
        if reply.http_status != 401 or was_refused:
            break
        was_refused = True
    return SignedRead(
        reply=reply,
        seen=seen,
        # The header counts whole seconds: half of one is added.
        offset_s=None if seen.dated_at is None else seen.dated_at + 0.5 - middle,
        was_refused_first=was_refused and reply.http_status != 401,
    )


def judge_read(read: SignedRead | str, options: Options) -> list[Check]:
    """Say what a signed read shows. Pure."""
    if isinstance(read, str):
        todo = "Try again; if it stays so, look at proxies and firewalls on the way."
        return [fail("signed read", read, todo), *(skip(name, "there is no reply") for name in NAMES[1:])]
    return [
        _judge_reply(read, options),
        _judge_feature(read.reply, options),
        _judge_clock(read),
        _judge_encryption(read, options),
    ]


def _judge_reply(read: SignedRead, options: Options) -> Check:
    reply, name = read.reply, NAMES[0]
    answered = f"answered {reply.http_status} in {reply.latency_ms:.0f} ms"
    if reply.http_status in {200, 404} and (reply.is_object or read.seen.was_encrypted):
        found = answered if reply.http_status == 200 else f"{answered}: no invoices yet"
        if reply.latency_ms > _SLOW_MS:
            return warn(name, found, "That is slow: mind --timeout, and the time that a run will take.")
        return ok(name, found)
    said = f" It says: {reply.message}" if reply.message else ""
    match reply.http_status:
        case 400:
            check = ok(name, f"{answered}: the key is taken, the request is not")
        case 401:
            check = fail(name, f"{answered}: the signature is refused.{said}", _check_key(read, options))
        case 403:
            check = fail(name, f"{answered}: this key may not read invoices.{said}", _CHECK_PERMISSION)
        case 407:
            check = fail(name, f"{answered}: the proxy wants credentials.", _NAME_TO_PROXY)
        case 429:
            check = warn(name, f"{answered}: too many requests at the moment", "Wait, and run less at once.")
        case status if status >= 500:
            check = fail(name, f"{answered}: the service fails.{said}", _TRY_LATER)
        case _:
            check = fail(name, f"{answered}: that is no word of the invoicing service.", _CHECK_HOST)
    return check


def _check_key(read: SignedRead, options: Options) -> str:
    key = "BATCHCANCEL_KEY_ID and the secret belong together"
    if options.auth is Auth.P12:
        key = "the certificate is registered"
    clock = "The clock is not it: the read was signed by the service's own."
    if read.offset_s is None:
        clock = "It may be this machine's clock too: the service did not say what its own is."
    return (
        f"Check that {key}, for BATCHCANCEL_MERCHANT_ID, that the key is active and of this environment "
        "(test and production have keys of their own), and BATCHCANCEL_PORTFOLIO_ID if it is a meta key. "
        f"{clock}"
    )


def _judge_feature(reply: Reply, options: Options) -> Check:
    name = NAMES[1]
    if reply.http_status in {200, 404} and reply.is_object:
        return ok(name, "invoicing is enabled")
    if reply.http_status != 400:
        return skip(name, "the signed read does not tell")
    said = f" It says: {reply.message}" if reply.message else ""
    hint = (
        " The service may also want encrypted messages: see BATCHCANCEL_MLE."
        if options.mle is Mle.OFF
        else ""
    )
    # 400 on a read is documented as "Invoicing service is not enabled".
    return fail(
        name,
        f"The service refuses a plain list of invoices: invoicing is probably not enabled.{said}",
        f"Have it enabled for the merchant, or for the portfolio, in the Business Center.{hint}",
    )


def _judge_clock(read: SignedRead) -> Check:
    name = NAMES[2]
    if read.offset_s is None:
        return warn(
            name,
            "The reply has no Date that can be read: requests are dated by this machine's clock.",
            "Keep it right by NTP.",
        )
    direction = "behind" if read.offset_s > 0 else "ahead of"
    off = f"this machine is {abs(read.offset_s):.0f} s {direction} the service"
    if abs(read.offset_s) <= _MOST_OFF_S:
        return ok(name, off if abs(read.offset_s) >= 2 else "right, to two seconds")
    found = f"{off}; requests are dated by the service's clock, so a run works"
    if read.was_refused_first:
        found = f"{off}; signed by this machine's clock the read was refused, by the service's it was not"
    return warn(name, found, "Set it by NTP: times in ledgers and logs are this machine's.")


def _judge_encryption(read: SignedRead, options: Options) -> Check:
    name = NAMES[3]
    came = "the reply came encrypted" if read.seen.was_encrypted else "the reply came plain"
    if options.mle is Mle.OFF:
        if read.seen.was_encrypted:
            return fail(name, f"off, and {came}.", "Set BATCHCANCEL_MLE and its keys.")
        return ok(name, "off; the service has announced to require it by March 2027")
    if options.mle is Mle.REQUEST:
        return ok(name, f"requests: the certificate is there, and a read has nothing to encrypt; {came}")
    if read.seen.was_encrypted and not read.reply.is_object:
        return fail(
            name,
            f"{came} and can't be decrypted.",
            "Check BATCHCANCEL_MLE_RESPONSE_KEY_FILE and _KEY_ID; with a meta key it is the portfolio's key.",
        )
    if read.seen.was_encrypted:
        return ok(name, f"{came} and was decrypted")
    return warn(
        name, f"{came} although an encrypted one was asked for", "Check that the response key is active."
    )
