"""One account with twenty connections sends the largest events there are, of every type, as fast as it can.

Events that need no bytes have few, values are looked at in linear time, and a user has a budget of units of CPU over
all connections: who is over it is refused, and not read.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack

from tests.attacks.floods import connected, sent_until, summed
from tests.attacks.site import Site

BEFORE = "78 ms for a heartbeat of 63 kB; six connections pin a core"
_MANY = [0] * 31_000
FRAMES = [
    "42" + json.dumps(["heartbeat", {"payload": {"a": _MANY}}], separators=(",", ":")),
    "42" + json.dumps(["heartbeat", {}]),
    "42" + json.dumps(["typing_indicator", {"payload": {"is_typing": True}}]),
    "42" + json.dumps(["context_update", {"payload": {"context": {"a": _MANY[:30_000]}}}], separators=(",", ":")),
    "42" + json.dumps(["context_update", {"payload": {"context": {"a": [[]] * 16_000}}}], separators=(",", ":")),
    "42" + json.dumps(["history", {"payload": {"limit": 200}}]),
    "42" + json.dumps(["nonsense", {}]),
    "42" + json.dumps(["resume", {"payload": {"last_seq": 0}}]),
    "42[",
    "3",
]


async def attack(site: Site, until: float) -> str:
    received: Counter[str] = Counter()
    token = site.token(site.user())
    async with AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(connected(site, token, received)) for _ in range(20)]
        work = [sent_until(device, FRAMES[n % len(FRAMES)], until) for n, device in enumerate(devices)]
        counts = await asyncio.gather(*work, return_exceptions=True)
    sent = sum(count for count in counts if isinstance(count, int))
    return f"{sent} frames of up to 64 kB over 20 connections: {summed(received)}"
