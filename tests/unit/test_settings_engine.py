"""Where Temporal is: from flags, variables, a profile and the top level of the file, in that order."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from batchcancel.errors import SettingsError
from batchcancel.settings.engine import EngineOptions, load_engine_options
from batchcancel.settings.explanation import explain_settings

pytestmark = pytest.mark.usefixtures("in_folder")

CONFIG = """\
temporal_address = "file:7233"
temporal_namespace = "of-the-file"
temporal_task_queue = "of-the-file"
temporal_tls_ca = "roots.pem"
rate = 5

[profile.nightly]
temporal_namespace = "of-the-profile"
temporal_task_queue = "of-the-profile"
"""


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)


def load(environ: dict[str, str] | None = None, profile: str | None = None, **flags: str) -> EngineOptions:
    """Load with the file of the working directory, if there is one."""
    return load_engine_options(flags, environ=environ or {}, profile=profile)


def refusal(environ: dict[str, str] | None = None, **flags: str) -> str:
    """Return the sentence with which something is refused."""
    with pytest.raises(SettingsError) as caught:
        load(environ, **flags)
    return str(caught.value)


def write(name: str, text: str, mode: int = 0o600) -> None:
    """Write a file of the working directory."""
    Path(name).write_text(text, encoding="utf-8")
    Path(name).chmod(mode)


def key_of(options: EngineOptions) -> bytes:
    """Return the API key."""
    assert options.api_key is not None
    return options.api_key.reveal()


def test_a_flag_wins_over_a_variable_that_over_a_profile_that_over_the_file() -> None:
    """As for every option."""
    write("batchcancel.toml", CONFIG)
    plain = load()
    assert (plain.address, plain.namespace, plain.task_queue) == (
        "file:7233",
        "of-the-file",
        "of-the-file",
    )
    variables = {"BATCHCANCEL_TEMPORAL_TASK_QUEUE": "of-the-variable", "BATCHCANCEL_TEMPORAL_TLS": "true"}
    mixed = load(variables, profile="nightly", temporal_address="flag:7233")
    assert (mixed.address, mixed.namespace, mixed.task_queue, mixed.tls) == (
        "flag:7233",
        "of-the-profile",
        "of-the-variable",
        True,
    )
    assert load({"BATCHCANCEL_PROFILE": "nightly"}).task_queue == "of-the-profile"


def test_files_are_relative_to_the_one_that_names_them() -> None:
    """And those of a flag to the working directory."""
    Path("etc").mkdir()
    write("etc/batchcancel.toml", CONFIG)
    there = load_engine_options({}, environ={}, config="etc/batchcancel.toml")
    assert there.tls_ca == Path("etc/roots.pem")
    assert load(temporal_tls_ca="roots.pem").tls_ca == Path("roots.pem")


def test_each_source_is_explained_and_the_key_is_masked() -> None:
    """As 'batchcancel config' shows it."""
    write("batchcancel.toml", CONFIG)
    environ = {"BATCHCANCEL_TEMPORAL_NAMESPACE": "v", "BATCHCANCEL_TEMPORAL_API_KEY": "hunter2"}
    options = explain_settings(environ=environ, profile="nightly", temporal_address="flag:7233").options
    assert (options["temporal_address"].value, options["temporal_address"].source) == (
        "flag:7233",
        "--address",
    )
    assert [one.source for one in options["temporal_address"].overridden] == [
        "batchcancel.toml: temporal_address"
    ]
    assert [one.source for one in options["temporal_namespace"].overridden] == [
        "batchcancel.toml [profile.nightly]: temporal_namespace",
        "batchcancel.toml: temporal_namespace",
    ]
    assert options["temporal_api_key"].value == "***"
    assert options["temporal_tls"].source == "default"


def test_unknown_names_are_refused_with_the_nearest_one() -> None:
    """In the file, in any of its profiles, and in a variable that can only be a slip of the pen."""
    write("batchcancel.toml", "[profile.other]\ntemporal_adress = 'x'\n")
    assert "line 2: 'temporal_adress'. Did you mean temporal_address?" in refusal()
    write("batchcancel.toml", "")
    said = refusal({"BATCHCANCEL_TEMPORAL_NAMESPCE": "x"})
    assert "Did you mean BATCHCANCEL_TEMPORAL_NAMESPACE? Mend or unset it." in said


def test_a_mistake_in_another_option_keeps_nobody_from_pausing_a_job() -> None:
    """Variables that are of no concern here are not looked at."""
    assert load({"BATCHCANCEL_RATE": "none", "BATCHCANCEL_TEMPORAL_ADDRESS": "a:1"}).address == "a:1"


def test_api_key_comes_from_a_file_that_is_read_again() -> None:
    """It never shows; a file that others can write is refused, one that they can read is a warning."""
    write("key", "first\n")
    options = load({"BATCHCANCEL_TEMPORAL_API_KEY_FILE": "key"})
    assert (key_of(options), options.warnings) == (b"first", ())
    assert "first" not in repr(options)
    write("key", "second\n", 0o644)
    assert options.api_key is not None
    assert options.api_key.read_again() == b"second"
    (warning,) = load({"BATCHCANCEL_TEMPORAL_API_KEY_FILE": "key"}).warnings
    assert warning == "key holds a secret and can be read by others: chmod 600 it."
    write("key", "third\n", 0o666)
    assert "written by others" in refusal({"BATCHCANCEL_TEMPORAL_API_KEY_FILE": "key"})
    assert key_of(load({"BATCHCANCEL_TEMPORAL_API_KEY": "of-the-variable"})) == b"of-the-variable"


def test_key_of_a_stronger_source_counts_and_two_of_one_are_refused() -> None:
    """As for every secret."""
    write("key", "of-the-file")
    write("batchcancel.toml", "temporal_api_key_file = 'key'\n")
    assert key_of(load()) == b"of-the-file"
    assert key_of(load({"BATCHCANCEL_TEMPORAL_API_KEY": "stronger"})) == b"stronger"
    both = {"BATCHCANCEL_TEMPORAL_API_KEY": "hunter2", "BATCHCANCEL_TEMPORAL_API_KEY_FILE": "key"}
    said = refusal(both)
    assert "not both" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("text", ["", " \n", "hunter2\nhunter2", "hunter2 hunter2", "hunter2\x07"], ids=repr)
def test_what_is_no_key_is_refused_and_not_shown(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header takes one line of visible ASCII; not even a traceback shows what was there."""
    write("key", text)
    monkeypatch.setenv("BATCHCANCEL_TEMPORAL_API_KEY_FILE", "key")
    with pytest.raises(SettingsError) as caught:
        load_engine_options({})
    assert str(caught.value).startswith("BATCHCANCEL_TEMPORAL_API_KEY_FILE (key) holds no API key")
    frames = [frame for frame, _ in traceback.walk_tb(caught.tb)][1:]
    assert frames
    assert "hunter2" not in "".join(repr(frame.f_locals) for frame in frames)


def test_certificate_and_key_go_together() -> None:
    """Wherever they come from."""
    said = refusal(temporal_tls_cert="cert.pem")
    assert said == "--tls-cert and --tls-key go together; only --tls-cert is given."
    said = refusal({"BATCHCANCEL_TEMPORAL_TLS_KEY": "key.pem"})
    assert said.endswith("only BATCHCANCEL_TEMPORAL_TLS_KEY is given.")
    assert load(temporal_tls_cert="cert.pem", temporal_tls_key="key.pem").tls_key == Path("key.pem")
