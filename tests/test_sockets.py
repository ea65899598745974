"""What `twin_sio.transport.socketio` relies on in python-socketio and python-engineio, over real sockets.

An upgrade of either library that changes it fails here, and not in production.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import pytest
import socketio
from aiohttp import web
from engineio.packet import MESSAGE, PING, Packet

from tests.raw import RawSocket
from tests.waiting import eventually
from twin_sio.errors import HandshakeRefused
from twin_sio.transport import NAMESPACE, ConnectionRegistry, ConnectRequest
from twin_sio.transport.frames import EncodedFrame, event_frame
from twin_sio.transport.origins import Origins
from twin_sio.transport.send_queue import SendQueue
from twin_sio.transport.socketio import SocketServer

pytestmark = pytest.mark.asyncio(loop_scope="module")  # a loop of its own: the tasks in it are counted

BIG = 64 * 1024


class BareSocket(RawSocket):
    speaks_protocol = False


class Served:
    """A `SocketServer` alone: everybody gets in, unless `gate` says otherwise."""

    def __init__(self, handshake_s: float, ping_s: float) -> None:
        self.events: list[tuple[str, list[Any], int | None]] = []
        self.malformed: list[str] = []
        self.connected: list[str] = []
        self.left: list[tuple[str, str]] = []
        self.gate: Any = None
        self.connections = ConnectionRegistry()
        self.server = SocketServer(
            socketio.AsyncManager(),
            self,
            self.connections,
            origins=Origins(()),
            ping_interval_s=ping_s,
            ping_timeout_s=ping_s,
            handshake_s=handshake_s,
        )
        self.url = ""

    def allow_connection(self, request: web.Request) -> bool:
        return True

    async def admit(self, sid: str, asked: ConnectRequest) -> None:
        if self.gate is not None:
            await self.gate(sid)

    def on_connected(self, sid: str) -> None:
        self.connected.append(sid)
        frame = event_frame("session_ready", {"type": "session_ready", "payload": {}, "metadata": {}})
        self.connections.write(sid, frame)

    def on_event(self, sid: str, name: str, args: list[Any], ack_id: int | None, size: int) -> float:
        self.events.append((name, args, ack_id))
        return 0.0

    def on_malformed(self, sid: str, size: int, args: Sequence[object] = (), ack_id: int | None = None) -> float:
        self.malformed.append(sid)
        return 0.0

    def on_too_long(self, sid: str) -> None:
        self.malformed.append(sid)

    def on_poll(self, sid: str, size: int = 0) -> float:
        return 0.0

    async def on_disconnect(self, sid: str, reason: str) -> None:
        self.left.append((sid, reason))

    @property
    def entries(self) -> int:
        """Whatever is still kept of any client."""
        rooms = self.server.manager.rooms.get(NAMESPACE, {})
        return len(self.server.eio.sockets) + len(self.server.environ) + sum(len(one) for one in rooms.values())


@contextlib.asynccontextmanager
async def served(handshake_s: float = 10.0, ping_s: float = 20.0) -> AsyncIterator[Served]:
    one = Served(handshake_s, ping_s)
    app = web.Application()
    one.server.attach(app)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield one
    finally:
        one.server.abort_all()
        await one.server.shutdown()
        await runner.cleanup()


def deaf(url: str) -> socket.socket:
    """A WebSocket that was let in and reads no more, with a small buffer of its own."""
    host, port = re.fullmatch(r"http://(.+):(\d+)", url).groups()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    client.sendall(
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    client.sendall(b"\x81\x82\x00\x00\x00\x0040")  # "40": the CONNECT of the default namespace, masked with zeros
    return client


async def tasks_back_to(count: int) -> None:
    """As many tasks as there were, and the two of the library that look for the silent from the first socket on."""
    await eventually(lambda: len(asyncio.all_tasks()) <= count + 2)


# -- what is overridden, and called ----------------------------------------------------------------------------------


async def test_the_library_calls_what_was_put_in_its_place() -> None:
    async with served() as one, BareSocket(one.url, None) as raw:
        (socket_,) = one.server.eio.sockets.values()
        assert isinstance(socket_.queue, SendQueue)
        assert socket_.transport is not None
        assert (socket_.upgraded, socket_.upgrading, socket_.closed, socket_.closing) == (True, False, False, False)
        await raw.send('42["one",{}]')
        await raw.send('427["two",{}]')
        await eventually(lambda: len(one.events) == 2)
        assert one.events == [("one", [{}], None), ("two", [{}], 7)]
        await raw.send("5")
        await raw.send("4x")
        await raw.send('451-["binary"]')
        await eventually(lambda: len(one.malformed) == 2)
        assert one.malformed == one.connected * 2


async def test_a_packet_class_of_ours_writes_what_the_library_sends() -> None:
    async with served() as one:
        raw = BareSocket(one.url, None)
        await raw.open()
        await raw.send("40/elsewhere,{}")
        await raw.until(lambda: raw.refusal)
        assert raw.refusal["code"] == "session_invalid"
        await raw.__aexit__(None, None, None)


# -- what a socket holds ---------------------------------------------------------------------------------------------


async def test_a_send_queue_counts_unwritten_bytes() -> None:
    """An outbox counts what is queued and what is in the writers hands."""
    box = SendQueue()
    box.put_nowait(Packet(MESSAGE, "x" * 1000))
    box.put_nowait(Packet(PING))
    assert 1000 <= box.buffered_bytes < 1300
    box.get_nowait()
    box.get_nowait()
    assert box.buffered_bytes == 0  # taken by a poll: gone
    box.writer_attached = True
    box.put_nowait(Packet(MESSAGE, "x" * 1000))
    box.get_nowait()
    assert box.buffered_bytes >= 1000  # taken by the writer: not yet
    box.sent()
    assert box.buffered_bytes == 0
    box.sent()
    assert box.buffered_bytes == 0


async def test_unread_bytes_stay_counted() -> None:
    """What a deaf client is sent stays counted until it is cut."""
    async with served() as one:
        before = len(asyncio.all_tasks())
        client = deaf(one.url)
        (sid,) = await eventually(lambda: one.connected)
        sent = 0
        while one.connections.buffered_bytes(sid) < 1024 * 1024:
            one.connections.write(sid, EncodedFrame(b"2" + b"x" * BIG))
            sent += BIG
            assert sent < 8 * 1024 * 1024, "it vanishes uncounted"
            await asyncio.sleep(0)
        assert one.server.total_buffered_bytes >= 1024 * 1024
        await eventually(lambda: one.connections.stalled(0.2))  # nothing moves
        one.connections.abort(sid)
        await eventually(lambda: one.left)
        await eventually(lambda: one.entries == 0)
        await tasks_back_to(before)
        assert one.connections.buffered_bytes(sid) == 0
        client.close()


async def test_the_kernel_buffers_little() -> None:
    """The kernel takes little for a client that does not read."""
    async with served() as one:
        client = deaf(one.url)
        (sid,) = await eventually(lambda: one.connected)
        sent = 0
        for _ in range(64):
            one.connections.write(sid, EncodedFrame(b"2" + b"x" * BIG))
            sent += BIG
            await asyncio.sleep(0.001)
        await eventually(lambda: one.connections.stalled(0.2))
        assert sent - one.connections.buffered_bytes(sid) < 1024 * 1024
        one.connections.abort(sid)
        client.close()


async def test_a_silent_client_leaves_nothing() -> None:
    """A client that falls silent with little to read leaves nothing behind."""
    async with served(ping_s=0.3) as one:
        before = len(asyncio.all_tasks())
        client = deaf(one.url)
        (sid,) = await eventually(lambda: one.connected)
        for _ in range(6):
            one.connections.write(sid, EncodedFrame(b"2" + b"x" * BIG))
        await eventually(lambda: one.left)
        await eventually(lambda: one.entries == 0)
        await tasks_back_to(before)
        client.close()


# -- letting go ------------------------------------------------------------------------------------------------------


async def test_the_next_ping_of_a_closed_socket_ends_with_it() -> None:
    async with served() as one:
        before = len(asyncio.all_tasks())
        async with BareSocket(one.url, None):
            (socket_,) = one.server.eio.sockets.values()
            assert not socket_.ping_task.done()
        await eventually(lambda: one.entries == 0)
        await tasks_back_to(before)
        assert socket_.ping_task.cancelled()


async def test_a_connection_is_closed_plainly_after_what_is_queued() -> None:
    async with served() as one, BareSocket(one.url, None) as raw:
        frame = event_frame("last", {"type": "last", "payload": {}, "metadata": {}})
        (sid,) = one.connected
        one.connections.write(sid, frame)
        one.connections.close(sid, "draining")
        await asyncio.wait_for(raw.closed.wait(), 5)
        assert raw.of("last")
        assert raw.leave is None  # no Socket.IO disconnect: it comes back by itself
        await eventually(lambda: one.entries == 0)
        assert one.left == [(sid, "transport close")]


async def test_a_stock_client_tells_close_from_disconnect() -> None:
    """A stock client comes back after a plain close and stays away after a disconnect."""
    async with served() as one:
        client = socketio.AsyncClient(reconnection_delay=0.05, randomization_factor=0)
        await client.connect(one.url, transports=["websocket"])
        try:
            await eventually(lambda: len(one.connected) == 1)
            one.connections.close(one.connected[0], "draining")
            await eventually(lambda: len(one.connected) == 2 and client.connected)
            await one.server.disconnect(one.connected[1])
            await eventually(lambda: not client.connected)
            await eventually(lambda: one.entries == 0)
            assert len(one.connected) == 2
        finally:
            await client.disconnect()


async def test_a_client_that_ignores_the_close_is_cut_off() -> None:
    async with served() as one:
        before = len(asyncio.all_tasks())
        client = deaf(one.url)
        (sid,) = await eventually(lambda: one.connected)
        one.connections.close(sid, "draining")
        await eventually(lambda: one.entries == 0)
        await tasks_back_to(before)
        client.close()


class _Gate:
    """Lets nobody in before it is opened."""

    def __init__(self) -> None:
        self.asked, self.opened = asyncio.Event(), asyncio.Event()

    async def __call__(self, sid: str) -> None:
        self.asked.set()
        await self.opened.wait()


async def test_leaving_during_admission_leaves_no_entry() -> None:
    """A connection that leaves while it is let in leaves no entry."""
    async with served() as one:
        one.gate = gate = _Gate()
        raw = BareSocket(one.url, None)
        await raw.open()
        await raw.send("40")
        await gate.asked.wait()
        await raw.__aexit__(None, None, None)
        gate.opened.set()
        await eventually(lambda: one.entries == 0)
        assert [sid for sid, _ in one.left] == one.connected


async def test_a_poller_cut_during_admission_leaves_nothing() -> None:
    """A polling client that is cut while it is let in leaves no entry and is not greeted."""
    async with served() as one, aiohttp.ClientSession() as http:
        one.gate = gate = _Gate()
        at = await _poll_open(http, one.url)
        posting = asyncio.create_task(http.post(at, data="40"))
        await gate.asked.wait()
        one.server.abort_all()
        await eventually(lambda: not one.server.eio.sockets)
        gate.opened.set()
        (await posting).close()
        await eventually(lambda: one.entries == 0)
        assert one.connected == []


# -- strangers -------------------------------------------------------------------------------------------------------


async def test_an_idle_socket_is_closed_in_time() -> None:
    """A socket that never asks to be let in is closed in time."""
    async with served(handshake_s=0.4) as one:
        before = len(asyncio.all_tasks())
        raw = BareSocket(one.url, None)
        await raw.open()
        began = asyncio.get_running_loop().time()
        await asyncio.wait_for(raw.closed.wait(), 5)
        assert asyncio.get_running_loop().time() - began < 2
        await eventually(lambda: one.entries == 0)
        await raw.__aexit__(None, None, None)
        await tasks_back_to(before)


async def test_leaving_the_namespace_restarts_the_timeout() -> None:
    """Who was refused or has left the namespace is a stranger again."""

    async def refuse(sid: str) -> None:
        raise HandshakeRefused("auth_invalid", "no")

    async with served(handshake_s=0.4) as one:
        async with BareSocket(one.url, None) as left:
            await asyncio.sleep(0.5)  # past the look at newcomers
            await left.send("41")
            await asyncio.wait_for(left.closed.wait(), 5)
        one.gate = refuse
        async with BareSocket(one.url, None) as refused:
            assert refused.refusal
            await asyncio.wait_for(refused.closed.wait(), 5)
        await eventually(lambda: one.entries == 0)


async def test_one_that_was_let_in_stays_past_the_time() -> None:
    async with served(handshake_s=0.2) as one, BareSocket(one.url, None) as raw:
        await asyncio.sleep(0.5)
        await raw.send('42["still here",{}]')
        await eventually(lambda: one.events)
        assert not raw.closed.is_set()


async def _poll_open(http: aiohttp.ClientSession, url: str) -> str:
    async with http.get(f"{url}/socket.io/?EIO=4&transport=polling") as response:
        sid: str = json.loads((await response.text())[1:])["sid"]
    return f"{url}/socket.io/?EIO=4&transport=polling&sid={sid}"


async def test_an_unfinished_upgrade_is_closed_in_time() -> None:
    """A polling stranger and its half made upgrade are gone in time."""
    async with served(handshake_s=0.4) as one, aiohttp.ClientSession() as http:
        before = len(asyncio.all_tasks())
        at = await _poll_open(http, one.url)
        upgrade = await http.ws_connect(at.replace("http", "ws", 1).replace("polling", "websocket"))
        await upgrade.send_str("2probe")
        assert await upgrade.receive_str(timeout=5) == "3probe"
        ended = await upgrade.receive(timeout=5)
        assert ended.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        await eventually(lambda: one.entries == 0)
        async with http.get(at) as response:
            assert response.status == 400
        await upgrade.close()
        await http.close()  # a connection that is kept alive has a task
        await tasks_back_to(before)


async def test_a_closed_poller_is_notified_and_forgotten() -> None:
    async with served() as one, aiohttp.ClientSession() as http:
        at = await _poll_open(http, one.url)
        async with http.post(at, data="40") as response:
            assert response.status == 200
        (sid,) = await eventually(lambda: one.connected)
        one.connections.write(sid, event_frame("last", {}))
        one.connections.close(sid, "draining")
        async with http.get(at) as response:
            packets = (await response.text()).split("\x1e")
        assert packets[-1] == "1"  # Engine.IO's close: the client comes back by itself
        assert any("last" in one for one in packets)
        await eventually(lambda: one.entries == 0)


async def test_a_cut_poller_is_forgotten() -> None:
    """A polling client that does not poll is forgotten when it is cut."""
    async with served() as one, aiohttp.ClientSession() as http:
        at = await _poll_open(http, one.url)
        async with http.post(at, data="40") as response:
            assert response.status == 200
        (sid,) = await eventually(lambda: one.connected)
        for _ in range(20):
            one.connections.write(sid, EncodedFrame(b"2" + b"x" * BIG))
        assert one.connections.buffered_bytes(sid) > 20 * BIG
        one.connections.abort(sid)
        await eventually(lambda: one.entries == 0)
        assert one.left == [(sid, "transport close")]


# -- straight to the transport ---------------------------------------------------------------------------------------


def numbered(number: int, size: int = 0) -> EncodedFrame:
    return event_frame("number", {"type": "number", "payload": {"n": number, "x": "x" * size}, "metadata": {}})


async def test_what_goes_straight_out_never_overtakes_what_waits() -> None:
    async with served() as one, BareSocket(one.url, None) as raw:
        sid = one.connected[0]
        for number in range(400):  # small and large, so that some go straight and some have to wait
            one.connections.write(sid, numbered(number, 9_000 if number % 7 < 3 else 0))
            if number % 40 == 0:
                await asyncio.sleep(0)
        await raw.until(lambda: len(raw.of("number")) == 400)
        assert [event["payload"]["n"] for event in raw.of("number")] == list(range(400))
        assert one.connections.buffered_bytes(sid) == 0


async def test_an_upgrade_loses_nothing() -> None:
    """Nothing is lost or overtaken while a poll becomes a websocket."""
    seen: list[int] = []
    async with served() as one:
        client = socketio.AsyncClient(reconnection=False)
        client.on("number", lambda envelope: seen.append(envelope["payload"]["n"]))
        connecting = asyncio.create_task(client.connect(one.url, transports=["polling", "websocket"]))
        await eventually(lambda: one.connected)
        number = 0
        while number < 3000 or client.transport() != "websocket":
            one.connections.write(one.connected[0], numbered(number))
            number += 1
            await asyncio.sleep(0)
        await connecting
        await eventually(lambda: len(seen) == number)
        assert seen == list(range(number))
        await client.disconnect()
