"""The benchmarks from end to end, as small as they get."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = 200
SERVICE_ROWS = 64


@pytest.fixture
def unmeasured(clean_environment: dict[str, str]) -> dict[str, str]:
    """Make an environment in which nobody measures coverage.

    As a module of the checkout the benchmarks import its package, which is not the one that counts.
    """
    return {name: value for name, value in clean_environment.items() if "COVERAGE" not in name}


def test_every_part_measures_and_every_invoice_is_settled(
    project: Path, unmeasured: dict[str, str], tmp_path: Path
) -> None:
    """One command runs all parts against its own target, tells people, and tells programs."""
    results, folder = tmp_path / "results.json", tmp_path / "kept"
    sizes = ["--rounds=1", f"--rows={ROWS}", f"--service-rows={SERVICE_ROWS}", "--signing-s=0.01"]
    sizes += [f"--scale-rows={ROWS}"]
    written: list[str | Path] = ["--json", results, "--folder", folder, "--plot", tmp_path / "long.svg"]
    # What may or may not be installed stays out, so that the test is the same everywhere.
    left_out = ["--without-nginx", "--without-wrk"]
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks", *sizes, *left_out, *written],
        cwd=project,
        env=unmeasured,
        capture_output=True,
        encoding="utf-8",
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(results.read_text(encoding="utf-8"))

    parts = {"invoices", "observers", "p12-job", "signing", "help", "service", "scale"}
    assert figures.keys() == {"date", "machine", "load_before", "versions", "parameters"} | parts
    assert figures["machine"].keys() == {"processor", "cores", "memory_mb", "system"}
    assert figures["parameters"]["rows"] == ROWS
    jobs = {"batchcancel", "batchcancel, progress plain"}
    yardsticks = figures["invoices"]["yardsticks"]
    assert yardsticks.keys() == jobs | {"bare", "usual"}
    for name, measured in yardsticks.items():
        assert measured["per_s"]["least"] > 0, name
        assert measured.keys() == {
            "per_s",
            "batchcancel_is_times_as_fast",
            "cpu_us_an_invoice",
            "cpu_is_times_batchcancels",
        }, name
    assert yardsticks["batchcancel"]["batchcancel_is_times_as_fast"]["median"] == 1.0
    watched = figures["observers"]["ways"]
    assert watched.keys() == {"nobody watches", "metrics", "live view, metrics, log at warning"}
    assert all(way["cpu_is_times_alone"]["median"] > 0 for way in watched.values())
    assert figures["p12-job"]["jobs"].keys() == {"jwt", "p12", "p12, MLE=request", "p12, MLE=both"}
    assert {"p12_of_rsa", "p12_of_bound", "p12_cpu_over_least"} < figures["p12-job"].keys()
    ways = figures["signing"]["ways"]
    assert ways.keys() == {"jwt", "http_signature", "p12", "p12_encrypted", "decrypt"}
    assert all(way["per_cpu_s"]["median"] > 0 for way in ways.values())
    assert {name for name in figures["help"] if name.startswith("batchcancel")} == {
        "batchcancel --help",
        "batchcancel run --help",
    }
    assert all(value > 0 for value in figures["scale"][str(ROWS)].values())
    assert (tmp_path / "long.svg").read_text(encoding="utf-8").count("<polyline") == 2
    # A reply can't come before its delay is over.
    clients = figures["service"]["clients"]
    assert clients.keys() == {"batchcancel", "bare"}
    assert all(client["ratio"] >= 1.0 for client in clients.values())
    for text in ("Not nginx", "The official SDK was left out", "wrk was left out", "Time-bound service"):
        assert text in ended.stdout, text

    for part, rows in (("invoices", ROWS), ("observers", ROWS), ("p12-job", ROWS), ("service", SERVICE_ROWS)):
        lines = (folder / part / "run.ledger.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        canceled = {record["invoice_id"] for record in records if record.get("outcome") == "canceled"}
        assert canceled == {f"INV-{number:08d}" for number in range(rows)}, part
        assert records[-1]["state"] == "complete"


def test_benchmarks_refuse_a_part_that_is_not_there(project: Path, unmeasured: dict[str, str]) -> None:
    """A misspelt part measures nothing, and the message names those that there are."""
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks", "sining"],
        cwd=project,
        env=unmeasured,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert ended.returncode == 2
    assert "no part sining" in ended.stderr
    assert "signing" in ended.stderr
