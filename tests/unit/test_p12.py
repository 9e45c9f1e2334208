"""P12 files: tokens as the official SDK signs them, and what can't sign is refused without a leak."""

from __future__ import annotations

import base64
import json
import sys
import threading
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PublicFormat,
    pkcs12,
)
from joserfc import jwt
from joserfc.jwk import RSAKey

from batchcancel.api.certificates import read_key_file
from batchcancel.api.p12 import P12, CertificateKey, own_certificate, parse_p12, signing_key
from batchcancel.api.signing import Identity, JwtSigner
from batchcancel.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.conftest import KeyMaker

_FOLDER: Final = Path(__file__).parent.parent / "vectors"
_VECTORS: Final = json.loads((_FOLDER / "auth_vectors.json").read_bytes())
_FILES: Final = json.loads((_FOLDER / "p12_envelopes.json").read_bytes())
_ENVELOPES: Final = _FILES["envelopes"]
_SEVERAL: Final = _FILES["several_keys"]
_MERCHANT: Final = _VECTORS["p12_material"]["merchant"]
_PATH: Final = Path("folder/key.p12")
_PASSWORD: Final = b"pass word"


def _material(name: str) -> P12:
    material = _VECTORS["p12_material"][name]
    return parse_p12(
        base64.b64decode(material["p12_base64"]), password=material["password"].encode(), path=_PATH
    )


def _token(key: CertificateKey, inputs: dict[str, Any], **options: Any) -> str:
    config = inputs["config"]
    signer = JwtSigner(
        Identity(merchant_id=config["merchantid"], portfolio_id=config.get("portfolio_id")),
        key=lambda: key,
        new_jti=lambda: str(inputs["uuid4"]),
        **options,
    )
    return signer.headers(
        method=inputs["method"],
        target=inputs["request_target"],
        host=config["run_environment"],
        body=None if inputs["body"] is None else inputs["body"].encode(),
        now=inputs["unix_time"] + 0.75,
    )["Authorization"]


# --- what signs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", _VECTORS["jwt_p12"], ids=lambda vector: vector["name"])
def test_token_equals_the_official_sdks(vector: dict[str, Any]) -> None:
    """RS256 leaves nothing to chance: header, claims and signature are the same bytes."""
    inputs = vector["inputs"]
    key = signing_key(_material(inputs["config"]["key_file_name"]), alias=inputs["config"]["key_alias"])
    options: dict[str, Any] = {}
    if "responseMlePrivateKeyFilePath" in inputs["config"]:
        options["response_key_id"] = lambda: _VECTORS["mle"]["keys"]["response_mle"]["expected_kid"]
    assert _token(key, inputs, **options) == vector["expected"]["authorization_header"]


@pytest.mark.parametrize("name", ["merchant", "portfolio"])
def test_key_id_is_the_serial_number_of_the_subject(name: str) -> None:
    """Not the number that the issuer gave the certificate."""
    material = _VECTORS["p12_material"][name]
    assert signing_key(_material(name), alias=material["key_alias"]).key_id == material["expected_kid"]


def test_portfolio_signs_for_the_merchant() -> None:
    """A meta key's token says both, and a JOSE library verifies it with the portfolio's certificate."""
    material = _VECTORS["p12_material"]["portfolio"]
    config = {"merchantid": "child", "portfolio_id": "testportfolio", "run_environment": "h"}
    inputs = _VECTORS["jwt_p12"][0]["inputs"] | {"config": config}
    bearer = _token(signing_key(_material("portfolio"), alias="testportfolio"), inputs)
    public_key = RSAKey.import_key(_public_pem(_material("portfolio")))
    token = jwt.decode(bearer.removeprefix("Bearer "), public_key, algorithms=["RS256"])
    assert token.header == {"alg": "RS256", "kid": material["expected_kid"], "typ": "JWT"}
    assert (token.claims["iss"], token.claims["v-c-merchant-id"]) == ("testportfolio", "child")


def _public_pem(p12: P12) -> bytes:
    """Return the public key of a file's own certificate."""
    certificate = own_certificate(p12)
    assert certificate is not None
    return certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("envelope", _ENVELOPES)
def test_file_of_any_age_opens(envelope: str) -> None:
    """Files from before 2024 have the envelope that newer libraries have dropped."""
    p12 = parse_p12(
        base64.b64decode(_ENVELOPES[envelope]), password=_MERCHANT["password"].encode(), path=_PATH
    )
    assert signing_key(p12, alias=_MERCHANT["key_alias"]).key_id == _MERCHANT["expected_kid"]
    assert len(p12.certificates) == 2


@pytest.mark.parametrize("alias", ["testmid_0001", "TESTMID_0001", "TestMid_0001"])
def test_alias_is_found_in_any_case(alias: str) -> None:
    """So the official SDK finds it."""
    assert signing_key(_material("merchant"), alias=alias).key_id == _MERCHANT["expected_kid"]


def test_the_longest_valid_certificate_signs(keys: KeyMaker) -> None:
    """A renewed file may hold the old one too; any order will do."""
    old, new = keys.certificate("m", "1", days=10), keys.certificate("M", "2", days=400)
    for pair in ((old, new), (new, old)):
        p12 = parse_p12(keys.p12(*pair), password=_PASSWORD, path=_PATH)
        assert signing_key(p12, alias="m").key_id == "2"


def test_expiry_is_the_certificate_s(keys: KeyMaker) -> None:
    """It is told with the file that it is in."""
    certificate = keys.certificate("m", "1", days=10)
    expiry = signing_key(parse_p12(keys.p12(certificate), password=_PASSWORD, path=_PATH), alias="m").expiry
    assert (expiry.what, expiry.path) == ("signing certificate", "folder/key.p12")
    assert expiry.at == certificate.not_valid_after_utc.timestamp()


def test_other_threads_run_while_one_signs() -> None:
    """RSA lets go of the interpreter's lock, so signatures in threads use every core."""
    key = signing_key(_material("merchant"), alias="testmid_0001")
    has_begun, has_ended = threading.Event(), threading.Event()

    def sign() -> None:
        has_begun.set()
        for _ in range(200):
            key.sign(b"data")
        has_ended.set()

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # from here on, a thread runs only when the other one lets it
    try:
        signing = threading.Thread(target=sign)
        signing.start()
        has_begun.wait(30)
        turns = 0
        while not has_ended.wait(0.0005):
            turns += 1
        signing.join()
    finally:
        sys.setswitchinterval(interval_s)
    assert turns > 1


# --- what can't -----------------------------------------------------------------------------------


def _refusal(work: Callable[[], object]) -> str:
    """Return the sentence; the whole traceback shows neither password nor key, and hides no cause."""
    with pytest.raises(SettingsError) as caught:
        work()
    shown = "".join(traceback.format_exception(caught.value))
    # The lines of source of this file's own frames are no leak.
    assert _PASSWORD.decode() not in str(caught.value)
    assert _MERCHANT["password"] not in shown
    assert "PRIVATE KEY" not in shown
    assert caught.value.__context__ is None
    return str(caught.value)


@pytest.mark.parametrize(
    "password",
    [b"wrong-pass", b"", b"\xff\xfe", b"merchant-pass\n"],
    ids=["wrong", "empty", "no text", "line"],
)
@pytest.mark.parametrize("envelope", _ENVELOPES)
def test_wrong_password_is_refused(envelope: str, password: bytes) -> None:
    """The sentence names the file and shows neither password."""
    content = base64.b64decode(_ENVELOPES[envelope])
    sentence = _refusal(lambda: parse_p12(content, password=password, path=_PATH))
    assert sentence.startswith("folder/key.p12 can't be opened: its password is another one")
    assert "wrong-pass" not in sentence


@pytest.mark.parametrize("content", [b"", b"no p12", b"0" * 5000, b"-----BEGIN "], ids=repr)
def test_what_is_no_p12_is_refused(content: bytes) -> None:
    """Whatever is in the file."""
    assert "folder/key.p12 can't be opened" in _refusal(
        lambda: parse_p12(content, password=_PASSWORD, path=_PATH)
    )


def test_file_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    """It may go away after its mode was looked at."""
    path = tmp_path / "gone.p12"
    with pytest.raises(SettingsError) as caught:
        read_key_file(path)
    assert str(caught.value) == f"The key file {path} can't be read: No such file or directory."


def test_file_without_a_private_key_is_refused(keys: KeyMaker) -> None:
    """A bag of certificates is a P12 file too."""
    bag = pkcs12.serialize_key_and_certificates(
        None, None, None, [keys.certificate("m", "1")], BestAvailableEncryption(_PASSWORD)
    )
    sentence = _refusal(lambda: parse_p12(bag, password=_PASSWORD, path=_PATH))
    assert sentence.startswith("folder/key.p12 holds no private RSA key")


def test_key_that_is_not_rsa_is_refused(keys: KeyMaker) -> None:
    """The service takes no other."""
    curve = ec.generate_private_key(ec.SECP256R1())
    content = keys.p12(keys.certificate("m", "1", key=curve), key=curve)
    assert "holds no private RSA key" in _refusal(lambda: parse_p12(content, password=_PASSWORD, path=_PATH))


def test_alias_without_a_certificate_is_refused() -> None:
    """The sentence says what is there instead."""
    assert _refusal(lambda: signing_key(_material("merchant"), alias="other")) == (
        "folder/key.p12 holds no certificate for other; it holds testmid_0001, CyberSource_SJC_US, "
        "batchcancel throwaway CA."
    )


def test_file_without_certificates_is_refused(keys: KeyMaker) -> None:
    """A key alone can't say what the service knows it by."""
    p12 = parse_p12(keys.p12(), password=_PASSWORD, path=_PATH)
    assert _refusal(lambda: signing_key(p12, alias="m")) == (
        "folder/key.p12 holds no certificate for m; it holds no certificate."
    )


def test_certificate_without_a_serial_number_is_refused() -> None:
    """The issuer's number is no substitute: the official SDK refuses it too."""
    sentence = _refusal(lambda: signing_key(_material("no_subject_serial"), alias="testmid_0001"))
    assert sentence.startswith(
        "The certificate for testmid_0001 in folder/key.p12 has no serialNumber in its subject"
    )


@pytest.mark.parametrize("kind", ["RSA", "elliptic curve"])
def test_certificate_of_another_key_is_refused(keys: KeyMaker, kind: str) -> None:
    """Its signatures would be refused one by one."""
    other = keys.other_key if kind == "RSA" else ec.generate_private_key(ec.SECP256R1())
    own, foreign = keys.certificate("own", "1"), keys.certificate("m", "2", key=other)
    p12 = parse_p12(keys.p12(own, foreign), password=_PASSWORD, path=_PATH)
    assert _refusal(lambda: signing_key(p12, alias="m")).startswith(
        "The certificate for m in folder/key.p12 is not that of the private key there."
    )


def test_certificate_of_the_key_before_does_not_sign(keys: KeyMaker) -> None:
    """A renewed file may hold it under the same name, and it may even be valid longer."""
    new, old = keys.certificate("m", "1", days=10), keys.certificate("m", "2", key=keys.other_key, days=99)
    for pair in ((old, new), (new, old)):
        p12 = parse_p12(keys.p12(*pair), password=_PASSWORD, path=_PATH)
        assert signing_key(p12, alias="m").key_id == "1"


def test_of_several_keys_the_first_one_signs() -> None:
    """The library reads no other one; who means another is told so, and nothing is signed with the first."""
    content = base64.b64decode(_SEVERAL["p12_base64"])
    p12 = parse_p12(content, password=_SEVERAL["password"].encode(), path=_PATH)
    assert len(p12.certificates) == 3
    assert signing_key(p12, alias="FIRST").key_id == "first-1"
    for alias in ("second", "third"):
        assert _refusal(partial(signing_key, p12, alias=alias)) == (
            f"The certificate for {alias} in folder/key.p12 is not that of the private key there. Of a file "
            "with several keys only the first one is read: give this key a file of its own."
        )


def test_authority_s_key_may_be_of_an_unknown_kind(keys: KeyMaker) -> None:
    """Nothing is encrypted for it or verified with it, so it is no reason to refuse the file."""
    authority = x509.load_der_x509_certificate(keys.damaged("m", part="kind of key"))
    content = keys.p12(keys.certificate("m", "1"), authority)
    p12 = parse_p12(content, password=_PASSWORD, path=_PATH)
    assert signing_key(p12, alias="m").key_id == "1"
    assert own_certificate(p12) is not None


def test_names_in_a_file_move_no_terminal(keys: KeyMaker) -> None:
    """They are told where the alias is not among them."""
    p12 = parse_p12(keys.p12(keys.certificate("a\x1b[2Jb", "1")), password=_PASSWORD, path=_PATH)
    assert _refusal(lambda: signing_key(p12, alias="m")) == (
        "folder/key.p12 holds no certificate for m; it holds 'a\\x1b[2Jb'."
    )


def test_key_never_shows() -> None:
    """Neither representation holds the private key's numbers."""
    key = signing_key(_material("merchant"), alias="testmid_0001")
    shown = f"{key!r} {key} {key.__rich_repr__()}"
    assert _MERCHANT["expected_kid"] in shown
    assert "private_key" not in shown
    assert str(key.private_key.private_numbers().d) not in f"{shown} {_material('merchant')!r}"
