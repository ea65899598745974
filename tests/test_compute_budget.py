"""What one user may have computed."""

from __future__ import annotations

import asyncio
import time

import pytest

from twin_sio.errors import RateLimited
from twin_sio.services.compute_budget import ComputeBudget


async def test_of_a_user_one_thing_is_computed_at_a_time() -> None:
    budget, under_way, most = ComputeBudget(), 0, 0

    async def compute(user: str) -> None:
        nonlocal under_way, most
        async with budget.turn(user):
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1

    await asyncio.gather(*(compute("ada") for _ in range(5)))
    assert most == 1
    await asyncio.gather(*(compute(f"user-{n}") for n in range(5)))
    assert most == 5


async def test_who_has_had_much_computed_waits() -> None:
    """Three seconds at once, then a tenth of the time; others do not wait for it."""
    budget = ComputeBudget()
    budget.spend("ada", 2.5)
    async with budget.turn("ada"):
        budget.spend("ada", 1.5)
    with pytest.raises(RateLimited) as refused:
        async with budget.turn("ada"):
            raise AssertionError
    assert 9_000 < (refused.value.retry_after_ms or 0) <= 10_100
    async with budget.turn("bob"):
        pass


async def test_waiting_costs_nothing() -> None:
    """What counts is the time of a core, and not how long it took on a busy machine."""
    budget = ComputeBudget()
    await asyncio.gather(*(budget.compute("ada", lambda: time.sleep(1)) for _ in range(4)))
    async with budget.turn("ada"):
        pass
    await budget.compute("ada", lambda: spin(3.1))
    with pytest.raises(RateLimited):
        async with budget.turn("ada"):
            raise AssertionError


def spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
