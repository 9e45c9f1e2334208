"""Who is told of a run: addresses that may hold tokens."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest

from batchcancel.errors import SettingsError
from batchcancel.settings import Receiver, load_receivers, load_settings

TOKEN = "t0ken-of-the-check"
URL = f"https://hc.example/ping/{TOKEN}?create=1"
NAMES = ("ping_url", "notify_url")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def receiver(name: str, environ: dict[str, str] | None = None, **flags: Any) -> Receiver | None:
    """Load the one receiver that is asked for."""
    found = load_receivers(environ=environ or {}, **flags)
    return found.ping if name == "ping_url" else found.notify


def write(name: str, text: str, mode: int = 0o600) -> None:
    """Write a file of a certain mode."""
    Path(name).write_text(text, encoding="utf-8")
    Path(name).chmod(mode)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("source", ["flag", "variable", "key", "file"])
def test_an_address_comes_from_every_source(source: str, name: str) -> None:
    """As other options do, and from a file of its own."""
    environ, flags = {}, {}
    match source:
        case "flag":
            flags[name] = URL
        case "variable":
            environ[f"BATCHCANCEL_{name.upper()}"] = URL
        case "key":
            write("batchcancel.toml", f"{name} = '{URL}'\n")
        case _:
            write("url", f"{URL}\n")
            environ[f"BATCHCANCEL_{name.upper()}_FILE"] = "url"
    found = receiver(name, environ, **flags)
    assert found is not None
    assert (found.url.reveal().decode(), found.host, found.proxy) == (URL, "hc.example", None)


def test_nobody_is_told_unless_asked_for() -> None:
    """The default."""
    found = load_receivers(environ={})
    assert (found.ping, found.notify, found.warnings) == (None, None, ())


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://hc.example/{TOKEN}",
        f"hc.example/{TOKEN}",
        f"https:///{TOKEN}",
        f"https://hc.example:0/{TOKEN}",
        f"https://hc.example:port/{TOKEN}",
        f"https://[::1/{TOKEN}",
        f"https://hc.example/{TOKEN}#part",
        f"https://hc.example/{TOKEN} x",
        f"https://hc.example/{TOKEN}\x7f",
        f"https://hc.example\\@other.example/{TOKEN}",
        f"https://hc..example/{TOKEN}",
        f"https://{'a' * 64}.example/{TOKEN}",
        f"https://hc%2eexample/{TOKEN}",
        f"https://h\u00fc.example/{TOKEN}",
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_address_is_refused_and_not_shown(name: str, url: str) -> None:
    """Not in the message and not in a traceback that shows variables."""
    with pytest.raises(SettingsError) as caught:
        receiver(name, {f"BATCHCANCEL_{name.upper()}": url})
    said = str(caught.value)
    assert (
        said == f"BATCHCANCEL_{name.upper()} takes an http:// or https:// URL in ASCII, without spaces and #."
    )
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    package = [frame for frame in shown.stack if "/batchcancel/settings/" in frame.filename]
    (front,) = (frame.locals or {} for frame in package)
    assert TOKEN not in str({key: value for key, value in front.items() if key != "environ"})


@pytest.mark.parametrize("name", NAMES)
def test_an_address_that_is_given_twice_is_refused(name: str) -> None:
    """Nobody knows which one counts."""
    write("url", URL)
    variable = f"BATCHCANCEL_{name.upper()}"
    with pytest.raises(SettingsError, match="Give either the address or the file that holds it, not both"):
        receiver(name, {variable: URL, f"{variable}_FILE": "url"})


@pytest.mark.parametrize("name", NAMES)
def test_a_flag_wins_over_a_file_that_the_environment_names(name: str) -> None:
    """As over every other weaker source."""
    write("url", "https://weaker.example/")
    found = receiver(name, {f"BATCHCANCEL_{name.upper()}_FILE": "url"}, **{name: URL})
    assert found is not None
    assert found.url.reveal().decode() == URL


def test_a_file_that_others_can_write_is_refused() -> None:
    """Somebody else could have the words sent to an address of theirs."""
    write("url", URL, 0o622)
    with pytest.raises(SettingsError, match="url can be written by others"):
        receiver("ping_url", {"BATCHCANCEL_PING_URL_FILE": "url"})


def test_a_file_that_others_can_read_is_a_warning() -> None:
    """As for every secret."""
    write("url", URL, 0o644)
    found = load_receivers(environ={"BATCHCANCEL_PING_URL_FILE": "url"})
    assert found.warnings == ("url holds a secret and can be read by others: chmod 600 it.",)


@pytest.mark.parametrize(
    ("url", "warnings"),
    [
        ("http://127.0.0.1:8000/x", ()),
        ("http://[::1]/x", ()),
        ("https://checks.example/x", ()),
        (
            "http://checks.example/x",
            ("--ping-url calls checks.example without TLS: others may read address and content.",),
        ),
    ],
)
def test_plain_http_is_a_warning_unless_it_is_loopback(url: str, warnings: tuple[str, ...]) -> None:
    """Receivers within a cluster often have no TLS, and nothing that matters for money goes there."""
    assert load_receivers(environ={}, ping_url=url).warnings == warnings


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        pytest.param(URL, {"HTTPS_PROXY": "http://p:1"}, "http://p:1", id="https"),
        pytest.param("http://a.example/", {"http_proxy": "http://p:1"}, "http://p:1", id="http"),
        pytest.param("http://a.example/", {"HTTPS_PROXY": "http://p:1"}, None, id="the other scheme's"),
        pytest.param(URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "hc.example"}, None, id="NO_PROXY"),
        pytest.param("https://localhost/", {"HTTPS_PROXY": "http://p:1"}, None, id="loopback"),
        pytest.param(URL, {"BATCHCANCEL_PROXY": "http://p:1"}, None, id="the service's own"),
    ],
)
def test_the_proxy_is_the_environment_s(url: str, environ: dict[str, str], proxy: str | None) -> None:
    """The option ``proxy`` is the way to the service; receivers are elsewhere."""
    found = receiver("ping_url", environ, ping_url=url)
    assert found is not None
    assert (None if found.proxy is None else found.proxy.reveal().decode()) == proxy


def test_receivers_are_there_though_other_options_contradict_each_other() -> None:
    """So that somebody can be told of it."""
    environ = {"BATCHCANCEL_PING_URL": URL, "BATCHCANCEL_ENV": "production"}
    with pytest.raises(SettingsError, match="Credentials are missing"):
        load_settings(["invoices.csv"], environ=environ)
    assert receiver("ping_url", environ) is not None


@pytest.mark.parametrize("name", NAMES)
def test_an_address_is_in_no_record_and_no_repr(name: str) -> None:
    """The ledger is handed on; what is printed ends up in logs."""
    write("url", URL)
    for environ in ({f"BATCHCANCEL_{name.upper()}": URL}, {f"BATCHCANCEL_{name.upper()}_FILE": "url"}):
        settings = load_settings(["invoices.csv"], environ=environ, env="sandbox")
        assert settings.for_the_record() == {"env": "sandbox"}
        assert TOKEN not in repr((settings, settings.options, load_receivers(environ=environ)))
