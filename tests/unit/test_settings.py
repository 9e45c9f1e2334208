"""Where options come from, which source wins, and what each option takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from batchcancel.errors import SettingsError
from batchcancel.manifest import Format
from batchcancel.settings import (
    Environment,
    LogFormat,
    LogLevel,
    ManifestFormat,
    Options,
    Progress,
    Settings,
    load_settings,
)
from batchcancel.settings.options import FILES, HINTS


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Work in an empty folder with an empty home, so that nothing of the developer's is read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", {"HOME": str(tmp_path / "home")})
    return tmp_path


def load(environ: Mapping[str, str] | None = None, **flags: object) -> Settings:
    """Load settings for one manifest; the simulator is called unless told."""
    given: dict[str, Any] = {"env": "sandbox", **flags}
    return load_settings(["invoices.csv"], environ={"HOME": "home", **(environ or {})}, **given)


def refusal(environ: Mapping[str, str] | None = None, **flags: Any) -> str:
    """Return the sentence with which settings are refused."""
    with pytest.raises(SettingsError) as caught:
        load(environ, **flags)
    return str(caught.value)


def write_config(text: str, path: str = "batchcancel.toml") -> None:
    """Write a configuration file that only its owner can read."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).touch(mode=0o600)
    Path(path).write_text(text, encoding="utf-8")


# --- precedence -----------------------------------------------------------------------------------

FILE = "concurrency = 1\n[profile.night]\nconcurrency = 2\n"


@pytest.mark.parametrize(
    ("config", "environ", "flags", "value", "source"),
    [
        pytest.param("", {}, {}, 16, None, id="default"),
        pytest.param(FILE, {}, {}, 1, "batchcancel.toml: concurrency", id="file's top level"),
        pytest.param(
            FILE,
            {"BATCHCANCEL_PROFILE": "night"},
            {},
            2,
            "batchcancel.toml [profile.night]: concurrency",
            id="profile",
        ),
        pytest.param(
            FILE,
            {"BATCHCANCEL_PROFILE": "night", "BATCHCANCEL_CONCURRENCY": "3"},
            {},
            3,
            "BATCHCANCEL_CONCURRENCY",
            id="environment",
        ),
        pytest.param(
            FILE,
            {"BATCHCANCEL_PROFILE": "night", "BATCHCANCEL_CONCURRENCY": "3"},
            {"concurrency": "4"},
            4,
            "--concurrency",
            id="flag",
        ),
    ],
)
def test_the_first_source_that_has_an_option_wins_and_is_named(
    config: str, environ: dict[str, str], flags: dict[str, str], value: int, source: str | None
) -> None:
    """Flag over environment over profile over the file's top level over the default."""
    write_config(config)
    settings = load(environ, **flags)
    assert settings.options.concurrency == value
    assert settings.sources.get("concurrency") == source


def test_a_profile_leaves_what_it_does_not_name_to_the_top_level() -> None:
    """A profile overrides the top level key by key."""
    write_config("concurrency = 1\nref = 'T-1'\n[profile.night]\nconcurrency = 2\n")
    settings = load({"BATCHCANCEL_PROFILE": "night"})
    assert (settings.options.concurrency, settings.options.ref) == (2, "T-1")


def test_flags_choose_file_and_profile_before_the_environment() -> None:
    """--config and --profile win over their variables, and the sources name what was taken."""
    write_config(FILE)
    write_config("[profile.day]\nconcurrency = 5\n", "other.toml")
    environ = {"BATCHCANCEL_CONFIG": "gone.toml", "BATCHCANCEL_PROFILE": "night"}
    settings = load(environ, config="other.toml", profile="day")
    assert settings.sources["concurrency"] == "other.toml [profile.day]: concurrency"
    assert load({"BATCHCANCEL_PROFILE": "day"}, profile="night").options.concurrency == 2
    assert load(config=Path("other.toml"), profile="day").options.concurrency == 5
    assert load(environ | {"BATCHCANCEL_CONFIG": ""}, config="", profile="").options.concurrency == 2


def test_a_file_that_a_flag_names_in_vain_is_refused() -> None:
    """The sentence names the flag, where that named it."""
    assert refusal(config="gone.toml") == "--config names gone.toml, which is no file."
    write_config(FILE)
    sentence = "batchcancel.toml has no table [profile.nigh]. Did you mean night?"
    assert refusal(profile="nigh") == sentence


@pytest.mark.parametrize("nothing", [None, ()], ids=["None", "empty"])
def test_a_flag_that_was_not_given_leaves_its_option_alone(nothing: object) -> None:
    """None and no values at all count as not given."""
    write_config("keep = ['name']\n")
    assert load(keep=nothing).options.keep == ("name",)


def test_an_empty_variable_counts_as_not_given() -> None:
    """CI systems set variables that have no value to nothing."""
    assert load({"BATCHCANCEL_CONCURRENCY": "", "BATCHCANCEL_YES": ""}).options.concurrency == 16


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mapping, the process's own environment is read."""
    monkeypatch.setattr("os.environ", {"BATCHCANCEL_ENV": "sandbox"})
    assert load_settings(["invoices.csv"]).sources == {"env": "BATCHCANCEL_ENV"}


# --- conversion and bounds ------------------------------------------------------------------------

TAKEN: list[tuple[str, str, object]] = [
    ("env", "sandbox", Environment.SANDBOX),
    ("base_url", "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ("ledger", "l.jsonl", "l.jsonl"),
    ("column", "nr", "nr"),
    ("format", "tsv", ManifestFormat.TSV),
    ("encoding", "cp1252", "cp1252"),
    ("concurrency", "500", 500),
    ("rate", "0.5", 0.5),
    ("timeout", "2.5", 2.5),
    ("max_attempts", "100", 100),
    ("max_outage", "0", 0.0),
    ("ref", "T" * 200, "T" * 200),
    ("json", "true", True),
    ("progress", "bar", Progress.BAR),
    ("log_format", "json", LogFormat.JSON),
    ("log_level", "debug", LogLevel.DEBUG),
    ("log_file", "run.log", "run.log"),
    ("metrics_file", "nightly.prom", "nightly.prom"),
    ("metrics_port", "0", 0),
]
CREDENTIALS = {
    "BATCHCANCEL_MERCHANT_ID": "merchant",
    "BATCHCANCEL_KEY_ID": "key",
    "BATCHCANCEL_SHARED_SECRET": "c2VjcmV0",
}


@pytest.mark.parametrize(("name", "text", "value"), TAKEN, ids=[name for name, _, _ in TAKEN])
@pytest.mark.parametrize("source", ["flag", "variable", "key"])
def test_every_option_is_converted_from_every_source(
    source: str, name: str, text: str, value: object
) -> None:
    """Flags, variables and keys may all be text; the option has its own type."""
    environ = dict(CREDENTIALS)
    flags: dict[str, object] = {"env": None}
    match source:
        case "flag":
            flags[name] = text
        case "variable":
            environ["BATCHCANCEL_" + name.upper()] = text
        case _:
            write_config(f'{name} = "{text}"')
    if name != "env":
        flags["env"] = "sandbox"
    converted = getattr(load(environ, **flags).options, name)
    assert converted == value
    assert type(converted) is type(value)


CHOICES = {
    "env": "sandbox, test or production",
    "format": "csv, tsv, jsonl or txt",
    "progress": "auto, bar, plain, json or none",
    "log_format": "console or json",
    "log_level": "debug, info, warning or error",
}
REFUSED: list[tuple[str, str, str]] = [
    *((name, "other", words) for name, words in CHOICES.items()),
    *(("concurrency", bad, "a whole number from 1 to 500") for bad in ("0", "501", "-1", "1.5", "many")),
    *(("max_attempts", bad, "a whole number from 1 to 100") for bad in ("0", "101", "x")),
    *(
        ("rate", bad, "a number above 0, at most 100,000")
        for bad in ("0", "-1", "nan", "inf", "fast", "null", "1e999")
    ),
    *(("timeout", bad, "a number above 0, at most 3,600") for bad in ("0", "nan", "inf", "3601", "30s")),
    *(("max_outage", bad, "a number from 0 to 604,800") for bad in ("-1", "nan", "inf", "10m")),
    ("json", "maybe", "true or false"),
    ("ref", "T" * 201, "a text of 1 to 200 characters"),
]


@pytest.mark.parametrize(
    ("name", "text", "words"), REFUSED, ids=[f"{name}={text[:9]}" for name, text, _ in REFUSED]
)
@pytest.mark.parametrize("source", ["flag", "variable", "key"])
def test_a_bad_value_is_refused_with_its_source_and_what_is_allowed(
    source: str, name: str, text: str, words: str
) -> None:
    """The sentence is for people: no word of the library that checks."""
    environ: dict[str, str] = {}
    flags: dict[str, Any] = {"env": None if name == "env" else "sandbox"}
    match source:
        case "flag":
            flags[name] = text
            named = "--" + name.replace("_", "-")
        case "variable":
            named = "BATCHCANCEL_" + name.upper()
            environ[named] = text
        case _:
            write_config(f'{name} = "{text}"')
            named = f"batchcancel.toml: {name}"
    assert refusal(environ, **flags) == f"{named} takes {words}."


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        pytest.param(
            {"concurrency": True}, "--concurrency takes a whole number from 1 to 500.", id="bool for int"
        ),
        pytest.param({"rate": 10**400}, "--rate takes a number above 0, at most 100,000.", id="huge int"),
        pytest.param({"ledger": ""}, "--ledger takes a text that is not empty.", id="empty text"),
        pytest.param({"ledger": 5}, "--ledger takes a text that is not empty.", id="no text"),
        pytest.param({"keep": "name"}, "--keep takes a list of texts.", id="text for list"),
    ],
)
def test_a_caller_in_python_is_told_too(flags: dict[str, Any], sentence: str) -> None:
    """The library takes what the command takes, whatever type comes."""
    assert refusal(**flags) == sentence


def test_every_option_is_converted_or_refused_in_a_sentence() -> None:
    """A value that no option takes is refused for each of them: none is left out of the checks."""
    for name in HINTS:
        flags: dict[str, Any] = {"env": "sandbox", name: {"an": "object"}}
        with pytest.raises(SettingsError, match=" takes "):
            load_settings(["invoices.csv"], environ={}, **flags)


def test_kept_columns_are_split_at_commas_in_the_environment() -> None:
    """A variable has one text, a file a list and the command line a flag for each column."""
    assert load({"BATCHCANCEL_KEEP": " name, ,city "}).options.keep == ("name", "city")


def test_the_formats_of_settings_and_manifest_are_the_same() -> None:
    """Settings may not import manifest, so each has its own list: they must not drift apart."""
    assert {one.name: one.value for one in ManifestFormat} == {one.name: one.value for one in Format}


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        pytest.param(
            "concurency = 1",
            "Unknown key of batchcancel.toml, line 1: 'concurency'. Did you mean concurrency?",
            id="near",
        ),
        pytest.param("zebra = 1", "Unknown key of batchcancel.toml, line 1: 'zebra'.", id="far"),
        pytest.param(
            "max-attempts = 1",
            "Unknown key of batchcancel.toml, line 1: 'max-attempts'. Did you mean max_attempts?",
            id="as the flag",
        ),
        pytest.param(
            "[profile.night]\nrat = 1",
            "Unknown key of batchcancel.toml [profile.night], line 2: 'rat'. Did you mean rate?",
            id="in the profile",
        ),
        pytest.param("[production]\nrate = 1", "Unknown key of batchcancel.toml: 'production'.", id="table"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name(config: str, sentence: str) -> None:
    """A misspelt limit must not be a limit that is not there."""
    write_config(config + "\n[profile.night.x]" * ("night" not in config))
    assert refusal({"BATCHCANCEL_PROFILE": "night"}) == sentence


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        pytest.param(
            "[profile.day]\nrat = 1",
            "Unknown key of batchcancel.toml [profile.day], line 2: 'rat'. Did you mean rate?",
            id="misspelt",
        ),
        pytest.param(
            "[profile.day]\n\n  yes = true",
            "batchcancel.toml [profile.day], line 3: 'yes' is not accepted, say --yes on the command line.",
            id="yes",
        ),
    ],
)
def test_the_keys_of_a_profile_that_is_not_chosen_are_checked_too(config: str, sentence: str) -> None:
    """Production's file is tried out with another profile, and must not fail on the night that counts."""
    write_config(f"{config}\n[profile.night]\n")
    assert refusal({"BATCHCANCEL_PROFILE": "night"}) == sentence
    assert refusal() == sentence


@pytest.mark.parametrize(
    ("config", "where"),
    [
        pytest.param("# rat = 1\nrate = 1\n  'rat'=1", "batchcancel.toml, line 3", id="quoted, indented"),
        pytest.param(
            "rate = 1\n[profile.'a b']\nrate = 1\n[ profile . b ]\nrat = 2",
            "batchcancel.toml [profile.b], line 5",
            id="another table",
        ),
        pytest.param("profile = {b = {rat = 1}}", "batchcancel.toml [profile.b]", id="inline table"),
        pytest.param(
            'ref = """\nrat = 1\n"""\n[profile.b]\nrat = 2', "batchcancel.toml [profile.b]", id="long text"
        ),
    ],
)
def test_a_key_is_found_on_its_line_or_on_none(config: str, where: str) -> None:
    """No line is better than a wrong one."""
    write_config(config)
    assert refusal() == f"Unknown key of {where}: 'rat'. Did you mean rate?"


def test_an_unknown_flag_is_refused_with_the_nearest_name() -> None:
    """The same for a caller in Python."""
    assert refusal(max_attempt=3) == "Unknown option 'max_attempt'. Did you mean max_attempts?"


@pytest.mark.parametrize(
    ("variable", "end"),
    [
        ("BATCHCANCEL_ZEBRA_STRIPES", "."),
        ("BATCHCANCEL_ZEBRA", "."),
        ("BATCHCANCEL_LEDGER_DIR", ". Did you mean BATCHCANCEL_LEDGER?"),
        ("BATCHCANCEL_EVN", ". Did you mean BATCHCANCEL_ENV?"),
    ],
    ids=["far", "far, one word", "near", "near and short"],
)
def test_an_unknown_variable_is_a_warning(variable: str, end: str) -> None:
    """Other programs may have variables with our prefix; only a warning, then.

    The hint can be copied; the prefix that all variables share makes none of them near.
    """
    warning = f"{variable} is no option of batchcancel and is ignored{end}"
    assert load({variable: "5", "OTHER": "5"}).warnings == (warning,)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("BATCHCANCEL_MAX_ERORS", "BATCHCANCEL_MAX_ERRORS"),
        ("BATCHCANCEL_CONCURENCY", "BATCHCANCEL_CONCURRENCY"),
        ("BATCHCANCEL_RAT", "BATCHCANCEL_RATE"),
        ("BATCHCANCEL_LOGFILE", "BATCHCANCEL_LOG_FILE"),
    ],
)
def test_a_variable_that_can_only_be_a_slip_is_refused(variable: str, meant: str) -> None:
    """As a key of the file is: a limit that is not in force is worse than a night without a run."""
    sentence = f"{variable} is no option of batchcancel. Did you mean {meant}? Mend or unset it."
    assert refusal({variable: "5"}) == sentence


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BATCHCANCEL_SERVICE_HOST", "10.0.0.7"),
        ("BATCHCANCEL_SERVICE_PORT", "8080"),
        ("BATCHCANCEL_SERVICE_PORT_METRICS", "8080"),
        ("BATCHCANCEL_PORT", "tcp://10.0.0.7:8080"),
        ("BATCHCANCEL_PORT_8080_TCP", "tcp://10.0.0.7:8080"),
        ("BATCHCANCEL_PORT_8080_TCP_PROTO", "tcp"),
        ("BATCHCANCEL_PORT_8080_TCP_PORT", "8080"),
        ("BATCHCANCEL_PORT_8080_TCP_ADDR", "10.0.0.7"),
        ("BATCHCANCEL_PORT_53_UDP", "udp://10.0.0.7:53"),
        ("BATCHCANCEL_METRICS_PORT", "tcp://10.0.0.7:9108"),
        ("BATCHCANCEL_METRICS_SERVICE_HOST", "10.0.0.7"),
        ("BATCHCANCEL_METRICS_SERVICE_PORT", "9108"),
        ("BATCHCANCEL_METRICS_PORT_9108_TCP_ADDR", "10.0.0.7"),
    ],
)
def test_what_kubernetes_sets_for_a_service_of_our_name_is_nothing_to_us(variable: str, value: str) -> None:
    """Neither a warning every night nor an option: a service may be called batchcancel-metrics."""
    settings = load({variable: value})
    assert settings.warnings == ()
    assert settings.sources == {"env": "--env"}


@pytest.mark.parametrize("variable", ["BATCHCANCEL_SERVICE_ACCOUNT", "BATCHCANCEL_PORT_OPENING"])
def test_what_only_looks_like_kubernetes_is_a_warning(variable: str) -> None:
    """The shapes are exact."""
    assert len(load({variable: "1"}).warnings) == 1


def test_a_mistyped_variable_is_named_where_an_option_is_missing() -> None:
    """The warning alone would come too late: what it was to set is what is missing."""
    sentence = refusal({"BATCHCANCEL_EVN": "test", "BATCHCANCEL_ZEBRA": "5"}, env=None)
    assert sentence.startswith("Say what is called: ")
    assert sentence.endswith(
        ". BATCHCANCEL_EVN is no option of batchcancel and is ignored. Did you mean BATCHCANCEL_ENV?"
    )


@pytest.mark.parametrize(
    ("environ", "flags", "sentence"),
    [
        pytest.param(
            {"BATCHCANCEL_ENV": "prodcution"},
            {"env": None},
            "BATCHCANCEL_ENV takes sandbox, test or production. Did you mean production?",
            id="variable",
        ),
        pytest.param(
            {}, {"progress": "line"}, "--progress takes auto, bar, plain, json or none. Did you mean plain?",
            id="option without a default of None",
        ),
        pytest.param({"BATCHCANCEL_MLE": "x"}, {}, "BATCHCANCEL_MLE takes off, request or both.", id="far"),
    ],
)  # fmt: skip
def test_a_mistyped_word_is_refused_with_the_nearest(
    environ: dict[str, str], flags: dict[str, Any], sentence: str
) -> None:
    """Where an option takes one of a few words; the value itself is never shown."""
    assert refusal(environ, **flags) == sentence


@pytest.mark.parametrize("place", ["variable", "top level", "profile"])
def test_yes_is_refused_outside_the_command_line(place: str) -> None:
    """Consent is given for one run at a time."""
    environ = {"BATCHCANCEL_PROFILE": "night"}
    match place:
        case "variable":
            environ = {"BATCHCANCEL_YES": "false"}
        case "top level":
            write_config("yes = false\n[profile.night]\n")
        case _:
            write_config("[profile.night]\nyes = true\n")
    sentence = refusal(environ)
    assert "yes" in sentence.lower()
    assert sentence.endswith("say --yes on the command line.")


def test_yes_is_taken_as_a_flag() -> None:
    """On the command line, yes is yes."""
    assert load(yes=True).options.yes is True
    assert load().options.yes is False


# --- the configuration file -----------------------------------------------------------------------


def test_the_working_directory_comes_before_the_user_s_folder() -> None:
    """Only the first file that is there is read."""
    write_config("concurrency = 2", "home/.config/batchcancel/batchcancel.toml")
    assert load().options.concurrency == 2
    write_config("rate = 3")
    settings = load()
    assert (settings.options.concurrency, settings.options.rate) == (16, 3.0)


def test_the_user_s_folder_is_where_xdg_says() -> None:
    """XDG_CONFIG_HOME stands for the .config folder of the home."""
    write_config("concurrency = 2", "home/.config/batchcancel/batchcancel.toml")
    write_config("concurrency = 3", "xdg/batchcancel/batchcancel.toml")
    assert load({"XDG_CONFIG_HOME": "xdg"}).options.concurrency == 3


def test_an_environment_without_a_home_has_no_user_s_folder() -> None:
    """A service may run as a user that has no home."""
    assert load_settings(["invoices.csv"], environ={}, env="sandbox").sources == {"env": "--env"}


def test_config_names_the_file_that_is_read() -> None:
    """CONFIG comes before the usual places."""
    write_config("concurrency = 2")
    write_config("concurrency = 3", "other.toml")
    assert load({"BATCHCANCEL_CONFIG": "other.toml"}).sources["concurrency"] == "other.toml: concurrency"


@pytest.mark.parametrize(
    ("environ", "config", "sentence"),
    [
        pytest.param(
            {"BATCHCANCEL_CONFIG": "gone.toml"},
            None,
            "BATCHCANCEL_CONFIG names gone.toml, which is no file.",
            id="missing",
        ),
        pytest.param(
            {"BATCHCANCEL_CONFIG": "c" * 300},
            None,
            f"{'c' * 300} can't be read: File name too long.",
            id="unusable name",
        ),
        pytest.param(
            {"BATCHCANCEL_PROFILE": "night"},
            None,
            "There is no batchcancel.toml to take the profile 'night' from.",
            id="profile without a file",
        ),
        pytest.param(
            {"BATCHCANCEL_PROFILE": "nigt"},
            "[profile.night]\n",
            "batchcancel.toml has no table [profile.nigt]. Did you mean night?",
            id="profile that is not there",
        ),
        pytest.param(
            {},
            "profile = 'night'\n",
            "batchcancel.toml: profile is for tables [profile.NAME]; "
            "one is chosen with --profile NAME or BATCHCANCEL_PROFILE=NAME.",
            id="profile chosen in the file",
        ),
        pytest.param(
            {},
            "[profile]\nrate = 5\n",
            "batchcancel.toml: profile is for tables [profile.NAME]; "
            "one is chosen with --profile NAME or BATCHCANCEL_PROFILE=NAME.",
            id="key beside the profiles",
        ),
        pytest.param(
            {},
            "rate = \n",
            "batchcancel.toml can't be read: Invalid value (at line 1, column 8).",
            id="broken TOML",
        ),
    ],
)
def test_a_file_that_can_not_be_used_is_refused(
    environ: dict[str, str], config: str | None, sentence: str
) -> None:
    """Settings that somebody wrote down are never left out quietly."""
    if config is not None:
        write_config(config)
    assert refusal(environ) == sentence


def test_a_file_that_is_not_utf_8_is_refused() -> None:
    """TOML is UTF-8."""
    Path("batchcancel.toml").write_bytes(b"ref = '\xff'\n")
    assert refusal() == "batchcancel.toml can't be read: it is not UTF-8."


def test_a_file_that_may_not_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the system's, in words."""
    write_config("rate = 1")

    def forbid(self: Path, *, encoding: str) -> str:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", forbid)
    assert refusal() == "batchcancel.toml can't be read: Permission denied."


# --- what follows ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("manifest", "ledger"),
    [
        ("invoices.csv", "invoices.sandbox.ledger.jsonl"),
        ("data/invoices.csv", "invoices.sandbox.ledger.jsonl"),
        ("invoices.jsonl.gz", "invoices.sandbox.ledger.jsonl"),
        ("INVOICES.CSV.GZ", "INVOICES.sandbox.ledger.jsonl"),
        ("may.2026.csv", "may.2026.sandbox.ledger.jsonl"),
        ("invoices", "invoices.sandbox.ledger.jsonl"),
    ],
)
def test_the_ledger_is_named_after_the_manifest(manifest: str, ledger: str) -> None:
    """The stem and the environment, in the working directory."""
    assert load_settings([Path(manifest)], environ={}, env="sandbox").ledger == Path(ledger)


@pytest.mark.parametrize("manifests", [["-"], ["a.csv", "b.csv"], ["a.csv", "-"], []], ids=str)
def test_several_manifests_and_standard_input_need_a_ledger_by_name(manifests: list[str]) -> None:
    """Nothing says which name it would be."""
    with pytest.raises(SettingsError, match="Say where the results go with --ledger"):
        load_settings(manifests, environ={}, env="sandbox")
    settings = load_settings(manifests, environ={}, env="sandbox", ledger="some/l.jsonl")
    assert (settings.ledger, settings.manifests) == (Path("some/l.jsonl"), tuple(manifests))


@pytest.fixture
def pipe() -> str:
    """Make a named pipe, and a link to it, as a shell's <(...) may be."""
    os.mkfifo("pipe.csv")
    Path("link.csv").symlink_to("pipe.csv")
    return "pipe.csv"


@pytest.mark.parametrize("manifest", ["pipe.csv", "link.csv"])
def test_a_pipe_needs_a_ledger_by_name(manifest: str, pipe: str) -> None:
    """Its name says nothing of what comes through it, so a second run would not find the ledger."""
    with pytest.raises(SettingsError, match="with --ledger: it is needed for standard input, for a pipe"):
        load_settings([manifest], environ={}, env="sandbox")
    assert load_settings([manifest], environ={}, env="sandbox", ledger="l.jsonl").ledger == Path("l.jsonl")


def test_a_shell_s_pipe_needs_a_ledger_by_name() -> None:
    """What <(...) hands over is a descriptor whose number differs from run to run."""
    reader, writer = os.pipe()
    try:
        with pytest.raises(SettingsError, match="Say where the results go with --ledger"):
            load_settings([f"/dev/fd/{reader}"], environ={}, env="sandbox")
    finally:
        os.close(reader)
        os.close(writer)


def test_a_manifest_that_can_not_be_looked_at_is_left_to_its_reader() -> None:
    """Whether it is a pipe can't be told; the reader says what is wrong with it."""
    name = "m" * 300
    ledger = load_settings([f"{name}.csv"], environ={}, env="sandbox").ledger
    assert ledger == Path(f"{name}.sandbox.ledger.jsonl")


@pytest.fixture
def same_file(elsewhere: Path) -> None:
    """Lay out a manifest and a ledger that exist, and links to them."""
    Path("invoices.csv").touch()
    Path("l.jsonl").touch()
    Path("folder").mkdir()
    Path("to-manifest").symlink_to("invoices.csv")
    Path("to-ledger").symlink_to(elsewhere / "l.jsonl")
    Path("to-default-ledger").symlink_to("invoices.sandbox.ledger.jsonl")
    Path("to-folder").symlink_to(".", target_is_directory=True)


LOG_ON_IT: list[tuple[list[str], str | None, str]] = [
    (["invoices.csv"], None, "invoices.csv"),
    (["invoices.csv"], None, "./folder/../invoices.csv"),
    (["invoices.csv"], None, "{here}/invoices.csv"),
    (["invoices.csv"], None, "to-manifest"),
    (["invoices.csv"], None, "to-folder/invoices.csv"),
    (["to-manifest"], None, "invoices.csv"),
    (["{here}/invoices.csv"], None, "invoices.csv"),
    (["other.csv", "invoices.csv"], "l.jsonl", "to-manifest"),
    (["invoices.csv"], "l.jsonl", "l.jsonl"),
    (["invoices.csv"], "l.jsonl", "./l.jsonl"),
    (["invoices.csv"], "l.jsonl", "to-ledger"),
    (["invoices.csv"], "to-ledger", "{here}/l.jsonl"),
    (["-"], "l.jsonl", "l.jsonl"),
    (["invoices.csv"], None, "invoices.sandbox.ledger.jsonl"),
    (["invoices.csv"], None, "to-default-ledger"),
]


@pytest.mark.parametrize(
    ("manifests", "ledger", "log_file"),
    LOG_ON_IT,
    ids=[f"{' '.join(manifests)} {ledger}: {log_file}" for manifests, ledger, log_file in LOG_ON_IT],
)
@pytest.mark.parametrize("source", ["flag", "variable", "key"])
def test_a_log_that_would_go_into_the_manifest_or_the_ledger_is_refused(
    source: str, manifests: list[str], ledger: str | None, log_file: str, same_file: None, elsewhere: Path
) -> None:
    """Log lines would damage the record of the money; the file counts, whatever path leads to it."""
    manifests = [manifest.format(here=elsewhere) for manifest in manifests]
    log_file = log_file.format(here=elsewhere)
    environ: dict[str, str] = {}
    flags: dict[str, Any] = {"env": "sandbox", "ledger": ledger}
    match source:
        case "flag":
            flags["log_file"] = log_file
        case "variable":
            environ["BATCHCANCEL_LOG_FILE"] = log_file
        case _:
            write_config(f'log_file = "{log_file}"')
    with pytest.raises(SettingsError) as caught:
        load_settings(manifests, environ=environ, **flags)
    assert str(caught.value) == f"The log can't go to {log_file}: that is the ledger or a file that is read."


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_log_that_would_go_into_a_file_that_is_read_is_refused(name: str, elsewhere: Path) -> None:
    """A key with log lines at its end opens nothing any more."""
    (elsewhere / "key").touch()
    flags: dict[str, Any] = {name: "key"}
    with pytest.raises(SettingsError, match=r"^The log can't go to \./key: that is the ledger or a file"):
        load_settings(["invoices.csv"], environ={}, env="sandbox", log_file="./key", **flags)


@pytest.mark.parametrize(
    ("ledger", "log_file"),
    [
        (None, "run.log"),
        (None, "folder/invoices.csv"),
        (None, "l.jsonl"),
        ("l.jsonl", "invoices.sandbox.ledger.jsonl"),
    ],
    ids=["a file of its own", "same name elsewhere", "not this run's ledger", "not the ledger's default"],
)
def test_a_log_of_its_own_is_taken(ledger: str | None, log_file: str, same_file: None) -> None:
    """Only the files of this run are kept apart."""
    assert load(ledger=ledger, log_file=log_file).options.log_file == log_file


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ("ledger", "the ledger or a file that is read"),
        ("exclude", "the ledger or a file that is read"),
        ("log_file", "the log or the page"),
        ("report", "the log or the page"),
    ],
)
def test_metrics_that_would_replace_another_file_are_refused(other: str, why: str, elsewhere: Path) -> None:
    """The file is replaced as a whole, so nothing would be left of the other."""
    (elsewhere / "file").touch()
    with pytest.raises(SettingsError, match=rf"^The metrics can't go to \./file: that is {why}\.$"):
        load({}, metrics_file="./file", **{other: "file"})


def test_metrics_that_would_replace_the_manifest_are_refused(elsewhere: Path) -> None:
    """A mistyped command must not cost the export."""
    with pytest.raises(SettingsError, match="that is the ledger or a file that is read"):
        load_settings(["invoices.csv"], environ={}, env="sandbox", metrics_file=f"{elsewhere}/invoices.csv")


def test_a_host_for_metrics_without_a_port_is_refused() -> None:
    """Whoever names it believes that something is served there."""
    with pytest.raises(SettingsError, match=r"^--metrics-host goes with --metrics-port\.$"):
        load(metrics_host="0.0.0.0")  # noqa: S104 - refused
    assert load(metrics_host="::1", metrics_port=9464).options.metrics_host == "::1"


@pytest.mark.parametrize(
    ("flags", "rate"),
    [
        pytest.param({"env": "sandbox"}, None, id="simulator"),
        pytest.param({"env": "sandbox", "base_url": "http://[::1]:80"}, None, id="loopback"),
        pytest.param({"env": "test"}, 20.0, id="test"),
        pytest.param({"env": "production"}, 20.0, id="production"),
        pytest.param({"env": "production", "rate": "35"}, 35.0, id="said"),
        pytest.param({"env": "sandbox", "rate": 5}, 5.0, id="said, simulator"),
    ],
)
def test_the_rate_is_limited_everywhere_but_on_loopback(flags: dict[str, object], rate: float | None) -> None:
    """20 a second unless told; the machine's own loopback has no limit."""
    assert load(CREDENTIALS, **flags).rate == rate


def test_the_record_shows_what_was_given_and_nothing_secret() -> None:
    """Options at their defaults are left out; secrets and proxies always are."""
    environ = {**CREDENTIALS, "BATCHCANCEL_PROXY": "http://u:p@proxy"}
    record = load(environ, env="test", keep=["a"], log_level="debug").for_the_record()
    assert record == {
        "merchant_id": "merchant",
        "key_id": "key",
        "env": "test",
        "keep": ("a",),
        "log_level": "debug",
    }


def test_every_default_is_the_documented_one() -> None:
    """Defaults are a contract."""
    options = Options()
    defaults = {name: getattr(options, name) for name in Options.__struct_fields__}
    assert {name: value for name, value in defaults.items() if value is not None} == {
        "encoding": "utf-8",
        "keep": (),
        "concurrency": 16,
        "timeout": 30.0,
        "max_attempts": 5,
        "max_outage": 600.0,
        "max_error_rate": 50.0,
        "canary": 0,
        "match": (),
        "retry_errors": "open",
        "dry_run": False,
        "plan_max_age": "24h",
        "yes": False,
        "json": False,
        "progress": "auto",
        "log_format": "console",
        "log_level": "warning",
        "metrics_host": "127.0.0.1",
        "auth": "jwt",
        "mle": "off",
        "temporal_address": "localhost:7233",
        "temporal_namespace": "default",
        "temporal_tls": False,
    }


@pytest.mark.parametrize("text", ["12.5%", "12.5", " 12.5 % "], ids=repr)
def test_percentages_are_read_with_and_without_their_sign(text: str) -> None:
    """People write both."""
    settings = load(max_mismatch=text, max_error_rate=text)
    assert (settings.options.max_mismatch, settings.options.max_error_rate) == (12.5, 12.5)
    assert load({"BATCHCANCEL_MAX_MISMATCH": text}).options.max_mismatch == 12.5


@pytest.mark.parametrize("text", ["101%", "-1", "%", "half", "0.1.2"], ids=repr)
def test_what_is_no_percentage_is_refused(text: str) -> None:
    """With its bounds."""
    assert refusal(max_error_rate=text) == "--max-error-rate takes a number from 0 to 100."


def test_conditions_come_from_every_source() -> None:
    """Commas stand between several in the environment; paths in a file are relative to it."""
    write_config('match = ["amount=total"]\nexclude = "never.txt"\nexpect_count = "5"\n', "conf/b.toml")
    from_file = load({"BATCHCANCEL_CONFIG": "conf/b.toml"})
    assert (from_file.match, from_file.options.exclude) == ({"total": "amount"}, "conf/never.txt")
    assert from_file.expect_count == (5, 5)
    environ = {"BATCHCANCEL_MATCH": "amount=total, cur=currency", "BATCHCANCEL_EXPECT_COUNT": "1-9"}
    assert load(environ).match == {"total": "amount", "currency": "cur"}
    assert load(environ).expect_count == (1, 9)
    assert load().match == {}


def test_a_path_that_no_system_takes_is_a_mistake_of_the_user() -> None:
    """A NUL can only come from a file or a caller in Python; it is no defect."""
    with pytest.raises(SettingsError, match="NUL"):
        load(env="sandbox", log_file="run\0.log")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("24h", 86_400), ("90m", 5400), ("7d", 604_800), ("30", 30), ("30s", 30), ("0", 0), (" 1.5 H ", 5400)],
)
def test_ages_are_read_in_seconds_and_in_larger_units(text: str, seconds: float) -> None:
    """As people write them."""
    assert load(plan_max_age=text).plan_max_age_s == seconds


def test_an_age_may_be_a_number_in_a_file() -> None:
    """Of seconds, without quotes."""
    write_config("plan_max_age = 60", "conf/b.toml")
    assert load({"BATCHCANCEL_CONFIG": "conf/b.toml"}).plan_max_age_s == 60


@pytest.mark.parametrize("text", ["", "h", "-1h", "1w", "1h30m", "soon", "1e3"])
def test_what_is_no_age_is_refused(text: str) -> None:
    """In a sentence."""
    with pytest.raises(SettingsError, match="plan-max-age takes"):
        load(plan_max_age=text)
