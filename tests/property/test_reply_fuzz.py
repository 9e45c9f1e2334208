"""The reply parser against anything at all."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

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


@given(st.from_regex(r"-?(0|[1-9][0-9]{0,12})\.[0-9]{1,6}", fullmatch=True))
def test_decimal_literal_keeps_its_digits(literal: str) -> None:
    """No amount ever passes through a float."""
    body = f'{{"orderInformation":{{"amountDetails":{{"totalAmount":{literal}}}}}}}'.encode()
    assert parse_reply(200, CIMultiDict(), body, now=0.0).invoice.amount == literal


@given(st.emails(), st.text(), st.text())
def test_no_email_address_survives_in_a_message(address: str, before: str, after: str) -> None:
    """Whatever stands around it, the address is masked."""
    body = json.dumps({"message": f"{before} {address} {after}"}).encode()
    message = parse_reply(400, CIMultiDict(), body, now=0.0).message
    assert message is None or address not in message
