"""The service's clock."""

from __future__ import annotations

import pytest

from batchcancel.api.clock import ServiceClock


def test_clock_is_the_machines_until_a_reading_differs() -> None:
    """Without a reading nothing is corrected."""
    clock = ServiceClock(lambda: 1000.5)
    assert clock.now() == 1000.5
    assert clock.offset_s == 0


@pytest.mark.parametrize(
    ("reading", "moved", "offset_s"),
    [
        pytest.param(1002.0, False, 0.0, id="two seconds ahead are within a Date header's grain"),
        pytest.param(998.0, False, 0.0, id="two seconds behind too"),
        pytest.param(1003.0, True, 3.0, id="ahead"),
        pytest.param(400.0, True, -600.0, id="behind"),
    ],
)
def test_reading_moves_the_clock_only_if_it_differs_by_more_than_two_seconds(
    *, reading: float, moved: bool, offset_s: float
) -> None:
    """A Date header counts whole seconds, so small differences are noise."""
    clock = ServiceClock(lambda: 1000.0)
    assert clock.note(reading) is moved
    assert clock.offset_s == offset_s
    assert clock.now() == 1000.0 + offset_s


def test_reading_is_compared_with_the_corrected_clock() -> None:
    """The same reading twice moves the clock once, and a return to the truth moves it back."""
    clock = ServiceClock(lambda: 1000.0)
    assert clock.note(1600.0)
    assert not clock.note(1600.0)
    assert clock.note(1000.0)
    assert clock.offset_s == 0
