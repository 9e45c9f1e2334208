"""Gates and safety stops by the installed command: what is let through, what stops a run, and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import ReadLedger, RunCommand, Simulator, StartSimulator

LEDGER = "invoices.sandbox.ledger.jsonl"
SANDBOX = ("--env", "sandbox", "--progress", "none")


def write_manifest(folder: Path, lines: list[str], header: str = "invoice_id") -> Path:
    """Write a CSV."""
    path = folder / "invoices.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def numbered(count: int, prefix: str = "INV-") -> list[str]:
    """Return that many ids."""
    return [f"{prefix}{number}" for number in range(count)]


def results(records: list[dict[str, Any]]) -> dict[str, str]:
    """Return each invoice's latest reason."""
    return {record["invoice_id"]: record["reason"] for record in records if record["type"] == "result"}


def asked(simulator: Simulator) -> set[str]:
    """Return the invoices that the service was asked about."""
    return {request["invoice_id"] for request in simulator.requests() if request["invoice_id"]}


@pytest.mark.parametrize(
    ("expected", "code"),
    [("3", 0), ("1-3", 0), ("2", 2), ("4-9", 2)],
    ids=["the number", "in the range", "another number", "outside"],
)
def test_the_count_is_held_against_the_manifest(
    run_command: RunCommand, tmp_path: Path, expected: str, code: int
) -> None:
    """Distinct valid ids count; a refusal sends nothing and leaves no ledger."""
    manifest = write_manifest(tmp_path, ["1", "2", "3", "1", "b@d"])
    ended = run_command("run", manifest, *SANDBOX, "--expect-count", expected)
    assert ended.returncode == (code or 3), ended.stderr  # the invalid id is an error row
    assert ("--expect-count says" in ended.stderr) == (code == 2)
    assert (tmp_path / LEDGER).exists() == (code == 0)


def test_an_empty_manifest_is_not_what_was_expected(run_command: RunCommand, tmp_path: Path) -> None:
    """A nightly export that came out empty must not pass for a night without work."""
    ended = run_command("run", write_manifest(tmp_path, []), *SANDBOX, "--expect-count", "1-500")
    assert ended.returncode == 2
    assert "0 distinct valid ids" in ended.stderr


def test_a_limit_is_exit_7_and_the_next_runs_go_on(
    run_command: RunCommand, tmp_path: Path, simulator: Simulator, read_ledger: ReadLedger
) -> None:
    """Each run asks about so many; no invoice is asked about twice."""
    manifest = write_manifest(tmp_path, numbered(25))
    codes = []
    for _ in range(3):
        ended = run_command("run", manifest, *simulator.flags, "--limit", "10", "--json", env=simulator.env)
        codes.append((ended.returncode, json.loads(ended.stdout)["open"]))
    assert codes == [(7, 15), (7, 5), (0, 0)]
    records = read_ledger(tmp_path / LEDGER)
    assert [record["state"] for record in records if record["type"] == "end"] == [
        "stopped",
        "stopped",
        "complete",
    ]
    posts = [request for request in simulator.requests() if request["operation"] == "cancel"]
    assert sorted(request["invoice_id"] for request in posts) == sorted(numbered(25))


def test_a_limit_is_said_before_and_after(run_command: RunCommand, tmp_path: Path) -> None:
    """A person sees how many are asked about now, and that all is well."""
    ended = run_command("run", write_manifest(tmp_path, numbered(9)), *SANDBOX, "--limit", "4")
    assert "9 invoices to cancel, at most 4 of them now" in ended.stderr
    assert "Stopped where asked: --limit 4 was reached. 5 rows left for the next run." in ended.stdout


def test_an_answer_that_a_run_did_not_come_to_is_not_left_open(
    run_command: RunCommand, tmp_path: Path, read_ledger: ReadLedger
) -> None:
    """Yesterday's invoices stand at the end of today's manifest: what a limit leaves are today's alone."""
    run_command("run", write_manifest(tmp_path, numbered(5)), *SANDBOX)
    manifest = write_manifest(tmp_path, [*numbered(9, "NEW-"), *numbered(5)])
    ended = run_command("run", manifest, *SANDBOX, "--limit", "4")
    assert ended.returncode == 7, ended.stderr
    assert "--limit 4 was reached. 5 rows left for the next run." in ended.stdout
    counts = read_ledger(tmp_path / LEDGER)[-1]["counts"]
    assert (counts["rows"], counts["settled_earlier"], counts["open"]) == (14, 5, 5)
    assert run_command("verify", tmp_path / LEDGER, "--manifest", manifest).returncode == 0


def test_a_duration_is_exit_7(
    run_command: RunCommand, tmp_path: Path, simulator: Simulator, read_ledger: ReadLedger
) -> None:
    """What is in flight is drained, what remains is for the next run."""
    manifest = write_manifest(tmp_path, numbered(500))
    flags = (*simulator.flags, "--rate", "50")
    ended = run_command("run", manifest, *flags, "--max-duration", "1", env=simulator.env)
    assert ended.returncode == 7, ended.stderr
    assert "--max-duration 1 is over." in ended.stdout
    records = read_ledger(tmp_path / LEDGER)
    assert asked(simulator) == set(results(records))
    assert 5 < len(results(records)) < 200
    assert set(results(records).values()) == {"canceled"}


def test_a_duration_ends_the_wait_for_a_service_that_is_away(
    run_command: RunCommand, tmp_path: Path, start_simulator: StartSimulator
) -> None:
    """Also before the first request about an invoice; the row stays open."""
    simulator = start_simulator()
    simulator.process.terminate()
    simulator.process.wait(10)
    manifest = write_manifest(tmp_path, ["1"])
    ended = run_command("run", manifest, *simulator.flags, "--max-duration", "1", env=simulator.env)
    assert ended.returncode == 7, ended.stderr
    assert "1 row left for the next run" in ended.stdout


def test_a_duration_that_leaves_a_doubt_is_exit_7_too(
    run_command: RunCommand, tmp_path: Path, start_simulator: StartSimulator, read_ledger: ReadLedger
) -> None:
    """The service answered with errors only: what may have been done is on record as unknown."""
    simulator = start_simulator("--outage", "0", "60")
    manifest = write_manifest(tmp_path, ["1"])
    ended = run_command("run", manifest, *simulator.flags, "--max-duration", "2", env=simulator.env)
    assert ended.returncode == 7, ended.stderr
    assert results(read_ledger(tmp_path / LEDGER)) == {"1": "unknown"}


def test_a_canary_goes_first_and_is_looked_up(
    run_command: RunCommand, tmp_path: Path, simulator: Simulator, read_ledger: ReadLedger
) -> None:
    """Each of the few is canceled and confirmed before another invoice is asked about."""
    manifest = write_manifest(tmp_path, [*numbered(3), "PAID-1", *numbered(40, "LATER-")])
    ended = run_command("run", manifest, *simulator.flags, "--canary", "4", env=simulator.env)
    assert ended.returncode == 0, ended.stderr
    requests = [(one["operation"], one["invoice_id"]) for one in simulator.requests() if one["invoice_id"]]
    first = {*numbered(3), "PAID-1"}
    assert {invoice_id for _, invoice_id in requests[:8]} == first
    assert sorted(operation for operation, _ in requests[:8]) == ["cancel"] * 4 + ["get"] * 4
    assert all(operation == "cancel" for operation, _ in requests[8:])
    rows = {row["invoice_id"]: row for row in read_ledger(tmp_path / LEDGER) if row["type"] == "result"}
    assert (rows["INV-0"]["reason"], rows["INV-0"]["resolved_by"], rows["INV-0"]["lookups"]) == (
        "canceled",
        "lookup",
        1,
    )
    assert rows["LATER-0"]["resolved_by"] == "response"


def test_a_canary_without_an_answer_stops_before_the_rest(
    run_command: RunCommand, tmp_path: Path, simulator: Simulator, read_ledger: ReadLedger
) -> None:
    """Exit 4, the rest untouched and open."""
    manifest = write_manifest(tmp_path, ["INV-1", "ERROR500-1", *numbered(40, "LATER-")])
    flags = ("--canary", "2", "--max-attempts", "1")
    ended = run_command("run", manifest, *simulator.flags, *flags, env=simulator.env)
    assert ended.returncode == 4, ended.stderr
    assert "--canary tries first, ERROR500-1, ended as unknown" in ended.stderr
    assert asked(simulator) == {"INV-1", "ERROR500-1"}
    assert results(read_ledger(tmp_path / LEDGER)) == {"INV-1": "canceled", "ERROR500-1": "unknown"}


@pytest.mark.parametrize(
    ("ids", "flags", "sentence"),
    [
        pytest.param(
            numbered(300, "MISSING-"), (), "more than 50 %, ended in an error (--max-error-rate)", id="rate"
        ),
        pytest.param(
            numbered(300, "MISSING-"),
            ("--max-errors", "5"),
            "--max-errors allows 5",
            id="errors",
        ),
        pytest.param(
            numbered(300, "PAID-"), ("--max-mismatch", "20%"), "this may be the wrong export", id="mismatch"
        ),
    ],
)
def test_too_many_bad_rows_are_exit_4(
    run_command: RunCommand,
    tmp_path: Path,
    simulator: Simulator,
    read_ledger: ReadLedger,
    ids: list[str],
    flags: tuple[str, ...],
    sentence: str,
) -> None:
    """What was in flight is drained, the ledger ends and says why, and the next run may go on."""
    ended = run_command("run", write_manifest(tmp_path, ids), *simulator.flags, *flags, env=simulator.env)
    assert ended.returncode == 4, ended.stderr
    assert sentence in ended.stderr
    records = read_ledger(tmp_path / LEDGER)
    assert (records[-1]["type"], records[-1]["state"]) == ("end", "stopped")
    assert sentence in records[-1]["why"]
    assert asked(simulator) == set(results(records))
    assert records[-1]["counts"]["open"] == 300 - len(results(records)) > 0


def test_excluded_ids_are_never_asked_about(
    run_command: RunCommand, tmp_path: Path, simulator: Simulator, read_ledger: ReadLedger
) -> None:
    """They are skipped on record, counted, and told before the run."""
    (tmp_path / "never.txt").write_text("INV-1\nINV-3\nELSEWHERE-9\n", encoding="utf-8")
    manifest = write_manifest(tmp_path, [*numbered(5), "INV-1"])
    ended = run_command(
        "run", manifest, *simulator.flags, "--exclude", "never.txt", "--json", env=simulator.env
    )
    assert ended.returncode == 0, ended.stderr
    assert "(2 excluded, 1 repeated)" in ended.stderr
    summary = json.loads(ended.stdout)
    assert (summary["excluded"], summary["duplicates"], summary["open"]) == (2, 1, 0)
    assert asked(simulator) == {"INV-0", "INV-2", "INV-4"}
    skips = [row for row in read_ledger(tmp_path / LEDGER) if row["type"] == "skip"]
    assert [(row["invoice_id"], row["why"], row.get("of_row")) for row in skips] == [
        ("INV-1", "excluded", None),
        ("INV-3", "excluded", None),
        ("INV-1", "duplicate", 2),
    ]


def test_only_what_matches_the_manifest_is_canceled(
    run_command: RunCommand, tmp_path: Path, simulator: Simulator, read_ledger: ReadLedger
) -> None:
    """A damaged id that hits a real invoice is a mismatch, whatever that invoice's status is."""
    totals = amounts_of(run_command, tmp_path, read_ledger, ["INV-1", "INV-2", "PAID-1", "PAID-2"])
    lines = [
        f"INV-1,{totals['INV-1']}",
        f"INV-2,{totals['INV-1']}",
        f"PAID-1,{totals['PAID-1']}",
        "PAID-2,0.01",
        "MISSING-1,1.00",
        "INV-3,",
    ]
    manifest = write_manifest(tmp_path, lines, header="invoice_id,Open amount")
    ended = run_command("run", manifest, *simulator.flags, "--match", "open amount=total", env=simulator.env)
    assert ended.returncode == 3, ended.stderr
    assert results(read_ledger(tmp_path / LEDGER)) == {
        "INV-1": "canceled",
        "INV-2": "mismatch",
        "PAID-1": "paid",
        "PAID-2": "mismatch",
        "MISSING-1": "not_found",
        "INV-3": "mismatch",
    }
    posted = {one["invoice_id"] for one in simulator.requests() if one["operation"] == "cancel"}
    assert posted == {"INV-1"}


def amounts_of(
    run_command: RunCommand, folder: Path, read_ledger: ReadLedger, ids: list[str]
) -> dict[str, str]:
    """Ask a simulator of its own what invoices amount to: it makes that up from the id alone."""
    ledger = folder / "amounts.jsonl"
    run_command("run", write_manifest(folder, ids), *SANDBOX, "--ledger", ledger)
    rows = [row for row in read_ledger(ledger) if row["type"] == "result"]
    return {row["invoice_id"]: row["amount"] for row in rows}


@pytest.mark.parametrize(
    ("flags", "asked_again", "code", "still_open"),
    [
        pytest.param((), {"FORBIDDEN-1"}, 3, 0, id="open"),
        pytest.param(("--retry-errors", "all"), {"FORBIDDEN-1", "MISSING-1"}, 3, 0, id="all"),
        pytest.param(("--retry-errors", "none"), set(), 3, 1, id="none"),
    ],
)
def test_errors_are_asked_about_again_as_told(
    run_command: RunCommand,
    tmp_path: Path,
    simulator: Simulator,
    flags: tuple[str, ...],
    asked_again: set[str],
    code: int,
    still_open: int,
) -> None:
    """What is held back has no answer and stays open, so it is no success."""
    manifest = write_manifest(tmp_path, ["INV-1", "PAID-1", "FORBIDDEN-1", "MISSING-1", "b@d"])
    run_command("run", manifest, *simulator.flags, env=simulator.env)
    before = len(simulator.requests())
    ended = run_command("run", manifest, *simulator.flags, *flags, "--json", env=simulator.env)
    assert ended.returncode == code, ended.stderr
    assert {one["invoice_id"] for one in simulator.requests()[before:]} - {None} == asked_again
    assert json.loads(ended.stdout)["open"] == still_open
