"""What is called: the environment goes by the host, and nothing gets a request by mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchcancel.errors import SettingsError
from batchcancel.settings import Environment, Settings, load_settings
from batchcancel.settings.target import classify_host

CREDENTIALS = {
    "BATCHCANCEL_MERCHANT_ID": "merchant",
    "BATCHCANCEL_KEY_ID": "key",
    "BATCHCANCEL_SHARED_SECRET": "c2VjcmV0",
}
CYBERSOURCE_TEST = "https://apitest.cybersource.com"
INDIA = "https://api.in.cybersource.com"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder; the developer's own proxy must not count."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", {"HTTPS_PROXY": "http://developer:1"})


def load(env: str | None, base_url: str | None = None, **environ: str) -> Settings:
    """Load settings for one manifest, with credentials."""
    return load_settings(
        ["invoices.csv"], environ={**CREDENTIALS, **environ}, env=env, base_url=base_url, proxy=None
    )


def refusal(env: str | None, base_url: str | None = None, **environ: str) -> str:
    """Return the sentence with which the target is refused."""
    with pytest.raises(SettingsError) as caught:
        load(env, base_url, **environ)
    return str(caught.value)


@pytest.mark.parametrize(
    ("host", "environment"),
    [
        ("localhost", Environment.SANDBOX),
        ("LOCALHOST", Environment.SANDBOX),
        ("localhost.", Environment.SANDBOX),
        ("127.0.0.1", Environment.SANDBOX),
        ("127.0.0.2", Environment.SANDBOX),
        ("127.255.255.254", Environment.SANDBOX),
        ("::1", Environment.SANDBOX),
        ("apitest.visaacceptance.com", Environment.TEST),
        ("apitest.visaacceptance.com.", Environment.TEST),
        ("ApiTest.Cybersource.com", Environment.TEST),
        ("api.visaacceptance.com", Environment.PRODUCTION),
        ("api.in.cybersource.com", Environment.PRODUCTION),
        ("apitest.visaacceptance.com.evil.example", Environment.PRODUCTION),
        ("localhost.example", Environment.PRODUCTION),
        ("10.0.0.1", Environment.PRODUCTION),
        ("0.0.0.0", Environment.PRODUCTION),  # noqa: S104 - a name to be judged, nothing is bound
        ("", Environment.PRODUCTION),
    ],
)
def test_a_host_is_what_it_is_called(host: str, environment: Environment) -> None:
    """Loopback is sandbox, two hosts are test, and whatever is not known touches real money."""
    assert classify_host(host) is environment


@pytest.mark.parametrize(
    ("env", "base_url", "called", "host"),
    [
        ("sandbox", None, None, "simulator"),
        ("test", None, "https://apitest.visaacceptance.com", "apitest.visaacceptance.com"),
        ("production", None, "https://api.visaacceptance.com", "api.visaacceptance.com"),
        ("sandbox", "http://[::1]:8080", "http://[::1]:8080", "::1"),
        ("sandbox", "http://127.0.0.2", "http://127.0.0.2", "127.0.0.2"),
        ("sandbox", "HTTP://LOCALHOST:8080/", "http://LOCALHOST:8080", "localhost"),
        ("sandbox", "https://localhost:8443", "https://localhost:8443", "localhost"),
        ("test", CYBERSOURCE_TEST, CYBERSOURCE_TEST, "apitest.cybersource.com"),
        ("production", INDIA + "/", INDIA, "api.in.cybersource.com"),
    ],
    ids=str,
)
def test_what_is_called_goes_by_env_and_base_url(
    env: str, base_url: str | None, called: str | None, host: str
) -> None:
    """Each environment has its host; another one may be named if it is of that environment."""
    settings = load(env, base_url)
    assert (settings.environment.value, settings.base_url, settings.host) == (env, called, host)
    assert (settings.credentials is None) == (called is None)


def test_the_environment_must_be_said() -> None:
    """There is no default for what may cost money, not even where the host is named."""
    assert refusal(None).startswith("Say what is called: --env sandbox (the built-in simulator), --env test")
    assert refusal(None, "https://api.visaacceptance.com").startswith("Say what is called")


@pytest.mark.parametrize(
    ("env", "base_url", "is_really"),
    [
        ("test", "https://api.visaacceptance.com", "production"),
        ("test", "https://apitest.visaacceptance.com.evil.example", "production"),
        ("sandbox", "https://apitest.visaacceptance.com.", "test"),
        ("production", "https://APITEST.visaacceptance.com", "test"),
        ("production", "http://localhost:8080", "sandbox"),
        ("test", "https://127.0.0.1", "sandbox"),
    ],
)
def test_an_environment_that_disagrees_with_the_host_is_refused(
    env: str, base_url: str, is_really: str
) -> None:
    """The host decides, and the sentence says what it is."""
    sentence = refusal(env, base_url)
    assert sentence.startswith(f"--env {env} and {base_url} disagree: that host is {is_really}.")


@pytest.mark.parametrize(
    "base_url",
    ["http://api.visaacceptance.com", "http://10.0.0.1", "http://127.1", "http://localhost.example"],
)
def test_plain_http_is_for_loopback_only(base_url: str) -> None:
    """No token travels in the clear."""
    for env in ("sandbox", "test", "production"):
        assert "plain http is accepted for loopback only" in refusal(env, base_url)


@pytest.mark.parametrize(
    "base_url",
    [
        pytest.param("https://user@api.visaacceptance.com", id="user"),
        pytest.param("https://user:pass@api.visaacceptance.com", id="user and password"),
        pytest.param("https://@api.visaacceptance.com", id="empty user"),
        pytest.param("http://127.0.0.1\\@evil.example", id="backslash"),
        pytest.param("https://api.visaacceptance.com/invoicing", id="path"),
        pytest.param("https://api.visaacceptance.com?a=b", id="query"),
        pytest.param("https://api.visaacceptance.com?", id="empty query"),
        pytest.param("https://api.visaacceptance.com#a", id="fragment"),
        pytest.param("https://api.visaacceptance.com:", id="empty port"),
        pytest.param("https://api.visaacceptance.com:0", id="port 0"),
        pytest.param("https://api visaacceptance.com", id="space"),
        pytest.param("https://api.visaacceptance.com\x00", id="NUL"),
        pytest.param("https://\u212apitest.visaacceptance.com", id="a letter that is k in lower case"),
        pytest.param("http://[::1%25lo]", id="zone"),
        pytest.param("https://", id="no host"),
        pytest.param("api.visaacceptance.com", id="no scheme"),
        pytest.param("ftp://localhost", id="another scheme"),
    ],
)
def test_a_base_url_is_scheme_host_and_port_only(base_url: str) -> None:
    """Anything more could change what is called, or put a secret into a ledger."""
    sentence = refusal("production", base_url)
    assert sentence == "--base-url takes https://HOST or https://HOST:PORT and nothing more."


@pytest.mark.parametrize("base_url", ["https://host:99999", "https://host:port", "https://[::1"])
def test_a_base_url_that_is_none_is_refused(base_url: str) -> None:
    """What can't be parsed is told apart from what has too much."""
    assert refusal("production", base_url).startswith("--base-url is no URL")


# --- proxy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"BATCHCANCEL_PROXY": "http://p:3128"}, "http://p:3128", id="option"),
        pytest.param({"HTTPS_PROXY": "http://q"}, "http://q", id="HTTPS_PROXY"),
        pytest.param({"https_proxy": "https://q"}, "https://q", id="https_proxy"),
        pytest.param({"HTTPS_PROXY": ""}, None, id="empty"),
        pytest.param({"HTTP_PROXY": "http://q"}, None, id="HTTP_PROXY is for http"),
        pytest.param(
            {"BATCHCANCEL_PROXY": "http://p", "HTTPS_PROXY": "http://q", "NO_PROXY": "*"},
            "http://p",
            id="option over all",
        ),
        pytest.param({"HTTPS_PROXY": "http://q", "NO_PROXY": "*"}, None, id="NO_PROXY all"),
        pytest.param(
            {"HTTPS_PROXY": "http://q", "NO_PROXY": "x, .visaacceptance.com"}, None, id="NO_PROXY domain"
        ),
        pytest.param({"HTTPS_PROXY": "http://q", "no_proxy": "api.visaacceptance.com"}, None, id="no_proxy"),
        pytest.param({"HTTPS_PROXY": "http://q", "NO_PROXY": "example.com"}, "http://q", id="NO_PROXY other"),
    ],
)
def test_the_proxy_is_the_option_or_what_the_environment_says(
    environ: dict[str, str], proxy: str | None
) -> None:
    """The environment that was given is read, not the process's own."""
    assert load("production", **environ).proxy == proxy


@pytest.mark.parametrize("base_url", [None, "http://localhost:8080", "https://[::1]"], ids=str)
@pytest.mark.parametrize("variable", ["BATCHCANCEL_PROXY", "HTTPS_PROXY"])
def test_loopback_is_never_called_through_a_proxy(variable: str, base_url: str | None) -> None:
    """It would be the loopback of the proxy's machine."""
    assert load("sandbox", base_url, **{variable: "http://p"}).proxy is None


@pytest.mark.parametrize(
    "proxy", ["p:3128", "socks5://p", "http://", "http://[::1", "http://p:0", "http://u:hunter2@p:x"]
)
@pytest.mark.parametrize("variable", ["BATCHCANCEL_PROXY", "HTTPS_PROXY"])
def test_a_proxy_that_is_no_url_is_refused_and_not_shown(variable: str, proxy: str) -> None:
    """Its URL may hold a password."""
    sentence = refusal("production", **{variable: proxy})
    assert sentence == "The proxy has to be an http:// or https:// URL with a host."


# --- private roots --------------------------------------------------------------------------------


def test_the_file_of_private_roots_has_to_be_there() -> None:
    """The sentence names the variable."""
    assert refusal("test", BATCHCANCEL_CA_FILE="gone.pem") == "BATCHCANCEL_CA_FILE: gone.pem is no file."
    Path("roots.pem").touch()
    assert load("test", BATCHCANCEL_CA_FILE="roots.pem").options.ca_file == "roots.pem"


def test_a_path_in_the_configuration_file_is_relative_to_it() -> None:
    """The file can be used from any folder."""
    Path("etc").mkdir()
    Path("etc/roots.pem").touch()
    Path("etc/some.toml").write_text("ca_file = 'roots.pem'\n", encoding="utf-8")
    assert load("test", BATCHCANCEL_CONFIG="etc/some.toml").options.ca_file == "etc/roots.pem"
