"""Requests whose small body inflates to hundreds of megabytes, to routes that take a body and to those that do not.

`Content-Encoding` is refused before the body is read, and so is a body without a length or over its bound.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter

from tests.attacks.floods import in_parallel, summed
from tests.attacks.site import Site

BEFORE = "292 kB block the loop for 0.7 s"
PATHS = ("/nothing", "/healthz", "/v1/ticket", "/socket.io/?EIO=4&transport=polling")


def _bomb(megabytes: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()


async def attack(site: Site, until: float) -> str:
    received: Counter[str] = Counter()
    bomb = _bomb(300)

    async def post() -> None:
        headers = {"Content-Encoding": random.choice(["gzip", "deflate", "br", "zstd"])}
        async with site.http.post(site.url + random.choice(PATHS), data=bomb, headers=headers) as answer:
            received[str(answer.status)] += 1

    async def stream() -> None:
        async def body():  # type: ignore[no-untyped-def]
            for _ in range(1000):
                yield bytes(1 << 16)

        async with site.http.post(site.url + random.choice(PATHS), data=body()) as answer:
            received[str(answer.status)] += 1

    count = await in_parallel(20, lambda: random.choice([post, stream])(), until)
    return f"{count} bodies of {len(bomb) // 1024} kB or without a length: {summed(received)}"
