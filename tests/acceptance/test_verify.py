"""``batchcancel verify`` as a person or a cron job calls it, on ledgers that real runs wrote."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import stat
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchcancel.ledger.record import RunRecord, encode_run

if TYPE_CHECKING:
    from tests.acceptance.conftest import ReadLedger, RunCommand, Simulator

IDS = ["2675", "0042", "PAID-1", "PARTIAL-1", "MISSING-1", "2675", "b@d", "7"]
SANDBOX = ("--env", "sandbox")
KEYS = (
    "ledger sound env merchant_id size_bytes lines runs results skips invoices outcomes reasons "
    "findings finding_count notes salvage manifest exit_code"
)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Write a manifest in which every outcome is."""
    path = tmp_path / "invoices.txt"
    path.write_text("".join(f"{invoice_id}\n" for invoice_id in IDS), encoding="utf-8")
    return path


@pytest.fixture
def ledger(manifest: Path, run_command: RunCommand) -> Path:
    """Run over the manifest; its ledger has a run record, seven rows, a skip and an end."""
    assert run_command("run", manifest, *SANDBOX).returncode == 3
    return manifest.with_name("invoices.sandbox.ledger.jsonl")


def damage(path: Path, *, line: int, position: int) -> bytes:
    """Flip a byte of a line of a file; return what the file holds now."""
    lines = path.read_bytes().splitlines(keepends=True)
    data = bytearray(b"".join(lines))
    data[len(b"".join(lines[: line - 1])) + position] ^= 0x01
    path.write_bytes(data)
    return bytes(data)


def audit(run_command: RunCommand, *arguments: str | Path) -> dict[str, Any]:
    """Verify with --json; the document's exit code has to be the process's."""
    ended = run_command("verify", *arguments, "--json")
    document: dict[str, Any] = json.loads(ended.stdout)
    assert document["exit_code"] == ended.returncode
    assert ended.stderr == ""
    return document


def test_a_ledger_as_a_run_leaves_it_is_sound(run_command: RunCommand, ledger: Path) -> None:
    """Exit 0, and a table of what became of the invoices; the ledger is left as it is."""
    before = ledger.read_bytes()
    ended = run_command("verify", ledger.name)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == (
        "Sound: invoices.sandbox.ledger.jsonl keeps its promise.\n"
        "Environment sandbox, merchant san***nt.\n"
        "\n"
        "  outcome         reason      invoices\n"
        "  --------------  ----------  --------\n"
        "  canceled        canceled           3\n"
        "  already_paid    paid               1\n"
        "  partially_paid  partial            1\n"
        "  error           not_found          1\n"
        "                  invalid_id         1\n"
        "\n"
        "  result rows                        7\n"
        "  skipped rows                       1\n"
        "  runs                               1\n"
        "                  complete           1\n"
        "  lines                             10\n"
    )
    assert ledger.read_bytes() == before


def test_the_json_is_pinned(run_command: RunCommand, ledger: Path) -> None:
    """Every key, in its order, and the counts of the run itself."""
    document = audit(run_command, ledger)
    assert " ".join(document) == KEYS
    assert document["runs"] == {"complete": 1, "stopped": 0, "interrupted": 0, "no_end": 0}
    assert document["outcomes"] == {"canceled": 3, "already_paid": 1, "partially_paid": 1, "error": 2}
    assert document["reasons"]["invalid_id"] == 1
    assert (document["sound"], document["findings"], document["notes"]) == (True, [], [])
    assert (document["lines"], document["results"], document["skips"], document["invoices"]) == (10, 7, 1, 7)
    assert (document["env"], document["merchant_id"]) == ("sandbox", "san***nt")
    assert (document["salvage"], document["size_bytes"]) == (None, ledger.stat().st_size)

    damage(ledger, line=3, position=50)
    salvaged = audit(run_command, ledger, "--salvage", "new.jsonl")
    assert " ".join(salvaged) == KEYS
    assert " ".join(salvaged["findings"][0]) == " ".join(salvaged["notes"][0]) == "kind line offset text"
    assert " ".join(salvaged["salvage"]) == "path lines lines_left_out left_out sound"
    assert " ".join(salvaged["salvage"]["left_out"][0]) == "line lines offset size_bytes why"


@pytest.mark.parametrize(
    ("line", "where"),
    [
        pytest.param(2, 0, id="first row, first byte"),
        pytest.param(6, 0, id="middle row, first byte"),
        pytest.param(6, 0.5, id="middle row, middle byte"),
        pytest.param(6, -2, id="middle row, last byte"),
        pytest.param(9, 0.5, id="last row, middle byte"),
    ],
)
def test_damage_is_refused_found_salvaged_and_asked_again(
    run_command: RunCommand,
    simulator: Simulator,
    manifest: Path,
    read_ledger: ReadLedger,
    line: int,
    where: float,
) -> None:
    """A run stops at it and says what to do; that done, only what was lost is asked again."""
    flags, ledger = (*simulator.flags, "--ledger", "x.jsonl"), manifest.with_name("x.jsonl")
    assert run_command("run", manifest, *flags, env=simulator.env).returncode == 3
    lines = ledger.read_bytes().splitlines(keepends=True)
    record = json.loads(lines[line - 1])
    size = len(lines[line - 1])
    position = int(size * where) if where >= 0 else size + int(where)
    damaged = damage(ledger, line=line, position=position)

    refused = run_command("run", manifest, *flags, env=simulator.env)
    assert refused.returncode == 6
    advice = f"batchcancel verify {shlex.quote('x.jsonl')} --salvage NEW"
    assert f"line {line}, " in refused.stderr
    assert advice in refused.stderr

    before = Counter(request["invoice_id"] for request in simulator.requests())
    ended = run_command(*shlex.split(advice.replace("NEW", "new.jsonl"))[1:])
    assert (ended.returncode, ended.stderr) == (6, "")
    assert f"line {line}, byte {len(b''.join(lines[: line - 1]))}: This line is damaged." in ended.stdout
    new = manifest.with_name("new.jsonl")
    kept = [one for number, one in enumerate(lines, start=1) if number not in {line, len(lines)}]
    assert new.read_bytes() == b"".join(kept)
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert ledger.read_bytes() == damaged

    again = run_command("run", manifest, *simulator.flags, "--ledger", new, env=simulator.env)
    assert again.returncode in {0, 3}, again.stderr
    after = Counter(request["invoice_id"] for request in simulator.requests())
    lost = {record["invoice_id"]} if record["type"] == "result" else set()
    assert {one for one in after - before if one} == lost - {"b@d"}
    results = Counter(row["invoice_id"] for row in read_ledger(new) if row["type"] == "result")
    assert results == Counter(set(IDS))
    assert audit(run_command, new)["sound"]


@pytest.mark.parametrize("cut", [1, 2, 40, -1], ids=["newline", "two bytes", "some", "all but one"])
def test_a_torn_last_record_is_no_damage_and_costs_no_other_row(
    run_command: RunCommand, manifest: Path, ledger: Path, read_ledger: ReadLedger, cut: int
) -> None:
    """Verify says that a crash was here and exits 0; the next run mends it, and nothing is left to say."""
    lines = ledger.read_bytes().splitlines(keepends=True)[:-1]  # killed before its end
    torn = b"".join(lines)[: -cut if cut > 0 else len(b"".join(lines[:-1])) + 1]
    ledger.write_bytes(torn)
    document = audit(run_command, ledger)
    assert document["sound"]
    assert [note["kind"] for note in document["notes"]] == ["no_end", "tail"]
    assert ledger.read_bytes() == torn
    assert run_command("run", manifest, *SANDBOX).returncode in {0, 3}
    assert ledger.read_bytes().startswith(b"".join(lines[:-1]))
    results = Counter(row["invoice_id"] for row in read_ledger(ledger) if row["type"] == "result")
    assert results == Counter(set(IDS))
    assert [note["kind"] for note in audit(run_command, ledger)["notes"]] == ["no_end"]


def test_a_ledger_without_its_beginning_can_not_be_salvaged(run_command: RunCommand, ledger: Path) -> None:
    """Nothing says whose rows they are; it is said, exit 6, and no empty ledger is left behind."""
    damage(ledger, line=1, position=20)
    ended = run_command("verify", ledger, "--salvage", "new.jsonl")
    assert (ended.returncode, ended.stderr) == (6, "")
    assert "Nothing can be salvaged" in ended.stdout
    assert "lines 2 to 10, byte " in ended.stdout
    assert not ledger.with_name("new.jsonl").exists()


def test_a_ledger_at_work_is_said(run_command: RunCommand, ledger: Path) -> None:
    """While a run holds it, verify only notes that; a salvage is refused with exit 5."""
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-1]))
    with ledger.open("rb") as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        ended = run_command("verify", ledger)
        refused = run_command("verify", ledger, "--salvage", "new.jsonl")
    assert ended.returncode == 0
    assert "A run is writing to the ledger" in ended.stdout
    assert (refused.returncode, refused.stdout) == (5, "")
    assert not ledger.with_name("new.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param((), "LEDGER", id="no ledger named"),
        pytest.param(("nowhere.jsonl",), "can't be opened: No such file", id="missing"),
        pytest.param(("invoices.txt",), "is no ledger and was left as it is", id="a manifest"),
        pytest.param(("invoices.txt", "--salvage", "new.jsonl"), "is no ledger", id="a manifest to salvage"),
        pytest.param((".",), "not a regular file", id="folder"),
        pytest.param(("LEDGER", "--salvage", "invoices.txt"), "is there already", id="new is there"),
        pytest.param(("LEDGER", "--salvage", "LEDGER"), "is there already", id="new is the ledger"),
        pytest.param(("LEDGER", "--repair"), "--repair", id="unknown flag"),
    ],
)
def test_a_mistake_is_exit_2_with_a_sentence(
    run_command: RunCommand, ledger: Path, manifest: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    """Nothing is written anywhere."""
    before = (ledger.read_bytes(), manifest.read_bytes(), sorted(ledger.parent.iterdir()))
    ended = run_command("verify", *(ledger if one == "LEDGER" else one for one in arguments))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (ledger.read_bytes(), manifest.read_bytes(), sorted(ledger.parent.iterdir())) == before


def hostile_ledger(path: Path) -> None:
    """Write a ledger whose texts try to take over the terminal."""
    text = "\x1b[2J\x9b\u202e\x07"
    run = RunRecord(
        run_id=text,
        started_at=text,
        version=text,
        env=text,
        base_url=text,
        merchant_id=text + "merchant",
        operator=text,
        host=text,
        pid=1,
        ref=text,
        manifest=(),
        options={},
    )
    path.write_bytes(encode_run(run) * 2)


@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["text", "json"])
def test_nothing_of_a_ledger_reaches_the_terminal_raw(
    run_command: RunCommand, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """Neither its texts nor its name can move a cursor or reorder what is shown."""
    path = tmp_path / "x\x1b[2J\u202e.jsonl"
    hostile_ledger(path)
    ended = run_command("verify", path, *flags)
    assert ended.returncode == 6
    assert all(line.isascii() and line.isprintable() for line in ended.stdout.splitlines())
    assert "x1b[2J" in ended.stdout or "u001b[2J" in ended.stdout


def test_a_salvage_that_leaves_nothing_out_is_called_a_copy(run_command: RunCommand, ledger: Path) -> None:
    """It asks for no other run."""
    ended = run_command("verify", ledger, "--salvage", "new.jsonl")
    assert ended.returncode == 0
    assert "lines are in new.jsonl, a plain copy." in ended.stdout
    assert "--ledger" not in ended.stdout
    assert ledger.with_name("new.jsonl").read_bytes() == ledger.read_bytes()


def test_what_no_copy_mends_is_said(run_command: RunCommand, ledger: Path) -> None:
    """A ledger whose lines are whole and wrong is copied with its findings, and the exit code tells."""
    lines = ledger.read_bytes().splitlines(keepends=True)
    answer = next(line for line in lines if b'"canceled"' in line)
    ledger.write_bytes(b"".join([*lines, answer]))
    ended = run_command("verify", ledger, "--salvage", "new.jsonl")
    assert ended.returncode == 6
    assert "has its final answer already" in ended.stdout
    assert "It still has 2 of the findings" in ended.stdout


@pytest.mark.parametrize(
    ("target", "warned"), [("closed pipe", False), ("/dev/full", True)], ids=["closed pipe", "full disk"]
)
def test_a_reader_that_has_gone_away_changes_no_exit_code(
    command_path: Path,
    clean_environment: dict[str, str],
    ledger: Path,
    *,
    target: str,
    warned: bool,
) -> None:
    """``verify | head -1`` in a script that looks at the code."""
    damage(ledger, line=3, position=9)
    if target == "closed pipe":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open(target, os.O_WRONLY)
    try:
        ended = subprocess.run(
            [command_path, "verify", ledger],
            env=clean_environment,
            stdout=writing,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            check=False,
            timeout=30,
        )
    finally:
        os.close(writing)
    assert ended.returncode == 6
    assert ("can't be written" in ended.stderr, "Traceback" in ended.stderr) == (warned, False)


# --- the manifest ---------------------------------------------------------------------------------

COVERAGE_KEYS = (
    "files runs complete_runs rows answered invalid duplicates excluded open_errors unanswered open_rows "
    "disagreements disagreement_count"
)


def test_a_manifest_is_held_against_the_ledger(run_command: RunCommand, ledger: Path, manifest: Path) -> None:
    """Every row is accounted for; exit 0, and the manifest is only read."""
    before = manifest.read_bytes()
    ended = run_command("verify", ledger, "--manifest", manifest.name)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (
        "\nManifest: agrees with the ledger, every row is accounted for: invoices.txt\n"
        "\n"
        "  manifest                 rows\n"
        "  ------------             ----\n"
        "  answered      canceled      3\n"
        "  answered      paid          1\n"
        "  answered      partial       1\n"
        "  answered      not_found     1\n"
        "  invalid ids                 1\n"
        "  duplicates                  1\n"
        "  all                         8\n"
        "  runs over it                1\n"
    ) in ended.stdout
    document = audit(run_command, ledger, "--manifest", manifest.name)["manifest"]
    assert " ".join(document) == COVERAGE_KEYS
    assert [(one["path"], one["rows"]) for one in document["files"]] == [("invoices.txt", 8)]
    assert manifest.read_bytes() == before


def test_a_manifest_that_disagrees_is_exit_3_and_damage_is_exit_6(
    run_command: RunCommand, ledger: Path, manifest: Path
) -> None:
    """Damage counts more; what is open is named, hostile text included, and moves no cursor."""
    manifest.write_text("2675\n\x1b[2J\u202e\n" + "\nnew\n", encoding="utf-8")
    ended = run_command("verify", ledger, "--manifest", manifest.name)
    assert ended.returncode == 3
    assert "Manifest: 1 disagreement with the ledger: invoices.txt" in ended.stdout
    assert "No run of this ledger read invoices.txt as it is now" in ended.stdout
    assert (
        "Open rows\n  row 2: \\x1b[2J\\u202e, without a row\n  row 3: new, without a row\n"
    ) in ended.stdout
    assert ended.stdout.isascii()
    damage(ledger, line=3, position=30)
    assert run_command("verify", ledger, "--manifest", manifest.name).returncode == 6


def test_several_manifests_name_the_file_of_each_row(
    run_command: RunCommand, manifest: Path, tmp_path: Path
) -> None:
    """In the order of their run."""
    (tmp_path / "more.txt").write_text("FORBIDDEN-1\n", encoding="utf-8")
    files = ("--manifest", manifest.name, "--manifest", "more.txt")
    assert run_command("run", manifest.name, "more.txt", *SANDBOX, "--ledger", "l").returncode == 3
    ended = run_command("verify", "l", *files)
    assert ended.returncode == 0
    assert "agrees with the ledger, 1 row open: invoices.txt, more.txt" in ended.stdout
    assert "  more.txt, row 1: FORBIDDEN-1, refused\n" in ended.stdout


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--column", "id"), "go with --manifest"),
        (("--manifest", "nowhere.csv"), "nowhere.csv can't be read: No such file or directory"),
        (("--manifest", "."), "is not a regular file"),
        (("--manifest", "invoices.txt", "--format", "csv", "--column", "nr"), "nr"),
        (("--manifest", "invoices.txt", "--format", "xml"), "xml"),
        (("--manifest", "invoices.txt", "--encoding", "klingon"), "klingon"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else None,
)
def test_a_manifest_that_can_not_be_read_is_exit_2(
    run_command: RunCommand, ledger: Path, flags: tuple[str, ...], sentence: str
) -> None:
    """One sentence, and nothing on standard output."""
    ended = run_command("verify", ledger, *flags)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert sentence in ended.stderr
    assert ended.stderr.count("\n") == 1
