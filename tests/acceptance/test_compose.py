"""The compose file: its schema, and every command of it run as a process on this machine."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.error import URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

import jsonschema
import pytest
import yaml

from batchcancel.sandbox import SANDBOX_KEY_ID, SANDBOX_MERCHANT_ID, SANDBOX_SECRET

if TYPE_CHECKING:
    from tests.acceptance.conftest import ReadLedger, StartSimulator

_PORT: Final = "8080"
_METRICS: Final = "9464"
_PROMETHEUS: Final = "9090"
_OWN: Final = ("simulator", "worker", "cluster-worker", "submit")
_TRIAL: Final = ("simulator", "worker", "prometheus", "grafana")
_CLUSTER: Final = (
    "postgres",
    "temporal-schema",
    "temporal",
    "temporal-namespace",
    "temporal-ui",
    "cluster-worker",
    "submit",
)
_SERVICES: Final = (*_TRIAL, *_CLUSTER)
_WRITES_AT_ITS_START: Final = "temporal-ui"
_PATIENCE_S: Final = 30.0


@pytest.fixture
def compose(project: Path) -> dict[str, Any]:
    """Parse the compose file, anchors and merges resolved."""
    document: dict[str, Any] = yaml.safe_load((project / "docker-compose.yml").read_text(encoding="utf-8"))
    return document


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _mapped(command: Sequence[str], places: Mapping[str, str]) -> list[str]:
    """Replace what a container would find by what this machine has; each must occur."""
    for inside, outside in places.items():
        assert any(inside in text for text in command), f"{inside} is not in the command"
        command = [text.replace(inside, outside) for text in command]
    return list(command)


# --- its shape ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema() -> Any:
    """Read the schema of the compose specification, as check-jsonschema ships it (Apache-2.0)."""
    path = files("check_jsonschema").joinpath("builtin_schemas", "vendor", "compose-spec.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_compose_file_keeps_the_specification(compose: dict[str, Any], schema: Any) -> None:
    """Every key is one that compose knows, and has a value that it takes."""
    assert jsonschema.validate(compose, schema) is None
    assert tuple(compose["services"]) == _SERVICES


@pytest.mark.parametrize(
    ("service", "change"),
    [
        pytest.param("worker", {"read_onli": True}, id="misspelt"),
        pytest.param("worker", {"cap_drop": "ALL"}, id="text for list"),
        pytest.param("grafana", {"depends_on": {"prometheus": {"condition": "healthy"}}}, id="word"),
    ],
)
def test_the_specification_finds_a_mistake(
    service: str, change: dict[str, Any], compose: dict[str, Any], schema: Any
) -> None:
    """The check above can fail."""
    compose["services"][service] |= change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(compose, schema)


def test_compose_uses_what_is_there(compose: dict[str, Any], project: Path) -> None:
    """Build context, Dockerfile and mounted files are there, named volumes and services are declared."""
    named = set()
    for service in compose["services"].values():
        if "build" in service:
            context = project / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).is_file()
        for volume in service.get("volumes", ()):
            source, _, mode = volume.partition(":")
            if source.startswith("."):
                assert (project / source).exists()
                assert mode.endswith(":ro")
            else:
                named.add(source)
        assert set(service.get("depends_on", {})) <= set(compose["services"])
    assert named == set(compose["volumes"])


@pytest.mark.parametrize("name", _SERVICES)
def test_compose_services_hold_no_rights_they_do_not_need(name: str, compose: dict[str, Any]) -> None:
    """No service can gain privileges, keep a capability or be seen outside; all but one are read-only."""
    service = compose["services"][name]
    assert service.get("read_only", False) is (name != _WRITES_AT_ITS_START)
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_compose_images_are_pinned_by_version(compose: dict[str, Any]) -> None:
    """Tomorrow's trial is today's."""
    for name in set(_SERVICES) - set(_OWN):
        image = compose["services"][name]["image"]
        assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+|postgres:\d+\.\d+", image)  # which has two numbers


def test_compose_starts_many_hosts_only_when_asked(compose: dict[str, Any]) -> None:
    """Every service of Temporal and its workers has the profile, and needs nothing of the others but one."""
    services = compose["services"]
    assert (
        tuple(name for name, service in services.items() if service.get("profiles") == ["cluster"])
        == _CLUSTER
    )
    assert not any("profiles" in services[name] for name in _TRIAL)
    needed = {other for name in _CLUSTER for other in services[name].get("depends_on", ())}
    assert needed - set(_CLUSTER) == {"simulator"}


def test_compose_begins_a_job_once_everything_is_there(compose: dict[str, Any]) -> None:
    """Database, tables, server, namespace, workers: each waits for the one before."""
    services = compose["services"]
    waits = {
        (name, other): how["condition"]
        for name in _CLUSTER
        for other, how in services[name].get("depends_on", {}).items()
    }
    assert waits["temporal-schema", "postgres"] == "service_healthy"
    assert waits["temporal", "temporal-schema"] == "service_completed_successfully"
    assert waits["temporal-namespace", "temporal"] == "service_healthy"
    assert waits["cluster-worker", "temporal-namespace"] == "service_completed_successfully"
    assert waits["submit", "cluster-worker"] == "service_started"
    for (_, other), condition in waits.items():
        assert condition != "service_healthy" or "healthcheck" in services[other]


def test_compose_workers_share_the_simulators_loopback(compose: dict[str, Any]) -> None:
    """Three of them, which no port and no name of a container keeps from that; submit is beside them."""
    services = compose["services"]
    worker = services["cluster-worker"]
    assert worker["deploy"] == {"replicas": 3}
    assert not {"ports", "container_name", "volumes"} & worker.keys()
    for name in ("worker", "cluster-worker", "submit"):
        assert services[name]["network_mode"] == "service:simulator"
        assert services[name]["environment"] == services["worker"]["environment"]


def test_compose_database_is_the_one_that_temporal_is_told(compose: dict[str, Any], project: Path) -> None:
    """Host, port, user, password and both databases agree; the file of the dynamic configuration is there."""
    services = compose["services"]
    made, schema, server = (
        services[name]["environment"] for name in ("postgres", "temporal-schema", "temporal")
    )
    assert {schema["SQL_HOST"], server["POSTGRES_SEEDS"]} == {"postgres"}
    assert {schema["SQL_PORT"], server["DB_PORT"]} == {"5432"}
    assert {schema["SQL_USER"], server["POSTGRES_USER"]} == {made["POSTGRES_USER"]}
    assert {schema["SQL_PASSWORD"], server["POSTGRES_PWD"]} == {made["POSTGRES_PASSWORD"]}
    assert {schema["SQL_PLUGIN"], server["DB"]} == {"postgres12"}
    assert "ports" not in services["postgres"]
    (volume,) = services["temporal"]["volumes"]
    source, target, _ = volume.split(":")
    assert server["DYNAMIC_CONFIG_FILE_PATH"] == target
    assert _yaml(project / source) == {"limit.maxIDLength": [{"value": 255}]}


@pytest.mark.parametrize("fails", [None, "create", "setup-schema", "update-schema"])
def test_compose_makes_both_schemas_or_says_that_it_did_not(
    fails: str | None, compose: dict[str, Any], clean_environment: dict[str, str], tmp_path: Path
) -> None:
    """The job's script, with a double of the tool: each database in order, and no server after a failure."""
    tool, log = tmp_path / "temporal-sql-tool", tmp_path / "calls"
    tool.write_text(f'#!/bin/sh\necho "$@" >>{log}\ntest "$3" != "{fails}"\n', encoding="utf-8")
    tool.chmod(0o755)
    service = compose["services"]["temporal-schema"]
    done = subprocess.run(
        [*service["entrypoint"], *(text.replace("$$", "$") for text in service["command"])],
        env=clean_environment | {"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        timeout=20,
        check=False,
    )
    calls = log.read_text(encoding="utf-8").splitlines()
    if fails is not None:
        assert done.returncode != 0
        assert [call.split()[2] for call in calls].count(fails) == 1
        assert calls[-1].split()[2] == fails
        return
    assert done.returncode == 0, done.stderr
    versioned = "/etc/temporal/schema/postgresql/v12/{}/versioned"
    for database, name in (("temporal", "temporal"), ("temporal_visibility", "visibility")):
        assert [call for call in calls if call.startswith(f"--db {database} ")] == [
            f"--db {database} create",
            f"--db {database} setup-schema -v 0.0",
            f"--db {database} update-schema -d {versioned.format(name)}",
        ]


def test_compose_worker_waits_for_the_simulator_on_its_loopback(compose: dict[str, Any]) -> None:
    """The worker shares the healthy simulator's network, sees the samples read-only, keeps its ledger."""
    worker = compose["services"]["worker"]
    assert worker["network_mode"] == "service:simulator"
    assert worker["depends_on"] == {"simulator": {"condition": "service_healthy"}}
    assert worker["volumes"] == ["./samples:/samples:ro", "ledgers:/ledgers"]
    assert worker["environment"] == {
        "BATCHCANCEL_MERCHANT_ID": SANDBOX_MERCHANT_ID,
        "BATCHCANCEL_KEY_ID": SANDBOX_KEY_ID,
        "BATCHCANCEL_SHARED_SECRET": SANDBOX_SECRET,
    }


# --- Prometheus and Grafana -----------------------------------------------------------------------


def test_prometheus_looks_where_the_worker_tells(compose: dict[str, Any], project: Path) -> None:
    """Its one target is the worker's port, under the name of the network that it shares."""
    document = _yaml(project / "docker" / "prometheus" / "prometheus.yml")
    (scrape,) = document["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": [f"simulator:{_METRICS}"]}]
    command = compose["services"]["worker"]["command"]
    assert command[command.index("--metrics-port") + 1] == _METRICS
    assert command[command.index("--metrics-host") + 1] == "0.0.0.0"  # noqa: S104 - of its container
    volumes = compose["services"]["prometheus"]["volumes"]
    (rules,) = document["rule_files"]
    assert f"./samples/prometheus:{Path(rules).parent}:ro" in volumes
    assert (project / "samples" / "prometheus" / Path(rules).name).is_file()


def test_grafana_finds_prometheus_and_the_dashboard(compose: dict[str, Any], project: Path) -> None:
    """What is provisioned is mounted where Grafana looks for it, and leads to what is there."""
    folder, grafana = project / "docker" / "grafana", compose["services"]["grafana"]
    (source,) = _yaml(folder / "datasources" / "prometheus.yml")["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert source["url"] == f"http://prometheus:{_PROMETHEUS}"
    (provider,) = _yaml(folder / "dashboards" / "batchcancel.yml")["providers"]
    place = provider["options"]["path"]
    assert {
        "./docker/grafana/datasources:/etc/grafana/provisioning/datasources:ro",
        "./docker/grafana/dashboards:/etc/grafana/provisioning/dashboards:ro",
        f"./samples/grafana:{place}:ro",
    } < set(grafana["volumes"])
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent == Path(place)
    dashboard = json.loads((project / "samples" / "grafana" / home.name).read_text(encoding="utf-8"))
    # Its panels take whatever data source is the default of its variable.
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert variables["datasource"]["query"] == source["type"]
    used = {panel["datasource"]["uid"] for panel in dashboard["panels"] if "datasource" in panel}
    assert used == {"${datasource}"}


# --- its commands ---------------------------------------------------------------------------------


def _run_healthcheck(
    compose: Mapping[str, Any], port: int, environment: dict[str, str]
) -> subprocess.CompletedProcess[bytes]:
    kind, program, *arguments = compose["services"]["simulator"]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    return subprocess.run(
        [sys.executable, *(text.replace(_PORT, str(port)) for text in arguments)],
        env=environment,
        capture_output=True,
        timeout=20,
        check=False,
    )


@contextmanager
def _prometheus(
    compose: Mapping[str, Any], project: Path, folder: Path, metrics_port: int
) -> Iterator[str | None]:
    """Run the service prometheus and give its address; None where this machine has none."""
    program = shutil.which("prometheus")
    if program is None:
        yield None
        return
    text = (project / "docker" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    (line,) = _mapped([text], {f"simulator:{_METRICS}": f"127.0.0.1:{metrics_port}"})
    (line,) = _mapped([line], {"/etc/prometheus/rules": str(project / "samples" / "prometheus")})
    (folder / "prometheus.yml").write_text(line, encoding="utf-8")
    command = _mapped(
        compose["services"]["prometheus"]["command"],
        {"/etc/prometheus/prometheus.yml": str(folder / "prometheus.yml"), "=/prometheus": f"={folder}/data"},
    )
    address = f"127.0.0.1:{_free_port()}"
    with (
        (folder / "prometheus.log").open("wb") as log,
        subprocess.Popen(
            [program, *command, f"--web.listen-address={address}"], stdout=log, stderr=log, cwd=folder
        ) as process,
    ):
        try:
            yield f"http://{address}"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_healthy(compose: Mapping[str, Any], address: str) -> None:
    """Wait until the health check of the service is content, by its own program where that is installed."""
    kind, program, *flags, url = compose["services"]["prometheus"]["healthcheck"]["test"]
    assert kind == "CMD"
    (url,) = _mapped([url], {f"http://127.0.0.1:{_PROMETHEUS}": address})
    give_up_at = time.monotonic() + _PATIENCE_S
    while not _is_answered(url):
        assert time.monotonic() < give_up_at, "Prometheus does not become ready"
        time.sleep(0.1)
    if shutil.which(program) is not None:
        subprocess.run([program, *flags, url], check=True, timeout=20)


def _is_answered(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as reply:  # noqa: S310 - of loopback
            return bool(reply.status == 200)
    except URLError:
        return False


def _query(address: str, expression: str) -> list[dict[str, Any]]:
    with urlopen(f"{address}/api/v1/query?{urlencode({'query': expression})}", timeout=5) as reply:  # noqa: S310 - of loopback
        document = json.load(reply)
    assert document["status"] == "success"
    result: list[dict[str, Any]] = document["data"]["result"]
    return result


def _wait_for_series(address: str, expression: str) -> None:
    give_up_at = time.monotonic() + _PATIENCE_S
    while not _query(address, expression):
        assert time.monotonic() < give_up_at, f"Prometheus has nothing for {expression}"
        time.sleep(0.2)


def test_compose_commands_run_to_a_complete_ledger_while_prometheus_looks_on(
    compose: dict[str, Any],
    project: Path,
    clean_environment: dict[str, str],
    samples: Path,
    command_path: Path,
    start_simulator: StartSimulator,
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> None:
    """Simulator, health check, worker and Prometheus do together what the file promises."""
    services = compose["services"]
    name, *flags = _mapped(services["simulator"]["command"], {_PORT: "0"})
    assert name == "sandbox"
    simulator = start_simulator(*flags)
    port, metrics_port = urlsplit(simulator.base_url).port or 0, _free_port()
    health = _run_healthcheck(compose, port, clean_environment)
    assert health.returncode == 0, health.stderr
    places = {
        "/samples": str(samples),
        "/ledgers": str(tmp_path),
        _METRICS: str(metrics_port),
        "0.0.0.0": "127.0.0.1",  # noqa: S104 - which it replaces
        _PORT: str(port),
    }
    with _prometheus(compose, project, tmp_path, metrics_port) as address:
        if address is not None:
            _wait_until_healthy(compose, address)
        with subprocess.Popen(
            [command_path, *_mapped(services["worker"]["command"], places)],
            env=clean_environment | services["worker"]["environment"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as worker:
            try:
                if address is not None:
                    _wait_for_series(address, 'up{job="batchcancel"} == 1')
                    _wait_for_series(address, 'batchcancel_run_active{job="batchcancel"} == 1')
                _, said = worker.communicate(timeout=60)
            finally:
                worker.kill()

    assert worker.returncode == 3, said
    ledger = read_ledger(tmp_path / "invoices.ledger.jsonl")
    rows = ledger[0]["manifest"][0]["rows"]
    accounted = [line["row"] for line in ledger if line["type"] in {"result", "skip"}]
    assert sorted(accounted) == list(range(1, rows + 1))
    assert (ledger[-1]["type"], ledger[-1]["state"]) == ("end", "complete")


def test_promtool_takes_the_configuration_of_prometheus(project: Path, tmp_path: Path) -> None:
    """With the rules, as the container has them."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: apt-get install prometheus, or run .ci/run as root")
    text = (project / "docker" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    (line,) = _mapped([text], {"/etc/prometheus/rules": str(project / "samples" / "prometheus")})
    (tmp_path / "prometheus.yml").write_text(line, encoding="utf-8")
    done = subprocess.run(
        [program, "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "is valid prometheus config file syntax" in done.stdout
    assert re.search(r"SUCCESS: [1-9]\d* rules found", done.stdout)


def test_compose_healthcheck_fails_where_nobody_listens(
    compose: dict[str, Any], clean_environment: dict[str, str]
) -> None:
    """A simulator that does not listen yet is not healthy."""
    with socket.socket() as bound_only:  # taken, so that nobody else can listen there
        bound_only.bind(("127.0.0.1", 0))
        done = _run_healthcheck(compose, bound_only.getsockname()[1], clean_environment)
    assert done.returncode == 1
    assert b"ConnectionRefusedError" in done.stderr
