"""The paced way to the service: every request for a merchant goes through one ``Pace``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from batchcancel.errors import (
    CredentialsRefusedError,
    OutageTooLongError,
    RunStoppingError,
    TransportError,
)
from batchcancel.model import Event, PauseCause, Reply, RequestKind, Subject
from batchcancel.pace.gate import Gate
from batchcancel.pace.health import STREAK_FAILURES, Health
from batchcancel.pace.quota import Quota

Transport = Callable[[RequestKind, Subject], Awaitable[Reply]]

_KEY_READS_AFTER_S: Final = (0.0, 5.0, 10.0)
"""Waits before the signed reads: they go out at 0, 5 and 15 seconds."""
_PROBE_BACK_OFF_S: Final = 30.0


class Pace:
    """Decide when a request may leave, and hold everyone back where one reply concerns all.

    At most as many requests are in flight as there are slots, and no more leave in a second than the
    quota allows, whatever their kind. A 429 makes everyone wait who shares the quota; a key in doubt and
    an outage make all of this lane wait (design section 6). Several merchants have a lane each: what
    one's replies say of its key and its health concerns no other.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        slots: asyncio.Semaphore,
        quota: Quota,
        max_outage_s: float,
        on_event: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        """Prepare; nothing is sent. Needs a running event loop.

        Args:
            transport: Sends one request and returns its reply, or raises ``TransportError``.
            slots: One for each request that may be in flight; other lanes may share them.
            quota: When a request may leave; other lanes may share it.
            max_outage_s: How long the lack of a good reply is endured.
            on_event: Told of pauses; must not block.
        """
        self._transport = transport
        self._clock = asyncio.get_running_loop().time
        self._slots = slots
        self.quota: Final = quota
        """When a request may leave; other lanes may share it."""
        self.in_flight = 0
        """Requests of every kind that have left and not come back."""
        self._max_outage_s = max_outage_s
        self._gate = Gate(quota, on_event)
        self._health = Health(self._clock())
        self._good = asyncio.Event()
        self._too_long: OutageTooLongError | None = None
        self._key_refused: CredentialsRefusedError | None = None
        self._asking_key = asyncio.Lock()
        self._deciding = asyncio.Lock()
        self.unfinished: Callable[[], int] = lambda: STREAK_FAILURES
        """How many invoices the run still has in hand; set by whoever knows."""

    @property
    def is_stopping(self) -> bool:
        """Whether the run is stopping: no new cancelation leaves."""
        return self._gate.is_stopping

    @property
    def is_open(self) -> bool:
        """Whether a request might leave now, if its turn came."""
        return self._gate.is_open and not self._health.is_long_streak

    @property
    def held_by(self) -> PauseCause | None:
        """Why no request may leave now; None if one may, if its turn came."""
        return self._gate.held_by

    async def wait_open(self) -> None:
        """Return once a request might leave.

        In the middle of a long streak of failures none does: each would be one more in doubt, and keep
        others from the service, until it is known what the streak means.

        Raises:
            OutageTooLongError: The streak was an outage, and it lasted too long.
            RunStoppingError: The run is stopping and everyone waits.
        """
        if self._health.is_long_streak:
            await self.sleep(self._health.streak_is_due_in_s(self._clock()))
            if self._health.is_long_streak:
                await self._decide_streak()
        await self._gate.wait_open()

    def stop(self) -> None:
        """Let no new cancelation leave; look-ups still do, unless everyone is made to wait."""
        self._gate.stop()
        self._good.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep for that long, but no longer than until the run stops."""
        await self._gate.sleep(seconds)

    def was_in_outage(self, at: float) -> bool:
        """Tell whether a request that left at that time (monotonic seconds) fell into an outage."""
        return self._health.was_in_outage(at)

    def idle_s_since(self, began_at: float) -> float:
        """Return the seconds since that time (monotonic) that were an outage, or paused by hand."""
        return self._health.idle_s_since(began_at, self._clock())

    def pause(self) -> None:
        """Let nothing leave, not even a signed read, until ``resume``; what is in flight comes back.

        That time counts against no invoice and no outage.
        """
        self._health.note_pause(self._clock())
        self._gate.pause()

    def resume(self) -> None:
        """End what ``pause`` has begun."""
        self._health.note_resumption(self._clock())
        self._gate.resume()

    async def send(
        self,
        kind: RequestKind,
        subject: Subject,
        *,
        on_departure: Callable[[], None] = lambda: None,
    ) -> Reply | TransportError:
        """Send one request when its turn has come, and learn from what came back.

        Args:
            kind: What to ask.
            subject: What it is about.
            on_departure: Called just before the request leaves; not called if it never does.

        Returns:
            The reply, or the failure that stands in its place.

        Raises:
            RunStoppingError: It was not sent: the run is stopping, and this is a cancelation or would
                have to wait.
            SafetyStopError: It was not sent: what came back for others means that the run has to stop.
        """
        await self._take_slot(kind)
        try:
            on_departure()
            sent_at = self._clock()
            answer = await self._ask(kind, subject)
        finally:
            self._slots.release()
        self._learn(answer, sent_at)
        return answer

    async def greet(self) -> None:
        """Make sure, by one signed read, that the service is there and takes the key.

        Any reply but 401, 403 or 407 is enough, even an error; those are signed afresh once, since the first
        reply has set the clock. No reply is an outage and is ridden out.

        Raises:
            CredentialsRefusedError: The key was refused twice.
            OutageTooLongError: No reply came within the time for outages, or another lane that shares the
                quota was asked to wait longer than that.
            RunStoppingError: The run was stopped meanwhile; a read in flight is dropped, for it changes
                nothing.
        """
        if self.is_stopping:
            raise RunStoppingError("the run is stopping before it has begun")
        if self.quota.too_long is not None:
            raise self.quota.too_long
        await self._gate.until_stop(self._greet())

    async def ask_key(self, *, since: float) -> None:
        """Find out whether a refusal was about the key: return if it was not.

        If another request was accepted since, that answers it. Otherwise everyone waits, and the
        signed read is tried at 0, 5 and 15 seconds.

        Args:
            since: When the refusal came, monotonic seconds. Only a request that left after it tells.

        Raises:
            CredentialsRefusedError: The signed read was refused three times.
            OutageTooLongError: No reply came within the time for outages.
            RunStoppingError: The run is stopping.
        """
        async with self._asking_key:
            if self._key_refused is not None:
                raise self._key_refused
            if self._health.last_accepted_sent_at > since:
                return
            with self._gate.hold(PauseCause.KEY_IN_DOUBT):
                for wait_s in _KEY_READS_AFTER_S:
                    await self.sleep(wait_s)
                    if self.is_stopping:
                        raise RunStoppingError("the run is stopping with its key in doubt")
                    reply = await self._probe_past_throttling()
                    if not reply.doubts_key and reply.http_status != 400:
                        return
            raise self._refuse_key(reply)

    async def explain_failures(self) -> None:
        """Return once it is known what the present streak of failures means.

        It ends by a good reply, or by the signed read: then it was no outage, or the outage is over
        when this returns.

        Raises:
            OutageTooLongError: The outage lasted too long.
            RunStoppingError: The run is stopping.
        """
        if not self._health.is_undecided:
            return
        self._good.clear()
        try:
            async with asyncio.timeout(self._health.streak_is_due_in_s(self._clock())):
                await self._good.wait()
        except TimeoutError:
            await self._decide_streak()
        if self.is_stopping:
            raise RunStoppingError("the run is stopping in a streak of failures")

    # --- the way out --------------------------------------------------------------------------

    async def _take_slot(self, kind: RequestKind) -> None:
        """Return with a slot, which the caller gives back, once a request may leave."""
        while True:
            if self._health.is_undecided and self._is_suspicious():
                await self._decide_streak()
            if not self._gate.pass_by():
                await self._gate.wait_open()
            await self._slots.acquire()
            try:
                if not self.quota.is_unlimited:
                    # A cancelation that waits for its turn gives up at once when the run stops.
                    await self.quota.take(self.sleep if kind is RequestKind.CANCEL else asyncio.sleep)
                if self._may_leave(kind):
                    return
            except BaseException:
                self._slots.release()
                raise
            self._slots.release()

    def _may_leave(self, kind: RequestKind) -> bool:
        """Tell whether a request may leave still, now that its turn has come.

        Raises:
            RunStoppingError: It is a cancelation, and the run is stopping.
            SafetyStopError: What came back for others means that the run has to stop.
        """
        if kind is RequestKind.CANCEL and self.is_stopping:
            raise RunStoppingError("no new cancelation leaves")
        if failure := self._too_long or self.quota.too_long or self._key_refused:
            raise failure
        return self._gate.is_open

    def _is_suspicious(self) -> bool:
        return self._health.is_suspicious(self._clock(), unfinished=self.unfinished())

    async def _ask(self, kind: RequestKind, subject: Subject) -> Reply | TransportError:
        self.in_flight += 1
        try:
            return await self._transport(kind, subject)
        except TransportError as exc:
            return exc
        finally:
            self.in_flight -= 1

    # --- learning -----------------------------------------------------------------------------

    def _learn(self, answer: Reply | TransportError, sent_at: float) -> None:
        now = self._clock()
        if isinstance(answer, TransportError):
            self._health.note_failure(now, sent_at, str(answer))
            return
        pause_s = self.quota.learn(answer, sent_at=sent_at)
        if answer.is_throttled:
            self._health.note_throttled(sent_at)
        if pause_s:
            self._pause(pause_s)
        if answer.is_server_error or answer.is_unreadable:
            self._health.note_failure(now, sent_at, f"HTTP {answer.http_status}")
        elif not answer.is_throttled and not answer.doubts_key:
            if self._health.note_good(now, sent_at):
                self._good.set()
            if answer.http_status != 400:
                self._health.note_accepted(sent_at)

    def _pause(self, wait_s: float) -> None:
        """Make everyone wait as long as the service says, or stop where that is too long."""
        if wait_s <= self._outage_left_s():
            self.quota.pause(wait_s)
            return
        self._too_long = OutageTooLongError(
            f"The service asks to wait {wait_s:.0f} s, longer than --max-outage leaves. "
            "What is open stays open: run the same command again later."
        )
        if wait_s > self._max_outage_s:  # nobody who shares the quota would wait that long
            self.quota.too_long = self._too_long

    def _outage_left_s(self) -> float:
        now, silent_since = self._clock(), self._health.silent_since
        return self._max_outage_s - (now - silent_since - self._health.paused_s_since(silent_since, now))

    async def _decide_streak(self) -> None:
        """Find out what a streak of failures means, by one signed read while everyone waits."""
        async with self._deciding:
            if not self._health.is_undecided:
                return
            if self.is_stopping:
                raise RunStoppingError("the run is stopping in a streak of failures")
            with self._gate.hold(PauseCause.OUTAGE, last_failure=self._health.last_failure):
                if _word_of_service(await self._probe()) is None:
                    await self._ride_out()
                self._health.end_streak()

    # --- the signed read ----------------------------------------------------------------------

    async def _greet(self) -> None:
        for _signed in range(2):
            reply = await self._probe()
            if isinstance(reply, TransportError):
                with self._gate.hold(PauseCause.OUTAGE, last_failure=self._health.last_failure):
                    reply = await self._ride_out()
            if not reply.doubts_key:
                return
            refused = reply
        raise self._refuse_key(refused)

    async def _probe(self) -> Reply | TransportError:
        """Send the signed read past the gate, unless that is shut by hand."""
        await self._gate.wait_resumed()
        async with self._slots:
            await self.quota.take()
            sent_at = self._clock()
            answer = await self._ask(RequestKind.PROBE, None)
        self._learn(answer, sent_at)
        return answer

    async def _probe_past_throttling(self) -> Reply:
        """Send signed reads until one gets a word about the key; a 429 is none and is waited out."""
        while True:
            reply = _word_of_service(await self._probe()) or await self._ride_out()
            if not reply.is_throttled:
                return reply
            if failure := self._too_long or self.quota.too_long:
                raise failure
            await self.sleep(self.quota.pause_left_s)
            if self.is_stopping:
                raise RunStoppingError("the run is stopping with its key in doubt")

    async def _ride_out(self) -> Reply:
        """Send signed reads with back-off until one is answered."""
        began_at = self._health.outage_began_at
        wait_s = 1.0
        while (left_s := self._outage_left_s()) > 0:
            await self.sleep(min(random.uniform(wait_s / 2, wait_s), left_s))  # noqa: S311 - jitter
            if self.is_stopping:
                raise RunStoppingError("the run is stopping in an outage")
            reply = _word_of_service(await self._probe())
            if reply is not None:
                self._health.note_outage(began_at, self._clock())
                return reply
            wait_s = min(_PROBE_BACK_OFF_S, wait_s * 2)
        raise OutageTooLongError(
            f"The service gave no good reply for {self._max_outage_s:.0f} s (--max-outage); "
            f"the last one failed with {self._health.last_failure}. "
            "What is open stays open: run the same command again once it is back."
        )

    def _refuse_key(self, reply: Reply) -> CredentialsRefusedError:
        """Remember for everyone that the key is refused."""
        self._key_refused = CredentialsRefusedError(
            f"The service refuses the key or the account (HTTP {reply.http_status} to a signed read). "
            "Check the merchant id, the key id, the shared secret, that the key belongs to this environment "
            "and, with a meta key, that its portfolio may act for the merchant. "
            "What is open stays open: run the same command again afterwards."
        )
        return self._key_refused


def _word_of_service(answer: Reply | TransportError) -> Reply | None:
    """Return the reply to a signed read, if it shows that the service is there.

    A 404 in whatever form does: an empty list may be one. A page that is no JSON may be a page for
    maintenance.
    """
    if isinstance(answer, TransportError) or answer.is_server_error:
        return None
    return None if answer.is_unreadable and answer.http_status != 404 else answer
