"""Jobs for many merchants."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import pytest

if TYPE_CHECKING:
    from tests.acceptance.many_hosts.conftest import Hosts, Server, StartHosts


_MERCHANTS: Final = ("north_shop", "south_shop", "west_shop")


class StartPortfolio(Protocol):
    """Makes hosts that work for a portfolio."""

    def __call__(self, *simulator_flags: str, merchants: tuple[str, ...] = ...) -> Hosts:
        """Start a simulator that serves some merchants of a portfolio."""
        ...


@pytest.fixture
def start_portfolio(
    server: Server, start_hosts: StartHosts, clean_environment: dict[str, str]
) -> StartPortfolio:
    """Make hosts that work for a portfolio; manifest and configuration say whose rows there are."""

    def start(*simulator_flags: str, merchants: tuple[str, ...] = _MERCHANTS) -> Hosts:
        named = [flag for merchant in merchants for flag in ("--merchant", merchant)]
        hosts = start_hosts(server, *named, *simulator_flags, portfolio="acme_portfolio")
        hosts.environment = clean_environment | {
            "BATCHCANCEL_PORTFOLIO_ID": "acme_portfolio",
            "BATCHCANCEL_MERCHANT_COLUMN": "merchant",
        }
        return hosts

    return start


def write_merchants(hosts: Hosts, count: int) -> list[tuple[str, str]]:
    """Write a manifest in which every id is that of each merchant."""
    pairs = [(merchant, str(100_000 + number)) for number in range(count) for merchant in _MERCHANTS]
    lines = [f"{invoice_id},{merchant}" for merchant, invoice_id in pairs]
    (hosts.folder / "ids.csv").write_text("\n".join(["invoice_id,merchant", *lines]) + "\n", encoding="utf-8")
    return pairs


def committed_by_merchant(hosts: Hosts) -> Counter[tuple[str, str]]:
    """Count what the simulator canceled."""
    return Counter(
        (request["merchant_id"], request["invoice_id"])
        for request in hosts.simulator.requests()
        if request["operation"] == "cancel" and request["committed"]
    )


def rows_by_merchant(hosts: Hosts, ledger: str = "ledger.jsonl") -> dict[tuple[str, str], tuple[str, str]]:
    """Return outcome and reason of each invoice; fail where one has two rows."""
    rows = [row for row in hosts.read_ledger(hosts.folder / ledger) if row["type"] == "result"]
    found = {(row["merchant_id"], row["invoice_id"]): (row["outcome"], row["reason"]) for row in rows}
    assert len(found) == len(rows)
    return found


def test_the_sample_of_three_merchants_ends_as_in_a_run(
    start_portfolio: StartPortfolio, samples: Path, command_path: Path
) -> None:
    """The same rows from the same simulator as 'run' has, and the same exit code; nothing is asked again."""
    hosts, alone = start_portfolio(), start_portfolio()
    for number in range(2):
        hosts.worker(slots=2 + number)
    summary = json.loads(hosts.end(hosts.submit("--json", manifest=str(samples / "merchants.csv"))))
    run = subprocess.run(
        [command_path, "run", samples / "merchants.csv", "--ledger", "ledger.jsonl", *alone.simulator.flags],
        env=alone.environment | alone.simulator.env,
        cwd=alone.folder,
        check=False,
        capture_output=True,
    )
    assert run.returncode == 0, run.stderr
    assert rows_by_merchant(hosts) == rows_by_merchant(alone)
    canceled = [key for key, (_, reason) in rows_by_merchant(hosts).items() if reason == "canceled"]
    assert committed_by_merchant(hosts) == dict.fromkeys(canceled, 1)
    assert summary["state"] == "complete"
    asked = len(hosts.simulator.requests())
    again = json.loads(hosts.end(hosts.submit("--json", manifest=str(samples / "merchants.csv"))))
    assert again["settled_earlier"] == len(rows_by_merchant(hosts))
    assert len(hosts.simulator.requests()) == asked


def test_killed_worker_of_many_merchants_is_taken_over(start_portfolio: StartPortfolio) -> None:
    """Each invoice stays its merchant's, although three have the same id."""
    hosts = start_portfolio("--latency-ms", "20")
    pairs = write_merchants(hosts, 300)
    victim = hosts.worker(slots=2)
    hosts.worker()
    submit = hosts.submit("--rate", "200")
    hosts.simulator.wait_for("cancel", 300)
    victim.kill()
    hosts.end(submit)
    assert rows_by_merchant(hosts) == dict.fromkeys(pairs, ("canceled", "canceled"))
    assert committed_by_merchant(hosts) == dict.fromkeys(pairs, 1)


def test_killed_coordinator_of_many_merchants_goes_on_where_it_was(start_portfolio: StartPortfolio) -> None:
    """The next one takes the answers of its shards, and nothing is asked again."""
    hosts = start_portfolio("--latency-ms", "20")
    pairs = write_merchants(hosts, 300)
    hosts.worker()
    submit = hosts.submit("--rate", "200")
    hosts.simulator.wait_for("cancel", 300)
    submit.kill()
    hosts.end(submit, -9)
    hosts.end(hosts.submit("--rate", "200"))
    assert rows_by_merchant(hosts) == dict.fromkeys(pairs, ("canceled", "canceled"))
    assert committed_by_merchant(hosts) == dict.fromkeys(pairs, 1)
    assert hosts.simulator.posts().total() == len(pairs)


def test_a_refused_merchant_stops_only_its_own_rows(start_portfolio: StartPortfolio) -> None:
    """It is listed with what it left open, exit 4; once it may, the same command asks those rows only."""
    hosts = start_portfolio("--latency-ms", "50", merchants=_MERCHANTS[:2])
    write_merchants(hosts, 200)
    hosts.worker(slots=1)
    submit = hosts.submit("--json", "--shard-rows", "50")
    summary = json.loads(hosts.end(submit, 4))
    assert (summary["state"], summary["open"], summary["reasons"]) == ("stopped", 200, {"canceled": 400})
    (stopped,) = summary["stopped_merchants"]
    assert (stopped["merchant_id"], stopped["open"]) == ("west_shop", 200)
    assert b"1 of 3 merchants were stopped. west_shop: " in hosts.said(submit)
    assert {merchant for merchant, _ in committed_by_merchant(hosts)} == {"north_shop", "south_shop"}
    # Two signed reads in each of the four shards of the window, and in what took the first one's place; the
    # other three that lay ready were gathered anew.
    refused = [request for request in hosts.simulator.requests() if request["http_status"] == 403]
    assert 10 <= len(refused) < 16, "all eight would be sixteen"


def test_each_merchant_keeps_its_rate_on_all_hosts_together(start_portfolio: StartPortfolio) -> None:
    """In every second, and all merchants together have more than one may."""
    hosts = start_portfolio("--latency-ms", "20")
    write_merchants(hosts, 120)
    for _ in range(2):
        hosts.worker()
    hosts.end(hosts.submit("--rate-per-merchant", "40", "--shard-rows", "60"))
    for merchant in _MERCHANTS:
        assert hosts.worst_second(merchant) <= 1.1 * 40
    assert hosts.worst_second() > 1.1 * 40


def test_worker_for_one_merchant_takes_none_of_a_portfolios_shards(start_portfolio: StartPortfolio) -> None:
    """They lie in a queue of the portfolio's, where it does not look."""
    hosts = start_portfolio()
    write_merchants(hosts, 5)
    portfolio = hosts.environment
    hosts.environment = {key: text for key, text in portfolio.items() if key != "BATCHCANCEL_MERCHANT_COLUMN"}
    hosts.environment["BATCHCANCEL_MERCHANT_ID"] = _MERCHANTS[0]
    hosts.worker()
    hosts.environment = portfolio
    submit = hosts.submit()
    time.sleep(3)
    assert not hosts.simulator.requests()
    hosts.worker()
    hosts.end(submit)
