"""One account has two thousand conversations, and asks for the list of them over sixteen connections.

The unread answers of a page are counted by one index, and a list costs its user time of a core by its length.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta

from tests.attacks.profiles import database
from tests.attacks.site import Site
from tests.raw import RawSocket
from twin_sio.clock import new_id, now

BEFORE = "with 1,000 conversations: others' p95 164 ms, storage_unavailable for some"
_CONVERSATIONS = 2_000
_users: dict[str, str] = {}


async def prepare(site: Site) -> None:
    user = _users[site.mark] = site.user()
    began = now() - timedelta(days=1)
    said = ("user_message", "twin_message")
    events = [
        {
            **{"epoch": 0, "user_id": user, "type": kind, "message_id": new_id(), "conversation_id": f"c{n}"},
            **{"session_id": "s", "in_response_to": None, "at": began, "payload": {"text": "hello"}},
            "seq": 2 * n + answers + 1,
        }
        for n in range(_CONVERSATIONS)
        for answers, kind in enumerate(said)
    ]
    async with database(site) as db:
        await db["events"].insert_many(events, ordered=False)


async def attack(site: Site, until: float) -> str:
    received = Counter[str]()

    async def asking(device: RawSocket) -> None:
        while time.monotonic() < until:
            answer = await device.ask("conversations", {"payload": {"limit": 200}})
            received[answer["payload"].get("code", "listed")] += 1
            await asyncio.sleep(0.02)

    async with AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(site.socket(_users[site.mark])) for _ in range(16)]
        await asyncio.gather(*map(asking, devices))
    return f"{_CONVERSATIONS} conversations: {', '.join(f'{n} x {code}' for code, n in received.most_common())}"


async def check(site: Site) -> list[str]:
    return ["the store was not there"] if '"storage_unavailable"' in site.logs() else []
