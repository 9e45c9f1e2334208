"""``batchcancel reconcile`` as a person or a nightly job calls it, on ledgers that real runs wrote."""

from __future__ import annotations

import csv
import fcntl
import json
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchcancel.ledger.record import RunRecord, encode_run
from batchcancel.sandbox import SANDBOX_MERCHANT_ID

if TYPE_CHECKING:
    from tests.acceptance.conftest import RunCommand, Simulator
    from tests.conftest import WriteLedger

IDS = ["2675", "0042", "PAID-1", "PARTIAL-1", "MISSING-1", "2675", "b@d", "7"]
NEWER = RunRecord(
    v=2,
    run_id="r",
    started_at="t",
    version="9",
    env="sandbox",
    base_url="b",
    merchant_id="m",
    operator="o",
    host="h",
    pid=1,
    ref=None,
    manifest=(),
    options={},
)


@pytest.fixture
def ledger(tmp_path: Path, run_command: RunCommand, simulator: Simulator) -> Path:
    """Run over a manifest in which every outcome is, at a simulator that stays."""
    manifest = tmp_path / "invoices.txt"
    manifest.write_text("".join(f"{one}\n" for one in IDS), encoding="utf-8")
    assert run_command("run", manifest, *simulator.flags, env=simulator.env).returncode == 3
    return tmp_path / "invoices.sandbox.ledger.jsonl"


@pytest.fixture
def small(tmp_path: Path, write_ledger: WriteLedger) -> Path:
    """Write a ledger without a run, of the simulator's merchant."""
    return write_ledger(
        tmp_path / "l.jsonl",
        {"invoice_id": "CANCELED-1"},
        {"invoice_id": "7", "reason": "unknown"},
        env="sandbox",
        merchant_id=SANDBOX_MERCHANT_ID,
    )


def lines_of(path: Path) -> list[dict[str, str]]:
    """Read a file of differences as a spreadsheet does."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def methods(simulator: Simulator) -> Counter[str]:
    """Count what has arrived, by method."""
    return Counter(request["method"] for request in simulator.requests())


def test_a_ledger_that_nothing_happened_to_agrees(
    run_command: RunCommand, simulator: Simulator, ledger: Path
) -> None:
    """Exit 0, one GET an invoice and the signed read before, not one POST, and the ledger as it was."""
    before, status, sent = ledger.read_bytes(), ledger.stat(), methods(simulator)
    ended = run_command(
        "reconcile", ledger.name, *simulator.flags, "--differences", "d.tsv", env=simulator.env
    )
    assert ended.returncode == 0
    assert ended.stdout.startswith(
        "No difference: 6 as the ledger says.\n"
        "\n"
        "  mark  ledger     service   invoices\n"
        "  ----  ---------  --------  --------\n"
        "  =     canceled   CANCELED         3\n"
        "  =     paid       PAID             1\n"
        "  =     partial    PARTIAL          1\n"
        "  =     not_found  404              1\n"
        "\n"
        "  7 invoices in the ledger\n"
        "  1 of them without a valid id: not asked\n"
        "\n"
        "  differences  d.tsv\n"
    )
    assert "6 invoices to look up, at 127.0.0.1 (sandbox), merchant san***nt\n" in ended.stderr
    assert methods(simulator) - sent == {"GET": 7}
    after = ledger.stat()
    assert ledger.read_bytes() == before
    assert (after.st_mtime_ns, after.st_ino) == (status.st_mtime_ns, status.st_ino)
    written = lines_of(ledger.with_name("d.tsv"))
    assert {line["invoice_id"]: line["mark"] for line in written} == dict.fromkeys(IDS[:5] + IDS[7:], "=")
    assert all(line["merchant_id"] == SANDBOX_MERCHANT_ID for line in written)
    assert ledger.with_name("d.tsv").stat().st_mode & 0o777 == 0o600


def test_what_was_canceled_behind_the_ledgers_back_is_settled_by_a_run(
    run_command: RunCommand, simulator: Simulator, small: Path, tmp_path: Path
) -> None:
    """Somebody else cancels the invoice: reconcile says so, the next run brings it in, and all agrees."""

    def reconcile() -> subprocess.CompletedProcess[str]:
        return run_command(
            "reconcile", small, *simulator.flags, "--differences", "d", "--force", env=simulator.env
        )

    assert reconcile().returncode == 0  # open on both sides
    (tmp_path / "m.txt").write_text("7\n", encoding="utf-8")
    other = ("--ledger", "other.jsonl")
    assert run_command("run", "m.txt", *simulator.flags, *other, env=simulator.env).returncode == 0
    ended = reconcile()
    assert ended.returncode == 3
    assert (
        "  *     unknown   CANCELED         1  the ledger has no answer: run again settles it" in ended.stdout
    )
    line = next(one for one in lines_of(tmp_path / "d") if one["mark"] == "*")
    assert (line["invoice_id"], line["ledger"], line["service"], line["note"]) == (
        "7",
        "unknown",
        "CANCELED",
        "run_again",
    )
    assert run_command("run", "m.txt", *simulator.flags, "--ledger", small, env=simulator.env).returncode == 0
    assert reconcile().returncode == 0


def test_vanished_changed_and_unreadable_invoices_are_findings(
    run_command: RunCommand, simulator: Simulator, tmp_path: Path, write_ledger: WriteLedger
) -> None:
    """All marks in one file; the amounts that are missing in the summary and in JSON."""
    ledger = write_ledger(
        tmp_path / "l",
        {"invoice_id": "MISSING-1", "amount": "12.50", "currency": "USD", "invoice_status": "CANCELED"},
        {"invoice_id": "FORBIDDEN-1"},
        {"invoice_id": "2675"},
        {"invoice_id": "CANCELED-1"},
        {"invoice_id": "=1\t\n\x1b[2J", "reason": "paid"},
        env="sandbox",
        merchant_id=SANDBOX_MERCHANT_ID,
    )
    ended = run_command(
        "reconcile", ledger, *simulator.flags, "--json", "--differences", "d.tsv", env=simulator.env
    )
    document: dict[str, Any] = json.loads(ended.stdout)
    assert document["exit_code"] == ended.returncode == 3
    assert document["marks"] == {"same": 1, "different": 1, "missing": 1, "unread": 2}
    assert document["amounts_canceled"] == {"USD": {"ledger": "12.50", "service": "0"}}
    assert document["differences"] == "d.tsv"
    lines = {line["invoice_id"]: line for line in lines_of(tmp_path / "d.tsv")}
    assert {one: line["mark"] for one, line in lines.items()} == {
        "MISSING-1": "-",
        "FORBIDDEN-1": "!",
        "2675": "*",
        "CANCELED-1": "=",
        r"'=1\t\n\x1b[2J": "!",
    }
    assert (lines["2675"]["service"], lines["MISSING-1"]["service"]) == ("SENT", "404")
    assert methods(simulator).keys() == {"GET"}


def test_a_sample_says_how_much_it_proves(
    run_command: RunCommand, simulator: Simulator, ledger: Path
) -> None:
    """How many of how many, how to draw it again, and the bound; the same seed asks the same ones."""
    flags = ("--sample", "50%", "--seed", "4", "--differences")
    first = run_command("reconcile", ledger, *simulator.flags, *flags, "a.tsv", env=simulator.env)
    again = run_command("reconcile", ledger, *simulator.flags, *flags, "b.tsv", env=simulator.env)
    assert first.returncode == again.returncode == 0
    assert "3 of 6 in the sample (--sample 50% --seed 4 draws the same one)" in first.stdout
    assert "0 differences in 3 of 6: with 95 % confidence fewer than 3 of all (50 %) differ." in first.stdout
    assert "3 of 6 invoices to look up" in first.stderr
    drawn = [
        sorted(one["invoice_id"] for one in lines_of(ledger.with_name(name))) for name in ("a.tsv", "b.tsv")
    ]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 3
    unseeded = run_command("reconcile", ledger, *simulator.flags, "--sample", "1", env=simulator.env)
    assert "1 of 6 in the sample (--sample 1% --seed " in unseeded.stdout


def test_a_ledger_that_a_run_is_writing_to_is_read_and_said_to_be_live(
    run_command: RunCommand, simulator: Simulator, tmp_path: Path, write_ledger: WriteLedger
) -> None:
    """Its lock stays with the run."""
    ledger = write_ledger(
        tmp_path / "l",
        {"invoice_id": "CANCELED-1"},
        state=None,
        env="sandbox",
        merchant_id=SANDBOX_MERCHANT_ID,
    )
    with ledger.open("rb") as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        ended = run_command("reconcile", ledger, *simulator.flags, "--json", env=simulator.env)
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["live"] is True
    assert "a run is writing to the ledger" in ended.stderr


def test_an_unfinished_last_write_is_said(run_command: RunCommand, simulator: Simulator, small: Path) -> None:
    """As a crash leaves it: the good rows are compared."""
    small.write_bytes(small.read_bytes() + b'{"type":"res')
    ended = run_command("reconcile", small, *simulator.flags, env=simulator.env)
    assert ended.returncode == 0
    assert "the ledger's last write is unfinished (12 bytes)" in ended.stderr


def test_nothing_to_ask_sends_nothing(
    run_command: RunCommand, simulator: Simulator, tmp_path: Path, write_ledger: WriteLedger
) -> None:
    """An empty ledger, one without rows, one of invalid ids: exit 0, and said."""
    (tmp_path / "empty").write_bytes(b"")
    write_ledger(tmp_path / "no-rows", env="sandbox", merchant_id=SANDBOX_MERCHANT_ID)
    for name in ("empty", "no-rows"):
        ended = run_command("reconcile", name, *simulator.flags, env=simulator.env)
        assert (ended.returncode, ended.stdout) == (0, "")
        assert ended.stderr == f"Nothing to do: {name} has no row of an invoice.\n"
    row = {"invoice_id": "b@d", "reason": "invalid_id"}
    write_ledger(tmp_path / "invalid", row, env="sandbox", merchant_id=SANDBOX_MERCHANT_ID)
    ended = run_command("reconcile", "invalid", *simulator.flags, env=simulator.env)
    assert ended.returncode == 0
    assert "1 of them without a valid id: not asked" in ended.stdout
    assert simulator.log.read_bytes() == b""


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (("nowhere",), 2, "can't be opened"),
        (("folder",), 2, "is not a regular file"),
        (("text",), 2, "is no ledger"),
        (("newer",), 2, "newer version"),
        (("damaged",), 6, "is damaged and good lines follow it"),
        (("production",), 2, "belongs to another environment than sandbox"),
        (("merchant",), 2, "belongs to another merchant"),
        (("l.jsonl", "--differences", "text"), 2, "is there already and was left as it is"),
        (("l.jsonl", "--differences", "l.jsonl", "--force"), 2, "is what is read here"),
        (("l.jsonl", "--differences", "no/where"), 2, "is no folder"),
        (("l.jsonl", "--sample", "0%"), 2, "above 0%, at most 100%"),
        (("l.jsonl", "--sample", "nan"), 2, "above 0%, at most 100%"),
        (("l.jsonl", "--sample", "half"), 2, "above 0%, at most 100%"),
        (("l.jsonl", "--seed", "1"), 2, "say --sample too"),
        (("l.jsonl", "text"), 2, "unexpected extra argument"),
        (("l.jsonl", "--rate", "fast"), 2, "--rate takes a number"),
        (("l.jsonl", "--env", "production"), 2, "disagree"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_a_sentence_and_sends_nothing(
    run_command: RunCommand,
    simulator: Simulator,
    small: Path,
    tmp_path: Path,
    write_ledger: WriteLedger,
    flags: tuple[str, ...],
    code: int,
    sentence: str,
) -> None:
    """Nothing is written either."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("precious\nwords\n", encoding="utf-8")
    (tmp_path / "newer").write_bytes(encode_run(NEWER))
    good = small.read_bytes().splitlines(keepends=True)
    (tmp_path / "damaged").write_bytes(good[0] + b"x\n" + good[1])
    write_ledger(
        tmp_path / "production", {"invoice_id": "1"}, env="production", merchant_id=SANDBOX_MERCHANT_ID
    )
    write_ledger(tmp_path / "merchant", {"invoice_id": "1"}, env="sandbox", merchant_id="somebody_else")
    before = sorted((one, one.stat().st_mtime_ns) for one in tmp_path.iterdir() if one.suffix != ".err")
    ended = run_command("reconcile", flags[0], *simulator.flags, *flags[1:], env=simulator.env)
    assert ended.returncode == code
    assert ended.stdout == ""
    assert sentence in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert simulator.log.read_bytes() == b""
    after = sorted((one, one.stat().st_mtime_ns) for one in tmp_path.iterdir() if one.suffix != ".err")
    assert after == before


def test_the_environment_has_to_be_said_and_a_simulator_has_to_stay(
    run_command: RunCommand, small: Path
) -> None:
    """One that begins anew would call every canceled invoice open."""
    unsaid = run_command("reconcile", small)
    assert (unsaid.returncode, "--env" in unsaid.stderr) == (2, True)
    fresh = run_command("reconcile", small, "--env", "sandbox")
    assert fresh.returncode == 2
    assert "Start one that stays ('batchcancel sandbox --port 8080')" in fresh.stderr


def test_refused_credentials_stop_with_exit_4(
    run_command: RunCommand, simulator: Simulator, small: Path
) -> None:
    """Nothing is marked as unread, since nothing was asked."""
    env = {**simulator.env, "BATCHCANCEL_SHARED_SECRET": "b3RoZXI="}
    ended = run_command("reconcile", small, *simulator.flags, "--json", env=env)
    assert ended.returncode == 4
    document = json.loads(ended.stdout)
    assert (document["state"], document["compared"], document["not_reached"]) == ("stopped", 0, 2)
    assert "Stopped: " in ended.stderr


def test_a_limit_ends_with_exit_7(run_command: RunCommand, simulator: Simulator, ledger: Path) -> None:
    """What it has found so far is in the file."""
    flags = ("--limit", "2", "--differences", "d.tsv")
    ended = run_command("reconcile", ledger, *simulator.flags, *flags, env=simulator.env)
    assert ended.returncode == 7
    assert ended.stdout.startswith(
        "Stopped where asked: --limit 2 was reached. 4 invoices not reached; 2 as the ledger says.\n"
    )
    assert len(lines_of(ledger.with_name("d.tsv"))) == 2


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_keeps_what_was_found(
    command_path: Path,
    clean_environment: dict[str, str],
    simulator: Simulator,
    tmp_path: Path,
    write_ledger: WriteLedger,
    signum: signal.Signals,
) -> None:
    """The exit code is the signal's, the file of differences is whole; progress comes as JSON."""
    rows = [{"invoice_id": f"CANCELED-{number}"} for number in range(500)]
    ledger = write_ledger(tmp_path / "l", *rows, env="sandbox", merchant_id=SANDBOX_MERCHANT_ID)
    flags = ("--rate", "20", "--progress", "json", "--differences", "d.tsv")
    with subprocess.Popen(
        [command_path, "reconcile", ledger, *simulator.flags, *flags],
        env=clean_environment | simulator.env,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        simulator.wait_for("get", 3)
        time.sleep(0.05)
        process.send_signal(signum)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signum
    assert out.startswith(f"Interrupted ({signum.name}), ")
    compared = len(lines_of(tmp_path / "d.tsv"))
    assert 0 < compared < 500
    last = json.loads([line for line in err.splitlines() if line.startswith("{")][-1])
    assert (last["done"], last["total"], last["marks"]["same"]) == (compared, 500, compared)
    assert f"{signum.name}: nothing new is asked; " in err
    assert methods(simulator).keys() == {"GET"}
    assert not list(tmp_path.glob(".d.tsv.*"))


def test_help_says_what_the_marks_mean(run_command: RunCommand) -> None:
    """And shows how to call it."""
    ended = run_command("reconcile", "--help")
    assert ended.returncode == 0
    for text in (
        "=  the service says",
        "!  the invoice could not be read",
        "--sample 1% --seed 7",
        "Exit code 0",
    ):
        assert text in ended.stdout
