"""The schedules of samples/: every command run as cron, systemd and Kubernetes run it."""

from __future__ import annotations

import configparser
import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import kubernetes_validate
import pytest
import yaml

from batchcancel.cli.exit_codes import ExitCode
from batchcancel.pipeline import DRAIN_S
from batchcancel.sandbox import SANDBOX_KEY_ID, SANDBOX_MERCHANT_ID, SANDBOX_SECRET

if TYPE_CHECKING:
    from tests.acceptance.conftest import ReadLedger, Simulator, StartSimulator

_COMMAND: Final = "/opt/batchcancel/bin/batchcancel"
_ANALYZE: Final = "/usr/bin/systemd-analyze"
_IDS: Final = [f"26{number:02}" for number in range(8)]
_SIGNALS: Final = frozenset({128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)})
_NO_ALARM: Final = frozenset({ExitCode.DONE, ExitCode.IN_USE, ExitCode.AS_ASKED}) | _SIGNALS
"""What the how-to says of the codes, which every sample has to keep."""
_SLOW: Final = ("--latency-ms", "2000")
"""Flags of a simulator at which a run lasts."""
_KUBERNETES_VERSIONS: Final = ("1.31", "1.37")
"""The first one in which all that the CronJob uses is stable, and the newest one that the schemas know."""
_NO_WRITE_EXECUTE: Final = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""What MemoryDenyWriteExecute= does where the kernel knows it: 65 is PR_SET_MDWE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """A command as a scheduler starts it, on a machine that a test has laid out."""

    arguments: list[str]
    environment: dict[str, str]
    ledger: Path
    export: Path
    secret: Path

    @contextmanager
    def start(self, *more: str) -> Iterator[subprocess.Popen[str]]:
        """Start the command in an empty environment but its own; it is gone at the end of the block."""
        with subprocess.Popen(
            [*self.arguments, *more],
            env=self.environment,
            cwd=self.environment["HOME"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        with self.start(*more) as process:
            said, errors = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, said, errors)


LayOut = Callable[["Simulator"], Night]


def _pointed(configuration: str, simulator: Simulator) -> str:
    """Point a sample's configuration to the simulator; everything else stays as it stands."""
    for placeholder, value in (
        ("example_merchant", SANDBOX_MERCHANT_ID),
        ("00000000-0000-4000-8000-000000000000", SANDBOX_KEY_ID),
        ('env = "test"', f'env = "sandbox"\nbase_url = "{simulator.base_url}"'),
    ):
        assert configuration.count(placeholder) == 1, placeholder
        configuration = configuration.replace(placeholder, value)
    return configuration


def _moved(text: str, places: Mapping[str, Path]) -> str:
    """Replace the places of a real machine by those of the test."""
    for place, moved in places.items():
        text = text.replace(place, str(moved))
    return text


@pytest.fixture
def places(tmp_path: Path, command_path: Path) -> dict[str, Path]:
    """Lay out a machine, and say where each of its places is."""
    for name in ("etc", "state", "export", "home", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "export" / "unpaid.csv").write_text("\n".join(["invoice_id", *_IDS, ""]), encoding="ascii")
    return {
        _COMMAND: command_path,
        "/usr/local/bin": tmp_path / "bin",
        "/etc/batchcancel": tmp_path / "etc",
        "/var/lib/batchcancel": tmp_path / "state",
        "/srv/export": tmp_path / "export",
    }


@pytest.fixture
def coverage(clean_environment: dict[str, str]) -> dict[str, str]:
    """Name the variables by which a child process measures itself, and no others."""
    return {name: value for name, value in clean_environment.items() if name.startswith("COVERAGE_")}


@pytest.fixture
def configure(samples: Path, places: dict[str, Path]) -> Callable[[Simulator], None]:
    """Write the configuration and the secret of one machine."""

    def write(simulator: Simulator) -> None:
        text = (samples / "cron" / "batchcancel.toml").read_text(encoding="utf-8")
        folder = places["/etc/batchcancel"]
        (folder / "batchcancel.toml").write_text(_moved(_pointed(text, simulator), places), encoding="utf-8")
        (folder / "shared-secret").write_text(SANDBOX_SECRET + "\n", encoding="ascii")
        (folder / "shared-secret").chmod(0o600)

    return write


# --- cron -----------------------------------------------------------------------------------------


def _crontab(samples: Path) -> tuple[dict[str, str], str, str]:
    """Read the crontab as cron does: its variables, and the schedule and command of its one job."""
    text = (samples / "cron" / "crontab").read_text(encoding="utf-8")
    assert text.endswith("\n"), "cron ignores a last line without its end"
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    matches = [re.fullmatch(r"([A-Z]+)=(\S+)", line) for line in lines]
    variables = {match[1]: match[2] for match in matches if match}
    (job,) = lines[len(variables) :]
    *schedule, command = job.split(maxsplit=5)
    return variables, " ".join(schedule), command


@pytest.fixture
def cron(
    samples: Path,
    places: dict[str, Path],
    configure: Callable[[Simulator], None],
    coverage: dict[str, str],
) -> LayOut:
    """Start the crontab's command as cron does: through the shell, with cron's meagre environment."""

    def lay_out(simulator: Simulator) -> Night:
        configure(simulator)
        script = places["/usr/local/bin"] / "batchcancel-nightly"
        source = samples / "cron" / "batchcancel-nightly"
        script.write_text(_moved(source.read_text(encoding="utf-8"), places), encoding="utf-8")
        script.chmod(source.stat().st_mode)
        variables, _, command = _crontab(samples)
        home = str(places["/srv/export"].parent / "home")
        meagre = {"HOME": home, "LOGNAME": "batchcancel", "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
        return Night(
            # The shell's own arguments go on to the script, so that a test can say more.
            arguments=[variables["SHELL"], "-c", f'{_moved(command, places)} "$@"', "sh"],
            environment=coverage | meagre | variables,
            ledger=places["/var/lib/batchcancel"] / "nightly.ledger.jsonl",
            export=places["/srv/export"] / "unpaid.csv",
            secret=places["/etc/batchcancel"] / "shared-secret",
        )

    return lay_out


def test_the_crontab_is_one_that_cron_reads(samples: Path) -> None:
    """Five fields, and no percent sign, which cron takes for the end of a line."""
    variables, schedule, command = _crontab(samples)
    assert set(variables) == {"SHELL", "MAILTO"}
    assert re.fullmatch(r"(?:[0-9]{1,2}|\*)(?: (?:[0-9]{1,2}|\*)){4}", schedule)
    assert "%" not in command
    assert command == "/usr/local/bin/batchcancel-nightly"


def test_cron_has_nothing_to_mail_after_a_good_night_nor_after_the_next(
    cron: LayOut, simulator: Simulator, read_ledger: ReadLedger
) -> None:
    """Every invoice is canceled, the second night asks nothing again, and neither says a word."""
    night = cron(simulator)
    first, second = night.run(), night.run()
    for done in (first, second):
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert simulator.posts() == dict.fromkeys(_IDS, 1)
    counts = [line["counts"] for line in read_ledger(night.ledger) if line["type"] == "end"]
    assert [(one["canceled"], one["settled_earlier"]) for one in counts] == [(len(_IDS), 0), (0, len(_IDS))]


def _spoil(night: Night, what: str) -> list[str]:
    """Make the next night end in a certain way; return what it has to be told for that."""
    match what:
        case "export":
            night.export.unlink()
        case "missing invoice":
            with night.export.open("a", encoding="ascii") as export:
                export.write("MISSING-1\n")
        case "key":
            night.secret.write_text("d3Jvbmc=\n", encoding="ascii")
        case "ledger":
            night.ledger.write_bytes(night.ledger.read_bytes().replace(b'"canceled"', b'"cancelled"', 1))
        case "limit":
            return ["--limit", "3"]
    return []


@pytest.mark.parametrize(
    ("what", "code"),
    [
        pytest.param("export", ExitCode.USAGE, id="export missing"),
        pytest.param("missing invoice", ExitCode.ERRORS, id="error row"),
        pytest.param("key", ExitCode.SAFETY_STOP, id="key refused"),
        pytest.param("ledger", ExitCode.LEDGER_FAULT, id="ledger damaged"),
        pytest.param("limit", ExitCode.AS_ASKED, id="stopped as asked"),
    ],
)
def test_cron_mails_only_where_somebody_has_to_look(
    what: str, code: ExitCode, cron: LayOut, simulator: Simulator
) -> None:
    """The code is the command's, and what is said names it and shows what the run said."""
    night = cron(simulator)
    if what == "ledger":
        assert night.run().returncode == 0
    done = night.run(*_spoil(night, what))
    assert (done.returncode, done.stderr) == (code, "")
    if code in _NO_ALARM:
        assert done.stdout == ""
    else:
        first, *rest = done.stdout.splitlines()
        assert first == f"batchcancel ended with exit code {code}:"
        assert rest


# --- systemd --------------------------------------------------------------------------------------


def _unit(samples: Path, name: str) -> dict[str, dict[str, list[str]]]:
    """Read a unit: by section and key all values, as a key may stand several times."""
    parser = configparser.RawConfigParser(
        strict=False, delimiters=("=",), comment_prefixes=("#",), interpolation=None, dict_type=_Multiple
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys have capitals
    parser.read_string((samples / "cron" / name).read_text(encoding="utf-8"))
    return {
        section: {key: value.split("\n") for key, value in parser.items(section)}
        for section in parser.sections()
    }


class _Multiple(dict[str, Any]):
    """Adds the values of a key that stands again to those that it has."""

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, list) and key in self:
            self[key].extend(value)
        else:
            super().__setitem__(key, value)


@pytest.fixture
def systemd(
    samples: Path,
    places: dict[str, Path],
    configure: Callable[[Simulator], None],
    coverage: dict[str, str],
    tmp_path: Path,
) -> LayOut:
    """Start ExecStart= as systemd does: with its specifiers, and the credential in a folder of its own."""

    def lay_out(simulator: Simulator) -> Night:
        configure(simulator)
        service = _unit(samples, "batchcancel.service")["Service"]
        credentials = tmp_path / "credentials"
        credentials.mkdir()
        for credential in service["LoadCredential"]:
            name, _, source = credential.partition(":")
            shutil.copyfile(_moved(source, places), credentials / name)
            (credentials / name).chmod(0o400)
            Path(_moved(source, places)).unlink()  # which the service's own user could not read
        specifiers = {"%d": credentials, "%S/batchcancel": places["/var/lib/batchcancel"]}
        environment = dict(_moved(line, specifiers).split("=", 1) for line in service["Environment"])
        (command,) = service["ExecStart"]
        return Night(
            arguments=[sys.executable, "-c", _NO_WRITE_EXECUTE, *shlex.split(_moved(command, places))],
            environment=coverage
            | environment
            | {
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
                "LANG": "C.UTF-8",
                "HOME": _moved(service["WorkingDirectory"][0], specifiers),
                "CREDENTIALS_DIRECTORY": str(credentials),
                "STATE_DIRECTORY": str(places["/var/lib/batchcancel"]),
            },
            ledger=places["/var/lib/batchcancel"] / "nightly.ledger.jsonl",
            export=places["/srv/export"] / "unpaid.csv",
            secret=credentials / "shared-secret",
        )

    return lay_out


def test_systemd_s_service_takes_for_a_failure_what_alarms(samples: Path) -> None:
    """All codes that need nobody are named, and no other."""
    service = _unit(samples, "batchcancel.service")["Service"]
    assert {0, *map(int, service["SuccessExitStatus"][0].split())} == _NO_ALARM
    assert float(service["TimeoutStopSec"][0].removesuffix("s")) > DRAIN_S + 5


@pytest.fixture
def units(samples: Path, tmp_path: Path, command_path: Path) -> list[Path]:
    """Copy the units, with the command that this machine has: it is looked for."""
    if not Path(_ANALYZE).is_file():
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    paths = []
    for name in ("batchcancel.service", "batchcancel.timer"):
        text = (samples / "cron" / name).read_text(encoding="utf-8")
        path = tmp_path / name
        path.write_text(text.replace(_COMMAND, str(command_path)), encoding="utf-8")
        paths.append(path)
    return paths


def _analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_ANALYZE, *arguments], capture_output=True, encoding="utf-8", check=False, timeout=60
    )


def test_systemd_takes_the_units(units: list[Path]) -> None:
    """Every key is one that systemd knows, the timer's service is there, and the calendar is one."""
    done = _analyze("verify", *units)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_finds_a_misspelt_key(units: list[Path]) -> None:
    """The check above can fail."""
    units[0].write_text(units[0].read_text(encoding="utf-8").replace("UMask", "UMusk"), encoding="utf-8")
    assert "UMusk" in _analyze("verify", *units).stderr


def test_systemd_finds_the_service_hardened(units: list[Path]) -> None:
    """Its own measure of what the service could do is at most 1.5 of 10."""
    done = _analyze("security", "--offline=true", "--threshold=15", units[0])
    assert done.returncode == 0, done.stdout
    assert "Overall exposure level for batchcancel.service" in done.stdout


# --- Kubernetes -----------------------------------------------------------------------------------


@pytest.fixture
def cluster(samples: Path) -> dict[str, Any]:
    """Parse the objects of the sample, by kind."""
    documents = [
        yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in sorted((samples / "kubernetes").glob("*.yaml"))
    ]
    assert len({document["kind"] for document in documents}) == len(documents)
    return {document["kind"]: document for document in documents}


def _job(cluster: dict[str, Any]) -> dict[str, Any]:
    job: dict[str, Any] = cluster["CronJob"]["spec"]["jobTemplate"]["spec"]
    return job


def _pod(cluster: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = _job(cluster)["template"]["spec"]
    return pod


def _mounted(folder: Path, files: Mapping[str, str], *, mode: int) -> None:
    """Lay out files as the kubelet mounts a ConfigMap or a Secret: behind two links."""
    (folder / "..2026_11_26_02_15_00.1").mkdir(parents=True)
    (folder / "..data").symlink_to("..2026_11_26_02_15_00.1")
    for name, text in files.items():
        (folder / "..data" / name).write_text(text, encoding="utf-8")
        (folder / "..data" / name).chmod(mode)
        (folder / name).symlink_to(f"..data/{name}")


@pytest.fixture
def kubernetes(
    cluster: dict[str, Any], places: dict[str, Path], coverage: dict[str, str], tmp_path: Path
) -> LayOut:
    """Start the container's command as the kubelet does: image, volumes, variables of a service."""

    def lay_out(simulator: Simulator) -> Night:
        pod = _pod(cluster)
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        inside = {path: tmp_path / f"volume-{name}" for name, path in mounts.items()}
        for volume in pod["volumes"]:
            folder = inside[mounts[volume["name"]]]
            match volume:
                case {"configMap": _}:
                    data = cluster["ConfigMap"]["data"]
                    text = _moved(_pointed(data["batchcancel.toml"], simulator), inside)
                    _mounted(folder, data | {"batchcancel.toml": text}, mode=0o644)
                case {"secret": secret}:
                    assert secret["defaultMode"] == 0o440
                    names = cluster["Secret"]["stringData"]
                    _mounted(folder, dict.fromkeys(names, SANDBOX_SECRET), mode=0o400)
                case _:
                    folder.mkdir()
        export = inside["/data"] / "unpaid.csv"
        shutil.copyfile(places["/srv/export"] / "unpaid.csv", export)
        variables = {one["name"]: _moved(one["value"], inside) for one in container["env"]}
        # Of a service of that name in the same name space, which enableServiceLinks keeps out of the sample.
        links = {
            "BATCHCANCEL_SERVICE_HOST": "10.0.0.7",
            "BATCHCANCEL_PORT": "tcp://10.0.0.7:80",
            "BATCHCANCEL_METRICS_PORT": "tcp://10.0.0.8:80",
            "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        }
        return Night(
            arguments=[str(places[_COMMAND]), *(_moved(one, inside) for one in container["args"])],
            environment=coverage | variables | links | {"HOME": "/", "PATH": "/usr/local/bin:/usr/bin:/bin"},
            ledger=inside["/data"] / "nightly.ledger.jsonl",
            export=export,
            secret=inside[mounts["secret"]] / "..data" / "shared-secret",
        )

    return lay_out


@pytest.mark.parametrize("version", _KUBERNETES_VERSIONS)
def test_kubernetes_takes_the_objects(version: str, cluster: dict[str, Any]) -> None:
    """By its own schema, in which no unknown key passes; a key too many is found."""
    for document in cluster.values():
        assert kubernetes_validate.validate(document, version, strict=True)
    cluster["CronJob"]["spec"]["concurencyPolicy"] = "Forbid"
    with pytest.raises(kubernetes_validate.ValidationError, match="concurencyPolicy"):
        kubernetes_validate.validate(cluster["CronJob"], version, strict=True)


def test_the_cronjob_is_given_what_is_there(cluster: dict[str, Any], project: Path) -> None:
    """Names that lead nowhere are found by no schema."""
    pod = _pod(cluster)
    (container,) = pod["containers"]
    volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    name = cluster["ConfigMap"]["metadata"]["name"]
    assert volumes["configuration"] == {"configMap": {"name": name}}
    assert volumes["secret"]["secret"]["secretName"] == cluster["Secret"]["metadata"]["name"]
    assert volumes["data"]["persistentVolumeClaim"] == {
        "claimName": cluster["PersistentVolumeClaim"]["metadata"]["name"]
    }
    dockerfile = (project / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert f"--uid {pod['securityContext']['runAsUser']}" in dockerfile


def test_the_cronjob_holds_no_rights_that_it_does_not_need(cluster: dict[str, Any]) -> None:
    """No root, no writing but to its volume, no token, no capability."""
    pod = _pod(cluster)
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["name"]: mount.get("readOnly", False) for mount in container["volumeMounts"]} == {
        "data": False,
        "configuration": True,
        "secret": True,
    }


def test_the_cronjob_tries_again_only_what_may_help_tonight(cluster: dict[str, Any]) -> None:
    """Each code has one rule; a pod that the node lost and a held ledger are tried again uncounted."""
    rules = _job(cluster)["podFailurePolicy"]["rules"]
    actions: dict[int, str] = {}
    for rule in rules:
        if "onExitCodes" in rule:
            codes = rule["onExitCodes"]
            assert codes["containerName"] == _pod(cluster)["containers"][0]["name"]
            assert codes["operator"] == "In"
            assert not set(codes["values"]) & set(actions)
            actions |= dict.fromkeys(codes["values"], rule["action"])
    assert actions == {
        code.value: "Ignore" if code is ExitCode.IN_USE else "FailJob" for code in ExitCode if code
    }
    assert rules[0] == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    assert cluster["CronJob"]["spec"]["concurrencyPolicy"] == "Forbid"
    assert _pod(cluster)["restartPolicy"] == "Never"
    assert _pod(cluster)["terminationGracePeriodSeconds"] > DRAIN_S + 5


def test_the_cronjob_never_ends_where_it_is_told_to(cluster: dict[str, Any]) -> None:
    """Exit code 7 is well, and a Job would take it for a failure."""
    said = cluster["ConfigMap"]["data"]["batchcancel.toml"] + " ".join(_pod(cluster)["containers"][0]["args"])
    assert not re.search(r"limit|max.duration", said)


# --- each of them ---------------------------------------------------------------------------------


@pytest.fixture(params=["cron", "systemd", "kubernetes"])
def lay_out(request: pytest.FixtureRequest) -> LayOut:
    """Take each scheduler in turn."""
    scheduler: LayOut = request.getfixturevalue(request.param)
    return scheduler


def test_a_night_ends_with_every_invoice_canceled_and_the_next_asks_nothing_again(
    lay_out: LayOut, simulator: Simulator, read_ledger: ReadLedger
) -> None:
    """As each scheduler starts it, with the credential where that puts it, and without a warning."""
    night = lay_out(simulator)
    for _ in range(2):
        done = night.run()
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Warning" not in done.stdout + done.stderr
    assert simulator.posts() == dict.fromkeys(_IDS, 1)
    ledger = read_ledger(night.ledger)
    assert {line["outcome"] for line in ledger if line["type"] == "result"} == {"canceled"}
    assert ledger[0]["ref"] == "nightly clean-up"
    assert "profile" not in ledger[0]["options"]


def test_a_night_that_meets_the_one_before_ends_with_5_and_a_signal_with_its_own_code(
    lay_out: LayOut, start_simulator: StartSimulator, read_ledger: ReadLedger
) -> None:
    """The second run touches nothing; the first is told to stop, drains, and says so."""
    simulator = start_simulator(*_SLOW)
    night = lay_out(simulator)
    with night.start() as first:
        simulator.wait_for("cancel")
        second = night.run()
        pid = read_ledger(night.ledger)[0]["pid"]  # cron's own child is the shell
        os.kill(pid, signal.SIGTERM)
        said = "".join(first.communicate(timeout=60))
    assert second.returncode == ExitCode.IN_USE
    assert first.returncode == 128 + signal.SIGTERM, said
    assert read_ledger(night.ledger)[-1]["state"] == "interrupted"
    assert set(simulator.posts().values()) == {1}


def test_a_kernel_that_denies_writable_code_is_asked_for_it() -> None:
    """The wrapper above denies it, where this kernel can."""
    asked = "import ctypes; print(ctypes.CDLL(None).prctl(66, 0, 0, 0, 0))"
    done = subprocess.run(
        [sys.executable, "-c", _NO_WRITE_EXECUTE, sys.executable, "-c", asked],
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    if ctypes.CDLL(None).prctl(66, 0, 0, 0, 0) < 0:
        pytest.skip("this kernel has no PR_SET_MDWE: the service's command was run without it")
    assert done.stdout == "1\n"
