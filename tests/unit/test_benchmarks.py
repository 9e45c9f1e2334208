"""The benchmarks' arithmetic: what is best possible, and what several measurements say together."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

# The checkout stands last: the benchmarks are found there, and the package where it is installed.
sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.bounds import Delays, bound_per_s, ideal_s
from benchmarks.figures import figure, ratio, table
from benchmarks.plot import Panel, plot, round_up
from benchmarks.process import BenchmarkError
from benchmarks.target import fast_target


@pytest.mark.parametrize(
    ("durations_s", "places", "expected_s"),
    [
        pytest.param([], 3, 0.0, id="nothing to do"),
        pytest.param([1.0, 2.0, 3.0], 1, 6.0, id="one place takes all in turn"),
        pytest.param([1.0, 2.0, 3.0], 3, 3.0, id="a place each: the longest counts"),
        pytest.param([1.0] * 8, 4, 2.0, id="equal pieces come out even"),
        pytest.param([2.0, 1.0, 1.0, 2.0], 2, 4.0, id="in the order given, not the best one"),
        pytest.param([1.0, 1.0, 1.0, 5.0], 2, 6.0, id="a late long piece is waited for"),
    ],
)
def test_ideal_is_list_scheduling(durations_s: list[float], places: int, expected_s: float) -> None:
    """Each piece goes, in its turn, to the place that is free first."""
    assert ideal_s(durations_s, places=places) == expected_s


def test_slow_replies_are_the_same_each_time_and_as_many_as_asked_for() -> None:
    """The server and whoever computes the ideal agree without talking to each other."""
    delays = Delays(usual_s=0.05, slow_s=2.0, slow_share=0.01, seed=5)
    ids = [f"INV-{number:08d}" for number in range(20_000)]
    counted = Counter(map(delays.of, ids))
    assert counted == Counter(map(delays.of, ids))
    assert counted.keys() == {0.05, 2.0}
    assert 150 < counted[2.0] < 250
    other = Delays(usual_s=0.05, slow_s=2.0, slow_share=0.01, seed=6)
    assert [*map(other.of, ids)] != [*map(delays.of, ids)]


@pytest.mark.parametrize(("share", "expected_s"), [(0.0, 0.05), (1.0, 2.0)], ids=["none", "all"])
def test_share_of_slow_replies_reaches_its_ends(share: float, expected_s: float) -> None:
    """No slow reply at 0, only slow ones at 1."""
    delays = Delays(usual_s=0.05, slow_s=2.0, slow_share=share, seed=1)
    assert {delays.of(str(number)) for number in range(500)} == {expected_s}


def test_bound_shares_the_cores_between_rsa_and_everything_else() -> None:
    """With 1 ms for RSA and 1 ms of other work an invoice, two cores settle a thousand a second."""
    assert bound_per_s(rsa_per_s=2000, other_cpu_s=0.001, cores=2) == pytest.approx(1000)
    assert bound_per_s(rsa_per_s=2000, other_cpu_s=0.0, cores=2) == pytest.approx(2000)


def test_server_that_does_not_start_is_told_from_a_client_that_fails(tmp_path: Path) -> None:
    """The server's own end is what is said, at once."""
    with (
        pytest.raises(BenchmarkError, match=r"false .* ended by itself"),
        fast_target(tmp_path, nginx=Path("/bin/false")),
    ):
        pytest.fail("there is nothing to call")


def test_figure_is_the_median_with_its_spread() -> None:
    """One slow round moves the spread and not the median."""
    measured = figure([5.0, 100.0, 4.0])
    assert (measured.median, measured.least, measured.most) == (5.0, 4.0, 100.0)


def test_ratio_is_taken_round_by_round() -> None:
    """A round that was slow for both does not count: twice is twice in each."""
    assert ratio([200.0, 20.0, 2.0], [100.0, 10.0, 1.0]) == figure([2.0])


def test_ratio_refuses_rounds_that_do_not_match() -> None:
    """A yardstick that missed a round is no yardstick."""
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("measured", "form", "text"),
    [
        pytest.param([9512.4, 9380.0, 9601.0], ",.0f", "9,512 (9,380-9,601)", id="with its spread"),
        pytest.param([1.234], ".2f", "1.23", id="measured once"),
    ],
)
def test_figure_is_written_for_people(measured: list[float], form: str, text: str) -> None:
    """The median comes first, and the spread where there is one."""
    assert figure(measured).text(form) == text


def test_table_aligns_names_left_and_figures_right() -> None:
    """Columns are as wide as their widest cell."""
    assert table(("", "a second"), [("batchcancel", "9,512"), ("sdk", "600")]) == (
        "             a second\n-----------  --------\nbatchcancel     9,512\nsdk               600\n"
    )


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 1), (1.1, 1.2), (2.2, 2.4), (9_371, 10_000), (131, 160), (0.025, 0.03)]
)
def test_scales_end_at_round_numbers(value: float, expected: float) -> None:
    """Not below the highest value, and easily divided by four."""
    assert round_up(value) == pytest.approx(expected)


def test_a_curve_is_drawn_to_scale() -> None:
    """From the left edge to the right one, from zero to the round number above the most."""
    drawn = plot("a <b>", [Panel("rate", [(0, 0), (50, 75), (100, 100)])])
    points = re.search(r'points="([^"]+)"', drawn)
    assert points is not None
    (left, bottom), (middle, _), (right, top) = (map(float, one.split(",")) for one in points[1].split())
    assert (left, middle, right) == (72, (72 + 820) / 2, 820)
    assert (bottom, top) == (222, 68)
    assert "a &lt;b&gt;" in drawn
    assert "<b>" not in drawn
