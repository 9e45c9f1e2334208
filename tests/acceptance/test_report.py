"""``batchcancel report`` as a person or a nightly job calls it, on ledgers that real runs wrote."""

from __future__ import annotations

import csv
import fcntl
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import ReadLedger, RunCommand, Simulator
    from tests.conftest import WriteLedger

IDS = ["2675", "0042", "PAID-1", "PARTIAL-1", "MISSING-1", "UNKNOWNSTATUS-1", "2675", "b@d", "7"]
SANDBOX = ("--env", "sandbox")
CALL = "import sys; from batchcancel.cli import main; main(sys.argv[1:])"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Write a manifest in which every outcome is."""
    path = tmp_path / "invoices.csv"
    lines = "".join(f"{invoice_id},=cmd|{number}\n" for number, invoice_id in enumerate(IDS))
    path.write_text(f"invoice_id,note\n{lines}", encoding="utf-8")
    return path


@pytest.fixture
def small_ledger(manifest: Path, write_ledger: WriteLedger) -> Path:
    """Write a ledger without a run, beside the manifest."""
    return write_ledger(manifest.with_name("l.jsonl"), {"invoice_id": "0042"}, {"reason": "refused"})


@pytest.fixture
def ledger(manifest: Path, run_command: RunCommand) -> Path:
    """Run over the manifest, its notes kept."""
    assert run_command("run", manifest, *SANDBOX, "--keep", "note", "--ref", "FIN-311").returncode == 3
    return manifest.with_name("invoices.sandbox.ledger.jsonl")


def test_the_summary_tells_what_became_of_the_invoices(run_command: RunCommand, ledger: Path) -> None:
    """Results on standard output, nothing else anywhere; the ledger stays as it is."""
    before = ledger.read_bytes()
    ended = run_command("report", ledger.name)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(
        "8 invoices in 1 run, sandbox, merchant san***nt.\n"
        "\n"
        "  outcome         reason          invoices\n"
        "  --------------  --------------  --------\n"
        "  canceled        canceled               3\n"
        "  already_paid    paid                   1\n"
        "  partially_paid  partial                1\n"
        "  error           not_found              1  final\n"
        "                  invalid_id             1  final\n"
        "                  unknown_status         1  open: the next run asks again\n"
        "\n"
        "  currency"
    )
    assert re.search(r"complete +[\d.]+ s +8 +3 +\d+ +\S+ +FIN-311\n$", ended.stdout)
    assert ledger.read_bytes() == before


def test_the_summary_comes_as_json_too(run_command: RunCommand, ledger: Path, manifest: Path) -> None:
    """One object on standard output, with what was written; what run --json names has the same name."""
    again = json.loads(run_command("run", manifest, *SANDBOX, "--json").stdout)
    ended = run_command(
        "report", ledger, "--json", "--csv", "c.csv", "--open-rows", "left.csv", "--manifest", manifest
    )
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    shared = {"env", "merchant_id", "outcomes", "reasons", "exit_code"}
    assert again.keys() & document.keys() == shared
    assert (document["env"], document["merchant_id"]) == (again["env"], again["merchant_id"])
    assert document["runs"][-1]["run_id"] == again["run_id"]
    assert all(run["duration_s"] == round(run["duration_s"], 3) for run in document["runs"])
    assert document["outcomes"] == {"canceled": 3, "already_paid": 1, "partially_paid": 1, "error": 3}
    size = (ledger.parent / "c.csv").stat().st_size
    assert document["written"] == [{"path": "c.csv", "rows": 8, "size_bytes": size}]
    assert document["left"] == {"path": "left.csv", "rows": 1, "unanswered": 0, "excluded": 0, "known": True}
    assert list(document)[-3:] == ["written", "left", "exit_code"]
    assert "  wrote  c.csv: " in ended.stderr
    assert json.loads(run_command("report", ledger, "--json").stdout)["left"] is None


def test_every_file_comes_from_one_call(run_command: RunCommand, ledger: Path, manifest: Path) -> None:
    """They are said on standard error; what is left can be run again as it is, on the same ledger."""
    ended = run_command(
        "report", ledger, "--html", "p.html", "--csv", "c.csv", "--xlsx", "x.xlsx", "--jsonl", "j.jsonl",
        "--outcome", "error", "--outcome", "already_paid", "--open-rows", "left.csv", "--manifest", manifest,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    folder = ledger.parent
    assert [line.split()[:2] for line in ended.stderr.splitlines()] == [
        ["wrote", f"{name}:"] for name in ("p.html", "c.csv", "x.xlsx", "j.jsonl", "left.csv")
    ]
    with (folder / "c.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["outcome"] for row in rows) == {"error": 3, "already_paid": 1}
    assert all(row["keep.note"].startswith("'=cmd|") for row in rows)
    objects = [json.loads(line) for line in (folder / "j.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [one["invoice_id"] for one in objects] == [row["invoice_id"] for row in rows]
    assert (folder / "x.xlsx").read_bytes().startswith(b"PK")
    assert (folder / "p.html").read_bytes().startswith(b"<!doctype html>")
    left = (folder / "left.csv").read_text(encoding="utf-8")
    assert left == "invoice_id,note\nUNKNOWNSTATUS-1,=cmd|5\n"

    again = run_command("run", "left.csv", *SANDBOX, "--ledger", ledger)
    assert "1 invoice to cancel" in again.stderr
    done = run_command("report", ledger, "--open-rows", "left.csv", "--manifest", manifest, "--force")
    assert "8 invoices in 2 runs" in done.stdout


def test_an_outcome_without_an_export_is_said_to_do_nothing(run_command: RunCommand, ledger: Path) -> None:
    """The summary stays whole, since it counts."""
    ended = run_command("report", ledger, "--outcome", "error")
    assert (ended.returncode, ended.stdout) == (0, run_command("report", ledger).stdout)
    assert "none of them is wanted" in ended.stderr
    assert run_command("report", ledger, "--outcome", "error", "--csv", "e.csv").stderr.startswith("  wrote")


@pytest.mark.parametrize(
    "words",
    [("report", "LEDGER"), ("report", "LEDGER", "--json"), ("completion", "bash")],
    ids=["report", "json", "completion"],
)
def test_a_result_that_is_lost_is_no_success(
    command_path: Path, clean_environment: dict[str, str], small_ledger: Path, words: tuple[str, ...]
) -> None:
    """These commands have nothing but their text: no exit code that would tell without it."""
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [command_path, *(str(small_ledger) if one == "LEDGER" else one for one in words)],
            env=clean_environment,
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            check=False,
            timeout=30,
        )
    assert ended.returncode == 2
    assert ended.stderr == "Warning: standard output can't be written: No space left on device.\n"


def test_what_is_left_is_of_the_manifest_that_was_read(run_command: RunCommand, ledger: Path) -> None:
    """Without ``--manifest``."""
    ended = run_command("report", ledger, "--open-rows", "left.csv")
    assert (ended.returncode, "wrote  left.csv: 1 row," in ended.stderr) == (0, True), ended.stderr
    assert (ledger.with_name("left.csv")).read_text(encoding="utf-8").startswith("invoice_id,note\n")


def test_rows_that_a_run_never_reached_are_left(
    run_command: RunCommand, simulator: Simulator, manifest: Path, read_ledger: ReadLedger
) -> None:
    """Then run again, they end as if nothing had happened: every invoice once."""
    flags = (*simulator.flags, "--ledger", "x.jsonl")
    manifest.with_name("never.txt").write_text("0042\n", encoding="utf-8")
    limits = ("--limit", "2", "--concurrency", "1", "--exclude", "never.txt")
    assert run_command("run", manifest, *flags, *limits, env=simulator.env).returncode == 7
    manifest.write_bytes(manifest.read_bytes() + b"2675,once more\n")
    ended = run_command("report", "x.jsonl", "--open-rows", "left.csv", "--manifest", manifest)
    assert (ended.returncode, "5 without an answer" in ended.stderr) == (0, True), ended.stderr
    assert "1 row of " in ended.stderr
    assert "has read " in ended.stderr
    assert run_command("run", "left.csv", *flags, env=simulator.env).returncode == 3
    rows = Counter(
        row["invoice_id"] for row in read_ledger(manifest.with_name("x.jsonl")) if row["type"] == "result"
    )
    assert rows == Counter(set(IDS) - {"0042"})
    assert simulator.posts()["2675"] == 1


def test_a_ledger_at_work_is_readable_and_marked(run_command: RunCommand, ledger: Path) -> None:
    """In the summary and on the page; its unfinished last line is no damage."""
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-1])[:-9])
    with ledger.open("rb") as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        ended = run_command("report", ledger, "--html", "p.html")
    assert ended.returncode == 0
    assert ended.stdout.startswith("Live: 7 invoices")
    assert re.search(r"\blive\b", ended.stdout)
    assert "live: a run is writing" in ledger.with_name("p.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param((), "LEDGER", id="no ledger named"),
        pytest.param(("nowhere.jsonl",), "can't be opened: No such file", id="missing"),
        pytest.param(("invoices.csv",), "is no ledger and was left as it is", id="a manifest"),
        pytest.param(("LEDGER", "LEDGER"), "is named twice", id="twice"),
        pytest.param(("LEDGER", "OTHER"), "another environment or merchant", id="another merchant"),
        pytest.param(("LEDGER", "--csv", "invoices.csv"), "--force", id="a file in the way"),
        pytest.param(("LEDGER", "--csv", "LEDGER", "--force"), "is what is read here", id="over the ledger"),
        pytest.param(("LEDGER", "--html", "no/p.html"), "is no folder", id="no folder"),
        pytest.param(("LEDGER", "--open-rows", "l.csv"), "read 0 manifests", id="open rows of nothing"),
        pytest.param(("LEDGER", "--manifest", "invoices.csv"), "say that too", id="a manifest for nothing"),
        pytest.param(("LEDGER", "--outcome", "refused"), "refused", id="no outcome"),
        pytest.param(
            ("LEDGER", "--open-rows", "invoices.csv", "--manifest", "invoices.csv", "--force"),
            "is what is read here",
            id="over the manifest",
        ),
    ],
)
def test_a_mistake_is_exit_2_with_a_sentence(
    run_command: RunCommand,
    small_ledger: Path,
    write_ledger: WriteLedger,
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    """Nothing is written anywhere."""
    other = write_ledger(small_ledger.with_name("other.jsonl"), merchant_id="another_merchant")
    before = {path.name: path.read_bytes() for path in other.parent.iterdir()}
    names = {"LEDGER": str(small_ledger), "OTHER": str(other)}
    ended = run_command("report", *(names.get(one, one) for one in arguments))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
    assert {path.name: path.read_bytes() for path in other.parent.iterdir()} == before


def test_a_damaged_ledger_is_exit_6(run_command: RunCommand, small_ledger: Path) -> None:
    """With line and offset, and no file is written."""
    ledger = small_ledger
    ledger.write_bytes(ledger.read_bytes().replace(b'"0042"', b'"0043"'))
    ended = run_command("report", ledger, "--html", "p.html")
    assert (ended.returncode, ended.stdout) == (6, "")
    assert "verify" in ended.stderr
    assert not ledger.with_name("p.html").exists()


@pytest.mark.parametrize("flag", ["--html", "--csv", "--xlsx", "--jsonl"])
def test_a_disk_that_is_full_is_exit_2_and_leaves_nothing(
    command_path: Path, clean_environment: dict[str, str], small_ledger: Path, flag: str
) -> None:
    """Where a file may not grow the system answers as where a disk is full."""
    before = sorted(small_ledger.parent.iterdir())
    ended = subprocess.run(
        ["prlimit", "--fsize=200", command_path, "report", small_ledger, flag, "out"],  # noqa: S607 - util-linux
        cwd=small_ledger.parent,
        env={name: value for name, value in clean_environment.items() if not name.startswith("COVERAGE_")},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    assert "out can't be written: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert sorted(small_ledger.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("flags", "code"),
    [(("--html", "p.html"), 2), (("--xlsx", "x.xlsx"), 2), (("--csv", "c.csv", "--jsonl", "j.jsonl"), 0)],
    ids=["page", "xlsx", "without"],
)
def test_without_the_extra_only_page_and_xlsx_are_missing(
    clean_environment: dict[str, str], small_ledger: Path, flags: tuple[str, ...], code: int
) -> None:
    """It is said which command installs it."""
    without = "import sys; sys.modules.update(dict.fromkeys(('jinja2', 'pygal', 'xlsxwriter'))); "
    ended = subprocess.run(
        [sys.executable, "-c", without + CALL, "report", small_ledger, *flags],
        cwd=small_ledger.parent,
        env=clean_environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )
    assert ended.returncode == code, ended.stderr
    assert ("pip install -c constraints.txt '.[report]'" in ended.stderr) == (code == 2)


# --- run --report ---------------------------------------------------------------------------------


def test_a_run_writes_its_page_at_the_end(run_command: RunCommand, manifest: Path) -> None:
    """It changes nothing of the exit code, and replaces the page of the night before."""
    page = manifest.with_name("p.html")
    for invoices in ("8 invoices", "8 invoices"):
        ended = run_command("run", manifest, *SANDBOX, "--report", "p.html", "--json")
        assert ended.returncode == 3
        assert json.loads(ended.stdout)["exit_code"] == 3
        assert "page      p.html" in ended.stderr
        assert invoices in page.read_text(encoding="utf-8")


def test_a_run_begins_only_if_its_page_could_be_written(
    run_command: RunCommand, simulator: Simulator, manifest: Path
) -> None:
    """Exit 2, nothing sent, and what is there stays."""
    for where in ("invoices.csv", "no/p.html"):
        ended = run_command("run", manifest, *simulator.flags, "--report", where, env=simulator.env)
        assert (ended.returncode, ended.stdout) == (2, "")
    assert not simulator.requests()
    assert manifest.read_text(encoding="utf-8").startswith("invoice_id")


def test_a_page_that_fails_at_the_end_changes_no_exit_code(
    run_command: RunCommand, manifest: Path, tmp_path: Path
) -> None:
    """It is said, with the command that writes it; the run stands."""
    (tmp_path / "p").mkdir()
    removing = (
        "import os, batchcancel.cli.session as session; old = session._write_result; "
        "session._write_result = lambda *a, **k: (os.rmdir('p'), old(*a, **k)); "
    )
    ended = subprocess.run(
        [sys.executable, "-c", removing + CALL, "run", manifest, *SANDBOX, "--report", "p/p.html"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )
    assert ended.returncode == 3
    assert "Warning: no page was written: p/p.html can't be written" in ended.stderr
    assert "batchcancel report invoices.sandbox.ledger.jsonl --html p/p.html" in ended.stderr
    assert run_command("verify", "invoices.sandbox.ledger.jsonl").returncode == 0
