"""Places for rows that are not on disk yet."""

from __future__ import annotations

import asyncio

from batchcancel.ledger.room import Room


async def take(room: Room) -> None:
    """Take a place as a ledger does."""
    while room.is_full:
        await room.wait()
    room.take()


async def turns() -> None:
    """Let everyone go on who can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_places_are_taken_without_waiting_until_there_is_none() -> None:
    """And given back in the order in which they were wanted."""
    room = Room(2)
    await take(room)
    await take(room)
    assert room.is_full
    got: list[int] = []

    async def want(number: int) -> None:
        await take(room)
        got.append(number)

    tasks = [asyncio.create_task(want(number)) for number in range(4)]
    await turns()
    assert got == []
    room.give_back(2)
    await turns()
    assert got == [0, 1]
    room.give_back(2)
    await asyncio.gather(*tasks)
    assert got == [0, 1, 2, 3]


async def test_who_finds_the_place_taken_waits_again() -> None:
    """Whoever came between was there first."""
    room = Room(1)
    room.take()
    waiting = asyncio.create_task(take(room))
    await turns()
    room.give_back(1)
    room.take()
    await turns()
    assert not waiting.done()
    room.give_back(1)
    await waiting


async def test_who_is_cancelled_when_let_in_lets_the_next_one_in() -> None:
    """The place would stay empty otherwise, and the next one wait for ever."""
    room = Room(1)
    room.take()
    first, second = (asyncio.create_task(take(room)) for _ in range(2))
    await turns()
    room.give_back(1)
    first.cancel()
    async with asyncio.timeout(5):
        await second
    assert first.cancelled()


async def test_who_is_cancelled_while_waiting_is_passed_over() -> None:
    """Its turn is the next one's."""
    room = Room(1)
    room.take()
    first, second = (asyncio.create_task(take(room)) for _ in range(2))
    await turns()
    first.cancel()
    await turns()
    room.give_back(1)
    async with asyncio.timeout(5):
        await second


async def test_all_can_be_let_in_without_a_place() -> None:
    """Where there will be none any more, they have to hear of it."""
    room = Room(1)
    room.take()
    tasks = [asyncio.create_task(room.wait()) for _ in range(3)]
    await turns()
    room.let_all_in()
    await asyncio.gather(*tasks)
    assert room.is_full
