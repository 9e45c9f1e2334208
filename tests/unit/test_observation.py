"""What a reply was like, and that nothing of what it said gets through."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcancel.api.observation import Observation, observe


def observed(body: object, headers: dict[str, str] | None = None) -> Observation:
    """Observe a 200 whose body is some JSON, or bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return observe(200, headers or {}, content, was_encrypted=False, was_kept=False)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("2623.64", "decimal"),
        (2623.5, "number"),
        (2623, "integer"),
        ("0051", "digits"),
        ("2019-07-11", "date"),
        ("2020-03-12T21:15:07Z", "time"),
        ("2020-03-12T21:15:07.123456789Z", "time.9"),
        ("2020-03-12T21:15:07.12+00:00", "time.2"),
        ("2020-03-12 21:15:07", "string"),
        ("Tanya", "string"),
        (True, "boolean"),
        (None, "null"),
        ([], "array"),
        ({}, "object"),
    ],
)
def test_a_value_is_told_by_its_kind(value: object, kind: str) -> None:
    """Every form that the service's documents show is told apart."""
    assert observed({"field": value}).shape == {"field": kind}


def test_fields_inside_are_told_by_their_path() -> None:
    """Items of an array share one path, and their kinds are joined."""
    body = {"details": [{"field": "a", "n": 1}, {"field": None}], "amountDetails": {"total": "1.00"}}
    assert observed(body).shape == {
        "details[].field": "null|string",
        "details[].n": "integer",
        "amountDetails.total": "decimal",
    }


@pytest.mark.parametrize("body", [b"", b"[1]", b"\xff", b"{", b"[" * 100_000, b'"text"'], ids=len)
def test_what_is_no_object_has_no_shape(body: bytes) -> None:
    """Pages of HTML, broken and hostile bodies are none."""
    seen = observed(body)
    assert (seen.is_object, seen.shape) == (False, {})


def test_a_name_that_may_be_a_value_is_hidden() -> None:
    """A service may echo anything as a name: a token, an address, a number."""
    names = ["eyJhbGciOi.J9", "tanya@example.com", "A123456", "x" * 41, "naïve", ""]
    seen = observed(dict.fromkeys(names, 1), headers={name: "v" for name in names if name})
    assert seen.shape == {"***": "integer"}
    assert seen.headers == {"***"}


def test_depth_and_width_have_an_end() -> None:
    """However large a body is, its description stays small."""
    deep: dict[str, Any] = {}
    for _ in range(50):
        deep = {"a": deep}
    assert observed(deep).shape == {"a.a.a.a.a.a": "object"}
    letters = "abcdefghijklmnopqrst"
    wide = {one + two: 1 for one in letters for two in letters}
    assert len(observed(wide).shape) == 200


def test_date_and_names_of_headers_are_read() -> None:
    """Of the values only the date counts, since it is the service's clock."""
    seen = observed({}, headers={"Date": "Sun, 06 Nov 1994 08:49:37 GMT", "V-C-Correlation-Id": "secret"})
    assert seen.dated_at == 784_111_777
    assert seen.headers == {"date", "v-c-correlation-id"}
    assert "secret" not in repr(seen)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(body=st.dictionaries(st.text(), _JSON), mark=st.from_regex(r"[0-9][a-z0-9]{12}", fullmatch=True))
def test_no_value_gets_through(body: dict[str, Any], mark: str) -> None:
    """Wherever a text with a digit stands, as a value or as a name, the observation has nothing of it."""
    body |= {"field": mark, mark: [mark, {"inner": mark, f"x{mark}": 1}]}
    seen = observed(body, headers={"X": mark, mark: "1"})
    assert seen.is_object
    assert mark not in repr(seen)
