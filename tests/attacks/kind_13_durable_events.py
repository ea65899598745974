"""One account stores what it can beside messages: read marks, feedback, contexts, corrections, all the time.

A mark that does not advance is no event, and everything that is stored counts: a user over the limit gets the time to
wait.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from typing import Any

from tests.attacks.site import Site
from tests.faults.cluster import DATABASE
from tests.raw import RawSocket
from twin_sio.clock import new_id
from twin_sio.store import mongo

BEFORE = "2,357 durable events in 10 s for one and the same message"
_PER_MINUTE = 120
_users: dict[str, str] = {}


async def attack(site: Site, until: float) -> str:
    user = _users[site.mark] = site.user()
    received: Counter[str] = Counter()
    async with site.socket(user) as device:
        await device.ask("user_message", _envelope({"text": "hello"}, "m1"))
        (answer,) = await device.until(lambda: device.of("twin_message"), 30)
        about = {"message_id": answer["metadata"]["message_id"]}
        for turn in itertools.count():
            if time.monotonic() >= until:
                break
            for name, payload in (
                ("read_receipt", about),
                ("read_receipt", {"message_id": "m1"}),
                ("feedback", {**about, "rating": ("up", "down")[turn % 2], "comment": "x" * 2_000}),
                ("context_update", {"context": {"n": turn}}),
            ):
                received[await _code(device, name, payload)] += 1
            await asyncio.sleep(0.02)
    return ", ".join(f"{count} x {code}" for code, count in received.most_common())


async def check(site: Site) -> list[str]:
    client, db = mongo.connect(site.cluster.mongod.url, DATABASE, 20_000)
    try:
        mine = {"user_id": _users[site.mark]}
        kinds = Counter([doc["type"] async for doc in db["events"].find(mine, {"type": 1})])
    finally:
        client.close()
    broken = [f"{kinds['read_receipt']} marks of two messages"] if kinds["read_receipt"] > 2 else []
    stored = kinds["feedback"] + kinds["read_receipt"]
    minutes = 2 if site.is_full else 1
    return broken + ([f"{stored} events"] if stored > _PER_MINUTE * minutes else [])


def _envelope(payload: dict[str, Any], message_id: str | None = None) -> dict[str, Any]:
    return {"payload": payload, "metadata": {"message_id": message_id or new_id()}}


async def _code(device: RawSocket, name: str, payload: dict[str, Any]) -> str:
    answer = await device.ask(name, _envelope(payload))
    return str(answer.get("payload", {}).get("code", "taken")) if answer else "taken"
