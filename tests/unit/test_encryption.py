"""Message-level encryption: as the official SDK does it, and nothing hostile gets through."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import example, given
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import Key, OctKey, RSAKey

from batchcancel.api.encryption import (
    EncryptionKey,
    MessageEncryption,
    ResponseKey,
    encryption_key,
    parse_certificates,
    parse_response_key,
)
from batchcancel.api.envelope import encrypted_reply
from batchcancel.errors import SettingsError

if TYPE_CHECKING:
    from tests.unit.conftest import KeyMaker

_VECTORS: Final = json.loads((Path(__file__).parent.parent / "vectors" / "auth_vectors.json").read_bytes())[
    "mle"
]
_SERVICE: Final = _VECTORS["keys"]["sjc"]
_RESPONSE: Final = _VECTORS["keys"]["response_mle"]
_PATH: Final = Path("folder/response.key")
_CANCELED: Final = b'{"id":"2675","status":"CANCELED"}'


def _response_key() -> ResponseKey:
    return parse_response_key(
        base64.b64decode(_RESPONSE["p12_base64"]),
        password=_RESPONSE["password"].encode(),
        key_id=None,
        path=_PATH,
    )


def _service_key() -> EncryptionKey:
    return encryption_key(parse_certificates(_SERVICE["cert_pem"].encode(), path=_PATH), path=_PATH)


_KEY: Final = _response_key()
_ENCRYPTION: Final = MessageEncryption(service_key=_service_key, response_keys=lambda: [_KEY])


# --- requests -------------------------------------------------------------------------------------


def _opened(body: bytes) -> tuple[dict[str, Any], bytes | None]:
    """Open a request as the service does: with its private key and an independent library's defaults."""
    (name, token), *others = json.loads(body).items()
    assert (name, others) == ("encryptedRequest", [])
    opened = jwe.decrypt_compact(
        token,
        RSAKey.import_key(_SERVICE["private_key_pem"]),
        registry=jwe.JWERegistry(algorithms=["RSA-OAEP-256", "A256GCM"], strict_check_header=False),
    )
    return opened.protected, opened.plaintext


@pytest.mark.parametrize("vector", _VECTORS["request"], ids=lambda vector: vector["name"])
def test_request_opens_as_the_official_sdks_does(vector: dict[str, Any]) -> None:
    """Header and plain text are the same; what is random in between can't be."""
    theirs = _opened(vector["body_on_wire"].encode())
    ours = _opened(_ENCRYPTION.encrypt(vector["plaintext"].encode(), now=vector["unix_time"] + 0.75))
    assert theirs == ours == (vector["jwe_protected_header"], b"{}")


@given(body=st.binary(max_size=2000))
def test_any_request_opens_again(body: bytes) -> None:
    """Nothing is lost."""
    assert _opened(_ENCRYPTION.encrypt(body, now=0))[1] == body


def test_each_request_is_encrypted_anew() -> None:
    """The same body never looks the same."""
    assert len({_ENCRYPTION.encrypt(b"{}", now=0) for _ in range(20)}) == 20


@pytest.mark.parametrize("content", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nx"], ids=repr)
def test_file_without_certificates_is_refused(content: bytes) -> None:
    """The sentence names it."""
    with pytest.raises(SettingsError, match=r"folder/response\.key holds no certificate in PEM form\."):
        parse_certificates(content, path=_PATH)


def test_certificate_of_another_name_is_refused() -> None:
    """What is encrypted for somebody else, the service could not read."""
    certificates = parse_certificates(_RESPONSE["cert_pem"].encode(), path=_PATH)
    with pytest.raises(
        SettingsError, match=r"no certificate for CyberSource_SJC_US; it holds testmid_0001\."
    ):
        encryption_key(certificates, path=_PATH)


# --- replies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", _VECTORS["response"], ids=lambda vector: vector["name"])
def test_reply_decrypts(vector: dict[str, Any]) -> None:
    """Every one that the official SDK decrypts, success or error."""
    token = encrypted_reply(vector["body"].encode())
    assert token is not None
    plain = _ENCRYPTION.decrypt(token)
    assert plain is not None
    assert plain.decode() == vector["plaintext"]


@pytest.mark.parametrize(
    "body", [*_VECTORS["not_encrypted_passthrough"], "[]", "\xff", "[" * 20000], ids=repr
)
def test_plain_reply_is_taken_as_it_is(body: str) -> None:
    """An object with that one name and a text is encrypted, and nothing else."""
    assert encrypted_reply(body.encode("latin-1")) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"encryptedResponse":null}',
        b'{"encryptedResponse":["x"]}',
        b'["encryptedResponse"]',
        b'"encryptedResponse"',
        b'{"encryptedResponse":"x"',
        b'{"encryptedResponse":"\xff"}',
        b'{"encryptedResponse":' + b"[" * 20_000,
    ],
    ids=["null", "list", "in a list", "text", "cut", "no text", "deep"],
)
def test_what_only_resembles_an_encrypted_reply_is_plain(body: bytes) -> None:
    """The reader of replies judges it as any other body."""
    assert encrypted_reply(body) is None


def test_without_a_key_nothing_decrypts() -> None:
    """Requests alone may be encrypted."""
    assert MessageEncryption(service_key=_service_key).decrypt(_encrypted()) is None


def _encrypted(plain: bytes = _CANCELED, key: Key | None = None, **header: Any) -> str:
    """Encrypt a reply for our key, or in any other way."""
    header = {"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": _KEY.key_id} | header
    registry = jwe.JWERegistry(algorithms=[header["alg"], header["enc"], "DEF"], strict_check_header=False)
    public_key = RSAKey.import_key(_KEY.private_key.public_key)
    return jwe.encrypt_compact(header, plain, key or public_key, registry=registry)


def test_the_same_reply_untouched_decrypts() -> None:
    """What the next tests damage is good before, with fields that nobody listed too."""
    assert _ENCRYPTION.decrypt(_encrypted()) == _CANCELED
    assert _ENCRYPTION.decrypt(_encrypted(iat="1", cty="json", typ="x", other=[1])) == _CANCELED


@pytest.mark.parametrize(
    "header",
    [
        {"zip": "DEF"},
        {"enc": "A128GCM"},
        {"enc": "A256CBC-HS512"},
        {"alg": "RSA1_5"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*:joserfc.errors.SecurityWarning")
def test_reply_of_another_algorithm_is_refused(header: dict[str, Any]) -> None:
    """Compressed ones too: a few bytes could grow to gigabytes."""
    assert _ENCRYPTION.decrypt(_encrypted(**header)) is None


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "PBES2-HS256+A128KW", "p2c": 2**31 - 1, "p2s": "c2FsdA"},
        {"alg": "dir"},
        {"alg": "A256KW"},
        {"alg": "none"},
        {"crit": ["exp"], "exp": 1},
        {"alg": None},
        {"alg": ["RSA-OAEP-256"]},
        {"enc": {}},
    ],
    ids=str,
)
def test_header_that_says_something_else_is_refused_at_once(header: dict[str, Any]) -> None:
    """No work whose cost the sender chooses is done: two thousand million rounds would not end."""
    segments = _encrypted().split(".")
    fields = {"alg": "RSA-OAEP-256", "enc": "A256GCM"} | header
    segments[0] = base64.urlsafe_b64encode(json.dumps(fields).encode()).rstrip(b"=").decode()
    assert _ENCRYPTION.decrypt(".".join(segments)) is None


def test_reply_for_another_key_is_refused(keys: KeyMaker) -> None:
    """As after a mix-up of key files."""
    assert _ENCRYPTION.decrypt(_encrypted(key=RSAKey.import_key(keys.key.public_key()))) is None


def test_reply_for_the_key_before_the_present_one_decrypts(keys: KeyMaker) -> None:
    """It was asked for before the key file changed; the present key is tried first."""
    present = parse_response_key(keys.pem(), password=None, key_id="new", path=_PATH)
    encryption = MessageEncryption(service_key=_service_key, response_keys=lambda: (present, _KEY))
    assert encryption.decrypt(_encrypted()) == _CANCELED
    assert encryption.decrypt(_encrypted(key=RSAKey.import_key(keys.key.public_key()))) == _CANCELED
    assert encryption.decrypt(_encrypted(key=RSAKey.import_key(keys.other_key.public_key()))) is None


def test_reply_with_a_key_of_its_own_is_refused() -> None:
    """A content key in the clear protects nothing."""
    assert _ENCRYPTION.decrypt(_encrypted(key=OctKey.generate_key(256), alg="dir")) is None


@pytest.mark.parametrize("segment", range(5), ids=["header", "key", "nonce", "text", "tag"])
def test_reply_that_was_touched_is_refused(segment: int) -> None:
    """One changed character anywhere is enough."""
    segments = _encrypted().split(".")
    first = segments[segment][0]
    segments[segment] = ("A" if first != "A" else "B") + segments[segment][1:]
    assert _ENCRYPTION.decrypt(".".join(segments)) is None


def test_reply_as_long_as_the_client_reads_decrypts() -> None:
    """An invoice may have many lines; the library's own limit would be 48 kB."""
    plain = b'{"x":"' + b"y" * 700_000 + b'"}'
    assert _ENCRYPTION.decrypt(_encrypted(plain)) == plain
    assert _ENCRYPTION.decrypt(_encrypted(b"y" * 800_000)) is None


@given(token=st.text(max_size=300) | st.lists(st.text(max_size=30), min_size=5, max_size=5).map(".".join))
@example("....")
@example("W10.W10.W10.W10.W10")
@example("ImFsZyBlbmMi....")
@example("\u0660.....")
def test_no_text_is_taken_for_a_reply(token: str) -> None:
    """Whatever it is, there is an answer and no exception."""
    assert _ENCRYPTION.decrypt(token) is None


# --- the key for replies --------------------------------------------------------------------------


def test_key_id_is_the_certificate_s() -> None:
    """A P12 file says it by itself."""
    assert _KEY.key_id == _RESPONSE["expected_kid"]
    assert _KEY.expiry is not None
    assert _KEY.expiry.what == "response key's certificate"


@pytest.mark.parametrize(
    ("pem", "password"),
    [("private_key_pem", None), ("encrypted_private_key_pem", "encrypted_private_key_password")],
    ids=["plain", "encrypted"],
)
def test_key_may_be_pem(pem: str, password: str | None) -> None:
    """It decrypts the same replies, under the id that was given."""
    key = parse_response_key(
        _RESPONSE[pem].encode(),
        password=None if password is None else _RESPONSE[password].encode(),
        key_id="given",
        path=_PATH,
    )
    assert (key.key_id, key.expiry) == ("given", None)
    assert MessageEncryption(service_key=_service_key, response_keys=lambda: [key]).decrypt(_encrypted())


def _refusal(content: bytes, password: bytes | None, key_id: str | None = "given") -> str:
    with pytest.raises(SettingsError) as caught:
        parse_response_key(content, password=password, key_id=key_id, path=_PATH)
    assert "secret-word" not in str(caught.value)
    assert caught.value.__context__ is None
    return str(caught.value)


@pytest.mark.parametrize("password", [None, b"secret-word"], ids=["missing", "wrong"])
def test_key_whose_password_is_another_is_refused(password: bytes | None) -> None:
    """PEM or P12: the file is named, the password is not shown."""
    for content in (
        _RESPONSE["encrypted_private_key_pem"].encode(),
        base64.b64decode(_RESPONSE["p12_base64"]),
    ):
        assert _refusal(content, password).startswith("folder/response.key can't be opened")


def test_pem_that_is_no_private_key_is_refused() -> None:
    """A certificate is PEM too."""
    assert "holds no private RSA key in PEM form" in _refusal(_RESPONSE["cert_pem"].encode(), None)


def test_key_without_an_id_is_refused(keys: KeyMaker) -> None:
    """PEM says none, nor does a P12 file without the key's own certificate."""
    foreign = keys.certificate("m", "2", key=keys.other_key)
    for content, password in ((keys.pem(), None), (keys.p12(foreign), b"pass word")):
        assert _refusal(content, password, key_id=None) == (
            "folder/response.key does not say what the service knows its key by: set "
            "BATCHCANCEL_MLE_RESPONSE_KEY_ID."
        )


def test_key_that_is_too_short_is_refused(keys: KeyMaker) -> None:
    """At the start, and not with the first message: the library refuses to use it."""
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the point
    pem = short.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    sentence = "The RSA key in folder/response.key has 1024 bits; for encryption it takes 2,048 at least."
    assert _refusal(pem, None) == sentence
    with pytest.raises(SettingsError) as caught:
        encryption_key((keys.certificate("CyberSource_SJC_US", "1", key=short),), path=_PATH)
    assert str(caught.value) == sentence


def test_key_of_the_service_that_is_not_rsa_is_refused(keys: KeyMaker) -> None:
    """There is no way to encrypt for it."""
    curve = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(SettingsError, match=r"folder/response\.key has no RSA key, which the service needs"):
        encryption_key((keys.certificate("CyberSource_SJC_US", "1", key=curve),), path=_PATH)


def test_the_longest_valid_certificate_of_the_service_is_used(keys: KeyMaker) -> None:
    """A file may hold the one before it too; any order will do."""
    old = keys.certificate("CyberSource_SJC_US", "1", days=10)
    new = keys.certificate("cybersource_sjc_us", "2", days=400)
    for pair in ((old, new), (new, old)):
        assert encryption_key(pair, path=_PATH).key_id == "2"


def test_key_never_shows() -> None:
    """Neither representation holds the private key."""
    shown = f"{_KEY!r} {_KEY} {_KEY.__rich_repr__()} {_ENCRYPTION!r}"
    assert _KEY.key_id in shown
    assert "private_key" not in shown
