"""The job as a library: the real parts, the simulator over a real socket, real files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from batchcancel import BatchCancelError, Job, Outcome, Reason, RunState, Settings, Tally, load_settings
from batchcancel.errors import (
    ConservationError,
    LedgerWriteError,
    ManifestChangedError,
    SettingsError,
    UsageError,
)
from batchcancel.ledger.disk import LedgerFile
from batchcancel.model import (
    ClockSet,
    Event,
    GroupCommitted,
    PauseCause,
    PauseStarted,
    RequestFinished,
    Vitals,
)
from batchcancel.pipeline import Pipeline
from batchcancel.sandbox import (
    SANDBOX_KEY_ID,
    SANDBOX_MERCHANT_ID,
    SANDBOX_SECRET,
    Sandbox,
    SandboxOptions,
)

MakeSettings = Callable[..., Settings]
KEY = {
    "BATCHCANCEL_MERCHANT_ID": SANDBOX_MERCHANT_ID,
    "BATCHCANCEL_KEY_ID": SANDBOX_KEY_ID,
    "BATCHCANCEL_SHARED_SECRET": SANDBOX_SECRET,
}


@pytest.fixture
def settings_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSettings:
    """Make the settings of a run over the given ids, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def make(ids: list[str], **flags: Any) -> Settings:
        path = tmp_path / "invoices.txt"
        path.write_text("".join(f"{invoice_id}\n" for invoice_id in ids), encoding="utf-8")
        environ = {"HOME": str(tmp_path), **(KEY if "base_url" in flags else {})}
        return load_settings([path], environ=environ, env="sandbox", **flags)

    return make


def ledger_records(settings: Settings) -> list[dict[str, Any]]:
    """Read the ledger without the code that wrote it."""
    return [json.loads(line) for line in settings.ledger.read_text(encoding="utf-8").splitlines()]


async def test_results_come_once_they_are_on_disk(settings_for: MakeSettings) -> None:
    """Each yielded result stands in the file already; the summary follows the last one."""
    settings = settings_for(["1", "PAID-1", "MISSING-1", "b d"])
    async with Job(settings) as job:
        assert (job.check.rows, job.check.open, job.check.invalid, job.check.to_settle) == (4, 3, 1, 4)
        with pytest.raises(RuntimeError, match="not ended"):
            _ = job.summary
        seen = {}
        async for result in job.results():
            written = [row.get("invoice_id") for row in ledger_records(settings)]
            assert result.invoice_id in written
            seen[result.invoice_id] = result.outcome
    assert seen == {
        "1": Outcome.CANCELED,
        "PAID-1": Outcome.ALREADY_PAID,
        "MISSING-1": Outcome.ERROR,
        "b d": Outcome.ERROR,
    }
    assert job.summary.state is RunState.COMPLETE
    assert job.summary.tally.results[Reason.NOT_FOUND] == 1
    assert list(job.summary.amounts_canceled) == ["USD"]


async def test_vitals_can_be_asked_for_at_any_time(settings_for: MakeSettings) -> None:
    """Before the run, in its middle and after it; what has its row is not left."""
    settings = settings_for([str(number) for number in range(40)] + ["b d"], rate=200, concurrency=4)
    async with Job(settings) as job:
        before, none = job.vitals(), job.outcomes
        during = [job.vitals() async for _ in job.results()]
        after, outcomes = job.vitals(), job.outcomes
    at_rest = Vitals(
        in_flight=0, allowed_rate=200, set_rate=200, held_by=None, rows_left=41, is_stopping=False
    )
    assert before == at_rest
    assert 0 < during[0].rows_left < 41
    assert after == during[-1]
    assert list(none.items()) == [(outcome, 0) for outcome in Outcome]
    assert outcomes == none | {Outcome.CANCELED: 40, Outcome.ERROR: 1}
    assert after == replace(at_rest, rows_left=0, amounts_canceled=job.summary.amounts_canceled)


async def test_a_paused_job_sends_nothing_until_it_is_resumed(settings_for: MakeSettings) -> None:
    """Paused before it begins, and once more in its middle."""
    settings = settings_for([str(number) for number in range(40)], concurrency=4, rate=50)
    events: list[Event] = []
    async with Job(settings, on_event=events.append) as job:
        job.pause()
        assert job.vitals().held_by is PauseCause.BY_HAND
        running = asyncio.create_task(job.run())
        await asyncio.sleep(0.3)
        assert [event for event in events if isinstance(event, RequestFinished)] == []
        job.resume()
        while not any(isinstance(event, GroupCommitted) for event in events):
            await asyncio.sleep(0.001)
        job.pause()
        await asyncio.sleep(0.2)
        paused_at = len(events)
        await asyncio.sleep(0.2)
        assert (len(events), running.done(), job.vitals().in_flight) == (paused_at, False, 0)
        job.resume()
        summary = await running
    assert (summary.state, summary.tally.results) == (RunState.COMPLETE, {Reason.CANCELED: 40})


@pytest.mark.parametrize("is_early", [True, False], ids=["before-the-run", "in-its-middle"])
async def test_a_stop_ends_a_paused_job_at_once(settings_for: MakeSettings, *, is_early: bool) -> None:
    """Nothing else leaves, and what is open stays open."""
    settings = settings_for([str(number) for number in range(400)], concurrency=4, rate=200)
    async with Job(settings) as job:
        if is_early:
            job.pause()
        running = asyncio.create_task(job.run())
        while not is_early and job.vitals().rows_left == 400:
            await asyncio.sleep(0.001)
        job.pause()
        await asyncio.sleep(0.2)
        done = 400 - job.vitals().rows_left
        job.stop("SIGINT")
        summary = await asyncio.wait_for(running, 1.0)
    assert summary.state is RunState.INTERRUPTED
    assert summary.tally.open == 400 - done
    assert (done == 0) is is_early


async def test_leaving_the_loop_stops_and_drains(settings_for: MakeSettings) -> None:
    """A caller who has seen enough ends the run; the ledger is ended and the rest stays open."""
    settings = settings_for([str(number) for number in range(3000)], concurrency=2, rate=200)
    async with Job(settings) as job:
        async for _ in job.results():
            break
    records = ledger_records(settings)
    assert records[-1]["state"] == "interrupted"
    assert records[-1]["counts"]["open"] > 2000
    assert job.summary.tally.is_conserved


async def test_a_cancelled_run_ends_its_ledger(settings_for: MakeSettings) -> None:
    """Cancellation of the awaiting task is raised again once the ledger is ended."""
    settings = settings_for(["1", "HANG-1"])
    async with Job(settings) as job:
        running = asyncio.create_task(job.run())
        while len(ledger_records(settings)) < 2:
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    records = ledger_records(settings)
    assert [row.get("reason") for row in records] == [None, "canceled", "unknown", None]
    assert records[-1]["state"] == "interrupted"


async def test_a_refused_run_leaves_no_ledger(settings_for: MakeSettings) -> None:
    """Where nothing began there is nothing to find afterwards; the lock is free again."""
    settings = settings_for(["1"], column="invoice")
    with pytest.raises(UsageError):
        async with Job(settings):
            pytest.fail("a plain list has no columns")
    assert not settings.ledger.exists()
    async with Job(settings_for(["1"])) as job:
        await job.run()
    assert settings.ledger.exists()


async def test_every_error_is_the_packages_own(settings_for: MakeSettings, tmp_path: Path) -> None:
    """Callers catch one root; private roots that are no certificates are found before anything opens."""
    (tmp_path / "roots.pem").write_text("no certificate", encoding="ascii")
    async with Sandbox(SandboxOptions()) as sandbox:
        settings = settings_for(["1"], base_url=sandbox.base_url, ca_file="roots.pem")
        with pytest.raises(SettingsError) as caught:
            async with Job(settings):
                pytest.fail("must not open")
    assert isinstance(caught.value, BatchCancelError)
    assert not settings.ledger.exists()


async def test_a_stop_before_anything_was_sent_is_an_interruption(settings_for: MakeSettings) -> None:
    """A run that is stopped at once sends nothing, and says so in the ledger."""
    settings = settings_for(["1", "2"])
    async with Job(settings) as job:
        job.stop("SIGTERM")
        summary = await job.run()
    assert (summary.state, summary.why, summary.tally) == (
        RunState.INTERRUPTED,
        "SIGTERM",
        Tally(rows=2, open=2),
    )
    assert [record["type"] for record in ledger_records(settings)] == ["run", "end"]


async def test_a_stop_while_the_service_is_down_ends_the_wait(settings_for: MakeSettings) -> None:
    """Interrupted before the first signed read was answered: nothing was sent."""
    settings = settings_for(["1"], base_url="http://127.0.0.1:1")
    async with Job(settings) as job:
        asyncio.get_running_loop().call_later(0.2, job.stop, "SIGINT")
        summary = await job.run()
    assert (summary.state, summary.tally.open) == (RunState.INTERRUPTED, 1)


async def test_a_manifest_that_changes_after_the_check_stops_the_run(settings_for: MakeSettings) -> None:
    """What would be canceled is not what was checked any more: exit 4, rows open."""
    settings = settings_for(["1", "2"])
    async with Job(settings) as job:
        with Path(settings.manifests[0]).open("a", encoding="utf-8") as manifest:
            manifest.write("3\n")
        summary = await job.run()
    assert summary.state is RunState.STOPPED
    assert "changed" in (summary.why or "")
    assert summary.tally.open == 2
    assert issubclass(ManifestChangedError, BatchCancelError)
    assert ledger_records(settings)[-1]["why"] == summary.why


async def test_a_full_disk_stops_the_run_with_what_is_on_it(
    settings_for: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is claimed that is not on disk: what was yielded is what the file holds."""
    settings = settings_for([str(number) for number in range(500)], concurrency=4)
    append = LedgerFile.append
    is_full = False

    def append_until_full(file: LedgerFile, data: bytes) -> float:
        """Take one group of results, which never holds all 500: fewer than that may wait for the disk."""
        nonlocal is_full
        if is_full:
            raise LedgerWriteError("No space left on device.")
        is_full = b'"type":"result"' in data
        return append(file, data)

    monkeypatch.setattr(LedgerFile, "append", append_until_full)
    seen = []
    async with Job(settings) as job:
        with pytest.raises(LedgerWriteError):
            async for result in job.results():
                seen.append(result.invoice_id)  # noqa: PERF401 - the error comes in between
    rows = [record["invoice_id"] for record in ledger_records(settings) if record["type"] == "result"]
    assert seen == rows
    assert 0 < len(rows) < 500


async def test_a_defect_ends_the_ledger_and_is_raised(
    settings_for: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected exception is no safety stop; the ledger says that the run broke off."""

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Pipeline, "run", broken)
    settings = settings_for(["1"])
    async with Job(settings) as job:
        with pytest.raises(ZeroDivisionError):
            await job.run()
    assert ledger_records(settings)[-1]["why"] == "a defect in the program"


async def test_rows_that_do_not_add_up_are_a_defect(
    settings_for: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A violated conservation is named and never passes as complete."""
    monkeypatch.setattr(Pipeline, "tally", lambda _self: Tally(rows=1, open=2))
    settings = settings_for(["1"])
    async with Job(settings) as job:
        with pytest.raises(ConservationError, match="do not add up"):
            await job.run()
    assert ledger_records(settings)[-1]["state"] == "stopped"


async def test_a_clock_that_is_an_hour_off_costs_one_read(settings_for: MakeSettings) -> None:
    """The first signed read is refused, sets the clock, and everything after it is accepted."""
    events: list[Event] = []
    async with Sandbox(SandboxOptions(clock_offset_s=3600)) as sandbox:
        settings = settings_for(["1", "PAID-1"], base_url=sandbox.base_url)
        async with Job(settings, on_event=events.append) as job:
            summary = await job.run()
    assert summary.state is RunState.COMPLETE
    statuses = [event.http_status for event in events if isinstance(event, RequestFinished)]
    assert statuses.count(401) == 1
    (clock,) = [event for event in events if isinstance(event, ClockSet)]
    assert clock.offset_s == pytest.approx(3600, abs=3)


async def test_a_service_that_throttles_is_waited_for_by_all(settings_for: MakeSettings) -> None:
    """Refused for their rate, all invoices get their answer, and no row says rate_limited."""
    events: list[Event] = []
    async with Sandbox(SandboxOptions(rate_limit=20, retry_after_s=1)) as sandbox:
        settings = settings_for([str(number) for number in range(60)], base_url=sandbox.base_url)
        async with Job(settings, on_event=events.append) as job:
            summary = await job.run()
    assert summary.tally.results == {Reason.CANCELED: 60}
    assert any(isinstance(event, PauseStarted) for event in events)
    groups = [event for event in events if isinstance(event, GroupCommitted)]
    assert sum(len(group.results) for group in groups) == 60


async def test_an_outage_in_the_middle_writes_no_error(settings_for: MakeSettings) -> None:
    """Four seconds of 503 for everything: the run waits, and every row is canceled."""
    async with Sandbox(SandboxOptions(outage=(0.3, 4.0), latency_ms=20)) as sandbox:
        settings = settings_for([str(number) for number in range(200)], base_url=sandbox.base_url, rate=100)
        async with Job(settings) as job:
            summary = await job.run()
        assert {sandbox.state(str(number)) for number in range(200)} == {"CANCELED"}
    assert summary.tally.results == {Reason.CANCELED: 200}


async def test_sums_are_exact_decimals_by_currency(settings_for: MakeSettings) -> None:
    """The amounts of the summary are the sums of the ledger's strings, to the last digit."""
    settings = settings_for([str(number) for number in range(100)])
    async with Job(settings) as job:
        summary = await job.run()
    sums: dict[str, Decimal] = {}
    for row in ledger_records(settings):
        if row["type"] == "result":
            sums[row["currency"]] = sums.get(row["currency"], Decimal(0)) + Decimal(row["amount"])
    assert {code: Decimal(total) for code, total in summary.amounts_canceled.items()} == sums
    assert len(sums) > 1
