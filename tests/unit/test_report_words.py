"""How what a ledger holds is shown, and how it is neutralised for spreadsheets."""

from __future__ import annotations

from decimal import Decimal
from itertools import repeat

import pytest

from batchcancel.report.activity import MAX_BINS, Latencies, Timeline
from batchcancel.report.exports import is_formula, neutral
from batchcancel.report.words import add, ascii_only, parse_amount, parse_time, printable, show_duration
from batchcancel.report.xlsx import exact_number


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Łódź", "Łódź"),
        ("a\nb\x1b[2J", "a\\nb\\x1b[2J"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
        ("x" * 300, "x" * 199 + "…"),
    ],
    ids=["letters", "controls", "bidi", "surrogate", "long"],
)
def test_text_moves_no_cursor_and_reorders_nothing(text: str, shown: str) -> None:
    """Only printable characters are left, and for a terminal only ASCII."""
    assert printable(text) == shown
    assert ascii_only(text).isascii()
    assert ascii_only(text).isprintable()


@pytest.mark.parametrize(
    "text", [None, "", "1E999999999", "NaN", "Infinity", "1,000", "9" * 31, "1.12345678901", " 1", "٣"]
)
def test_what_is_no_plain_amount_is_unknown(text: str | None) -> None:
    """A ledger that somebody made up can't keep a report busy for ever."""
    assert parse_amount(text) is None


def test_sums_are_never_rounded() -> None:
    """Neither by the number of digits nor by the number of amounts."""
    total = Decimal(0)
    for amount in repeat(Decimal("999999999999999999999999999999.0000000001"), 1000):
        total = add(total, amount)
    assert str(total) == "999999999999999999999999999999000.0000001000"


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "\u00a0=1", "＝1", "＋1", "－1", "＠x"],  # noqa: RUF001 - full width
)
def test_formula_is_neutralised(text: str) -> None:
    """A spreadsheet shows it as text."""
    assert is_formula(text)
    assert neutral(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "2675", "0042", "a=b", "x-1", "1E5", "'=1", "A@b"])
def test_other_text_stays(text: str) -> None:
    """Nothing is changed that need not be."""
    assert neutral(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\x00\x7f\x9b", r"a\x00\x7f\x9b"),
        ("abc\u202egpj.exe", r"abc\u202egpj.exe"),
        ("\u2066=1", r"\u2066=1"),
        ("two\nlines\tand\u00a0a space, 東京 שלום", "two\nlines\tand\u00a0a space, 東京 שלום"),
    ],
    ids=["escape", "controls", "override", "before a formula", "white space and scripts"],
)
def test_nothing_in_an_export_changes_what_is_seen(text: str, shown: str) -> None:
    """On a terminal neither: ``less`` and ``grep`` read CSV too."""
    assert neutral(text) == shown


@pytest.mark.parametrize(
    ("amount", "number"),
    [
        ("10.10", 10.1),
        ("-5.00", -5.0),
        ("9999999999999.99", 9999999999999.99),
        ("999999999999999.99", None),
        ("0.1234567890", 0.123456789),
        ("1e3", None),
    ],
)
def test_an_amount_becomes_a_number_only_without_loss(amount: str, number: float | None) -> None:
    """Fifteen digits fit into a spreadsheet's number."""
    assert exact_number(amount) == number


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"),
        (12, "12 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (7320, "2 h 2 min"),
        (360_000, "4 d 4 h"),
    ],
)
def test_durations_are_told_in_two_parts(seconds: float, text: str) -> None:
    """As people say them."""
    assert show_duration(seconds) == text


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-01", "2026-11-01T02:00:00", "9999-99-99T00:00Z"])
def test_what_is_no_time_is_no_time(text: str) -> None:
    """A time without its zone means nothing."""
    assert parse_time(text) is None


def test_a_timeline_stays_small_and_loses_nothing() -> None:
    """Whether a run lasts a second or a year, and where a clock was set back."""
    timeline = Timeline(1000.0)
    for second in (0, 0.05, 5, 59, 3600, 86_400, 31_536_000, -50):
        timeline.at(1000.0 + second).rows += 1
    assert len(timeline.bins) <= MAX_BINS
    assert sum(one.rows for one in timeline.bins) == 8
    assert timeline.width_s * len(timeline.bins) >= 31_536_000


def test_quiet_time_is_spread_over_the_bins_that_it_covers() -> None:
    """No second is counted twice."""
    timeline = Timeline(0.0)
    timeline.at(100.0)
    timeline.add_quiet(31.0, 95.5)
    assert sum(one.quiet_s for one in timeline.bins) == pytest.approx(64.5)
    assert max(one.quiet_s for one in timeline.bins) <= timeline.width_s


def test_percentiles_are_at_most_five_percent_too_high() -> None:
    """And never too low; nonsense is not counted."""
    latencies = Latencies()
    for value in range(1, 1001):
        latencies.add(float(value))
    for nonsense in (float("nan"), -1.0, float("inf")):
        latencies.add(nonsense)
    assert latencies.count == 1000
    for percent in (50.0, 95.0, 99.0):
        assert percent * 10 <= latencies.percentile_ms(percent) <= percent * 10.5
    histogram = latencies.histogram()
    assert sum(count for _, count in histogram) == 1000
    assert [edge for edge, _ in histogram] == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
