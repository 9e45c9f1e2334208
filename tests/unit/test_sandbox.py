"""The simulator without sockets: signatures, states, faults, clock."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

import batchcancel.sandbox
from batchcancel.sandbox.answers import Answer
from batchcancel.sandbox.auth import Authenticator
from batchcancel.sandbox.faults import _BEHAVIORS, Behavior
from batchcancel.sandbox.limits import rate_limit
from batchcancel.sandbox.options import (
    SANDBOX_KEY_ID,
    SANDBOX_MERCHANT_ID,
    RateLimitKind,
    SandboxOptions,
)
from batchcancel.sandbox.service import Service
from batchcancel.sandbox.wire import RefusedError, WireRequest

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "auth_vectors.json").read_text())
NOW_S = 1_767_225_600
ROOT = "/invoicing/v2/invoices"
CANCEL_TARGET = f"{ROOT}/2675/cancelation"


def b64url(data: bytes) -> str:
    """Encode as a token's parts are."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def digest_of(body: bytes) -> str:
    """Digest a body as both schemes do."""
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def claims_for(method: str, target: str, body: bytes, **changes: object) -> dict[str, Any]:
    """Build the claims of a good token; a change to None removes a claim."""
    claims: dict[str, Any] = {
        "iat": NOW_S,
        "exp": NOW_S + 120,
        "iss": SANDBOX_MERCHANT_ID,
        "jti": "6643fb9a-8093-47c6-95d3-8d69785b5e62",
        "request-host": "127.0.0.1",
        "request-method": method,
        "request-resource-path": target,
        "v-c-jwt-version": "2",
        "v-c-merchant-id": SANDBOX_MERCHANT_ID,
    }
    if body:
        claims |= {"digest": digest_of(body), "digestAlgorithm": "SHA-256"}
    return {name: value for name, value in (claims | changes).items() if value is not None}


def token_of(claims: object, **header_changes: object) -> str:
    """Sign a token with the published secret."""
    header = {"alg": "HS256", "kid": SANDBOX_KEY_ID, "typ": "JWT"} | header_changes
    signed = f"{b64url(json.dumps(header).encode())}.{b64url(json.dumps(claims).encode())}"
    key = SandboxOptions().secret_bytes
    return f"{signed}.{b64url(hmac.digest(key, signed.encode(), 'sha256'))}"


def wire(
    authorization: str | None, method: str = "POST", target: str = CANCEL_TARGET, body: bytes = b"{}"
) -> WireRequest:
    """Build a request as the server hands it over."""
    headers = CIMultiDict({"Host": "127.0.0.1:8080"})
    if authorization is not None:
        headers["Authorization"] = authorization
    return WireRequest(method=method, target=target, headers=headers, body=body)


def refusal_of(authenticator: Authenticator, request: WireRequest, now_s: float) -> str | None:
    """Say why a request is refused; None if it is not."""
    try:
        authenticator.identify(request, now_s)
    except RefusedError as refused:
        return refused.cause
    return None


class Client:
    """Signs each request afresh and asks a service whose clocks it holds."""

    def __init__(self, **options: Any) -> None:
        self.at_s = 0.0
        self.service = Service(
            SandboxOptions(**options),
            wall_clock=lambda: NOW_S + self.at_s,
            monotonic=lambda: self.at_s,
        )
        self._sent = 0

    def send(self, method: str, path: str, body: bytes = b"") -> Answer:
        self._sent += 1
        now_s = int(self.service.now_s())
        claims = claims_for(method, ROOT + path, body, jti=f"token-{self._sent}", iat=now_s, exp=now_s + 120)
        request = wire(f"Bearer {token_of(claims)}", method, ROOT + path, body)
        return self.service.answer(request)[2]

    def cancel(self, invoice_id: str) -> Answer:
        return self.send("POST", f"/{invoice_id}/cancelation", b"{}")

    def get(self, invoice_id: str) -> dict[str, Any]:
        answer = self.send("GET", f"/{invoice_id}")
        assert answer.http_status == HTTPStatus.OK, answer
        body: dict[str, Any] = json.loads(answer.body)
        return body

    def status(self, invoice_id: str) -> str | None:
        invoice = self.service.books[SANDBOX_MERCHANT_ID].by_id.get(invoice_id)
        return None if invoice is None else invoice.status.value


# --- signatures ----------------------------------------------------------------------------------


VECTOR_CASES = [
    pytest.param(vector, id=f"{kind}-{vector['name']}")
    for kind in ("http_signature", "jwt_shared_secret")
    for vector in VECTORS[kind]
]


def from_vector(vector: dict[str, Any]) -> tuple[Authenticator, WireRequest, int]:
    """Rebuild what a vector's request was to a server."""
    inputs, config = vector["inputs"], vector["inputs"]["config"]
    headers = CIMultiDict(vector["wire"]["headers"])
    headers["Host"] = config["run_environment"]
    options = SandboxOptions(
        merchant_id=config["merchantid"],
        key_id=config["merchant_keyid"],
        secret=config["merchant_secretkey"],
        portfolio_id=config.get("portfolio_id"),
    )
    request = WireRequest(
        method=inputs["method"],
        target=inputs["request_target"],
        headers=headers,
        body=(inputs["body"] or "").encode(),
    )
    return Authenticator(options), request, inputs["unix_time"]


@pytest.mark.parametrize("vector", VECTOR_CASES)
def test_requests_of_the_official_client_are_accepted(vector: dict[str, Any]) -> None:
    """What the official client puts on the wire passes, meta keys included."""
    authenticator, request, now_s = from_vector(vector)
    assert refusal_of(authenticator, request, now_s) is None


@pytest.mark.parametrize("vector", VECTOR_CASES)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"target": f"{ROOT}/2676"}, id="path"),
        pytest.param({"method": "PUT"}, id="method"),
        pytest.param({"body": b"{ }"}, id="body"),
    ],
)
def test_a_signature_covers_target_method_and_body(vector: dict[str, Any], change: dict[str, Any]) -> None:
    """The same signature over another request is refused."""
    authenticator, request, now_s = from_vector(vector)
    fields = {name: getattr(request, name) for name in ("method", "target", "headers", "body")}
    assert refusal_of(authenticator, WireRequest(**(fields | change)), now_s) is not None


@pytest.mark.parametrize("vector", VECTOR_CASES)
@pytest.mark.parametrize("off_s", [-1000, 1000])
def test_a_signature_is_refused_by_a_clock_that_is_off(vector: dict[str, Any], off_s: int) -> None:
    """A date outside the allowed skew is refused, whichever way it is off."""
    authenticator, request, now_s = from_vector(vector)
    assert refusal_of(authenticator, request, now_s + off_s) is not None


@pytest.mark.parametrize("vector", VECTOR_CASES)
def test_a_signature_of_another_host_or_key_is_refused(vector: dict[str, Any]) -> None:
    """Another Host header fails, and so does a server that holds another secret."""
    authenticator, request, now_s = from_vector(vector)
    request.headers["Host"] = "api.example"  # type: ignore[index]  # a dictionary of this test's own
    assert refusal_of(authenticator, request, now_s) is not None
    _, request, now_s = from_vector(vector)
    assert refusal_of(Authenticator(SandboxOptions()), request, now_s) is not None


@pytest.mark.parametrize("vector", VECTORS["derived_not_from_sdk"]["http_signature_v_c_date"])
def test_the_newer_date_header_is_accepted(vector: dict[str, Any]) -> None:
    """A signature over v-c-date passes, as newer guides have it."""
    line = vector["signing_string"].split("request-target: ")[1].split("\n")[0]
    method, target = line.split(" ")
    body = b"{}" if method == "post" else b""
    headers = CIMultiDict(
        {
            "Host": "api.visaacceptance.com",
            "v-c-date": "Thu, 01 Jan 2026 00:00:00 GMT",
            "v-c-merchant-id": "testmid_0001",
            "Digest": f"SHA-256={digest_of(body)}",
            "Signature": vector["signature_header"],
        }
    )
    options = SandboxOptions(merchant_id="testmid_0001", key_id=vector["keyid"], secret=vector["secret"])
    request = WireRequest(method=method.upper(), target=target, headers=headers, body=body)
    assert refusal_of(Authenticator(options), request, NOW_S) is None


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        pytest.param({"iat": NOW_S + 301, "exp": NOW_S + 400}, "iat lies in the future", id="future"),
        pytest.param({"iat": NOW_S - 421, "exp": NOW_S - 301}, "token expired", id="expired"),
        pytest.param({"exp": NOW_S + 121}, "exp is more than 120 s", id="lives-too-long"),
        pytest.param({"exp": NOW_S}, "exp is more than 120 s", id="lives-not-at-all"),
        pytest.param({"iat": float(NOW_S)}, "not an integer", id="iat-float"),
        pytest.param({"iat": str(NOW_S)}, "not an integer", id="iat-text"),
        pytest.param({"iat": True}, "not an integer", id="iat-true"),
        pytest.param({"exp": None}, "not an integer", id="no-exp"),
        pytest.param({"iss": "someone"}, "wrong iss", id="iss"),
        pytest.param({"v-c-merchant-id": "someone"}, "wrong v-c-merchant-id", id="merchant"),
        pytest.param({"v-c-jwt-version": 2}, "wrong v-c-jwt-version", id="version-number"),
        pytest.param({"request-resource-path": f"{CANCEL_TARGET}/"}, "wrong request-resource", id="path"),
        pytest.param({"request-method": "get"}, "wrong request-method", id="method"),
        pytest.param({"request-host": "127.0.0.1:8080"}, "wrong request-host", id="host-with-port"),
        pytest.param({"digest": None}, "wrong digest", id="no-digest"),
        pytest.param({"digest": digest_of(b"")}, "wrong digest", id="digest"),
        pytest.param({"digestAlgorithm": "SHA-1"}, "wrong digestAlgorithm", id="digest-algorithm"),
        pytest.param({"jti": None}, "no jti", id="no-jti"),
        pytest.param({"jti": ""}, "no jti", id="empty-jti"),
        pytest.param({"jti": 7}, "no jti", id="jti-number"),
    ],
)
def test_a_token_with_a_wrong_claim_is_refused(changes: dict[str, Any], cause: str) -> None:
    """Each claim is checked, and the log learns which one was wrong."""
    token = token_of(claims_for("POST", CANCEL_TARGET, b"{}", **changes))
    refusal = refusal_of(Authenticator(SandboxOptions()), wire(f"Bearer {token}"), NOW_S)
    assert refusal is not None
    assert refusal.startswith(cause) or cause in refusal


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        pytest.param({"alg": "none"}, "alg is not HS256", id="none"),
        pytest.param({"alg": "HS512"}, "alg is not HS256", id="other-alg"),
        pytest.param({"typ": "JOSE"}, "typ is not JWT", id="typ"),
        pytest.param({"kid": "someone"}, "unknown kid", id="kid"),
    ],
)
def test_a_token_with_a_wrong_header_is_refused(changes: dict[str, Any], cause: str) -> None:
    """The algorithm is pinned, and the key has to be the one that is known."""
    token = token_of(claims_for("POST", CANCEL_TARGET, b"{}"), **changes)
    assert refusal_of(Authenticator(SandboxOptions()), wire(f"Bearer {token}"), NOW_S) == cause


@pytest.mark.parametrize(
    ("authorization", "cause"),
    [
        pytest.param(None, "no credentials", id="none"),
        pytest.param("Basic abc", "not a bearer token", id="basic"),
        pytest.param("Bearer", "malformed token", id="empty"),
        pytest.param("Bearer a.b", "malformed token", id="two-parts"),
        pytest.param("Bearer a=.b.c", "malformed token", id="padding"),
        pytest.param("Bearer abcde.b.c", "not base64url", id="no-base64"),
        pytest.param(f"Bearer {b64url(b'[' * 5000)}.b.c", "token part is not JSON", id="deep"),
        pytest.param(f"Bearer {b64url(b'[]')}.b.c", "token part is not a JSON object", id="array"),
    ],
)
def test_a_request_without_a_proper_token_is_refused(authorization: str | None, cause: str) -> None:
    """Malformed credentials are refused without an exception."""
    assert refusal_of(Authenticator(SandboxOptions()), wire(authorization), NOW_S) == cause


def test_a_token_whose_signature_was_touched_is_refused() -> None:
    """One changed character of the signature or of the claims spoils a token."""
    token = token_of(claims_for("POST", CANCEL_TARGET, b"{}"))
    other = token_of(claims_for("POST", CANCEL_TARGET, b"{}", jti="other"))
    swapped = ".".join([*other.split(".")[:2], token.split(".")[2]])
    assert refusal_of(Authenticator(SandboxOptions()), wire(f"Bearer {swapped}"), NOW_S) == "wrong signature"


def test_both_spellings_that_official_clients_use_are_accepted() -> None:
    """A lower-case method and the hyphenated digest claim pass, as one official client sends them."""
    claims = claims_for("post", CANCEL_TARGET, b"{}", digestAlgorithm=None, **{"digest-algorithm": "SHA-256"})
    assert refusal_of(Authenticator(SandboxOptions()), wire(f"Bearer {token_of(claims)}"), NOW_S) is None


def test_an_ipv6_host_is_compared_without_brackets_and_port() -> None:
    """The Host header's brackets belong to the header, not to the host."""
    token = token_of(claims_for("POST", CANCEL_TARGET, b"{}", **{"request-host": "::1"}))
    request = wire(f"Bearer {token}")
    request.headers["Host"] = "[::1]:8080"  # type: ignore[index]  # a dictionary of this test's own
    assert refusal_of(Authenticator(SandboxOptions()), request, NOW_S) is None


def test_a_token_id_is_accepted_once_even_with_another_expiry() -> None:
    """Replay protection goes by the token id, not by the token."""
    authenticator = Authenticator(SandboxOptions())
    first = wire(f"Bearer {token_of(claims_for('POST', CANCEL_TARGET, b'{}'))}")
    again = wire(f"Bearer {token_of(claims_for('POST', CANCEL_TARGET, b'{}', exp=NOW_S + 60))}")
    assert refusal_of(authenticator, first, NOW_S) is None
    assert refusal_of(authenticator, first, NOW_S) == "jti was used before"
    assert refusal_of(authenticator, again, NOW_S) == "jti was used before"


def test_used_token_ids_are_forgotten_once_they_could_not_be_used_anyway() -> None:
    """The memory of used tokens is bounded by their life."""
    authenticator = Authenticator(SandboxOptions())
    for at_s in range(NOW_S, NOW_S + 5000, 10):
        claims = claims_for("POST", CANCEL_TARGET, b"{}", jti=str(at_s), iat=at_s, exp=at_s + 120)
        assert refusal_of(authenticator, wire(f"Bearer {token_of(claims)}"), at_s) is None
    assert len(authenticator._tokens._used_until_s) <= (120 + 300) / 10 + 2


def signed_headers(names: str, **changes: str) -> CIMultiDict[str]:
    """Sign a cancelation over the named headers by HTTP Signature."""
    headers = CIMultiDict(
        {
            "host": "127.0.0.1:8080",
            "date": "Thu, 01 Jan 2026 00:00:00 GMT",
            "digest": f"SHA-256={digest_of(b'{}')}",
            "v-c-merchant-id": SANDBOX_MERCHANT_ID,
        }
        | changes
    )
    values = dict(headers) | {"request-target": f"post {CANCEL_TARGET}"}
    lines = "\n".join(f"{name}: {values.get(name, '')}" for name in names.split(" "))
    key = SandboxOptions().secret_bytes
    signature = base64.b64encode(hmac.digest(key, lines.encode(), "sha256")).decode()
    headers["Signature"] = (
        f'keyid="{SANDBOX_KEY_ID}", algorithm="HmacSHA256", headers="{names}", signature="{signature}"'
    )
    return headers


ALL_NAMES = "host date request-target digest v-c-merchant-id"


@pytest.mark.parametrize(
    ("names", "changes", "cause"),
    [
        pytest.param(ALL_NAMES, {}, None, id="good"),
        pytest.param("host date request-target v-c-merchant-id", {}, "not signed: digest", id="no-digest"),
        pytest.param("host request-target digest v-c-merchant-id", {}, "not signed: date", id="no-date"),
        pytest.param("date request-target digest", {}, "not signed: host, v-c-merchant-id", id="no-host"),
        pytest.param(
            "host date (request-target) digest v-c-merchant-id",
            {},
            "not signed: request-target",
            id="parenthesised-form",
        ),
        pytest.param(f"{ALL_NAMES} x-other", {}, "a signed header was not sent", id="header-missing"),
        pytest.param(ALL_NAMES, {"digest": "SHA-256=AAAA"}, "wrong digest", id="digest"),
        pytest.param(ALL_NAMES, {"date": "yesterday"}, "date is not an HTTP date", id="no-http-date"),
        pytest.param(
            ALL_NAMES, {"date": "Thu, 01 Jan 2026 00:00:00 -0000"}, "date is not an HTTP date", id="no-zone"
        ),
        pytest.param(
            ALL_NAMES, {"date": "Thu, 01 Jan 2026 00:05:01 GMT"}, "date is 301 s off", id="date-off"
        ),
    ],
)
def test_every_part_of_an_http_signature_is_checked(
    names: str, changes: dict[str, str], cause: str | None
) -> None:
    """What has to be signed is signed, and what is signed is true."""
    request = WireRequest(
        method="POST", target=CANCEL_TARGET, headers=signed_headers(names, **changes), body=b"{}"
    )
    assert refusal_of(Authenticator(SandboxOptions()), request, NOW_S) == cause


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        pytest.param(SANDBOX_KEY_ID, "someone", "unknown keyid", id="keyid"),
        pytest.param("HmacSHA256", "HmacSHA1", "algorithm is not HmacSHA256", id="algorithm"),
        pytest.param('keyid="', "keyid=", "malformed Signature header", id="quotes"),
        pytest.param("algorithm=", "keyid=", "malformed Signature header", id="twice"),
        pytest.param('signature="', 'signature="é', "wrong signature", id="not-ascii"),
    ],
)
def test_a_signature_header_that_was_touched_is_refused(old: str, new: str, cause: str) -> None:
    """Key, algorithm and form of the header are checked, without an exception."""
    headers = signed_headers(ALL_NAMES)
    headers["Signature"] = headers["Signature"].replace(old, new)
    request = WireRequest(method="POST", target=CANCEL_TARGET, headers=headers, body=b"{}")
    assert refusal_of(Authenticator(SandboxOptions()), request, NOW_S) == cause


def test_a_merchant_header_that_differs_from_the_signed_one_is_refused() -> None:
    """With a meta key the portfolio is signed, so the merchant that is sent is compared by itself."""
    options = SandboxOptions(portfolio_id=SANDBOX_MERCHANT_ID, merchant_id="child")
    request = WireRequest(method="POST", target=CANCEL_TARGET, headers=signed_headers(ALL_NAMES), body=b"{}")
    with pytest.raises(RefusedError, match="wrong v-c-merchant-id") as caught:
        Authenticator(options).identify(request, NOW_S)
    assert caught.value.http_status == HTTPStatus.FORBIDDEN


# --- states --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("invoice_id", "before", "http_status", "after"),
    [
        pytest.param("2675", "SENT", 200, "CANCELED", id="sent"),
        pytest.param("DRAFT-1", "DRAFT", 200, "CANCELED", id="draft"),
        pytest.param("CREATED-1", "CREATED", 200, "CANCELED", id="created"),
        pytest.param("PAID-1", "PAID", 400, "PAID", id="paid"),
        pytest.param("PARTIAL-1", "PARTIAL", 400, "PARTIAL", id="partial"),
        pytest.param("CANCELED-1", "CANCELED", 400, "CANCELED", id="canceled"),
        pytest.param("PENDING-1", "PENDING", 400, "PENDING", id="pending"),
        pytest.param("UNKNOWNSTATUS-1", "ARCHIVED", 400, "ARCHIVED", id="unlisted"),
    ],
)
def test_the_prefix_names_the_state_and_the_state_decides(
    invoice_id: str, before: str, http_status: int, after: str
) -> None:
    """An invoice starts as its prefix says, and is canceled only from a state that allows it."""
    client = Client()
    assert client.get(invoice_id)["status"] == before
    answer = client.cancel(invoice_id)
    assert answer.http_status == http_status
    assert answer.committed is (http_status == 200)
    assert client.get(invoice_id)["status"] == after


def test_a_refused_cancelation_does_not_say_why() -> None:
    """The 400 is the generic documented body, the same for every state."""
    client = Client()
    refusals = {client.cancel(invoice_id).body for invoice_id in ("PAID-1", "PARTIAL-1", "CANCELED-1")}
    assert len(refusals) == 1
    assert json.loads(refusals.pop())["reason"] == "VALIDATION_ERROR"


@pytest.mark.parametrize(
    "invoice_id",
    ["MISSING-1", "..", "a%2Fb", "x" * 65],
    ids=["prefix", "dots", "slash", "too-long"],
)
def test_an_invoice_that_can_not_exist_is_404_and_leaves_no_trace(invoice_id: str) -> None:
    """Neither a missing invoice nor a malformed id makes an invoice up."""
    client = Client()
    for answer in (client.cancel(invoice_id), client.send("GET", f"/{invoice_id}")):
        assert answer.http_status == HTTPStatus.NOT_FOUND
        assert json.loads(answer.body)["status"] == "NOTFOUND"
    assert not client.service.books[SANDBOX_MERCHANT_ID].by_id


def test_a_cancelation_is_dated_in_the_history() -> None:
    """The history tells when an invoice was canceled, on the service's clock."""
    client = Client(clock_offset_s=86_400)
    client.cancel("2675")
    assert client.get("2675")["invoiceHistory"][0] == {"event": "CANCEL", "date": "2026-01-02T00:00:00.00Z"}
    assert client.get("CANCELED-1")["invoiceHistory"][0]["date"].startswith("2025-12-26")


@pytest.mark.parametrize(
    ("invoice_id", "events"),
    [
        pytest.param("2675", ["SEND", "CREATE"], id="sent"),
        pytest.param("CREATED-1", ["CREATE"], id="created"),
        pytest.param("DRAFT-1", ["DRAFT"], id="draft"),
        pytest.param("PAID-1", ["PAYMENT", "SEND", "CREATE"], id="paid"),
        pytest.param("PENDING-1", ["PENDING", "SEND", "CREATE"], id="pending"),
    ],
)
def test_the_history_fits_the_status(invoice_id: str, events: list[str]) -> None:
    """Events come newest first and end with the invoice's beginning."""
    assert [event["event"] for event in Client().get(invoice_id)["invoiceHistory"]] == events


def test_a_pending_payment_settles_after_a_second() -> None:
    """PENDING-PAID- is paid one second after it was first seen, PENDING- never."""
    client = Client()
    assert client.get("PENDING-PAID-1")["status"] == "PENDING"
    assert client.get("PENDING-1")["status"] == "PENDING"
    client.at_s = 1.0
    assert client.get("PENDING-PAID-1")["status"] == "PAID"
    assert client.get("PENDING-1")["status"] == "PENDING"


def test_amounts_are_the_same_for_the_same_id_and_come_in_both_documented_forms() -> None:
    """Strings with two decimals or JSON numbers, by id; currencies are mixed, customers present."""
    first, second = Client(), Client(seed=7)
    invoices = [first.get(str(number)) for number in range(200)]
    assert [body["orderInformation"] for body in invoices] == [
        second.get(str(number))["orderInformation"] for number in range(200)
    ]
    details = [body["orderInformation"]["amountDetails"] for body in invoices]
    assert {type(detail["totalAmount"]) for detail in details} >= {str, float}
    assert {detail["currency"] for detail in details} == {"USD", "EUR", "GBP"}
    assert all("@" in body["customerInformation"]["email"] for body in invoices)


@pytest.mark.parametrize(("invoice_id", "share"), [("PAID-1", 0), ("PARTIAL-1", 0.5), ("CANCELED-1", 1)])
def test_the_balance_fits_the_status(invoice_id: str, share: float) -> None:
    """Nothing is open when paid, the total when canceled, and then there is no payment link."""
    body = Client().get(invoice_id)
    details = body["orderInformation"]["amountDetails"]
    assert float(details["balanceAmount"]) == pytest.approx(float(details["totalAmount"]) * share, abs=0.01)
    assert ("paymentLink" in body["invoiceInformation"]) is (invoice_id != "CANCELED-1")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 5000])
def test_a_cancelation_needs_a_json_object(body: bytes) -> None:
    """Without an object as its body nothing is canceled."""
    client = Client()
    assert client.send("POST", "/2675/cancelation", body).http_status == HTTPStatus.BAD_REQUEST
    assert client.status("2675") == "SENT"


# --- list and create -----------------------------------------------------------------------------


def test_the_list_pages_newest_first_and_filters_by_status() -> None:
    """Offset counts invoices, the total is told, and the filter takes either case."""
    client = Client()
    for invoice_id in ("1", "2", "PAID-3", "PENDING-PAID-4", "5"):
        client.get(invoice_id)
    page = json.loads(client.send("GET", "?offset=1&limit=2").body)
    assert [item["id"] for item in page["invoices"]] == ["PENDING-PAID-4", "PAID-3"]
    assert page["totalInvoices"] == 5
    assert set(page["_links"]) == {"self", "next", "previous"}
    assert "offset=3&" in page["_links"]["next"]["href"]
    client.at_s = 2.0
    page = json.loads(client.send("GET", "?offset=0&limit=1000&status=paid").body)
    assert [item["id"] for item in page["invoices"]] == ["PENDING-PAID-4", "PAID-3"]
    assert set(page["_links"]) == {"self"}


@pytest.mark.parametrize(
    ("query", "http_status"),
    [
        pytest.param("", 400, id="nothing"),
        pytest.param("?offset=0", 400, id="no-limit"),
        pytest.param("?limit=1", 400, id="no-offset"),
        pytest.param("?offset=-1&limit=1", 400, id="negative"),
        pytest.param("?offset=0&limit=0", 400, id="limit-0"),
        pytest.param("?offset=0&limit=1001", 400, id="limit-too-high"),
        pytest.param("?offset=9999999999999999999999&limit=1", 400, id="offset-huge"),
        pytest.param("?offset=0&limit=1&status=EXPIRED", 400, id="status"),
        pytest.param("?offset=0&limit=1&status=ARCHIVED", 400, id="status-unlisted"),
        pytest.param("?offset=0&limit=1", 404, id="empty"),
    ],
)
def test_a_list_request_that_is_wrong_or_finds_nothing_is_an_error(query: str, http_status: int) -> None:
    """Parameters are checked, and an empty list is the documented 404."""
    assert Client().send("GET", query).http_status == http_status


def test_made_up_invoices_are_what_their_ids_say_to_every_simulator() -> None:
    """A manifest made from the list of one can be run against another; only dates are the first one's own."""
    one, other = Client(invoices=24), Client()
    page = json.loads(one.send("GET", "?offset=0&limit=1000").body)
    assert page["totalInvoices"] == 24
    statuses = [item["status"] for item in page["invoices"]]
    assert set(statuses) == {"DRAFT", "CREATED", "SENT", "PAID", "PARTIAL", "CANCELED"}
    due = [item["invoiceInformation"]["dueDate"] for item in page["invoices"]]
    assert (due[-1], due) == ("2025-02-14", sorted(due, reverse=True))
    for item in page["invoices"]:
        seen = other.get(item["id"])
        assert seen["status"] == item["status"]
        assert (
            seen["orderInformation"]["amountDetails"].items()
            >= item["orderInformation"]["amountDetails"].items()
        )
        assert one.get(item["id"])["invoiceInformation"]["dueDate"] == item["invoiceInformation"]["dueDate"]


def test_the_list_dates_invoices_in_the_form_of_the_specification_only() -> None:
    """The guide's examples have no date of creation; a look-up's history tells it then."""
    client = Client(invoices=24)
    items = json.loads(client.send("GET", "?offset=0&limit=1000").body)["invoices"]
    undated = [item for item in items if "createdDate" not in item]
    assert 0 < len(undated) < len(items)
    for item in undated:
        assert isinstance(item["orderInformation"]["amountDetails"]["totalAmount"], int | float)
        assert client.get(item["id"])["invoiceHistory"][-1]["event"] in {"CREATE", "DRAFT"}


def creation(total: object, currency: object = "USD", **information: object) -> bytes:
    """Build the body of a creation."""
    details = {"totalAmount": total, "currency": currency}
    body = {"invoiceInformation": information, "orderInformation": {"amountDetails": details}}
    return json.dumps(body).encode()


def test_an_invoice_can_be_created_and_canceled() -> None:
    """A creation answers with the draft, under the merchant's number or the next free one."""
    client = Client()
    client.get("1000")
    created = json.loads(client.send("POST", "", creation("10.10")).body)
    assert (created["id"], created["status"]) == ("1001", "DRAFT")
    assert created["orderInformation"]["amountDetails"]["totalAmount"] == "10.10"
    answer = client.send("POST", "", creation(12, invoiceNumber="HTML-1", sendImmediately=True))
    assert (answer.http_status, json.loads(answer.body)["status"]) == (201, "SENT")
    assert client.cancel("1001").committed
    assert client.cancel("HTML-1").cause == "html"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"orderInformation":[]}', id="no-details"),
        pytest.param(creation(None), id="no-amount"),
        pytest.param(creation(True), id="amount-true"),
        pytest.param(creation("ten"), id="amount-text"),
        pytest.param(creation("NaN"), id="amount-nan"),
        pytest.param(creation("-1"), id="amount-negative"),
        pytest.param(creation("1.001"), id="amount-too-fine"),
        pytest.param(creation("1e30"), id="amount-huge"),
        pytest.param(creation("1", currency=None), id="no-currency"),
        pytest.param(creation("1", invoiceNumber="../x"), id="number"),
        pytest.param(creation("1", invoiceNumber="2675"), id="number-taken"),
    ],
)
def test_a_creation_that_is_wrong_is_400(body: bytes) -> None:
    """Amount, currency and number are checked, and a number is taken only once."""
    client = Client()
    client.get("2675")
    assert client.send("POST", "", body).http_status == HTTPStatus.BAD_REQUEST
    assert list(client.service.books[SANDBOX_MERCHANT_ID].by_id) == ["2675"]


@pytest.mark.parametrize(
    ("method", "target"),
    [
        pytest.param("GET", "/", id="root"),
        pytest.param("GET", f"{ROOT}/", id="trailing-slash"),
        pytest.param("GET", f"{ROOT}/1/cancelation", id="get-cancelation"),
        pytest.param("POST", f"{ROOT}/1", id="post-invoice"),
        pytest.param("POST", f"{ROOT}/1/cancelation/", id="cancelation-slash"),
        pytest.param("POST", f"{ROOT}//cancelation", id="empty-id"),
        pytest.param("DELETE", ROOT, id="delete"),
    ],
)
def test_any_other_endpoint_is_an_html_404(method: str, target: str) -> None:
    """What is not one of the four endpoints is answered by something that is no JSON."""
    service = Service(SandboxOptions())
    operation, invoice_id, answer = service.answer(wire(None, method, target, b""))
    assert (operation, invoice_id, answer.http_status) == ("other", None, 404)
    assert answer.content_type == "text/html"
    assert service.requests == {"other": 1}


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "shown", "state", "later"),
    [
        # prefix, (HTTP status, how the body begins), status afterwards, a second POST's HTTP status
        ("ERROR500-", (500, b'{"response"'), "SENT", 500),
        ("ERROR502-ONCE-", (502, b'{"submitTimeUtc"'), "SENT", 200),
        ("FORBIDDEN-", (403, b'{"response"'), "SENT", 403),
        ("UNAUTHORIZED-ONCE-", (401, b'{"response":{"rmsg":"Authentication Failed"}}'), "SENT", 200),
        ("THROTTLE-", (429, b"{"), "SENT", 200),
        ("LAPSED-", (400, b'{"submitTimeUtc"'), "SENT", 200),
        ("HTML-", (200, b"<!DOCTYPE html>"), "SENT", 200),
        ("MISMATCH-", (200, b"{"), "SENT", 200),
        ("RESET-BEFORE-", (None, b""), "SENT", 200),
        ("RESET-AFTER-", (None, b"{"), "CANCELED", 400),
        ("EMPTY-", (200, b""), "CANCELED", 400),
        ("TRUNCATED-", (200, b"{"), "CANCELED", 400),
        ("WRONGTYPE-", (200, b"\xff"), "CANCELED", 400),
        ("SLOW-", (200, b"{"), "CANCELED", 400),
        ("HANG-", (None, b"{"), "CANCELED", 400),
    ],
)
def test_a_fault_by_prefix_shows_what_the_table_says_and_does_what_it_says(
    prefix: str, shown: tuple[int | None, bytes], state: str, later: int
) -> None:
    """Reply, state and a second cancelation's reply are as the package's table promises."""
    client = Client()
    answer = client.cancel(f"{prefix}1")
    assert answer.http_status == shown[0]
    assert answer.body.startswith(shown[1])
    assert answer.cause is not None
    assert answer.committed is (state == "CANCELED")
    assert client.status(f"{prefix}1") == state
    assert client.cancel(f"{prefix}1").http_status == later


@pytest.mark.parametrize("behavior", _BEHAVIORS, ids=lambda behavior: behavior.prefix)
def test_every_prefix_is_in_the_package_documentation(behavior: Behavior) -> None:
    """The table that people read has every prefix of the table that decides."""
    assert f"``{behavior.prefix}``" in (batchcancel.sandbox.__doc__ or "")


@pytest.mark.parametrize(
    ("prefix", "http_status"),
    [("ERROR500-", 500), ("FORBIDDEN-", 403), ("UNAUTHORIZED-ONCE-", 401), ("RESET-BEFORE-", 200)],
)
def test_look_ups_suffer_only_where_the_table_says_so(prefix: str, http_status: int) -> None:
    """A look-up is truthful unless every request of the invoice is spoiled."""
    assert Client().send("GET", f"/{prefix}1").http_status == http_status


def test_a_look_up_does_not_use_up_a_fault_of_the_first_cancelation() -> None:
    """Whoever looks up first still meets the fault."""
    client = Client()
    client.get("RESET-BEFORE-1")
    assert client.cancel("RESET-BEFORE-1").cause == "reset_before"


def test_the_details_of_faults_are_as_documented() -> None:
    """Slow and hanging replies wait, truncated ones are cut, a lie names another id."""
    client = Client(slow_ms=1500)
    assert client.cancel("SLOW-1").wait_s == 1.5
    assert client.cancel("HANG-1").wait_s == 120
    assert client.cancel("TRUNCATED-1").is_cut
    assert client.cancel("THROTTLE-1").retry_after_s == 1
    assert Client(retry_after_s=None).cancel("THROTTLE-1").retry_after_s is None
    assert client.cancel("WRONGTYPE-1").content_type == "text/plain"
    lie = json.loads(client.cancel("MISMATCH-1").body)
    assert (lie["id"], lie["status"]) == ("MISMATCH-1-other", "CANCELED")
    assert lie["invoiceInformation"]["invoiceNumber"] == "MISMATCH-1-other"


@pytest.mark.parametrize(
    ("share", "cause", "commits"),
    [
        ("error_share", "error500", False),
        ("html_share", "html", False),
        ("reset_before_share", "reset_before", False),
        ("reset_after_share", "reset_after", True),
        ("truncate_share", "truncated", True),
    ],
)
def test_faults_by_share_hit_that_share_of_requests(share: str, cause: str, commits: bool) -> None:  # noqa: FBT001 - a case's column
    """About a third suffers at a third, each time the same, committed or not as named."""
    runs = []
    for _ in range(2):
        client = Client(seed=3, **{share: 0.3})
        answers = [client.cancel(str(number)) for number in range(300)]
        runs.append([answer.cause for answer in answers])
        assert all(answer.committed is (commits or answer.cause is None) for answer in answers)
    assert runs[0] == runs[1]
    assert 60 < runs[0].count(cause) < 120
    assert set(runs[0]) == {cause, None}


def test_another_seed_hits_other_requests_and_latency_does_not_shift_them() -> None:
    """The seed alone decides who suffers."""

    def causes(**options: Any) -> list[str | None]:
        client = Client(error_share=0.3, **options)
        return [client.cancel(str(number)).cause for number in range(50)]

    assert causes(seed=1) == causes(seed=1, jitter_ms=50, slow_share=0.5)
    assert causes(seed=1) != causes(seed=2)


def test_faults_by_share_hit_lists_and_creations_too() -> None:
    """Chance does not ask what a request is for."""
    client = Client(truncate_share=1)
    created = client.send("POST", "", creation("1"))
    assert (created.cause, created.is_cut, created.committed) == ("truncated", True, True)
    assert client.send("GET", "?offset=0&limit=1").is_cut


def test_latency_is_fixed_plus_jitter_plus_the_slow_share() -> None:
    """Every reply waits the fixed part, at most the jitter more, and the slow ones the slow part."""
    client = Client(latency_ms=100, jitter_ms=50, slow_share=0.3, slow_ms=1000)
    waits = sorted(client.send("GET", "/1").wait_s for _ in range(200))
    quick = [wait_s for wait_s in waits if wait_s < 0.5]
    assert 0.1 <= quick[0] < quick[-1] <= 0.15
    assert 30 < len(waits) - len(quick) < 90
    assert all(1.1 <= wait_s <= 1.15 for wait_s in waits[len(quick) :])


def test_the_rate_limit_serves_so_many_a_second_and_no_more() -> None:
    """Requests over the rate get a 429 with the Retry-After that was asked for."""
    client = Client(rate_limit=3, retry_after_s=5)
    assert [client.send("GET", "/1").http_status for _ in range(5)] == [200, 200, 200, 429, 429]
    refused = client.cancel("1")
    assert (refused.cause, refused.retry_after_s, refused.committed) == ("rate_limit", 5, False)
    client.at_s = 1.0
    assert client.cancel("1").committed


@pytest.mark.parametrize(("per_s", "served"), [(0.5, 5), (1, 10), (2.5, 20), (20, 200)])
def test_a_rate_holds_over_many_seconds(per_s: float, served: int) -> None:
    """Fractions below one a second are served too; above, fractions are cut."""
    assert served_of_each_second(per_s, RateLimitKind.SLIDING, 10) == served


def served_of_each_second(
    per_s: float, kind: RateLimitKind, seconds: int, change: tuple[float, float] | None = None
) -> int:
    """Count what is served of a hundred requests a second."""
    limit = rate_limit(SandboxOptions(rate_limit=per_s, rate_limit_kind=kind, rate_change=change))
    assert limit is not None
    return sum(limit.admits(tick / 100) for tick in range(seconds * 100))


@pytest.mark.parametrize(
    ("kind", "served"),
    [(RateLimitKind.SLIDING, 40), (RateLimitKind.FIXED, 80), (RateLimitKind.BUCKET, 43)],
)
def test_kinds_of_limit_differ_in_what_they_let_through_at_once(kind: RateLimitKind, served: int) -> None:
    """Around the turn of a second a fixed window serves twice its limit, a full bucket its store."""
    limit = rate_limit(SandboxOptions(rate_limit=40, rate_limit_kind=kind))
    assert limit is not None
    assert sum(limit.admits(0.95 + tick / 1000) for tick in range(101)) == served


@pytest.mark.parametrize(
    ("kind", "served"),
    [(RateLimitKind.SLIDING, 200), (RateLimitKind.FIXED, 200), (RateLimitKind.BUCKET, 240)],
)
def test_the_rate_limit_can_change_in_the_middle(kind: RateLimitKind, served: int) -> None:
    """Two seconds at 40, then three at 40 more or fewer, as told."""
    assert served_of_each_second(40, kind, 5) == pytest.approx(served, abs=1)
    assert served_of_each_second(40, kind, 5, (2.0, 80)) == pytest.approx(served + 120, abs=1)
    assert served_of_each_second(40, kind, 5, (2.0, 20)) == pytest.approx(served - 60, abs=20)


def test_an_outage_counts_from_the_first_request_and_ends() -> None:
    """During its window every request is a 503, signed or not, and nothing is done."""
    client = Client(outage=(10, 5))
    statuses: dict[float, Any] = {}
    for at_s in (100.0, 109.9, 110.0, 114.9, 115.0):
        client.at_s = at_s
        statuses[at_s] = client.cancel(f"at-{at_s}").http_status
    assert list(statuses.values()) == [200, 200, 503, 503, 200]
    assert client.status("at-110.0") is None


def test_a_clock_that_is_off_refuses_requests_that_are_dated_right() -> None:
    """The simulator's own idea of now is what a signature is checked against."""
    service = Service(SandboxOptions(clock_offset_s=3600), wall_clock=lambda: float(NOW_S))
    token = token_of(claims_for("POST", CANCEL_TARGET, b"{}"))
    answer = service.answer(wire(f"Bearer {token}"))[2]
    assert (answer.http_status, answer.cause) == (401, "token expired")
    assert answer.body == b'{"response":{"rmsg":"Authentication Failed"}}'
    assert not service.books[SANDBOX_MERCHANT_ID].by_id


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"error_share": 1.1}, id="share-above-1"),
        pytest.param({"slow_share": -0.1}, id="share-negative"),
        pytest.param({"error_share": 0.6, "html_share": 0.6}, id="shares-add-up"),
        pytest.param({"invoices": -1}, id="invoices"),
        pytest.param({"invoices": 10**7}, id="invoices-too-many"),
        pytest.param({"latency_ms": -1}, id="latency"),
        pytest.param({"clock_skew_s": float("nan")}, id="skew-nan"),
        pytest.param({"rate_limit": 0}, id="rate"),
        pytest.param({"rate_change": (5, 20)}, id="rate-change-alone"),
        pytest.param({"rate_limit": 40, "rate_change": (5, 0)}, id="rate-change"),
        pytest.param({"retry_after_s": -1}, id="retry-after"),
        pytest.param({"outage": (0, -1)}, id="outage"),
        pytest.param({"secret": "not base64!"}, id="secret"),
        pytest.param({"secret": ""}, id="no-secret"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    """An option that makes no sense is an error at once, not a strange simulator."""
    with pytest.raises(ValueError, match=r"\.$"):
        SandboxOptions(**options)


def test_the_secret_is_not_shown() -> None:
    """Neither the options' text nor the error about a bad secret quotes the secret."""
    assert SandboxOptions().secret not in repr(SandboxOptions())
    with pytest.raises(ValueError, match="base64") as caught:
        SandboxOptions(secret="hunter2!")
    assert "hunter2" not in str(caught.value)


def test_the_simulator_imports_nothing_else_of_the_package() -> None:
    """It shares no code with the client, so that both have to be right."""
    folder = Path(batchcancel.sandbox.__file__ or "").parent
    lines = [line.strip() for path in folder.glob("*.py") for line in path.read_text().splitlines()]
    ours = [line for line in lines if line.startswith(("from batchcancel", "import batchcancel"))]
    assert ours
    assert all(line.startswith("from batchcancel.sandbox") for line in ours)
