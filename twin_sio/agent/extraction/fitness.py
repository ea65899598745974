"""Whether a model reads well enough to be trusted with what people say: a short test, by the very questions that it
would be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from twin_sio.agent.extraction.grounding import Words, stands_in
from twin_sio.agent.extraction.model import ModelExtractor
from twin_sio.agent.extraction.slots import table
from twin_sio.domain import Evidence, Exchange, Fitness, Line

_AT_ONCE: Final = 4


async def examine(extractor: ModelExtractor, on_answer: Callable[[], None] = lambda: None) -> Fitness:
    """Have the model read the messages of the test; `on_answer` is called after each. Raises `ModelUnavailable` and
    `ModelTimeout`."""
    data = table("fitness.toml")
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def read(item: dict[str, Any]) -> Sequence[Evidence]:
        async with at_once:
            # What the model makes of an order is judged, and not whether a gate knows the order.
            found = await extractor.read_by_model([_exchange(item)], injection_gate=False)
            on_answer()
            return found or ()

    try:
        first = await read(data["facts"][0])  # alone: who refuses does so once
        async with asyncio.TaskGroup() as tasks:
            facts = [(item, tasks.create_task(read(item))) for item in data["facts"][1:]]
            traps = [tasks.create_task(read(item)) for item in (*data["traps"], *data["orders"])]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    answered = [(data["facts"][0], first), *((item, task.result()) for item, task in facts)]
    learned = sum(any(_is(piece, item) for piece in found) for item, found in answered)
    fallen = sum(any(piece.kind != "inferred" for piece in task.result()) for task in traps)
    return Fitness(len(answered), learned, len(traps), fallen)


def count() -> int:
    """How many messages the test has."""
    data = table("fitness.toml")
    return sum(map(len, data.values()))


def _exchange(item: dict[str, Any]) -> Exchange:
    before = (Line("twin", item["before"]),) if "before" in item else ()
    return Exchange("", "", "", "", datetime(2026, 1, 1, tzinfo=UTC), item["text"], "", before=before)


def _is(piece: Evidence, item: dict[str, Any]) -> bool:
    """Whether a piece is what was to be learnt: what it is called is the model's choice, what it says is not."""
    is_same = stands_in(item["value"], Words(piece.value)) or stands_in(piece.value, Words(item["value"]))
    is_ended = (item.get("kind") == "ended") == (piece.kind == "ended")
    same_side = (item["key"] == "interests.dislikes") == (piece.key == "interests.dislikes" or piece.polarity < 0)
    return is_same and is_ended and same_side
