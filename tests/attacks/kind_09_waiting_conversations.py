"""Five accounts send sixty messages each into conversations of their own, while the model takes its time.

Four answers of a user run at once; the conversations that wait count as no load, and ask the store for nothing until
one of them is let go on.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from tests.attacks.site import Site
from twin_sio.clock import new_id

BEFORE = "five accounts overloaded an instance, and each waiting conversation polled the store five times a second"


async def attack(site: Site, until: float) -> str:
    word = f"slow-{site.mark}"
    await site.cluster.script(word, tokens=["still ", "at ", "it"] * 10, token_delay_s=0.2)
    received: Counter[str] = Counter()
    await asyncio.gather(*(_messages(site, word, until, received) for _ in range(5)))
    seen = await site.cluster.metrics(0)
    waiting = seen.get("twin_conversations_waiting", 0)
    answers = f"{received.total()} messages of 5 accounts ({dict(received)})"
    return f"{answers}, {waiting:.0f} conversations waiting, load {seen['twin_load']:.2f}"


async def _messages(site: Site, word: str, until: float, received: Counter[str]) -> None:
    async with site.socket(site.user()) as device:
        for n in range(60):
            if time.monotonic() >= until:
                return
            metadata = {"message_id": new_id(), "conversation_id": f"c{n}"}
            answer = await device.ask("user_message", {"payload": {"text": word}, "metadata": metadata})
            received[answer["payload"].get("code", "taken")] += 1
            await asyncio.sleep(0.02)
        await asyncio.sleep(max(0.0, until - time.monotonic()))
