"""What the service and the way to it can do to a run: silence, outages, refusals, a clock of its own."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import (
        ReadLedger,
        RunCommand,
        Simulator,
        StartRelay,
        StartRun,
        StartSimulator,
    )

LEDGER = "ledger.jsonl"


def write_manifest(folder: Path, ids: list[str]) -> None:
    """Write ``ids.txt``."""
    (folder / "ids.txt").write_text("\n".join(ids), encoding="utf-8")


def operations(simulator: Simulator) -> Counter[str]:
    """Count what has arrived by operation."""
    return Counter(request["operation"] for request in simulator.requests())


def results(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pick the result rows."""
    return [record for record in records if record["type"] == "result"]


def assert_no_post_without_look_up(simulator: Simulator) -> None:
    """No cancelation of an invoice follows another that went unanswered without a look-up between."""
    in_doubt: set[str] = set()
    for request in simulator.requests():
        invoice_id, status = request["invoice_id"], request["http_status"]
        if request["operation"] == "get":
            in_doubt.discard(invoice_id)
        elif request["operation"] == "cancel":
            assert invoice_id not in in_doubt
            if status is None or status < 400 or status >= 500:
                in_doubt.add(invoice_id)


def test_a_reply_that_never_comes_costs_one_post_and_one_look_up(
    run_command: RunCommand, simulator: Simulator, read_ledger: ReadLedger, tmp_path: Path
) -> None:
    """After the time-out the cancelation is found by looking, for each of many."""
    ids = [f"HANG-{number}" for number in range(12)]
    write_manifest(tmp_path, ids)
    ended = run_command(
        "run", "ids.txt", "--ledger", LEDGER, *simulator.flags, "--timeout", "1", env=simulator.env
    )
    assert ended.returncode == 0, ended.stderr
    asked = {
        invoice_id: [
            request["operation"] for request in simulator.requests() if request["invoice_id"] == invoice_id
        ]
        for invoice_id in ids
    }
    assert set(map(tuple, asked.values())) == {("cancel", "get")}
    rows = results(read_ledger(tmp_path / LEDGER))
    assert {(row["reason"], row["resolved_by"], row["attempts"], row["lookups"]) for row in rows} == {
        ("canceled", "lookup", 1, 1)
    }


@pytest.mark.parametrize("offset_s", [3600, -3600], ids=["an-hour-ahead", "an-hour-behind"])
def test_a_clock_that_is_an_hour_off_is_said_once_and_costs_a_request(
    run_command: RunCommand,
    start_simulator: StartSimulator,
    start_run: StartRun,
    read_ledger: ReadLedger,
    tmp_path: Path,
    offset_s: int,
) -> None:
    """Killed in between, too, the run tells its own cancelations from earlier ones by the service's clock."""
    simulator = start_simulator("--clock-offset-s", str(offset_s), "--latency-ms", "20")
    ids = [f"{'CANCELED-' if number % 5 == 0 else ''}{number}" for number in range(150)]
    write_manifest(tmp_path, ids)
    with start_run(simulator, "ids.txt", "--ledger", LEDGER, "--concurrency", "8") as process:
        simulator.wait_for("cancel", 30)
        process.kill()
    ended = run_command("run", "ids.txt", "--ledger", LEDGER, *simulator.flags, env=simulator.env)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("clock.set") == 1
    refused = [request for request in simulator.requests() if request["http_status"] == 401]
    # The first read of each run.
    assert [request["operation"] for request in refused] == ["list", "list"]
    rows = results(read_ledger(tmp_path / LEDGER))
    assert {row["invoice_id"]: row["reason"] for row in rows} == {
        invoice_id: "already_canceled" if invoice_id.startswith("CANCELED-") else "canceled"
        for invoice_id in ids
    }


def test_an_outage_of_ten_seconds_is_ridden_out(
    run_command: RunCommand, start_simulator: StartSimulator, read_ledger: ReadLedger, tmp_path: Path
) -> None:
    """No row is an error, no attempt is used up, nothing is asked twice without a look-up between."""
    simulator = start_simulator("--latency-ms", "40", "--outage", "0.5", "10")
    ids = [str(number) for number in range(300)]
    write_manifest(tmp_path, ids)
    ended = run_command(
        *("run", "ids.txt", "--ledger", LEDGER, *simulator.flags, "--max-attempts", "2"), env=simulator.env
    )
    assert ended.returncode == 0, ended.stderr
    rows = results(read_ledger(tmp_path / LEDGER))
    assert Counter(row["invoice_id"] for row in rows) == Counter(ids)
    assert {row["reason"] for row in rows} == {"canceled"}
    assert_no_post_without_look_up(simulator)
    during = Counter(request["operation"] for request in simulator.requests() if request["cause"] == "outage")
    # Until the streak is looked into, for two seconds; then only signed reads go out, with back-off.
    assert during["list"] < 12
    committed = Counter(request["invoice_id"] for request in simulator.requests() if request["committed"])
    assert committed == Counter(ids)


def test_a_job_of_one_row_survives_an_outage_at_its_start(
    run_command: RunCommand, start_simulator: StartSimulator, read_ledger: ReadLedger, tmp_path: Path
) -> None:
    """Down from the very first request on, the service is waited for."""
    simulator = start_simulator("--outage", "0", "3")
    write_manifest(tmp_path, ["1"])
    ended = run_command(
        *("run", "ids.txt", "--ledger", LEDGER, *simulator.flags, "--max-attempts", "2"), env=simulator.env
    )
    assert ended.returncode == 0, ended.stderr
    (row,) = results(read_ledger(tmp_path / LEDGER))
    assert (row["reason"], simulator.requests()[-1]["committed"]) == ("canceled", True)
    assert_no_post_without_look_up(simulator)


def test_a_service_that_says_come_back_tomorrow_stops_the_run_at_once(
    run_command: RunCommand, start_simulator: StartSimulator, read_ledger: ReadLedger, tmp_path: Path
) -> None:
    """A Retry-After of a day: exit 4 within seconds, and what was not served is open, not wrong."""
    simulator = start_simulator("--rate-limit", "10", "--retry-after-s", "86400")
    ids = [str(number) for number in range(60)]
    write_manifest(tmp_path, ids)
    began_at = time.monotonic()
    ended = run_command(
        "run", "ids.txt", "--ledger", LEDGER, *simulator.flags, "--concurrency", "4", env=simulator.env
    )
    assert ended.returncode == 4, ended.stderr
    assert time.monotonic() - began_at < 20
    assert "86400 s" in ended.stderr
    records = read_ledger(tmp_path / LEDGER)
    committed = {request["invoice_id"] for request in simulator.requests() if request["committed"]}
    assert {row["invoice_id"]: row["reason"] for row in results(records)} == dict.fromkeys(
        committed, "canceled"
    )
    assert (records[-1]["state"], records[-1]["counts"]["open"]) == ("stopped", len(ids) - len(committed))


def test_an_authentication_incident_that_comes_and_goes_writes_no_wrong_row(
    run_command: RunCommand,
    start_simulator: StartSimulator,
    start_relay: StartRelay,
    start_run: StartRun,
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> None:
    """For seconds every other moment refuses every key; rows stay open or are right, never refused."""
    simulator = start_simulator("--latency-ms", "10")
    first_at: list[float] = []

    def refuse(_method: str, _path: str) -> int | None:
        first_at.append(time.monotonic())
        since_s = first_at[-1] - first_at[0]
        return 401 if 0.5 < since_s < 3.5 and int(since_s / 0.3) % 2 else None

    ids = [str(number) for number in range(800)]
    write_manifest(tmp_path, ids)
    relay = start_relay(simulator, refuse)
    with start_run(simulator, "ids.txt", "--ledger", LEDGER, "--concurrency", "4", base_url=relay) as process:
        _, err = process.communicate(timeout=90)
    assert process.returncode in {0, 4}, err
    assert len(first_at) > operations(simulator).total(), "there was no incident"
    rows = results(read_ledger(tmp_path / LEDGER))
    assert {row["reason"] for row in rows} == {"canceled"}
    ended = run_command("run", "ids.txt", "--ledger", LEDGER, *simulator.flags, env=simulator.env)
    assert ended.returncode == 0, ended.stderr
    assert Counter(row["invoice_id"] for row in results(read_ledger(tmp_path / LEDGER))) == Counter(ids)
    assert simulator.posts() == Counter(ids)


def test_forbidden_invoices_stop_nobody_and_pause_nobody(
    run_command: RunCommand, start_simulator: StartSimulator, read_ledger: ReadLedger, tmp_path: Path
) -> None:
    """A third of the manifest may not be touched: those are refused, the others canceled, in no more time."""
    simulator = start_simulator("--latency-ms", "5")
    ids = [f"{'FORBIDDEN-' if number % 3 == 0 else ''}{number}" for number in range(450)]
    write_manifest(tmp_path, ids)
    began_at = time.monotonic()
    ended = run_command(
        "run", "ids.txt", "--ledger", LEDGER, *simulator.flags, "--max-outage", "120", env=simulator.env
    )
    assert ended.returncode == 3, ended.stderr
    # One pause of the key's signed reads each (0, 5 and 15 s) would take minutes.
    assert time.monotonic() - began_at < 30
    rows = results(read_ledger(tmp_path / LEDGER))
    assert {row["invoice_id"]: row["reason"] for row in rows} == {
        invoice_id: "refused" if invoice_id.startswith("FORBIDDEN-") else "canceled" for invoice_id in ids
    }


def test_one_forbidden_invoice_alone_is_refused_and_stops_nothing(
    run_command: RunCommand, simulator: Simulator, read_ledger: ReadLedger, tmp_path: Path
) -> None:
    """With nobody else to vouch for the key the signed read does, at once."""
    write_manifest(tmp_path, ["FORBIDDEN-1"])
    ended = run_command("run", "ids.txt", "--ledger", LEDGER, *simulator.flags, env=simulator.env)
    assert ended.returncode == 3, ended.stderr
    (row,) = results(read_ledger(tmp_path / LEDGER))
    assert row["reason"] == "refused"
    # POST and look-up, each signed afresh once, between the greeting and the word about the key.
    assert [request["operation"] for request in simulator.requests()] == [
        *("list", "cancel", "cancel", "get", "get", "list")
    ]


def test_poisoned_invoices_at_the_head_are_no_outage(
    run_command: RunCommand, simulator: Simulator, read_ledger: ReadLedger, tmp_path: Path
) -> None:
    """Sixteen that always fail fill every slot; they end in errors and the rest is canceled."""
    poisoned = [f"ERROR500-{number}" for number in range(16)]
    sound = [str(number) for number in range(150)]
    write_manifest(tmp_path, [*poisoned, *sound])
    ended = run_command(
        *("run", "ids.txt", "--ledger", LEDGER, *simulator.flags),
        *("--max-attempts", "3", "--max-outage", "30", "--log-level", "info", "--log-format", "json"),
        env=simulator.env,
    )
    assert ended.returncode == 3, ended.stderr
    rows = {row["invoice_id"]: row["reason"] for row in results(read_ledger(tmp_path / LEDGER))}
    assert rows == dict.fromkeys(poisoned, "unknown") | dict.fromkeys(sound, "canceled")
    events = [json.loads(line)["event"] for line in ended.stderr.splitlines() if line.startswith("{")]
    # A streak is looked into by one signed read, which shows that the service is well.
    assert events.count("pause.started") <= 3
    assert operations(simulator)["list"] <= 1 + 3


def test_cancelations_that_fail_for_seconds_while_look_ups_work_are_ridden_out(
    simulator: Simulator,
    start_relay: StartRelay,
    start_run: StartRun,
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> None:
    """Half of the service is down: every row gets its answer, and no pause follows on the other."""
    first_at: list[float] = []

    def refuse(method: str, _path: str) -> int | None:
        first_at.append(time.monotonic())
        return 503 if method == "POST" and first_at[-1] - first_at[0] < 3 else None

    ids = [str(number) for number in range(60)]
    write_manifest(tmp_path, ids)
    relay = start_relay(simulator, refuse)
    with start_run(
        *(simulator, "ids.txt", "--ledger", LEDGER, "--concurrency", "8", "--max-attempts", "8"),
        *("--log-level", "info", "--log-format", "json"),
        base_url=relay,
    ) as process:
        _, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    rows = results(read_ledger(tmp_path / LEDGER))
    assert {row["invoice_id"]: row["reason"] for row in rows} == dict.fromkeys(ids, "canceled")
    assert simulator.posts() == Counter(ids)
    events = [json.loads(line)["event"] for line in err.splitlines() if line.startswith("{")]
    assert events.count("pause.started") <= 2


def test_cancelations_that_fail_for_good_while_look_ups_work_stop_the_run(
    simulator: Simulator,
    start_relay: StartRelay,
    start_run: StartRun,
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> None:
    """The share of errors ends it: exit 4 with rows open, no pause after pause, nothing claimed."""
    ids = [str(number) for number in range(400)]
    write_manifest(tmp_path, ids)
    relay = start_relay(simulator, lambda method, _path: 503 if method == "POST" else None)
    with start_run(
        *(simulator, "ids.txt", "--ledger", LEDGER, "--concurrency", "16", "--max-attempts", "2"),
        *("--log-level", "info", "--log-format", "json"),
        base_url=relay,
    ) as process:
        _, err = process.communicate(timeout=90)
    assert process.returncode == 4, err
    records = read_ledger(tmp_path / LEDGER)
    assert {row["reason"] for row in results(records)} == {"unknown"}
    end = records[-1]
    assert (end["state"], end["counts"]["open"]) == ("stopped", len(ids) - len(results(records)))
    assert end["counts"]["open"] > 0
    assert "--max-error-rate" in end["why"]
    events = [json.loads(line)["event"] for line in err.splitlines() if line.startswith("{")]
    assert events.count("pause.started") <= 2
