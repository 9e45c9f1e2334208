"""A ledger against the simulator over a real socket: every state, faults, merchants, and what is held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchcancel.errors import ConservationError, LedgerMismatchError
from batchcancel.job.course import Ending
from batchcancel.job.reading import Reading
from batchcancel.model import Reason, RunState, Skip, SkipReason
from batchcancel.report.reading import open_ledgers
from batchcancel.sandbox import (
    SANDBOX_KEY_ID,
    SANDBOX_MERCHANT_ID,
    SANDBOX_PORTFOLIO_ID,
    SANDBOX_SECRET,
    Sandbox,
    SandboxOptions,
)
from batchcancel.settings import load_settings
from batchcancel.tasks.reconcile import (
    Comparison,
    Mark,
    Note,
    Reconciliation,
    Sample,
    check_account,
    first_run_of,
    merchant_column_of,
)

if TYPE_CHECKING:
    from tests.conftest import WriteLedger

KEY = {
    "BATCHCANCEL_MERCHANT_ID": SANDBOX_MERCHANT_ID,
    "BATCHCANCEL_KEY_ID": SANDBOX_KEY_ID,
    "BATCHCANCEL_SHARED_SECRET": SANDBOX_SECRET,
}
READS = {"get", "list"}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Serve a simulator without faults of its own."""
    async with Sandbox(SandboxOptions()) as server:
        yield server


async def reconcile(
    ledger: Path,
    sandbox: Sandbox,
    *,
    sample: Sample | None = None,
    environ: dict[str, str] | None = None,
    **flags: Any,
) -> tuple[list[Comparison], Ending, int]:
    """Compare as the command does; also return the most rows that were in hand."""
    settings = load_settings(
        (),
        environ={"HOME": str(ledger.parent), **(KEY if environ is None else environ)},
        for_run=False,
        env="sandbox",
        base_url=sandbox.base_url,
        ledger=str(ledger),
        merchant_column=merchant_column_of(ledger),
        **flags,
    )
    found: list[Comparison] = []
    most = 0

    def take(one: Comparison) -> None:
        nonlocal most
        found.append(one)
        if is_counted:
            most = max(most, len(reconciliation._in_hand))

    is_counted = False
    with open_ledgers([ledger]) as read:
        reconciliation = Reconciliation(read, sample=sample, on_comparison=take)
        is_counted = True
        async with Reading(settings) as reading:
            await reading.open(reconciliation.census.in_sample_of.keys())
            ending = await reconciliation.look_up(reading)
    assert set(sandbox.requests) <= READS
    return found, ending, most


def marks(found: list[Comparison]) -> dict[str, tuple[str, Note | None]]:
    """Return mark and note of each invoice."""
    return {one.invoice_id: (one.mark.value, one.note) for one in found}


def in_sandbox(**run: Any) -> dict[str, Any]:
    """Make a run that the simulator's merchant may ask about."""
    return {"env": "sandbox", "merchant_id": SANDBOX_MERCHANT_ID, **run}


async def test_every_state_is_compared(tmp_path: Path, write_ledger: WriteLedger, sandbox: Sandbox) -> None:
    """Each reason of a ledger against each kind of answer; invalid ids are not asked about."""
    rows = [
        ("CANCELED-1", "canceled"),
        ("CANCELED-2", "already_canceled"),
        ("PAID-1", "paid"),
        ("PARTIAL-1", "partial"),
        ("MISSING-1", "not_found"),
        ("1", "network"),
        ("UNKNOWNSTATUS-1", "unknown_status"),
        ("PENDING-1", "pending"),
        ("b@d", "invalid_id"),
        ("2", "canceled"),
        ("PAID-2", "canceled"),
        ("PAID-3", "partial"),
        ("CANCELED-3", "unknown"),
        ("3", "not_found"),
        ("MISSING-2", "canceled"),
        ("MISSING-3", "network"),
        ("FORBIDDEN-1", "canceled"),
        ("ERROR500-1", "paid"),
    ]
    ledger = write_ledger(
        tmp_path / "l", *({"invoice_id": one, "reason": reason} for one, reason in rows), **in_sandbox()
    )
    before = (ledger.read_bytes(), ledger.stat())
    found, ending, _ = await reconcile(ledger, sandbox, max_attempts=2)
    assert ending.state is RunState.COMPLETE
    assert marks(found) == {
        "CANCELED-1": ("=", None),
        "CANCELED-2": ("=", None),
        "PAID-1": ("=", None),
        "PARTIAL-1": ("=", None),
        "MISSING-1": ("=", None),
        "1": ("=", None),
        "UNKNOWNSTATUS-1": ("=", None),
        "PENDING-1": ("=", None),
        "2": ("*", None),
        "PAID-2": ("*", None),
        "PAID-3": ("*", Note.PAID_SINCE),
        "CANCELED-3": ("*", Note.RUN_AGAIN),
        "3": ("*", Note.APPEARED),
        "MISSING-2": ("-", None),
        "MISSING-3": ("*", Note.RUN_AGAIN),
        "FORBIDDEN-1": ("!", None),
        "ERROR500-1": ("!", None),
    }
    assert {one.service for one in found if one.mark is Mark.UNREAD} == {"refused", "server_error"}
    after = ledger.stat()
    assert ledger.read_bytes() == before[0]
    assert (after.st_mtime_ns, after.st_ino, after.st_size) == (
        before[1].st_mtime_ns,
        before[1].st_ino,
        before[1].st_size,
    )
    assert [one for one in sandbox.invoices if sandbox.state(one) == "CANCELED"] == [
        "CANCELED-1",
        "CANCELED-2",
        "CANCELED-3",
    ]


async def test_the_latest_row_counts(tmp_path: Path, write_ledger: WriteLedger, sandbox: Sandbox) -> None:
    """An earlier error is no difference once a later run has the answer."""
    ledger = write_ledger(
        tmp_path / "l", {"invoice_id": "PAID-1", "reason": "unknown"}, run_id="a", **in_sandbox()
    )
    write_ledger(ledger, {"invoice_id": "PAID-1", "reason": "paid"}, run_id="b", **in_sandbox())
    found, _, _ = await reconcile(ledger, sandbox)
    assert marks(found) == {"PAID-1": ("=", None)}


async def test_throttling_and_faults_are_waited_out(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """Every 429, 5xx, page and reset is asked again, and none is taken for a difference."""
    ids = [f"CANCELED-{number}" for number in range(60)]
    ledger = write_ledger(tmp_path / "l", *({"invoice_id": one} for one in ids), **in_sandbox())
    options = SandboxOptions(
        rate_limit=50, retry_after_s=1, error_share=0.1, reset_before_share=0.1, html_share=0.1, seed=2
    )
    async with Sandbox(options) as server:
        found, ending, _ = await reconcile(ledger, server)
        assert server.requests["get"] > len(ids) + 10
    assert ending.state is RunState.COMPLETE
    assert marks(found) == dict.fromkeys(ids, ("=", None))


async def test_each_merchant_of_a_portfolio_is_asked_as_such(
    tmp_path: Path, write_ledger: WriteLedger
) -> None:
    """The same id of two merchants is two invoices, and the line says whose it is."""
    shops = ("north", "south")
    ledger = write_ledger(
        tmp_path / "l",
        {"invoice_id": "CANCELED-1", "merchant_id": "north"},
        {"invoice_id": "CANCELED-1", "merchant_id": "south", "reason": "paid"},
        {"invoice_id": "PAID-1", "merchant_id": "south", "reason": "paid"},
        env="sandbox",
        merchant_id=SANDBOX_PORTFOLIO_ID,
        options={"merchant_column": "shop"},
    )
    options = SandboxOptions(
        merchant_id=SANDBOX_PORTFOLIO_ID, portfolio_id=SANDBOX_PORTFOLIO_ID, merchants=shops
    )
    environ = {**KEY, "BATCHCANCEL_PORTFOLIO_ID": SANDBOX_PORTFOLIO_ID}
    del environ["BATCHCANCEL_MERCHANT_ID"]
    async with Sandbox(options) as server:
        found, _, _ = await reconcile(ledger, server, environ=environ)
        assert server.state("CANCELED-1", "north") == server.state("CANCELED-1", "south") == "CANCELED"
        assert server.state("PAID-1", "north") is None
    assert sorted((one.merchant_id, one.invoice_id, one.mark.value) for one in found) == [
        ("north", "CANCELED-1", "="),
        ("south", "CANCELED-1", "*"),
        ("south", "PAID-1", "="),
    ]


async def test_a_sample_is_drawn_again_by_its_seed(
    tmp_path: Path, write_ledger: WriteLedger, sandbox: Sandbox
) -> None:
    """Invalid ids and replaced rows are in no sample; its size is its share."""
    rows = [{"invoice_id": f"CANCELED-{number}"} for number in range(50)]
    invalid = [{"invoice_id": f"b@d{number}", "reason": "invalid_id"} for number in range(50)]
    ledger = write_ledger(tmp_path / "l", *rows, *rows[:5], *invalid, **in_sandbox())
    first, _, _ = await reconcile(ledger, sandbox, sample=Sample(percent=20, seed=1))
    again, _, _ = await reconcile(ledger, sandbox, sample=Sample(percent=20, seed=1))
    other, _, _ = await reconcile(ledger, sandbox, sample=Sample(percent=20, seed=2))
    assert len(first) == len(other) == 10
    assert marks(first) == marks(again) != marks(other)


async def test_what_names_no_invoice_is_told_and_not_asked(
    tmp_path: Path, write_ledger: WriteLedger, sandbox: Sandbox
) -> None:
    """A ledger that somebody wrote by hand leads to no other endpoint and no other header."""
    ledger = write_ledger(
        tmp_path / "l",
        {"invoice_id": "../../../pts/v2/payments"},
        {"invoice_id": "1\r\nX-Evil: 1"},
        {"invoice_id": "1", "merchant_id": "a\r\nX-Evil: 1"},
        {"invoice_id": "CANCELED-1"},
        **in_sandbox(),
    )
    found, _, _ = await reconcile(ledger, sandbox)
    assert [(one.mark.value, one.note) for one in found] == [("!", Note.NOT_ASKED)] * 3 + [("=", None)]
    assert list(sandbox.invoices) == ["CANCELED-1"]


async def test_memory_holds_what_is_under_way(
    tmp_path: Path, write_ledger: WriteLedger, sandbox: Sandbox
) -> None:
    """A batch and the pipeline's own rows, however long the ledger is; none that was passed over."""
    rows = [{"invoice_id": f"CANCELED-{number}"} for number in range(5000)]
    ledger = write_ledger(tmp_path / "l", *rows, **in_sandbox())
    found, _, most = await reconcile(ledger, sandbox)
    assert len(found) == 5000
    assert most < 1100


async def test_a_merchant_that_is_refused_stops_alone(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """Its rows are not reached, those of others are compared, and nothing of it stays in memory."""
    refused = [{"invoice_id": f"CANCELED-{number}", "merchant_id": "nobody"} for number in range(3000)]
    ledger = write_ledger(
        tmp_path / "l",
        *refused,
        *({"invoice_id": f"CANCELED-{number}", "merchant_id": "north"} for number in range(20)),
        env="sandbox",
        merchant_id=SANDBOX_PORTFOLIO_ID,
        options={"merchant_column": "shop"},
    )
    options = SandboxOptions(
        merchant_id=SANDBOX_PORTFOLIO_ID, portfolio_id=SANDBOX_PORTFOLIO_ID, merchants=("north",)
    )
    environ = {**KEY, "BATCHCANCEL_PORTFOLIO_ID": SANDBOX_PORTFOLIO_ID}
    async with Sandbox(options) as server:
        found, ending, most = await reconcile(ledger, server, environ=environ)
    assert most < 1100
    assert ending.state is RunState.STOPPED
    assert ending.why is not None
    assert "1 of 2 merchants were stopped" in ending.why
    assert {one.merchant_id for one in found} == {"north"}
    assert len(found) == 20


async def test_a_limit_stops_where_it_was_asked(
    tmp_path: Path, write_ledger: WriteLedger, sandbox: Sandbox
) -> None:
    """The first of the ledger are compared, the rest is left."""
    rows = [{"invoice_id": f"CANCELED-{number}"} for number in range(9)]
    ledger = write_ledger(tmp_path / "l", *rows, **in_sandbox())
    found, ending, _ = await reconcile(ledger, sandbox, limit=4)
    assert (len(found), ending.as_asked) == (4, True)


async def test_an_outage_is_a_safety_stop(
    tmp_path: Path, write_ledger: WriteLedger, sandbox: Sandbox
) -> None:
    """Nobody listens: nothing is marked as unread, the rows are not reached."""
    rows = [{"invoice_id": f"CANCELED-{number}"} for number in range(20)]
    ledger = write_ledger(tmp_path / "l", *rows, **in_sandbox())
    await sandbox.__aexit__(None, None, None)
    found, ending, _ = await reconcile(ledger, sandbox, max_outage=0)
    assert (found, ending.state, ending.as_asked) == ([], RunState.STOPPED, False)


async def test_a_row_that_was_not_asked_about_is_a_defect(tmp_path: Path, write_ledger: WriteLedger) -> None:
    """Nothing that is handed over may end without a look-up."""
    ledger = write_ledger(tmp_path / "l", {"invoice_id": "1"}, **in_sandbox())
    with open_ledgers([ledger]) as read:
        one = Reconciliation(read, on_comparison=lambda _: None)
        with pytest.raises(ConservationError, match="which is a defect"):
            await one.append(Skip(row=1, invoice_id="1", why=SkipReason.DUPLICATE))
        with pytest.raises(ConservationError, match="Of 1 invoices 0 were compared"):
            await one.look_up(_Idle())  # type: ignore[arg-type]  # nothing else is asked of it


class _Idle:
    """Claims to have looked everything up."""

    async def look_up(self, *_: Any, **__: Any) -> Ending:
        await asyncio.sleep(0)
        return Ending(state=RunState.COMPLETE)


@pytest.mark.parametrize(
    ("run", "env", "merchant_id", "sentence"),
    [
        ({}, "test", "example_merchant", None),
        ({}, "production", "example_merchant", "another environment than production"),
        ({}, "test", "somebody", "another merchant"),
    ],
    ids=["the same", "environment", "merchant"],
)
def test_a_ledger_of_another_account_is_refused(
    tmp_path: Path,
    write_ledger: WriteLedger,
    run: dict[str, Any],
    env: str,
    merchant_id: str,
    sentence: str | None,
) -> None:
    """Ids mean something else there."""
    first = first_run_of(write_ledger(tmp_path / "l", {"reason": Reason.PAID}, **run))
    assert first is not None
    if sentence is None:
        check_account(first, env=env, merchant_id=merchant_id, ledger="l")
        return
    with pytest.raises(LedgerMismatchError, match=sentence):
        check_account(first, env=env, merchant_id=merchant_id, ledger="l")


def test_a_file_without_a_first_run_names_no_merchants(tmp_path: Path) -> None:
    """What it is, the whole reading says."""
    (tmp_path / "l").write_bytes(b"")
    assert merchant_column_of(tmp_path / "l") is None
    (tmp_path / "l").write_bytes(b"x\n")
    assert merchant_column_of(tmp_path / "l") is None
