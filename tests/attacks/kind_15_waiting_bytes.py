"""Eight sessions send megabytes of events at once: what was parsed and not handled waited without a bound of bytes.

What waits has a bound for each connection and for each user; what is over it is refused, and no more is read.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack

from tests.attacks.floods import connected, sent_until, summed
from tests.attacks.site import Site

BEFORE = "51 MB sent hold 628 MB"
_CONTEXT = {"a": [{} for _ in range(5_000)], "b": [[[]] for _ in range(5_000)]}
FRAME = "42" + json.dumps(
    ["context_update", {"payload": {"context": _CONTEXT}, "more": ["x"] * 2_000}], separators=(",", ":")
)


async def attack(site: Site, until: float) -> str:
    received: Counter[str] = Counter()
    token = site.token(site.user())
    async with AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(connected(site, token, received)) for _ in range(8)]
        counts = await asyncio.gather(*(sent_until(one, FRAME, until) for one in devices), return_exceptions=True)
    sent = sum(count for count in counts if isinstance(count, int))
    return f"{sent * len(FRAME) // 1_000_000} MB sent over 8 connections: {summed(received)}"
