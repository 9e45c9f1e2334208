"""What the requests of a live check brought, for facts to be judged by."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct

from batchcancel.api.observation import Observation
from batchcancel.model import Reply

_SHOWN_FIELDS: Final = 12
LISTED: Final = frozenset({"DRAFT", "CREATED", "SENT", "PARTIAL", "PAID", "CANCELED", "PENDING"})
"""The statuses that the service documents."""


class Step(StrEnum):
    """A request of the live check; each is made once."""

    CREATE_PLAIN = "create"
    CREATE_ZEROS = "create, number with leading zeros"
    CREATE_MARKS = "create, number with . _ -"
    CREATE_SPARE = "create, in place of that number"
    READ_NEW = "read the new invoice"
    LIST_NEW = "list, first page"
    CANCEL = "cancel"
    CANCEL_AGAIN = "cancel again"
    READ_CANCELED = "read the canceled invoice"
    READ_ZEROS = "read, id with leading zeros"
    READ_MARKS = "read, id with . _ -"
    READ_UNKNOWN = "read an unknown id"
    LIST_CANCELED = "list, status CANCELED"
    LIST_LONGEST = "list, limit 1000"
    LIST_PAST_END = "list, past the end"


class Exchange(Struct, frozen=True, kw_only=True):
    """A request that was answered."""

    asked_for: str | None
    """The invoice's number or id, if it was about one."""
    reply: Reply
    seen: Observation

    @property
    def is_answer(self) -> bool:
        """Whether it shows how the service is; a failure, a limit or a refused key does not."""
        return not (self.reply.is_server_error or self.reply.is_throttled or self.reply.doubts_key)

    @property
    def names_it(self) -> bool:
        """Whether the reply names the invoice that was asked for."""
        return self.asked_for in {self.reply.invoice.id, self.reply.invoice.number}

    @property
    def summary(self) -> str:
        """The HTTP status, and the invoice's if it is one of those that are listed."""
        status = self.reply.invoice.status
        if status is None:
            return str(self.reply.http_status)
        return f"{self.reply.http_status} {status if status in LISTED else '(another status)'}"

    @property
    def shape(self) -> str:
        """The HTTP status, and the body's names and types."""
        if not self.reply.is_object:
            return f"{self.reply.http_status}, no JSON object"
        fields = [f"{path}: {kind}" for path, kind in self.seen.shape.items()]
        more = f", and {len(fields) - _SHOWN_FIELDS} more" if len(fields) > _SHOWN_FIELDS else ""
        return f"{self.reply.http_status} {{{', '.join(fields[:_SHOWN_FIELDS])}{more}}}"


class Evidence(Struct, kw_only=True):
    """Everything that came back."""

    exchanges: dict[Step, Exchange] = {}
    """Those that were answered; one that had to wait after a 429 stands as it was answered last."""
    observations: list[Observation] = []
    """Of every reply, in order."""
    wants_encrypted: bool = False
    """Whether encrypted replies were asked for."""
    cancel_at: float | None = None
    """When the first cancelation left, Unix seconds on the service's clock."""

    def answer_to(self, *steps: Step) -> Exchange | None:
        """Return the first of some requests that the service itself answered; None if it answered none."""
        found = (self.exchanges.get(step) for step in steps)
        return next((one for one in found if one is not None and one.is_answer), None)

    def lack_of(self, step: Step) -> str:
        """Say why there is no answer to a request."""
        exchange = self.exchanges.get(step)
        return f"{step}: {'no reply' if exchange is None else exchange.reply.http_status}"
