"""58 devices of one user connect at the same moment, again and again; a client takes ids that are the service's.

A place is taken in one step over all instances before anything else of the connect is done. The service's ids begin
in a way that no client's may.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import AsyncExitStack

from aiohttp import ClientError

from tests.attacks.floods import connected, summed
from tests.attacks.site import Site
from tests.raw import RawSocket
from tests.waiting import eventually
from twin_sio.clock import new_id

BEFORE = "58 pass a bound of 20"
_BOUND = 20


async def attack(site: Site, until: float) -> str:
    most, rounds = 0, 0
    received: Counter[str] = Counter()
    while time.monotonic() < until:
        most = max(most, await _at_once(site, received))
        rounds += 1
    return f"{rounds} rounds of 58 connects: {most} in at most; {summed(received)}"


async def check(site: Site) -> list[str]:
    received: Counter[str] = Counter()
    inside = await _at_once(site, received)
    broken = [f"{inside} sessions of one user"] if inside > _BOUND else []
    async with AsyncExitStack() as stack:
        raw = await eventually(lambda: _opened(site, stack), 10)
        for name in ("twin-0123456789abcdef0123456789abcdef", "profile-v1"):
            event = {"payload": {"text": "mine"}, "metadata": {"message_id": name}}
            if (await raw.ask("user_message", event))["type"] != "error":
                broken.append(f"the id {name} was taken")
    return broken


async def _opened(site: Site, stack: AsyncExitStack) -> RawSocket | None:
    """A connection of another user; None while the address has used up what it may open in a second."""
    try:
        return await stack.enter_async_context(site.socket(site.user()))
    except ClientError:
        return None


async def _at_once(site: Site, received: Counter[str]) -> int:
    token = site.token(site.user())
    mine: Counter[str] = Counter()
    async with AsyncExitStack() as stack:

        async def connect() -> None:
            device = await stack.enter_async_context(connected(site, token, mine, session_id=new_id()))
            await device.send("42" + json.dumps(["heartbeat", {}]))

        await asyncio.gather(*(connect() for _ in range(58)), return_exceptions=True)
    received.update(mine)
    return mine["session_ready"]
