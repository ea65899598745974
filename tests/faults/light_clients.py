"""Many light clients in one process: a WebSocket each and the protocol's contract, without a client library."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import aiohttp

from tests.faults.record import DURABLE
from tests.processes import token_of

AT_ONCE = 64
CLOSING = aiohttp.ClientWSTimeout(ws_close=1.0)


class LightClient:
    """One client. It goes to the next of the servers whenever it connects, and comes back by itself."""

    def __init__(self, swarm: Swarm, user: str, server: int) -> None:
        self._swarm = swarm
        self._attempt = server
        self.user = user
        self.session = f"light-{id(self):x}"
        self.last: int | None = None
        self.first = 0
        self.seen: list[int] = []
        self.connects = 0
        self.refused: list[str] = []
        self.sent_away = 0
        self.is_up = False
        self.reconnect_after_s: float | None = None

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            delay = 0.5 * random.random()
            try:
                async with self._swarm.gate:
                    ws = await self._open()
                if ws is not None:
                    try:
                        await self._read(ws)
                    finally:
                        await ws.close()
            except (aiohttp.ClientError, OSError, TimeoutError):
                delay += 0.2
            self._down()
            await asyncio.sleep(delay if self.reconnect_after_s is None else self.reconnect_after_s)
            self.reconnect_after_s = None

    def _down(self) -> None:
        self.is_up = False
        self._swarm.changed.set()

    async def _open(self) -> aiohttp.ClientWebSocketResponse | None:
        servers = self._swarm.servers()
        url = servers[self._attempt % len(servers)]
        self._attempt += 1
        at = url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
        ws = await self._swarm.http.ws_connect(at, max_msg_size=0, timeout=CLOSING)
        auth = {"token": token_of(self.user), "session_id": self.session}
        await ws.send_str("40" + json.dumps(auth if self.last is None else {**auth, "last_seq": self.last}))
        async with asyncio.timeout(10):
            while not self.is_up:
                message = await ws.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    return None
                if message.data.startswith("44"):
                    refusal = json.loads(message.data[2:])["data"]
                    self.refused.append(refusal["code"])
                    self.reconnect_after_s = refusal.get("retry_after_ms", 500) / 1000
                    await ws.close()
                    return None
                await self._take(ws, message.data)
        return ws

    async def _read(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        async for message in ws:
            if message.type is aiohttp.WSMsgType.TEXT:
                await self._take(ws, message.data)

    async def _take(self, ws: aiohttp.ClientWebSocketResponse, frame: str) -> None:
        if frame == "2":
            await ws.send_str("3")
        elif frame.startswith("41"):
            self.sent_away += 1
        elif frame.startswith("42"):
            name, envelope = json.loads(frame[2:])
            if name == "session_ready":
                if self.last is None:
                    self.first = self.last = envelope["payload"]["seq"]
                self.connects += 1
                self.is_up = True
                self._swarm.changed.set()
            elif name == "server_draining":
                self.reconnect_after_s = envelope["payload"]["reconnect_after_ms"] / 1000
            elif name in DURABLE and self.last is not None:
                seq = envelope["metadata"]["seq"]
                if seq == self.last + 1:
                    self.last = seq
                    self.seen.append(seq)
                    self._swarm.changed.set()
                elif seq > self.last:
                    await ws.send_str("42" + json.dumps(["resume", {"payload": {"last_seq": self.last}}]))


class Swarm:
    """All of them; `async with` it."""

    def __init__(self, servers: Callable[[], Sequence[str]]) -> None:
        self.servers = servers
        self.clients: list[LightClient] = []
        self.left = 0
        self.changed = asyncio.Event()
        self.gate = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[LightClient, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        self.http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self.http.close()

    def add(self, user: str, server: int) -> LightClient:
        client = LightClient(self, user, server)
        self.clients.append(client)
        self._tasks[client] = asyncio.create_task(client.run())
        return client

    async def leave(self, client: LightClient) -> None:
        """Close its connection for good."""
        self.clients.remove(client)
        self.left += 1
        task = self._tasks.pop(client)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def until(self, holds: Callable[[LightClient], object], timeout: float) -> None:
        """Wait until it holds for every client."""
        async with asyncio.timeout(timeout):
            while not all(holds(one) for one in self.clients):
                self.changed.clear()
                await self.changed.wait()
                await asyncio.sleep(0.02)  # not once per event of a thousand clients
