"""Other processes reach a user's sessions by python-socketio's own manager, as its documentation has it."""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import socketio

from tests.conftest import token_of, url_of
from tests.waiting import eventually
from twin_sio.config import Settings
from twin_sio.runtime.dev_engines.engines import RedisServer
from twin_sio.runtime.serve import Service, service
from twin_sio.transport.frames import EncodedFrame
from twin_sio.transport.room_manager import STOCK_CHANNEL, RoomManager

_ASYNC = """
import asyncio, json, sys, socketio
async def main(url, room, data):
    manager = socketio.AsyncRedisManager(url, write_only=True)
    await manager.emit("announcement", json.loads(data), room=room)
    await manager.redis.aclose()
asyncio.run(main(*sys.argv[1:]))
"""
_SYNC = """
import json, sys, socketio
url, room, data = sys.argv[1:]
socketio.RedisManager(url, write_only=True).emit("announcement", json.loads(data), room=room)
"""
_DISCONNECT = """
import asyncio, sys, socketio
async def main(url, sid):
    manager = socketio.AsyncRedisManager(url, write_only=True)
    await manager.can_disconnect(sid, "/")
    await manager.redis.aclose()
asyncio.run(main(*sys.argv[1:]))
"""


async def _in_another_process(program: str, *args: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, *args)
    assert await process.wait() == 0


class Stock:
    """A stock Socket.IO client that keeps what it is sent."""

    def __init__(self) -> None:
        self.client = socketio.AsyncClient(reconnection=False)
        self.seen: list[Any] = []
        self.client.on("announcement", self.seen.append)
        self.ready = asyncio.Event()
        self.client.on("session_ready", lambda _: self.ready.set())

    async def connect(self, one: Service, user: str) -> None:
        await self.client.connect(url_of(one), auth={"token": token_of(user)}, transports=["websocket"])
        await asyncio.wait_for(self.ready.wait(), 10)


@asynccontextmanager
async def connected(*where: tuple[Service, str]) -> AsyncIterator[list[Stock]]:
    stocks = [Stock() for _ in where]
    try:
        for stock, (one, user) in zip(stocks, where, strict=True):
            await stock.connect(one, user)
        yield stocks
    finally:
        for stock in stocks:
            await stock.client.disconnect()


@pytest.mark.parametrize("program", [_ASYNC, _SYNC], ids=["AsyncRedisManager", "RedisManager"])
async def test_stock_write_only_manager_reaches_a_users_sessions(
    settings: Settings, redis_server: RedisServer, user: str, program: str
) -> None:
    """On every instance and over both transports; no other user gets it."""
    async with service(settings) as one, service(settings) as two, aiohttp.ClientSession() as http:  # noqa: SIM117
        async with connected((one, user), (two, user), (two, f"{user}-other")) as (first, second, other):
            url = f"{url_of(one).replace('http', 'ws', 1)}/ws/chat/{user}"
            async with http.ws_connect(url, headers={"Authorization": f"Bearer {token_of(user)}"}) as plain:
                assert json.loads((await plain.receive()).data)["type"] == "session_ready"
                await _in_another_process(program, redis_server.url, f"user:{user}", '{"a": 1}')
                await eventually(lambda: first.seen and second.seen)
                await asyncio.sleep(0.1)
                assert (first.seen, second.seen, other.seen) == ([{"a": 1}], [{"a": 1}], [])
                received: list[Any] = []
                while not received or received[-1]["type"] != "announcement":
                    received.append(json.loads((await plain.receive(timeout=5)).data))
                assert received[-1] == {"type": "announcement", "payload": {"a": 1}, "metadata": {}}


async def test_emit_of_the_server_reaches_rooms_on_every_instance(settings: Settings, user: str) -> None:
    async with service(settings) as one, service(settings) as two:  # noqa: SIM117
        async with connected((one, user), (two, user)) as (first, second):
            await one.sockets.emit("announcement", {"n": 1}, room=f"user:{user}")
            await eventually(lambda: first.seen == second.seen == [{"n": 1}])
            await two.sockets.enter_room(second.client.get_sid(), "staff")
            await one.sockets.emit("announcement", {"n": 2}, room="staff")
            await eventually(lambda: second.seen == [{"n": 1}, {"n": 2}])
            await two.sockets.emit("announcement", {"n": 3}, to=first.client.get_sid())
            await eventually(lambda: first.seen == [{"n": 1}, {"n": 3}])
            await one.sockets.emit("announcement", {"n": 4}, room=f"user:{user}", skip_sid=first.client.get_sid())
            await eventually(lambda: second.seen[-1] == {"n": 4})
            assert first.seen == [{"n": 1}, {"n": 3}]


async def test_stock_manager_disconnects_a_session_for_good(
    settings: Settings, redis_server: RedisServer, user: str
) -> None:
    async with service(settings) as one, connected((one, user)) as (stock,):
        await _in_another_process(_DISCONNECT, redis_server.url, stock.client.get_sid())
        await eventually(lambda: not stock.client.connected)


class _Held:
    """A `RoomManager` with one member of a user's room, and what was written to it."""

    def __init__(self) -> None:
        self.written: list[EncodedFrame] = []
        self.manager = RoomManager(
            "redis://127.0.0.1:1",
            {},  # type: ignore[arg-type]
            write=lambda _, frame: self.written.append(frame),
            publish=lambda *_: None,
            publish_to_user=lambda *_: None,
        )
        self.manager.add("sid")
        self.manager.basic_enter_room("sid", "/", "user:ada")


@pytest.mark.parametrize(
    "payload",
    [
        pickle.dumps({"method": "emit", "event": "x", "data": ["y"], "room": "user:ada", "host_id": "h"}),
        b"",
        b"[]",
        b'"text"',
        b"null",
        b"{}",
        b'{"method": "emit", "event": "x", "data": ["%s"], "room": "user:ada", "host_id": "h"}' % (b"y" * 300_000),
        b'{"method": "emit", "event": "x", "data": ["y"], "room": null, "host_id": "h"}',
        b'{"method": "emit", "event": 7, "data": ["y"], "room": "user:ada", "host_id": "h"}',
        b'{"method": "emit", "event": "x", "data": ["y"], "room": "user:ada", "host_id": "h", "binary": true}',
        b'{"method": "enter_room", "sid": "sid", "room": "user:bob", "host_id": "h", "namespace": "/"}',
        b'{"method": "close_room", "room": "user:ada", "host_id": "h", "namespace": "/"}',
    ],
)
def test_what_is_not_understood_on_the_stock_channel_is_dropped(payload: bytes) -> None:
    held = _Held()
    held.manager.on_stock_message(payload)
    assert (held.written, held.manager.dropped) == ([], 1)
    assert list(held.manager.members("user:ada")) == ["sid"]
    good = b'{"method": "emit", "event": "x", "data": ["y"], "room": "user:ada", "host_id": "h"}'
    held.manager.on_stock_message(good)
    assert [frame.raw for frame in held.written] == [b'2["x","y"]']


async def test_emit_refuses_what_is_not_supported() -> None:
    manager = _Held().manager
    for given in ({"room": None}, {"room": "user:ada", "callback": print}, {"room": "user:ada", "namespace": "/x"}):
        with pytest.raises(ValueError, match="emit needs a room"):
            await manager.emit("x", {}, **given)  # type: ignore[arg-type]
    assert manager.channel == STOCK_CHANNEL
