"""``doctor --live-check`` against the simulator, and against services that are not as assumed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from batchcancel.sandbox import (
    SANDBOX_KEY_ID,
    SANDBOX_MERCHANT_ID,
    SANDBOX_SECRET,
    Sandbox,
    SandboxOptions,
)
from batchcancel.tasks.doctor import FACTS, Examination, Grade, LiveCheck, State, Verdict

if TYPE_CHECKING:
    from tests.conftest import KeyHolder

KEY = {
    "BATCHCANCEL_MERCHANT_ID": SANDBOX_MERCHANT_ID,
    "BATCHCANCEL_KEY_ID": SANDBOX_KEY_ID,
    "BATCHCANCEL_SHARED_SECRET": SANDBOX_SECRET,
}
ROOT = "/invoicing/v2/invoices"
NEVER_HERE = {"retry_after_header", "replies_come_encrypted"}
"""Facts that a plain service without a limit does not show."""


@pytest.fixture(autouse=True)
def _no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep files of the machine's user out, and waits short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("batchcancel.tasks.doctor.live.made._WAITS_S", (0.0, 0.01, 0.02))


def examination(base_url: str | None, environ: dict[str, str] = KEY) -> Examination:
    """Prepare a live check."""
    flags = {"env": "sandbox", "base_url": base_url, "timeout": 5}
    return Examination(environ, flags, with_live_check=True, tell=lambda _: None)


async def check(base_url: str | None, environ: dict[str, str] = KEY) -> tuple[LiveCheck, Examination]:
    """Make a live check to its end."""
    made = examination(base_url, environ)
    await made.run()
    assert made.live_check is not None
    return made.live_check, made


def verdicts(live: LiveCheck, verdict: Verdict) -> set[str]:
    """Return the names of the facts that have a verdict."""
    return {fact.name for fact in live.facts if fact.verdict is verdict}


# --- as assumed -----------------------------------------------------------------------------------


async def test_every_fact_holds_at_the_simulator() -> None:
    """Three invoices of three forms are created and canceled, each once; nothing else is touched."""
    async with Sandbox(SandboxOptions()) as server:
        live, made = await check(server.base_url)
        assert {invoice.status for invoice in server.invoices.values()} == {"CANCELED"}
        assert set(server.invoices) == {one.id for one in live.made}
        # Besides those that are judged, one was canceled twice and two are taken back.
        assert (server.requests["create"], server.requests["cancel"]) == (3, 4)
        assert live.requests == server.requests.total()
    assert verdicts(live, Verdict.DID_NOT_HOLD) == set()
    assert verdicts(live, Verdict.NOT_SEEN) == NEVER_HERE
    assert [one.state for one in live.made] == [State.CANCELED] * 3
    assert live.is_as_assumed
    assert not made.has_finding
    plain, zeros, marks = [one.number for one in live.made]
    assert plain.isalnum()
    assert zeros.startswith("00")
    assert {"-", ".", "_"} <= set(marks)


async def test_the_simulator_in_the_process_is_checked_too() -> None:
    """Nothing is needed for that."""
    live, made = await check(None, {})
    assert live.is_as_assumed
    assert made.checks[-1].found == "3 invoices were created, and all are canceled again"


async def test_encrypted_replies_are_seen(key_holder: KeyHolder) -> None:
    """Requests are encrypted and replies decrypted, all the way."""
    files = key_holder.files
    environ = {
        "BATCHCANCEL_AUTH": "p12",
        "BATCHCANCEL_MERCHANT_ID": key_holder.signer_id,
        "BATCHCANCEL_P12_FILE": str(files.signing_p12),
        "BATCHCANCEL_P12_PASSWORD_FILE": str(files.password_file),
        "BATCHCANCEL_MLE": "both",
        "BATCHCANCEL_MLE_RESPONSE_KEY_FILE": str(files.response_p12),
        "BATCHCANCEL_MLE_RESPONSE_KEY_PASSWORD_FILE": str(files.password_file),
    }
    options = SandboxOptions(
        merchant_id=key_holder.signer_id, keys=files.read(), require_mle=True, plain_statuses=(404,)
    )
    async with Sandbox(options) as server:
        live, _ = await check(server.base_url, environ)
    assert live.is_as_assumed
    assert verdicts(live, Verdict.NOT_SEEN) == {"retry_after_header"}
    [fact] = [one for one in live.facts if one.name == "replies_come_encrypted"]
    assert fact.seen == "plain were 404"


async def test_a_limit_is_waited_for_and_shows_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    """429s of a new account's limit don't spoil the check."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await real_sleep(seconds)

    real_sleep = asyncio.sleep
    monkeypatch.setattr("batchcancel.tasks.doctor.live.check._MOST_WAITS", 9)
    defaults = LiveCheck.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "sleep", sleep)
    async with Sandbox(SandboxOptions(rate_limit=10)) as server:
        live, _ = await check(server.base_url)
    assert 1.0 in waits
    assert "retry_after_header" in verdicts(live, Verdict.HELD)
    assert live.left == []


# --- a service that differs -----------------------------------------------------------------------


class Differing:
    """A service that is as assumed, but for what a test changes."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes
        self.invoices: dict[str, str] = {}
        self.requests: Counter[str] = Counter()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Serve on loopback and yield the base URL."""
        runner = web.ServerRunner(web.Server(self._respond, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        status, body = self._answer(request.method, request.path, await request.read(), request.query)
        headers = {"v-c-correlation-id": "1", "Date": formatdate(usegmt=True)}
        for name in self.changes.get("without_headers", ()):
            headers.pop(name)
        response = web.json_response(body, status=status, headers=headers)
        if self.changes.get("closes"):
            response.force_close()
        return response

    def _answer(self, method: str, path: str, body: bytes, query: Any) -> tuple[int, Any]:
        key = path.removeprefix(ROOT).removeprefix("/").removesuffix("/cancelation")
        operation = {"GET": "get" if key else "list", "POST": "cancel" if key else "create"}[method]
        self.requests[operation] += 1
        replaced = self.changes.get(operation)
        answer = None if replaced is None else replaced(self, key)
        if answer is not None:
            return int(answer[0]), answer[1]
        if operation == "create":
            return self._create(json.loads(body)["invoiceInformation"]["invoiceNumber"])
        if operation == "list":
            return self._list(query)
        if key not in self.invoices:
            return 404, {"status": "NOTFOUND"}
        if operation == "cancel":
            if self.invoices[key] == "CANCELED":
                return 400, {"status": "BADREQUEST"}
            self.invoices[key] = "CANCELED"
        return 200, self.body_of(key)

    def _create(self, number: str) -> tuple[int, Any]:
        if (refuses := self.changes.get("refuses_number")) and refuses(number):
            return 400, {"reason": "VALIDATION_ERROR"}
        key = self.changes.get("stored_as", str)(number)
        self.invoices[key] = "DRAFT"
        return 201, self.body_of(key)

    def _list(self, query: Any) -> tuple[int, Any]:
        listed = [self.body_of(key) for key in reversed(self.invoices)]
        if query.get("status"):
            listed = [one for one in listed if one["status"] == query["status"]]
        start = int(query["offset"])
        page = listed[start : start + int(query["limit"])]
        return (200, {"totalInvoices": len(listed), "invoices": page}) if page else (404, {"status": "X"})

    def body_of(self, key: str) -> dict[str, Any]:
        """Write an invoice, with a customer who must not show anywhere."""
        now = "2026-11-26T10:00:00Z"
        events = [{"event": "DRAFT", "date": now}]
        if self.invoices[key] == "CANCELED":
            stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            events.append({"event": "CANCEL", "date": stamp})
        body = {
            "id": key,
            "status": self.invoices[key],
            "submitTimeUtc": now,
            "createdDate": now,
            "customerInformation": {"name": "Tanya Lee", "email": "tanya.lee@customers.example"},
            "invoiceInformation": {"invoiceNumber": key, "paymentLink": "https://pay.example/5ecret"},
            "orderInformation": {"amountDetails": {"totalAmount": "1.00", "balanceAmount": 1.5}},
            "invoiceHistory": events,
        }
        return {name: value for name, value in body.items() if name not in self.changes.get("without", ())}


def _second_cancel_is_200(service: Differing, key: str) -> tuple[int, Any] | None:
    return (200, service.body_of(key)) if service.invoices.get(key) == "CANCELED" else None


def _unknown_is_400(service: Differing, key: str) -> tuple[int, Any] | None:
    return None if key in service.invoices else (400, {"status": "BADREQUEST"})


def _list_as_text(_service: Differing, _key: str) -> tuple[int, Any]:
    return 200, {"totalInvoices": "3", "invoices": []}


@pytest.mark.parametrize(
    ("changes", "refuted"),
    [
        pytest.param({}, set(), id="nothing"),
        pytest.param(
            {"cancel": _second_cancel_is_200},
            {"second_cancel_is_refused", "refusal_is_400"},
            id="canceling twice is fine",
        ),
        pytest.param({"get": _unknown_is_400}, {"unknown_id_is_404"}, id="an unknown id is 400"),
        pytest.param(
            {"without": ("invoiceHistory",)}, {"history_is_there", "history_dates_cancel"}, id="no history"
        ),
        pytest.param({"without": ("orderInformation",)}, {"amounts_are_decimals"}, id="no amounts"),
        pytest.param({"without": ("submitTimeUtc",)}, {"submit_time_is_utc"}, id="no submitTimeUtc"),
        pytest.param({"without": ("createdDate",)}, {"list_has_created_date"}, id="no createdDate"),
        pytest.param(
            {"without_headers": ("v-c-correlation-id",)}, {"correlation_id_header"}, id="no correlation id"
        ),
        pytest.param({"closes": True}, {"connections_are_kept"}, id="no keep-alive"),
        pytest.param(
            {"stored_as": lambda number: number.lstrip("0")}, {"leading_zeros_stay"}, id="zeros are cut"
        ),
        pytest.param(
            {"refuses_number": lambda number: not number.isalnum()}, {"ids_may_have_marks"}, id="no marks"
        ),
        pytest.param(
            {"list": _list_as_text},
            {"list_has_total", "list_begins_with_newest", "list_filters_by_status"},
            id="a list without numbers",
        ),
    ],
)
async def test_a_fact_that_is_none_is_told(changes: dict[str, Any], refuted: set[str]) -> None:
    """Just that one does not hold, the exit code says so, and every invoice is canceled all the same."""
    service = Differing(**changes)
    async with service.serve() as base_url:
        live, made = await check(base_url)
    assert verdicts(live, Verdict.DID_NOT_HOLD) == refuted
    assert made.has_finding is bool(refuted)
    assert set(service.invoices.values()) == {"CANCELED"}
    assert live.left == []
    said = repr(live.facts) + repr(made.checks)
    for value in ("Tanya", "customers.example", "5ecret", "1.00", SANDBOX_SECRET, *service.invoices):
        assert value not in said


def _fails(_service: Differing, _key: str) -> tuple[int, Any]:
    return 503, {"status": "SERVER_ERROR"}


async def test_a_failure_is_no_evidence() -> None:
    """A service that can't list at the moment says nothing of its list."""
    service = Differing(list=_fails)
    async with service.serve() as base_url:
        made = examination(base_url)
        await made.run()
    assert made.live_check is None
    assert made.checks[-1].found == "the signed read has to be accepted first"

    def fails_later(service: Differing, key: str) -> tuple[int, Any] | None:
        return _fails(service, key) if service.requests["list"] > 1 else None

    service = Differing(list=fails_later)
    async with service.serve() as base_url:
        live, _ = await check(base_url)
    assert verdicts(live, Verdict.DID_NOT_HOLD) == set()
    assert verdicts(live, Verdict.NOT_SEEN) == NEVER_HERE | {
        fact.name for fact in live.facts if fact.name.startswith("list_")
    }
    [fact] = [one for one in live.facts if one.name == "list_has_total"]
    assert fact.seen == "list, first page: 503"


# --- what goes wrong on the way -------------------------------------------------------------------


def _never_cancels(service: Differing, key: str) -> tuple[int, Any]:
    return 400, {"status": "BADREQUEST"}


async def test_invoices_that_can_not_be_canceled_are_named() -> None:
    """A person has to look at them."""
    service = Differing(cancel=_never_cancels)
    async with service.serve() as base_url:
        live, made = await check(base_url)
    assert [one.state for one in live.made] == [State.LEFT] * 3
    # What builds on a cancelation says nothing where there is none.
    assert verdicts(live, Verdict.DID_NOT_HOLD) == {"draft_can_be_canceled", "list_filters_by_status"}
    assert {"second_cancel_is_refused", "cancel_shows_at_once"} <= verdicts(live, Verdict.NOT_SEEN)
    last = made.checks[-1]
    assert (last.name, last.grade) == ("live check", Grade.FAIL)
    assert all(key in last.found for key in service.invoices)
    assert last.todo == "Look at them, and cancel them by hand."


async def test_a_refused_creation_is_told_and_nothing_is_left() -> None:
    """A missing field or permission ends the check; no other request is made."""
    service = Differing(refuses_number=lambda _number: True)
    async with service.serve() as base_url:
        live, made = await check(base_url)
    assert live.left == []
    assert service.requests["cancel"] == 0
    assert made.checks[-1].found == "No invoice could be created: 400 {reason: string}."
    assert made.checks[-1].grade is Grade.FAIL


@pytest.mark.parametrize("share", ["reset_before_share", "reset_after_share", "truncate_share", "html_share"])
@pytest.mark.parametrize("seed", range(3))
async def test_whatever_goes_wrong_nothing_is_left(share: str, seed: int) -> None:
    """Half of the requests fail, done or not: what exists at the end is canceled, or named."""
    changes: dict[str, Any] = {share: 0.3, "seed": seed}
    async with Sandbox(SandboxOptions(**changes)) as server:
        made = examination(server.base_url)
        await made.run()
        live = made.live_check
        if live is None:  # the signed read was the one that failed
            assert server.requests["create"] == 0
            return
        open_ = {key for key, invoice in server.invoices.items() if invoice.status != "CANCELED"}
    assert open_ <= {one.id for one in live.left}
    assert not live.left or made.checks[-1].grade is Grade.FAIL


@pytest.mark.parametrize("after", range(1, 14))
async def test_an_interrupted_check_takes_back_what_it_made(after: int) -> None:
    """Whenever the interruption comes: during a creation, a cancelation or a read."""
    service = Differing()
    async with service.serve() as base_url:
        made = examination(base_url)
        task = asyncio.create_task(made.run())
        while service.requests.total() < after and not task.done():
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled() or task.done()
    assert set(service.invoices.values()) <= {"CANCELED"}
    if made.live_check is not None:
        assert made.live_check.left == []
        assert made.checks[-1].name == "live check"


@pytest.mark.parametrize(("is_done", "state"), [(False, State.ABSENT), (True, State.CANCELED)])
async def test_a_creation_without_a_reply_is_looked_for(*, is_done: bool, state: State) -> None:
    """It is canceled if it is there; that it is not is asked twice. The check goes on with the others."""
    service = Differing()
    answer = service._respond

    async def lose_the_first(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST" and service.requests["create"] == 0:
            await answer(request)
            if not is_done:
                service.invoices.clear()
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return await answer(request)

    service._respond = lose_the_first  # type: ignore[method-assign]  # a service that loses a reply
    async with service.serve() as base_url:
        live, made = await check(base_url)
    assert live.made[0].state is state
    assert set(service.invoices.values()) == {"CANCELED"}
    assert verdicts(live, Verdict.DID_NOT_HOLD) == set()
    assert made.checks[-1].grade is Grade.OK


async def test_taking_back_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that does not answer any more keeps nobody for ever; what may be left is named."""
    monkeypatch.setattr("batchcancel.tasks.doctor.live.check._TAKE_BACK_S", 0.2)
    hangs = asyncio.Event()
    service = Differing()
    answer = service._respond

    async def hang(request: web.BaseRequest) -> web.StreamResponse:
        if service.requests["create"] == 3:
            await hangs.wait()
        return await answer(request)

    service._respond = hang  # type: ignore[method-assign]  # a service that falls silent
    async with service.serve() as base_url:
        made = examination(base_url)
        task = asyncio.create_task(made.run())
        while service.requests["create"] < 3:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        hangs.set()
    assert made.live_check is not None
    assert len(made.live_check.left) == 3
    assert made.checks[-1].grade is Grade.FAIL


# --- the table ------------------------------------------------------------------------------------


def test_names_of_facts_are_unique() -> None:
    """Programs go by them."""
    names = [fact.name for fact in FACTS]
    assert len(set(names)) == len(names) == 28


def test_the_docs_list_every_fact() -> None:
    """Name, sentence and who relies on it, in the same order."""
    page = (Path(__file__).parents[2] / "docs" / "live-check.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[:3] for line in page.splitlines() if line.startswith("| `")]
    assert [[cell.strip("| `") for cell in row] for row in rows] == [
        [fact.name, fact.sentence, fact.assumed_by] for fact in FACTS
    ]
