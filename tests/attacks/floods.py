"""What several attacks have in common: connections that send as fast as they are read, and requests in parallel."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.attacks.site import Site


class Connection:
    """A Socket.IO connection that counts what it receives by code, and is otherwise in a hurry."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, received: Counter[str]) -> None:
        self._socket = socket
        self._counts = received
        self.is_in = asyncio.Event()

    async def send(self, frame: str) -> None:
        await self._socket.send_str(frame)

    async def read(self) -> None:
        """Until it is closed."""
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                break
            frame = str(message.data)
            if frame == "2":
                with contextlib.suppress(ConnectionError):
                    await self._socket.send_str("3")
            elif frame.startswith("44"):
                self._counts[json.loads(frame[2:])["data"]["code"]] += 1
                self.is_in.set()
            elif frame.startswith("42"):
                name, envelope = json.loads(frame[2:])
                self._counts[envelope["payload"]["code"] if name == "error" else name] += 1
                if name == "session_ready":
                    self.is_in.set()
        self._counts["closed"] += 1
        self.is_in.set()


@asynccontextmanager
async def connected(site: Site, token: str, received: Counter[str], **auth: Any) -> AsyncIterator[Connection]:
    """A connection that has said who it is, whether it was let in or not."""
    url = site.url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
    async with site.http.ws_connect(url, max_msg_size=0) as socket:
        connection = Connection(socket, received)
        reading = asyncio.create_task(connection.read())
        try:
            await connection.send("40" + json.dumps({"token": token, **auth}))
            async with asyncio.timeout(10):
                await connection.is_in.wait()
            yield connection
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def sent_until(connection: Connection, frame: str, until: float) -> int:
    """Send one frame as often as it is taken; how often."""
    count = 0
    with contextlib.suppress(ConnectionError, TimeoutError):
        while time.monotonic() < until:
            async with asyncio.timeout(max(0.1, until - time.monotonic())):
                await connection.send(frame)
            count += 1
    return count


async def in_parallel(number: int, work: Callable[[], Awaitable[None]], until: float) -> int:
    """Do something again and again, so many at a time; how often it was done. What is cut off is done again."""
    done = 0

    async def again() -> None:
        nonlocal done
        while time.monotonic() < until:
            with contextlib.suppress(aiohttp.ClientError, OSError, asyncio.IncompleteReadError, TimeoutError):
                async with asyncio.timeout(max(0.1, until - time.monotonic())):
                    await work()
            done += 1
            await asyncio.sleep(0)

    await asyncio.gather(*(again() for _ in range(number)))
    return done


def summed(received: Counter[str]) -> str:
    """What was received, the most frequent first."""
    return ", ".join(f"{count} {code}" for code, count in received.most_common(4)) or "nothing"
