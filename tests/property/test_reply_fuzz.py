"""The reply parser against anything at all."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from batchcancel.api.dates import _USUAL_RFC3339_UTC, utc_s
from batchcancel.api.reply import parse_reply
from batchcancel.model import Reply

_AMOUNT = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_NAMES = st.sampled_from(
    [
        "id", "status", "message", "submitTimeUtc", "invoiceInformation", "invoiceNumber", "orderInformation",
        "amountDetails", "totalAmount", "balanceAmount", "currency", "invoiceHistory", "event", "date",
    ]
)  # fmt: skip
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(["CANCELED", "CANCEL", "1e5", "1E-400", "2024-07-24T19:56:06.4Z", "USD", "a@b.example"])
)
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner) | st.dictionaries(_NAMES | st.text(), inner), max_leaves=10
)
_TWO_DIGITS = st.sampled_from(["00", "01", "29", "31", "59", "60", "99", "\u0663\u0663", "-1", "9" * 5000])
_DATES = st.builds(
    "{}, {} {} {} {}:{}:{} GMT".format,
    st.sampled_from(["Sun", "Xxx"]),
    _TWO_DIGITS,
    st.sampled_from(["Feb", "Nov", "nov"]),
    st.sampled_from(["0000", "1994", "2023", "9999"]),
    *[_TWO_DIGITS] * 3,
)
_SECONDS = st.sampled_from(["0", "3", " \t3\r\n", "86400", "9" * 5000, "-1", "1e9", "1.5", "inf", "\u0663"])
_HOSTILE_HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Retry-After": _SECONDS | _DATES,
        "Date": _DATES | st.just("Sun, 06 Nov 1994 08:49:37 GMT"),
        "Content-Type": st.sampled_from(
            ["text/html", "application/json; charset=utf-7", "\x00", "a/b" * 3000]
        ),
        "v-c-correlation-id": st.sampled_from(
            ["\x1b[2J", "a" * 9000, "\u202e", "\udc80", "\r\nSet-Cookie: a"]
        ),
    },
)
_HEADERS = st.dictionaries(st.sampled_from(["Retry-After", "Date", "v-c-correlation-id"]), st.text())


def _check(reply: Reply) -> None:
    invoice = reply.invoice
    for amount in (invoice.amount, invoice.balance):
        assert amount is None or _AMOUNT.fullmatch(amount)
    for text, longest in ((invoice.id, 64), (invoice.number, 64), (invoice.status, 64), (reply.message, 200)):
        assert text is None or (0 < len(text) <= longest and (text.isprintable() or "\ufffd" in text))
    assert invoice.currency is None or len(invoice.currency) == 3
    assert reply.retry_after_s is None or 0 <= reply.retry_after_s <= 365 * 86400
    assert reply.correlation_id is None or reply.correlation_id.isascii()


@given(st.integers(100, 999), _HEADERS, st.none() | st.binary())
def test_any_bytes_are_read_without_an_exception(
    http_status: int, headers: dict[str, str], body: bytes | None
) -> None:
    """Whatever comes, a Reply whose fields keep their promises comes out."""
    _check(parse_reply(http_status, CIMultiDict(headers), body, now=0.0))


@given(st.integers(100, 999), _HEADERS, st.dictionaries(_NAMES, _VALUES))
def test_any_json_object_is_read_without_an_exception(
    http_status: int, headers: dict[str, str], fields: dict[str, object]
) -> None:
    """Known names with values of every type, nested anywhere."""
    body = json.dumps(fields).replace("NaN", "1e7").replace("Infinity", "1e999").encode()
    reply = parse_reply(http_status, CIMultiDict(headers), body, now=0.0)
    _check(reply)
    if isinstance(fields.get("status"), str) and fields["status"] in {"CANCELED", "PAID"}:
        assert reply.invoice.status == fields["status"]


@example(429, {"Retry-After": "9" * 5000}, 0.0)
@example(429, {"Retry-After": "Sun, 31 Feb 2023 00:00:00 GMT"}, 0.0)
@example(429, {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT", "Date": "Mon, 01 Jan 0001 00:00:00 GMT"}, 0.0)
@given(st.integers(100, 999), _HOSTILE_HEADERS, st.sampled_from([0.0, -1e18, 1e18, 1.7e9]))
def test_hostile_headers_are_read_without_an_exception(
    http_status: int, headers: dict[str, str], now: float
) -> None:
    """Dates that do not exist, numbers without end, controls: a pause is bounded, and text is harmless."""
    reply = parse_reply(http_status, CIMultiDict(headers), b"{}", now=now)
    _check(reply)
    assert reply.correlation_id is None or (
        len(reply.correlation_id) <= 128 and reply.correlation_id.isprintable()
    )


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" * 100_000, id="deep lists"),
        pytest.param(b'{"a":' * 100_000, id="deep objects"),
        pytest.param(b'{"invoiceHistory":' + b"[" * 5000 + b"]" * 5000 + b"}", id="closed again"),
        pytest.param(b'{"id":' + b"9" * 5000 + b"}", id="an integer of 5,000 digits"),
        pytest.param(b'{"id":1' + b"0" * 100_000 + b".5e99999}", id="a decimal of 100,000 digits"),
        pytest.param(b'{"status":"\\ud800"}', id="half a surrogate pair"),
        pytest.param(b'{"status":"CANCELED\xff"}', id="a byte that is no UTF-8"),
        pytest.param('{"status":"CANCELED"}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte order mark"),
        pytest.param(b'{"status":"CANCELED"}{"status":"PAID"}', id="two objects"),
        pytest.param(b"\x1f\x8b" + bytes(100), id="gzip"),
    ],
)
def test_hostile_body_says_nothing(body: bytes) -> None:
    """Bombs of depth and length, other encodings, more than one object: no status comes out of any."""
    reply = parse_reply(200, CIMultiDict(), body, now=0.0)
    _check(reply)
    assert (reply.invoice.id, reply.invoice.status) == (None, None)


@given(st.from_regex(r"-?(0|[1-9][0-9]{0,12})\.[0-9]{1,6}", fullmatch=True))
def test_decimal_literal_keeps_its_digits(literal: str) -> None:
    """No amount ever passes through a float."""
    body = f'{{"orderInformation":{{"amountDetails":{{"totalAmount":{literal}}}}}}}'.encode()
    assert parse_reply(200, CIMultiDict(), body, now=0.0).invoice.amount == literal


@given(st.from_regex(_USUAL_RFC3339_UTC, fullmatch=True))
def test_time_of_the_usual_form_exists(text: str) -> None:
    """The quick look lets nothing pass that the calendar does not have."""
    assert utc_s(text) is not None


@example("2023-02-29T00:00:00Z")
@example("2024-02-29T00:00:00Z")
@example("2024-04-31T00:00:00Z")
@example("2024-12-31T24:00:00Z")
@example("2024-12-31T23:59:60Z")
@example("0000-01-01T00:00:00Z")
@example("2024-01-01T00:00:00Z\n")
@given(
    st.builds(
        "{}-{}-{}T{}:{}:{}{}{}".format,
        st.sampled_from(["0000", "0001", "1999", "2023", "2024", "9999"]),
        *[st.sampled_from(["00", "01", "02", "12", "13", "23", "24", "28", "29", "30", "31", "59", "60"])]
        * 5,
        st.sampled_from(["", ".", ".1", ".123456789", ".1234567890"]),
        st.sampled_from(["Z", "z", "", "+00:00", "-00:00", "+01:00", "Z\n"]),
    )
)
def test_time_is_kept_if_it_exists(text: str) -> None:
    """Whichever way it was looked at: month ends, leap years and hours are the calendar's."""
    body = json.dumps({"submitTimeUtc": text}).encode()
    kept = parse_reply(200, CIMultiDict(), body, now=0.0).invoice.submitted_at
    assert kept == (text if utc_s(text) is not None else None)


@given(st.emails(), st.text(), st.text())
def test_no_email_address_survives_in_a_message(address: str, before: str, after: str) -> None:
    """Whatever stands around it, the address is masked."""
    body = json.dumps({"message": f"{before} {address} {after}"}).encode()
    message = parse_reply(400, CIMultiDict(), body, now=0.0).message
    assert message is None or address not in message
