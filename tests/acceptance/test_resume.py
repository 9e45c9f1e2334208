"""Run it again: with the manifest grown, shrunk, reordered, split or changed, after interruptions."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import ReadLedger, RunCommand, StartRun, StartSimulator

LEDGER = "ledger.jsonl"
IDS = [
    f"{'PAID-' if number % 9 == 0 else 'RESET-AFTER-' if number % 7 == 0 else ''}{number}"
    for number in range(120)
]


def write_csv(path: Path, ids: list[str], *, column: str = "invoice_id") -> None:
    """Write a CSV of two columns, the ids in the named one."""
    lines = [f"note,{column}", *(f"n{number},{invoice_id}" for number, invoice_id in enumerate(ids))]
    path.write_text("\n".join(lines), encoding="utf-8")


def _grown(folder: Path) -> tuple[list[str], list[str]]:
    ids = [*(f"new-{number}" for number in range(20)), *IDS, *(f"late-{number}" for number in range(20))]
    write_csv(folder / "invoices.csv", ids)
    return ["invoices.csv"], ids


def _shrunk(folder: Path) -> tuple[list[str], list[str]]:
    write_csv(folder / "invoices.csv", IDS[::2])
    return ["invoices.csv"], IDS[::2]


def _reordered(folder: Path) -> tuple[list[str], list[str]]:
    write_csv(folder / "invoices.csv", IDS[::-1])
    return ["invoices.csv"], IDS


def _split(folder: Path) -> tuple[list[str], list[str]]:
    # The halves overlap, as exports by day do.
    write_csv(folder / "one.csv", IDS[:70])
    write_csv(folder / "two.csv", IDS[50:])
    return ["two.csv", "one.csv"], IDS


def _other_column(folder: Path) -> tuple[list[str], list[str]]:
    write_csv(folder / "invoices.csv", IDS, column="Rechnung")
    return ["invoices.csv", "--column", "Rechnung"], IDS


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_grown, id="grown"),
        pytest.param(_shrunk, id="shrunk"),
        pytest.param(_reordered, id="reordered"),
        pytest.param(_split, id="split-in-two"),
        pytest.param(_other_column, id="other-column"),
    ],
)
def test_a_killed_run_goes_on_with_a_changed_manifest(
    run_command: RunCommand,
    start_simulator: StartSimulator,
    start_run: StartRun,
    read_ledger: ReadLedger,
    tmp_path: Path,
    change: Callable[[Path], tuple[list[str], list[str]]],
) -> None:
    """What has its row is not asked again, everything that the manifest names now gets one."""
    simulator = start_simulator("--latency-ms", "20", "--jitter-ms", "20")
    write_csv(tmp_path / "invoices.csv", IDS)
    with start_run(simulator, "invoices.csv", "--ledger", LEDGER, "--concurrency", "4") as process:
        simulator.wait_for("cancel", 50)
        process.kill()
    killed = read_ledger(tmp_path / LEDGER)
    settled = [row["invoice_id"] for row in killed if row["type"] == "result"]
    assert 0 < len(settled) < len(IDS)
    before = simulator.posts()
    arguments, named = change(tmp_path)
    ended = run_command("run", *arguments, "--ledger", LEDGER, *simulator.flags, env=simulator.env)
    assert ended.returncode == 0, ended.stderr
    rows = [row for row in read_ledger(tmp_path / LEDGER) if row["type"] == "result"]
    assert Counter(row["invoice_id"] for row in rows) == Counter({*settled, *named})
    assert {row["reason"] for row in rows} == {"canceled", "paid"}
    assert all(row["invoice_id"].startswith("PAID-") is (row["reason"] == "paid") for row in rows)
    again = simulator.posts() - before
    assert not again.keys() & set(settled)
    assert again.keys() <= set(named)


def test_after_many_interruptions_each_invoice_was_asked_once(
    run_command: RunCommand,
    start_simulator: StartSimulator,
    start_run: StartRun,
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> None:
    """Ended politely again and again, with the manifest in another order each time: no POST is wasted."""
    chance = random.Random(3)  # noqa: S311 - has to be repeatable, not secret
    simulator = start_simulator("--latency-ms", "30", "--jitter-ms", "20")
    ids, arguments = list(IDS), ("invoices.csv", "--ledger", LEDGER, "--concurrency", "4")
    for _ in range(6):
        chance.shuffle(ids)
        write_csv(tmp_path / "invoices.csv", ids)
        asked = simulator.posts().total()
        with start_run(simulator, *arguments) as process:
            simulator.wait_for("cancel", asked + chance.randrange(1, 12))
            process.terminate()
            _, err = process.communicate(timeout=20)
        assert process.returncode == 143, err
    ended = run_command("run", *arguments, *simulator.flags, env=simulator.env)
    assert ended.returncode == 0, ended.stderr
    rows = [row for row in read_ledger(tmp_path / LEDGER) if row["type"] == "result"]
    assert Counter(row["invoice_id"] for row in rows) == Counter(IDS)
    assert simulator.posts() == Counter(IDS)


def test_a_manifest_that_changes_between_check_and_run_stops_it(
    start_simulator: StartSimulator, start_run: StartRun, read_ledger: ReadLedger, tmp_path: Path
) -> None:
    """What was checked is not what would be canceled now: exit 4, and not one cancelation."""
    simulator = start_simulator("--latency-ms", "1500")
    write_csv(tmp_path / "invoices.csv", IDS)
    with start_run(simulator, "invoices.csv", "--ledger", LEDGER) as process:
        # The signed read goes out after the check, and its reply is slow.
        simulator.wait_for("list")
        write_csv(tmp_path / "invoices.csv", [*IDS, "one-more"])
        _, err = process.communicate(timeout=20)
    assert process.returncode == 4, err
    assert "changed" in err
    assert simulator.posts().total() == 0
    end = read_ledger(tmp_path / LEDGER)[-1]
    assert (end["state"], end["counts"]["open"]) == ("stopped", len(IDS))
