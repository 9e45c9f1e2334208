"""``plan``, ``run --dry-run`` and ``run --plan``, as a user meets them."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.json import decode as json_decode
from msgspec.structs import replace

from batchcancel.ledger.plan import PlanRecord, encode_plan
from batchcancel.ledger.record import EndRecord, encode_end

if TYPE_CHECKING:
    from tests.acceptance.conftest import ReadLedger, RunCommand, Simulator, StartRun, StartSimulator

IDS = ["A1", "PAID-1", "PARTIAL-1", "CANCELED-1", "MISSING-1", "DRAFT-1", "../2675", "A1"]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Write a manifest of one invoice of each kind that a run has done at once, one of them twice."""
    path = tmp_path / "invoices.csv"
    path.write_text("invoice_id\n" + "".join(f"{one}\n" for one in IDS))
    return path


@pytest.fixture
def manifest_with_pending(manifest: Path) -> Path:
    """Add an invoice whose payment is under way: a run looks at it again for 12 s."""
    with manifest.open("a") as file:
        file.write("PENDING-1\n")
    return manifest


def kinds(simulator: Simulator) -> Counter[str]:
    """Count the requests so far, by method."""
    return Counter(request["method"] for request in simulator.requests())


def cancel_elsewhere(simulator: Simulator, run_command: RunCommand, tmp_path: Path, *ids: str) -> None:
    """Cancel invoices by another run, with a ledger of its own."""
    (tmp_path / "elsewhere.txt").write_text("".join(f"{one}\n" for one in ids))
    done = run_command("run", "elsewhere.txt", *simulator.flags, env=simulator.env)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [("plan",), ("run", "--dry-run")], ids=["plan", "dry-run"])
def test_nothing_but_reads_leaves(
    simulator: Simulator,
    run_command: RunCommand,
    manifest_with_pending: Path,
    tmp_path: Path,
    command: tuple[str, ...],
) -> None:
    """Every invoice is looked up once, no POST is sent, and no file appears."""
    done = run_command(*command, manifest_with_pending, *simulator.flags, "--json", env=simulator.env)
    assert done.returncode == 3, done.stderr  # MISSING, PENDING and the id that is none would be errors
    assert kinds(simulator) == {"GET": 1 + 7}  # the signed read, and each distinct valid id
    summary = json.loads(done.stdout)
    assert summary["cancelable"] == 2
    assert summary["refused"] == {
        "paid": 1,
        "partial": 1,
        "already_canceled": 1,
        "not_found": 1,
        "pending": 1,
        "invalid_id": 1,
    }
    assert (summary["rows"], summary["duplicates"], summary["open"]) == (9, 1, 0)
    made_here = {path.name for path in tmp_path.iterdir() if not path.name.startswith("simulator-")}
    assert made_here == {"invoices.csv"}


def test_a_plan_without_a_finding_ends_well(simulator: Simulator, run_command: RunCommand) -> None:
    """Paid and canceled invoices are answers."""
    done = run_command(
        "plan", "-", "--format", "txt", *simulator.flags, env=simulator.env, stdin="A1\nPAID-1\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("A run would cancel 1 of 2 invoices. Nothing was changed.\n")


def test_a_run_takes_from_its_plan_what_can_not_change(
    simulator: Simulator, run_command: RunCommand, manifest: Path, tmp_path: Path, read_ledger: ReadLedger
) -> None:
    """Paid and canceled rows come from the plan, with its time; all others are asked."""
    planned = run_command("plan", manifest, *simulator.flags, "--out", "plan.jsonl", env=simulator.env)
    assert planned.returncode == 3, planned.stderr
    before = len(simulator.requests())
    done = run_command("run", manifest, *simulator.flags, "--plan", "plan.jsonl", env=simulator.env)
    assert done.returncode == 3, done.stderr
    assert "2 paid or canceled invoices in it" in done.stderr
    lines = read_ledger(tmp_path / "invoices.sandbox.ledger.jsonl")
    rows = {row["invoice_id"]: row for row in lines if row["type"] == "result"}
    asked = {request["invoice_id"] for request in simulator.requests()[before:]} - {None}
    assert asked == {"A1", "PARTIAL-1", "MISSING-1", "DRAFT-1"}
    seen = {
        row["invoice_id"]: row
        for row in map(json.loads, (tmp_path / "plan.jsonl").read_text().splitlines())
        if row["type"] == "sighting"
    }
    for invoice_id, outcome in (("PAID-1", "already_paid"), ("CANCELED-1", "canceled")):
        row = rows[invoice_id]
        assert (row["outcome"], row["resolved_by"], row["attempts"], row["lookups"]) == (
            outcome,
            "plan",
            0,
            0,
        )
        assert row["at"] == seen[invoice_id]["at"]
    assert all(
        row["resolved_by"] != "plan" for one, row in rows.items() if one not in {"PAID-1", "CANCELED-1"}
    )
    verified = run_command("verify", "invoices.sandbox.ledger.jsonl")
    assert verified.returncode == 0, verified.stderr


def test_what_has_changed_since_the_plan_is_found(
    simulator: Simulator, run_command: RunCommand, manifest: Path, tmp_path: Path, read_ledger: ReadLedger
) -> None:
    """An invoice that was open in the plan, and was canceled by somebody else meanwhile."""
    run_command("plan", manifest, *simulator.flags, "--out", "plan.jsonl", env=simulator.env)
    cancel_elsewhere(simulator, run_command, tmp_path, "A1")
    run_command("run", manifest, *simulator.flags, "--plan", "plan.jsonl", env=simulator.env)
    lines = read_ledger(tmp_path / "invoices.sandbox.ledger.jsonl")
    (row,) = (row for row in lines if row["type"] == "result" and row["invoice_id"] == "A1")
    assert (row["outcome"], row["resolved_by"], row["attempts"]) == ("canceled", "lookup", 1)


def test_a_plan_made_after_a_kill_takes_no_credit_away(
    start_simulator: StartSimulator,
    run_command: RunCommand,
    start_run: StartRun,
    tmp_path: Path,
    read_ledger: ReadLedger,
) -> None:
    """What the killed run had canceled is ``canceled``, though the plan saw it as canceled already."""
    simulator = start_simulator("--slow-ms", "3000")
    path, ledger = tmp_path / "late.txt", tmp_path / "late.sandbox.ledger.jsonl"
    path.write_text("SLOW-1\n")
    with start_run(simulator, path) as process:
        simulator.wait_for("cancel")  # it is done, and its reply has not left
        process.kill()
        process.wait()
    assert [row["type"] for row in read_ledger(ledger)] == ["run"]
    planned = run_command("plan", path, *simulator.flags, "--out", "plan.jsonl", env=simulator.env)
    assert planned.returncode == 0, planned.stderr
    done = run_command("run", path, *simulator.flags, "--plan", "plan.jsonl", env=simulator.env)
    assert done.returncode == 0, done.stderr
    (row,) = (row for row in read_ledger(ledger) if row["type"] == "result")
    assert (row["reason"], row["resolved_by"]) == ("canceled", "lookup")


@pytest.mark.parametrize("age", ["0", "0s"])
def test_an_old_plan_is_said_and_everything_is_asked(
    simulator: Simulator, run_command: RunCommand, manifest: Path, age: str
) -> None:
    """The run goes on all the same."""
    run_command("plan", manifest, *simulator.flags, "--out", "plan.jsonl", env=simulator.env)
    before = len(simulator.requests())
    flags = ("--plan", "plan.jsonl", "--plan-max-age", age)
    done = run_command("run", manifest, *simulator.flags, *flags, env=simulator.env)
    assert "nothing is taken from it" in done.stderr
    asked = {request["invoice_id"] for request in simulator.requests()[before:]} - {None}
    assert "PAID-1" in asked


def test_a_plan_from_the_future_is_not_called_old(
    simulator: Simulator, run_command: RunCommand, manifest: Path, tmp_path: Path
) -> None:
    """It was made on a machine whose clock is wrong, or this one's is."""
    run_command("plan", manifest, *simulator.flags, "--out", "plan.jsonl", env=simulator.env)
    first, *rows, last = (tmp_path / "plan.jsonl").read_bytes().splitlines(keepends=True)
    begun = replace(json_decode(first, type=PlanRecord), started_at="2126-01-01T00:00:00.000Z")
    body = encode_plan(begun) + b"".join(rows)
    end = replace(json_decode(last, type=EndRecord), sha256=sha256(body).hexdigest())
    (tmp_path / "plan.jsonl").write_bytes(body + encode_end(end))
    done = run_command("run", manifest, *simulator.flags, "--plan", "plan.jsonl", env=simulator.env)
    assert "the clocks of two machines disagree: nothing is taken from it" in done.stderr
    assert "PAID-1" in {request["invoice_id"] for request in simulator.requests()[len(IDS) :]}


def test_what_a_ledger_knows_is_not_looked_up(
    simulator: Simulator, run_command: RunCommand, manifest_with_pending: Path, tmp_path: Path
) -> None:
    """As a run would not ask it; the ledger is only read."""
    run_command("run", manifest_with_pending, *simulator.flags, env=simulator.env)
    ledger = tmp_path / "invoices.sandbox.ledger.jsonl"
    before, status, requests = ledger.read_bytes(), ledger.stat(), len(simulator.requests())
    done = run_command("plan", manifest_with_pending, *simulator.flags, "--json", env=simulator.env)
    summary = json.loads(done.stdout)
    assert summary["settled_earlier"] == 7  # all but the payment under way, and the repeated row
    asked = {request["invoice_id"] for request in simulator.requests()[requests:]} - {None}
    assert asked == {"PENDING-1"}
    assert (ledger.read_bytes(), ledger.stat().st_mtime_ns) == (before, status.st_mtime_ns)


def test_a_ledger_in_use_may_be_looked_at(
    simulator: Simulator, run_command: RunCommand, start_run: StartRun, tmp_path: Path
) -> None:
    """A plan takes no lock and waits for none."""
    path = tmp_path / "many.txt"
    path.write_text("".join(f"B{n}\n" for n in range(400)))
    with start_run(simulator, path, "--rate", "40"):
        simulator.wait_for("cancel", 20)
        done = run_command("plan", path, *simulator.flags, "--json", "--limit", "5", env=simulator.env)
    assert done.returncode == 7, done.stderr
    assert json.loads(done.stdout)["settled_earlier"] > 0


# --- misuse ---------------------------------------------------------------------------------------


def refused(done: Any, sentence: str) -> None:
    """Make sure that a command refused with one line."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plan_of_another_manifest_is_refused(
    simulator: Simulator, run_command: RunCommand, manifest: Path, tmp_path: Path
) -> None:
    """One row more, and it is another."""
    run_command("plan", manifest, *simulator.flags, "--out", "plan.jsonl", env=simulator.env)
    before = len(simulator.requests())
    manifest.write_text(manifest.read_text() + "A2\n")
    done = run_command("run", manifest, *simulator.flags, "--plan", "plan.jsonl", env=simulator.env)
    refused(done, "was made for another manifest than this run's")
    assert len(simulator.requests()) == before
    assert not (tmp_path / "invoices.sandbox.ledger.jsonl").exists()


def test_a_plan_of_another_merchant_or_environment_is_refused(
    simulator: Simulator, start_simulator: StartSimulator, run_command: RunCommand, manifest: Path
) -> None:
    """Ids mean something else there."""
    run_command("plan", manifest, *simulator.flags, "--out", "plan.jsonl", env=simulator.env)
    other = simulator.env | {"BATCHCANCEL_MERCHANT_ID": "other"}
    done = run_command("run", manifest, *simulator.flags, "--plan", "plan.jsonl", env=other)
    refused(done, "was made for another merchant than this run's")
    done = run_command("run", manifest, "--env", "test", "--plan", "plan.jsonl", env=simulator.env)
    refused(done, "was made for another environment than this run's")


def test_a_damaged_plan_is_refused(
    simulator: Simulator, run_command: RunCommand, manifest: Path, tmp_path: Path
) -> None:
    """No answer is taken from it, and nothing is sent."""
    run_command("plan", manifest, *simulator.flags, "--out", "plan.jsonl", env=simulator.env)
    before = len(simulator.requests())
    plan = tmp_path / "plan.jsonl"
    plan.write_text(plan.read_text().replace('"SENT"', '"PAID"', 1))
    done = run_command("run", manifest, *simulator.flags, "--plan", plan, env=simulator.env)
    refused(done, "can't be used: line 2 is damaged")
    plan.unlink()
    refused(
        run_command("run", manifest, *simulator.flags, "--plan", plan, env=simulator.env), "can't be opened"
    )
    assert len(simulator.requests()) == before


def test_a_plan_is_no_ledger_and_a_ledger_no_plan(
    simulator: Simulator, run_command: RunCommand, manifest: Path, tmp_path: Path
) -> None:
    """Each is refused in the place of the other, and stays as it is."""
    run_command("plan", manifest, *simulator.flags, "--out", "plan.jsonl", env=simulator.env)
    before = (tmp_path / "plan.jsonl").read_bytes()
    commands: tuple[tuple[str | Path, ...], ...] = (
        ("run", manifest, *simulator.flags, "--ledger", "plan.jsonl"),
        ("plan", manifest, *simulator.flags, "--ledger", "plan.jsonl"),
        ("reconcile", "plan.jsonl", *simulator.flags),
        ("report", "plan.jsonl"),
        ("verify", "plan.jsonl"),
        ("verify", "plan.jsonl", "--salvage", "new.jsonl"),
    )
    for command in commands:
        refused(run_command(*command, env=simulator.env), "plan.jsonl is a plan and no ledger")
    assert (tmp_path / "plan.jsonl").read_bytes() == before
    assert not (tmp_path / "new.jsonl").exists()
    run_command("run", manifest, *simulator.flags, "--ledger", "x.jsonl", env=simulator.env)
    done = run_command("run", manifest, *simulator.flags, "--plan", "x.jsonl", env=simulator.env)
    refused(done, "x.jsonl is no plan")


@pytest.mark.parametrize(
    "out", ["invoices.csv", "invoices.sandbox.ledger.jsonl", "missing/plan.jsonl", "old"]
)
def test_a_plan_goes_into_no_file_of_another_kind(
    simulator: Simulator, run_command: RunCommand, manifest: Path, tmp_path: Path, out: str
) -> None:
    """Neither manifest nor ledger nor anything that is there already, and nothing is sent first."""
    for name in ("invoices.sandbox.ledger.jsonl", "old"):
        (tmp_path / name).write_text("")
    done = run_command("plan", manifest, *simulator.flags, "--out", out, env=simulator.env)
    assert done.returncode == 2, done.stderr
    assert simulator.requests() == []
    assert (tmp_path / "old").read_text() == ""
    assert manifest.read_text().startswith("invoice_id\n")


def test_flags_that_go_together_are_held_to_it(
    simulator: Simulator, run_command: RunCommand, manifest: Path
) -> None:
    """A run has no file for a plan, and an age is an age."""
    done = run_command("run", manifest, *simulator.flags, "--out", "x", env=simulator.env)
    refused(done, "belong to --dry-run")
    done = run_command("run", manifest, *simulator.flags, "--plan-max-age", "soon", env=simulator.env)
    refused(done, "--plan-max-age takes seconds, or a number with m, h or d")
    refused(run_command("plan", manifest, "--yes", *simulator.flags), "--yes")


def test_an_interrupted_plan_says_how_far_it_came(
    simulator: Simulator, start_run: StartRun, tmp_path: Path
) -> None:
    """The file is whole as far as it goes, and a run may take from it."""
    path = tmp_path / "many.txt"
    path.write_text("".join(f"PAID-{n}\n" for n in range(400)))
    flags = ("--rate", "50", "--out", "plan.jsonl", "--json")
    with start_run(simulator, path, *flags, command="plan") as process:
        simulator.wait_for("get", 10)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "SIGINT: nothing new is asked" in said
    summary = json.loads(out)
    assert summary["state"] == "interrupted"
    lines = [json.loads(line) for line in (tmp_path / "plan.jsonl").read_text().splitlines()]
    assert lines[-1]["state"] == "interrupted"
    assert sum(line["type"] == "sighting" for line in lines) == summary["refused"]["paid"]
    assert summary["refused"]["paid"] + summary["open"] == 400


def test_a_killed_plan_leaves_no_plan(simulator: Simulator, start_run: StartRun, tmp_path: Path) -> None:
    """What is not whole has no name that anybody would take for a plan."""
    path = tmp_path / "many.txt"
    path.write_text("".join(f"B{n}\n" for n in range(400)))
    with start_run(simulator, path, "--rate", "50", "--out", "plan.jsonl", command="plan") as process:
        simulator.wait_for("get", 10)
        process.kill()
        process.wait()
    assert not (tmp_path / "plan.jsonl").exists()


def test_a_refused_key_stops_a_plan(simulator: Simulator, run_command: RunCommand, manifest: Path) -> None:
    """As it stops a run, and no invoice is looked up."""
    env = simulator.env | {"BATCHCANCEL_KEY_ID": "another"}
    done = run_command("plan", manifest, *simulator.flags, env=env)
    assert done.returncode == 4, done.stderr
    assert {request["operation"] for request in simulator.requests()} == {"list"}
    assert "A run would cancel 0 of 0 invoices" in done.stdout


def test_a_plan_outlives_what_a_run_outlives(
    start_simulator: StartSimulator, run_command: RunCommand, tmp_path: Path
) -> None:
    """Errors, resets, pages of HTML and 429s are retried, and every invoice is seen once."""
    simulator = start_simulator(
        "--error-share", "0.1", "--reset-before-share", "0.05", "--html-share", "0.05", "--rate-limit", "300"
    )
    path = tmp_path / "many.txt"
    path.write_text("".join(f"{kind}{n}\n" for kind in ("B", "PAID-") for n in range(100)))
    started = time.monotonic()
    done = run_command("plan", path, *simulator.flags, "--out", "plan.jsonl", "--json", env=simulator.env)
    summary = json.loads(done.stdout)
    assert done.returncode == 0, (done.stderr, summary)
    assert (summary["cancelable"], summary["refused"]) == (100, {"paid": 100})
    assert kinds(simulator)["POST"] == 0
    assert time.monotonic() - started < 60
    assert (tmp_path / "plan.jsonl").stat().st_mode & 0o777 == 0o600
