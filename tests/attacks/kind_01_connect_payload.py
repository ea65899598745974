"""Who has no token connects with a large `auth`, again and again, over many sockets.

The token is looked at first and `auth` has a bound, so that a refused CONNECT costs next to nothing; connects of an
address are counted.
"""

from __future__ import annotations

import json
from collections import Counter

from tests.attacks.floods import connected, in_parallel, summed
from tests.attacks.site import Site

BEFORE = "107 s of CPU for 600 CONNECTs; others' median 3 s"
LARGE = {f"k{n}": {"a": [[[n]]]} for n in range(3_600)}
ODD = {f"k{n}": [2**53 - 1, {}] for n in range(1_200)}


async def attack(site: Site, until: float) -> str:
    received: Counter[str] = Counter()
    payloads = [LARGE, ODD, {"deep": json.loads("[" * 500 + "]" * 500)}]

    async def connect() -> None:
        for context in payloads:
            async with connected(site, "a.b.c", received, context=context):
                pass

    count = await in_parallel(20, connect, until)
    return f"{3 * count} CONNECTs of up to 90 kB: {summed(received)}"
