"""The measuring side: contestants as processes, devices as bare WebSockets that count what they get."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from twin_sio.cli.tokens import mint
from twin_sio.config import DEV_SECRET

NODE = Path(__file__).parent / "node" / "server.mjs"


@dataclass
class Contestant:
    """One server under measurement. `kind`: how its devices connect."""

    name: str
    argv: Sequence[str]
    kind: str
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        pipe = asyncio.subprocess.PIPE
        env = {**os.environ, **self.env}
        self.process = await asyncio.create_subprocess_exec(*self.argv, stdin=pipe, stdout=pipe, env=env)
        self.port = (await self._answer())["port"]

    async def start_printing_port(self) -> int:
        """Start a process whose first line ends in its port."""
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(*self.argv, stdin=pipe, stdout=pipe)
        assert self.process.stdout is not None
        self.port = int((await self.process.stdout.readline()).split()[-1])
        return self.port

    async def ask(self, **command: Any) -> dict[str, Any]:
        """One command; what it answered."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 120)
        if not line:
            raise RuntimeError(f"{self.name} has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def stop(self) -> None:
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            if not self.kind:  # it does not listen to its standard input
                self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), 10)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()


def python(module: str, *args: str) -> list[str]:
    return [sys.executable, "-m", f"bench.contestants.{module}", *args]


class Devices:
    """Open WebSockets to one contestant."""

    def __init__(self, contestant: Contestant, http: aiohttp.ClientSession) -> None:
        self._contestant = contestant
        self._http = http
        self.sockets: list[aiohttp.ClientWebSocketResponse] = []
        self._readers: list[asyncio.Task[None]] = []
        self.chunks = 0
        self.frames = 0
        self.delays: list[float] = []
        """Of chunks whose text is the time they were sent at, in seconds."""
        self._wanted = 0
        self._reached = asyncio.Event()

    async def connect(self, user: str) -> aiohttp.ClientWebSocketResponse:
        """One more device of this user, let in."""
        one = self._contestant
        at = f"ws://127.0.0.1:{one.port}"
        if one.kind == "plain":
            socket = await self._http.ws_connect(f"{at}/?user={user}", compress=0, max_msg_size=0)
        else:
            socket = await self._http.ws_connect(
                f"{at}/socket.io/?EIO=4&transport=websocket&user={user}", compress=0, max_msg_size=0
            )
            await socket.receive_str()
            auth = json.dumps({"token": mint(user, DEV_SECRET)}) if one.kind == "ours" else ""
            await socket.send_str(f"40{auth}")
            while not (await socket.receive_str()).startswith("42" if one.kind == "ours" else "40"):
                pass
        self.sockets.append(socket)
        self._readers.append(asyncio.create_task(self._read(socket)))
        return socket

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            text: str = message.data
            if text == "2":
                await socket.send_str("3")
                continue
            self.frames += 1
            if "twin_message_chunk" in text[:30]:
                self.chunks += 1
                self._time(text)
                if self.chunks >= self._wanted:
                    self._reached.set()

    def _time(self, text: str) -> None:
        begin = text.index('"text":"') + 8
        sent = text[begin : text.index('"', begin)]
        if sent[:1].isdigit() and "." in sent:
            self.delays.append(time.monotonic() - float(sent))

    async def quiet(self) -> None:
        """Wait until nothing has come for a moment."""
        seen = -1
        while seen != self.frames:
            seen = self.frames
            await asyncio.sleep(0.05)

    async def have(self, chunks: int) -> None:
        """Wait until so many chunks have come in all."""
        self._wanted = chunks
        if self.chunks < chunks:
            self._reached.clear()
            await asyncio.wait_for(self._reached.wait(), 120)

    async def close(self) -> None:
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        await asyncio.gather(*(socket.close() for socket in self.sockets))


@asynccontextmanager
async def devices(contestant: Contestant) -> AsyncIterator[Devices]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        opened = Devices(contestant, http)
        try:
            yield opened
        finally:
            await opened.close()
