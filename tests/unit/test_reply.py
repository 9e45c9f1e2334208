"""Reading replies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from batchcancel.api.dates import parse_http_date
from batchcancel.api.reply import parse_reply
from batchcancel.model import Invoice, Reply

_EXAMPLES = json.loads((Path(__file__).parent.parent / "vectors" / "responses.json").read_bytes())[
    "responses"
]
_NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT


def _parse(body: bytes | str | None, http_status: int = 200, **headers: str) -> Reply:
    sent = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return parse_reply(http_status, sent, body.encode() if isinstance(body, str) else body, now=_NOW)


def _invoice(body: str) -> Invoice:
    reply = _parse(body)
    assert reply.is_object
    return reply.invoice


def _amount(literal: str) -> str | None:
    return _invoice(f'{{"orderInformation":{{"amountDetails":{{"totalAmount":{literal}}}}}}}').amount


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(example, id=f"{number}-{example['operation']}-{example['http_status']}")
        for number, example in enumerate(_EXAMPLES)
    ],
)
def test_documented_example_is_read(example: dict[str, Any]) -> None:
    """Status, id and amounts of each documented body arrive, customer fields never do."""
    body = example["body"]
    reply = _parse(None if body is None else json.dumps(body), example["http_status"])
    assert reply.is_object is (body is not None)
    fields = body or {}
    assert reply.invoice.status == fields.get("status")
    assert reply.invoice.id == fields.get("id")
    assert reply.invoice.submitted_at == fields.get("submitTimeUtc")
    total = fields.get("orderInformation", {}).get("amountDetails", {}).get("totalAmount")
    assert reply.invoice.amount == (None if total is None else str(total))
    assert reply.message == (fields.get("message") if example["http_status"] >= 400 else None)
    assert "Tanya" not in repr(reply)
    assert "tanya" not in repr(reply)


def test_whole_invoice_is_read() -> None:
    """Every field that the ledger keeps comes from its place."""
    body = """{"id":"51","submitTimeUtc":"2024-07-24T19:56:06.410896558Z","status":"CANCELED",
      "invoiceInformation":{"invoiceNumber":"98753"},"orderInformation":{"amountDetails":
      {"totalAmount":10.10,"currency":"USD","balanceAmount":"0.00"}},
      "invoiceHistory":[{"event":"CANCEL","date":"1994-11-06T08:49:37Z"}]}"""
    assert _parse(body) == Reply(
        http_status=200,
        is_object=True,
        invoice=Invoice(
            id="51",
            number="98753",
            status="CANCELED",
            amount="10.10",
            balance="0.00",
            currency="USD",
            submitted_at="2024-07-24T19:56:06.410896558Z",
            canceled_at=_NOW,
        ),
    )


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(None, id="did not come whole"),
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>Bad Gateway</html>", id="HTML"),
        pytest.param(b'[{"status":"CANCELED"}]', id="array"),
        pytest.param(b'"CANCELED"', id="string"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"status":"CANCELED"', id="truncated"),
        pytest.param(b'{"status":"CANCELED"}{"status":"PAID"}', id="two documents"),
        pytest.param(b'\xef\xbb\xbf{"status":"CANCELED"}', id="byte order mark"),
        pytest.param(b'{"status":"CANCELED\xff"}', id="invalid UTF-8"),
        pytest.param(b'{"status":"\\ud800"}', id="lone surrogate"),
        pytest.param(b'{"status":"\xed\xa0\x80"}', id="lone surrogate in UTF-8"),
        pytest.param(b'{"x":' + b"[" * 300_000, id="nested too deep"),
        pytest.param(b'{"id":' + b"9" * 10_000 + b"}", id="huge integer"),
        pytest.param(b'{"id":NaN}', id="not a number"),
    ],
)
def test_what_is_no_json_object_is_none(body: bytes | None) -> None:
    """Nothing is read from such a body, and nothing is raised."""
    assert _parse(body, 502) == Reply(http_status=502)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param('{"status":"SENT","id":"1","status":"CANCELED"}', id="status"),
        pytest.param('{"status":"SENT","id":"1","st\\u0061tus":"CANCELED"}', id="status, once escaped"),
        pytest.param('{"status":"CANCELED","id":"1","id":"2"}', id="id"),
        pytest.param('{"invoiceInformation":{"invoiceNumber":"1","invoiceNumber":"2"}}', id="number"),
        pytest.param('{"invoiceInformation":{},"invoiceInformation":{}}', id="information"),
    ],
)
def test_object_that_says_two_things_is_none(body: str) -> None:
    """A name that decides stands twice in it; which one counts depends on the reader."""
    reply = _parse(body)
    assert (reply.is_object, reply.invoice) == (False, Invoice())


def test_name_may_stand_in_two_objects() -> None:
    """Only within one object is it ambiguous."""
    body = '{"id":"1","customerInformation":{"id":"7","status":"\\u00e4"},"status":"PAID"}'
    assert _invoice(body) == Invoice(id="1", status="PAID")


def test_encrypted_reply_is_an_object_that_says_nothing() -> None:
    """A wrapped reply must not be taken for an answer."""
    reply = _parse('{"encryptedResponse":"aaaa.bbbb.cccc.dddd.eeee"}')
    assert reply.is_object
    assert reply.invoice == Invoice()


@pytest.mark.parametrize(
    ("literal", "amount"),
    [
        pytest.param("10.10", "10.10", id="number keeps its last zero"),
        pytest.param('"10.10"', "10.10", id="string"),
        pytest.param("5", "5", id="integer"),
        pytest.param("0", "0", id="zero"),
        pytest.param("-3.50", "-3.50", id="negative"),
        pytest.param('"007.50"', "007.50", id="leading zeros as received"),
        pytest.param("1e5", "100000", id="exponent written out"),
        pytest.param("1.50E+1", "15.0", id="digits kept under an exponent"),
        pytest.param("25e-1", "2.5", id="negative exponent"),
        pytest.param('"1.5E3"', "1500", id="exponent in a string"),
        pytest.param("0.1234567890123456789", "0.1234567890123456789", id="more digits than a float holds"),
        pytest.param(
            "12345678901234567890123456789", "12345678901234567890123456789", id="more than 64 bits"
        ),
        pytest.param("1e33", None, id="absurd exponent"),
        pytest.param("1e999999999999", None, id="exponent that would fill the memory"),
        pytest.param("1e-99", None, id="absurd negative exponent"),
        pytest.param("9" * 40, None, id="absurd integer"),
        pytest.param(f'"{"9" * 40}"', None, id="absurd string"),
        pytest.param('"1,234.50"', None, id="thousands separator"),
        pytest.param('" 1.50"', None, id="white space"),
        pytest.param('"٣"', None, id="digits of another script"),
        pytest.param('"NaN"', None, id="not a number"),
        pytest.param('""', None, id="empty"),
        pytest.param("true", None, id="boolean"),
        pytest.param("null", None, id="null"),
        pytest.param("[1]", None, id="array"),
    ],
)
def test_amount_is_a_plain_decimal_or_none(literal: str, amount: str | None) -> None:
    """Digits stay as received, no float and no exponent comes out."""
    assert _amount(literal) == amount


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        pytest.param('"2675"', "2675", id="string"),
        pytest.param('"00123"', "00123", id="leading zeros stay"),
        pytest.param("2675", "2675", id="integer"),
        pytest.param("2675.0", None, id="fraction"),
        pytest.param("true", None, id="boolean"),
        pytest.param('""', None, id="empty"),
        pytest.param(f'"{"a" * 65}"', None, id="longer than any id that is sent"),
        pytest.param('"26\\u000075"', None, id="control character"),
        pytest.param("9" * 40, None, id="absurd integer"),
        pytest.param("{}", None, id="object"),
    ],
)
def test_id_is_a_string_or_an_integers_digits(literal: str, expected: str | None) -> None:
    """Id and number are read alike."""
    invoice = _invoice(f'{{"id":{literal},"invoiceInformation":{{"invoiceNumber":{literal}}}}}')
    assert (invoice.id, invoice.number) == (expected, expected)


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        pytest.param('"SETTLED"', "SETTLED", id="not listed"),
        pytest.param('"canceled"', "canceled", id="case as received"),
        pytest.param('"CANCELED\\u0000"', "CANCELED\ufffd", id="damaged text never becomes a listed status"),
        pytest.param('"' + "AB " * 30 + '"', ("AB " * 30)[:64], id="cut to 64"),
        pytest.param('"jo@my-mail.example"', "***", id="e-mail"),
        pytest.param('"PAIDeyJhbGciOiJIUzI1NiJ9"', "PAID***", id="token never becomes a listed status"),
        pytest.param("1.5", None, id="number"),
        pytest.param("1", None, id="integer"),
        pytest.param('""', None, id="empty"),
        pytest.param("null", None, id="null"),
        pytest.param('["PAID"]', None, id="array"),
    ],
)
def test_status_is_kept_as_received(literal: str, expected: str | None) -> None:
    """Only a string is a status."""
    assert _invoice(f'{{"status":{literal}}}').status == expected


@pytest.mark.parametrize("literal", ['"usd"', '"USDX"', '"$"', "840", "1.5", "null"])
def test_currency_that_is_no_iso_code_is_none(literal: str) -> None:
    """Three capital letters or nothing."""
    assert _invoice(f'{{"orderInformation":{{"amountDetails":{{"currency":{literal}}}}}}}').currency is None


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [
        pytest.param("2020-03-12T21:15:07Z", True, id="seconds"),
        pytest.param("2024-07-24T19:56:06.410896558Z", True, id="nanoseconds"),
        pytest.param("2024-07-24T19:56:06+00:00", True, id="UTC as an offset"),
        pytest.param("2024-07-24T19:56:06+02:00", False, id="another zone"),
        pytest.param("2024-02-30T19:56:06Z", False, id="no such day"),
        pytest.param("2024-07-24", False, id="date only"),
        pytest.param("yesterday", False, id="words"),
    ],
)
def test_submit_time_is_kept_only_if_it_is_a_utc_time(*, text: str, is_kept: bool) -> None:
    """The text stays as received."""
    assert _invoice(json.dumps({"submitTimeUtc": text})).submitted_at == (text if is_kept else None)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"orderInformation": []}, id="order is an array"),
        pytest.param({"orderInformation": {"amountDetails": "x"}}, id="amounts are a string"),
        pytest.param({"invoiceInformation": 5}, id="information is a number"),
        pytest.param({"submitTimeUtc": 5}, id="time is a number"),
        pytest.param({"invoiceHistory": {"event": "CANCEL"}}, id="history is an object"),
        pytest.param({"invoiceHistory": ["CANCEL", None, {}]}, id="events are no objects"),
    ],
)
def test_field_of_the_wrong_type_spoils_nothing_else(body: dict[str, Any]) -> None:
    """Each field is read by itself."""
    assert _invoice(json.dumps(body | {"status": "PAID"})) == Invoice(status="PAID")


def test_latest_cancel_event_dates_the_cancelation() -> None:
    """Other events and unreadable dates do not count."""
    history = [
        {"event": "CANCEL", "date": "1994-11-06T08:49:37.5Z"},
        {"Event": "CANCEL", "Date": "1994-11-06T08:49:37.750000001Z"},
        {"event": "CANCEL", "date": "1994-11-06T08:49:30Z"},
        {"event": "CANCEL", "date": "soon"},
        {"event": "CANCEL", "date": 1999999999},
        {"event": "CANCEL"},
        {"event": "PAYMENT", "date": "2024-11-06T08:49:37Z"},
    ]
    assert _invoice(json.dumps({"invoiceHistory": history})).canceled_at == pytest.approx(
        _NOW + 0.75, rel=0, abs=1e-3
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("Invoice does not exist.", "Invoice does not exist.", id="plain"),
        pytest.param("  two\n\tlines\u00a0here ", "two lines here", id="white space folded"),
        pytest.param("a\x00b\x1b[31mc\u202e", "ab[31mc", id="unprintable removed"),
        pytest.param("Bad address <jo.doe+x@my-mail.example>!", "Bad address <***>!", id="e-mail"),
        pytest.param("a@b.example,c@d.example", "***,***", id="two e-mails"),
        pytest.param("card 4111 1111-1111 1111 refused", "card *** refused", id="card number"),
        pytest.param("phone 5551234", "phone ***", id="seven digits"),
        pytest.param("code 555123 of 12", "code 555123 of 12", id="six digits"),
        pytest.param("41\u200b11\u200b11\u200b1", "***", id="digits parted by invisible characters"),
        pytest.param("words " * 60, ("words " * 34)[:200], id="cut to 200"),
        pytest.param("mail jo%40my-mail.example", "mail ***", id="encoded e-mail"),
        pytest.param("got Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln", "got ***", id="token"),
        pytest.param(
            'signature="AnVW/4Zg0Xo3vC8M3kBWAqxPGdXgVBcfcHrqBkXfNSc="', 'signature="***"', id="signature"
        ),
        pytest.param("key 0a9b-cdef-kept-short", "key 0a9b-cdef-kept-short", id="short key"),
        pytest.param("a@b.c " * 400 + "d" * 2000 + "@e.example", "*** " * 49 + "***", id="masked before cut"),
        pytest.param("x" * 5000, None, id="one endless word"),
        pytest.param(" \n", None, id="blank"),
        pytest.param(7, None, id="number"),
        pytest.param(7.5, None, id="fraction"),
        pytest.param(None, None, id="null"),
    ],
)
def test_message_is_printable_masked_and_short(text: object, message: str | None) -> None:
    """An error's text fits a ledger and holds no customer's data."""
    assert _parse(json.dumps({"message": text}), 400).message == message


def test_message_is_read_from_errors_only() -> None:
    """A good reply's texts belong to the customer."""
    assert _parse('{"message":"hello"}', 399).message is None
    assert _parse('{"message":"hello"}', 400).message == "hello"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param("6d9c5f2a-1", "6d9c5f2a-1", id="plain"),
        pytest.param("a\udcffb\x07c", "abc", id="unprintable removed"),
        pytest.param("x" * 200, "x" * 128, id="cut to 128"),
        pytest.param("  ", None, id="blank"),
        pytest.param("Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln", None, id="echoed header"),
        pytest.param("eyJhbGciOiJIUzI1NiJ9.e30.c2ln", None, id="echoed token"),
        pytest.param("jo@my-mail.example", None, id="e-mail"),
    ],
)
def test_correlation_id_is_printable_ascii(header: str, expected: str | None) -> None:
    """It goes to the service's support, so it stays as it came; what is no id is not kept."""
    assert _parse(None, V_C_Correlation_ID=header).correlation_id == expected


@pytest.mark.parametrize(
    ("retry_after", "date", "expected"),
    [
        pytest.param("120", None, 120.0, id="seconds"),
        pytest.param("0", None, 0.0, id="at once"),
        pytest.param("9" * 400, None, 31536000.0, id="bounded"),
        pytest.param("Sun, 06 Nov 1994 08:50:37 GMT", None, 60.0, id="date against the service's clock"),
        pytest.param(
            "Sun, 06 Nov 1994 08:50:37 GMT", "Sun, 06 Nov 1994 08:50:07 GMT", 30.0, id="date against Date"
        ),
        pytest.param("Sun, 06 Nov 1994 08:00:00 GMT", None, 0.0, id="date in the past"),
        pytest.param("Sun, 06 Nov 2094 08:00:00 GMT", None, 31536000.0, id="date too far away"),
        pytest.param("-5", None, None, id="negative"),
        pytest.param("1.5", None, None, id="fraction"),
        pytest.param("soon", None, None, id="words"),
        pytest.param("٣", None, None, id="digit of another script"),
        pytest.param("", None, None, id="empty"),
        pytest.param(None, None, None, id="absent"),
    ],
)
def test_retry_after_is_seconds_from_now(
    retry_after: str | None, date: str | None, expected: float | None
) -> None:
    """Seconds or a date come out as seconds, nonsense as None."""
    sent = {"Retry_After": retry_after, "Date": date}
    reply = _parse(None, 429, **{name: value for name, value in sent.items() if value is not None})
    assert reply.retry_after_s == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("Sun, 06 Nov 1994 08:49:37 GMT", _NOW, id="the one form"),
        pytest.param("Sun, 31 Feb 1994 08:49:37 GMT", None, id="no such day"),
        pytest.param("Sun, 06 Nov 0000 08:49:37 GMT", None, id="no such year"),
        pytest.param("Sun, 06 Nov 1994 08:49:37 CET", None, id="another zone"),
        pytest.param("Sunday, 06-Nov-94 08:49:37 GMT", None, id="obsolete form"),
        pytest.param("", None, id="empty"),
    ],
)
def test_http_date_is_read_in_its_one_form(text: str, expected: float | None) -> None:
    """Whatever else it is, is no date."""
    assert parse_http_date(text) == expected
