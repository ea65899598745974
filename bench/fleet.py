"""The measuring side: contestants as processes, devices as bare WebSockets that count what they get."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twin_sio.dev_tokens import DEV_SECRET, create_token

_CHUNK = b"twin_message_chunk"
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
        line = await asyncio.wait_for(self.process.stdout.readline(), 300)
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


class Device(asyncio.Protocol):
    """A WebSocket reduced to what a measurement needs, so that it costs next to nothing beside what is measured."""

    def __init__(self, fleet: Devices) -> None:
        self._fleet = fleet
        self._unread = b""
        self._texts: asyncio.Queue[bytes] | None = asyncio.Queue()  # None: it only counts from now on
        self._transport: Any = None
        self._opened = asyncio.get_running_loop().create_future()

    async def open(self, port: int, path: str) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
        self._transport.write("\r\n".join(lines).encode())
        await asyncio.wait_for(self._opened, 30)

    async def receive(self) -> str:
        assert self._texts is not None
        return (await asyncio.wait_for(self._texts.get(), 30)).decode()

    def count(self) -> None:
        """Say nothing more of what comes, but to the fleet."""
        texts, self._texts = self._texts, None
        while texts is not None and not texts.empty():
            self._take(texts.get_nowait())

    def send(self, text: str) -> None:
        self._send(0x81, text.encode())

    def _send(self, kind: int, data: bytes) -> None:
        size = len(data).to_bytes(1, "big") if len(data) < 126 else b"\x7e" + len(data).to_bytes(2, "big")
        # Masked, as a client's frames must be (RFC 6455, 5.3): with zeros, which change nothing.
        self._transport.write(bytes((kind, size[0] | 0x80)) + size[1:] + b"\0\0\0\0" + data)

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._opened.done():
            self._opened.set_exception(exc or ConnectionResetError())

    def data_received(self, data: bytes) -> None:
        data = self._unread + data if self._unread else data
        at = 0
        if not self._opened.done():
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._unread = head
                return
            if b" 101 " in head[:20]:
                self._opened.set_result(None)
            else:
                self._opened.set_exception(ConnectionRefusedError(head[:40].decode()))
        while len(data) - at >= 2:
            size, begin = data[at + 1], at + 2
            if size == 126:
                if len(data) < begin + 2:
                    break
                size, begin = int.from_bytes(data[begin : begin + 2], "big"), begin + 2
            if len(data) < begin + size:
                break
            kind, text, at = data[at] & 15, data[begin : begin + size], begin + size
            if kind == 1:
                self._take(text)
            elif kind == 9:
                self._send(0x8A, text)
        self._unread = data[at:]

    def _take(self, text: bytes) -> None:
        if text == b"2":
            self.send("3")
        elif self._texts is not None:
            self._texts.put_nowait(text)
        else:
            self._fleet.take(text)


class Devices:
    """Open WebSockets to one contestant."""

    def __init__(self, contestant: Contestant) -> None:
        self._contestant = contestant
        self._devices: list[Device] = []
        self.chunks = 0
        self.frames = 0
        self.delays: list[float] = []
        """Of chunks whose text is the time they were sent at, in seconds."""
        self._wanted = 0
        self._reached = asyncio.Event()

    async def connect(self, user: str) -> Device:
        """One more device of this user, let in."""
        one, device = self._contestant, Device(self)
        self._devices.append(device)
        if one.kind == "plain":
            await device.open(one.port, f"/?user={user}")
        else:
            await device.open(one.port, f"/socket.io/?EIO=4&transport=websocket&user={user}")
            await device.receive()
            auth = json.dumps({"token": create_token(user, DEV_SECRET)}) if one.kind == "ours" else ""
            device.send(f"40{auth}")
            while not (await device.receive()).startswith("42" if one.kind == "ours" else "40"):
                pass
        device.count()
        return device

    def take(self, text: bytes) -> None:
        """What has come to any of them."""
        self.frames += 1
        if text.startswith(_CHUNK, 2) or text.startswith(_CHUNK, 4):
            self.chunks += 1
            begin = text.index(b'"text":"') + 8
            sent = text[begin : text.index(b'"', begin)]
            if sent[:1].isdigit() and b"." in sent:
                self.delays.append(time.monotonic() - float(sent))
            if self.chunks >= self._wanted:
                self._reached.set()

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
            await asyncio.wait_for(self._reached.wait(), 300)

    def close(self) -> None:
        for device in self._devices:
            device.close()


@asynccontextmanager
async def devices(contestant: Contestant) -> AsyncIterator[Devices]:
    opened = Devices(contestant)
    try:
        yield opened
    finally:
        opened.close()
