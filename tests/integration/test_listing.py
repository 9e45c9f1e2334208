"""A list from the simulator over a real socket: faults, a list that moves, invoices without a date."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

import pytest

from batchcancel import Settings, load_settings
from batchcancel.errors import CredentialsRefusedError, ListRefusedError, OutageTooLongError, SafetyStopError
from batchcancel.job.reading import Reading
from batchcancel.model import Event, ListProgressed, PauseCause, PauseStarted, RequestFinished, RequestKind
from batchcancel.sandbox import SANDBOX_KEY_ID, SANDBOX_MERCHANT_ID, SANDBOX_SECRET, Sandbox, SandboxOptions
from batchcancel.sandbox.auth import Authenticator
from batchcancel.sandbox.faults import Status
from batchcancel.sandbox.invoices import Invoice
from batchcancel.sandbox.wire import RefusedError
from batchcancel.tasks.listing import Fit, Found, Steadiness, Wanted, collect, for_one_merchant

KEY = {
    "BATCHCANCEL_MERCHANT_ID": SANDBOX_MERCHANT_ID,
    "BATCHCANCEL_KEY_ID": SANDBOX_KEY_ID,
    "BATCHCANCEL_SHARED_SECRET": SANDBOX_SECRET,
}
SENT = Wanted(statuses=("SENT",))


class Service:
    """A simulator with invoices, and whoever else works with them."""

    def __init__(self, server: Sandbox, folder: Path, log: Path) -> None:
        self.server = server
        self.events: list[Event] = []
        self.after_page: Callable[[], object] = lambda: None
        self._folder = folder
        self._log = log

    def settings(self, **flags: Any) -> Settings:
        """Make the settings of a list."""
        environ = {"HOME": str(self._folder), **KEY}
        return load_settings(
            (), for_run=False, environ=environ, env="sandbox", base_url=self.server.base_url, **flags
        )

    async def collect(self, wanted: Wanted = SENT, **flags: Any) -> Found:
        """List, and let the others work after each page."""

        def listen(event: Event) -> None:
            self.events.append(event)
            if isinstance(event, RequestFinished) and event.kind is RequestKind.LIST:
                self.after_page()

        async with Reading(for_one_merchant(self.settings(**flags)), on_event=listen) as reading:
            return await collect(reading, wanted, on_event=listen)

    def of(self, *statuses: str) -> set[str]:
        """Return the ids of all invoices that have one of these states now."""
        return {one for one, invoice in self.server.invoices.items() if invoice.status in statuses}

    def end(self, ids: Collection[str]) -> None:
        """Cancel invoices behind the client's back."""
        for one in ids:
            self.server.invoices[one].cancel(0.0)

    def create(self) -> None:
        """Create an invoice behind the client's back; it stands at the list's front."""
        book = self.server._service.books[SANDBOX_MERCHANT_ID]
        assert book.create(None, status=Status.SENT, cents=1, currency="USD", now_s=0.0)

    def requests(self) -> list[dict[str, Any]]:
        """Read the simulator's log."""
        return [json.loads(line) for line in self._log.read_text(encoding="utf-8").splitlines()]


class Serve(Protocol):
    """Serves a simulator for as long as the context is open."""

    def __call__(self, **options: Any) -> AbstractAsyncContextManager[Service]:
        """Begin with 5,000 invoices, of which 2,916 are SENT, and with faults of the test's choice."""
        ...


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Serve simulators that write a log."""

    @asynccontextmanager
    async def serving(**options: Any) -> AsyncIterator[Service]:
        log = tmp_path / "requests.jsonl"
        log.unlink(missing_ok=True)
        usual: dict[str, Any] = {"invoices": 5000, "log": log}
        async with Sandbox(SandboxOptions(**(usual | options))) as server:
            yield Service(server, tmp_path, log)

    return serving


def ids_of(found: Found) -> set[str]:
    """Return the ids of a list, which has each once."""
    ids = [row.id for row in found.rows]
    assert len(set(ids)) == len(ids)
    return set(ids)


async def test_every_page_is_read_and_nothing_but_gets_leave(serve: Serve) -> None:
    """All invoices that can be canceled, with what the service says of them; one signed read comes first."""
    async with serve() as service:
        found = await service.collect(Wanted())
        assert ids_of(found) == service.of("DRAFT", "CREATED", "SENT")
        assert (found.merchant_id, found.is_whole, found.unsettled) == (SANDBOX_MERCHANT_ID, True, ())
        by_id = service.server.invoices
        for row in found.rows:
            invoice = by_id[row.id]
            assert (row.status, row.due, row.currency) == (invoice.status, invoice.due_date, invoice.currency)
            assert Decimal(row.amount or "0") * 100 == invoice.cents
        asked = service.requests()
    assert {(one["method"], one["operation"]) for one in asked} == {("GET", "list")}
    assert asked[0]["target"].endswith("?offset=0&limit=1")
    sent = [one["target"].partition("?")[2] for one in asked if "SENT" in one["target"]]
    assert sent == [f"offset={offset}&limit=1000&status=SENT" for offset in (0, 950, 1900, 2850)]
    progress = [event for event in service.events if isinstance(event, ListProgressed)]
    assert (progress[-1].rows, progress[-1].total) == (found.read, len(service.of("SENT")))


async def test_conditions_hold_together(serve: Serve) -> None:
    """A cent more or a day later is another list."""
    wanted = Wanted(
        statuses=("SENT", "PAID"),
        due_from="2025-03-01",
        due_before="2025-06-01",
        currencies=frozenset({"EUR"}),
        min_amount=Decimal("50.00"),
        max_amount=Decimal("5000.00"),
    )
    async with serve() as service:
        found = await service.collect(wanted)
        expected = {
            one
            for one, invoice in service.server.invoices.items()
            if invoice.status in {"SENT", "PAID"}
            and "2025-03-01" <= invoice.due_date < "2025-06-01"
            and invoice.currency == "EUR"
            and 5000 <= invoice.cents <= 500_000
        }
    assert ids_of(found) == expected
    assert len(expected) > 50


async def test_an_empty_list_is_empty(serve: Serve) -> None:
    """The service says so with a 404."""
    async with serve(invoices=0) as service:
        found = await service.collect(Wanted())
    assert (found.rows, found.read, found.is_whole, found.pages) == ((), 0, True, 3)


async def test_invoices_without_a_date_are_looked_up(serve: Serve) -> None:
    """Those alone for which everything else fits; the history tells, and how many is told."""
    june = 1_748_736_000.0
    async with serve() as service:
        found = await service.collect(Wanted(statuses=("DRAFT", "SENT"), created_before=june))
        invoices = service.server.invoices
        open_ones = service.of("DRAFT", "SENT")
        assert ids_of(found) == {one for one in open_ones if invoices[one].created_at_s < june}
        undated = {one for one in open_ones if invoices[one].guide_form}
        asked = Counter(one["operation"] for one in service.requests())
    assert found.looked_up == asked["get"] == len(undated) > 500
    assert set(asked) == {"list", "get"}
    assert found.is_whole
    last = [event for event in service.events if isinstance(event, ListProgressed)][-1]
    assert (last.looked_up, last.to_look_up) == (len(undated), len(undated))


async def test_invoices_that_can_t_be_looked_up_are_left_out_and_counted(serve: Serve) -> None:
    """Nothing is known of when they were created."""
    async with serve(invoices=0) as service:
        book = service.server._service.books[SANDBOX_MERCHANT_ID]
        for number in range(40):
            book.see(f"FORBIDDEN-{number}", 0.0)
        found = await service.collect(Wanted(statuses=("SENT",), created_before=1e10))
    assert found.doubtful == {Fit.NO_CREATION: found.looked_up}
    assert found.looked_up > 0
    assert len(found.rows) + found.looked_up == 40


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param({"error_share": 0.3, "seed": 1}, id="500"),
        pytest.param({"html_share": 0.3, "seed": 2}, id="HTML"),
        pytest.param({"reset_before_share": 0.3, "seed": 3}, id="reset"),
        pytest.param({"truncate_share": 0.3, "seed": 4}, id="cut short"),
        pytest.param({"rate_limit": 2, "retry_after_s": 1}, id="429"),
        pytest.param({"outage": (0.0, 3.0), "latency_ms": 20}, id="outage"),
        pytest.param({"clock_offset_s": 3600}, id="clock that is off"),
    ],
)
async def test_faults_cost_time_and_no_invoice(serve: Serve, faults: dict[str, Any]) -> None:
    """The list is the same as from a faultless service."""
    async with serve(**faults) as service:
        found = await service.collect(max_attempts=20)
        assert ids_of(found) == service.of("SENT")
        assert (found.is_whole, found.unsettled) == (True, ())
        assert {one["method"] for one in service.requests()} == {"GET"}


async def test_a_401_in_the_middle_is_signed_afresh(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once is no reason to doubt the key."""
    identify, calls = Authenticator.identify, Counter[str]()

    def refuse_once(self: Authenticator, *request: Any) -> Any:
        calls["all"] += 1
        if calls["all"] == 3:
            raise RefusedError("just once", HTTPStatus.UNAUTHORIZED)
        return identify(self, *request)

    monkeypatch.setattr(Authenticator, "identify", refuse_once)
    async with serve() as service:
        found = await service.collect()
        assert ids_of(found) == service.of("SENT")
        assert [one["http_status"] for one in service.requests()] == [200, 200, 401, 200, 200, 200]


async def test_a_key_that_is_refused_is_an_error_before_any_page(serve: Serve) -> None:
    """Two signed reads, and nothing else."""
    async with serve(merchant_id="somebody_else") as service:
        with pytest.raises(CredentialsRefusedError):
            await service.collect()
        assert len(service.requests()) == 2


async def test_an_outage_that_lasts_is_an_error(serve: Serve) -> None:
    """It ends with the time for outages; also where it begins among the look-ups."""
    async with serve(outage=(0.0, 60.0)) as service:
        with pytest.raises(OutageTooLongError):
            await service.collect(max_outage=1)
    async with serve(outage=(2.0, 60.0)) as service:
        with pytest.raises(SafetyStopError, match="no good reply"):
            await service.collect(Wanted(statuses=("SENT",), created_before=1e10), max_outage=1, rate=50)
        assert any(one["operation"] == "get" for one in service.requests())
    assert any(
        isinstance(event, PauseStarted) and event.cause is PauseCause.OUTAGE for event in service.events
    )


async def test_a_status_that_the_service_does_not_list_is_an_error(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The specification's filter lacks PENDING: the service may refuse it."""
    monkeypatch.setattr("batchcancel.sandbox.requests._LISTED", frozenset(Status) - {Status.PENDING})
    async with serve() as service:
        with pytest.raises(ListRefusedError, match="the status PENDING"):
            await service.collect(Wanted(statuses=("PENDING",)))


# --- a list that moves ----------------------------------------------------------------------------


async def test_a_list_that_moves_at_first_is_read_again(serve: Serve) -> None:
    """The second time nothing moves: what is there then is listed, exactly."""
    async with serve() as service:
        changes: list[Callable[[], object]] = [
            service.create,
            lambda: service.end(list(service.of("SENT"))[:30]),
        ]
        service.after_page = lambda: changes.pop(0)() if changes else None
        found = await service.collect()
        assert ids_of(found) == service.of("SENT")
    assert (found.unsettled, found.is_whole, found.pages) == ((), True, 6)


async def test_a_busy_account_is_listed_without_a_gap(serve: Serve) -> None:
    """Invoices are created and canceled after every page: what stayed is there, and that it moved is said."""
    async with serve() as service:
        ending = iter(sorted(service.of("SENT")))

        def work() -> None:
            service.create()
            service.end([next(ending) for _ in range(20)])

        service.after_page = work
        before = service.of("SENT")
        found = await service.collect()
        stayed = before & service.of("SENT")
    assert stayed <= ids_of(found)
    assert [one.steadiness for one in found.unsettled] == [Steadiness.MOVED]


async def test_a_mass_cancelation_at_the_same_time_tears_the_list(serve: Serve) -> None:
    """Newest first, as the list is: more go before the next page than pages overlap. Nobody looks up then."""
    async with serve() as service:

        def cancel_newest() -> None:
            newest: list[Invoice] = [one for one in service.server.invoices.values() if one.status == "SENT"]
            service.end([one.invoice_id for one in newest[-200:]])

        service.after_page = cancel_newest
        found = await service.collect(Wanted(statuses=("SENT",), created_before=1e10))
        assert {one["operation"] for one in service.requests()} == {"list"}
    assert found.is_torn
