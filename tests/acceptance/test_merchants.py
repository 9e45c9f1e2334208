"""Many merchants in one manifest: a portfolio's key signs for each, and the ledger says whose row it is."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.conftest import ReadLedger, RunCommand, Simulator, StartRun, StartSimulator

_MERCHANTS: Final = ("north_shop", "south_shop", "west_shop")
_COLUMN: Final = ("--merchant-column", "merchant")
_LEDGER: Final = "merchants.sandbox.ledger.jsonl"
_PORTFOLIO: Final = {"BATCHCANCEL_PORTFOLIO_ID": "acme_portfolio"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Portfolio:
    """A simulator that serves a portfolio, and what lets the client in."""

    simulator: Simulator
    env: dict[str, str]
    """Without a merchant: the manifest says whose rows they are."""

    def committed(self) -> Counter[tuple[str, str]]:
        """Count what was really canceled, by merchant and invoice."""
        return Counter(
            (request["merchant_id"], request["invoice_id"])
            for request in self.simulator.requests()
            if request["operation"] == "cancel" and request["committed"]
        )


def serve(
    start_simulator: StartSimulator, *flags: str, merchants: tuple[str, ...] = _MERCHANTS, keys: bool = False
) -> Portfolio:
    """Start a simulator whose portfolio has some merchants."""
    named = [flag for merchant in merchants for flag in ("--merchant", merchant)]
    simulator = start_simulator(*named, *(("--make-keys", "keys") if keys else ()), *flags, env=_PORTFOLIO)
    env = simulator.env | _PORTFOLIO
    if keys:
        printed = simulator.log.with_suffix(".err").read_text(encoding="utf-8")
        env |= dict(re.findall(r"  (BATCHCANCEL_\w+)=(.+)", printed))
    del env["BATCHCANCEL_MERCHANT_ID"]
    return Portfolio(simulator=simulator, env=env)


def write_manifest(folder: Path, *rows: tuple[str, str]) -> Path:
    """Write a manifest of ids and merchants."""
    path = folder / "merchants.csv"
    path.write_text("invoice_id,merchant\n" + "".join(f"{one},{whose}\n" for one, whose in rows))
    return path


def results_of(ledger: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the one result of each merchant's invoice; fail where there are two."""
    results = [line for line in ledger if line["type"] == "result"]
    found = {(line["merchant_id"], line["invoice_id"]): line for line in results}
    assert len(found) == len(results)
    return found


_WAYS: Final = {
    "jwt": ({"BATCHCANCEL_AUTH": "jwt", "BATCHCANCEL_MLE": "off"}, "HS256"),
    "http-signature": ({"BATCHCANCEL_AUTH": "http_signature", "BATCHCANCEL_MLE": "off"}, "http_signature"),
    "p12": ({"BATCHCANCEL_AUTH": "p12", "BATCHCANCEL_MLE": "off"}, "RS256"),
    "p12-both": ({"BATCHCANCEL_AUTH": "p12", "BATCHCANCEL_MLE": "both"}, "RS256"),
}


@pytest.mark.parametrize(("way", "scheme"), _WAYS.values(), ids=_WAYS)
def test_the_sample_of_three_merchants_ends_at_each(
    way: dict[str, str],
    scheme: str,
    samples: Path,
    run_command: RunCommand,
    start_simulator: StartSimulator,
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> None:
    """However the portfolio signs: each row is canceled at its own merchant, and asked once in all."""
    portfolio = serve(start_simulator, keys=True)
    arguments = ("run", str(samples / "merchants.csv"), *_COLUMN, *portfolio.simulator.flags)
    done = run_command(*arguments, env=portfolio.env | way)
    assert done.returncode == 0, done.stderr
    assert f"portfolio acm***io, {len(_MERCHANTS)} merchants" in done.stderr
    with (samples / "merchants.csv").open(encoding="utf-8", newline="") as file:
        expected = {(row["merchant"], row["invoice_id"]) for row in csv.DictReader(file)}
    results = results_of(read_ledger(tmp_path / _LEDGER))
    assert results.keys() == expected
    assert len({invoice_id for _, invoice_id in expected}) < len(expected)  # the same id at two merchants
    canceled = {key for key, line in results.items() if line["reason"] == "canceled"}
    assert portfolio.committed() == dict.fromkeys(canceled, 1)
    assert {request["scheme"] for request in portfolio.simulator.requests()} == {scheme}
    assert {request["merchant_id"] for request in portfolio.simulator.requests()} == set(_MERCHANTS)

    asked = len(portfolio.simulator.requests())
    again = run_command(*arguments, env=portfolio.env | way)
    assert again.returncode == 0, again.stderr
    assert len(portfolio.simulator.requests()) == asked


def test_the_simulator_in_the_process_knows_every_merchant(
    samples: Path, run_command: RunCommand, read_ledger: ReadLedger, tmp_path: Path
) -> None:
    """A trial needs no credentials, whoever the rows belong to."""
    done = run_command("run", samples / "merchants.csv", *_COLUMN, "--env", "sandbox")
    assert done.returncode == 0, done.stderr
    ledger = read_ledger(tmp_path / _LEDGER)
    assert ledger[0]["merchant_id"] == "sandbox_portfolio"
    assert {merchant for merchant, _ in results_of(ledger)} == set(_MERCHANTS)


def test_a_refused_merchant_stops_only_its_own_rows(
    run_command: RunCommand, start_simulator: StartSimulator, read_ledger: ReadLedger, tmp_path: Path
) -> None:
    """It is listed with what it left open, exit 4; once it may, the same command asks those rows only."""
    rows = [(str(1000 + number), _MERCHANTS[number % 3]) for number in range(90)]
    manifest = write_manifest(tmp_path, *rows)
    portfolio = serve(start_simulator, merchants=_MERCHANTS[:2])
    done = run_command("run", manifest, *_COLUMN, "--json", *portfolio.simulator.flags, env=portfolio.env)
    assert done.returncode == 4, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["state"], summary["open"], summary["reasons"]) == ("stopped", 30, {"canceled": 60})
    (stopped,) = summary["stopped_merchants"]
    assert (stopped["merchant_id"], stopped["open"]) == ("west_shop", 30)
    assert "1 of 3 merchants were stopped. west_shop: " in done.stderr
    assert {merchant for merchant, _ in portfolio.committed()} == {"north_shop", "south_shop"}
    assert portfolio.committed().total() == 60

    allowed = serve(start_simulator)
    told = run_command("run", manifest, *_COLUMN, *allowed.simulator.flags, env=allowed.env)
    assert told.returncode == 0, told.stderr
    assert {merchant for merchant, _ in allowed.committed()} == {"west_shop"}
    assert results_of(read_ledger(tmp_path / _LEDGER)).keys() == {(whose, one) for one, whose in rows}


def test_who_was_stopped_is_listed_for_people(
    run_command: RunCommand, start_simulator: StartSimulator, tmp_path: Path
) -> None:
    """Each by its name, the run's own merchant too, with the number of its open invoices, and why."""
    rows = [("1", "north_shop"), ("2", "gone_shop"), ("3", "own_shop")]
    portfolio = serve(start_simulator)
    done = run_command(
        "run",
        write_manifest(tmp_path, *rows),
        *_COLUMN,
        *portfolio.simulator.flags,
        env=portfolio.env | {"BATCHCANCEL_MERCHANT_ID": "own_shop"},
    )
    assert done.returncode == 4, done.stderr
    assert "Stopped for 2 merchants, 2 rows left open." in done.stdout
    listed = re.search(r"merchants stopped\n((?:    \w+ +1 invoice left open\n)+)", done.stdout)
    assert listed is not None, done.stdout
    assert sorted(line.split()[0] for line in listed[1].splitlines()) == ["gone_shop", "own_shop"]
    assert "HTTP 403" in done.stdout


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("--limit", "7"), 7),
        (("--max-duration", "0.5", "--rate", "20"), 7),
        (("--canary", "5"), 0),
        (("--concurrency", "1"), 0),
    ],
    ids=["limit", "duration", "canary", "one at a time"],
)
def test_what_concerns_the_run_concerns_all_merchants(
    flags: tuple[str, ...],
    code: int,
    run_command: RunCommand,
    start_simulator: StartSimulator,
    tmp_path: Path,
) -> None:
    """Where it stops as asked the rest stays open, and the next run cancels just that."""
    rows = [(str(number), merchant) for merchant in _MERCHANTS for number in range(20)]
    portfolio = serve(start_simulator)
    run = ("run", str(write_manifest(tmp_path, *rows)), *_COLUMN, "--json", *portfolio.simulator.flags)
    done = run_command(*run, *flags, env=portfolio.env)
    assert done.returncode == code, done.stderr
    canceled = portfolio.committed().total()
    assert canceled < 60 if code else canceled == 60
    assert canceled == 7 or "--limit" not in flags
    assert json.loads(done.stdout)["open"] == 60 - canceled
    again = run_command(*run, env=portfolio.env)
    assert again.returncode == 0, again.stderr
    assert portfolio.committed() == {(whose, one): 1 for one, whose in rows}


def test_each_merchant_keeps_its_own_rate(
    run_command: RunCommand, start_simulator: StartSimulator, tmp_path: Path
) -> None:
    """Twenty a second each, whoever's rows come first; all together are as fast as three."""
    rows = [(str(number), merchant) for merchant in _MERCHANTS for number in range(60)]
    portfolio = serve(start_simulator)
    flags = (*_COLUMN, "--rate-per-merchant", "20", "--json")
    done = run_command(
        "run", write_manifest(tmp_path, *rows), *flags, *portfolio.simulator.flags, env=portfolio.env
    )
    assert done.returncode == 0, done.stderr
    for merchant in _MERCHANTS:
        times = [one["at"] for one in portfolio.simulator.requests() if one["merchant_id"] == merchant]
        assert max(sum(start <= at < start + 1 for at in times) for start in times) <= 24
    # 61 requests each at 20 a second are three seconds; one after another they would be nine.
    assert 2.5 < json.loads(done.stdout)["duration_s"] < 6


@pytest.mark.parametrize(
    ("flags", "per_second"), [(("--rate", "30"), 30), (("--rate", "30", "--rate-per-merchant", "25"), 30)]
)
def test_a_rate_for_all_holds_for_all_together(
    flags: tuple[str, ...],
    per_second: int,
    run_command: RunCommand,
    start_simulator: StartSimulator,
    tmp_path: Path,
) -> None:
    """With a rate for each or without."""
    rows = [(str(number), merchant) for number in range(25) for merchant in _MERCHANTS]
    portfolio = serve(start_simulator)
    manifest = write_manifest(tmp_path, *rows)
    done = run_command("run", manifest, *_COLUMN, *flags, *portfolio.simulator.flags, env=portfolio.env)
    assert done.returncode == 0, done.stderr
    times = [one["at"] for one in portfolio.simulator.requests()]
    assert max(sum(start <= at < start + 1 for at in times) for start in times) <= per_second * 1.1 + 2


def test_a_killed_run_goes_on_for_every_merchant(
    start_run: StartRun,
    run_command: RunCommand,
    start_simulator: StartSimulator,
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> None:
    """After three kills: one result a merchant and invoice, each true, and nothing canceled twice."""
    rows = [(str(number), merchant) for number in range(200) for merchant in _MERCHANTS]
    manifest = write_manifest(tmp_path, *rows)
    portfolio = serve(start_simulator, "--latency-ms", "10", "--reset-after-share", "0.05")
    simulator = portfolio.simulator
    (tmp_path / "batchcancel.toml").write_text('portfolio_id = "acme_portfolio"\n', encoding="utf-8")
    for kill in range(1, 4):
        with start_run(simulator, manifest, *_COLUMN) as process:
            simulator.wait_for("cancel", kill * 120)
            os.kill(process.pid, signal.SIGKILL)
            process.wait(10)
    done = run_command("run", manifest, *_COLUMN, *simulator.flags, env=portfolio.env)
    assert done.returncode == 0, done.stderr
    results = results_of(read_ledger(tmp_path / _LEDGER))
    assert results.keys() == {(whose, one) for one, whose in rows}
    assert {line["outcome"] for line in results.values()} == {"canceled"}
    assert portfolio.committed() == dict.fromkeys(results, 1)


@pytest.mark.parametrize(
    ("content", "flags", "said"),
    [
        pytest.param("id,shop\n1,a\n", ("--merchant-column", "shp"), "Did you mean 'shop'", id="column"),
        pytest.param("id,shop\n1,a\n2,\n", ("--merchant-column", "shop"), "line 3", id="nobody's row"),
        pytest.param(
            "id,shop\n1,a\n", ("--rate-per-merchant", "5"), "goes with --merchant-column", id="rate alone"
        ),
    ],
)
def test_what_does_not_say_whose_rows_they_are_is_refused(
    content: str,
    flags: tuple[str, ...],
    said: str,
    run_command: RunCommand,
    start_simulator: StartSimulator,
    tmp_path: Path,
) -> None:
    """Exit 2 with a sentence, nothing sent, no ledger."""
    portfolio = serve(start_simulator)
    (tmp_path / "m.csv").write_text(content, encoding="utf-8")
    env = portfolio.env | {"BATCHCANCEL_MERCHANT_ID": "north_shop"}
    done = run_command("run", "m.csv", *flags, *portfolio.simulator.flags, env=env)
    assert done.returncode == 2
    assert said in done.stderr
    assert portfolio.simulator.requests() == []
    assert not list(tmp_path.glob("*.ledger.jsonl"))


def test_merchants_need_a_portfolio(run_command: RunCommand, simulator: Simulator, tmp_path: Path) -> None:
    """A merchant's own key signs for nobody else."""
    manifest = write_manifest(tmp_path, ("1", "north_shop"))
    done = run_command("run", manifest, *_COLUMN, *simulator.flags, env=simulator.env)
    assert done.returncode == 2
    assert "BATCHCANCEL_PORTFOLIO_ID" in done.stderr
    assert simulator.requests() == []


def test_a_merchants_ledger_is_not_a_portfolios(
    run_command: RunCommand, start_simulator: StartSimulator, tmp_path: Path
) -> None:
    """Ids mean something else there: exit 2, and nothing is sent."""
    portfolio = serve(start_simulator)
    manifest = write_manifest(tmp_path, ("1", "north_shop"))
    env = portfolio.env | {"BATCHCANCEL_MERCHANT_ID": "north_shop"}
    done = run_command("run", manifest, *portfolio.simulator.flags, env=env)
    assert done.returncode == 0, done.stderr
    asked = len(portfolio.simulator.requests())
    other = run_command("run", manifest, *_COLUMN, *portfolio.simulator.flags, env=env)
    assert other.returncode == 2
    assert "belongs to another merchant" in other.stderr
    assert len(portfolio.simulator.requests()) == asked


def test_merchants_are_verified_apart(
    run_command: RunCommand, start_simulator: StartSimulator, tmp_path: Path
) -> None:
    """The same id at two merchants is two answers to an audit, and none is a second one."""
    portfolio = serve(start_simulator)
    manifest = write_manifest(tmp_path, ("1", "north_shop"), ("1", "south_shop"))
    done = run_command("run", manifest, *_COLUMN, *portfolio.simulator.flags, env=portfolio.env)
    assert done.returncode == 0, done.stderr
    verified = run_command("verify", _LEDGER, "--json")
    assert verified.returncode == 0, verified.stdout
    assert json.loads(verified.stdout)["invoices"] == 2
