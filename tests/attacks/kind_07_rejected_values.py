"""One account has rejected two thousand values, and writes messages in which none of them stands but all might.

Whether a line holds what was rejected is looked up word by word, in the time that the line takes, whatever the number
of values; what is made of a large profile is made in a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from tests.attacks.profiles import profiled, said
from tests.attacks.site import Site
from twin_sio.clock import new_id

BEFORE = "400 edits, then one message blocked everybody 17 s; 500 outlived the lease and the next instance's"
_users: dict[str, str] = {}


async def prepare(site: Site) -> None:
    user = _users[site.mark] = site.user()
    await profiled(site, user, 2_000, lambda n, at: said(user, "interests.likes", "a " * 99 + f"b{n}", "rejected", at))


async def attack(site: Site, until: float) -> str:
    received = Counter[str]()
    async with site.socket(_users[site.mark]) as device:
        while time.monotonic() < until:
            metadata = {"message_id": new_id(), "conversation_id": f"c{received.total() % 8}"}
            answer = await device.ask("user_message", {"payload": {"text": "a " * 1_900}, "metadata": metadata})
            received[answer["payload"].get("code", "taken")] += 1
            await asyncio.sleep(0.1)
        answered = len(device.of("twin_message"))
    return f"{received.total()} messages ({dict(received)}), {answered} answered"


async def check(site: Site) -> list[str]:
    return ["a turn was given up"] if '"turn_given_up"' in site.logs() else []
