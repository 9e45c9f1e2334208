"""What a person gets who made a mistake: one sentence that helps, the right exit code, nothing sent."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import RunCommand, Simulator

CSV = "invoice_id,amount\n2675,10\n2676,11\n"
KEY = {
    "BATCHCANCEL_MERCHANT_ID": "some_merchant",
    "BATCHCANCEL_KEY_ID": "some-key",
    "BATCHCANCEL_SHARED_SECRET": "c29tZS1zZWNyZXQ=",
}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Write a manifest of two invoices."""
    path = tmp_path / "invoices.csv"
    path.write_text(CSV, encoding="utf-8")
    return path


SANDBOX = ("--env", "sandbox")
USAGE_CASES = [
    pytest.param((), {}, CSV, "--env sandbox", id="no environment said"),
    pytest.param(("--env", "test"), {}, CSV, "BATCHCANCEL_MERCHANT_ID", id="no credentials"),
    pytest.param(
        ("--env", "test"),
        {**KEY, "BATCHCANCEL_SHARED_SECRET": "not base64!"},
        CSV,
        "not base64",
        id="secret that is not base64",
    ),
    pytest.param((*SANDBOX, "--column", "invoice"), {}, CSV, "invoice_id", id="unknown column"),
    pytest.param(SANDBOX, {}, "id,invoice_id\n1,2\n", "--column", id="two candidate columns"),
    pytest.param(SANDBOX, {}, "reference,amount\n1,2\n", "reference", id="no candidate column"),
    pytest.param(SANDBOX, {}, 'invoice_id,n\n1,"a"b\n', "line 2", id="broken quoting"),
    pytest.param(
        ("--env", "production", "--base-url", "http://api.visaacceptance.com"),
        KEY,
        CSV,
        "plain http",
        id="plain http to a real host",
    ),
    pytest.param(
        ("--env", "test", "--base-url", "https://api.visaacceptance.com"),
        KEY,
        CSV,
        "disagree",
        id="environment and host disagree",
    ),
    pytest.param(("--env", "production"), KEY, CSV, "--yes", id="production without a terminal"),
    pytest.param(SANDBOX, {"BATCHCANCEL_YES": "1"}, CSV, "--yes", id="yes in the environment"),
    pytest.param((*SANDBOX, "--concurrency", "0"), {}, CSV, "--concurrency", id="value out of bounds"),
    pytest.param((*SANDBOX, "--rate", "fast"), {}, CSV, "--rate", id="value that is no number"),
    pytest.param((*SANDBOX, "--no-such-flag"), {}, CSV, "--no-such-flag", id="unknown flag"),
    pytest.param((*SANDBOX, "--encoding", "klingon"), {}, CSV, "klingon", id="unknown encoding"),
]


@pytest.mark.parametrize(("flags", "env", "text", "sentence"), USAGE_CASES)
def test_mistake_is_exit_2_with_a_sentence_and_leaves_no_trace(
    run_command: RunCommand,
    manifest: Path,
    flags: tuple[str, ...],
    env: dict[str, str],
    text: str,
    sentence: str,
) -> None:
    """Nothing is sent, no ledger is made, and the last line says what to mend."""
    manifest.write_text(text, encoding="utf-8")
    ended = run_command("run", manifest, *flags, env=env)
    assert ended.returncode == 2, ended.stderr
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
    banner = 3 if "to cancel, at" in ended.stderr else 0
    assert len(ended.stderr.splitlines()) - ended.stderr.count("Warning:") - banner == 1
    assert ended.stdout == ""
    assert list(manifest.parent.glob("*.ledger.jsonl*")) == []
    assert all(secret not in ended.stderr for secret in KEY.values() if secret != "some_merchant")


def test_wrong_key_is_exit_4_before_any_cancelation(
    run_command: RunCommand, simulator: Simulator, manifest: Path
) -> None:
    """Two signed reads show that the key is refused; no invoice is touched, all stay open."""
    ended = run_command("run", manifest, *simulator.flags, env=KEY)
    assert ended.returncode == 4
    assert "refuses the key" in ended.stderr
    assert "left open" in ended.stdout
    assert [request["operation"] for request in simulator.requests()] == ["list", "list"]


def test_nobody_at_the_other_end_is_exit_4(run_command: RunCommand, manifest: Path) -> None:
    """A host that can't be reached is an outage; when that has lasted long enough the run stops."""
    ended = run_command(
        "run",
        manifest,
        *SANDBOX,
        "--base-url",
        "http://127.0.0.1:1",
        "--max-outage",
        "1",
        env=KEY,
    )
    assert ended.returncode == 4
    assert "no good reply" in ended.stderr


@pytest.mark.parametrize("text", ["", "invoice_id,amount\n", "\n\n"], ids=["empty", "header", "blank"])
def test_empty_manifest_is_nothing_to_do(run_command: RunCommand, manifest: Path, text: str) -> None:
    """There is no invoice, so there is no error and no ledger either."""
    manifest.write_text(text, encoding="utf-8")
    ended = run_command("run", manifest, *SANDBOX)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "Nothing to do: the manifest has no rows.\n"
    assert list(manifest.parent.glob("*.ledger.jsonl")) == []


def test_folder_and_missing_file_are_exit_2(run_command: RunCommand, tmp_path: Path) -> None:
    """Each has its own sentence."""
    for name in ("exports.csv", "exports"):
        (tmp_path / name).mkdir()
        folder = run_command("run", tmp_path / name, *SANDBOX)
        missing = run_command("run", tmp_path / f"missing-{name}", *SANDBOX)
        assert (folder.returncode, missing.returncode) == (2, 2)
        assert "this is a folder" in folder.stderr
        assert "there is no such file" in missing.stderr


def test_wrong_encoding_names_the_line(run_command: RunCommand, manifest: Path) -> None:
    """Bytes that are no UTF-8 are found before anything is sent."""
    manifest.write_bytes(b"invoice_id,name\n1,ok\n2,M\xfcller\n")
    ended = run_command("run", manifest, *SANDBOX)
    assert ended.returncode == 2
    assert "invoices.csv, line 3" in ended.stderr
    assert run_command("run", manifest, *SANDBOX, "--encoding", "cp1252").returncode == 0


def test_ledger_that_cant_be_written_is_exit_6(run_command: RunCommand, manifest: Path) -> None:
    """A folder that is not there, and a folder in the ledger's place."""
    missing = run_command("run", manifest, *SANDBOX, "--ledger", "nowhere/x.jsonl")
    folder = run_command("run", manifest, *SANDBOX, "--ledger", ".")
    assert (missing.returncode, folder.returncode) == (6, 6)
    assert "nowhere/x.jsonl can't be opened" in missing.stderr
    assert "is on disk" not in missing.stderr
    assert "Traceback" not in missing.stderr + folder.stderr


def test_somebody_elses_file_is_never_taken_for_a_ledger(run_command: RunCommand, manifest: Path) -> None:
    """A manifest given as the ledger stays as it is."""
    ended = run_command("run", manifest, *SANDBOX, "--ledger", manifest)
    assert ended.returncode == 2
    assert "no ledger" in ended.stderr
    assert manifest.read_text(encoding="utf-8") == CSV


def test_ledger_of_another_merchant_or_environment_is_exit_2(
    run_command: RunCommand, simulator: Simulator, manifest: Path, tmp_path: Path
) -> None:
    """Ids mean other invoices there; the ledger is left as it is."""
    ledger = tmp_path / "x.jsonl"
    assert (
        run_command("run", manifest, *simulator.flags, "--ledger", ledger, env=simulator.env).returncode == 0
    )
    before = ledger.read_bytes()
    merchant = run_command("run", manifest, *simulator.flags, "--ledger", ledger, env=KEY)
    environment = run_command("run", manifest, "--env", "production", "--yes", "--ledger", ledger, env=KEY)
    assert (merchant.returncode, environment.returncode) == (2, 2)
    assert "another merchant" in merchant.stderr
    assert "belongs to sandbox" in environment.stderr
    assert ledger.read_bytes() == before


def test_damaged_ledger_is_exit_6_with_its_place(run_command: RunCommand, manifest: Path) -> None:
    """A flipped byte in the middle is found before anything is sent, and nothing is cut."""
    assert run_command("run", manifest, *SANDBOX).returncode == 0
    ledger = manifest.with_name("invoices.sandbox.ledger.jsonl")
    data = bytearray(ledger.read_bytes())
    data[data.index(b'"canceled"')] ^= 1
    ledger.write_bytes(data)
    ended = run_command("run", manifest, *SANDBOX)
    assert ended.returncode == 6
    assert "line 2" in ended.stderr
    assert ledger.read_bytes() == data


def test_two_runs_at_once_are_exit_5(
    run_command: RunCommand,
    simulator: Simulator,
    command_path: Path,
    clean_environment: dict[str, str],
    manifest: Path,
    tmp_path: Path,
) -> None:
    """The second one says who is in the way and touches nothing."""
    manifest.write_text("invoice_id\nHANG-1\n", encoding="utf-8")
    arguments = ["run", str(manifest), *simulator.flags, "--timeout", "20"]
    with subprocess.Popen(
        [command_path, *arguments], env=clean_environment | simulator.env, cwd=tmp_path
    ) as first:
        while not any(request["operation"] == "cancel" for request in simulator.requests()):
            assert first.poll() is None
        second = run_command(*arguments, env=simulator.env)
        first.send_signal(signal.SIGTERM)
        first.send_signal(signal.SIGINT)
        first.wait(15)
    assert second.returncode == 5
    assert "invoices.sandbox.ledger.jsonl" in second.stderr


def _type_into(command: list[str | Path], typed: bytes, *, env: dict[str, str], cwd: Path) -> tuple[int, str]:
    """Run a command on a terminal of its own, type something, return exit code and what was seen."""
    process_id, terminal = pty.fork()
    if process_id == 0:
        os.chdir(cwd)
        os.execve(command[0], [str(part) for part in command], env)
    seen = b""
    while True:
        if seen.endswith(b"go on: "):
            os.write(terminal, typed)
        try:
            block = os.read(terminal, 4096)
        except OSError:  # Linux says so when the other end is gone
            break
        if not block:
            break
        seen += block
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1]), seen.decode()


@pytest.mark.parametrize(
    ("typed", "code", "sentence"),
    [
        pytest.param(b"3\n", 2, "Not confirmed", id="another number"),
        pytest.param(b"\n", 2, "Not confirmed", id="just return"),
        pytest.param(b"2\n", 4, "no good reply", id="the number"),
        pytest.param(b"\x03", 130, "Type the number", id="Ctrl-C"),
    ],
)
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # pty.fork with threads around
def test_production_on_a_terminal_wants_the_number_typed(
    command_path: Path,
    clean_environment: dict[str, str],
    manifest: Path,
    typed: bytes,
    code: int,
    sentence: str,
) -> None:
    """Only the number of invoices lets the run go on (to a host that does not exist)."""
    command: list[str | Path] = [command_path, "run", manifest, "--env", "production", "--max-outage", "0"]
    command += ["--base-url", "https://batchcancel.invalid"]
    env = clean_environment | KEY | {"TERM": "xterm"}
    ended = _type_into(command, typed, env=env, cwd=manifest.parent)
    assert ended[0] == code, ended[1]
    assert ("p pause" in ended[1]) is (code == 4), "the live view comes once it is typed"
    assert sentence in ended[1]
    assert "2 invoices to cancel, at batchcancel.invalid (production), merchant som***nt" in ended[1]
    if code != 4:
        assert list(manifest.parent.glob("*.ledger.jsonl")) == []
