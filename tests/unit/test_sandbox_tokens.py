"""The simulator's tokens that a certificate's key signs, and portfolios: without sockets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.x509 import load_pem_x509_certificate
from multidict import CIMultiDict

from batchcancel.sandbox.auth import Authenticator, Caller
from batchcancel.sandbox.keys import SandboxKeys, SigningCertificate
from batchcancel.sandbox.options import SANDBOX_KEY_ID, SandboxOptions
from batchcancel.sandbox.service import Service
from batchcancel.sandbox.wire import RefusedError, WireRequest, decode_base64url

if TYPE_CHECKING:
    from tests.conftest import KeyHolder

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "auth_vectors.json").read_text())
NOW_S = 1_767_225_600
ROOT = "/invoicing/v2/invoices"
TARGET = f"{ROOT}/2675/cancelation"


def wire(
    token: str, method: str = "POST", target: str = TARGET, body: bytes = b"{}", **headers: str
) -> WireRequest:
    """Build a request as the server hands it over."""
    given = CIMultiDict({"Host": "127.0.0.1:8080", "Authorization": f"Bearer {token}"} | headers)
    return WireRequest(method=method, target=target, headers=given, body=body)


def options_for(holder: KeyHolder, **options: Any) -> SandboxOptions:
    """Tell a simulator to trust the holder's certificate."""
    known: dict[str, Any] = {"merchant_id": holder.signer_id, "keys": holder.files.read()}
    return SandboxOptions(**(known | options))


def refusal_of(options: SandboxOptions, *requests: WireRequest, now_s: float = NOW_S) -> str | None:
    """Say why the last of some requests is refused; None if it is not. All others have to pass."""
    authenticator = Authenticator(options)
    for request in requests[:-1]:
        authenticator.identify(request, now_s)
    try:
        authenticator.identify(requests[-1], now_s)
    except RefusedError as refused:
        return refused.cause
    return None


# --- the official client's ------------------------------------------------------------------------


VECTOR_CASES = [pytest.param(vector, id=vector["name"]) for vector in VECTORS["jwt_p12"]]


def from_vector(vector: dict[str, Any]) -> tuple[SandboxOptions, WireRequest, int]:
    """Rebuild what a vector's request was to a server that knows its certificate alone."""
    inputs, config = vector["inputs"], vector["inputs"]["config"]
    pem = VECTORS["p12_material"][config["key_file_name"]]["cert_pem"].encode()
    request = wire(
        vector["expected"]["token"],
        method=inputs["method"],
        target=inputs["request_target"],
        body=(inputs["body"] or "").encode(),
        Host=config["run_environment"],
    )
    keys = SandboxKeys(signing=SigningCertificate.from_pem(pem))
    return SandboxOptions(merchant_id=config["merchantid"], keys=keys), request, inputs["unix_time"]


@pytest.mark.parametrize("vector", VECTOR_CASES)
def test_p12_tokens_of_the_official_client_are_accepted(vector: dict[str, Any]) -> None:
    """The signature, the key's id and every claim are what the service's own client sends."""
    options, request, now_s = from_vector(vector)
    caller = Authenticator(options).identify(request, now_s)
    assert caller == Caller(
        merchant_id=vector["inputs"]["config"]["merchantid"],
        scheme="RS256",
        response_key_id=vector["expected"]["claims"].get("v-c-response-mle-kid"),
    )


@pytest.mark.parametrize("vector", VECTOR_CASES)
@pytest.mark.parametrize(
    ("change", "cause"),
    [
        pytest.param({"target": f"{ROOT}/2676"}, "wrong request-resource-path", id="path"),
        pytest.param({"method": "PUT"}, "wrong request-method", id="method"),
        pytest.param({"body": b"{ }"}, "wrong digest", id="body"),
        pytest.param({"headers": {"Host": "api.example"}}, "wrong request-host", id="host"),
    ],
)
def test_a_p12_token_covers_the_request(vector: dict[str, Any], change: dict[str, Any], cause: str) -> None:
    """The same token on another request is refused."""
    options, request, now_s = from_vector(vector)
    fields = {name: getattr(request, name) for name in ("method", "target", "headers", "body")}
    headers = CIMultiDict(request.headers)
    headers.update(change.get("headers", {}))
    changed = WireRequest(**(fields | change | {"headers": headers}))
    assert refusal_of(options, changed, now_s=now_s) == cause


def test_the_key_of_another_certificate_does_not_pass() -> None:
    """A portfolio's certificate does not verify its merchant's tokens, whatever id they claim."""
    _, request, now_s = from_vector(VECTORS["jwt_p12"][0])
    other = SigningCertificate.from_pem(VECTORS["p12_material"]["portfolio"]["cert_pem"].encode())
    options = SandboxOptions(merchant_id="testmid_0001", keys=SandboxKeys(signing=other))
    assert refusal_of(options, request, now_s=now_s) == "unknown kid"
    claimed = SigningCertificate(
        key_id=VECTORS["p12_material"]["merchant"]["expected_kid"],
        alias="testmid_0001",
        public_key=other.public_key,
    )
    options = SandboxOptions(merchant_id="testmid_0001", keys=SandboxKeys(signing=claimed))
    assert refusal_of(options, request, now_s=now_s) == "wrong signature"


# --- claims ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        pytest.param({}, None, id="good"),
        pytest.param({"request-method": "post"}, None, id="method-in-lower-case"),
        pytest.param({"request-method": "GET"}, "wrong request-method", id="method"),
        pytest.param({"iat": NOW_S + 301, "exp": NOW_S + 400}, "iat lies in the future", id="future"),
        pytest.param({"iat": NOW_S + 300, "exp": NOW_S + 400}, None, id="within-the-skew"),
        pytest.param({"iat": NOW_S - 421, "exp": NOW_S - 301}, "token expired", id="expired"),
        pytest.param({"iss": "someone"}, "wrong iss", id="iss"),
        pytest.param({"v-c-merchant-id": "someone"}, "wrong v-c-merchant-id", id="merchant"),
        pytest.param({"v-c-merchant-id": ["key_merchant"]}, "wrong v-c-merchant-id", id="merchants"),
        pytest.param({"v-c-jwt-version": "1"}, "wrong v-c-jwt-version", id="version"),
        pytest.param({"v-c-jwt-version": 2}, "wrong v-c-jwt-version", id="version-number"),
        pytest.param({"request-resource-path": ROOT}, "wrong request-resource-path", id="path"),
        pytest.param({"request-host": "api.example"}, "wrong request-host", id="host"),
        pytest.param({"digest": None}, "wrong digest", id="no-digest"),
        pytest.param({"digest": "AAAA"}, "wrong digest", id="digest"),
        pytest.param({"digestAlgorithm": "SHA-1"}, "wrong digestAlgorithm", id="digest-algorithm"),
        pytest.param({"jti": None}, "no jti", id="no-jti"),
        pytest.param({"v-c-response-mle-kid": 7}, "wrong v-c-response-mle-kid", id="response-key"),
    ],
)
def test_every_claim_of_a_certificate_s_token_is_checked(
    key_holder: KeyHolder, changes: dict[str, Any], cause: str | None
) -> None:
    """A good signature is not enough."""
    claims = key_holder.claims("POST", TARGET, b"{}", now_s=NOW_S, **changes)
    assert refusal_of(options_for(key_holder), wire(key_holder.sign(claims))) == cause


@pytest.mark.parametrize(
    ("claimed", "cause"),
    [
        pytest.param(f"{ROOT}?offset=0&limit=1", None, id="as-sent"),
        pytest.param(ROOT, "wrong request-resource-path", id="cut-off"),
        pytest.param(f"{ROOT}?limit=1&offset=0", "wrong request-resource-path", id="another-order"),
    ],
)
def test_the_query_belongs_to_the_path(key_holder: KeyHolder, claimed: str, cause: str | None) -> None:
    """A token without its query is refused, as once shipped by an official client."""
    token = key_holder.sign(key_holder.claims("GET", claimed, now_s=NOW_S))
    request = wire(token, method="GET", target=f"{ROOT}?offset=0&limit=1", body=b"")
    assert refusal_of(options_for(key_holder), request) == cause


def test_a_token_id_is_used_once_whichever_key_signs(key_holder: KeyHolder) -> None:
    """The memory of used ids is one for all keys of a simulator."""
    claims = key_holder.claims("POST", TARGET, b"{}", now_s=NOW_S)
    by_certificate = wire(key_holder.sign(claims))
    by_secret = wire(hmac_token(claims, SandboxOptions().secret_bytes, SANDBOX_KEY_ID))
    options = options_for(key_holder)
    assert refusal_of(options, by_certificate, by_certificate) == "jti was used before"
    assert refusal_of(options, by_secret, by_certificate) == "jti was used before"
    assert refusal_of(options, by_secret) is None


# --- keys -----------------------------------------------------------------------------------------


def b64url(data: bytes) -> str:
    """Encode as a token's parts are."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def hmac_token(claims: dict[str, Any], secret: bytes, key_id: Any, alg: str = "HS256") -> str:
    """Sign a token with any bytes as the secret."""
    header = {"alg": alg, "kid": key_id, "typ": "JWT"}
    signed = f"{b64url(json.dumps(header).encode())}.{b64url(json.dumps(claims).encode())}"
    return f"{signed}.{b64url(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def test_a_certificate_is_no_secret(key_holder: KeyHolder) -> None:
    """Whoever has the public certificate can't sign with it, in none of the forms that it has."""
    pem = key_holder.files.signing_certificate.read_bytes()
    public_pem = key_holder.signing_key.as_pem(private=False)
    for secret in (pem, pem.strip(), public_pem, base64.b64decode(b"".join(pem.splitlines()[1:-1]))):
        claims = key_holder.claims("POST", TARGET, b"{}", now_s=NOW_S)
        token = hmac_token(claims, secret, key_holder.key_id)
        assert refusal_of(options_for(key_holder), wire(token)) == "alg is not RS256"
        lying = hmac_token(claims, secret, key_holder.key_id, alg="RS256")
        assert refusal_of(options_for(key_holder), wire(lying)) == "wrong signature"


def test_a_good_header_is_remembered_for_its_own_key_alone(key_holder: KeyHolder) -> None:
    """After a good token of the certificate, the secret's tokens are still checked with the secret."""
    claims = [key_holder.claims("POST", TARGET, b"{}", now_s=NOW_S) for _ in range(2)]
    good = wire(key_holder.sign(claims[0]))
    forged = wire(hmac_token(claims[1], b"guess", SANDBOX_KEY_ID))
    assert refusal_of(options_for(key_holder), good, forged) == "wrong signature"
    header, _, signature = key_holder.sign(claims[0]).split(".")
    touched = wire(f"{header}.{b64url(json.dumps(claims[1]).encode())}.{signature}")
    assert refusal_of(options_for(key_holder), good, touched) == "wrong signature"


@pytest.mark.parametrize(
    ("header", "cause"),
    [
        pytest.param({"kid": SANDBOX_KEY_ID}, "alg is not HS256", id="kid-of-the-secret"),
        pytest.param({"kid": "someone"}, "unknown kid", id="kid"),
        pytest.param({"alg": "PS256"}, "alg is not RS256", id="padding"),
        pytest.param({"alg": "RS384"}, "alg is not RS256", id="digest"),
        pytest.param({"typ": "JOSE"}, "typ is not JWT", id="typ"),
    ],
)
def test_a_key_has_one_algorithm(key_holder: KeyHolder, header: dict[str, Any], cause: str) -> None:
    """What a header says of key and algorithm has to be what is known of them."""
    token = key_holder.sign(key_holder.claims("POST", TARGET, b"{}", now_s=NOW_S), **header)
    assert refusal_of(options_for(key_holder), wire(token)) == cause


@pytest.mark.parametrize(
    ("alg", "signature", "cause"),
    [
        pytest.param("none", "", "malformed token", id="none-unsigned"),
        pytest.param("none", "AAAA", "alg is not RS256", id="none"),
        pytest.param("None", "AAAA", "alg is not RS256", id="none-capitalised"),
        pytest.param("RS256", "AAAA", "wrong signature", id="short"),
        pytest.param("RS256", "AAAAB", "not base64url", id="no-base64"),
    ],
)
def test_a_token_that_nobody_signed_is_refused(
    key_holder: KeyHolder, alg: str, signature: str, cause: str
) -> None:
    """Without a signature nothing else is looked at."""
    header = json.dumps({"alg": alg, "kid": key_holder.key_id, "typ": "JWT"}).encode()
    claims = json.dumps(key_holder.claims("POST", TARGET, b"{}", now_s=NOW_S)).encode()
    token = f"{b64url(header)}.{b64url(claims)}.{signature}"
    assert refusal_of(options_for(key_holder), wire(token)) == cause


def test_the_key_id_is_the_subject_s_and_not_the_certificate_s_own_number(key_holder: KeyHolder) -> None:
    """The X.509 serial number is another one, and opens nothing."""
    number = load_pem_x509_certificate(key_holder.files.signing_certificate.read_bytes()).serial_number
    claims = key_holder.claims("POST", TARGET, b"{}", now_s=NOW_S)
    for kid in (str(number), f"{number:x}"):
        assert refusal_of(options_for(key_holder), wire(key_holder.sign(claims, kid=kid))) == "unknown kid"
    listed = hmac_token(claims, b"secret", [key_holder.key_id])
    assert refusal_of(options_for(key_holder), wire(listed)) == "unknown kid"


def test_a_simulator_without_certificate_knows_no_such_key(key_holder: KeyHolder) -> None:
    """A certificate has to be registered."""
    token = key_holder.sign(key_holder.claims("POST", TARGET, b"{}", now_s=NOW_S))
    assert refusal_of(options_for(key_holder, keys=None), wire(token)) == "unknown kid"


def test_one_text_only_stands_for_a_signature(key_holder: KeyHolder) -> None:
    """Bits that mean nothing can't be changed, so a used signature has one form."""
    assert decode_base64url("AA") == b"\0"
    for text in ("AB", "A", "AA==", "A A", "A+", "é"):
        with pytest.raises(RefusedError, match="not base64url"):
            decode_base64url(text)


# --- portfolios -----------------------------------------------------------------------------------


PORTFOLIO = {"merchant_id": "first", "portfolio_id": "key_merchant", "merchants": ("second", "third")}


class Portfolio:
    """Signs as a portfolio for its merchants, by certificate or by secret."""

    def __init__(self, holder: KeyHolder) -> None:
        self.holder = holder
        self.service = Service(options_for(holder, **PORTFOLIO), wall_clock=lambda: NOW_S)

    def send(
        self, method: str, path: str, merchant_id: str, *, by: str = "certificate", **changes: Any
    ) -> tuple[int, Any]:
        """Send a request; return the HTTP status and what the body says."""
        body = b"{}" if method == "POST" else b""
        target = ROOT + path
        claims = self.holder.claims(
            method, target, body, now_s=NOW_S, **({"v-c-merchant-id": merchant_id} | changes)
        )
        if by == "certificate":
            token = self.holder.sign(claims)
        else:
            token = hmac_token(claims, SandboxOptions().secret_bytes, SANDBOX_KEY_ID)
        answer = self.service.answer(wire(token, method=method, target=target, body=body))[2]
        assert answer.http_status is not None
        self.cause = answer.cause
        return int(answer.http_status), json.loads(answer.body)


@pytest.mark.parametrize("by", ["certificate", "secret"])
def test_the_same_id_under_two_merchants_is_two_invoices(key_holder: KeyHolder, by: str) -> None:
    """What is canceled for one merchant stays open for the others."""
    portfolio = Portfolio(key_holder)
    assert portfolio.send("POST", "/2675/cancelation", "first", by=by)[0] == 200
    assert portfolio.send("GET", "/2675", "first", by=by)[1]["status"] == "CANCELED"
    assert portfolio.send("GET", "/2675", "second", by=by)[1]["status"] == "SENT"
    assert portfolio.send("POST", "/2675/cancelation", "third", by=by)[0] == 200
    assert portfolio.send("POST", "/2675/cancelation", "third", by=by)[0] == 400
    assert {
        merchant_id: [invoice.status.value for invoice in book.by_id.values()]
        for merchant_id, book in portfolio.service.books.items()
    } == {"first": ["CANCELED"], "second": ["SENT"], "third": ["CANCELED"]}


def test_a_merchant_lists_its_own_invoices(key_holder: KeyHolder) -> None:
    """No merchant sees another one's."""
    portfolio = Portfolio(key_holder)
    for number, merchant_id in enumerate(("first", "second", "second")):
        portfolio.send("POST", f"/{number}/cancelation", merchant_id)
    page = "?offset=0&limit=10"
    assert portfolio.send("GET", page, "second")[1]["totalInvoices"] == 2
    assert [item["id"] for item in portfolio.send("GET", page, "first")[1]["invoices"]] == ["0"]
    assert portfolio.send("GET", page, "third")[0] == 404


@pytest.mark.parametrize("by", ["certificate", "secret"])
@pytest.mark.parametrize(
    "merchant_id", ["fourth", "key_merchant"], ids=["a stranger", "the portfolio itself"]
)
def test_a_merchant_outside_the_portfolio_is_forbidden(
    key_holder: KeyHolder, by: str, merchant_id: str
) -> None:
    """The signature is good, the permission is missing: 403, and nothing is done."""
    portfolio = Portfolio(key_holder)
    status, body = portfolio.send("POST", "/2675/cancelation", merchant_id, by=by)
    assert (status, body) == (403, {"response": {"rmsg": "Forbidden"}})
    assert portfolio.cause == "wrong v-c-merchant-id"
    assert not any(book.by_id for book in portfolio.service.books.values())


def test_a_merchant_can_not_sign_in_its_portfolio_s_place(key_holder: KeyHolder) -> None:
    """With a meta key the portfolio is the issuer."""
    portfolio = Portfolio(key_holder)
    status, _ = portfolio.send("POST", "/2675/cancelation", "first", iss="first")
    assert (status, portfolio.cause) == (401, "wrong iss")


def test_several_merchants_need_a_portfolio() -> None:
    """A merchant's own key is for itself alone."""
    with pytest.raises(ValueError, match="portfolio"):
        SandboxOptions(merchants=("second",))
