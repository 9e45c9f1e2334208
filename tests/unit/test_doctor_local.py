"""The checks of ``doctor`` that never leave this machine."""

from __future__ import annotations

import base64
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from batchcancel.settings import Environment, Options
from batchcancel.tasks.doctor.checks import Check, Grade
from batchcancel.tasks.doctor.configuration import check_sources, check_target
from batchcancel.tasks.doctor.keys import check_modes, check_roots, check_secret
from batchcancel.tasks.doctor.ledger import check_ledger
from batchcancel.tasks.doctor.secret_shape import problem_of, shape_of
from batchcancel.tasks.doctor.software import check_software, extras_of

SECRET = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


# --- the secret -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f'"{SECRET}"', "it stands in quotes, which are no part of it"),
        (SECRET.rstrip("="), "it has 43 characters, which is no multiple of 4"),
        (SECRET[:-2] + "-=", "it has - or _, which base64 writes as + and /"),
        ("ab#d!" * 4, "8 of its 20 characters are none of base64's"),
        ("YQ=YQ===", "it has 8 characters, which is no multiple of 4 or has = inside"),
        ("====", "the = at its end do not fit"),
        (" \n", "it is empty"),
    ],
    ids=["quotes", "cut", "url-safe", "foreign", "inner =", "only =", "empty"],
)
def test_what_is_no_base64_is_told_without_any_of_it(text: str, problem: str) -> None:
    """The sentence says what to look at, and no character of the secret."""
    said = problem_of(text)
    assert said is not None
    assert said.startswith(problem)
    assert text.strip() not in said or not text.strip("= \n")


@pytest.mark.parametrize(
    ("text", "shape", "is_unusual"),
    [
        (SECRET, "base64 of 32 bytes", False),
        (f"{SECRET}\n", "base64 of 32 bytes", False),
        (f" {SECRET[:20]}\r\n{SECRET[20:]}", "base64 of 32 bytes, white space in it is left out", False),
        (SECRET[:20], "base64 of 15 bytes", True),
    ],
    ids=["good", "with a newline", "wrapped", "short"],
)
def test_the_shape_of_a_good_secret(*, text: str, shape: str, is_unusual: bool) -> None:
    """An editor's newline is nothing to speak of; other white space is, and a short one may be cut."""
    assert problem_of(text) is None
    assert shape_of(text)[0] == shape
    assert (shape_of(text)[1] is not None) is is_unusual


def test_a_secret_file_is_looked_at(tmp_path: Path) -> None:
    """Good, damaged, no text, missing, and a pipe that would block."""
    path = tmp_path / "secret"

    def check(content: bytes | None) -> Check:
        if content is not None:
            path.write_bytes(content)
        return check_secret(Options(shared_secret_file=str(path)))

    assert check(None).grade is Grade.FAIL
    assert check(SECRET.encode()) == Check(name="secret", grade=Grade.OK, found="base64 of 32 bytes")
    assert check(b"\xff\xfe").found.endswith("holds no text.")
    assert check(b"not base64").grade is Grade.FAIL
    path.unlink()
    os.mkfifo(path)
    assert check(None).grade is Grade.SKIP


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "grade"),
    [(0o600, Grade.OK), (0o644, Grade.WARN), (0o620, Grade.FAIL), (0o602, Grade.FAIL)],
    ids=["private", "readable", "group writes", "others write"],
)
def test_modes_of_secret_files(tmp_path: Path, mode: int, grade: Grade) -> None:
    """Readable by others is a warning, writable is refused."""
    path = tmp_path / "secret"
    path.write_text(SECRET)
    path.chmod(mode)
    [check] = check_modes(Options(shared_secret_file=str(path)))
    assert check.grade is grade
    assert check.grade is Grade.OK or f"{path}" in check.found


def test_modes_of_several_files_are_told_each(tmp_path: Path) -> None:
    """A certificate may be read by all, and a missing file is told by name."""
    for name, mode in (("a.p12", 0o600), ("c.pem", 0o644)):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(mode)
    options = Options(
        p12_file=str(tmp_path / "a.p12"),
        p12_password_file=str(tmp_path / "gone"),
        mle_cert_file=str(tmp_path / "c.pem"),
    )
    checks = list(check_modes(options))
    assert [check.grade for check in checks] == [Grade.FAIL, Grade.OK]
    assert "gone" in checks[0].found
    assert checks[1].found == "2 files as they should be"
    (tmp_path / "c.pem").chmod(0o666)
    assert [check.grade for check in check_modes(options)] == [Grade.FAIL, Grade.FAIL, Grade.OK]


def test_private_roots_have_to_be_certificates(tmp_path: Path) -> None:
    """What is none would end a run."""
    assert list(check_roots(Options())) == []
    (tmp_path / "roots.pem").write_text("no certificate")
    [check] = check_roots(Options(ca_file=str(tmp_path / "roots.pem")))
    assert check.grade is Grade.FAIL


# --- the ledger -----------------------------------------------------------------------------------


def test_a_ledger_s_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    """Nothing stays behind, neither a file nor a lock."""
    check = check_ledger(str(tmp_path / "x.jsonl"))
    assert check.grade is Grade.OK
    assert "can be made; locks work" in check.found
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_that_is_held_or_none(tmp_path: Path) -> None:
    """Each says what it is."""
    path = tmp_path / "x.jsonl"
    path.write_text("{}\n")
    assert check_ledger(str(path)).found.startswith(f"{path} is there and can be written")
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        check = check_ledger(str(path))
    assert check.grade is Grade.WARN
    assert check.found.startswith("A run holds")
    assert path.read_text() == "{}\n"
    assert check_ledger(str(tmp_path)).found.endswith("is not a regular file.")
    assert check_ledger(str(tmp_path / "no" / "x.jsonl")).found.endswith("is no folder.")
    assert check_ledger("/proc/x.jsonl").grade is Grade.FAIL
    assert check_ledger(None).grade is Grade.SKIP


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little room is a warning: how many rows there will be is not known."""

    def nearly_full(_path: object) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 1000, 9, 9, 0, 0, 0, 0, 255))

    monkeypatch.setattr(os, "statvfs", nearly_full)
    check = check_ledger(str(tmp_path / "x.jsonl"))
    assert check.grade is Grade.WARN
    assert "0.0 MB free" in check.found


# --- where settings come from ---------------------------------------------------------------------


def sources(environ: dict[str, str], **flags: Any) -> tuple[Options | None, list[Check]]:
    """Gather options and what is told on the way."""
    told: list[Check] = []
    return check_sources(environ, flags, told.append), told


def test_sources_are_named_and_values_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables by name, the file and its profile, and where each option came from."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "own.toml"
    config.write_text('key_id = "hidden-key"\n[profile.night]\nrate = 3\n')
    config.chmod(0o600)
    options, told = sources(
        {
            "BATCHCANCEL_CONFIG": str(config),
            "BATCHCANCEL_PROFILE": "night",
            "BATCHCANCEL_SHARED_SECRET": "hidden-secret",
            "BATCHCANCEL_TYPO": "hidden-typo",
            "HTTPS_PROXY": "http://hidden:hidden@proxy",
            "PATH": "/bin",
        },
        env="test",
    )
    assert options is not None
    found = {check.name: check.found for check in told if check.grade is Grade.OK}
    assert found["configuration"] == f"{config}, profile night"
    assert found["environment"] == (
        "BATCHCANCEL_CONFIG, BATCHCANCEL_PROFILE, BATCHCANCEL_SHARED_SECRET, BATCHCANCEL_TYPO, HTTPS_PROXY"
    )
    assert f"rate from {config} [profile.night]: rate" in found["options"]
    assert "env from --env" in found["options"]
    assert [check.name for check in told if check.grade is Grade.WARN] == ["environment"]
    assert "hidden" not in repr(told)


def test_places_are_named_where_there_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that somebody can put it there."""
    monkeypatch.chdir(tmp_path)
    _, told = sources({"HOME": "/home/finance"})
    expected = "no file; looked for batchcancel.toml and /home/finance/.config/batchcancel/batchcancel.toml"
    assert told[0].found == expected


def test_each_source_is_read_although_another_is_broken(tmp_path: Path) -> None:
    """File, environment and flags all have a fault, and all three are told."""
    config = tmp_path / "own.toml"
    config.write_text("key_id = [")
    options, told = sources(
        {"BATCHCANCEL_CONFIG": str(config), "BATCHCANCEL_RATE": "fast"}, env="moon", ledger=None
    )
    assert options is None
    assert [(check.name, check.grade) for check in told] == [
        ("configuration", Grade.FAIL),
        ("environment", Grade.FAIL),
        ("flags", Grade.FAIL),
    ]


def test_a_configuration_with_a_secret_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    """As a run says it."""
    config = tmp_path / "own.toml"
    config.write_text(f'shared_secret = "{SECRET}"\n')
    config.chmod(0o644)
    _, told = sources({"BATCHCANCEL_CONFIG": str(config)})
    [lax] = [check for check in told if check.grade is Grade.WARN]
    assert "chmod 600" in lax.found
    assert SECRET not in repr(told)


def test_target_tells_which_gates_there_are() -> None:
    """Production asks for a number; what is not said or disagrees is nothing to call."""
    target, check = check_target(Options(env=Environment.PRODUCTION))
    assert target is not None
    assert target.host == "api.visaacceptance.com"
    assert "--yes" in check.found
    target, check = check_target(Options(env=Environment.TEST, base_url="https://api.visaacceptance.com"))
    assert (target, check.grade) == (None, Grade.FAIL)
    target, check = check_target(Options())
    assert (target, check.grade) == (None, Grade.FAIL)
    assert "--env sandbox" in check.found


# --- software -------------------------------------------------------------------------------------


def test_software_names_versions_and_extras() -> None:
    """Extras for developers are left out."""
    first, *extras = check_software()
    assert first.found.startswith("batchcancel ")
    assert "Python 3." in first.found
    assert [check.name for check in extras if check.grade is Grade.OK][-1:] == ["extra report"]


def test_extras_are_read_from_metadata() -> None:
    """As pip writes them, with and without versions and other conditions."""
    lines = [
        "aiohttp<4,>=3.12",
        "uvloop>=0.21; sys_platform != 'win32'",
        "jinja2>=3.1.6; extra == 'report'",
        'temporalio>=1; (python_version < "4") and extra == "cluster"',
        "pytest>=8; extra == 'test'",
    ]
    assert extras_of(lines) == {"report": ["jinja2"], "cluster": ["temporalio"]}
