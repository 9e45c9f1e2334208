"""The sample for Kubernetes, and the profile of the compose file."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import kubernetes_validate
import pytest
import yaml

from batchcancel.cli import batchcancel as group
from batchcancel.pipeline import DRAIN_S

if TYPE_CHECKING:
    from tests.acceptance.conftest import (
        ReadLedger,
        RunCommand,
        StartSimulator,
    )
    from tests.acceptance.many_hosts.conftest import Server


def test_sample_of_workers_is_what_kubernetes_and_the_command_take(project: Path) -> None:
    """By the schema, in which no unknown key passes; with time to hand in, and flags that there are."""
    path = project / "samples" / "kubernetes" / "workers" / "deployment.yaml"
    deployment = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert kubernetes_validate.validate(deployment, "1.33", strict=True)
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] > DRAIN_S + 4
    assert {mount["name"] for mount in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    name, *arguments = container["args"]
    command = group.get_command(click.Context(group), name)
    assert command is not None
    values = command.make_context(name, arguments).params
    assert values["temporal_namespace"] == "batchcancel"


def test_sample_of_workers_is_given_what_is_there_and_no_more_rights(project: Path) -> None:
    """Configuration and secret are those of the other sample; nothing can be written, and nobody is root."""
    folder = project / "samples" / "kubernetes"
    pod, configuration, secret = (
        yaml.safe_load((folder / name).read_text(encoding="utf-8"))
        for name in ("workers/deployment.yaml", "configuration.yaml", "secret.yaml")
    )
    spec = pod["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["configuration"]["configMap"]["name"] == configuration["metadata"]["name"]
    assert volumes["secret"]["secret"] == {"secretName": secret["metadata"]["name"], "defaultMode": 0o440}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert all(mount["readOnly"] for mount in mounts.values())
    (variable,) = container["env"]
    assert variable["name"] == "BATCHCANCEL_SHARED_SECRET_FILE"
    assert variable["value"] in {f"{mounts['secret']['mountPath']}/{key}" for key in secret["stringData"]}
    arguments = container["args"]
    file = Path(arguments[arguments.index("--config") + 1])
    assert str(file.parent) == mounts["configuration"]["mountPath"]
    profiles = tomllib.loads(configuration["data"][file.name])["profile"]
    assert arguments[arguments.index("--profile") + 1] in profiles
    assert spec["securityContext"]["runAsNonRoot"] is True
    dockerfile = (project / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert f"USER {spec['securityContext']['runAsUser']}:" in dockerfile
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]


# --- the profile of the compose file --------------------------------------------------------------


@dataclass(frozen=True)
class Containers:
    """The services of the profile ``cluster``, as processes of this machine."""

    services: dict[str, Any]
    places: dict[str, str]
    """What a service would find in its container, and what stands for it here."""
    environment: dict[str, str]

    def command(self, name: str) -> list[str]:
        """Return a service's command for this machine."""
        command = list(self.services[name]["command"])
        for inside, outside in self.places.items():
            command = [text.replace(inside, outside) for text in command]
        return command

    def env(self, name: str, **changes: str) -> dict[str, str]:
        """Return a service's environment, over that of a user who has set nothing."""
        given = {key: self.places.get(text, text) for key, text in self.services[name]["environment"].items()}
        return self.environment | given | changes


@pytest.fixture
def containers(
    project: Path,
    samples: Path,
    server: Server,
    server_binary: Path,
    start_simulator: StartSimulator,
    clean_environment: dict[str, str],
    tmp_path: Path,
) -> Containers:
    """Start the simulator of the compose file, and know how to start what belongs to it."""
    services = yaml.safe_load((project / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    name, *flags = services["simulator"]["command"]
    assert name == "sandbox"
    simulator = start_simulator(*["0" if flag == "8080" else flag for flag in flags])
    return Containers(
        services=services,
        places={
            "http://127.0.0.1:8080": simulator.base_url,
            "temporal:7233": server.address,
            "/samples": str(samples),
            "/ledgers": str(tmp_path),
        },
        environment=clean_environment | {"PATH": f"{server_binary.parent}:{os.environ['PATH']}"},
    )


@pytest.mark.parametrize("namespace", ["default", "compose"], ids=["that is there", "that is not"])
def test_compose_makes_the_namespace_once(containers: Containers, namespace: str) -> None:
    """As often as the services are started."""
    service = containers.services["temporal-namespace"]
    for _ in range(2):
        done = subprocess.run(
            [*service["entrypoint"], *(text.replace("$$", "$") for text in service["command"])],
            env=containers.env("temporal-namespace", TEMPORAL_NAMESPACE=namespace),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_compose_workers_do_the_sample(
    containers: Containers,
    command_path: Path,
    read_ledger: ReadLedger,
    run_command: RunCommand,
    tmp_path: Path,
) -> None:
    """Three workers and a coordinator, by the commands and variables of the file, to a complete ledger."""
    with contextlib.ExitStack() as stack:
        for number in range(containers.services["cluster-worker"]["deploy"]["replicas"]):
            worker = stack.enter_context(
                subprocess.Popen(
                    [command_path, *containers.command("cluster-worker")],
                    env=containers.env("cluster-worker"),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stack.enter_context((tmp_path / f"worker-{number}.err").open("wb")),
                )
            )
            stack.callback(worker.terminate)
        submit = subprocess.run(
            [command_path, *containers.command("submit")],
            env=containers.env("submit"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=100,
            check=False,
        )
    assert submit.returncode == 3, submit.stderr
    ledger = read_ledger(tmp_path / "cluster.ledger.jsonl")
    rows = ledger[0]["manifest"][0]["rows"]
    accounted = [line["row"] for line in ledger if line["type"] in {"result", "skip"}]
    assert sorted(accounted) == list(range(1, rows + 1))
    assert (ledger[-1]["type"], ledger[-1]["state"]) == ("end", "complete")
    verified = run_command("verify", "cluster.ledger.jsonl")
    assert verified.returncode == 0, verified.stdout + verified.stderr
