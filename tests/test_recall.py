"""What an answer remembers, where it is ended before it has asked."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from typing import Any

from twin_sio.agent import Ask
from twin_sio.handlers.recall import Recall


async def test_an_answer_that_is_stopped_at_its_very_begin_leaves_nothing_unawaited() -> None:
    nobody: Any = None  # it does not come to ask anybody
    recall = Recall(nobody, nobody, nobody, nobody, None, None, None, patience_s=1.0)
    ask = Ask("u", "main", "m", 1, "text")
    recalling = asyncio.create_task(recall.past(ask))
    await asyncio.sleep(0)
    recalling.cancel()
    with suppress(asyncio.CancelledError):
        await recalling
    del recalling
    gc.collect()  # warnings are errors here, and a coroutine that was never awaited warns when it goes
    assert not recall.late
