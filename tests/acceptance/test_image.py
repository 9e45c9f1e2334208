"""The Dockerfile: its shape, and its steps run on this machine, as far as that goes without a container."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import ReadLedger

_UID: Final = 10001
_UNSHARE, _SETPRIV, _SH = "/usr/bin/unshare", "/usr/bin/setpriv", "/bin/sh"
_READ_ONLY: Final = """
set -e
mount --bind "$1" "$1"
mount --bind "$2" "$2"
mount -o remount,bind,ro "$1"
mount -o remount,bind,ro /
cd "$2"
shift 2
exec "$@"
"""
"""Runs a command where nothing can be written but one folder: $1 is read-only like everything, $2 is it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction of a Dockerfile."""

    word: str
    rest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What the Dockerfile would make, below a folder of this machine."""

    root: Path
    folder: Path
    """Where its own user may write, as /ledgers in the container."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the final stage sets."""
        path = f"{self.root}/opt/batchcancel/bin:/usr/local/bin:/usr/bin:/bin"
        return {"PATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}

    def run(
        self, *arguments: str | Path, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of it as its own user, on a machine that can't be written to."""
        drop = [_SETPRIV, f"--reuid={_UID}", f"--regid={_UID}", "--clear-groups", "--no-new-privs"]
        drop += ["--inh-caps=-all", "--bounding-set=-all", "--"]
        return subprocess.run(
            [_UNSHARE, "--mount", _SH, "-c", _READ_ONLY, _SH, self.root, self.folder, *drop, *arguments],
            env=self.environment | (env or {}),
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=60,
        )


@pytest.fixture(scope="module")
def stages(project: Path) -> list[list[Step]]:
    """Parse the Dockerfile: what stands before the first stage, then each stage."""
    text = (project / "docker" / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"(?m)^#.*\n", "", text).replace("\\\n", " ").splitlines()
    steps = [Step(*line.split(maxsplit=1)) for line in lines if line.strip()]
    found: list[list[Step]] = [[]]
    for step in steps:
        if step.word == "FROM":
            found.append([])
        found[-1].append(step)
    return found


def _rests(stage: list[Step], word: str) -> list[str]:
    return [step.rest for step in stage if step.word == word]


# --- its shape ------------------------------------------------------------------------------------


def test_both_stages_begin_with_one_base_of_a_whole_version(stages: list[list[Step]]) -> None:
    """What was built for one Python runs on the same one, and no build gets another by chance."""
    head, build, final = stages
    assert [step.word for step in head] == ["ARG"]
    assert re.fullmatch(r"PYTHON=3\.\d+\.\d+-slim-[a-z]+", head[0].rest)
    assert (build[0].rest, final[0].rest) == ("python:${PYTHON} AS build", "python:${PYTHON}")


def test_the_build_copies_files_that_exist_and_are_not_ignored(
    stages: list[list[Step]], project: Path
) -> None:
    """Everything that the build stage copies from the checkout is there and reaches the build."""
    copied = [source for rest in _rests(stages[1], "COPY") for source in rest.split()[:-1]]
    ignored = (project / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert copied
    assert "*" in ignored
    for source in copied:
        assert (project / source).exists()
        assert f"!{source}" in ignored


def test_the_image_has_nothing_to_build_with(stages: list[list[Step]]) -> None:
    """Its final stage takes the environment alone; no stage installs a compiler or needs one."""
    _, build, final = stages
    assert _rests(final, "COPY") == ["--from=build /opt/batchcancel /opt/batchcancel"]
    assert _rests(final, "ADD") == []
    assert not re.search(r"\b(apt|apt-get|apk|pip|gcc|curl|wget)\b", " ".join(_rests(final, "RUN")))
    assert not re.search(r"\b(apt|apt-get|gcc|build-essential)\b", " ".join(_rests(build, "RUN")))
    assert "--only-binary :all:" in " ".join(_rests(build, "RUN"))


def test_the_image_runs_the_command_without_root(stages: list[list[Step]]) -> None:
    """It makes its user, owns the ledgers' folder, and drops root before anything runs."""
    final = stages[2]
    (made,) = _rests(final, "RUN")
    assert f"useradd --system --uid {_UID} --user-group" in made
    assert "install --directory --owner=batchcancel --group=batchcancel --mode=0700 /ledgers" in made
    assert _rests(final, "USER") == [f"{_UID}:{_UID}"]
    words = [step.word for step in final]
    assert words.index("RUN") < words.index("USER") < words.index("HEALTHCHECK")
    assert _rests(final, "WORKDIR") == ["/ledgers"]
    assert _rests(final, "ENTRYPOINT") == ['["batchcancel"]']


def test_the_image_keeps_no_secret(stages: list[list[Step]]) -> None:
    """What ARG and ENV say stays in the image for everybody to read."""
    said = [step.rest for stage in stages for step in stage if step.word in {"ARG", "ENV", "LABEL"}]
    assert not re.search(r"(?i)secret|password|token|BATCHCANCEL_", " ".join(said))


# --- its steps ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image(stages: list[list[Step]], project: Path) -> Iterator[Image]:
    """Run the steps of the build stage, with its places below a folder that others may enter."""
    root = Path(tempfile.mkdtemp(prefix="batchcancel-image-"))
    try:
        root.chmod(0o755)
        (root / "opt").mkdir()
        folder = root / "ledgers"
        folder.mkdir(mode=0o700)
        os.chown(folder, _UID, _UID)
        for step in stages[1]:
            _build(step, root, project)
        yield Image(root=root, folder=folder)
    finally:
        shutil.rmtree(root)


def _build(step: Step, root: Path, project: Path) -> None:
    """Run one step of the build stage."""
    if step.word == "COPY":
        *sources, to = step.rest.split()
        for source in sources:
            target = root / "src" / to / ("" if source.endswith("/") else source)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.endswith("/"):
                shutil.copytree(project / source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(project / source, target)
    elif step.word == "RUN":
        command = re.sub(r"/(wheels|opt/batchcancel)\b", rf"{root}/\1", step.rest)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BATCHCANCEL_")}
        path = f"{Path(sys.executable).parent}:{kept['PATH']}"
        done = subprocess.run(
            [_SH, "-ec", command],
            cwd=root / "src",
            env=kept | {"PATH": path},
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture
def machine(image: Image) -> Image:
    """Take the image where this machine can be made read-only for one process."""
    if os.geteuid() != 0 or not Path(_UNSHARE).is_file() or not Path(_SETPRIV).is_file():
        pytest.skip("a read-only machine for one process needs root, unshare and setpriv")
    trial = image.run("true")
    if trial.returncode:
        pytest.skip(f"no name space for mounts can be had here: {trial.stderr.strip()}")
    return image


@pytest.mark.timeout(300)
def test_the_environment_is_built_from_wheels_and_has_no_pip(image: Image) -> None:
    """The command is there, compiled for a file system that can't be written; what installs is not."""
    programs = {path.name for path in (image.root / "opt" / "batchcancel" / "bin").iterdir()}
    assert "batchcancel" in programs
    assert not {name for name in programs if name.startswith("pip")}
    assert all(path.suffix == ".whl" for path in (image.root / "wheels").iterdir())
    compiled = image.root.glob(
        "opt/batchcancel/lib/python3*/site-packages/batchcancel/cli/__pycache__/run.*.pyc"
    )
    assert list(compiled)


@pytest.mark.timeout(300)
def test_the_image_works_as_nobody_on_a_machine_that_can_not_be_written(
    machine: Image, samples: Path, read_ledger: ReadLedger
) -> None:
    """A run of the sample writes its ledger and nothing else; the report's libraries are there."""
    refused = machine.run("touch", machine.root / "opt" / "x")
    assert "Read-only file system" in refused.stderr
    assert machine.run("id", "-u").stdout == f"{_UID}\n"
    shutil.copy(samples / "invoices.csv", machine.root / "invoices.csv")

    manifest = machine.root / "invoices.csv"
    done = machine.run("batchcancel", "run", manifest, "--env", "sandbox", "--report", "page.html")

    assert done.returncode == 3, done.stderr
    assert sorted(path.name for path in machine.folder.iterdir()) == [
        "invoices.sandbox.ledger.jsonl",
        "page.html",
    ]
    assert read_ledger(machine.folder / "invoices.sandbox.ledger.jsonl")[-1]["state"] == "complete"


@pytest.mark.timeout(300)
def test_the_health_check_tells_a_container_whose_secret_is_no_good(
    machine: Image, stages: list[list[Step]]
) -> None:
    """Healthy with nothing configured and with a good secret; not with a file that is gone."""
    (check,) = _rests(stages[2], "HEALTHCHECK")
    options, _, command = check.partition(" CMD ")
    assert set(re.findall(r"--([a-z-]+)=", options)) == {"interval", "timeout", "start-period", "retries"}
    arguments = [word.strip(",[]") for word in shlex.split(command)]
    assert machine.run(*arguments).returncode == 0
    gone = {"BATCHCANCEL_SHARED_SECRET_FILE": "/run/secrets/gone"}
    assert machine.run(*arguments, env=gone).returncode == 2
