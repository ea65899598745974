"""A socket without a client library: whole Engine.IO frames out, Socket.IO events in."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp

from tests.waiting import eventually
from twin_sio.protocol import SERVER_EVENTS
from twin_sio.protocol.server_events import ServerMetadata


def held_to_protocol(name: str, envelope: dict[str, Any]) -> None:
    """Fail where an event from the server is not as the protocol's models say."""
    assert envelope.keys() == {"type", "payload", "metadata"}
    assert envelope["type"] == name
    event = SERVER_EVENTS[name]
    event.payload.model_validate(envelope["payload"])
    metadata = ServerMetadata.model_validate(envelope["metadata"])
    assert metadata.seq is not None or not event.is_durable or name == "profile_update", name


class RawSocket:
    """One WebSocket to the server. `send` takes a frame as it is; events and acks are kept as they come.

    What the server says is held against the protocol, unless it is a bare one of `speaks_protocol = False`.
    """

    speaks_protocol = True

    def __init__(
        self,
        url: str,
        token: str | None,
        headers: dict[str, str] | None = None,
        local_address: str | None = None,
        **auth: Any,
    ) -> None:
        self._headers = headers
        self._local_address = local_address
        self._url = url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
        self._auth = {"token": token, **auth}
        self.events: list[dict[str, Any]] = []
        self.acks: dict[int, list[Any]] = {}
        self.refusal: dict[str, Any] | None = None
        self.leave: str | None = None  # the Socket.IO disconnect, if there was one
        self.closed = asyncio.Event()
        self._changed = asyncio.Event()
        self._next_ack = 0

    async def __aenter__(self) -> Self:
        await self.open()
        await self.send("40" + json.dumps(self._auth))
        await self.until(lambda: self.of("session_ready") or self.refusal)
        return self

    async def open(self) -> None:
        """The Engine.IO handshake only."""
        bound = (self._local_address, 0) if self._local_address else None
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=bound))
        try:
            self._ws = await self._http.ws_connect(self._url, max_msg_size=0, headers=self._headers)
        except aiohttp.ClientError:
            await self._http.close()
            raise
        self._reader = asyncio.create_task(self._read())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader  # a server that breaks its protocol fails the test
        await self._ws.close()
        await self._http.close()

    async def send(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            await self._ws.send_bytes(frame)
        else:
            await self._ws.send_str(frame)

    async def emit(self, name: object, *args: object) -> int:
        """An event that asks for an acknowledgement; the id to find it under."""
        ack = self._next_ack
        self._next_ack += 1
        await self.send(f"42{ack}" + json.dumps([name, *args]))
        return ack

    async def ask(self, name: object, *args: object) -> dict[str, Any]:
        """Emit and wait for the acknowledgement's envelope."""
        ack = await self.emit(name, *args)
        await self.until(lambda: ack in self.acks)
        return self.acks[ack][0] if self.acks[ack] else {}

    def of(self, type: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["type"] == type]

    async def until(self, holds: Any, timeout: float = 20.0) -> Any:
        async with asyncio.timeout(timeout):
            while not (found := holds()):
                self._changed.clear()
                await self._changed.wait()
        return found

    async def _read(self) -> None:
        try:
            async for message in self._ws:
                if message.type is aiohttp.WSMsgType.TEXT:
                    await self._take(message.data)
                    self._changed.set()
        finally:
            self.closed.set()
            self._changed.set()

    async def _take(self, frame: str) -> None:
        if frame == "2":
            await self.send("3")
        elif frame.startswith("42"):
            name, envelope = json.loads(frame[2:])
            if self.speaks_protocol:
                held_to_protocol(name, envelope)
            self.events.append(envelope)
        elif frame.startswith("43"):
            digits = len(frame[2:]) - len(frame[2:].lstrip("0123456789"))
            self.acks[int(frame[2 : 2 + digits])] = json.loads(frame[2 + digits :])
        elif frame.startswith("41"):
            self.leave = frame
        elif frame.startswith("44"):
            self.refusal = json.loads(frame[frame.index("{") :])


@contextlib.asynccontextmanager
async def the_one_that_stays(sockets: Sequence[RawSocket]) -> AsyncIterator[RawSocket]:
    """All connect at the same moment, as one session; the only one that was not sent away, once it was greeted."""
    async with contextlib.AsyncExitStack() as stack:
        for one in sockets:
            await one.open()
            stack.push_async_exit(one)
        await asyncio.gather(*(one.send("40" + json.dumps(one._auth)) for one in sockets))
        await eventually(lambda: any(one.leave for one in sockets))
        (stays,) = [one for one in sockets if not one.leave]
        await stays.until(lambda: stays.of("session_ready"))
        yield stays
