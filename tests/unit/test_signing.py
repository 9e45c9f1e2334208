"""Signatures, compared with what the official SDK sent."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey

from batchcancel.api.signing import HttpSignatureSigner, Identity, JwtSigner, SharedSecret

_VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "auth_vectors.json").read_bytes())
_SECRET = b"0123456789abcdef0123456789abcdef"
_IDENTITY = Identity(merchant_id="merchant")
_KEY = SharedSecret(key_id="key", secret=_SECRET)


def _vectors(kind: str) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in _VECTORS[kind]]


def _identity(config: dict[str, Any]) -> Identity:
    return Identity(merchant_id=config["merchantid"], portfolio_id=config.get("portfolio_id"))


def _key(config: dict[str, Any]) -> SharedSecret:
    return SharedSecret(
        key_id=config["merchant_keyid"], secret=base64.b64decode(config["merchant_secretkey"])
    )


def _jwt_signer(config: dict[str, Any], **options: Any) -> JwtSigner:
    response_key_id = config.get("responseMleKID")
    return JwtSigner(
        _identity(config),
        key=lambda: _key(config),
        response_key_id=None if response_key_id is None else lambda: response_key_id,
        **options,
    )


def _request(inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        "method": inputs["method"],
        "target": inputs["request_target"],
        "host": inputs["config"]["run_environment"],
        "body": None if inputs["body"] is None else inputs["body"].encode(),
        "now": inputs["unix_time"] + 0.75,
    }


@pytest.mark.parametrize("vector", _vectors("jwt_shared_secret"))
def test_token_equals_the_official_sdks(vector: dict[str, Any]) -> None:
    """Header, claims and signature are the same bytes."""
    inputs = vector["inputs"]
    signer = _jwt_signer(inputs["config"], new_jti=lambda: inputs["uuid4"])
    assert signer.headers(**_request(inputs)) == {"Authorization": vector["expected"]["authorization_header"]}


@pytest.mark.parametrize("vector", _vectors("jwt_shared_secret"))
def test_token_is_accepted_by_an_independent_library(vector: dict[str, Any]) -> None:
    """A JOSE library verifies the signature and reads the documented claims."""
    inputs = vector["inputs"]
    bearer = _jwt_signer(inputs["config"]).headers(**_request(inputs))["Authorization"]
    key = OctKey.import_key(base64.b64decode(inputs["config"]["merchant_secretkey"]))
    token = jwt.decode(bearer.removeprefix("Bearer "), key)
    assert token.header == vector["expected"]["header"]
    assert token.claims | {"jti": inputs["uuid4"]} == vector["expected"]["claims"]


@pytest.mark.parametrize("vector", _vectors("http_signature"))
def test_http_signature_equals_the_official_sdks(vector: dict[str, Any]) -> None:
    """Every header that the SDK signs or signs with is the same text."""
    expected = vector["expected"]
    config = vector["inputs"]["config"]
    signer = HttpSignatureSigner(_identity(config), key=lambda: _key(config))
    headers = signer.headers(**_request(vector["inputs"]))
    assert headers.pop("Signature") == expected["signature_header"]
    assert headers.pop("Date") == expected["date"]
    assert headers.pop("Digest", None) == expected.get("digest")
    assert headers == {"v-c-merchant-id": expected["v_c_merchant_id_header"]}


def test_each_token_has_its_own_id() -> None:
    """The service refuses a jti that it has seen."""
    signer = JwtSigner(_IDENTITY, key=lambda: _KEY)
    key = OctKey.import_key(_SECRET)
    ids = set()
    for _ in range(50):
        bearer = signer.headers(method="GET", target="/x", host="h", body=None, now=0)["Authorization"]
        ids.add(jwt.decode(bearer.removeprefix("Bearer "), key).claims["jti"])
    assert len(ids) == 50


@pytest.mark.parametrize(
    ("host", "claim"),
    [
        pytest.param("api.visaacceptance.com", "api.visaacceptance.com", id="no port"),
        pytest.param("127.0.0.1:8080", "127.0.0.1", id="port"),
        pytest.param("[::1]:8080", "[::1]", id="IPv6 with port"),
        pytest.param("[::1]", "[::1]", id="IPv6"),
    ],
)
def test_token_names_the_host_without_its_port(host: str, claim: str) -> None:
    """request-host has no port; the HTTP Signature's host line is the Host header as sent."""
    bearer = JwtSigner(_IDENTITY, key=lambda: _KEY).headers(
        method="GET", target="/x", host=host, body=None, now=0
    )
    token = jwt.decode(bearer["Authorization"].removeprefix("Bearer "), OctKey.import_key(_SECRET))
    assert token.claims["request-host"] == claim


def test_http_signature_covers_host_and_port() -> None:
    """Another port is another signature."""
    signer = HttpSignatureSigner(_IDENTITY, key=lambda: _KEY)
    signatures = {
        signer.headers(method="GET", target="/x", host=host, body=None, now=0)["Signature"]
        for host in ("h", "h:1", "h:2")
    }
    assert len(signatures) == 3


# --- tokens from a prepared frame ---------------------------------------------------------------------

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_TEXTS = _TEXT | st.sampled_from(
    ['"', "\\", '","jti":"', "\x00\x1f\x7f", "\u2028", "\ud7ff", "</script>", "é\U0001f4b8"]
)
_REQUESTS = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["GET", "POST"]) | _TEXTS,
        "target": _TEXTS,
        "host": st.builds(
            str.__add__, _TEXTS.filter(lambda text: ":" not in text), st.sampled_from(["", ":8080"])
        ),
        "body": st.none() | st.sampled_from([b"", b"{}"]) | st.binary(),
        "now": st.floats(0, 2**33),
    }
)


def _claims_of(bearer: str) -> bytes:
    claims = bearer.removeprefix("Bearer ").split(".")[1]
    return base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))


@example(
    {"method": "POST", "target": '/x"\\', "host": "h:8080", "body": b"{}", "now": 0.5}, "m", None, "id", None
)
@given(_REQUESTS, _TEXTS.filter(bool), st.none() | _TEXTS, _TEXTS, st.none() | _TEXTS)
def test_claims_are_what_the_whole_object_would_be_encoded_to(
    request: dict[str, Any],
    merchant_id: str,
    portfolio_id: str | None,
    jti: str,
    response_key_id: str | None,
) -> None:
    """Whatever the texts hold, quotes and backslashes included: the bytes are those of one encoding."""
    signer = JwtSigner(
        Identity(merchant_id=merchant_id, portfolio_id=portfolio_id),
        key=lambda: _KEY,
        response_key_id=None if response_key_id is None else lambda: response_key_id,
        new_jti=lambda: jti,
    )
    claims: dict[str, Any] = {
        "iss": portfolio_id or merchant_id,
        "v-c-jwt-version": "2",
        "v-c-merchant-id": merchant_id,
        "exp": int(request["now"]) + 120,
        "iat": int(request["now"]),
        "jti": jti,
        "request-host": request["host"].removesuffix(":8080"),
        "request-method": request["method"],
        "request-resource-path": request["target"],
    }
    if request["body"] is not None:
        digest = base64.b64encode(hashlib.sha256(request["body"]).digest()).decode()
        claims |= {"digest": digest, "digestAlgorithm": "SHA-256"}
    if response_key_id is not None:
        claims["v-c-response-mle-kid"] = response_key_id
    expected = msgspec.json.encode(claims, order="sorted")
    for _ in range(2):  # the second token is made from the frame of the first
        assert _claims_of(signer.headers(**request)["Authorization"]) == expected


@given(st.lists(st.tuples(_REQUESTS, st.booleans(), st.sampled_from([None, "a", "b"])), max_size=6))
def test_no_token_keeps_anything_of_the_one_before(
    requests: list[tuple[dict[str, Any], bool, str | None]],
) -> None:
    """Second, method, host, body, key and response key change in any order: as if each were the first."""
    other_key = SharedSecret(key_id="other", secret=b"x" * 32)
    now_in_force: list[Any] = [None, None]
    signer = JwtSigner(
        _IDENTITY,
        key=lambda: now_in_force[0],
        response_key_id=lambda: now_in_force[1],
        new_jti=lambda: "same",
    )
    for request, is_other, response_key_id in requests:
        key = now_in_force[0] = other_key if is_other else _KEY
        now_in_force[1] = response_key_id or ""
        fresh = JwtSigner(
            _IDENTITY,
            key=lambda key=key: key,  # type: ignore[misc] # bound now, not when the loop has ended
            response_key_id=lambda: now_in_force[1],
            new_jti=lambda: "same",
        )
        assert signer.headers(**request) == fresh.headers(**request)


def test_legacy_signature_of_the_next_second_has_its_own_date() -> None:
    """What is kept of one second is not used in the next."""
    signer = HttpSignatureSigner(_IDENTITY, key=lambda: _KEY)
    dates = [
        signer.headers(method="GET", target="/x", host="h", body=None, now=now)["Date"] for now in (0, 0.9, 1)
    ]
    assert dates == ["Thu, 01 Jan 1970 00:00:00 GMT"] * 2 + ["Thu, 01 Jan 1970 00:00:01 GMT"]


# --- secrets ------------------------------------------------------------------------------------------


def test_a_key_never_shows_the_secret() -> None:
    """Neither the two representations nor rich's one hold the secret."""
    signers = (JwtSigner(_IDENTITY, key=lambda: _KEY), HttpSignatureSigner(_IDENTITY, key=lambda: _KEY))
    shown = f"{_KEY!r} {_KEY} {_KEY.__rich_repr__()} {signers!r}"
    assert "key_id='key'" in shown
    assert _SECRET.decode() not in shown
    assert "secret=" not in shown


@pytest.mark.parametrize("kind", ["token", "http signature"])
def test_id_and_signature_are_of_the_same_key(kind: str) -> None:
    """Even where the key changes with every look at it: the id of one with another's signature is refused."""
    secrets = {f"key-{number}": bytes([number]) * 32 for number in range(100)}
    changing = iter(SharedSecret(key_id=key_id, secret=secret) for key_id, secret in secrets.items())
    request: dict[str, Any] = {"method": "GET", "target": "/x", "host": "h", "body": None, "now": 0}
    if kind == "token":
        bearer = JwtSigner(_IDENTITY, key=lambda: next(changing)).headers(**request)["Authorization"]
        token = bearer.removeprefix("Bearer ")
        key_id = json.loads(base64.urlsafe_b64decode(token.partition(".")[0] + "=="))["kid"]
        assert jwt.decode(token, OctKey.import_key(secrets[key_id])).header["kid"] == key_id
    else:
        sent = HttpSignatureSigner(_IDENTITY, key=lambda: next(changing)).headers(**request)
        key_id = sent["Signature"].split('"')[1]
        steady = SharedSecret(key_id=key_id, secret=secrets[key_id])
        assert sent == HttpSignatureSigner(_IDENTITY, key=lambda: steady).headers(**request)
