"""What must hold before money is touched."""

from __future__ import annotations

import pytest

from batchcancel.errors import GateRefusedError
from batchcancel.gates import check_typed_count, needs_typed_count


@pytest.mark.parametrize(
    ("is_production", "yes", "has_terminal", "needed"),
    [
        pytest.param(False, False, False, False, id="test host, cron"),
        pytest.param(False, False, True, False, id="test host, terminal"),
        pytest.param(True, True, False, False, id="production, cron, --yes"),
        pytest.param(True, True, True, False, id="production, terminal, --yes"),
        pytest.param(True, False, True, True, id="production, terminal"),
    ],
)
def test_the_count_is_asked_for_in_production_on_a_terminal(
    *, is_production: bool, yes: bool, has_terminal: bool, needed: bool
) -> None:
    """Nothing else asks, and --yes answers."""
    assert needs_typed_count(is_production=is_production, yes=yes, has_terminal=has_terminal) is needed


def test_production_without_a_terminal_and_without_yes_is_refused() -> None:
    """Nobody said yes, and nobody can be asked."""
    with pytest.raises(GateRefusedError, match="Add --yes if that is what you want"):
        needs_typed_count(is_production=True, yes=False, has_terminal=False)


@pytest.mark.parametrize("typed", ["1234", "1,234", " 1234\n"], ids=repr)
def test_the_right_count_passes(typed: str) -> None:
    """Thousands may be grouped as they are shown."""
    check_typed_count(typed, expected=1234)


@pytest.mark.parametrize("typed", ["", "\n", "y", "yes", "123", "12345", "-1234", "1234.0", "0", "01234"])
def test_anything_else_is_refused(typed: str) -> None:
    """A habit is no consent: only this number is."""
    with pytest.raises(GateRefusedError, match="1234 was to be typed"):
        check_typed_count(typed, expected=1234)
