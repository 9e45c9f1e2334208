"""The invoices that a live check makes, and how it takes them back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final

from msgspec import Struct

from batchcancel.api import Client
from batchcancel.errors import HostUntrustedError, TransportError
from batchcancel.manifest.ids import is_valid_id
from batchcancel.model import Reply, RequestKind

_WAITS_S: Final = (0.0, 1.0, 3.0)
"""Before each try to take an invoice back, at least."""
_LONGEST_WAIT_S: Final = 30.0

Sleep = Callable[[float], Awaitable[None]]


class State(StrEnum):
    """What has become of an invoice."""

    UNSURE = "unsure"
    """It was to be created, and nothing says whether it was."""
    MADE = "made"
    CANCELED = "canceled"
    ABSENT = "absent"
    """It was never made."""
    LEFT = "left"
    """It is there, or may be, and could not be canceled."""


class Made(Struct, kw_only=True):
    """An invoice that was to be created."""

    number: str
    service_id: str | None = None
    """What the service calls it, where that may be sent and differs from the number."""
    state: State = State.UNSURE

    @property
    def id(self) -> str:
        """What it is asked for by."""
        return self.service_id or self.number

    def note_creation(self, reply: Reply) -> None:
        """Take in the reply to its creation."""
        if reply.is_client_error:
            self.state = State.ABSENT
        elif reply.is_success:
            self.state = State.MADE
            named = reply.invoice.id
            if named is not None and named != self.number and is_valid_id(named):
                self.service_id = named

    def note_look_up(self, reply: Reply | None) -> bool:
        """Take in what a look-up says of it; return whether it is canceled."""
        if reply is not None and reply.is_success and reply.invoice.status == "CANCELED":
            self.state = State.CANCELED
            return True
        return False


async def take_back(client: Client, made: Made, *, sleep: Sleep) -> None:
    """Cancel an invoice and see by a look-up that it is; three tries. Afterwards its state is settled.

    Args:
        client: What sends the requests.
        made: The invoice.
        sleep: Waits so many seconds.
    """
    was_missing, asked_to_wait_s = False, 0.0
    for wait_s in _WAITS_S:
        await sleep(min(max(wait_s, asked_to_wait_s), _LONGEST_WAIT_S))
        look_up = await _sent(client, RequestKind.LOOK_UP, made.id)
        if made.note_look_up(look_up):
            return
        if look_up is not None and look_up.http_status == 404 and made.state is State.UNSURE:
            # Asked twice: its creation may have been under way still.
            if was_missing:
                made.state = State.ABSENT
                return
            was_missing = True
            continue
        canceled = await _sent(client, RequestKind.CANCEL, made.id)
        look_up = await _sent(client, RequestKind.LOOK_UP, made.id)
        if made.note_look_up(look_up):
            return
        replies = [reply for reply in (canceled, look_up) if reply is not None]
        asked_to_wait_s = max((reply.retry_after_s or 0.0 for reply in replies), default=0.0)
    made.state = State.LEFT


async def _sent(client: Client, kind: RequestKind, invoice_id: str) -> Reply | None:
    try:
        return await client.send(kind, invoice_id)
    except (TransportError, HostUntrustedError):
        return None
