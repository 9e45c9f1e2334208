"""The compose file: its shape, and every command of it run as a process on this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from batchcancel.sandbox import SANDBOX_KEY_ID, SANDBOX_MERCHANT_ID, SANDBOX_SECRET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.acceptance.conftest import ReadLedger, RunCommand, StartSimulator

_PORT: Final = "8080"
_KNOWN_KEYS: Final = {
    "file": {"services", "volumes", "x-batchcancel"},
    "service": {
        "build",
        "cap_drop",
        "command",
        "depends_on",
        "environment",
        "healthcheck",
        "image",
        "network_mode",
        "read_only",
        "security_opt",
        "stop_grace_period",
        "volumes",
    },
    "build": {"context", "dockerfile"},
    "healthcheck": {"interval", "retries", "test", "timeout"},
    "dependency": {"condition"},
}
"""Of the compose specification, those that this file needs: a misspelt one would be ignored."""


@pytest.fixture
def compose(project: Path) -> dict[str, Any]:
    """Parse the compose file, anchors and merges resolved."""
    document: dict[str, Any] = yaml.safe_load((project / "docker-compose.yml").read_text(encoding="utf-8"))
    return document


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


def _mapped(command: Sequence[str], places: Mapping[str, str]) -> list[str]:
    """Replace what a container would find by what this machine has; each must occur."""
    for inside, outside in places.items():
        assert any(inside in text for text in command), f"{inside} is not in the command"
        command = [text.replace(inside, outside) for text in command]
    return list(command)


def test_compose_file_uses_known_keys_only(compose: dict[str, Any]) -> None:
    """No key is misspelt: compose would refuse the file, or ignore a guard."""
    assert set(compose) <= _KNOWN_KEYS["file"]
    for service in compose["services"].values():
        assert set(service) <= _KNOWN_KEYS["service"]
        assert set(service["build"]) <= _KNOWN_KEYS["build"]
        assert set(service.get("healthcheck", {})) <= _KNOWN_KEYS["healthcheck"]
        for dependency in service.get("depends_on", {}).values():
            assert set(dependency) <= _KNOWN_KEYS["dependency"]


def test_compose_builds_from_files_that_exist(compose: dict[str, Any], project: Path) -> None:
    """Build context, Dockerfile and mounted folders are there, and named volumes are declared."""
    for service in compose["services"].values():
        context = project / service["build"]["context"]
        assert (context / service["build"]["dockerfile"]).is_file()
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (project / source).is_dir() if source.startswith(".") else source in compose["volumes"]


@pytest.mark.parametrize("name", ["simulator", "worker"])
def test_compose_services_hold_no_rights_they_do_not_need(name: str, compose: dict[str, Any]) -> None:
    """No service can write its file system, gain privileges or keep a capability."""
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


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


def test_compose_commands_run_to_a_complete_ledger(
    compose: dict[str, Any],
    clean_environment: dict[str, str],
    samples: Path,
    start_simulator: StartSimulator,
    run_command: RunCommand,
    read_ledger: ReadLedger,
    tmp_path: Path,
) -> None:
    """Simulator, health check and worker do together what the file promises."""
    services = compose["services"]
    name, *flags = _mapped(services["simulator"]["command"], {_PORT: "0"})
    assert name == "sandbox"
    simulator = start_simulator(*flags)
    port = urlsplit(simulator.base_url).port or 0
    health = _run_healthcheck(compose, port, clean_environment)
    assert health.returncode == 0, health.stderr

    places = {"/samples": str(samples), "/ledgers": str(tmp_path), _PORT: str(port)}
    worker = run_command(
        *_mapped(services["worker"]["command"], places), env=services["worker"]["environment"]
    )

    assert worker.returncode == 3, worker.stderr
    ledger = read_ledger(tmp_path / "invoices.ledger.jsonl")
    rows = ledger[0]["manifest"][0]["rows"]
    accounted = [line["row"] for line in ledger if line["type"] in {"result", "skip"}]
    assert sorted(accounted) == list(range(1, rows + 1))
    assert (ledger[-1]["type"], ledger[-1]["state"]) == ("end", "complete")


def test_compose_healthcheck_fails_where_nobody_listens(
    compose: dict[str, Any], clean_environment: dict[str, str]
) -> None:
    """A simulator that does not listen yet is not healthy."""
    with socket.socket() as bound_only:  # taken, so that nobody else can listen there
        bound_only.bind(("127.0.0.1", 0))
        done = _run_healthcheck(compose, bound_only.getsockname()[1], clean_environment)
    assert done.returncode == 1
    assert b"ConnectionRefusedError" in done.stderr
