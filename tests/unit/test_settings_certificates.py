"""Settings of P12 keys and message-level encryption: complete, consistent, from files to be trusted."""

from __future__ import annotations

import os
import re
import traceback
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from batchcancel.errors import SettingsError
from batchcancel.settings import (
    Credentials,
    Encryption,
    P12File,
    ResponseKeyFile,
    Settings,
    load_settings,
)

PASSWORD = "correct horse b\u00e4ttery"
P12 = {
    "BATCHCANCEL_AUTH": "p12",
    "BATCHCANCEL_MERCHANT_ID": "merchant",
    "BATCHCANCEL_P12_FILE": "key.p12",
    "BATCHCANCEL_P12_PASSWORD": PASSWORD,
}
BOTH = {"BATCHCANCEL_MLE": "both", "BATCHCANCEL_MLE_RESPONSE_KEY_FILE": "response.pem"}
SHARED = {
    "BATCHCANCEL_AUTH": "jwt",
    "BATCHCANCEL_MERCHANT_ID": "merchant",
    "BATCHCANCEL_KEY_ID": "key",
    "BATCHCANCEL_SHARED_SECRET": "c2VjcmV0",
}


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in a folder with files of the usual modes, without the developer's environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", {})
    for name in ("key.p12", "response.pem"):
        write(name, "not read here")
    write("service.pem", "nor this", 0o644)


def load(environ: dict[str, str]) -> Settings:
    """Load settings for the test host."""
    return load_settings(["invoices.csv"], environ=environ, env="test")


def credentials_of(environ: dict[str, str]) -> Credentials:
    """Return the credentials, which have to be there."""
    credentials = load(environ).credentials
    assert credentials is not None
    return credentials


def p12_of(environ: dict[str, str]) -> P12File:
    """Return the P12 file, which has to be there."""
    key = credentials_of(environ).key
    assert isinstance(key, P12File)
    return key


def encryption_of(environ: dict[str, str]) -> Encryption:
    """Return the encryption, which has to be there."""
    encryption = credentials_of(environ).encryption
    assert encryption is not None
    return encryption


def response_key_of(environ: dict[str, str]) -> ResponseKeyFile:
    """Return the response key, which has to be there."""
    key = encryption_of(environ).response_key
    assert key is not None
    return key


def refusal(environ: dict[str, str]) -> str:
    """Return the sentence with which settings are refused; the password is nowhere in the error."""
    with pytest.raises(SettingsError) as caught:
        load(environ)
    assert "horse" not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def write(path: str, text: str, mode: int = 0o600) -> str:
    """Write a file with a mode."""
    Path(path).write_text(text, encoding="utf-8")
    Path(path).chmod(mode)
    return path


# --- P12 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "alias"),
    [
        ({}, "merchant"),
        ({"BATCHCANCEL_PORTFOLIO_ID": "portfolio"}, "portfolio"),
        ({"BATCHCANCEL_PORTFOLIO_ID": "portfolio", "BATCHCANCEL_KEY_ALIAS": "My Key"}, "My Key"),
    ],
    ids=["merchant", "meta key", "said"],
)
def test_alias_is_whoever_owns_the_key(environ: dict[str, str], alias: str) -> None:
    """With a meta key that is the portfolio."""
    key = p12_of(P12 | environ)
    assert (key.path, key.alias) == (Path("key.p12"), alias)
    assert key.password.reveal() == PASSWORD.encode()


@pytest.mark.parametrize(
    ("text", "password"),
    [("secret", "secret"), ("secret\n", "secret"), (" se cret \n\n", " se cret \n")],
    ids=["bare", "line", "white space"],
)
def test_password_comes_from_its_file(text: str, password: str) -> None:
    """The end of its line is none of it; other white space is."""
    environ = P12 | {"BATCHCANCEL_P12_PASSWORD_FILE": write("pass", text), "BATCHCANCEL_P12_PASSWORD": ""}
    assert p12_of(environ).password.reveal() == password.encode()
    assert load(environ).warnings == ()


def test_paths_are_relative_to_the_configuration_file() -> None:
    """It may lie in the user's folder, with its files."""
    Path("etc").mkdir()
    for name in ("key.p12", "pass", "response.pem", "pass2"):
        write(f"etc/{name}", "x")
    write("etc/service.pem", "x", 0o644)
    write(
        "etc/some.toml",
        "auth = 'p12'\nmerchant_id = 'm'\np12_file = 'key.p12'\np12_password_file = 'pass'\nmle = 'both'\n"
        "mle_cert_file = 'service.pem'\nmle_response_key_file = 'response.pem'\n"
        "mle_response_key_password_file = 'pass2'\n",
    )
    given = credentials_of({"BATCHCANCEL_CONFIG": "etc/some.toml"})
    assert isinstance(given.key, P12File)
    assert given.encryption is not None
    assert given.encryption.response_key is not None
    paths = (given.key.path, given.encryption.certificate_file, given.encryption.response_key.path)
    assert paths == (Path("etc/key.p12"), Path("etc/service.pem"), Path("etc/response.pem"))


@pytest.mark.parametrize(
    ("absent", "named"),
    [
        ("BATCHCANCEL_MERCHANT_ID", "BATCHCANCEL_MERCHANT_ID"),
        ("BATCHCANCEL_P12_FILE", "BATCHCANCEL_P12_FILE"),
        ("BATCHCANCEL_P12_PASSWORD", "BATCHCANCEL_P12_PASSWORD (or BATCHCANCEL_P12_PASSWORD_FILE)"),
    ],
)
def test_each_missing_part_is_named(absent: str, named: str) -> None:
    """A key id and a shared secret are not asked for."""
    environ = {name: value for name, value in P12.items() if name != absent}
    assert refusal(environ).startswith(f"Credentials are missing: set {named} in the environment")


def test_password_and_its_file_together_are_refused() -> None:
    """Nobody could tell which one opens the file."""
    environ = P12 | {"BATCHCANCEL_P12_PASSWORD_FILE": write("pass", PASSWORD)}
    assert refusal(environ) == (
        "Give either the password or the file that holds it, not both: "
        "BATCHCANCEL_P12_PASSWORD and BATCHCANCEL_P12_PASSWORD_FILE are set."
    )


def test_empty_password_file_is_refused() -> None:
    """A tool that failed leaves one."""
    environ = P12 | {"BATCHCANCEL_P12_PASSWORD": "", "BATCHCANCEL_P12_PASSWORD_FILE": write("pass", "\n")}
    assert refusal(environ) == "The secret file pass is empty."


def test_password_file_that_is_no_text_is_refused() -> None:
    """What could not be decoded is not shown."""
    Path("pass").write_bytes(b"horse\xff")
    Path("pass").chmod(0o600)
    environ = P12 | {"BATCHCANCEL_P12_PASSWORD": "", "BATCHCANCEL_P12_PASSWORD_FILE": "pass"}
    assert refusal(environ) == "The secret file pass can't be read: it is not UTF-8 text."


# --- message-level encryption ---------------------------------------------------------------------


def test_encryption_is_off_unless_asked_for() -> None:
    """Its files alone turn nothing on."""
    for environ in (P12, SHARED):
        assert credentials_of(environ | {"BATCHCANCEL_MLE_CERT_FILE": "gone"}).encryption is None


def test_requests_alone_need_no_key() -> None:
    """With a P12 file the certificate is in it; another one may be named."""
    assert encryption_of(P12 | {"BATCHCANCEL_MLE": "request"}) == Encryption(
        certificate_file=None, response_key=None
    )
    for environ in (P12, SHARED):
        named = environ | {"BATCHCANCEL_MLE": "request", "BATCHCANCEL_MLE_CERT_FILE": "service.pem"}
        assert encryption_of(named).certificate_file == Path("service.pem")


def test_response_key_is_taken_over() -> None:
    """With its password and id, where they are given."""
    key = response_key_of(P12 | BOTH)
    assert (key.path, key.password, key.key_id) == (Path("response.pem"), None, None)
    given = {"BATCHCANCEL_MLE_RESPONSE_KEY_PASSWORD": PASSWORD, "BATCHCANCEL_MLE_RESPONSE_KEY_ID": "55"}
    key = response_key_of(P12 | BOTH | given)
    assert key.password is not None
    assert (key.password.reveal(), key.key_id) == (PASSWORD.encode(), "55")
    from_file = {"BATCHCANCEL_MLE_RESPONSE_KEY_PASSWORD_FILE": write("pass", "other\n")}
    key = response_key_of(P12 | BOTH | from_file)
    assert key.password is not None
    assert key.password.reveal() == b"other"


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        pytest.param(
            SHARED | {"BATCHCANCEL_AUTH": "http_signature", "BATCHCANCEL_MLE": "request"},
            "BATCHCANCEL_MLE: message-level encryption does not go with HTTP Signature",
            id="http signature",
        ),
        pytest.param(
            SHARED | {"BATCHCANCEL_MLE": "request"},
            "BATCHCANCEL_MLE: with a shared secret, the certificate that requests are encrypted for",
            id="no certificate",
        ),
        pytest.param(
            P12 | {"BATCHCANCEL_MLE": "both"},
            "BATCHCANCEL_MLE: for encrypted replies a private key is needed",
            id="no response key",
        ),
        pytest.param(
            P12 | BOTH | {"BATCHCANCEL_MLE_RESPONSE_KEY_ID": "a b"},
            "BATCHCANCEL_MLE_RESPONSE_KEY_ID is malformed",
            id="malformed id",
        ),
        pytest.param(
            P12 | {"BATCHCANCEL_MLE": "response"},
            "BATCHCANCEL_MLE takes off, request or both.",
            id="another word",
        ),
    ],
)
def test_what_can_not_work_is_refused_at_the_start(environ: dict[str, str], sentence: str) -> None:
    """Before anything is sent, with the option's place named."""
    assert refusal(environ).startswith(sentence)


# --- files that can be trusted --------------------------------------------------------------------

FILES = {
    "key.p12": {},
    "pass": {"BATCHCANCEL_P12_PASSWORD": "", "BATCHCANCEL_P12_PASSWORD_FILE": "pass"},
    "response.pem": {},
    "pass2": {"BATCHCANCEL_MLE_RESPONSE_KEY_PASSWORD_FILE": "pass2"},
}


@pytest.mark.parametrize("mode", [0o620, 0o602], ids=oct)
@pytest.mark.parametrize("name", FILES)
def test_secret_that_others_can_write_is_refused(name: str, mode: int) -> None:
    """P12, PEM and password files alike."""
    write(name, "x", mode)
    assert refusal(P12 | BOTH | FILES[name]) == (
        f"{name} can be written by others, so its secret can't be trusted: chmod 600 it."
    )


@pytest.mark.parametrize("mode", [0o640, 0o604], ids=oct)
@pytest.mark.parametrize("name", FILES)
def test_secret_that_others_can_read_is_one_warning(name: str, mode: int) -> None:
    """The run goes on: containers mount secrets that way."""
    write(name, "x", mode)
    warning = f"{name} holds a secret and can be read by others: chmod 600 it."
    assert load(P12 | BOTH | FILES[name]).warnings == (warning,)


@pytest.mark.parametrize("mode", [0o664, 0o646], ids=oct)
def test_certificate_that_others_can_write_is_refused(mode: int) -> None:
    """They could have requests encrypted for themselves; all may read it."""
    write("service.pem", "x", mode)
    environ = P12 | {"BATCHCANCEL_MLE": "request", "BATCHCANCEL_MLE_CERT_FILE": "service.pem"}
    assert refusal(environ) == "service.pem can be written by others, so it can't be trusted: chmod 644 it."
    write("service.pem", "x", 0o644)
    assert load(environ).warnings == ()


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("gone", "BATCHCANCEL_P12_FILE"),
        ("gone", "BATCHCANCEL_MLE_CERT_FILE"),
        ("gone", "BATCHCANCEL_MLE_RESPONSE_KEY_FILE"),
        ("gone", "BATCHCANCEL_MLE_RESPONSE_KEY_PASSWORD_FILE"),
    ],
    ids=lambda text: re.sub("BATCHCANCEL_", "", text),
)
def test_file_that_is_not_there_is_refused(name: str, variable: str) -> None:
    """The sentence names it."""
    assert refusal(P12 | BOTH | {variable: name}) == (
        "The secret file gone can't be read: No such file or directory."
    )


@pytest.mark.parametrize("key", ["p12_password", "mle_response_key_password"])
def test_password_in_the_configuration_asks_for_its_mode(key: str) -> None:
    """As a shared secret there does."""
    write("batchcancel.toml", f"{key} = '{PASSWORD}'\n", 0o644)
    environ = {name: value for name, value in P12.items() if not name.endswith("PASSWORD")}
    environ["BATCHCANCEL_P12_PASSWORD_FILE" if key.startswith("mle") else "BATCHCANCEL_REF"] = write(
        "pass", "x"
    )
    assert load(environ).warnings == (
        "batchcancel.toml holds a secret and can be read by others: chmod 600 it.",
    )


def test_key_may_come_through_a_pipe() -> None:
    """It is not read before it is used: a pipe gives its bytes once."""
    receiving, sending = os.pipe()
    os.write(sending, b"bytes")
    os.close(sending)
    try:
        load(P12 | {"BATCHCANCEL_P12_FILE": f"/dev/fd/{receiving}"})
        assert os.read(receiving, 9) == b"bytes"
    finally:
        os.close(receiving)


# --- nothing shows --------------------------------------------------------------------------------


def test_no_password_shows_in_any_text_of_the_settings() -> None:
    """Neither Python's texts nor rich's, nor the ledger's record, which names no key file either."""
    settings = load(P12 | BOTH | {"BATCHCANCEL_MLE_RESPONSE_KEY_PASSWORD": PASSWORD})
    given = settings.credentials
    assert given is not None
    assert given.encryption is not None
    shown = StringIO()
    parts = (
        settings,
        settings.options,
        given,
        given.key,
        given.encryption,
        given.encryption.response_key,
        settings.sources,
    )
    for part in parts:
        Console(file=shown).print(part)
        shown.write(f"{part!r} {part!s}")
    assert "horse" not in shown.getvalue()
    assert "Secret(***)" in shown.getvalue()
    assert settings.for_the_record() == {
        "env": "test",
        "auth": "p12",
        "merchant_id": "merchant",
        "mle": "both",
    }
