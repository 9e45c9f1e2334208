"""Pages of the list, each asked for until it is there.

The rules are those of a look-up, but a page is about no single invoice: what can't be had is an error,
and no row of anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from tenacity import AsyncRetrying, RetryCallState, retry_if_result

from batchcancel.errors import ListRefusedError, ListUnreadableError, TransportError
from batchcancel.model import Event, Listing, Page, Reason, Reply, RequestKind, RetryScheduled, Subject
from batchcancel.retry.back_off import AsDecided
from batchcancel.verdict import Answer, AskKey, PageDecision, Send, Settle, SignAfresh, judge_page

MAX_THROTTLED_S: Final = 300.0
"""How long a page is asked for while nothing but 429 comes."""

_TRANSIENT: Final = frozenset({Reason.NETWORK, Reason.SERVER_ERROR})
_LIST: Final = RequestKind.LIST


class PageLane(Protocol):
    """The paced way to the service; ``pace.Pace`` is the real one."""

    async def send(
        self, kind: RequestKind, subject: Subject, *, on_departure: Callable[[], None]
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


@dataclass(slots=True, kw_only=True, eq=False)
class _Errand:
    """One page on its way. Times are monotonic seconds."""

    page: Page
    sent: list[float] = field(default_factory=list)
    """When each request that counts left."""
    refused_at: float | None = None
    """When this very request was refused, if it was signed afresh since."""
    throttled_since: float | None = None
    """Since when nothing but 429 has come."""
    reply: Reply | None = None
    """The last one, if the last request had one."""


class PageReader:
    """Read pages over one lane, one after the other."""

    def __init__(
        self,
        lane: PageLane,
        *,
        max_attempts: int,
        on_event: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        """Prepare. Needs a running event loop.

        Args:
            lane: The paced way to the service.
            max_attempts: Most requests for a page; those in an outage, 429s and those that were signed
                afresh not counted.
            on_event: Told of retries; must not block.
        """
        self._lane = lane
        self._max_attempts = max_attempts
        self._on_event = on_event
        self._clock = asyncio.get_running_loop().time

    async def read(self, page: Page) -> Listing:
        """Return a page, empty where the service says that it finds no invoices.

        The waits are tenacity's. When the coroutine is cancelled, nothing is left to tell: a page
        changes nothing.

        Raises:
            ListRefusedError: The service does not list this.
            ListUnreadableError: No page came within the attempts.
            SafetyStopError: The key is refused, or an outage lasted too long.
        """
        errand = _Errand(page=page)

        def announce(state: RetryCallState) -> None:
            self._on_event(RetryScheduled(invoice_id=None, kind=_LIST, wait_s=state.upcoming_sleep))

        step: Listing | Settle | Send = await AsyncRetrying(
            sleep=self._lane.sleep,
            wait=AsDecided(),
            retry=retry_if_result(lambda step: isinstance(step, Send)),
            before_sleep=announce,
        )(partial(self._ask, errand))
        if isinstance(step, Listing):
            return step
        assert isinstance(step, Settle)  # noqa: S101 - what the retry condition says, for the types
        raise _failure(step.reason, errand)

    async def _ask(self, errand: _Errand) -> Listing | Settle | Send:
        """Send a request for a page, once more where it has to be signed afresh."""
        while True:
            answer = await self._lane.send(
                _LIST, errand.page, on_departure=lambda: errand.sent.append(self._clock())
            )
            self._take_in(errand, answer)
            decision = self._judge(errand, answer)
            if isinstance(decision, Settle) and decision.reason in _TRANSIENT:
                await self._lane.explain_failures()
                decision = self._judge(errand, answer)
            match decision:
                case SignAfresh():
                    errand.sent.pop()
                    errand.refused_at = self._clock()
                    continue
                case AskKey(then=then):
                    await self._lane.ask_key(since=errand.refused_at or self._clock())
                    decision = then
                case Send(free=True):
                    errand.sent.pop()
            errand.refused_at = None
            return decision

    def _take_in(self, errand: _Errand, answer: Answer) -> None:
        errand.reply = answer if isinstance(answer, Reply) else None
        if errand.reply is None or not errand.reply.is_throttled:
            errand.throttled_since = None
        elif errand.throttled_since is None:
            errand.throttled_since = self._clock()

    def _judge(self, errand: _Errand, answer: Answer) -> PageDecision:
        since = errand.throttled_since
        counted = sum(not self._lane.was_in_outage(at) for at in errand.sent)
        return judge_page(
            answer,
            requests_left=max(0, self._max_attempts - counted),
            signed_afresh=errand.refused_at is not None,
            is_throttled_for_long=since is not None and self._clock() - since > MAX_THROTTLED_S,
        )


def _failure(reason: Reason, errand: _Errand) -> ListRefusedError | ListUnreadableError:
    """Say why there is no page."""
    reply, status = errand.reply, errand.page.status
    if reason is Reason.REFUSED:
        what = "" if status is None else f", or it does not list by the status {status}"
        said = f" It said: {reply.message}" if reply is not None and reply.message else ""
        http_status = "" if reply is None else f" (HTTP {reply.http_status})"
        return ListRefusedError(
            f"The service refuses the list{http_status}: invoicing is not enabled for this merchant"
            f"{what}.{said}"
        )
    last = "no reply" if reply is None else f"HTTP {reply.http_status}"
    return ListUnreadableError(
        f"A page of the list could not be read: the last try ended with {last}. "
        "Say the same command again later."
    )
