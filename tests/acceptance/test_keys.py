"""Every way to sign and encrypt: the simulator makes the keys, the command runs by what it printed."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import pkcs12

from batchcancel.sandbox.throwaway import ThrowawayKeys, keys_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.conftest import ReadLedger, RunCommand, Simulator, StartRun, StartSimulator

Row = tuple[int, str, str, str]

_LEDGER: Final = "invoices.sandbox.ledger.jsonl"
_OWN_LEDGER: Final = ("--ledger", "l.ledger.jsonl")


def rows_of(ledger: list[dict[str, Any]]) -> list[Row]:
    """Say what a ledger tells of each row, in the manifest's order."""
    return sorted(
        (line["row"], line["invoice_id"], line["outcome"], line["reason"])
        for line in ledger
        if line["type"] == "result"
    )


@pytest.fixture(scope="module")
def expected_rows(
    command_path: Path, samples: Path, read_ledger: ReadLedger, tmp_path_factory: pytest.TempPathFactory
) -> list[Row]:
    """Run the sample once with the made-up secret, plain: how that ends is shown with the samples."""
    folder = tmp_path_factory.mktemp("plain")
    done = subprocess.run(
        [command_path, "run", samples / "invoices.csv", "--env", "sandbox"],
        env={"HOME": str(folder)},
        cwd=folder,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    return rows_of(read_ledger(folder / _LEDGER))


def printed_variables(simulator: Simulator) -> tuple[dict[str, str], dict[str, str]]:
    """Take what the simulator says to set: for the shared secret, and for its certificates."""
    instructions = simulator.log.with_suffix(".err").read_text(encoding="utf-8")
    blocks = instructions.split("or, to sign with a certificate")
    assert len(blocks) == 2, instructions
    of_secret, of_certificate = (dict(re.findall(r"  (BATCHCANCEL_\w+)=(.+)", block)) for block in blocks)
    return of_secret, of_certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to sign and encrypt, and what the simulator has to see of it."""

    auth: str
    mle: str = "off"
    scheme: str
    requests_encrypted: bool = False
    """Whether cancelations are; the simulator then refuses those that are not."""
    replies_encrypted: bool = False


_WAYS: Final = {
    "jwt": Way(auth="jwt", scheme="HS256"),
    "jwt-both": Way(auth="jwt", mle="both", scheme="HS256", requests_encrypted=True, replies_encrypted=True),
    "http-signature": Way(auth="http_signature", scheme="http_signature"),
    "p12": Way(auth="p12", scheme="RS256"),
    "p12-requests": Way(auth="p12", mle="request", scheme="RS256", requests_encrypted=True),
    "p12-both": Way(auth="p12", mle="both", scheme="RS256", requests_encrypted=True, replies_encrypted=True),
}


@pytest.mark.parametrize("way", _WAYS.values(), ids=_WAYS)
def test_sample_ends_alike_however_it_is_signed_and_encrypted(
    way: Way,
    samples: Path,
    run_command: RunCommand,
    read_ledger: ReadLedger,
    start_simulator: StartSimulator,
    expected_rows: list[Row],
    tmp_path: Path,
) -> None:
    """Each row's answer is that of a plain run, and what went over the wire is what was configured."""
    simulator = start_simulator("--make-keys", "keys", *required(way))
    variables = printed_variables(simulator)[way.auth == "p12"] | {
        "BATCHCANCEL_AUTH": way.auth,
        "BATCHCANCEL_MLE": way.mle,
    }
    done = run_command("run", samples / "invoices.csv", *simulator.flags, env=variables)
    assert done.returncode == 3, done.stderr
    assert rows_of(read_ledger(tmp_path / _LEDGER)) == expected_rows
    check_wire(simulator, way)
    assert {request["merchant_id"] for request in simulator.requests()} == {"sandbox_merchant"}


@pytest.mark.parametrize("auth", ["jwt", "p12"])
def test_what_is_printed_runs_as_it_stands(
    auth: str, run_command: RunCommand, start_simulator: StartSimulator
) -> None:
    """Where encryption is required, the variables for the shared secret encrypt too."""
    simulator = start_simulator("--make-keys", "keys", "--require-mle")
    printed = printed_variables(simulator)[auth == "p12"]
    done = run_command(
        "run", "-", "--format", "txt", *_OWN_LEDGER, *simulator.flags, stdin="2675", env=printed
    )
    assert done.returncode == 0, done.stderr
    check_wire(simulator, _WAYS[f"{auth}-both"])


@pytest.mark.parametrize("way", [_WAYS["p12"], _WAYS["p12-both"]], ids=["plain", "encrypted"])
@pytest.mark.parametrize("merchant_id", ["sandbox_merchant", "second"], ids=["first", "second"])
def test_meta_key_cancels_for_each_merchant_of_its_portfolio(
    merchant_id: str,
    way: Way,
    run_command: RunCommand,
    start_simulator: StartSimulator,
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> None:
    """The portfolio's one certificate signs and decrypts; only the named merchant's invoices change."""
    flags = ("--make-keys", "keys", "--merchant", "second", *required(way))
    simulator = start_simulator(*flags, env={"BATCHCANCEL_PORTFOLIO_ID": "portfolio"})
    _, printed = printed_variables(simulator)
    assert printed["BATCHCANCEL_KEY_ALIAS"] == "portfolio"
    variables = printed | {"BATCHCANCEL_MERCHANT_ID": merchant_id, "BATCHCANCEL_MLE": way.mle}
    arguments = ("run", "-", "--format", "txt", *_OWN_LEDGER, *simulator.flags)
    done = run_command(*arguments, stdin="2675\nPAID-1\n", env=variables)
    assert done.returncode == 0, done.stderr
    rows = rows_of(read_ledger(tmp_path / "l.ledger.jsonl"))
    assert rows == [(1, "2675", "canceled", "canceled"), (2, "PAID-1", "already_paid", "paid")]
    check_wire(simulator, way)
    assert {request["merchant_id"] for request in simulator.requests()} == {merchant_id}


def test_plain_run_against_a_service_that_requires_encryption_cancels_nothing(
    run_command: RunCommand, start_simulator: StartSimulator
) -> None:
    """Every cancelation is refused, and no row says otherwise."""
    simulator = start_simulator("--make-keys", "keys", "--require-mle")
    variables = printed_variables(simulator)[1] | {"BATCHCANCEL_MLE": "off"}
    arguments = ("run", "-", "--format", "txt", "--json", *_OWN_LEDGER, *simulator.flags)
    done = run_command(*arguments, stdin="2675\n2676\n", env=variables)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["reasons"] == {"rejected": 2}
    assert not any(request["committed"] for request in simulator.requests())


@pytest.mark.parametrize(("mle", "is_hinted"), [("off", True), ("request", False)])
def test_stop_for_refusals_hints_at_encryption(
    mle: str, *, is_hinted: bool, run_command: RunCommand, start_simulator: StartSimulator
) -> None:
    """Only where nothing was encrypted, and most refused invoices are open: then it may be the reason."""
    simulator = start_simulator("--make-keys", "keys", *(("--require-mle",) if mle == "off" else ()))
    variables = printed_variables(simulator)[1] | {"BATCHCANCEL_MLE": mle}
    arguments = ("run", "-", "--format", "txt", "--json", *_OWN_LEDGER, *simulator.flags)
    invoices = "\n".join(f"{'' if mle == 'off' else 'FORBIDDEN-'}{number}" for number in range(150))
    done = run_command(*arguments, stdin=invoices, env=variables)
    assert done.returncode == 4, done.stderr
    why = json.loads(done.stdout)["why"]
    assert "(--max-error-rate)" in why
    assert ("may require message-level encryption" in why) == is_hinted
    assert why in done.stderr
    assert not any(request["committed"] for request in simulator.requests())


def test_certificate_of_another_key_is_exit_4_before_any_cancelation(
    run_command: RunCommand, start_simulator: StartSimulator, tmp_path: Path
) -> None:
    """The service knows the merchant, and another certificate of it."""
    simulator = start_simulator("--make-keys", "keys")
    others = keys_in(tmp_path / "others", "sandbox_merchant")
    variables = printed_variables(simulator)[1] | {
        "BATCHCANCEL_MLE": "off",
        "BATCHCANCEL_P12_FILE": str(others.signing_p12),
        "BATCHCANCEL_P12_PASSWORD_FILE": str(others.password_file),
    }
    arguments = ("run", "-", "--format", "txt", *_OWN_LEDGER, *simulator.flags)
    done = run_command(*arguments, stdin="2675\n2676\n", env=variables)
    assert done.returncode == 4, done.stderr
    assert {request["operation"] for request in simulator.requests()} == {"list"}
    assert {request["http_status"] for request in simulator.requests()} == {401}


_CRASH: Final = """
import sys
import batchcancel.api.encryption as encryption
import batchcancel.api.p12 as p12
from batchcancel.cli import main

def broken(self, *arguments, **named):
    key, self_again = getattr(self, "private_key", None), self
    raise RuntimeError("a defect")

if sys.argv[1] == "signing":
    p12.CertificateKey.sign = broken
else:
    encryption.MessageEncryption.encrypt = broken
main(sys.argv[2:])
"""


def test_nothing_of_keys_and_passwords_is_in_any_file_or_stream(
    run_command: RunCommand,
    clean_environment: dict[str, str],
    start_simulator: StartSimulator,
    tmp_path: Path,
) -> None:
    """With certificates and encryption both ways, in good runs, refused ones and crashes, told in full."""
    simulator = start_simulator("--make-keys", "keys", "--require-mle")
    variables = printed_variables(simulator)[1]
    keys = ThrowawayKeys(folder=tmp_path / "keys")
    password = keys.password_file.read_text(encoding="ascii").strip()
    others = keys_in(tmp_path / "others", "sandbox_merchant")
    (tmp_path / "invoices.txt").write_text("2675\nPAID-1\nMISSING-1\nHTML-1\n", encoding="ascii")
    (tmp_path / "crash.py").write_text(_CRASH, encoding="ascii")
    (tmp_path / "wrong").write_text("hunter2-hunter2", encoding="ascii")
    (tmp_path / "wrong").chmod(0o600)
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - {simulator.log}
    loud = (
        *("--log-level", "debug", "--log-format", "json", "--progress", "json", "--json"),
        *("--max-attempts", "1", "--max-outage", "1"),
    )
    shown: dict[str, str] = {}

    def run(name: str, code: int, program: tuple[str | Path, ...], **changes: str) -> None:
        arguments = ("run", "invoices.txt", *simulator.flags, *loud, "--ledger", f"{name}.jsonl")
        ended = subprocess.run(
            [*program, *arguments],
            env=clean_environment | variables | {f"BATCHCANCEL_{key}": text for key, text in changes.items()},
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert ended.returncode == code, (name, ended.stderr)
        shown[name] = ended.stdout + ended.stderr

    command: tuple[str | Path, ...] = (Path(sys.executable).parent / "batchcancel",)
    run("good", 3, command)
    run("with a log", 3, command, LOG_FILE="run.log")
    for variable in ("P12_PASSWORD_FILE", "MLE_RESPONSE_KEY_PASSWORD_FILE"):
        run(f"wrong {variable}", 2, command, **{variable: "wrong"})
    run("reply for another key", 4, command, MLE_RESPONSE_KEY_FILE=str(others.response_p12), **_of(others))
    for defect in ("signing", "encryption"):
        run(defect, 1, (sys.executable, "-X", "dev", "crash.py", defect))
        assert "a defect" in shown[defect]
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - made
    assert {"run.log", "good.jsonl"} <= {path.name for path in written}
    texts = shown | {path.name: path.read_bytes().decode(errors="backslashreplace") for path in written}
    needles = [password, "hunter2", "eyJ", "Bearer", "PRIVATE KEY", "encryptedRe"]
    needles += [base64.b64encode(needle.encode()).decode() for needle in (password, "hunter2-hunter2")]
    needles += [
        str(number) for path in (keys.signing_p12, keys.response_p12) for number in _numbers(path, password)
    ]
    assert [(where, needle) for where, text in texts.items() for needle in needles if needle in text] == []


def _of(others: ThrowawayKeys) -> dict[str, str]:
    return {"MLE_RESPONSE_KEY_PASSWORD_FILE": str(others.password_file)}


def _numbers(path: Path, password: str) -> list[int]:
    """Return a private key's secret numbers."""
    key = pkcs12.load_pkcs12(path.read_bytes(), password.encode()).key
    assert isinstance(key, RSAPrivateKey)
    numbers = key.private_numbers()
    return [numbers.d, numbers.p, numbers.q]


# --- keys that change in the middle of a run ------------------------------------------------------

_INVOICES: Final = 200
_SLOWLY: Final = ("--rate", "100", "--concurrency", "4")
_LOGGED: Final = ("--log-file", "log", "--log-format", "json", "--log-level", "debug")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """The keys of a run, and those that take their place."""

    flags: tuple[tuple[str, ...], tuple[str, ...]]
    """Of the simulator that knows the first keys, and of the one that knows the second."""
    simulator_env: tuple[dict[str, str], dict[str, str]]
    env: dict[str, str]
    """Of the run."""
    files: dict[str, tuple[Path, Path]]
    """By the name that the run knows, what it holds first and then."""

    def put(self, folder: Path, number: int) -> None:
        """Put the first or the second keys in their places, one file after another."""
        for name, contents in self.files.items():
            fresh = folder / f"{name}.fresh"
            fresh.write_bytes(contents[number].read_bytes())
            fresh.chmod(0o600)
            fresh.replace(folder / name)


def rotation_of_a_secret(folder: Path) -> Rotation:
    """Write two secrets."""
    texts = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]
    paths = folder / "secret-1", folder / "secret-2"
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text + "\n", encoding="ascii")
    ids = {"BATCHCANCEL_MERCHANT_ID": "m", "BATCHCANCEL_KEY_ID": "k"}
    first, second = (ids | {"BATCHCANCEL_SHARED_SECRET": text} for text in texts)
    return Rotation(
        flags=((), ()),
        simulator_env=(first, second),
        env=ids | {"BATCHCANCEL_SHARED_SECRET_FILE": "secret"},
        files={"secret": paths},
    )


def rotation_of_certificates(folder: Path) -> Rotation:
    """Make two sets of keys to sign with and to encrypt both ways with, under two passwords."""
    first, second = (keys_in(folder / name, "sandbox_merchant") for name in ("keys-1", "keys-2"))
    return Rotation(
        flags=tuple(("--make-keys", str(keys.folder), "--require-mle") for keys in (first, second)),  # type: ignore[arg-type] # two are two
        simulator_env=({}, {}),
        env={
            "BATCHCANCEL_MERCHANT_ID": "sandbox_merchant",
            "BATCHCANCEL_AUTH": "p12",
            "BATCHCANCEL_P12_FILE": "key.p12",
            "BATCHCANCEL_P12_PASSWORD_FILE": "word",
            "BATCHCANCEL_MLE": "both",
            "BATCHCANCEL_MLE_RESPONSE_KEY_FILE": "response.p12",
            "BATCHCANCEL_MLE_RESPONSE_KEY_PASSWORD_FILE": "word",
        },
        files={
            "key.p12": (first.signing_p12, second.signing_p12),
            "response.p12": (first.response_p12, second.response_p12),
            "word": (first.password_file, second.password_file),
        },
    )


@pytest.mark.parametrize("make", [rotation_of_a_secret, rotation_of_certificates], ids=["jwt", "p12-both"])
def test_keys_that_are_changed_in_the_middle_of_a_run_are_taken_up(
    make: Callable[[Path], Rotation],
    start_simulator: StartSimulator,
    start_run: StartRun,
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> None:
    """The service goes away, comes back with other keys and refuses the old ones; the run ends well."""
    rotation = make(tmp_path)
    rotation.put(tmp_path, 0)
    (tmp_path / "invoices.txt").write_text("\n".join(map(str, range(_INVOICES))), encoding="ascii")
    first = start_simulator(*rotation.flags[0], env=rotation.simulator_env[0])
    with start_run(first, "invoices.txt", *_SLOWLY, *_LOGGED, env=rotation.env) as run:
        first.wait_for("cancel", 50)
        first.process.kill()
        first.process.wait()
        rotation.put(tmp_path, 1)
        port = first.base_url.rpartition(":")[2]
        second = start_simulator("--port", port, *rotation.flags[1], env=rotation.simulator_env[1])
        assert run.wait(90) == 0, run.stderr.read() if run.stderr else ""
    rows = rows_of(read_ledger(tmp_path / "invoices.sandbox.ledger.jsonl"))
    assert {row[3] for row in rows} == {"canceled"}
    assert len(rows) == _INVOICES
    assert sum(request["committed"] for request in second.requests()) >= _INVOICES - 60
    lines = [json.loads(line) for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    problems = {line["path"]: line["problem"] for line in lines if line["event"] == "key_file.changed"}
    assert problems == dict.fromkeys(rotation.files), "the last word on each file is that it was taken"
    shown = (tmp_path / "log").read_text(encoding="utf-8")
    for name, contents in rotation.files.items():
        if not name.endswith(".p12"):
            assert not any(path.read_text(encoding="ascii").strip() in shown for path in contents)


@pytest.mark.parametrize("command", ["run", "plan", "reconcile", "list"])
def test_every_command_that_signs_says_until_when_it_can(
    command: str, run_command: RunCommand, start_simulator: StartSimulator, tmp_path: Path
) -> None:
    """Each certificate with its last day, once."""
    simulator = start_simulator("--make-keys", "keys", "--invoices", "20")
    variables = printed_variables(simulator)[1] | {"BATCHCANCEL_MLE": "request"}
    (tmp_path / "invoices.txt").write_text("2675", encoding="ascii")
    if command == "reconcile":
        assert run_command("run", "invoices.txt", *simulator.flags, env=variables).returncode == 0
    what = {"run": ["invoices.txt"], "plan": ["invoices.txt"], "reconcile": [_LEDGER], "list": []}[command]
    done = run_command(command, *what, *simulator.flags, env=variables)
    assert done.returncode == 0, done.stderr
    said = re.findall(
        r"^  key       (\w+ certificate) \S+, valid until (\d{4}-\d\d-\d\d)$", done.stderr, re.MULTILINE
    )
    assert len(said) == 2, done.stderr


def required(way: Way) -> tuple[str, ...]:
    """Return the flags with which a simulator insists on what a way promises."""
    return ("--require-mle",) if way.requests_encrypted else ()


def check_wire(simulator: Simulator, way: Way) -> None:
    """Compare how each request was signed, and what was encrypted, with what was configured."""
    requests = simulator.requests()
    assert {request["scheme"] for request in requests} == {way.scheme}
    assert {request["reply_encrypted"] for request in requests} == {way.replies_encrypted}
    posts = [request for request in requests if request["operation"] == "cancel"]
    assert {request["request_encrypted"] for request in posts} == {way.requests_encrypted}
    # No invoice is canceled twice, whatever became of the reply.
    committed = [request["invoice_id"] for request in posts if request["committed"]]
    assert committed
    assert len(committed) == len(set(committed))
