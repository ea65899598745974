"""What is dear to compute is computed once for all who ask, and not again at once."""

from __future__ import annotations

import asyncio

from twin_sio.services.shared_results import SharedResults


class Making:
    """Counts how often something was made; `size` decides whether it is given again."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.shared: SharedResults[int] = SharedResults(self._make, lambda _: size, most=3 * size)

    async def _make(self, _: str) -> int:
        self.count += 1
        made = self.count
        await asyncio.sleep(0.05)
        return made


async def test_all_who_ask_at_once_get_one_answer() -> None:
    making = Making(1)
    assert await asyncio.gather(*(making.shared.get("ada", "v1") for _ in range(20))) == [1] * 20
    assert await making.shared.get("ada", "v1") == 2


async def test_a_large_result_is_shared() -> None:
    """What is large is given again under the same stamp and until it is forgotten."""
    making = Making(10_000)
    assert [await making.shared.get("ada", "v1") for _ in range(3)] == [1, 1, 1]
    assert await making.shared.get("ada", "v2") == 2
    making.shared.forget("ada")
    assert await making.shared.get("ada", "v2") == 3


async def test_no_more_is_held_than_was_set() -> None:
    making = Making(10_000)
    for user in ("a", "b", "c", "d"):
        await making.shared.get(user, "v1")
    assert list(making.shared._entries) == ["b", "c", "d"]


async def test_what_was_begun_before_it_was_forgotten_is_not_kept() -> None:
    making = Making(10_000)
    asking = asyncio.create_task(making.shared.get("ada", "v1"))
    await asyncio.sleep(0.01)
    making.shared.forget("ada")
    assert await making.shared.get("ada", "v1") == 2
    assert await asking == 1
    assert await making.shared.get("ada", "v1") == 2
