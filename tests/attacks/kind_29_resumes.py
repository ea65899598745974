"""One account has ten thousand messages, and has all of them sent again and again over eight connections.

What is sent again of a user's log is counted, over all connections together: who has had much of it waits for the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from datetime import timedelta

from tests.attacks.profiles import database
from tests.attacks.site import Site
from tests.raw import RawSocket
from twin_sio.clock import new_id, now

BEFORE = "24,000 events a second: others' p95 72 ms"
_MESSAGES = 10_000
_AT_ONCE, _PER_S = 20_000, 2_000
_PAGES = 8 * 200  # that are under way
_users: dict[str, str] = {}
_sent: dict[str, tuple[int, float]] = {}  # events, and the seconds that it took


async def prepare(site: Site) -> None:
    user = _users[site.mark] = site.user()
    began = now() - timedelta(days=1)
    events = [
        {
            **{"epoch": 0, "user_id": user, "type": "user_message", "message_id": new_id(), "conversation_id": "main"},
            **{"session_id": "s", "in_response_to": None, "at": began, "payload": {"text": "hello"}, "seq": n + 1},
        }
        for n in range(_MESSAGES)
    ]
    async with database(site) as db:
        await db["events"].insert_many(events, ordered=False)


async def attack(site: Site, until: float) -> str:
    began = time.monotonic()
    received = Counter[str]()

    async def asking(device: RawSocket) -> None:
        while (left_s := until - time.monotonic()) > 0:
            device.events.clear()
            await device.emit("resume", {"payload": {"last_seq": 0}})
            with suppress(TimeoutError):
                await device.until(lambda: device.of("resumed") or device.of("error"), left_s)
            received["events"] += len(device.of("user_message"))
            received["resumed"] += len(device.of("resumed"))

    async with AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(site.socket(_users[site.mark])) for _ in range(8)]
        await asyncio.gather(*map(asking, devices))
    _sent[site.mark] = received["events"], time.monotonic() - began
    return f"{received['events']} events to 8 connections, {received['resumed']} whole resumes of {_MESSAGES}"


async def check(site: Site) -> list[str]:
    events, seconds = _sent[site.mark]
    return [f"{events} events in {seconds:.0f} s"] if events > _AT_ONCE + _PER_S * seconds + _PAGES else []
