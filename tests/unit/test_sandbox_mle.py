"""The simulator's message-level encryption, both ways: without sockets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc import jwe as jose
from joserfc import jwt
from joserfc.jwk import RSAKey
from multidict import CIMultiDict

from batchcancel.sandbox import jwe
from batchcancel.sandbox.answers import Answer
from batchcancel.sandbox.auth import Authenticator
from batchcancel.sandbox.keys import EncryptionKey, ResponseCertificate, SandboxKeys, SigningCertificate
from batchcancel.sandbox.options import SandboxOptions
from batchcancel.sandbox.service import Service
from batchcancel.sandbox.wire import RefusedError, WireRequest

if TYPE_CHECKING:
    from tests.conftest import KeyHolder

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "auth_vectors.json").read_text())
MLE = VECTORS["mle"]
NOW_S = 1_767_225_600
ROOT = "/invoicing/v2/invoices"
TARGET = f"{ROOT}/2675/cancelation"


class Client:
    """Signs with the holder's certificate and asks a service that knows the holder's keys."""

    def __init__(self, holder: KeyHolder, **options: Any) -> None:
        self.holder = holder
        known: dict[str, Any] = {"merchant_id": holder.signer_id, "keys": holder.files.read()}
        self.service = Service(SandboxOptions(**(known | options)), wall_clock=lambda: NOW_S)

    def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        ask: bool = False,
        claims: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Send a request; ``ask`` for an encrypted reply; change claims."""
        changes = dict(claims or {})
        if ask:
            changes["v-c-response-mle-kid"] = self.holder.response_key_id
        target = ROOT + path
        token = self.holder.sign(self.holder.claims(method, target, body, now_s=NOW_S, **changes))
        headers = CIMultiDict({"Host": "127.0.0.1:8080", "Authorization": f"Bearer {token}"})
        return self.service.answer(WireRequest(method=method, target=target, headers=headers, body=body))[2]

    def cancel(self, invoice_id: str, body: bytes, *, ask: bool = False) -> Answer:
        return self.send("POST", f"/{invoice_id}/cancelation", body, ask=ask)

    def status(self, invoice_id: str) -> str | None:
        invoice = self.service.books[self.holder.signer_id].by_id.get(invoice_id)
        return None if invoice is None else invoice.status.value


# --- the official client's ------------------------------------------------------------------------


def vector_options(**options: Any) -> SandboxOptions:
    """Hold the service's side of the vectors' keys."""
    merchant = VECTORS["p12_material"]["merchant"]
    sjc, response = MLE["keys"]["sjc"], MLE["keys"]["response_mle"]
    keys = SandboxKeys(
        signing=SigningCertificate.from_pem(merchant["cert_pem"].encode()),
        encryption=EncryptionKey.from_pem((sjc["private_key_pem"] + sjc["cert_pem"]).encode()),
        response=ResponseCertificate.from_pem(response["cert_pem"].encode()),
    )
    by_secret = MLE["request"][1]["config"]
    return SandboxOptions(
        merchant_id="testmid_0001",
        key_id=by_secret["merchant_keyid"],
        secret=by_secret["merchant_secretkey"],
        keys=keys,
        **options,
    )


def vector_request(vector: dict[str, Any], body: str) -> WireRequest:
    """Rebuild what a vector's request was to a server."""
    headers = CIMultiDict(
        {"Host": "api.visaacceptance.com", "Authorization": f"Bearer {vector['jwt_token']}"}
    )
    return WireRequest(method="POST", target=TARGET, headers=headers, body=body.encode())


REQUESTS = [pytest.param(vector, id=vector["name"]) for vector in MLE["request"]]


@pytest.mark.parametrize("vector", REQUESTS)
@pytest.mark.parametrize("require_mle", [False, True], ids=["optional", "required"])
def test_encrypted_requests_of_the_official_client_are_served(
    vector: dict[str, Any], *, require_mle: bool
) -> None:
    """The token passes over the envelope, the envelope opens, the invoice is canceled."""
    options = vector_options(require_mle=require_mle)
    service = Service(options, wall_clock=lambda: vector["unix_time"])
    answer = service.answer(vector_request(vector, vector["body_on_wire"]))[2]
    assert (answer.http_status, answer.request_encrypted) == (200, True)
    body = json.loads(answer.body)
    if "v-c-response-mle-kid" in vector["jwt_claims"]:
        assert list(body) == ["encryptedResponse"]
        key = RSAKey.import_key(MLE["keys"]["response_mle"]["private_key_pem"])
        registry = jose.JWERegistry(algorithms=["RSA-OAEP-256", "A256GCM"], strict_check_header=False)
        opened = jose.decrypt_compact(body["encryptedResponse"], key, registry=registry)
        body = json.loads(opened.plaintext or b"")
    assert (body["id"], body["status"]) == ("2675", "CANCELED")


def test_a_look_up_of_the_official_client_passes_where_encryption_is_required() -> None:
    """With encryption on, its GET has no body, so there is nothing to encrypt and no digest."""
    vector = MLE["get_with_request_mle_on"]
    method, target, _ = vector["request_line"].split(" ")
    key = RSAKey.import_key(VECTORS["p12_material"]["merchant"]["private_key_pem"])
    header = {"alg": "RS256", "kid": VECTORS["p12_material"]["merchant"]["expected_kid"], "typ": "JWT"}
    token = jwt.encode(header, vector["claims"], key, algorithms=["RS256"])
    headers = CIMultiDict({"Host": "api.visaacceptance.com", "Authorization": f"Bearer {token}"})
    request = WireRequest(method=method, target=target, headers=headers, body=vector["body"].encode())
    service = Service(vector_options(require_mle=True), wall_clock=lambda: vector["claims"]["iat"])
    assert service.answer(request)[2].http_status == 200


@pytest.mark.parametrize("vector", REQUESTS)
def test_encrypted_bodies_of_the_official_client_decrypt(vector: dict[str, Any]) -> None:
    """What is in the envelope is what the vector says."""
    sjc = MLE["keys"]["sjc"]
    key = EncryptionKey.from_pem((sjc["cert_pem"] + sjc["private_key_pem"]).encode())
    assert key.key_id == sjc["expected_kid"]
    token = json.loads(vector["body_on_wire"])["encryptedRequest"]
    assert key.decrypt(token) == vector["plaintext"].encode()


@pytest.mark.parametrize("vector", REQUESTS)
def test_the_signature_covers_the_envelope_and_not_the_letter(vector: dict[str, Any]) -> None:
    """With the plain body under the same token, the digest is wrong."""
    authenticator = Authenticator(vector_options())
    with pytest.raises(RefusedError, match="wrong digest"):
        authenticator.identify(vector_request(vector, vector["plaintext"]), vector["unix_time"])


@pytest.mark.parametrize("vector", [pytest.param(vector, id=vector["name"]) for vector in MLE["response"]])
def test_replies_of_the_vectors_decrypt_where_their_form_is_that_of_requests(vector: dict[str, Any]) -> None:
    """The same envelope serves both ways; other forms are for clients to tolerate, not for services."""
    header = vector["jwe_protected_header"]
    response = MLE["keys"]["response_mle"]
    key = load_pem_private_key(response["private_key_pem"].encode(), None)
    assert isinstance(key, RSAPrivateKey)
    token = json.loads(vector["body"])["encryptedResponse"]
    if header["alg"] == "RSA-OAEP-256" and isinstance(header["iat"], int):
        assert jwe.decrypt(token, key, response["expected_kid"]).decode() == vector["plaintext"]
    else:
        with pytest.raises(RefusedError, match=r"alg is not RSA-OAEP-256|iat is not an integer"):
            jwe.decrypt(token, key, response["expected_kid"])


# --- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_both_plain_and_encrypted_requests_are_served(key_holder: KeyHolder, *, encrypted: bool) -> None:
    """Encryption is optional unless it is required, and the log says which it was."""
    client = Client(key_holder)
    answer = client.cancel("2675", key_holder.encrypt(b"{}") if encrypted else b"{}")
    assert (answer.http_status, answer.request_encrypted, answer.encrypted) == (200, encrypted, False)
    assert (answer.merchant_id, answer.scheme) == ("key_merchant", "RS256")
    assert client.status("2675") == "CANCELED"


def test_an_encrypted_creation_is_read(key_holder: KeyHolder) -> None:
    """What is in the envelope counts, not only that there is one."""
    client = Client(key_holder)
    wanted = {
        "invoiceInformation": {"invoiceNumber": "A7"},
        "orderInformation": {"amountDetails": {"totalAmount": "10.10", "currency": "EUR"}},
    }
    assert client.send("POST", "", key_holder.encrypt(json.dumps(wanted).encode())).http_status == 201
    assert client.status("A7") == "DRAFT"


def test_a_plain_body_is_refused_where_encryption_is_required(key_holder: KeyHolder) -> None:
    """400 in the documented form; look-ups have no body and pass."""
    client = Client(key_holder, require_mle=True)
    for body in (b"{}", b"", b'{"other": "encryptedRequest"}'):
        answer = client.cancel("2675", body)
        assert (answer.http_status, answer.cause) == (400, "not encrypted")
        assert json.loads(answer.body)["status"] == "BADREQUEST"
    assert client.status("2675") is None
    assert client.send("GET", "/2675").http_status == 200
    assert client.cancel("2675", key_holder.encrypt(b"{}")).http_status == 200


def test_encryption_can_not_be_required_without_a_key() -> None:
    """Such a simulator would refuse everything."""
    with pytest.raises(ValueError, match="required without a key"):
        SandboxOptions(require_mle=True)
    with pytest.raises(ValueError, match="required without a key"):
        SandboxOptions(require_mle=True, keys=SandboxKeys())


def test_an_encrypted_body_that_is_no_object_is_refused_as_a_plain_one_is(key_holder: KeyHolder) -> None:
    """Encryption does not make nonsense valid."""
    client = Client(key_holder)
    for plain in (b"[]", b"{", b"canceled"):
        answer = client.cancel("2675", key_holder.encrypt(plain))
        assert (answer.http_status, answer.request_encrypted) == (400, True)
    assert client.status("2675") == "SENT"


@pytest.mark.parametrize(
    ("header", "cause"),
    [
        pytest.param({"alg": "RSA-OAEP"}, "the JWE's alg is not RSA-OAEP-256", id="alg"),
        pytest.param({"enc": "A128GCM"}, "the JWE's enc is not A256GCM", id="enc"),
        pytest.param({"enc": "A256CBC-HS512"}, "the JWE's enc is not A256GCM", id="enc-cbc"),
        pytest.param({"kid": "someone"}, "the JWE is for another key", id="kid"),
        pytest.param({"kid": None}, "the JWE is for another key", id="no-kid"),
        pytest.param({"iat": "1767225600"}, "the JWE's iat is not an integer", id="iat-text"),
        pytest.param({"iat": True}, "the JWE's iat is not an integer", id="iat-true"),
        pytest.param({"iat": None}, "the JWE's iat is not an integer", id="no-iat"),
        pytest.param({"zip": "DEF"}, "the JWE's header holds more than it may", id="zip"),
    ],
)
def test_an_envelope_of_another_kind_is_refused(
    key_holder: KeyHolder, header: dict[str, Any], cause: str
) -> None:
    """One algorithm, one key, one form: 400, and nothing is done."""
    client = Client(key_holder)
    answer = client.cancel("2675", key_holder.encrypt(b"{}", **header))
    assert (answer.http_status, answer.cause) == (400, cause)
    assert json.loads(answer.body)["status"] == "BADREQUEST"
    assert client.status("2675") is None


PARTS = ["header", "wrapped key", "iv", "ciphertext", "tag"]


def touched(envelope: bytes, part: int) -> bytes:
    """Change one bit in one part of the compact form."""
    parts = json.loads(envelope)["encryptedRequest"].split(".")
    data = bytearray(base64.urlsafe_b64decode(parts[part] + "=="))
    data[-1] ^= 1
    parts[part] = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    return json.dumps({"encryptedRequest": ".".join(parts)}).encode()


@pytest.mark.parametrize("part", range(5), ids=PARTS)
def test_a_touched_envelope_does_not_open(key_holder: KeyHolder, part: int) -> None:
    """One bit anywhere spoils it, whoever signed the request."""
    client = Client(key_holder)
    answer = client.cancel("2675", touched(key_holder.encrypt(b"{}"), part))
    assert answer.http_status == 400
    assert answer.cause == ("token part is not JSON" if part == 0 else "the JWE can't be decrypted")
    assert client.status("2675") is None


def test_a_header_that_was_exchanged_does_not_open(key_holder: KeyHolder) -> None:
    """The header is guarded by the encryption, even where it says nothing wrong."""
    client = Client(key_holder)
    tokens = [
        json.loads(key_holder.encrypt(b"{}", iat=iat_s))["encryptedRequest"].split(".") for iat_s in (1, 2)
    ]
    mixed = ".".join([tokens[0][0], *tokens[1][1:]])
    answer = client.cancel("2675", json.dumps({"encryptedRequest": mixed}).encode())
    assert (answer.http_status, answer.cause) == (400, "the JWE can't be decrypted")


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        pytest.param(b'{"encryptedRequest": 123}', "malformed encryptedRequest", id="number"),
        pytest.param(b'{"encryptedRequest": "x", "a": 1}', "malformed encryptedRequest", id="more"),
        pytest.param(b'{"encryptedRequest": ""}', "malformed JWE", id="empty"),
        pytest.param(b'{"encryptedRequest": "a.b.c"}', "malformed JWE", id="three-parts"),
        pytest.param(b'{"encryptedRequest": "a.b.c.d.e"}', "not base64url", id="no-base64"),
        pytest.param(b'{"encryptedRequest": "e30.AA.AA.AA.\xc3\xa9"}', "malformed JWE", id="no-ascii"),
        pytest.param(
            b'{"encryptedRequest": "W10.AA.AA.AA.AA"}', "token part is not a JSON object", id="array"
        ),
    ],
)
def test_a_malformed_envelope_is_refused_without_an_exception(
    key_holder: KeyHolder, body: bytes, cause: str
) -> None:
    """Whoever names the envelope has to bring one."""
    client = Client(key_holder)
    answer = client.cancel("2675", body)
    assert (answer.http_status, answer.cause) == (400, cause)
    assert client.status("2675") is None


@pytest.mark.parametrize(
    "length",
    [
        pytest.param({"iv": 11}, id="iv"),
        pytest.param({"tag": 12}, id="tag"),
    ],
)
def test_a_shortened_iv_or_tag_is_refused(key_holder: KeyHolder, length: dict[str, int]) -> None:
    """A shorter tag would be easier to forge."""
    client = Client(key_holder)
    parts = json.loads(key_holder.encrypt(b"{}"))["encryptedRequest"].split(".")
    for name, wanted in length.items():
        place = PARTS.index(name)
        data = base64.urlsafe_b64decode(parts[place] + "==")[:wanted]
        parts[place] = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    answer = client.cancel("2675", json.dumps({"encryptedRequest": ".".join(parts)}).encode())
    assert (answer.http_status, answer.cause) == (400, "malformed JWE")


def test_an_envelope_is_refused_where_there_is_no_key(key_holder: KeyHolder) -> None:
    """A simulator without encryption key can't open one, and does not take it for a plain body."""
    keys = replace(key_holder.files.read(), encryption=None)
    client = Client(key_holder, keys=keys)
    answer = client.cancel("2675", key_holder.encrypt(b"{}"))
    assert answer.http_status == 400
    assert answer.cause == "encrypted, but there is no key to decrypt with"
    assert client.status("2675") is None


@pytest.mark.parametrize("require_mle", [False, True], ids=["optional", "required"])
def test_an_http_signature_does_not_meet_a_requirement_to_encrypt(*, require_mle: bool) -> None:
    """A plain body under an HTTP Signature passes only where encryption is optional."""
    case = VECTORS["http_signature"][0]
    service = Service(vector_options(require_mle=require_mle), wall_clock=lambda: case["inputs"]["unix_time"])
    headers = CIMultiDict(case["wire"]["headers"])
    headers["Host"] = case["inputs"]["config"]["run_environment"]
    request = WireRequest(method="POST", target=TARGET, headers=headers, body=b"{}")
    answer = service.answer(request)[2]
    assert answer.scheme == "http_signature"
    assert answer.http_status == (400 if require_mle else 200)


def test_an_encrypted_body_under_an_http_signature_is_refused() -> None:
    """Message-level encryption goes with tokens only, though signature and envelope are good."""
    config = VECTORS["http_signature"][0]["inputs"]["config"]
    body = MLE["request"][0]["body_on_wire"].encode()
    digest = f"SHA-256={base64.b64encode(hashlib.sha256(body).digest()).decode()}"
    values = {
        "host": config["run_environment"],
        "date": "Thu, 01 Jan 2026 00:00:00 GMT",
        "request-target": f"post {TARGET}",
        "digest": digest,
        "v-c-merchant-id": config["merchantid"],
    }
    lines = "\n".join(f"{name}: {value}" for name, value in values.items())
    secret = base64.b64decode(config["merchant_secretkey"])
    signature = base64.b64encode(hmac.digest(secret, lines.encode(), "sha256")).decode()
    del values["request-target"]
    signed = (
        f'keyid="{config["merchant_keyid"]}", algorithm="HmacSHA256", '
        f'headers="host date request-target digest v-c-merchant-id", signature="{signature}"'
    )
    headers = CIMultiDict(values | {"Signature": signed})
    service = Service(vector_options(), wall_clock=lambda: NOW_S)
    request = WireRequest(method="POST", target=TARGET, headers=headers, body=body)
    answer = service.answer(request)[2]
    assert (answer.http_status, answer.scheme) == (400, "http_signature")
    assert answer.cause == "encrypted under an HTTP Signature"
    assert not service.books["testmid_0001"].by_id


# --- replies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("invoice_id", "http_status", "said"),
    [
        pytest.param("2675", 200, {"status": "CANCELED", "id": "2675"}, id="success"),
        pytest.param("PAID-1", 400, {"status": "BADREQUEST"}, id="refused"),
        pytest.param("MISSING-1", 404, {"status": "NOTFOUND"}, id="missing"),
        pytest.param("UNAUTHORIZED-ONCE-1", 401, {}, id="unauthorized"),
        pytest.param("FORBIDDEN-1", 403, {}, id="forbidden"),
        pytest.param("ERROR500-1", 500, {}, id="error"),
        pytest.param("ERROR502-ONCE-1", 502, {"status": "SERVER_ERROR"}, id="gateway"),
    ],
)
def test_replies_come_encrypted_on_any_status_if_asked_for(
    key_holder: KeyHolder, invoice_id: str, http_status: int, said: dict[str, str]
) -> None:
    """Success and error bodies alike, for the key that the token names."""
    answer = Client(key_holder).cancel(invoice_id, key_holder.encrypt(b"{}"), ask=True)
    assert (answer.http_status, answer.encrypted) == (http_status, True)
    opened = key_holder.decrypt(answer.body)
    assert {name: opened[name] for name in said} == said
    plain = Client(key_holder).cancel(invoice_id, key_holder.encrypt(b"{}"))
    assert opened.keys() == json.loads(plain.body).keys()


def test_look_ups_and_lists_come_encrypted_too(key_holder: KeyHolder) -> None:
    """A GET has no body to encrypt, its reply has."""
    client = Client(key_holder)
    assert key_holder.decrypt(client.send("GET", "/PAID-1", ask=True).body)["status"] == "PAID"
    listed = client.send("GET", "?offset=0&limit=5", ask=True)
    assert key_holder.decrypt(listed.body)["totalInvoices"] == 1


def test_a_throttled_reply_comes_encrypted_too(key_holder: KeyHolder) -> None:
    """The rate limit answers after the token was read."""
    client = Client(key_holder, rate_limit=1)
    client.send("GET", "/1", ask=True)
    answer = client.send("GET", "/1", ask=True)
    assert (answer.http_status, answer.cause, answer.encrypted) == (429, "rate_limit", True)
    assert key_holder.decrypt(answer.body) == {"response": {"rmsg": "Too Many Requests"}}


def test_chosen_statuses_come_plain(key_holder: KeyHolder) -> None:
    """Nobody knows whether a gateway's errors come encrypted, so both can be had."""
    client = Client(key_holder, plain_statuses=(401, 502))
    for invoice_id, encrypted in (("UNAUTHORIZED-ONCE-1", False), ("ERROR502-ONCE-1", False), ("1", True)):
        answer = client.cancel(invoice_id, b"{}", ask=True)
        assert answer.encrypted is encrypted
        assert ("encryptedResponse" in json.loads(answer.body)) is encrypted


@pytest.mark.parametrize("invoice_id", ["HTML-1", "EMPTY-1", "WRONGTYPE-1"])
def test_what_is_no_json_is_not_encrypted(key_holder: KeyHolder, invoice_id: str) -> None:
    """A gateway's page comes from where no key is."""
    plain = Client(key_holder).cancel(invoice_id, b"{}")
    asked = Client(key_holder).cancel(invoice_id, b"{}", ask=True)
    assert (asked.body, asked.encrypted) == (plain.body, False)


def test_refused_credentials_are_answered_in_plain(key_holder: KeyHolder) -> None:
    """Nobody is believed a key who is not believed a name."""
    answer = Client(key_holder).send("GET", "/1", ask=True, claims={"iss": "someone"})
    assert (answer.http_status, answer.cause, answer.encrypted) == (401, "wrong iss", False)
    assert json.loads(answer.body) == {"response": {"rmsg": "Authentication Failed"}}


@pytest.mark.parametrize("registered", [True, False], ids=["another", "none"])
def test_a_response_key_that_is_not_registered_is_refused(key_holder: KeyHolder, *, registered: bool) -> None:
    """Answering in plain would give away what was to be hidden."""
    keys = key_holder.files.read()
    client = Client(key_holder, keys=keys if registered else replace(keys, response=None))
    asked = "someone" if registered else key_holder.response_key_id
    answer = client.send("GET", "/1", claims={"v-c-response-mle-kid": asked})
    assert (answer.http_status, answer.cause) == (401, "unknown v-c-response-mle-kid")


def test_no_two_envelopes_are_alike(key_holder: KeyHolder) -> None:
    """A fresh key and a fresh nonce every time: the same nonce twice would open both."""
    keys = key_holder.files.read()
    assert keys.response is not None
    tokens = [keys.response.encrypt(b"{}", NOW_S + 0.75).split(".") for _ in range(20)]
    assert {len({token[place] for token in tokens}) for place in (1, 2, 3, 4)} == {20}
    header = json.loads(base64.urlsafe_b64decode(tokens[0][0] + "=="))
    assert header == {
        "alg": "RSA-OAEP-256",
        "enc": "A256GCM",
        "kid": key_holder.response_key_id,
        "iat": NOW_S,
    }
