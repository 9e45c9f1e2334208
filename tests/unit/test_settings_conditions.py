"""Options that say a condition in a notation of their own."""

from __future__ import annotations

import pytest

from batchcancel.errors import SettingsError
from batchcancel.settings.conditions import read_count, read_matches


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, None), ("5", (5, 5)), (" 90-110 ", (90, 110)), ("7-7", (7, 7)), ("0", (0, 0))],
    ids=repr,
)
def test_a_count_or_a_range_is_read(text: str | None, expected: tuple[int, int] | None) -> None:
    """One number is the least and the most."""
    assert read_count(text, source="--expect-count") == expected


@pytest.mark.parametrize(
    "text", ["", "x", "5-", "-5", "9-1", "1,000", "1.0", "1-2-3", "\u0665", "9" * 13], ids=repr
)
def test_no_count_is_refused_with_the_source(text: str) -> None:
    """The sentence says how it is written."""
    with pytest.raises(SettingsError, match=r"^BATCHCANCEL_EXPECT_COUNT takes a number.*90-110"):
        read_count(text, source="BATCHCANCEL_EXPECT_COUNT")


def test_columns_are_matched_with_fields() -> None:
    """Fields in any case; a column's name may hold an equals sign."""
    texts = ["Open amount=total", "a=b=CURRENCY", " due = duedate "]
    assert read_matches(texts, source="--match") == {
        "total": "Open amount",
        "currency": "a=b",
        "dueDate": "due",
    }
    assert read_matches((), source="") == {}


@pytest.mark.parametrize(
    "text", ["total", "=total", "amount=", "amount=sum", "amount total", " =total"], ids=repr
)
def test_no_match_is_refused(text: str) -> None:
    """A condition that is not understood protects nobody."""
    with pytest.raises(SettingsError, match="takes COLUMN=FIELD"):
        read_matches([text], source="--match")


@pytest.mark.parametrize(
    ("text", "hint"),
    [("amount=totl", " Did you mean total?"), ("due=due_date", " Did you mean dueDate?"), ("total", "")],
    ids=["near", "another spelling", "no column"],
)
def test_a_field_that_is_nearly_one_is_asked_for(text: str, hint: str) -> None:
    """The hint is written as the service writes the field."""
    with pytest.raises(SettingsError) as caught:
        read_matches([text], source="--match")
    assert str(caught.value).endswith(f"not {text!r}.{hint}")


def test_a_field_is_matched_once() -> None:
    """Two columns for one field: one of them is wrong."""
    with pytest.raises(SettingsError, match="names total twice"):
        read_matches(["a=total", "b=Total"], source="--match")
