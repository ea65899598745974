"""Requests that are none, in all ways: each wrote a traceback at level error.

They are counted, and one line a minute says how many there were and of which kind.
"""

from __future__ import annotations

import random

from tests.attacks.floods import in_parallel
from tests.attacks.site import Site

BEFORE = "620 bytes of traceback each, without a bound"
CANARY = "canary-of-a-malformed-request"
REQUESTS = (
    b"\x16\x03\x01\x02\x00" + CANARY.encode(),
    b"GET /%s HTTP/7.0\r\n\r\n" % CANARY.encode(),
    b"GET / HTTP/1.1\r\n%s\r\n\r\n" % CANARY.encode(),
    b"GET /%s HTTP/1.1\r\n\r\n" % (CANARY.encode() * 400),
    b"POST / HTTP/1.1\r\nContent-Length: x%s\r\n\r\n" % CANARY.encode(),
    b"GET /socket.io/?EIO=%s HTTP/1.1\r\nHost: a\r\n\r\n" % CANARY.encode(),
    b"GET /ws/chat/a HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    b"Sec-WebSocket-Version: 1\r\nSec-WebSocket-Key: %s\r\n\r\n" % CANARY.encode(),
    b"GET /ws/chat/a HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    b"Sec-WebSocket-Version: \xff\r\nSec-WebSocket-Key: %s\r\n\r\n" % CANARY.encode(),
    b"GET / HTTP/1.1\r\nx: %s" % (b"a" * 1_000_000),
)


async def attack(site: Site, until: float) -> str:
    before = len(site.logs())

    async def ask() -> None:
        reader, writer = await site.tcp()
        try:
            writer.write(random.choice(REQUESTS))
            writer.write_eof()
            await reader.read()
        finally:
            writer.close()

    count = await in_parallel(20, ask, until)
    return f"{count} malformed requests, {len(site.logs()) - before} bytes of log"


async def check(site: Site) -> list[str]:
    logs = site.logs()
    broken = ["a traceback in the log"] if "Traceback" in logs or "HttpProcessingError(" in logs else []
    return broken + (["words of a request in the log"] if CANARY in logs else [])
