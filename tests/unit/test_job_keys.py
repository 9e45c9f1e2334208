"""Keys of a run: from settings to what signs and encrypts, by the official SDK's vectors."""

from __future__ import annotations

import base64
import hmac
import json
import os
import subprocess
import sys
import time
import traceback
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwe, jwt
from joserfc.jwk import OctKey, RSAKey
from rich.console import Console
from rich.traceback import Traceback

from batchcancel.cli.observers import Observers
from batchcancel.cli.session import run_job
from batchcancel.errors import SettingsError
from batchcancel.job.keys import Keys, load_keys
from batchcancel.model import KeyFileChanged
from batchcancel.settings import Receivers, load_settings

if TYPE_CHECKING:
    from cryptography import x509

    from tests.unit.conftest import KeyMaker

_VECTORS: Final = json.loads((Path(__file__).parent.parent / "vectors" / "auth_vectors.json").read_bytes())
_MLE_KEYS: Final = _VECTORS["mle"]["keys"]
_SERVICE: Final = "CyberSource_SJC_US"
_REQUEST: Final[dict[str, Any]] = {"method": "GET", "target": "/x", "host": "h", "now": 0, "body": None}
_P12: Final = {
    "BATCHCANCEL_AUTH": "p12",
    "BATCHCANCEL_MERCHANT_ID": "merchant",
    "BATCHCANCEL_P12_FILE": "key.p12",
    "BATCHCANCEL_P12_PASSWORD": "pass word",
}
_RESPONSE: Final = {
    "BATCHCANCEL_MLE": "both",
    "BATCHCANCEL_MLE_RESPONSE_KEY_FILE": "response.p12",
    "BATCHCANCEL_MLE_RESPONSE_KEY_PASSWORD": "pass word",
}


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder, without the developer's environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", {})


def _write(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    Path(path).chmod(0o600)


def _load(environ: dict[str, str]) -> Keys:
    return load_keys(load_settings(["invoices.csv"], environ=environ, env="test"))


def _environment(config: dict[str, Any]) -> dict[str, str]:
    """Say the official SDK's configuration in our words, with its files in place."""
    environ = {"BATCHCANCEL_MERCHANT_ID": config["merchantid"]}
    if config["authentication_type"] == "http_signature":
        environ["BATCHCANCEL_AUTH"] = "http_signature"
    if config.get("jwt_key_type") == "P12":
        name = config["key_file_name"]
        _write(f"{name}.p12", base64.b64decode(_VECTORS["p12_material"][name]["p12_base64"]))
        environ |= {
            "BATCHCANCEL_AUTH": "p12",
            "BATCHCANCEL_P12_FILE": f"{name}.p12",
            "BATCHCANCEL_P12_PASSWORD": config["key_password"],
            "BATCHCANCEL_KEY_ALIAS": config["key_alias"],
        }
    else:
        _write("secret", config["merchant_secretkey"].encode())
        environ |= {
            "BATCHCANCEL_KEY_ID": config["merchant_keyid"],
            "BATCHCANCEL_SHARED_SECRET_FILE": "secret",
        }
    if config.get("enableRequestMLEForOptionalApisGlobally"):
        environ["BATCHCANCEL_MLE"] = "request"
    if config.get("use_metakey"):
        _write("batchcancel.toml", f"portfolio_id = {config.get('portfolio_id', '')!r}".encode())
    return environ


# --- what the official SDK refuses, and more ------------------------------------------------------

_NAMED: Final = {
    "p12-wrong-password": "merchant.p12 can't be opened: its password",
    "p12-no-subject-serialNumber": "no_subject_serial.p12 has no serialNumber",
    "p12-alias-not-in-file": "merchant.p12 holds no certificate for other",
    # The SDK sends this one: it remembers the file by its name, whatever the password.
    "p12-wrong-password-but-cache-warm": "merchant.p12 can't be opened: its password",
    "shared-secret-bad-base64": "BATCHCANCEL_SHARED_SECRET_FILE (secret): the shared secret is not base64",
    "metakey-without-portfolio": "batchcancel.toml: portfolio_id takes a text that is not empty",
    "mle-with-http-signature": "BATCHCANCEL_MLE: message-level encryption does not go with HTTP Signature",
    "request-mle-shared-secret-without-cert": "set BATCHCANCEL_MLE_CERT_FILE",
}
_GOOD: Final = "p12-warm-cache-correct-password"


def test_every_negative_vector_has_its_sentence() -> None:
    """None is left out; the one with the right password is good."""
    assert {vector["name"] for vector in _VECTORS["negative"]} == _NAMED.keys() | {_GOOD}


@pytest.mark.parametrize("vector", _VECTORS["negative"], ids=lambda vector: vector["name"])
def test_negative_vector_is_refused_by_name(vector: dict[str, Any]) -> None:
    """The file or the option is named; password and secret are nowhere in the error."""
    config = vector["config"]
    if vector["name"] == "p12-wrong-password-but-cache-warm":
        _load(_environment(config | {"key_password": "merchant-pass"}))
    environ = _environment(config)
    if vector["name"] == _GOOD:
        assert _load(environ).identity.merchant_id == "testmid_0001"
        return
    with pytest.raises(SettingsError) as caught:
        _load(environ)
    assert _NAMED[vector["name"]] in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    for secret in {config.get("merchant_secretkey"), config.get("key_password")} - {None}:
        # The source lines of a traceback may hold a word as short as "wrong" by themselves.
        assert secret not in (shown if len(secret) > 5 else str(caught.value))


# --- what the official SDK sends with encryption --------------------------------------------------


def _encrypting(config: dict[str, Any]) -> dict[str, str]:
    """Say the configuration of a vector with encryption in our words."""
    environ = _environment(config)
    if config.get("jwt_key_type") != "P12":
        _write("service.pem", _MLE_KEYS["sjc"]["cert_pem"].encode())
        environ["BATCHCANCEL_MLE_CERT_FILE"] = "service.pem"
    if config.get("enableResponseMleGlobally"):
        _write("response.p12", base64.b64decode(_MLE_KEYS["response_mle"]["p12_base64"]))
        environ |= _RESPONSE | {
            "BATCHCANCEL_MLE_RESPONSE_KEY_PASSWORD": config["responseMlePrivateKeyFilePassword"]
        }
    return environ


@pytest.mark.parametrize("vector", _VECTORS["mle"]["request"], ids=lambda vector: vector["name"])
def test_token_over_an_encrypted_body_equals_the_official_sdks(
    vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte: the digest is of the wrapped body; a key for replies is named where there is one."""
    signer = _load(_encrypting(vector["config"])).signer
    monkeypatch.setattr(signer, "_new_jti", lambda: vector["jwt_claims"]["jti"])
    headers = signer.headers(
        method="POST",
        target=vector["jwt_claims"]["request-resource-path"],
        host=vector["config"]["run_environment"],
        body=vector["body_on_wire"].encode(),
        now=vector["unix_time"] + 0.75,
    )
    assert headers == {"Authorization": f"Bearer {vector['jwt_token']}"}


def test_token_of_a_look_up_with_encryption_on_equals_the_official_sdks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has no digest, for there is no body."""
    vector = _VECTORS["mle"]["get_with_request_mle_on"]
    signer = _load(_encrypting(_VECTORS["mle"]["request"][0]["config"])).signer
    monkeypatch.setattr(signer, "_new_jti", lambda: vector["claims"]["jti"])
    method, target, _ = vector["request_line"].split(" ")
    bearer = signer.headers(
        method=method, target=target, host="api.visaacceptance.com", body=None, now=vector["claims"]["iat"]
    )["Authorization"].removeprefix("Bearer ")
    own = RSAKey.import_key(_VECTORS["p12_material"]["merchant"]["private_key_pem"])
    assert jwt.decode(bearer, own, algorithms=["RS256"]).claims == vector["claims"]


# --- who signs for whom ---------------------------------------------------------------------------


def _claims(keys: Keys, certificate: x509.Certificate) -> tuple[dict[str, Any], dict[str, Any]]:
    """Verify a token with an independent library; return its header and claims."""
    bearer = keys.signer.headers(**_REQUEST)["Authorization"].removeprefix("Bearer ")
    pem = certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    token = jwt.decode(bearer, RSAKey.import_key(pem), algorithms=["RS256"])
    return token.header, token.claims


def test_p12_signs_and_encrypts_both_ways(keys: KeyMaker) -> None:
    """All keys come from two files: one signs and encrypts, the other decrypts."""
    own = keys.certificate("merchant", "1111")
    service = keys.certificate(_SERVICE, "2222", key=keys.other_key)
    _write("key.p12", keys.p12(own, service))
    _write("response.p12", keys.p12(keys.certificate("merchant", "3333")))
    loaded = _load(_P12 | _RESPONSE)
    header, claims = _claims(loaded, own)
    assert header["kid"] == "1111"
    assert (claims["iss"], claims["v-c-merchant-id"], claims["v-c-response-mle-kid"]) == (
        "merchant",
        "merchant",
        "3333",
    )
    assert loaded.signer.is_slow
    assert loaded.encryption is not None
    token = json.loads(loaded.encryption.encrypt(b"{}", now=0))["encryptedRequest"]
    registry = jwe.JWERegistry(algorithms=["RSA-OAEP-256", "A256GCM"], strict_check_header=False)
    opened = jwe.decrypt_compact(token, RSAKey.import_key(keys.other_key), registry=registry)
    assert (opened.plaintext, opened.protected["kid"]) == (b"{}", "2222")
    assert loaded.encryption.decrypts
    assert [expiry.what for expiry in loaded.expiries] == [
        "signing certificate",
        "encryption certificate",
        "response key's certificate",
    ]


def test_meta_key_signs_for_the_merchant(keys: KeyMaker) -> None:
    """Alias, issuer and the key for replies are the portfolio's, the transacting merchant is named."""
    own = keys.certificate("Portfolio", "1111")
    _write("key.p12", keys.p12(own, keys.certificate(_SERVICE, "2222", key=keys.other_key)))
    _write("response.p12", keys.p12(keys.certificate("portfolio", "3333")))
    _, claims = _claims(_load(_P12 | _RESPONSE | {"BATCHCANCEL_PORTFOLIO_ID": "portfolio"}), own)
    assert (claims["iss"], claims["v-c-merchant-id"], claims["v-c-response-mle-kid"]) == (
        "portfolio",
        "merchant",
        "3333",
    )


@pytest.mark.parametrize("mle", ["off", "request", "both"])
def test_shared_secret_goes_with_encryption(mle: str, keys: KeyMaker) -> None:
    """The certificate is a PEM file then; tokens stay HS256 and are made on the loop."""
    _write("service.pem", _MLE_KEYS["sjc"]["cert_pem"].encode())
    _write("response.pem", keys.pem(password=b"pass word"))
    loaded = _load(
        _RESPONSE
        | {
            "BATCHCANCEL_MERCHANT_ID": "merchant",
            "BATCHCANCEL_KEY_ID": "key",
            "BATCHCANCEL_SHARED_SECRET": base64.b64encode(b"s" * 32).decode(),
            "BATCHCANCEL_MLE": mle,
            "BATCHCANCEL_MLE_CERT_FILE": "service.pem",
            "BATCHCANCEL_MLE_RESPONSE_KEY_FILE": "response.pem",
            "BATCHCANCEL_MLE_RESPONSE_KEY_ID": "5555",
        }
    )
    bearer = loaded.signer.headers(**_REQUEST)["Authorization"].removeprefix("Bearer ")
    claims = jwt.decode(bearer, OctKey.import_key(b"s" * 32), algorithms=["HS256"]).claims
    assert claims.get("v-c-response-mle-kid") == ("5555" if mle == "both" else None)
    assert not loaded.signer.is_slow
    assert (loaded.encryption is not None) == (mle != "off")
    assert len(loaded.expiries) == (mle != "off")


def test_p12_without_the_service_s_certificate_is_refused(keys: KeyMaker) -> None:
    """Unless it is named."""
    _write("key.p12", keys.p12(keys.certificate("merchant", "1111")))
    environ = _P12 | {"BATCHCANCEL_MLE": "request"}
    with pytest.raises(SettingsError, match=r"key\.p12 holds no certificate for CyberSource_SJC_US"):
        _load(environ)
    _write("service.pem", _MLE_KEYS["sjc"]["cert_pem"].encode())
    loaded = _load(environ | {"BATCHCANCEL_MLE_CERT_FILE": "service.pem"})
    assert [expiry.path for expiry in loaded.expiries] == ["key.p12", "service.pem"]


def test_simulator_in_the_process_needs_no_files() -> None:
    """Its made-up secret signs, whatever the configuration is made for."""
    settings = load_settings(["invoices.csv"], environ=_P12 | _RESPONSE, env="sandbox")
    loaded = load_keys(settings)
    assert not loaded.signer.is_slow
    assert (loaded.encryption, loaded.expiries) == (None, ())


def test_run_with_a_shared_secret_loads_no_library_for_certificates() -> None:
    """They take a fifth of a second, which small runs from cron would pay each time."""
    code = (
        "import sys; from batchcancel import load_settings; from batchcancel.job.keys import load_keys; "
        "load_keys(load_settings(['x.csv'], environ={}, env='sandbox')); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "aiohttp" in loaded
    assert loaded & {"cryptography", "joserfc"} == set()


# --- files that change ----------------------------------------------------------------------------


def test_changed_files_take_effect_at_once(keys: KeyMaker) -> None:
    """A renewed P12 file and a renewed key for replies, with the same passwords."""
    own = keys.certificate("merchant", "1111")
    service = keys.certificate(_SERVICE, "2222", key=keys.other_key)
    _write("key.p12", keys.p12(own, service))
    _write("response.p12", keys.p12(keys.certificate("merchant", "3333")))
    loaded = _load(_P12 | _RESPONSE)
    _write("key.p12", keys.p12(keys.certificate("merchant", "4444"), service))
    _write("response.p12", keys.p12(keys.certificate("merchant", "5555")))
    assert loaded.files.reload() == [
        KeyFileChanged(path="key.p12", problem=None),
        KeyFileChanged(path="response.p12", problem=None),
    ]
    header, claims = _claims(loaded, own)
    assert (header["kid"], claims["v-c-response-mle-kid"]) == ("4444", "5555")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        pytest.param("cut", "key.p12 can't be opened", id="half written"),
        pytest.param("password", "key.p12 can't be opened", id="another password"),
        pytest.param("alias", "key.p12 holds no certificate for merchant", id="another merchant's"),
        pytest.param("service", "key.p12 holds no certificate for CyberSource", id="no encryption"),
        pytest.param("mode", "key.p12 can be written by others", id="mode"),
    ],
)
def test_changed_file_that_is_no_good_leaves_all_old_keys(damage: str, problem: str, keys: KeyMaker) -> None:
    """Never a new key to sign with beside an old one to encrypt with; no password is told."""
    own = keys.certificate("merchant", "1111")
    service = keys.certificate(_SERVICE, "2222", key=keys.other_key)
    good = keys.p12(own, service)
    _write("key.p12", good)
    loaded = _load(_P12 | {"BATCHCANCEL_MLE": "request"})
    renewed = keys.certificate("merchant", "4444")
    _write(
        "key.p12",
        {
            "cut": good[:-200],
            "password": keys.p12(renewed, service, password=b"new"),
            "alias": keys.p12(keys.certificate("other", "4444"), service),
            "service": keys.p12(renewed),
            "mode": keys.p12(renewed, service),
        }[damage],
    )
    if damage == "mode":
        Path("key.p12").chmod(0o666)
    (change,) = loaded.files.reload()
    assert change.problem is not None
    assert change.problem.startswith(problem)
    assert "pass word" not in change.problem
    assert _claims(loaded, own)[0]["kid"] == "1111"


@pytest.mark.parametrize("order", ["key first", "password first", "together"])
@pytest.mark.parametrize("kind", ["signing", "replies"])
def test_renewed_key_with_a_new_password_is_taken_in_either_order(
    kind: str, order: str, keys: KeyMaker
) -> None:
    """In between the file can't be opened: that is said, and the old key stays in force."""
    own = keys.certificate("merchant", "1111")
    _write("key.p12", keys.p12(own, keys.certificate(_SERVICE, "2222", key=keys.other_key)))
    _write("response.p12", keys.p12(keys.certificate("merchant", "3333")))
    _write("word", b"pass word\n")
    variable = "P12" if kind == "signing" else "MLE_RESPONSE_KEY"
    environ = _P12 | _RESPONSE | {f"BATCHCANCEL_{variable}_PASSWORD_FILE": "word"}
    del environ[f"BATCHCANCEL_{variable}_PASSWORD"]
    loaded = _load(environ)
    path = "key.p12" if kind == "signing" else "response.p12"
    service = [keys.certificate(_SERVICE, "2222", key=keys.other_key)] if kind == "signing" else []
    files = {
        path: keys.p12(keys.certificate("merchant", "4444"), *service, password=b"new word"),
        "word": b"new word\n",
    }
    names = list(files) if order != "password first" else ["word", path]
    for name in names:
        _write(name, files[name])
        if name == names[0] and order != "together":
            # A file whose password alone has changed can't be opened either, so it is tried at once.
            (change,) = loaded.files.reload()
            assert change.path == name
            assert str(change.problem).startswith(f"{path} can't be opened: its password is another one")
            assert "word" not in str(change.problem).replace("password", "")
            assert _ids(loaded, own) == ("1111", "3333")
    changes = loaded.files.reload()
    assert {change.path for change in changes} == set(files if order == "together" else names[1:])
    assert [change.problem for change in changes] == [None] * len(changes)
    assert _ids(loaded, own) == (("4444", "3333") if kind == "signing" else ("1111", "4444"))
    assert loaded.files.reload() == []


def _ids(loaded: Keys, own: x509.Certificate) -> tuple[str, str]:
    """Return the ids of the keys that sign and that replies are asked for."""
    header, claims = _claims(loaded, own)
    return header["kid"], claims["v-c-response-mle-kid"]


# --- secrets that change --------------------------------------------------------------------------

_OLD_SECRET: Final = b"an old secret of thirty-two byte"
_NEW_SECRET: Final = b"the secret that comes after this"
_SECRET_WAYS: Final = {
    "jwt": {"BATCHCANCEL_AUTH": "jwt"},
    "jwt and encryption": {"BATCHCANCEL_MLE": "request", "BATCHCANCEL_MLE_CERT_FILE": "service.pem"},
    "http signature": {"BATCHCANCEL_AUTH": "http_signature"},
}


def _write_secret(secret: bytes) -> None:
    _write("secret", base64.b64encode(secret) + b"\n")


def _with_secret(way: str, **environ: str) -> Keys:
    _write("service.pem", _MLE_KEYS["sjc"]["cert_pem"].encode())
    ids = {"BATCHCANCEL_MERCHANT_ID": "merchant", "BATCHCANCEL_KEY_ID": "key"}
    return _load(ids | _SECRET_WAYS[way] | (environ or {"BATCHCANCEL_SHARED_SECRET_FILE": "secret"}))


def _is_signed_with(loaded: Keys, secret: bytes) -> bool:
    """Tell whether a secret signs, by code of this test's own."""
    headers = loaded.signer.headers(**_REQUEST)
    if "Authorization" in headers:
        signed, _, signature = headers["Authorization"].removeprefix("Bearer ").rpartition(".")
        given = base64.urlsafe_b64decode(signature + "=")
    else:
        target = f"host: h\ndate: {headers['Date']}\nrequest-target: get /x\nv-c-merchant-id: merchant"
        signed, given = target, base64.b64decode(headers["Signature"].split('"')[-2])
    return given == hmac.digest(secret, signed.encode(), "sha256")


@pytest.mark.parametrize("way", _SECRET_WAYS)
def test_changed_secret_file_takes_effect(way: str) -> None:
    """However requests are signed; the key id stays what it was."""
    _write_secret(_OLD_SECRET)
    loaded = _with_secret(way)
    assert _is_signed_with(loaded, _OLD_SECRET)
    _write_secret(_NEW_SECRET)
    assert _is_signed_with(loaded, _OLD_SECRET), "it is not looked at while signing"
    assert loaded.files.reload() == [KeyFileChanged(path="secret", problem=None)]
    assert _is_signed_with(loaded, _NEW_SECRET)
    assert loaded.files.reload() == []


def test_secret_that_changed_before_the_run_began_is_the_one_that_signs() -> None:
    """Settings are read first; what the file holds when keys are loaded counts, and later changes too."""
    _write_secret(_OLD_SECRET)
    environ = {"BATCHCANCEL_MERCHANT_ID": "m", "BATCHCANCEL_KEY_ID": "k"}
    settings = load_settings(
        ["invoices.csv"], environ=environ | {"BATCHCANCEL_SHARED_SECRET_FILE": "secret"}, env="test"
    )
    _write_secret(_NEW_SECRET)
    assert _is_signed_with(load_keys(settings), _NEW_SECRET)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        pytest.param(
            "no base64", "BATCHCANCEL_SHARED_SECRET_FILE (secret): the shared secret is not", id="text"
        ),
        pytest.param(
            "empty", "BATCHCANCEL_SHARED_SECRET_FILE (secret): the shared secret is not", id="empty"
        ),
        pytest.param("bytes", "The secret file secret can't be read: it is not ASCII text.", id="bytes"),
        pytest.param("mode", "secret can be written by others, so its secret can't be trusted", id="mode"),
        pytest.param("gone", "The secret file secret can't be read: No such file or directory.", id="gone"),
        pytest.param("folder", "The secret file secret is no file.", id="folder"),
    ],
)
@pytest.mark.parametrize("way", _SECRET_WAYS)
def test_changed_secret_file_that_is_no_good_leaves_the_old_secret(
    way: str, damage: str, problem: str
) -> None:
    """It is said once and shows nothing of the file; a mended one is taken."""
    _write_secret(_OLD_SECRET)
    loaded = _with_secret(way)
    contents = {"no base64": b"hunter2!", "empty": b"\n", "bytes": b"hunter2\xff"}
    _write("secret", contents.get(damage, base64.b64encode(_NEW_SECRET)))
    if damage == "mode":
        Path("secret").chmod(0o620)
    elif damage in {"gone", "folder"}:
        Path("secret").unlink()
    if damage == "folder":
        Path("secret").mkdir()
    (change,) = loaded.files.reload()
    assert change.path == "secret"
    assert str(change.problem).startswith(problem)
    for secret in ("hunter2", *(base64.b64encode(one).decode() for one in (_OLD_SECRET, _NEW_SECRET))):
        assert secret not in str(change)
    assert loaded.files.reload() == []
    assert _is_signed_with(loaded, _OLD_SECRET)
    if damage == "folder":
        Path("secret").rmdir()
    _write_secret(_NEW_SECRET)
    assert loaded.files.reload() == [KeyFileChanged(path="secret", problem=None)]
    assert _is_signed_with(loaded, _NEW_SECRET)


def test_secret_that_is_no_file_is_not_looked_after() -> None:
    """One from the environment can't change, and a pipe gives its text once."""
    receiving, sending = os.pipe()
    os.write(sending, base64.b64encode(_OLD_SECRET))
    os.close(sending)
    try:
        for environ in (
            {"BATCHCANCEL_SHARED_SECRET": base64.b64encode(_OLD_SECRET).decode()},
            {"BATCHCANCEL_SHARED_SECRET_FILE": f"/dev/fd/{receiving}"},
        ):
            loaded = _with_secret("jwt", **environ)
            assert _is_signed_with(loaded, _OLD_SECRET)
            assert loaded.files.reload() == []
    finally:
        os.close(receiving)


# --- files that are damaged -----------------------------------------------------------------------


@pytest.mark.parametrize("part", ["key", "kind of key", "subject", "version"])
@pytest.mark.parametrize("place", ["at the start", "during a run"])
def test_damaged_certificate_is_refused_in_a_sentence(part: str, place: str, keys: KeyMaker) -> None:
    """The library reads such parts late; that must not end a run as a defect."""
    good = keys.certificate(_SERVICE, "2222", key=keys.other_key)
    _write("key.p12", keys.p12(keys.certificate("merchant", "1111")))
    _write("service.pem", good.public_bytes(Encoding.PEM))
    environ = _P12 | {"BATCHCANCEL_MLE": "request", "BATCHCANCEL_MLE_CERT_FILE": "service.pem"}
    sentence = (
        "service.pem can't be used: a key or certificate in it is damaged, or of a kind that is not "
        "supported."
    )
    body = base64.encodebytes(keys.damaged(_SERVICE, part=part))
    damaged = b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"
    if place == "at the start":
        _write("service.pem", damaged)
        with pytest.raises(SettingsError) as caught:
            _load(environ)
        assert (str(caught.value), caught.value.__context__) == (sentence, None)
        return
    loaded = _load(environ)
    _write("service.pem", damaged)
    assert loaded.files.reload() == [KeyFileChanged(path="service.pem", problem=sentence)]
    assert loaded.encryption is not None
    assert loaded.encryption.encrypt(b"{}", now=0)


@pytest.mark.parametrize("damage", ["kind of key", "panic"])
def test_damaged_key_for_replies_is_refused_in_a_sentence(damage: str, keys: KeyMaker) -> None:
    """A panic of the library's Rust code included, which is no Exception to Python."""
    if damage == "panic":  # an IV of eight bytes where sixteen are needed
        head = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,0102030405060708\n\n"
        kind, body = "RSA PRIVATE KEY-----\n", base64.b64encode(bytes(64)).decode()
        pem = f"-----BEGIN {kind}{head}{body}\n-----END {kind}".encode()
    else:
        lines = keys.pem().splitlines()
        der = base64.b64decode(b"".join(lines[1:-1])).replace(b"\r\x01\x01\x01", b"\r\x01\x01\x6f", 1)
        pem = b"\n".join((lines[0], base64.encodebytes(der).rstrip(), lines[-1]))
    _write("key.p12", keys.p12(keys.certificate("merchant", "1111"), keys.certificate(_SERVICE, "2222")))
    _write("response.p12", pem)
    with pytest.raises(SettingsError, match=r"^response\.p12 can't be used: a key or certificate in it is"):
        _load(_P12 | _RESPONSE | {"BATCHCANCEL_MLE_RESPONSE_KEY_ID": "3333"})


def test_file_that_is_too_long_is_refused() -> None:
    """It is no key, and is not read to its end."""
    _write("key.p12", bytes((1 << 20) + 1))
    with pytest.raises(SettingsError, match=r"^key\.p12 is no file of keys: it is longer than 1 MiB\."):
        _load(_P12)


# --- what tracebacks show -------------------------------------------------------------------------


@pytest.mark.parametrize("vector", _VECTORS["negative"], ids=lambda vector: vector["name"])
def test_no_variable_of_a_traceback_is_secret(
    vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some tools print each frame's variables with an error: nothing of this package is secret there."""
    if vector["name"] == _GOOD:
        return
    environ = _environment(vector["config"])
    # As some do: the secret itself, and beside it something that is refused.
    refused = [environ, environ | {"BATCHCANCEL_SHARED_SECRET": "hunter2hunter2!", "BATCHCANCEL_RATE": "x"}]
    secrets = {vector["config"].get("merchant_secretkey"), vector["config"].get("key_password"), "hunter2"}
    for one in refused:
        monkeypatch.setattr("os.environ", one)
        error = _error_of_loading()
        frames = error.__traceback__.tb_next if error.__traceback__ else None  # not the test's own
        assert frames is not None
        shown = StringIO()
        traceback_ = Traceback.from_exception(type(error), error, frames, show_locals=True, width=400)
        Console(file=shown, width=400).print(traceback_)
        assert "settings" in shown.getvalue()
        for secret in secrets - {None}:
            # A word as short as "wrong" stands in the code by itself, a variable's is in quotes.
            spelling = secret if len(secret) > 5 else f"'{secret}'"
            assert spelling not in shown.getvalue()


def _error_of_loading() -> SettingsError:
    try:
        load_keys(load_settings(["invoices.csv"], env="test"))
    except SettingsError as exc:
        return exc
    raise AssertionError("nothing was refused")


# --- what a person is told ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["signing certificate", "encryption certificate", "response key's certificate"]
)
def test_each_certificate_is_warned_about_from_ninety_days_on(name: str, keys: KeyMaker) -> None:
    """Not one day earlier, and no other one with it."""

    def warned(days: float) -> list[str]:
        left = dict.fromkeys(("signing", "encryption", "response"), 400.0) | {name.partition(" ")[0]: days}
        service = keys.certificate(_SERVICE, "2222", key=keys.other_key, days=left["encryption"])
        _write("key.p12", keys.p12(keys.certificate("merchant", "1111", days=left["signing"]), service))
        _write("response.p12", keys.p12(keys.certificate("merchant", "3333", days=left["response"])))
        expiries = _load(_P12 | _RESPONSE).expiries
        assert len(expiries) == 3
        return [one.what for one in expiries if one.warning(time.time()) is not None]

    assert [warned(days) for days in (90.1, 89.9, -0.1)] == [[], [name], [name]]


def test_end_of_each_certificate_is_shown_and_warned_about(
    keys: KeyMaker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is sent; one that has expired is no reason to refuse."""
    Path("invoices.txt").write_text("no id\n", encoding="ascii")  # settled without a request
    _write(
        "key.p12",
        keys.p12(
            keys.certificate("merchant", "1111", days=30.5),
            keys.certificate(_SERVICE, "2222", key=keys.other_key, days=400),
        ),
    )
    _write("response.p12", keys.p12(keys.certificate("merchant", "3333", days=-2)))
    settings = load_settings(
        ["invoices.txt"], environ=_P12 | _RESPONSE, env="sandbox", base_url="http://127.0.0.1:9"
    )
    assert run_job(settings, Observers(Receivers(ping=None, notify=None))) == 3
    said = capsys.readouterr().err
    assert "  key       encryption certificate key.p12, valid until 20" in said
    assert said.count("valid until") == 3
    assert said.count("Warning:") == 2
    assert "Warning: The signing certificate in key.p12 expires in 30 days (20" in said
    assert "Warning: The response key's certificate in response.p12 has expired (20" in said
    assert "pass word" not in said
