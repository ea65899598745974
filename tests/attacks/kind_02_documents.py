"""Fifty connections of one address ask for documents, pages, metrics and routes that do not exist.

Documents are bytes that were made once, metrics and readiness are made once for all who ask, and every route is counted
for its address.
"""

from __future__ import annotations

import random
from collections import Counter

from tests.attacks.floods import in_parallel, summed
from tests.attacks.site import Site

BEFORE = "50 connections: others' median 5.6 s"
PATHS = (
    "/asyncapi.json",
    "/openapi.json",
    "/metrics",
    "/readyz",
    "/widget.js",
    "/nothing",
    "/v1/profile",
    "/socket.io/",
)


async def attack(site: Site, until: float) -> str:
    received: Counter[str] = Counter()

    async def ask() -> None:
        async with site.http.get(site.url + random.choice(PATHS)) as answer:
            await answer.read()
            received[str(answer.status)] += 1

    count = await in_parallel(50, ask, until)
    return f"{count} requests: {summed(received)}"
