"""What an answer remembers, on its own."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from typing import Any

import pytest

from tests.test_store import draft
from twin_sio.agent import AgentRequest
from twin_sio.runtime.dev_engines.engines import Mongod
from twin_sio.services.recall import Recall
from twin_sio.store import mongo


async def test_an_early_stop_leaves_no_task() -> None:
    """An answer that is stopped at its very begin leaves nothing unawaited."""
    nobody: Any = None  # it does not come to ask anybody
    recall = Recall(nobody, nobody, nobody, nobody, None, None, None, patience_s=1.0)
    ask = AgentRequest("u", "main", "m", 1, "text")
    recalling = asyncio.create_task(recall.past(ask))
    await asyncio.sleep(0)
    recalling.cancel()
    with suppress(asyncio.CancelledError):
        await recalling
    del recalling
    gc.collect()  # warnings are errors here, and a coroutine that was never awaited warns when it goes
    assert not recall.late


@pytest.mark.parametrize("asked", [5, 6])
async def test_history_before_any_message_is_whole(mongod: Mongod, user: str, asked: int) -> None:
    """As many lines are recalled before the newest message as before one in the middle."""
    client, db = mongo.connect(mongod.url, "recall_tests", 5000)
    try:
        await mongo.create_indexes(db)
        log, nobody = mongo.MongoLog(db), None
        for number in range(1, 7):
            await log.append(draft(user, f"m-{number}", str(number)))
        recall = Recall(log, nobody, nobody, nobody, None, None, None, patience_s=1.0)  # type: ignore[arg-type]
        said = await recall.history(AgentRequest(user, "main", f"m-{asked}", asked, str(asked)), 3)
        assert [one.text for one in said] == [str(number) for number in range(asked - 3, asked)]
    finally:
        client.close()
