"""Which texts are invoice ids, and how the others are recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import pytest
import yarl

from batchcancel.api.request import target
from batchcancel.manifest.ids import is_valid_id, recorded_text
from batchcancel.model import RequestKind

_VECTORS: Final = Path(__file__).parent.parent / "vectors" / "auth_vectors.json"
_SDK_IDS: Final = json.loads(_VECTORS.read_bytes())["sdk_id_handling"]["cases"]


@pytest.mark.parametrize(
    "text",
    ["2675", "00123", "A", "INV-1_b.C", "1E5", "9" * 64, "1.5", "12345.01", "1.0.0", "12345.0a", "12345."],
)
def test_ids_of_the_alphabet_are_valid(text: str) -> None:
    """A letter or digit first, then up to 63 of the alphabet."""
    assert is_valid_id(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("9" * 65, id="65-characters"),
        pytest.param("12345.0", id="spreadsheet"),
        pytest.param("12345.000", id="spreadsheet-more-zeros"),
        pytest.param("1.23E+15", id="scientific"),
        pytest.param(".", id="dot"),
        pytest.param("..", id="parent"),
        pytest.param("-1", id="minus-first"),
        pytest.param("_1", id="underscore-first"),
        pytest.param("a/b", id="slash"),
        pytest.param("a%2fb", id="percent"),
        pytest.param("a b", id="space"),
        pytest.param("a\n", id="trailing-newline"),
        pytest.param("1\n.0", id="newline-within"),
        pytest.param("٣٤", id="arabic-digits"),
        pytest.param("é", id="accent"),
        pytest.param("a#f", id="fragment"),
        pytest.param("=1+1", id="formula"),
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    """No other text can reach the service."""
    assert not is_valid_id(text)


@pytest.mark.parametrize(
    ("text", "recorded"),
    [
        pytest.param("a b/é", "a b/é", id="printable-stays"),
        pytest.param("a\x1b[2J\x00", "a\\x1b[2J\\x00", id="controls"),
        pytest.param("a\u2028b\x85", "a\\u2028b\\x85", id="line-separators"),
        pytest.param("a\u202eb\u2066", "a\\u202eb\\u2066", id="bidi-marks"),
        pytest.param("a\ud800", "a\\ud800", id="lone-surrogate"),
        pytest.param("a\U000e0001", "a\\U000e0001", id="beyond-the-basic-plane"),
        pytest.param("x" * 300, "x" * 256, id="long"),
        pytest.param("\x00" * 300, "\\x00" * 64, id="long-after-escaping"),
    ],
)
def test_recorded_text_is_printable_and_short(text: str, recorded: str) -> None:
    """What is no id can't harm a terminal, a ledger line or a reader's eye."""
    assert recorded_text(text) == recorded


@pytest.mark.parametrize("case", _SDK_IDS, ids=lambda case: repr(case["id"]))
def test_ids_with_which_the_official_sdk_leaves_the_path_stay_in_it(case: dict[str, str]) -> None:
    """None is an id that is sent; and were one sent, it would be one segment, signed as it stands there."""
    invoice_id = case["id"]
    assert not is_valid_id(invoice_id)
    if not invoice_id:
        with pytest.raises(ValueError, match="needs an invoice id"):
            target(RequestKind.CANCEL, invoice_id)
        return
    *root, segment, last = target(RequestKind.CANCEL, invoice_id).split("/")
    assert ("/".join(root), unquote(segment), last) == ("/invoicing/v2/invoices", invoice_id, "cancelation")
    assert segment.isascii()
    assert not set(segment) & set(" #?")
    assert yarl.URL(f"http://h{'/'.join([*root, segment, last])}", encoded=True).raw_path == "/".join(
        [*root, segment, last]
    ), "the client sends what it signs"
