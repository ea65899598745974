"""Work that many ask for at once is done once, and never before it was asked for."""

from __future__ import annotations

import asyncio

import pytest

from twin_sio.http.app import SharedWork


async def test_all_who_ask_while_one_is_made_share_the_next() -> None:
    made = 0

    async def make() -> int:
        nonlocal made
        made += 1
        number = made
        await asyncio.sleep(0.01)
        return number

    shared = SharedWork(make)
    first = asyncio.create_task(shared())
    await asyncio.sleep(0)
    others = [asyncio.create_task(shared()) for _ in range(50)]
    assert await first == 1
    assert await asyncio.gather(*others) == [2] * 50
    assert await shared() == 3


async def test_a_failure_is_only_of_who_asked() -> None:
    failing = True

    async def make() -> int:
        if failing:
            raise KeyError
        return 1

    shared = SharedWork(make)
    with pytest.raises(KeyError):
        await shared()
    failing = False
    assert await shared() == 1
