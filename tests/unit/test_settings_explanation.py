"""Why an option has its value: sources, what they overrode, what is missing; nothing secret."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchcancel.errors import SettingsError
from batchcancel.settings import Options, load_settings
from batchcancel.settings.explanation import Explained, Explanation, Source, explain_settings
from batchcancel.settings.options import SECRETS

SECRET = base64.b64encode(b"correct horse battery staple").decode()
CREDENTIALS = {
    "BATCHCANCEL_MERCHANT_ID": "merchant",
    "BATCHCANCEL_KEY_ID": "key",
    "BATCHCANCEL_SHARED_SECRET": SECRET,
}
MISSING_ENV = "Say what is called: --env sandbox (the built-in simulator), --env test or --env production."
MISSING_CREDENTIALS = (
    "Credentials are missing: BATCHCANCEL_MERCHANT_ID, BATCHCANCEL_KEY_ID, "
    "BATCHCANCEL_SHARED_SECRET (or BATCHCANCEL_SHARED_SECRET_FILE)."
)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder, without the developer's environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", {})


def explain(environ: dict[str, str] | None = None, *manifests: str, **flags: Any) -> Explanation:
    """Explain the settings of an environment and some flags."""
    return explain_settings(manifests, environ=environ or {}, **flags)


def shown(name: str, environ: dict[str, str] | None = None, **flags: Any) -> tuple[object, str]:
    """Return the value and the source of one option."""
    option = explain(environ, **flags).options[name]
    return option.value, option.source


# --- sources --------------------------------------------------------------------------------------


def test_the_winner_stands_above_everything_that_it_overrode() -> None:
    """Flag over environment over profile over top level: all four are told, the strongest first."""
    Path("batchcancel.toml").write_text("rate = 1\n[profile.night]\nrate = 2\n", encoding="utf-8")
    explanation = explain({"BATCHCANCEL_RATE": "3"}, profile="night", rate="4")
    assert explanation.options["rate"] == Explained(
        value=4.0,
        source="--rate",
        overridden=(
            Source(value=3.0, source="BATCHCANCEL_RATE"),
            Source(value=2.0, source="batchcancel.toml [profile.night]: rate"),
            Source(value=1.0, source="batchcancel.toml: rate"),
        ),
    )


def test_a_secret_in_a_weaker_source_s_file_is_told_as_overridden() -> None:
    """The option that counts is the other one, and says so."""
    Path("batchcancel.toml").write_text("ping_url_file = 'url'\n", encoding="utf-8")
    options = explain({"BATCHCANCEL_PING_URL": "https://hc.example/t0ken"}).options
    assert options["ping_url"] == Explained(value="***", source="BATCHCANCEL_PING_URL")
    assert options["ping_url_file"] == Explained(
        value=None,
        source="BATCHCANCEL_PING_URL",
        overridden=(Source(value="url", source="batchcancel.toml: ping_url_file"),),
    )


def test_every_option_is_told_in_order() -> None:
    """None is left out, and those that nothing gave are at their default."""
    options = explain().options
    assert list(options) == list(Options.__struct_fields__)
    assert {option.source for option in options.values()} == {"default"}
    assert options["concurrency"] == Explained(value=16, source="default")


def test_file_profile_and_the_other_profiles_are_named(tmp_path: Path) -> None:
    """Cron's working directory is a frequent surprise, so the path is absolute."""
    assert explain().file is None
    Path("batchcancel.toml").write_text("[profile.a]\n[profile.b]\n", encoding="utf-8")
    explanation = explain(profile="b")
    assert explanation.file == str(tmp_path / "batchcancel.toml")
    assert (explanation.profile, explanation.profiles) == ("b", ("a", "b"))


@pytest.mark.parametrize(
    ("flags", "environ", "name", "expected"),
    [
        pytest.param({}, {}, "base_url", (None, "default"), id="nothing is called yet"),
        pytest.param(
            {"env": "production"},
            CREDENTIALS,
            "base_url",
            ("https://api.visaacceptance.com", "default"),
            id="host of the environment",
        ),
        pytest.param({}, {}, "rate", (20.0, "default"), id="rate where env is not said"),
        pytest.param({"env": "test"}, CREDENTIALS, "rate", (20.0, "default"), id="rate of test"),
        pytest.param({"env": "sandbox"}, {}, "rate", (None, "default"), id="no limit on loopback"),
        pytest.param(
            {"env": "test"},
            CREDENTIALS | {"HTTPS_PROXY": "http://proxy:3128"},
            "proxy",
            ("http://proxy:3128", "HTTPS_PROXY"),
            id="proxy of the environment",
        ),
        pytest.param(
            {"env": "sandbox"},
            {"HTTPS_PROXY": "http://proxy:3128"},
            "proxy",
            (None, "default"),
            id="no proxy to loopback",
        ),
        pytest.param(
            {"env": "test"},
            CREDENTIALS | {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".visaacceptance.com"},
            "proxy",
            (None, "default"),
            id="NO_PROXY",
        ),
    ],
)
def test_what_follows_from_other_options_is_told_as_it_will_be(
    flags: dict[str, Any], environ: dict[str, str], name: str, expected: tuple[object, str]
) -> None:
    """The effective value, not the empty one that was given."""
    assert shown(name, environ, **flags) == expected


@pytest.mark.parametrize("env", ["sandbox", "test"])
def test_the_ledger_is_the_run_s_where_the_manifest_is_known(env: str) -> None:
    """The command can be tried with everything that the run will have."""
    explanation = explain(CREDENTIALS, "export.csv.gz", env=env)
    settings = load_settings(["export.csv.gz"], environ=CREDENTIALS, env=env)
    assert explanation.options["ledger"].value == str(settings.ledger)
    assert explanation.options["rate"].value == settings.rate
    assert explanation.options["base_url"].value == settings.base_url
    assert explanation.missing == ()


# --- what is missing ------------------------------------------------------------------------------


def test_what_a_run_would_need_is_no_error() -> None:
    """The first try shows everything that has to be said."""
    assert explain().missing == (
        MISSING_ENV,
        MISSING_CREDENTIALS,
    )


def test_the_simulator_needs_nothing() -> None:
    """It has made-up credentials; at a server on loopback, they are needed."""
    assert explain(env="sandbox").missing == ()
    missing = explain(env="sandbox", base_url="http://127.0.0.1:1").missing
    assert [sentence.split(":")[0] for sentence in missing] == ["Credentials are missing"]


def test_a_ledger_that_has_to_be_said_is_missing() -> None:
    """For standard input, as for a run."""
    (sentence,) = explain({}, "-", env="sandbox").missing
    assert sentence.startswith("Say where the results go with --ledger")
    assert explain({}, "-", env="sandbox", ledger="l.jsonl").missing == ()


# --- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "flags", "sentence"),
    [
        pytest.param({}, {"rate": "fast"}, "--rate takes", id="value"),
        pytest.param({}, {"base_url": "http://example.com"}, "--base-url: plain http", id="url without env"),
        pytest.param({}, {"env": "test", "base_url": "https://example.com"}, "--env test and", id="host"),
        pytest.param({"BATCHCANCEL_KEY_ID": "a b"}, {}, "BATCHCANCEL_KEY_ID is malformed", id="key id alone"),
        pytest.param(
            {"BATCHCANCEL_SHARED_SECRET": "hunter2!"}, {}, "BATCHCANCEL_SHARED_SECRET: the", id="secret alone"
        ),
        pytest.param(
            {"BATCHCANCEL_SHARED_SECRET_FILE": "gone"}, {}, "The secret file gone", id="secret's file"
        ),
        pytest.param(
            {"BATCHCANCEL_AUTH": "p12", "BATCHCANCEL_P12_FILE": "gone"}, {}, "The secret file gone", id="P12"
        ),
        pytest.param(
            {"BATCHCANCEL_AUTH": "p12", "BATCHCANCEL_P12_PASSWORD_FILE": "gone"},
            {},
            "The secret file gone",
            id="its password",
        ),
        pytest.param({"BATCHCANCEL_MLE": "both"}, {}, "BATCHCANCEL_MLE: with a shared", id="encryption"),
        pytest.param({"BATCHCANCEL_CA_FILE": "gone"}, {}, "BATCHCANCEL_CA_FILE: gone is no file", id="roots"),
        pytest.param({"BATCHCANCEL_PROXY": "u:p@proxy"}, {}, "The proxy has to be", id="proxy without env"),
        pytest.param({}, {"expect_count": "many"}, "--expect-count takes", id="count"),
        pytest.param({}, {"plan_max_age": "soon"}, "--plan-max-age takes", id="age"),
        pytest.param({}, {"match": ["a=b"]}, "--match takes", id="match"),
        pytest.param({}, {"rate_per_merchant": 5}, "--rate-per-merchant goes with", id="merchants"),
        pytest.param({}, {"log_file": "l", "ledger": "l"}, "The log can't go to l", id="log"),
        pytest.param({}, {"log_file": "l", "metrics_file": "l"}, "The metrics can't go to l", id="metrics"),
        pytest.param({}, {"metrics_host": "::1"}, "--metrics-host goes with", id="metrics' host"),
        pytest.param(
            {"BATCHCANCEL_PING_URL": "hunter2"}, {}, "BATCHCANCEL_PING_URL takes", id="health check"
        ),
        pytest.param({}, {"config": "gone.toml"}, "--config names gone.toml", id="file"),
    ],
)
def test_a_wrong_value_is_refused_whatever_is_missing(
    environ: dict[str, str], flags: dict[str, Any], sentence: str
) -> None:
    """Nobody has to complete the credentials first to learn of it; a secret is not shown."""
    with pytest.raises(SettingsError) as caught:
        explain(environ, **flags)
    assert str(caught.value).startswith(sentence)
    assert "hunter2" not in str(caught.value)


def test_warnings_are_those_of_the_run() -> None:
    """A lax file, a way to sign that ends, a variable that is none."""
    Path("key").write_text(SECRET, encoding="ascii")
    Path("key").chmod(0o644)
    environ = {
        "BATCHCANCEL_AUTH": "http_signature",
        "BATCHCANCEL_MERCHANT_ID": "merchant",
        "BATCHCANCEL_KEY_ID": "key",
        "BATCHCANCEL_SHARED_SECRET_FILE": "key",
        "BATCHCANCEL_EVN": "5",
    }
    assert explain(environ, env="test").warnings == load_settings(["a"], environ=environ, env="test").warnings
    assert len(explain(environ, env="test").warnings) == 3


# --- nothing secret -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("http://proxy.example:3128/", "http://proxy.example:3128"),
        ("http://user:hunter2@proxy.example:3128", "http://***@proxy.example:3128"),
        ("https://hunter2@[::1]:3128", "https://***@[::1]:3128"),
        ("https://proxy.example/hunter2", "https://proxy.example/***"),
        ("https://proxy.example?token=hunter2", "https://proxy.example/***"),
    ],
)
def test_a_url_shows_where_it_leads_and_no_more(url: str, masked: str) -> None:
    """User, password and path may let others in."""
    assert shown("proxy", CREDENTIALS | {"BATCHCANCEL_PROXY": url}, env="test")[0] == masked
    assert shown("proxy", CREDENTIALS | {"HTTPS_PROXY": url}, env="test") == (masked, "HTTPS_PROXY")


def test_an_overridden_url_is_masked_even_if_it_is_none() -> None:
    """What does not count is not checked, and may be anything."""
    Path("batchcancel.toml").write_text(
        "proxy = 'http://[hunter2'\nbase_url = 'hunter2@host'\n", encoding="utf-8"
    )
    environ = CREDENTIALS | {"BATCHCANCEL_PROXY": "http://proxy"}
    options = explain(environ, env="sandbox", base_url="http://127.0.0.1:1").options
    assert [one.value for one in options["proxy"].overridden] == ["***"]
    assert [one.value for one in options["base_url"].overridden] == ["***"]


def test_no_secret_is_told_and_none_by_its_length() -> None:
    """Values that count and values that were overridden alike."""
    Path("batchcancel.toml").touch(mode=0o600)
    Path("batchcancel.toml").write_text(
        "shared_secret = 'aHVudGVyMg=='\np12_password = 'hunter2'\nmle_response_key_password = 'hunter22'\n",
        encoding="utf-8",
    )
    addresses = {
        "BATCHCANCEL_PING_URL": "https://a.example/hunter2",
        "BATCHCANCEL_NOTIFY_URL": "https://b/hunter2",
        "BATCHCANCEL_TEMPORAL_API_KEY": "hunter2",
    }
    explanation = explain(CREDENTIALS | addresses, env="test")
    for name in SECRETS:
        assert explanation.options[name].value == "***"
    assert explanation.options["shared_secret"].overridden == (
        Source(value="***", source="batchcancel.toml: shared_secret"),
    )
    text = repr(explanation) + json.dumps(msgspec.to_builtins(explanation))
    for spelling in ("hunter2", "aHVudGVyMg", SECRET, SECRET[:8]):
        assert spelling not in text
