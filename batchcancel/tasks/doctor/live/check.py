"""The live check: create, read, cancel, cancel again, list; and take back whatever was made."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from batchcancel.api import Client
from batchcancel.errors import HostUntrustedError, TransportError
from batchcancel.model import NewInvoice, Page, Reply, RequestKind, Subject
from batchcancel.tasks.doctor.live.evidence import Evidence, Exchange, Step
from batchcancel.tasks.doctor.live.facts import Judged, Verdict, judge
from batchcancel.tasks.doctor.live.made import Made, Sleep, State, take_back
from batchcancel.tasks.doctor.service import Sightings

_AMOUNT: Final = "1.00"
_CURRENCY: Final = "USD"
_DUE_IN: Final = timedelta(days=30)
_DESCRIPTION: Final = "batchcancel live check, canceled at its end"
_MOST_WAITS: Final = 2
"""How often a request that gets a 429 is sent again."""
_LONGEST_WAIT_S: Final = 30.0
_TAKE_BACK_S: Final = 60.0
"""How long canceling what was created may take in all."""
_SHORT_PAGE: Final = 10
_LONG_PAGE: Final = 1000


class LiveCheck:
    """One live check against a test host or loopback; the caller has made sure that it is one.

    Args:
        client: What sends the requests, telling ``sightings``.
        sightings: Of the client.
        now: The service's clock, Unix seconds.
        makes_up_invoices: Whether the service makes up an invoice for any id but ``MISSING-...``, as the
            simulator does.
        wants_encrypted: Whether encrypted replies are asked for.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        client: Client,
        sightings: Sightings,
        *,
        now: Callable[[], float],
        makes_up_invoices: bool,
        wants_encrypted: bool,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.made: list[Made] = []
        self.problem: str | None = None
        """Why it could not be made; None if it was."""
        self._client = client
        self._sightings = sightings
        self._now = now
        self._unknown_id = f"{'MISSING-' if makes_up_invoices else 'BC'}{secrets.token_hex(6).upper()}"
        self._sleep = sleep
        self._evidence = Evidence(wants_encrypted=wants_encrypted)

    @property
    def facts(self) -> tuple[Judged, ...]:
        """Every fact, judged by what has come back so far."""
        self._evidence.observations = self._sightings.all
        return judge(self._evidence)

    @property
    def requests(self) -> int:
        """Replies that came, the signed read's and those to taking invoices back included."""
        return len(self._sightings.all)

    @property
    def left(self) -> list[Made]:
        """The invoices that are there, or may be, and are not canceled."""
        return [one for one in self.made if one.state not in {State.CANCELED, State.ABSENT}]

    @property
    def is_as_assumed(self) -> bool:
        """Whether it was made, took back everything, and showed no fact to be wrong."""
        is_refuted = any(one.verdict is Verdict.DID_NOT_HOLD for one in self.facts)
        return self.problem is None and not self.left and not is_refuted

    async def run(self) -> None:
        """Make the check, and cancel whatever it has created; that too when it fails or is cancelled.

        That takes a minute at most. Where it is not enough, or when it is cancelled once more, ``left`` tells
        what is there.
        """
        try:
            await self._create()
            if any(one.state is State.MADE for one in self.made):
                await self._cancel_and_read(next(one for one in self.made if one.state is State.MADE))
                await self._list()
            else:
                self.problem = self._why_nothing_was_made()
        finally:
            with suppress(TimeoutError):  # what is left then is told
                async with asyncio.timeout(_TAKE_BACK_S):
                    for one in self.left:
                        await take_back(self._client, one, sleep=self._sleep)

    async def _create(self) -> None:
        """Create three invoices, whose numbers have three forms."""
        await self._create_one(Step.CREATE_PLAIN, f"BC{secrets.token_hex(6).upper()}")
        await self._create_one(Step.CREATE_ZEROS, f"00{secrets.randbelow(10**12):012d}")
        marks = await self._create_one(Step.CREATE_MARKS, f"BC-{secrets.token_hex(4).upper()}.x_1")
        if marks.state is State.ABSENT:
            await self._create_one(Step.CREATE_SPARE, f"BC{secrets.token_hex(6).upper()}")

    async def _create_one(self, step: Step, number: str) -> Made:
        due = datetime.fromtimestamp(self._now(), UTC).date() + _DUE_IN
        wanted = NewInvoice(
            number=number,
            amount=_AMOUNT,
            currency=_CURRENCY,
            due_date=due.isoformat(),
            description=_DESCRIPTION,
        )
        made = Made(number=number)
        self.made.append(made)  # first: it may exist without a reply
        reply = await self._ask(step, RequestKind.CREATE, wanted, asked_for=number)
        if reply is not None:
            made.note_creation(reply)
        return made

    async def _cancel_and_read(self, first: Made) -> None:
        await self._ask(Step.READ_NEW, RequestKind.LOOK_UP, first.number)
        page = Page(offset=0, limit=_SHORT_PAGE)
        await self._ask(Step.LIST_NEW, RequestKind.LIST, page)
        self._evidence.cancel_at = self._now()
        await self._ask(Step.CANCEL, RequestKind.CANCEL, first.id)
        await self._ask(Step.CANCEL_AGAIN, RequestKind.CANCEL, first.id)
        reply = await self._ask(Step.READ_CANCELED, RequestKind.LOOK_UP, first.id)
        first.note_look_up(reply)
        for create, read in ((Step.CREATE_ZEROS, Step.READ_ZEROS), (Step.CREATE_MARKS, Step.READ_MARKS)):
            created = self._evidence.exchanges.get(create)
            if created is not None and created.reply.is_success:
                await self._ask(read, RequestKind.LOOK_UP, created.asked_for)
        await self._ask(Step.READ_UNKNOWN, RequestKind.LOOK_UP, self._unknown_id)

    async def _list(self) -> None:
        page = Page(offset=0, limit=_SHORT_PAGE, status="CANCELED")
        await self._ask(Step.LIST_CANCELED, RequestKind.LIST, page)
        await self._ask(Step.LIST_LONGEST, RequestKind.LIST, Page(offset=0, limit=_LONG_PAGE))
        exchange = self._evidence.exchanges.get(Step.LIST_NEW)
        listing = None if exchange is None else exchange.reply.listing
        if listing is not None and listing.total is not None:
            beyond = Page(offset=listing.total + _LONG_PAGE, limit=_SHORT_PAGE)
            await self._ask(Step.LIST_PAST_END, RequestKind.LIST, beyond)

    async def _ask(
        self, step: Step, kind: RequestKind, subject: Subject, *, asked_for: str | None = None
    ) -> Reply | None:
        """Send a request and keep what came back; wait and send it again after a 429.

        Returns:
            The reply; None if there was none.
        """
        for tries_left in range(_MOST_WAITS, -1, -1):
            seen_before = len(self._sightings.all)
            try:
                reply = await self._client.send(kind, subject)
            except (TransportError, HostUntrustedError):
                return None
            if len(self._sightings.all) == seen_before:  # a proxy's own word
                return None
            if not (reply.is_throttled and tries_left):
                break
            await self._sleep(min(reply.retry_after_s or 1.0, _LONGEST_WAIT_S))
        self._evidence.exchanges[step] = Exchange(
            asked_for=asked_for or (subject if isinstance(subject, str) else None),
            reply=reply,
            seen=self._sightings.all[-1],
        )
        return reply

    def _why_nothing_was_made(self) -> str:
        exchange = self._evidence.exchanges.get(Step.CREATE_PLAIN)
        if exchange is None:
            return "No invoice could be created: there is no reply."
        said = f" It says: {exchange.reply.message}" if exchange.reply.message else ""
        return f"No invoice could be created: {exchange.shape}.{said}"
