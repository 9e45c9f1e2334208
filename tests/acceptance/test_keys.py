"""Every way to sign and encrypt: the simulator makes the keys, the command runs by what it printed."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.conftest import ReadLedger, RunCommand, Simulator, StartSimulator

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
