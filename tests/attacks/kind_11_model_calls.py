"""One account sends corrections in `feedback`, each of which is a call of the model by a job.

What is stored is bounded, what jobs ask of a model counts against its user's tokens of the day and is 600 calls an
hour: past that the rules learn.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from tests.attacks.site import Site
from twin_sio.clock import new_id

BEFORE = "595 calls of the model in 10 s, counted by nothing"
_CALLS = 130  # in the first minute: what is stored bounds them too


async def attack(site: Site, until: float) -> str:
    received: Counter[str] = Counter()
    async with site.socket(site.user()) as device:
        await device.ask("user_message", {"payload": {"text": "hello"}, "metadata": {"message_id": new_id()}})
        (answer,) = await device.until(lambda: device.of("twin_message"), 30)
        about = {"message_id": answer["metadata"]["message_id"], "rating": "down"}
        while time.monotonic() < until:
            payload = {**about, "correction": f"{site.mark} number {received.total()}: I live in Lisbon."}
            found = await device.ask("feedback", {"payload": payload, "metadata": {"message_id": new_id()}})
            received[found["payload"].get("code", "taken")] += 1
            await asyncio.sleep(0.02)
    return ", ".join(f"{count} x {code}" for code, count in received.most_common())


async def check(site: Site) -> list[str]:
    seen = await site.cluster.model_seen()
    calls = sum(site.mark in str(one) for one in seen["requests"])
    return [f"{calls} calls of the model"] if calls > _CALLS else []
