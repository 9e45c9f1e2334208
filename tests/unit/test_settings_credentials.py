"""Credentials: complete, well-formed, from files that can be trusted, and never shown."""

from __future__ import annotations

import base64
import os
import traceback
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from batchcancel.errors import SettingsError
from batchcancel.settings import Credentials, Settings, SharedSecret, load_settings

SECRET = base64.b64encode(b"correct horse battery staple").decode()
IDS = {"BATCHCANCEL_MERCHANT_ID": "merchant", "BATCHCANCEL_KEY_ID": "key"}


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder, without the developer's environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", {})


def load(**environ: str) -> Settings:
    """Load settings for the test host, with ids but without a secret."""
    return load_settings(["invoices.csv"], environ={**IDS, **environ}, env="test")


def refusal(**environ: str) -> str:
    """Return the sentence with which the credentials are refused; no secret is anywhere in the error."""
    with pytest.raises(SettingsError) as caught:
        load(**environ)
    assert_hidden("".join(traceback.format_exception(caught.value)))
    assert not isinstance(caught.value.__context__, ValueError), "it holds what could not be decoded"
    return str(caught.value)


def assert_hidden(text: str) -> None:
    """Look for the secret in its spellings."""
    for spelling in (SECRET, SECRET[:12], "correct horse", b"correct horse".hex(), "hunter2"):
        assert spelling not in text


def write(path: str, text: str, mode: int = 0o600) -> str:
    """Write a file with a mode."""
    Path(path).write_text(text, encoding="utf-8")
    Path(path).chmod(mode)
    return path


def credentials_of(settings: Settings) -> Credentials:
    """Return the credentials, which have to be there."""
    assert settings.credentials is not None
    return settings.credentials


def secret_of(settings: Settings) -> bytes:
    """Return the decoded shared secret, which has to be there."""
    key = credentials_of(settings).key
    assert isinstance(key, SharedSecret)
    return key.secret.reveal()


def test_the_secret_is_decoded() -> None:
    """The secret's text is base64; white space round it, such as a file's newline, is nothing."""
    for text in (SECRET, f"  {SECRET}\n", f"{SECRET[:10]}\n{SECRET[10:]}"):
        settings = load(BATCHCANCEL_SHARED_SECRET=text)
        assert secret_of(settings) == b"correct horse battery staple"


def test_the_ids_are_taken_over() -> None:
    """A portfolio signs only where one is named."""
    given = credentials_of(load(BATCHCANCEL_SHARED_SECRET=SECRET, BATCHCANCEL_PORTFOLIO_ID="portfolio"))
    assert (given.merchant_id, given.portfolio_id) == ("merchant", "portfolio")
    assert isinstance(given.key, SharedSecret)
    assert given.key.key_id == "key"
    assert credentials_of(load(BATCHCANCEL_SHARED_SECRET=SECRET)).portfolio_id is None


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        pytest.param(
            {},
            "BATCHCANCEL_MERCHANT_ID, BATCHCANCEL_KEY_ID, "
            "BATCHCANCEL_SHARED_SECRET (or BATCHCANCEL_SHARED_SECRET_FILE)",
            id="all",
        ),
        pytest.param(IDS, "BATCHCANCEL_SHARED_SECRET (or BATCHCANCEL_SHARED_SECRET_FILE)", id="the secret"),
        pytest.param(
            {"BATCHCANCEL_KEY_ID": "key", "BATCHCANCEL_SHARED_SECRET": SECRET},
            "BATCHCANCEL_MERCHANT_ID",
            id="the merchant",
        ),
    ],
)
@pytest.mark.parametrize("target", [{"env": "test"}, {"env": "sandbox", "base_url": "http://127.0.0.1:1"}])
def test_each_missing_credential_is_named(
    environ: dict[str, str], named: str, target: dict[str, Any]
) -> None:
    """Wherever a host is called, loopback included, credentials are needed."""
    with pytest.raises(SettingsError) as caught:
        load_settings(["invoices.csv"], environ=environ, **target)
    assert str(caught.value).startswith(
        f"Credentials are missing: set {named} in the environment or in batchcancel.toml."
    )


def test_the_simulator_needs_no_credentials() -> None:
    """It has made-up ones."""
    assert load_settings(["invoices.csv"], environ={}, env="sandbox").credentials is None


@pytest.mark.parametrize("bad", ["a b", "a\n", "a\r\nX-Evil: 1", "k\u00e9y", "x" * 129, "\x7f"], ids=repr)
@pytest.mark.parametrize("name", ["MERCHANT_ID", "KEY_ID", "PORTFOLIO_ID"])
def test_a_malformed_id_is_refused(name: str, bad: str) -> None:
    """Ids go into headers and tokens; the sentence names where this one came from."""
    sentence = refusal(BATCHCANCEL_SHARED_SECRET=SECRET, **{f"BATCHCANCEL_{name}": bad})
    assert sentence == (
        f"BATCHCANCEL_{name} is malformed: it takes 1 to 128 printable ASCII characters, no spaces."
    )


def test_a_malformed_id_names_its_key_in_the_file() -> None:
    """The source is the file where it came from there."""
    write("batchcancel.toml", "portfolio_id = 'a b'\n")
    assert refusal(BATCHCANCEL_SHARED_SECRET=SECRET).startswith("batchcancel.toml: portfolio_id is malformed")


@pytest.mark.parametrize(
    "bad", ["hunter2!", f'"{SECRET}"', SECRET[:-1], "h\u00fcnter2", "====", "correct horses"], ids=repr
)
def test_a_secret_that_is_not_base64_is_refused_and_not_shown(bad: str) -> None:
    """The check comes at the start, not with the first refused request."""
    sentence = refusal(BATCHCANCEL_SHARED_SECRET=bad)
    assert sentence.startswith("BATCHCANCEL_SHARED_SECRET: the shared secret is not base64.")


def test_a_secret_that_is_no_text_is_refused_and_not_shown() -> None:
    """A list in the configuration file is not shown either."""
    write("batchcancel.toml", f"shared_secret = ['{SECRET}']\n")
    assert refusal() == "batchcancel.toml: shared_secret takes a text that is not empty."


@pytest.mark.parametrize(
    "config",
    [
        f"shared_secret = '{SECRET}\n",
        f"shared_secret = {SECRET}\n",
        f"'{SECRET}'\n",
        f"shared_secret = '{SECRET}'\nshared_secret = '{SECRET}'\n",
    ],
    ids=["no quote", "no quotes", "no key", "twice"],
)
def test_a_broken_configuration_file_shows_no_secret(config: str) -> None:
    """The parser's error names a place, not the text there."""
    write("batchcancel.toml", config)
    with pytest.raises(SettingsError, match=r"batchcancel\.toml can't be read") as caught:
        load()
    assert_hidden("".join(traceback.format_exception(caught.value)))


# --- files ----------------------------------------------------------------------------------------


def test_the_secret_is_read_from_its_file() -> None:
    """A file with the secret and a newline, as tools write it."""
    write("key", SECRET + "\n")
    settings = load(BATCHCANCEL_SHARED_SECRET_FILE="key")
    assert secret_of(settings) == b"correct horse battery staple"
    assert settings.warnings == ()


def test_the_secret_s_file_is_relative_to_the_configuration_file() -> None:
    """The configuration may lie in the user's folder."""
    Path("etc").mkdir()
    write("etc/key", SECRET)
    write("etc/some.toml", "shared_secret_file = 'key'\n", 0o644)
    settings = load(BATCHCANCEL_CONFIG="etc/some.toml")
    assert secret_of(settings) == b"correct horse battery staple"
    assert settings.warnings == ()


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666], ids=oct)
@pytest.mark.parametrize("place", ["file", "configuration"])
def test_a_secret_in_a_file_that_others_can_write_is_refused(place: str, mode: int) -> None:
    """Whoever can write it can have another account's invoices canceled."""
    path = put_secret(place, mode)
    environ = {"BATCHCANCEL_SHARED_SECRET_FILE": path} if place == "file" else {}
    assert refusal(**environ) == (
        f"{path} can be written by others, so its secret can't be trusted: chmod 600 it."
    )


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o444], ids=oct)
@pytest.mark.parametrize("place", ["file", "configuration"])
def test_a_secret_in_a_file_that_others_can_read_is_one_warning(place: str, mode: int) -> None:
    """The run goes on: containers mount secrets that way."""
    path = put_secret(place, mode)
    environ = {"BATCHCANCEL_SHARED_SECRET_FILE": path} if place == "file" else {}
    settings = load(**environ)
    assert settings.warnings == (f"{path} holds a secret and can be read by others: chmod 600 it.",)


@pytest.mark.parametrize(
    ("mode", "warnings"),
    [(0o440, 0), (0o400, 0), (0o444, 1), (0o404, 1)],
    ids=["group", "none", "all", "others"],
)
def test_the_group_by_which_a_secret_of_root_s_is_read_is_no_other(
    mode: int, warnings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Systemd's credentials and Kubernetes' volumes are root's, and 0440 for who runs the service."""
    write("key", SECRET, mode)
    monkeypatch.setattr("batchcancel.settings.secret_files.os.geteuid", lambda: Path("key").stat().st_uid + 1)
    settings = load(BATCHCANCEL_SHARED_SECRET_FILE="key")
    assert len(settings.warnings) == warnings
    assert secret_of(settings) == b"correct horse battery staple"


def test_a_lax_file_of_configuration_and_profile_is_one_warning() -> None:
    """Both tables hold a secret, but there is one file to mend."""
    write("batchcancel.toml", f"shared_secret = '{SECRET}'\n[profile.b]\nshared_secret = '{SECRET}'\n", 0o644)
    assert len(load(BATCHCANCEL_PROFILE="b").warnings) == 1


def test_a_secret_is_read_and_read_again_through_the_links_of_a_kubernetes_volume() -> None:
    """The kubelet swaps the link ``..data`` for another folder; the path of the file stays."""
    for night, secret in (("..2026_11_01", b"first"), ("..2026_11_02", b"second")):
        Path(night).mkdir()
        write(f"{night}/shared-secret", base64.b64encode(secret).decode() + "\n", 0o400)
    Path("..data").symlink_to("..2026_11_01")
    Path("shared-secret").symlink_to("..data/shared-secret")
    key = credentials_of(load(BATCHCANCEL_SHARED_SECRET_FILE="shared-secret")).key
    assert isinstance(key, SharedSecret)
    assert key.secret.reveal() == b"first"

    Path("..data_tmp").symlink_to("..2026_11_02")
    Path("..data_tmp").replace("..data")

    assert key.secret.read_again() == b"second"


def put_secret(place: str, mode: int) -> str:
    """Write the secret into its own file or into the configuration; return the path."""
    if place == "file":
        return write("key", SECRET, mode)
    return write("batchcancel.toml", f"shared_secret = '{SECRET}'\n", mode)


def test_a_configuration_file_without_a_secret_may_have_any_mode() -> None:
    """Only secrets ask for it."""
    write("batchcancel.toml", "rate = 5\n", 0o666)
    assert load(BATCHCANCEL_SHARED_SECRET=SECRET).warnings == ()


def test_the_secret_may_come_through_a_pipe() -> None:
    """Shells hand over a secret manager's output as a file descriptor."""
    reader, writer = os.pipe()
    os.write(writer, SECRET.encode())
    os.close(writer)
    try:
        settings = load(BATCHCANCEL_SHARED_SECRET_FILE=f"/dev/fd/{reader}")
    finally:
        os.close(reader)
    assert secret_of(settings) == b"correct horse battery staple"


def test_a_secret_s_file_that_can_not_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, a folder, not text, not base64, forbidden: each has its sentence, none shows what is there."""
    name = "BATCHCANCEL_SHARED_SECRET_FILE"
    assert refusal(**{name: "gone"}) == "The secret file gone can't be read: No such file or directory."
    Path("folder").mkdir()
    assert refusal(**{name: "folder"}) == "The secret file folder is no file."
    write("key", "h\u00fcnter2 hunter2")
    assert refusal(**{name: "key"}) == "The secret file key can't be read: it is not ASCII text."
    write("key", "hunter2!")
    assert refusal(**{name: "key"}).startswith(f"{name} (key): the shared secret is not base64.")
    write("key", "")
    assert refusal(**{name: "key"}).startswith(f"{name} (key): the shared secret is not base64.")

    def forbid(self: Path, *, encoding: str) -> str:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", forbid)
    assert refusal(**{name: "key"}) == "The secret file key can't be read: Permission denied."


def test_a_secret_and_its_file_together_are_refused() -> None:
    """Nobody could tell which one signs; the sentence names both places."""
    write("key", SECRET)
    environ = {"BATCHCANCEL_SHARED_SECRET": SECRET, "BATCHCANCEL_SHARED_SECRET_FILE": "key"}
    assert refusal(**environ) == (
        "Give either the shared secret or the file that holds it, not both: "
        "BATCHCANCEL_SHARED_SECRET and BATCHCANCEL_SHARED_SECRET_FILE are set."
    )


@pytest.mark.parametrize(
    ("environ", "config", "secret"),
    [
        pytest.param(
            {"BATCHCANCEL_SHARED_SECRET": "b25l"}, "shared_secret_file = 'two'", b"one", id="variable, file"
        ),
        pytest.param(
            {"BATCHCANCEL_SHARED_SECRET_FILE": "two"}, "shared_secret = 'b25l'", b"two", id="variable's file"
        ),
        pytest.param(
            {"BATCHCANCEL_PROFILE": "p"},
            "shared_secret_file = 'two'\n[profile.p]\nshared_secret = 'b25l'",
            b"one",
            id="profile, top level",
        ),
        pytest.param(
            {"BATCHCANCEL_PROFILE": "p"},
            "shared_secret = 'b25l'\n[profile.p]\nshared_secret_file = 'two'",
            b"two",
            id="profile's file, top level",
        ),
    ],
)
def test_the_stronger_source_says_which_secret_it_is(
    environ: dict[str, str], config: str, secret: bytes
) -> None:
    """A secret and its file are two options for one thing, and the order of the sources holds for both."""
    write("two", "dHdv")
    write("batchcancel.toml", config + "\n")
    assert secret_of(load(**environ)) == secret


# --- nothing shows --------------------------------------------------------------------------------


def test_no_secret_shows_in_any_text_of_the_settings() -> None:
    """Neither Python's texts nor rich's, of the settings or of any part of them."""
    settings = load(BATCHCANCEL_SHARED_SECRET=SECRET, BATCHCANCEL_PROXY="http://user:hunter2@proxy")
    assert settings.proxy == "http://user:hunter2@proxy"
    given = credentials_of(settings)
    assert isinstance(given.key, SharedSecret)
    shown = StringIO()
    for part in (
        settings,
        settings.options,
        given,
        given.key,
        given.key.secret,
        settings.sources,
        settings.for_the_record(),
    ):
        Console(file=shown).print(part)
        shown.write(f"{part!r} {part!s} {part}")
    assert_hidden(shown.getvalue())
    assert "Secret(***)" in shown.getvalue()
    assert "shared_secret" in repr(settings.options)


def test_the_settings_say_what_is_called() -> None:
    """Their text is of use all the same."""
    text = repr(load(BATCHCANCEL_SHARED_SECRET=SECRET))
    assert text.startswith("Settings(manifests=('invoices.csv',), environment=<Environment.TEST: 'test'>")
    assert "base_url='https://apitest.visaacceptance.com'" in text


# --- how requests are signed ----------------------------------------------------------------------


def test_http_signature_works_and_warns_once() -> None:
    """It has to be migrated; the simulator, which has its own credentials, needs no warning."""
    settings = load(BATCHCANCEL_SHARED_SECRET=SECRET, BATCHCANCEL_AUTH="http_signature")
    assert [warning for warning in settings.warnings if "March 2027" in warning] == list(settings.warnings)
    assert len(settings.warnings) == 1
    simulated = load_settings(["invoices.csv"], environ={"BATCHCANCEL_AUTH": "http_signature"}, env="sandbox")
    assert simulated.warnings == ()


def test_an_unknown_way_to_sign_is_refused() -> None:
    """The choices are listed."""
    assert refusal(BATCHCANCEL_AUTH="oauth") == "BATCHCANCEL_AUTH takes jwt, p12 or http_signature."
