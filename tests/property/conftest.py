"""A world for the promise: a service that may do anything, a computer that may die at any moment.

The service is a model. Everything of the product between it and the ledger's bytes is real. No wait
takes time and no thread runs, so that the same draws always lead to the same order of events.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import selectors
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeVar, TypeVarTuple, Unpack, cast

import pytest
from msgspec import structs

from batchcancel.api import Client, Identity, KeyFiles, ServiceClock
from batchcancel.errors import (
    BatchCancelError,
    LedgerWriteError,
    NotSentError,
    ReplyLostError,
    SafetyStopError,
)
from batchcancel.job.keys import Keys
from batchcancel.job.lanes import build_fleet, to_cancel
from batchcancel.job.opening import Opened
from batchcancel.job.selection import standing_of
from batchcancel.ledger import Ledger, RunRecord
from batchcancel.ledger.disk import Disk
from batchcancel.manifest import Check, Manifest
from batchcancel.model import (
    GroupCommitted,
    Invoice,
    ManifestRow,
    Reply,
    RequestKind,
    RunState,
    Standing,
    Tally,
    invoice_key,
    key_digest,
    utc_text,
)
from batchcancel.pipeline import Fleet
from batchcancel.settings import Environment, Options, RetryErrors, Settings

if TYPE_CHECKING:
    from tests.conftest import LatestReasons
    from tests.property.test_promise import Fate, Trouble

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STILL_OPEN: Final = frozenset({"SENT", "CREATED", "DRAFT"})
MISSING: Final = "MISSING"
MAX_OUTAGE_S: Final = 600.0
OWN_MERCHANT: Final = "merchant"
_EPOCH_S: Final = 1_700_000_000.0
_TAKES_S: Final = (0.01, 0.2, 0.05, 1.5, 0.02, 0.3, 0.01)
"""How long requests take, in turn: seven of them, so that no round of workers repeats itself."""


# --- the service ---------------------------------------------------------------------------------


def name_of(merchant_id: str | None, text: str) -> str:
    """Tell the invoices of several merchants apart; the run's own merchant's go by their ids."""
    return text if merchant_id is None else f"{text} of {merchant_id}"


@dataclass(slots=True, kw_only=True)
class Account:
    """One invoice at the service."""

    status: str
    canceled_by_run: int | None = None
    """Which run's request canceled it; None if nobody or somebody else did."""
    canceled_at: float | None = None
    canceled_late: bool = False


@dataclass(slots=True, kw_only=True)
class Service:
    """What the documentation says of cancelation and look-up, under faults that a test prescribes."""

    truth: Fate
    """What becomes of a request that nothing was prescribed for."""
    dates_cancelations: bool = True
    """Whether replies carry ``invoiceHistory``."""
    accounts: dict[str, Account] = field(default_factory=dict)
    """Invoices by ``name_of``, as everywhere here."""
    shut_out: dict[str | None, tuple[float, Fate]] = field(default_factory=dict)
    """From when on (Unix seconds) every request for a merchant meets the same fate."""
    script: Iterator[Fate] = field(default_factory=lambda: iter(()))
    """Fates of the coming requests, one each; the truth once it is used up."""
    troubled: dict[str, Fate] = field(default_factory=dict)
    """Invoices all of whose requests meet the same fate."""
    outage: tuple[float, float, Fate] | None = None
    """From when to when (Unix seconds) every request meets which fate: a refused key is one too."""
    late: list[tuple[float, str, int]] = field(default_factory=list)
    """Cancelations that are still under way: when, whose, and of which run."""

    def heal(self) -> None:
        """From now on every request is answered truthfully; what was under way has arrived."""
        self.script, self.outage = iter(()), None
        self.troubled.clear()
        self.shut_out.clear()
        self.settle_late(float("inf"))
        for account in self.accounts.values():
            if account.status not in {*STILL_OPEN, "PAID", "PARTIAL", "CANCELED", MISSING}:
                account.status = "SENT"

    def open_account(self, invoice: str, status: str, now: float) -> None:
        """Make an invoice known, unless it is; what is canceled was so for a day."""
        canceled_at = now - 86400 if status == "CANCELED" else None
        self.accounts.setdefault(invoice, Account(status=status, canceled_at=canceled_at))

    def fate(self, merchant_id: str | None, invoice: str | None, now: float) -> Fate:
        """Tell what becomes of the request that leaves now."""
        scripted = next(self.script, self.truth)
        if self.outage is not None and self.outage[0] <= now < self.outage[1]:
            return self.outage[2]
        if merchant_id in self.shut_out and self.shut_out[merchant_id][0] <= now:
            return self.shut_out[merchant_id][1]
        return scripted if invoice is None else self.troubled.get(invoice, scripted)

    def breaks_off(self, left_at: float, now: float) -> bool:
        """Tell whether an outage began while a request was under way: its reply is lost, too."""
        if self.outage is None or self.outage[2].answer in {401, 403, 407}:
            return False
        return left_at < self.outage[0] <= now

    def receive(self, kind: RequestKind, invoice: str | None, fate: Fate, now: float, run: int) -> Reply:
        """Let a request arrive: the reply tells what was true then, and may come much later.

        Raises:
            TransportError: There is no reply.
        """
        account = None if invoice is None else self.accounts[invoice]
        if account is not None and fate.before and account.status in {*STILL_OPEN, "PENDING"}:
            self.change(account, fate.before, now)
        reply = self._reply(kind, invoice, account, fate)
        if account is not None and kind is RequestKind.CANCEL and fate.acts:
            if fate.late_s:
                self.late.append((now + fate.late_s, invoice or "", run))
            else:
                self._cancel(account, now, run)
        if fate.answer == "lost":
            raise ReplyLostError("ServerDisconnectedError")
        if fate.answer == "not sent":
            raise NotSentError("ClientConnectorError")
        return reply

    def settle_late(self, now: float) -> None:
        """Let every cancelation take effect that is due by now."""
        due = [late for late in self.late if late[0] <= now]
        self.late = [late for late in self.late if late[0] > now]
        for at, invoice, run in due:
            account = self.accounts[invoice]
            if account.status in STILL_OPEN:
                self._cancel(account, min(at, now), run)
                account.canceled_late = True

    def change(self, account: Account, status: str, now: float) -> None:
        """Let the outside world change an invoice."""
        account.status = status
        account.canceled_at = now if status == "CANCELED" else None

    def _cancel(self, account: Account, now: float, run: int) -> None:
        if account.status in STILL_OPEN:
            account.status, account.canceled_by_run, account.canceled_at = "CANCELED", run, now

    def _reply(self, kind: RequestKind, invoice: str | None, account: Account | None, fate: Fate) -> Reply:
        match fate.answer:
            case "page":
                return Reply(http_status=200)
            case "silent":
                return Reply(http_status=200, is_object=True)
            case int(status):
                is_page = status in {302, 404} or (status >= 500 and fate.acts)
                return Reply(http_status=status, is_object=not is_page, retry_after_s=fate.retry_after_s)
            case _ if account is None:
                return Reply(http_status=200, is_object=True)
            case _ if account.status == MISSING:
                return Reply(http_status=404, is_object=True)
            case "truth" if kind is RequestKind.CANCEL and account.status not in STILL_OPEN:
                return Reply(http_status=400, is_object=True)
        is_cancelation = kind is RequestKind.CANCEL
        return Reply(
            http_status=200,
            is_object=True,
            invoice=Invoice(
                id="another" if fate.answer == "other" else str(invoice).partition(" of ")[0],
                status="CANCELED" if is_cancelation else account.status,
                canceled_at=account.canceled_at if self.dates_cancelations and not is_cancelation else None,
            ),
        )


# --- the computer --------------------------------------------------------------------------------


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting, move the loop's clock."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everyone waits and nobody will come: a deadlock")
        self.now += max(timeout, 0)
        return []


class _VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose waits are jumps and whose threads are call-backs that come a while later."""

    thread_takes_s = 0.0

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(
        self, _executor: Any, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it belongs to who waits, as in a thread
                outcome = partial(future.set_exception, exc)
            else:
                outcome = partial(future.set_result, result)
            if not future.done():
                outcome()

        self.call_later(self.thread_takes_s, work)
        return future


class Witness(Protocol):
    """Who sees everything that matters, when it happens."""

    truth: Fate
    is_stopping: bool

    def asked(self, kind: RequestKind, merchant_id: str | None, invoice: str | None) -> None:
        """See a request leave."""
        ...

    def answered(self, kind: RequestKind, invoice: str | None, reply: Reply | None, fate: Fate) -> None:
        """See what came back; no reply is a failure."""
        ...

    def dropped(self, invoice: str | None) -> None:
        """See that a request was abandoned on its way."""
        ...

    def wrote(self, row: Mapping[str, Any]) -> None:
        """See a row on its way to the disk."""
        ...


@dataclass(slots=True, kw_only=True)
class Ending:
    """How a run ended."""

    state: RunState | None
    """None if the run could not write its end."""
    why: str | None
    tally: Tally
    rows: Sequence[ManifestRow]
    stopped: Mapping[str | None, int]
    """Merchants that were stopped while others went on, and how many of their invoices that left open."""
    died: bool


def _settled_among(rows: Sequence[ManifestRow]) -> list[ManifestRow]:
    return [row for row in rows if row.duplicate_of is None and row.standing is Standing.SETTLED]


class Computer:
    """Runs the product's parts, as the job puts them together, on a disk and a clock of its own."""

    def __init__(self, folder: Path, witness: Witness, latest_reasons: LatestReasons) -> None:
        self.ledger_path = folder / "invoices.ledger.jsonl"
        self.concurrency = 1
        self.max_pending = 512
        self.max_in_doubt = 250
        self.rate: float | None = None
        self.rate_per_merchant: float | None = None
        self.max_attempts = 5
        self.run_number = 0
        self.is_stopping = False
        self.service = Service(truth=witness.truth)
        self._witness = witness
        self._latest_reasons = latest_reasons
        self.thread_takes_s = 0.0
        self._loop = _VirtualLoop()
        self._takes_s = cycle(_TAKES_S)
        self._image: bytes | None = None
        """What was on the disk when it died."""

    @property
    def now(self) -> float:
        """This computer's and the service's time, Unix seconds."""
        return _EPOCH_S + self._loop.time()

    def pass_time(self, seconds: float) -> None:
        """Let time pass between runs."""
        self._loop.run_until_complete(asyncio.sleep(seconds))
        self.service.settle_late(self.now)

    def close(self) -> None:
        """Switch it off."""
        self._loop.close()

    def run(self, rows: Sequence[ManifestRow], trouble: Trouble) -> Ending:
        """Run once over the rows, with what is to happen meanwhile; the ledger file is what is left."""
        self._boot(trouble)
        self._main = self._loop.create_task(self._run(rows))
        state: RunState | None = None
        why: str | None = None
        try:
            state, why = self._loop.run_until_complete(self._main)
        except (asyncio.CancelledError, BatchCancelError) as exc:
            # The dead don't run: what they did while they were taken apart never happened.
            is_disk = isinstance(exc, LedgerWriteError) and (trouble.full_at or trouble.sync_fails_at)
            if not self._is_dead and not is_disk:
                raise
            why = str(exc)
        assert not asyncio.all_tasks(self._loop), "a run leaves no task behind"
        if self._image is not None:
            self.ledger_path.write_bytes(self._image)
        self.service.settle_late(self.now)
        stopped = self._fleet.stopped_merchants if self._fleet else ()
        return Ending(
            state=state,
            why=why,
            tally=(self._fleet.tally() if self._fleet else Tally()).with_unread(
                rows=len(rows), settled_earlier=self._settled
            ),
            rows=rows,
            stopped={one.merchant_id: one.open for one in stopped},
            died=self._is_dead,
        )

    def _boot(self, trouble: Trouble) -> None:
        self.run_number += 1
        self._settled = 0
        """Rows that earlier runs have answered, once that is known."""
        self.is_stopping = False
        self._loop.thread_takes_s = self.thread_takes_s
        self._trouble = trouble
        self._image = None
        self._moments = self._writes = self._syncs = 0
        self._unsynced_from: int | None = None
        self._fleet: Fleet | None = None

    @property
    def _is_dead(self) -> bool:
        return self._image is not None

    # --- as the job does it -----------------------------------------------------------------------

    async def _run(self, rows: Sequence[ManifestRow]) -> tuple[RunState, str | None]:
        disk = Disk(write=self._write, sync=self._sync)
        ledger = await Ledger.open(
            self.ledger_path, max_pending=self.max_pending, group_wait_s=0.05, disk=disk, now=self._utc_now
        )
        async with ledger:
            record = self._record()
            await ledger.begin(record, on_commit=self._note_commit, on_failure=self._note_failure)
            try:
                state, why = await self._work(rows, ledger, record)
            except asyncio.CancelledError:
                await ledger.end(state=RunState.INTERRUPTED, counts={})
                raise
            await ledger.end(state=state, counts={}, why=why if state is RunState.STOPPED else None)
        return state, why

    async def _work(
        self, rows: Sequence[ManifestRow], ledger: Ledger, record: RunRecord
    ) -> tuple[RunState, str | None]:
        rows = self._placed(rows, ledger)
        self._settled = len(_settled_among(rows))
        settings = self._settings()
        purpose = to_cancel(
            self._opened(rows, ledger),
            settings.options,
            ServiceClock(lambda: self.now),
            ledger_began_at=ledger.history.first_started_at or record.started_at,
        )
        keys = Keys(identity=Identity(merchant_id=OWN_MERCHANT), sign_as=_Signer, files=KeyFiles())
        self._fleet = fleet = build_fleet(
            settings, purpose, cast("Client", self), keys, on_event=lambda _event: None
        )
        if self.is_stopping:
            fleet.stop("SIGTERM")
        try:
            await fleet.run(_read(rows))
        except SafetyStopError as exc:
            return RunState.STOPPED, str(exc)
        if fleet.stopped_merchants:
            return RunState.STOPPED, fleet.stopped_merchants[0].why
        return (RunState.INTERRUPTED, "SIGTERM") if self.is_stopping else (RunState.COMPLETE, None)

    def _placed(self, rows: Sequence[ManifestRow], ledger: Ledger) -> Sequence[ManifestRow]:
        """Say of each row where its invoice stands."""
        reasons = self._latest_reasons(ledger.history)
        return [
            structs.replace(
                row, standing=standing_of(RetryErrors.OPEN, reasons.get(key_digest(_key_of(row))), False)
            )
            for row in rows
        ]

    def _settings(self) -> Settings:
        return Settings(
            manifests=(),
            options=Options(
                concurrency=self.concurrency,
                rate_per_merchant=self.rate_per_merchant,
                max_attempts=self.max_attempts,
                max_outage=MAX_OUTAGE_S,
                max_error_rate=100.0,
            ),
            sources={},
            environment=Environment.TEST,
            base_url=None,
            ledger=self.ledger_path,
            rate=self.rate,
            proxy=None,
            expect_count=None,
            match={},
            credentials=None,
        )

    def _opened(self, rows: Sequence[ManifestRow], ledger: Ledger) -> Opened:
        first = [row for row in rows if row.duplicate_of is None]
        settled = _settled_among(rows)
        valid = Counter(row.merchant_id for row in first if row.valid)
        open_of = valid - Counter(row.merchant_id for row in settled if row.valid)
        return Opened(
            ledger=ledger,
            manifest=cast("Manifest", None),  # its rows are at hand
            check=Check(
                files=(),
                rows=len(rows),
                distinct=valid.total(),
                invalid=len(first) - valid.total(),
                duplicates=len(rows) - len(first),
                settled=len(settled),
                excluded=0,
                held_back=0,
                open=open_of.total(),
                open_of=dict(open_of),
                merchants=frozenset(row.merchant_id for row in rows),
            ),
            plan=None,
            max_in_doubt=self.max_in_doubt,
        )

    def _stop(self) -> None:
        first, self.is_stopping = not self.is_stopping, True
        self._witness.is_stopping = True
        if self._fleet is not None:
            self._fleet.stop("SIGTERM") if first else self._fleet.abort("SIGTERM")

    def _record(self) -> RunRecord:
        return RunRecord(
            run_id=str(self.run_number),
            started_at=utc_text(self._utc_now()),
            version="0",
            env="test",
            base_url="https://service.example",
            merchant_id=OWN_MERCHANT,
            operator="operator",
            host="host",
            pid=1,
            ref=None,
            manifest=(),
            options={},
        )

    async def _note_commit(self, group: GroupCommitted) -> None:
        """Nobody but the ledger has to know."""

    def _note_failure(self, failure: LedgerWriteError) -> None:
        if self._fleet is not None:
            self._fleet.fail(failure)

    def _utc_now(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)

    # --- what reaches the outside -----------------------------------------------------------------

    async def send(
        self,
        kind: RequestKind,
        invoice_id: str | None,
        *,
        signer: _Signer,
        before_repeat: Callable[[], Awaitable[None]],  # noqa: ARG002 - no connection is dropped here
    ) -> Reply:
        """Send a request as the client does: for whom is said by who signs it."""
        merchant_id = None if signer.merchant_id == OWN_MERCHANT else signer.merchant_id
        invoice = None if invoice_id is None else name_of(merchant_id, invoice_id)
        self.service.settle_late(self.now)
        if not self._is_dead:
            self._witness.asked(kind, merchant_id, invoice)
        self._pass_moment()
        if self._is_dead:
            await _never()
        fate = self.service.fate(merchant_id, invoice, self.now)
        answer: Reply | BatchCancelError
        try:
            answer = self.service.receive(kind, invoice, fate, self.now, self.run_number)
        except BatchCancelError as exc:
            answer = exc
        self._pass_moment()
        left_at = self.now
        try:
            await asyncio.sleep(next(self._takes_s))
        except asyncio.CancelledError:
            if not self._is_dead:
                self._witness.dropped(invoice)
            raise
        if self._is_dead:
            await _never()
        if self.service.breaks_off(left_at, self.now):
            answer = ReplyLostError("ServerDisconnectedError")
        self._witness.answered(kind, invoice, answer if isinstance(answer, Reply) else None, fate)
        if isinstance(answer, BatchCancelError):
            raise answer
        return answer

    def _write(self, fd: int, data: memoryview) -> int:
        if self._is_dead or not os.path.samestat(os.fstat(fd), self.ledger_path.stat()):
            return os.write(fd, data)
        self._writes += 1
        if self._trouble.full_at and self._writes >= self._trouble.full_at:
            os.write(fd, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        for line in bytes(data).splitlines():
            self._witness.wrote(json.loads(line))
        self._pass_moment()
        self._unsynced_from = os.fstat(fd).st_size
        written = os.write(fd, data)
        self._pass_moment()
        return written

    def _sync(self, _fd: int) -> None:
        self._syncs += 1
        if not self._is_dead and self._syncs == self._trouble.sync_fails_at:
            raise OSError(errno.EIO, "Input/output error")
        self._unsynced_from = None
        self._pass_moment()

    def _pass_moment(self) -> None:
        if self._is_dead:
            return
        self._moments += 1
        if self._moments == self._trouble.dies_at:
            self._die()
        elif self._moments in {self._trouble.stops_at, self._trouble.aborts_at}:
            self._stop()

    def _die(self) -> None:
        """Keep what is on the disk; whatever happens after that happened nowhere."""
        image = self.ledger_path.read_bytes()
        keeps = self._trouble.keeps_bytes
        if self._unsynced_from is not None and keeps is not None:
            durable, torn = image[: self._unsynced_from], image[self._unsynced_from :]
            image = durable + torn[:keeps] + bytes(self._trouble.then_zeros)
        self._image = image
        self._main.cancel()


class _Signer:
    """Signs nothing, and tells for whom."""

    is_slow = False

    def __init__(self, identity: Identity) -> None:
        self.merchant_id = identity.merchant_id

    def headers(self, **_request: object) -> dict[str, str]:
        """Never called: there is no wire."""
        raise NotImplementedError


async def _read(rows: Sequence[ManifestRow]) -> AsyncIterator[ManifestRow]:
    for row in rows:
        yield row


async def _never() -> NoReturn:
    await asyncio.Event().wait()
    raise AssertionError("nobody answers the dead")


MakeComputer = Callable[[Witness], Computer]


@pytest.fixture
def make_computer(monkeypatch: pytest.MonkeyPatch, latest_reasons: LatestReasons) -> Iterator[MakeComputer]:
    """Make computers with a folder each; their file systems' fsync costs nothing."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    with TemporaryDirectory() as folder:
        made: list[Computer] = []

        def make(witness: Witness) -> Computer:
            own = Path(folder) / str(len(made))
            own.mkdir()
            made.append(Computer(own, witness, latest_reasons))
            return made[-1]

        yield make
        for computer in made:
            with suppress(RuntimeError):
                computer.close()


def _key_of(row: ManifestRow) -> str:
    return invoice_key(row.invoice_id, valid=row.valid, merchant_id=row.merchant_id)
