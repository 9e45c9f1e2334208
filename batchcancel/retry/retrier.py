"""What is asked next, and when.

``advance`` goes on for as long as nothing has to be waited for: a cancelation and, where its reply
calls for it, the look-up right behind it. ``persist`` takes over an invoice that has to wait, and
lets tenacity wait and ask again until it is settled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from tenacity import AsyncRetrying, RetryCallState, retry_if_result

from batchcancel.errors import RunStoppingError, SafetyStopError, TransportError
from batchcancel.model import (
    Event,
    ManifestRow,
    Reason,
    Reply,
    RequestKind,
    RetryScheduled,
)
from batchcancel.retry.back_off import AsDecided
from batchcancel.retry.case import Case, LeftOpen, Seen, Settled, Step, Waiting
from batchcancel.verdict import (
    Answer,
    AskKey,
    Cancelable,
    Decision,
    Facts,
    Send,
    Settle,
    accept,
    is_transient,
    judge_lookup,
    judge_post,
)

INVOICE_BUDGET_S: Final = 300.0
"""Seconds for one invoice in all; outages, pauses by hand and waits behind others are not counted."""

_TRANSIENT_ERRORS: Final = frozenset({Reason.NETWORK, Reason.SERVER_ERROR, Reason.UNKNOWN})


class Lane(Protocol):
    """The paced way to the service; ``pace.Pace`` is the real one."""

    @property
    def is_stopping(self) -> bool:
        """Whether the run is stopping."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether a request might leave now; otherwise everyone on this lane waits."""
        ...

    async def send(
        self, kind: RequestKind, invoice_id: str, *, on_departure: Callable[[], None]
    ) -> Reply | TransportError:
        """Send one request when its turn has come."""
        ...

    async def ask_key(self, *, since: float) -> None:
        """Return if a refusal was not about the key."""
        ...

    async def explain_failures(self) -> None:
        """Return once the present streak of failures is known to be no outage, or over."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Sleep, but no longer than until the run stops."""
        ...

    def was_in_outage(self, at: float) -> bool:
        """Tell whether a request that left at that time fell into an outage."""
        ...

    def idle_s_since(self, began_at: float) -> float:
        """Return the seconds since that time that were an outage, or paused by hand."""
        ...


class Retrier:
    """Drive invoices to their rows, over one lane and under one set of limits."""

    def __init__(
        self,
        lane: Lane,
        *,
        max_attempts: int,
        ledger_began_at: Callable[[], float] | None,
        looks_only: bool = False,
        on_event: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        """Prepare. Needs a running event loop.

        Args:
            lane: The paced way to the service.
            max_attempts: Most POSTs for an invoice, and most look-ups.
            ledger_began_at: Tells when the ledger's first run began, Unix seconds on the service's clock,
                which is read during the run; tells our cancelations from earlier ones. None if it is not
                known.
            looks_only: Whether invoices are looked up and nothing is canceled.
            on_event: Told of retries; must not block.
        """
        self._lane = lane
        self._max_attempts = max_attempts
        self._ledger_began_at = ledger_began_at
        self._looks_only = looks_only
        self._on_event = on_event
        self._clock = asyncio.get_running_loop().time

    def open_case(self, row: ManifestRow, *, is_in_doubt: bool = False) -> Case:
        """Take an invoice in hand.

        Args:
            row: Its row of the manifest; where it says what the invoice has to be like, a look-up comes
                first.
            is_in_doubt: Whether an earlier run may have canceled it without an answer; a look-up comes
                first then too.
        """
        looks_first = is_in_doubt or row.match or self._looks_only
        first = RequestKind.LOOK_UP if looks_first else RequestKind.CANCEL
        return Case(row=row, next=first, doubted_earlier=is_in_doubt, to_match=row.match)

    async def advance(self, case: Case, *, on_departure: Callable[[Case], None] = lambda _case: None) -> Step:
        """Ask about an invoice until it is settled or has to wait.

        If cancelled, ``abandon`` tells what is known of the invoice.

        Args:
            case: The invoice.
            on_departure: Told whenever a request of it leaves.

        Raises:
            SafetyStopError: What came back means that the run has to stop.
        """
        while True:
            try:
                decision = await self._ask(case, on_departure)
            except RunStoppingError:
                return self.abandon(case)
            if isinstance(decision, Settle | Cancelable):
                return self._ending(case, decision)
            case.next = decision.kind
            if decision.after_s != 0 or not self._lane.is_open:
                return self.abandon(case) if self._lane.is_stopping else Waiting(decision.after_s)

    async def persist(
        self, case: Case, waiting: Waiting, *, ask: Callable[[Case], Awaitable[Step]] | None = None
    ) -> Settled | Seen | LeftOpen:
        """Wait and ask again until an invoice is settled, or the run stops.

        The waits are tenacity's; they end early when the run stops, and then at most a look-up is
        sent. If cancelled, ``abandon`` tells what is known of the invoice.

        Args:
            case: The invoice.
            waiting: What ``advance`` said last.
            ask: Asks about the invoice in the place of ``advance``, which it has to call.

        Raises:
            SafetyStopError: What came back means that the run has to stop.
        """
        steps: list[Step] = [waiting]

        async def next_step() -> Step:
            return steps.pop() if steps else await (ask or self.advance)(case)

        def announce(state: RetryCallState) -> None:
            self._on_event(
                RetryScheduled(invoice_id=case.row.invoice_id, kind=case.next, wait_s=state.upcoming_sleep)
            )

        step: Step = await AsyncRetrying(
            sleep=self._lane.sleep,
            wait=AsDecided(),
            retry=retry_if_result(lambda step: isinstance(step, Waiting)),
            before_sleep=announce,
        )(next_step)
        assert not isinstance(step, Waiting)  # noqa: S101 - what the retry condition says, for the types
        return step

    def abandon(self, case: Case) -> Settled | LeftOpen:
        """Say what is known of an invoice that is not asked about any more.

        Returns:
            An ``unknown`` row where the service may have acted, so that the next run begins with a
            look-up; otherwise nothing, and the next run asks.
        """
        if case.may_have_acted:
            return Settled(case.result(Settle(Reason.UNKNOWN)))
        return LeftOpen()

    def _ending(self, case: Case, decision: Settle | Cancelable) -> Settled | Seen:
        if isinstance(decision, Settle) and not self._looks_only:
            return Settled(case.result(decision))
        return Seen(case.sighting(decision))

    # --- one request --------------------------------------------------------------------------

    async def _ask(self, case: Case, on_departure: Callable[[Case], None]) -> Settle | Send | Cancelable:
        """Send the next request and decide on what comes back."""
        kind = case.next

        def depart() -> None:
            case.depart(kind, self._clock())
            on_departure(case)

        try:
            answer = await self._lane.send(kind, case.row.invoice_id, on_departure=depart)
        except SafetyStopError:
            # Also where it comes from an untrusted certificate, no byte of this request has left.
            case.in_doubt = False
            raise
        if kind is RequestKind.CANCEL and not case.is_canary:
            accepted = accept(answer, case.row.invoice_id)
            if accepted is not None:  # as nearly all are: nothing more has to be known or noted
                case.conclude(answer)
                return accepted
        case.take_in(kind, answer)
        decision = self._judge(case, kind, answer)
        if kind is RequestKind.LOOK_UP and case.reply and case.reply.invoice.status == "PENDING":
            case.pendings += 1
        if isinstance(decision, Settle) and decision.reason in _TRANSIENT_ERRORS and is_transient(answer):
            await self._lane.explain_failures()
            decision = self._judge(case, kind, answer)
        if isinstance(decision, AskKey):
            await self._lane.ask_key(since=case.refused_at or self._clock())
            decision = decision.then
        return case.follow(kind, decision, self._clock())

    def _judge(self, case: Case, kind: RequestKind, answer: Answer) -> Decision:
        judge = judge_post if kind is RequestKind.CANCEL else judge_lookup
        return judge(answer, self._facts(case))

    def _facts(self, case: Case) -> Facts:
        began_at = self._clock() if case.began_at is None else case.began_at
        spent_s = self._clock() - began_at - self._lane.idle_s_since(began_at) - case.held_up_s
        out_of_time = spent_s > INVOICE_BUDGET_S
        return Facts(
            invoice_id=case.row.invoice_id,
            posts_left=0 if out_of_time else self._left(case.posts),
            lookups_left=self._left(case.lookups),
            out_of_time=out_of_time,
            signed_afresh=case.signed_afresh,
            unanswered=case.unanswered,
            doubted_earlier=case.doubted_earlier,
            posted=bool(case.posts),
            refusals=case.refusals,
            refused_last=case.refused_last,
            forbidden=case.forbidden,
            pendings=case.pendings,
            ledger_began_at=None if self._ledger_began_at is None else self._ledger_began_at(),
            is_canary=case.is_canary,
            unconfirmed=case.unconfirmed,
            to_match=case.to_match,
            looks_only=self._looks_only,
        )

    def _left(self, sent: list[float]) -> int:
        """Return how many more may be sent; what fell into an outage is given back."""
        return max(0, self._max_attempts - sum(not self._lane.was_in_outage(at) for at in sent))
