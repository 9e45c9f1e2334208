"""``batchcancel config`` as a user meets it: the installed command, its text, its JSON, its exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchcancel.settings import Options

if TYPE_CHECKING:
    from tests.acceptance.conftest import RunCommand

_CONFIG = """\
merchant_id = "example_merchant"
key_id = "example_key"
shared_secret_file = "secret"
rate = 5

[profile.nightly]
env = "test"
rate = 7
proxy = "http://user:hunter2@proxy.example:3128"
json = true
"""


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    """Lay out a configuration with a profile and a secret's file in the working directory."""
    (tmp_path / "batchcancel.toml").write_text(_CONFIG, encoding="utf-8")
    (tmp_path / "secret").write_text("aHVudGVyMg==\n", encoding="ascii")
    (tmp_path / "secret").chmod(0o600)
    return tmp_path


def _table(text: str) -> dict[str, list[tuple[str, str]]]:
    """Read the table: by option its value and source, then those that they overrode."""
    rows: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for line in re.findall(r"(?m)^  (?! *-+ )(.+)$", text):
        if match := re.fullmatch(r"(\S*) {2,}(.+?) {2,}(.+)", line):
            name = match[1] or name
            rows.setdefault(name, []).append((match[2], match[3]))
    return rows


def test_config_tells_each_value_its_source_and_what_it_overrode(
    configured: Path, run_command: RunCommand
) -> None:
    """A person sees at once why the rate is what it is."""
    done = run_command("config", "--profile", "nightly", "--rate", "9", env={"BATCHCANCEL_RATE": "8"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Configuration file {configured}/batchcancel.toml, profile nightly.\n")
    table = _table(done.stdout)
    assert list(table)[1:] == list(Options.__struct_fields__)  # its header comes first
    assert table["rate"] == [
        ("9", "--rate"),
        ("8", "overridden: BATCHCANCEL_RATE"),
        ("7", "overridden: batchcancel.toml [profile.nightly]: rate"),
        ("5", "overridden: batchcancel.toml: rate"),
    ]
    assert table["base_url"] == [("https://apitest.visaacceptance.com", "default")]
    assert table["proxy"][0][0] == "http://***@proxy.example:3128"
    assert "hunter2" not in done.stdout
    assert "Missing" not in done.stdout


def test_config_says_what_a_run_would_need(run_command: RunCommand) -> None:
    """Without anything, it works and names everything."""
    done = run_command("config")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("No configuration file.\n")
    missing = done.stdout.partition("Missing for a run\n")[2].splitlines()
    assert [line.split(":")[0].strip() for line in missing] == [
        "Say what is called",
        "Credentials are missing",
    ]


def test_config_names_the_profiles_where_none_is_chosen(configured: Path, run_command: RunCommand) -> None:
    """A forgotten --profile is the first thing to look for."""
    first = run_command("config").stdout.splitlines()[0]
    assert first == f"Configuration file {configured}/batchcancel.toml, no profile (it has nightly)."


def test_config_json_has_its_keys(configured: Path, run_command: RunCommand) -> None:
    """The object is a contract; its values are data, not text."""
    done = run_command("config", "--json", "--profile", "nightly", env={"BATCHCANCEL_KEEP": "a,b"})
    assert (done.returncode, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    assert list(document) == ["file", "profile", "profiles", "options", "missing", "warnings"]
    assert (document["profile"], document["profiles"]) == ("nightly", ["nightly"])
    assert list(document["options"]) == list(Options.__struct_fields__)
    assert {tuple(option) for option in document["options"].values()} == {("value", "source", "overridden")}
    assert document["options"]["rate"] == {
        "value": 7.0,
        "source": "batchcancel.toml [profile.nightly]: rate",
        "overridden": [{"value": 5.0, "source": "batchcancel.toml: rate"}],
    }
    assert document["options"]["keep"]["value"] == ["a", "b"]
    assert document["options"]["limit"]["value"] is None
    assert document["missing"] == []
    assert "hunter2" not in done.stdout


def test_config_takes_the_place_of_run_in_its_command(
    configured: Path, run_command: RunCommand, samples: Path
) -> None:
    """What the command would do, and nothing of it done."""
    arguments = (samples / "invoices.csv", "--env", "sandbox", "--yes", "--canary", "5", "--keep", "a")
    before = sorted(configured.iterdir())
    done = run_command("config", *arguments)
    assert done.returncode == 0, done.stderr
    table = _table(done.stdout)
    assert table["ledger"] == [("invoices.sandbox.ledger.jsonl", "default")]
    assert table["yes"] == [("true", "--yes")]
    assert table["canary"] == [("5", "--canary")]
    assert sorted(configured.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(
            ["--rate", "fast"], "Error: --rate takes a number above 0, at most 100,000.\n", id="value"
        ),
        pytest.param(
            ["--profile", "nigthly"],
            "Error: batchcancel.toml has no table [profile.nigthly]. Did you mean nightly?\n",
            id="profile",
        ),
        pytest.param(
            ["--config", "gone.toml"], "Error: --config names gone.toml, which is no file.\n", id="file"
        ),
    ],
)
@pytest.mark.parametrize("command", ["config", "run", "plan"])
def test_a_wrong_value_is_exit_2_in_one_line(
    command: str, arguments: list[str], sentence: str, configured: Path, run_command: RunCommand
) -> None:
    """The same sentence as from the run."""
    done = run_command(command, "invoices.csv", "--env", "test", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)


def test_config_says_warnings_to_standard_error(configured: Path, run_command: RunCommand) -> None:
    """Standard output carries the result only; what Kubernetes sets is no matter."""
    (configured / "secret").chmod(0o444)
    env = {"BATCHCANCEL_EVN": "1", "BATCHCANCEL_METRICS_PORT": "tcp://10.0.0.7:9108"}
    done = run_command("config", "--profile", "nightly", env=env)
    assert done.returncode == 0
    unknown = (
        "Warning: BATCHCANCEL_EVN is no option of batchcancel and is ignored. Did you mean BATCHCANCEL_ENV?"
    )
    assert done.stderr.splitlines() == [
        unknown,
        "Warning: secret holds a secret and can be read by others: chmod 600 it.",
    ]
    assert "Warning" not in done.stdout


def test_doctor_takes_the_file_and_profile_that_its_flags_name(
    configured: Path, run_command: RunCommand
) -> None:
    """It looks at what the run with the same flags would use."""
    (configured / "batchcancel.toml").rename(configured / "other.toml")
    done = run_command("doctor", "--env", "sandbox", "--config", "other.toml", "--profile", "nightly")
    assert done.returncode == 0, done.stdout
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("ok")}
    assert lines["configuration"].endswith("other.toml, profile nightly")
    assert "rate from other.toml [profile.nightly]: rate" in lines["options"]


def test_list_takes_the_file_that_its_flag_names(configured: Path, run_command: RunCommand) -> None:
    """Conditions of the list and options of the settings are kept apart."""
    (configured / "other.toml").write_text('log_level = "loud"\n', encoding="utf-8")
    done = run_command("list", "--env", "sandbox", "--out", "all.csv", "--config", "other.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: other.toml: log_level takes debug, info, warning or error.")
