"""A real Prometheus: it scrapes a running job, and answers every query of the dashboard and of the alerts."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

if TYPE_CHECKING:
    from tests.acceptance.conftest import RunCommand, Simulator, StartRun, StartSimulator

FILE: Final = "nightly.prom"
LEDGER: Final = "ledger.jsonl"
_PATIENCE_S: Final = 40.0
_CONFIGURATION: Final = """\
global:
  scrape_interval: 500ms
  scrape_timeout: 500ms
  evaluation_interval: 500ms
rule_files: [{rules}]
scrape_configs:
  - job_name: batchcancel
    static_configs: [{{targets: ["{target}"]}}]
"""


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} is installed: apt-get install prometheus, or run .ci/run as root")
    return found


@pytest.fixture(scope="session")
def promtool() -> str:
    """Name Prometheus' own checker."""
    return _program("promtool")


class Prometheus:
    """A server that runs, asked over its HTTP API."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of a reply; a query that does not parse fails the test with what was said."""
        url = f"{self._base_url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310 - our own server
                body = json.load(reply)
        except urllib.error.HTTPError as exc:
            pytest.fail(f"{parameters}: {exc.read().decode()}")
        assert body["status"] == "success", body
        return body["data"]

    def values(self, query: str) -> list[float]:
        """Return what an instant query gives, NaN left out."""
        found = self.get("query", query=query)["result"]
        return [value for one in found if not math.isnan(value := float(one["value"][1]))]

    def wait_for(self, query: str) -> list[float]:
        """Return the values of a query once there is one; fail after a while without."""
        give_up_at = time.monotonic() + _PATIENCE_S
        while not (values := self.values(query)):
            assert time.monotonic() < give_up_at, f"no data: {query}"
            time.sleep(0.2)
        return values


@contextmanager
def _serving(folder: Path, *, target: str, rules: Path) -> Iterator[Prometheus]:
    program = _program("prometheus")
    folder.mkdir()
    configuration = folder / "prometheus.yml"
    configuration.write_text(
        _CONFIGURATION.format(rules=json.dumps(str(rules)), target=target), encoding="utf-8"
    )
    port = _free_port()
    command = [
        program,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    base_url = f"http://127.0.0.1:{port}"
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process,
    ):
        try:
            _wait_until_ready(base_url, process, folder / "log")
            yield Prometheus(base_url)
        finally:
            process.kill()  # its folder goes with the test


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _wait_until_ready(base_url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + _PATIENCE_S
    while True:
        said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        assert process.poll() is None, said
        assert time.monotonic() < give_up_at, said
        try:
            with urllib.request.urlopen(f"{base_url}/-/ready", timeout=5):  # noqa: S310 - our own server
                return
        except OSError:
            time.sleep(0.1)


@pytest.fixture(scope="session")
def rules(samples: Path) -> Path:
    """Name the alert rules."""
    return samples / "prometheus" / "alerts.yml"


@pytest.fixture(scope="session")
def expressions(rules: Path) -> dict[str, str]:
    """Read the expression of each alert."""
    document = yaml.safe_load(rules.read_text(encoding="utf-8"))
    return {rule["alert"]: rule["expr"] for group in document["groups"] for rule in group["rules"]}


@pytest.fixture(scope="session")
def dashboard(samples: Path) -> dict[str, Any]:
    """Read the dashboard."""
    document: dict[str, Any] = json.loads(
        (samples / "grafana" / "dashboard.json").read_text(encoding="utf-8")
    )
    return document


def queries(dashboard: dict[str, Any], *, name: str, interval: str) -> list[str]:
    """Return every query of the dashboard's panels, as Grafana would send it."""
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    sent = [one.replace("$name", name).replace("$__rate_interval", interval) for one in found]
    assert not any("$" in one for one in sent)
    return sent


def _ids(kind: str, count: int) -> list[str]:
    """Make ids that are canceled, paid and missing, among others that are throttled and that fail once."""
    prefixes = ("", "", "", "PAID-", "MISSING-", "ERROR502-ONCE-", "", "")
    return [f"{prefixes[number % 8]}{kind}{number}" for number in range(count)]


@pytest.fixture
def earlier_runs(run_command: RunCommand, simulator: Simulator, tmp_path: Path) -> None:
    """Run twice, so that there is a last success and a last exit code: 3."""
    for ids, code in ((["1", "2"], 0), (["1", "2", "MISSING-3"], 3)):
        (tmp_path / "earlier.txt").write_text("\n".join(ids), encoding="utf-8")
        flags = ("--ledger", "earlier.jsonl", "--metrics-file", FILE)
        ended = run_command("run", "earlier.txt", *simulator.flags, *flags, env=simulator.env)
        assert ended.returncode == code, ended.stderr


def test_a_real_prometheus_answers_every_query_of_a_running_job(
    start_run: StartRun,
    start_simulator: StartSimulator,
    earlier_runs: None,
    rules: Path,
    expressions: dict[str, str],
    dashboard: dict[str, Any],
    tmp_path: Path,
) -> None:
    """Each parses; each of the dashboard has data; and the rules fire for what has happened, no others."""
    simulator = start_simulator("--latency-ms", "30")
    (tmp_path / "ids.txt").write_text("\n".join(_ids("INV-", 4000)), encoding="utf-8")
    port = _free_port()
    flags = ("--ledger", LEDGER, "--rate", "40", "--metrics-file", FILE, "--metrics-port", str(port))
    with (
        _serving(tmp_path / "prometheus", target=f"127.0.0.1:{port}", rules=rules) as prometheus,
        start_run(simulator, "ids.txt", *flags, "--max-error-rate", "100%", "--progress", "none") as process,
    ):
        simulator.wait_for("cancel", 10)
        for query in queries(dashboard, name=".*", interval="5s"):
            prometheus.wait_for(query)
        for query in queries(dashboard, name="nightly", interval="5s"):
            assert prometheus.values(query), query
        for name, expression in expressions.items():
            # Without its bounds an alert's expression has to have data, or it could never fire.
            (bare, count) = re.subn(r" (==|!=|<|>|<=|>=) (\+Inf|[\d.]+( \* \d+)?)(?=\s|$)", "", expression)
            assert count, name
            prometheus.get("query", query=expression)
            if " and " not in bare and " or " not in bare:
                prometheus.wait_for(bare)
        assert prometheus.get("label/name/values")
        assert prometheus.values("up") == [1.0]
        assert prometheus.wait_for("batchcancel_set_requests_per_second") == [40.0]
        assert prometheus.wait_for("sum(rate(batchcancel_requests_total[5s])) > 30")[0] < 50
        _assert_rules(prometheus, expressions)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 143, err


def _assert_rules(prometheus: Prometheus, expressions: dict[str, str]) -> None:
    """Check that every rule was evaluated well, and that the last run's exit code alone is alarming."""
    found = {rule["name"]: rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]}
    assert found.keys() == expressions.keys()
    assert {name: rule["health"] for name, rule in found.items()} == dict.fromkeys(expressions, "ok")
    firing = [one for one in prometheus.get("alerts")["alerts"] if one["state"] == "firing"]
    assert [one["labels"]["alertname"] for one in firing] == ["BatchcancelErrorsLeft"]
    assert firing[0]["annotations"]["summary"].startswith("nightly finished and left invoices")


def test_the_dashboard_is_one_for_grafana(dashboard: dict[str, Any]) -> None:
    """What Grafana needs is there, panels do not overlap, and each says its source by the variable."""
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= dashboard.keys()
    assert [one["name"] for one in dashboard["templating"]["list"]] == ["datasource", "name"]
    places: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        grid = panel["gridPos"]
        place = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not place & places, panel["title"]
        assert max(x for x, _ in place) < 24, panel["title"]
        places |= place
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_every_metric_is_on_the_dashboard_or_in_an_alert(
    dashboard: dict[str, Any], expressions: dict[str, str]
) -> None:
    """What nobody looks at need not be measured; and no query asks for a metric that is not there."""
    from batchcancel.observe.metrics.table import METRICS  # noqa: PLC0415 - for this test alone

    text = " ".join([*queries(dashboard, name="x", interval="5s"), *expressions.values()])
    asked = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"batchcancel_\w+", text)}
    assert asked == {metric.name for metric in METRICS} - {"batchcancel_run_info"}


# --- promtool -------------------------------------------------------------------------------------


def test_promtool_finds_the_rules_right(promtool: str, rules: Path) -> None:
    """Syntax, expressions and templates."""
    done = subprocess.run([promtool, "check", "rules", rules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


def test_each_alert_fires_when_it_should_and_not_when_not(
    promtool: str, rules: Path, expressions: dict[str, str]
) -> None:
    """The rules' own tests pass, and name every alert as firing at least once."""
    tests = rules.with_name("alerts_test.yml")
    done = subprocess.run([promtool, "test", "rules", tests], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    tested = set(re.findall(r'alertname="(\w+)"', tests.read_text(encoding="utf-8")))
    assert tested == expressions.keys()


def test_promtool_finds_the_metrics_file_right(
    promtool: str, run_command: RunCommand, samples: Path, tmp_path: Path
) -> None:
    """Format and conventions, of a run in which everything has happened."""
    command = ("run", samples / "invoices.csv", "--env", "sandbox", "--metrics-file", FILE)
    assert run_command(*command).returncode == 3
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=(tmp_path / FILE).read_text(encoding="utf-8"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
