"""``batchcancel doctor`` as a user calls it: exit codes, both forms of output, and what never shows."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import RunCommand, Simulator, StartRelay, StartSimulator

LINE: Final = re.compile(r"(ok  |warn|FAIL|skip)  (.{13})  \S.*")
FACT: Final = re.compile(r"(held        |did not hold|not seen    )  [^:]+: .+ Seen: .+")
SECRET: Final = "bm90aGluZyB0aGF0IGFueWJvZHkgbWF5IGV2ZXIgc2Vl"


def parts(text: str) -> list[tuple[str, str]]:
    """Return grade and name of each check; every line has to be one."""
    lines = text.partition("\n\n")[0].splitlines()
    matches = [LINE.fullmatch(line) for line in lines]
    assert None not in matches, text
    return [(match[1].strip(), match[2].strip()) for match in matches if match]


# --- for people -----------------------------------------------------------------------------------


def test_nothing_is_needed_for_the_sandbox(run_command: RunCommand, tmp_path: Path) -> None:
    """Every check is a line, and nothing is to be mended or left behind."""
    done = run_command("doctor", "--env", "sandbox")
    assert (done.returncode, done.stderr) == (0, "")
    grades = Counter(grade for grade, _ in parts(done.stdout))
    assert set(grades) == {"ok", "skip"}
    assert done.stdout.endswith("\n\nNo check failed, 0 warnings.\n")
    assert list(tmp_path.iterdir()) == []


def test_facts_are_lines_of_their_own(run_command: RunCommand) -> None:
    """Each has a verdict, who relies on it, a sentence, and what was seen."""
    done = run_command("doctor", "--env", "sandbox", "--live-check")
    assert (done.returncode, done.stderr) == (0, "")
    _, _, facts, end = done.stdout.split("\n\n")
    assert all(FACT.fullmatch(line) for line in facts.splitlines())
    assert len(facts.splitlines()) == 28
    assert end == "26 held, 2 not seen.\nNo check failed, 0 warnings.\n"


@pytest.mark.parametrize(
    ("no_colour", "is_coloured"), [("", True), ("1", False)], ids=["colours", "NO_COLOR"]
)
def test_colours_come_on_terminals_only(
    *,
    command_path: Path,
    clean_environment: dict[str, str],
    tmp_path: Path,
    no_colour: str,
    is_coloured: bool,
) -> None:
    """And not where NO_COLOR asks for none."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [command_path, "doctor", "--env", "sandbox"],
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env=clean_environment | {"NO_COLOR": no_colour, "TERM": "xterm"},
        cwd=tmp_path,
    ) as process:
        os.close(theirs)
        said = b""
        try:
            while chunk := os.read(ours, 65536):
                said += chunk
        except OSError:  # how a terminal says that nobody writes any more
            pass
        assert process.wait(30) == 0
    os.close(ours)
    assert (b"\x1b[32mok  \x1b[0m" in said) is is_coloured
    assert (b"\x1b" in said) is is_coloured


# --- exit codes -----------------------------------------------------------------------------------


def test_a_finding_is_exit_3(run_command: RunCommand, simulator: Simulator) -> None:
    """A refused key is one; the service has seen reads alone."""
    done = run_command(
        "doctor", *simulator.flags, "--live-check", env=simulator.env | {"BATCHCANCEL_SHARED_SECRET": SECRET}
    )
    assert done.returncode == 3
    assert ("FAIL", "signed read") in parts(done.stdout)
    assert ("skip", "live check") in parts(done.stdout)
    assert {request["operation"] for request in simulator.requests()} == {"list"}


def test_a_fact_that_does_not_hold_is_exit_3(
    run_command: RunCommand, simulator: Simulator, start_relay: StartRelay
) -> None:
    """Here a gateway on the way takes the correlation ids out."""
    gateway = start_relay(simulator, lambda _method, _path: None)
    done = run_command("doctor", "--env", "sandbox", "--base-url", gateway, "--live-check", env=simulator.env)
    assert done.returncode == 3
    assert re.findall(r"^did not hold  (.*)$", done.stdout, re.MULTILINE) == [
        "ledger: Every reply has a v-c-correlation-id header. Seen: in 0 of 21 replies."
    ]
    assert ("ok", "live check") in parts(done.stdout)


def test_settings_that_can_not_be_used_are_exit_2(run_command: RunCommand) -> None:
    """What can be looked at still is."""
    done = run_command("doctor", "--env", "sandbox", "--base-url", "http://127.0.0.1:1")
    assert done.returncode == 2
    found = parts(done.stdout)
    assert ("FAIL", "credentials") in found
    assert ("FAIL", "connection") in found
    assert ("ok", "configuration") in found


def test_a_live_check_in_production_is_exit_2(run_command: RunCommand) -> None:
    """Whatever it is called, and whatever else is wrong."""
    done = run_command("doctor", "--env", "production", "--live-check", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is production. Nothing was sent." in done.stderr


def test_a_proxy_to_production_sees_no_live_check(run_command: RunCommand, simulator: Simulator) -> None:
    """The gate comes before name, proxy and connection."""
    proxy = simulator.env | {"BATCHCANCEL_PROXY": simulator.base_url}
    done = run_command("doctor", "--env", "production", "--live-check", env=proxy)
    assert done.returncode == 2
    assert simulator.log.read_text() == ""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_takes_back_what_was_created(
    command_path: Path,
    clean_environment: dict[str, str],
    start_simulator: StartSimulator,
    tmp_path: Path,
    signum: signal.Signals,
) -> None:
    """Every invoice that the service knows is canceled when the command ends."""
    simulator = start_simulator("--latency-ms", "50")
    with subprocess.Popen(
        [command_path, "doctor", *simulator.flags, "--live-check"],
        env=clean_environment | simulator.env,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        simulator.wait_for("create", 2)
        time.sleep(0.02)
        process.send_signal(signum)
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert "Interrupted: not everything was looked at." in errors
    assert "all are canceled again" in said
    requests = simulator.requests()
    canceled = {
        one["invoice_id"] for one in requests if one["operation"] == "cancel" and one["http_status"] == 200
    }
    created = sum(one["operation"] == "create" and one["committed"] for one in requests)
    assert len(canceled) >= created >= 2


# --- for programs ---------------------------------------------------------------------------------


def test_the_keys_of_json_are_pinned(run_command: RunCommand, simulator: Simulator) -> None:
    """Programs read them; see the docstring of ``cli.doctor`` and docs/live-check.md."""
    done = run_command("doctor", *simulator.flags, "--json", env=simulator.env)
    found = json.loads(done.stdout)
    assert list(found) == [
        "version",
        "env",
        "host",
        "merchant_id",
        "checks",
        "counts",
        "live_check",
        "exit_code",
    ]
    assert (found["env"], found["host"], found["merchant_id"]) == ("sandbox", "127.0.0.1", "san***nt")
    assert {tuple(one) for one in found["checks"]} == {("name", "grade", "found", "todo")}
    assert list(found["counts"]) == ["ok", "warn", "fail", "skip"]
    assert sum(found["counts"].values()) == len(found["checks"])
    assert (found["live_check"], found["exit_code"]) == (None, 0)

    done = run_command("doctor", *simulator.flags, "--live-check", "--json", env=simulator.env)
    live = json.loads(done.stdout)["live_check"]
    assert list(live) == ["requests", "made", "facts"]
    assert live["requests"] == len(simulator.requests()) - 1  # the one of the examination before
    assert [list(one) for one in live["made"]] == [["id", "state"]] * 3
    assert {tuple(one) for one in live["facts"]} == {("name", "verdict", "fact", "assumed_by", "seen")}


# --- what never shows -----------------------------------------------------------------------------


def hunted(environ: dict[str, str], *done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the secrets that an output shows, whole or in part."""
    secrets = [environ[name] for name in environ if "SECRET" in name or "PASSWORD" in name]
    pieces = {secret[at : at + 8] for secret in secrets for at in range(len(secret) - 7)}
    said = "".join(one.stdout + one.stderr for one in done)
    return [piece for piece in sorted(pieces) if piece in said]


@pytest.mark.parametrize(
    "secret",
    [SECRET, SECRET[:-1], f'"{SECRET}"', f" {SECRET}\r\n", "pass word that is none", "ünïcödé-secret"],
    ids=["wrong", "cut", "quoted", "spaced", "no base64", "no ASCII"],
)
def test_nothing_of_a_secret_shows(
    run_command: RunCommand, simulator: Simulator, tmp_path: Path, secret: str
) -> None:
    """In the environment, in a file, and in the configuration: not eight characters of it."""
    (tmp_path / "secret").write_text(secret, encoding="utf-8")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "own.toml").write_text(f"shared_secret = {json.dumps(secret)}\n", encoding="utf-8")
    key = {name: value for name, value in simulator.env.items() if "SECRET" not in name}
    done = [
        run_command("doctor", *simulator.flags, *form, env=key | extra)
        for form, extra in (
            ((), {"BATCHCANCEL_SHARED_SECRET": secret}),
            (("--json",), {"BATCHCANCEL_SHARED_SECRET_FILE": "secret"}),
            ((), {"BATCHCANCEL_CONFIG": "own.toml"}),
            (("--json",), {"BATCHCANCEL_CONFIG": "secret", "BATCHCANCEL_RATE": secret}),
        )
    ]
    assert {one.returncode for one in done} <= {2, 3}
    assert hunted({"SECRET": secret.strip()}, *done) == []


def test_nothing_of_a_live_check_is_a_value(run_command: RunCommand, simulator: Simulator) -> None:
    """No customer, link, amount or token; ids are those of its own invoices, in their place alone."""
    done = run_command("doctor", *simulator.flags, "--live-check", "--json", env=simulator.env)
    assert hunted(simulator.env, done) == []
    found: dict[str, Any] = json.loads(done.stdout)
    ids = [one["id"] for one in found["live_check"].pop("made")]
    rest = json.dumps(found)
    for value in ("eyJ", "Tanya", "customers.example", "payments.example", "/v2/", "1.00", *ids):
        assert value not in rest
