"""What a kill can make the next run ask twice."""

from __future__ import annotations

import asyncio

import pytest

from batchcancel.model import ManifestRow, RequestKind
from batchcancel.pipeline.exposure import Exposure
from batchcancel.retry import Case


def case(number: int, *, in_doubt: bool = False) -> Case:
    """Make an invoice on its way."""
    row = ManifestRow(row=number, invoice_id=str(number))
    return Case(row=row, next=RequestKind.CANCEL, unanswered=in_doubt)


async def is_let_in(exposure: Exposure, one: Case) -> bool:
    """Try to enter."""
    try:
        await asyncio.wait_for(exposure.enter(one), 0.01)
    except TimeoutError:
        return False
    return True


async def test_places_are_held_until_the_row_is_taken() -> None:
    """Not only until the answer is there."""
    exposure = Exposure(places=2, doubts=1)
    first, second, third = case(1), case(2), case(3)
    assert [await is_let_in(exposure, one) for one in (first, second, third)] == [True, True, False]
    exposure.leave(first)
    assert await is_let_in(exposure, third)


async def test_who_waits_without_a_doubt_holds_nothing() -> None:
    """Thousands may wait for a busy service."""
    exposure = Exposure(places=1, doubts=1)
    for number in range(100):
        one = case(number)
        await exposure.enter(one)
        await exposure.park(one)


async def test_who_waits_in_doubt_gives_the_place_back_and_needs_none_again() -> None:
    """So that those who could end the doubt never wait for those who are in it."""
    exposure = Exposure(places=1, doubts=1)
    doubtful, other = case(1, in_doubt=True), case(2)
    await exposure.enter(doubtful)
    await exposure.park(doubtful)
    assert await is_let_in(exposure, other)
    assert await is_let_in(exposure, doubtful)
    await exposure.park(doubtful)
    exposure.leave(doubtful)
    exposure.leave(other)
    assert await is_let_in(exposure, case(3))


async def test_doubts_are_bounded() -> None:
    """The next one keeps its place until there is room, and so nobody else is asked about."""
    exposure = Exposure(places=1, doubts=1)
    first, second = case(1, in_doubt=True), case(2, in_doubt=True)
    await exposure.enter(first)
    await exposure.park(first)
    await exposure.enter(second)
    parking = asyncio.create_task(exposure.park(second))
    assert not await is_let_in(exposure, case(3))
    exposure.leave(first)
    await parking
    assert await is_let_in(exposure, case(4))


async def test_a_cancelled_wait_takes_no_place() -> None:
    """What was not let in holds nothing."""
    exposure = Exposure(places=1, doubts=1)
    held = case(1)
    await exposure.enter(held)
    waiting = asyncio.create_task(exposure.enter(case(2)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    exposure.leave(held)
    assert await is_let_in(exposure, case(3))


async def test_who_never_came_may_leave() -> None:
    """Rows that no request is sent for hold nothing."""
    exposure = Exposure(places=1, doubts=1)
    exposure.leave(case(1))
    assert await is_let_in(exposure, case(2))
    assert not await is_let_in(exposure, case(3))
