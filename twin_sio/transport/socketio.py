"""The seam to python-socketio and python-engineio: everything that leans on their insides stands in this file.

`SocketServer` hands whole frames to sockets without a task per recipient, counts what each socket holds, aborts one
that does not read, and gives every odd frame to `on_event` / `on_malformed` instead of losing it in silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket as socket_module
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Literal, Protocol

import orjson
import socketio
from aiohttp import WSMessage, WSMsgType, web
from engineio.exceptions import EngineIOError
from engineio.packet import CLOSE
from engineio.packet import Packet as EnginePacket
from engineio.payload import Payload
from socketio import packet as socketio_packet

from twin_sio.clock import monotonic
from twin_sio.observability.overload import Bucket
from twin_sio.protocol import AUTH_MAX_BYTES
from twin_sio.transport.frames import (
    EncodedFrame,
    SocketIOPacket,
)
from twin_sio.transport.send_queue import SendQueue

NAMESPACE = "/"
ADMIN = "/admin"
PACKET_MAX_BYTES = 100_000
_INVALID_PACKET = "49"
POLL_PACKETS = 512  # an offline queue being flushed over polling sends many at once
_STRAIGHT_MAX_BYTES = 64 * 1024
_REFUSALS_MAX = 16
_YIELD_EVERY = 16
_UNSENT_MAX_BYTES = 128 * 1024
_UPGRADE_S = 10.0
_CLOSE_TIMEOUT_S = 2.0
_AUTH_RECHECK_S = 1.0
_ADMIN_HELD_MAX_BYTES = 64 * 1024
_BODY_S = 20.0
_REQUESTS_AT_ONCE = 8
_PAUSE_MAX_S = 1.0
_STRANGERS_SHARE = 1 / 50
_MANY_FRAMES = 40_000


# The library logs what clients sent; we log ourselves, and never that.
_silent = logging.getLogger("twin_sio.silent")
_silent.disabled = True  # and no record is made only to be dropped


class MalformedFrame(Exception):
    """A frame that is no Socket.IO event of ours."""


class WebSocket:
    """The WebSocket of one Engine.IO socket: no compression, text only, its transport within reach."""

    def __init__(self, handler: Callable[[WebSocket], Awaitable[None]], server: Any) -> None:
        self._handler = handler
        self._socket: Any = handler.__self__  # type: ignore[attr-defined]
        self._max = server.max_http_buffer_size

    async def __call__(self, environ: dict[str, Any]) -> web.WebSocketResponse:
        request: web.Request = environ["aiohttp.request"]
        self._ws = web.WebSocketResponse(max_msg_size=self._max, compress=False, autoping=False)
        self._request = request
        await self._ws.prepare(request)
        # The library keeps the dict as long as the socket, and would look into nothing else of it any more.
        environ.clear()
        environ["aiohttp.request"] = request
        self._transport = self._socket.transport = request.transport
        limit_send_buffer(request.transport)
        self._socket.queue.writer_attached = not self._socket.connected  # an upgrade has its own moment
        try:
            await self._handler(self)
        finally:
            if not self._socket.upgraded:  # an upgrade that failed: back to polling
                self._socket.upgrading = False
                self._socket.queue.writer_attached = False
        return self._ws

    async def close(self) -> None:
        """Close politely; who does not take notice, or has not read what was sent before, is cut off."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._ws.close()
                return
        if self._transport is not None:
            self._transport.abort()

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            await self._ws.send_str(message)
            self._socket.queue.sent()

    async def wait(self) -> str:
        """The next packet that the library has to see. Messages, of which there are most, are handed on from here: it
        would make two tasks and a timer for each."""
        taken = 0
        while True:
            data = await self._next()
            if data[0] != "4" or not self._socket.upgraded:
                await self._socket.server.pause(self._socket)
                return self._for_library(data)
            await self._socket.server.take_message(self._socket.sid, data[1:])
            await self._socket.server.pause(self._socket)
            taken += 1
            if taken % _YIELD_EVERY == 0:  # what has come already is read without a pause: the others want their turn
                await asyncio.sleep(0)

    async def _next(self) -> str:
        # The library bounds the wait for a packet of an open WebSocket, but not for the two of an upgrade.
        taken = 0
        try:
            while True:
                message = await self._ws.receive(timeout=None if self._socket.upgraded else _UPGRADE_S)
                has_read(self._request)
                if not await is_control(self._ws, message):
                    break
                await self._socket.server.pause(self._socket)
                taken += 1
                if taken % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)
        except TimeoutError:
            raise OSError from None
        if message.type is not WSMsgType.TEXT or not message.data or message.data[0] not in "0123456":
            raise OSError  # closed, binary or no Engine.IO packet: the reader ends, and with it the socket
        data: str = message.data
        return data

    def _for_library(self, data: str) -> str:
        if data[0] == "5":  # the upgrade is done: from here on what leaves the queue is in a writer's hands
            self._socket.queue.writer_attached = True
        if data[0] != "4":
            return data[: len("2probe")]
        # The library would take what does not begin with a digit for JSON, and may die of its depth.
        return data if data[1:2] in ("0", "1", "2", "3") else _INVALID_PACKET


CloseReason = Literal["draining", "expired", "slow", "gone"]


class Transport(Protocol):
    """A connection that came through another door: what delivery and the gateway need of it."""

    def write(self, packet: EncodedFrame) -> int:
        """Write a whole frame, or queue it; the bytes now held for it."""
        ...

    def buffered_bytes(self) -> tuple[int, float]:
        """Bytes held, and for how many seconds nothing of it has moved."""
        ...

    def close(self, why: CloseReason) -> None:
        """End it after what is queued."""
        ...

    def abort(self) -> None:
        """Cut it off now."""
        ...


def bearer(request: web.BaseRequest) -> str | None:
    """The token of `Authorization: Bearer`."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def has_read(request: web.BaseRequest) -> None:
    """A message was read: its TCP connection may send as much again; see `connections`."""
    if hasattr(request.protocol, "unread_bytes"):
        request.protocol.unread_bytes = 0


async def is_control(socket: web.WebSocketResponse, message: WSMessage) -> bool:
    """Whether this is a ping, which is answered here, or a pong. The library would answer all that have come in one
    step of the loop, and count none: whoever reads with this counts them as frames."""
    if message.type is WSMsgType.PING:
        await socket.pong(message.data)
        return True
    return message.type is WSMsgType.PONG


def limit_send_buffer(transport: Any) -> None:
    """Let the kernel take little more than the network does: megabytes there would be held for a client, too, and
    would hide for seconds that it has stopped reading."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is not None and hasattr(socket_module, "TCP_NOTSENT_LOWAT"):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket_module.IPPROTO_TCP, socket_module.TCP_NOTSENT_LOWAT, _UNSENT_MAX_BYTES)


class _Body:
    """The body of a request, read."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, _: int) -> bytes:
        return self._data


class SocketServer(socketio.AsyncServer):  # type: ignore[misc]
    """An AsyncServer that keeps order and answers everything.

    `on_event(sid, name, args, ack_id, size)` is called for each event in the order of arrival and must not wait;
    `on_malformed(sid, size)` for each frame that is none; `on_poll(sid)` for each HTTP request of a connection. All
    three say for how many seconds nothing more is to be read from it (None: none). `on_connected(sid)` is called right
    after the client was told that it is connected, so that what it emits comes first. `on_knock(environ)` says whether
    a socket may be opened at all; `on_carries(request, is_so)` is told that the TCP connection of this request carries
    a connected client from now on, or no longer.

    `on_admin(request, auth)`, where it is set, says why somebody may not come into the namespace /admin (None:
    welcome); `on_admin_in(eio_sid)` follows for who may. A socket is in one namespace only, and who is in /admin is no
    connection to anybody else: the manager does not know of it, it hears `tell_admin` alone, and may say nothing.
    """

    on_event: Callable[[str, str, list[Any], int | None, int], float | None]
    on_malformed: Callable[[str, int], float | None]
    on_poll: Callable[[str], float] = staticmethod(lambda _: 0.0)
    on_connected: Callable[[str], None]
    on_carries: Callable[[web.BaseRequest, bool], None] = staticmethod(lambda _, __: None)
    on_accept: Callable[[Mapping[str, Any]], bool]
    on_admin: Callable[[web.Request, object], Awaitable[Mapping[str, Any] | None]] | None = None
    on_admin_connected: Callable[[str], None]

    def __init__(
        self,
        manager: Any,
        *,
        cors: list[str] | None,
        ping_interval_s: float,
        ping_timeout_s: float,
        handshake_s: float,
        frames_per_second: int = _MANY_FRAMES,
    ) -> None:
        """`frames_per_second`: of any kind that are read from one socket; of one that has not been let in a fiftieth
        of them. The rest waits in the network, and what it comes from finds out."""
        super().__init__(
            async_mode="aiohttp",
            client_manager=manager,
            serializer=SocketIOPacket,
            async_handlers=False,
            cors_allowed_origins=cors,
            ping_interval=ping_interval_s,
            ping_timeout=ping_timeout_s,
            max_http_buffer_size=PACKET_MAX_BYTES,
            http_compression=False,
            logger=_silent,
            engineio_logger=_silent,
        )
        self._handshake_s = handshake_s
        self._frames_per_second = frames_per_second
        self._by_sid: dict[str, Any] = {}
        self.raw_connections: dict[str, Transport] = {}
        self.admins: set[str] = set()
        self.opened = 0
        self.closed = 0
        self._closing: set[asyncio.Future[None]] = set()
        self.eio.create_queue = SendQueue
        self.eio.start_background_task = self._start_background_task
        self.eio.handle_request = self._handle_http
        self.eio.take_message = self._handle_eio_message
        self.eio.pause = self._pause
        self.eio._async = {**self.eio._async, "websocket": WebSocket}
        Payload.max_decode_packets = POLL_PACKETS

    # -- out ---------------------------------------------------------------------------------------------------------

    def write(self, sid: str, frame: EncodedFrame, *, unless_over: int | None = None) -> int:
        """Write a whole frame to one connection, or queue it; the bytes now held for it (-1: it is gone).

        Straight to the transport where nothing waits before it: the frame is built once for all who get it, and
        neither a task nor the queue has a part in it. Where more than `unless_over` bytes are held nothing is written.
        """
        socket = self._by_sid.get(sid) or self._socket(sid)
        if socket is None:
            line = self.raw_connections.get(sid)
            if line is None:
                return -1
            return (
                line.write(frame)
                if unless_over is None or line.buffered_bytes()[0] <= unless_over
                else line.buffered_bytes()[0]
            )
        # Flat, for this runs for every frame and device.
        if socket.upgraded and not socket.closed and socket.queue.is_idle:
            transport = socket.transport
            unsent: int = transport.get_write_buffer_size()
            if unsent < _STRAIGHT_MAX_BYTES and not transport.is_closing():
                wire = frame.as_socketio
                transport.write(wire)
                return unsent + len(wire)
        if socket.closed or socket.closing:
            return -1
        if unless_over is not None and (held := _held(socket)) > unless_over:
            return held
        socket.queue.put_nowait(frame)
        return _held(socket)

    def buffered_bytes(self, sid: str) -> tuple[int, float]:
        """Bytes held for the connection, and for how many seconds nothing of it has moved."""
        if (line := self.raw_connections.get(sid)) is not None:
            return line.buffered_bytes()
        socket = self._socket(sid)
        if socket is None:
            return 0, 0.0
        return _held(socket), monotonic() - socket.queue.moved_at if socket.queue.buffered_bytes else 0.0

    def stalled(self, still_s: float) -> list[str]:
        """Connections for which something is held of which nothing has moved for longer than this."""
        before = monotonic() - still_s
        # Flat, for it looks at every socket again and again, and at most of them there is nothing to see.
        sockets = [one for one in self.eio.sockets.values() if one.queue.buffered_bytes and one.queue.moved_at < before]
        known = [self.manager.sid_from_eio_sid(one.sid, NAMESPACE) for one in sockets]
        lines = [sid for sid, line in self.raw_connections.items() if line.buffered_bytes()[1] > still_s]
        return [*(sid for sid in known if sid is not None), *lines]

    def backlog(self) -> dict[str, int]:
        """Bytes held, by connection, for those whose queue is not empty."""
        sockets = [one for one in self.eio.sockets.values() if one.queue.buffered_bytes]
        known = {self.manager.sid_from_eio_sid(one.sid, NAMESPACE): _held(one) for one in sockets}
        lines = {sid: held for sid, line in self.raw_connections.items() if (held := line.buffered_bytes()[0])}
        return {**{sid: held for sid, held in known.items() if sid is not None}, **lines}

    @property
    def sockets(self) -> int:
        """Engine.IO sockets of this instance, whether let in or not."""
        return len(self.eio.sockets) + len(self.raw_connections)

    @property
    def polling(self) -> int:
        """Engine.IO sockets without a WebSocket, for now or for good."""
        return sum(not socket.upgraded for socket in self.eio.sockets.values())

    def send_to_admin(self, eio_sid: str, name: str, payload: Mapping[str, Any]) -> None:
        """An event to one who is in /admin; cut where it does not read."""
        socket = self.eio.sockets.get(eio_sid)
        if socket is None or socket.closed:
            return
        socket.queue.put_nowait(EncodedFrame(b'2%s,["%s",%s]' % (ADMIN.encode(), name.encode(), orjson.dumps(payload))))
        if _held(socket) > _ADMIN_HELD_MAX_BYTES:
            self._abort_transport(socket)

    @property
    def total_buffered_bytes(self) -> int:
        """Bytes held for all sockets together."""
        here = sum(_held(socket) for socket in self.eio.sockets.values())
        return here + sum(line.buffered_bytes()[0] for line in self.raw_connections.values())

    def close(self, sid: str, why: CloseReason) -> None:
        """Close plainly after what is queued: the client comes back by itself."""
        if (line := self.raw_connections.get(sid)) is not None:
            line.close(why)
            return
        socket = self._socket(sid)
        if socket is not None:
            self._close_gracefully(socket)

    def abort(self, sid: str) -> None:
        """Cut the connection now and drop what is queued; the client comes back by itself."""
        if (line := self.raw_connections.get(sid)) is not None:
            line.abort()
            return
        socket = self._socket(sid)
        if socket is None:
            return
        while not socket.queue.empty():
            socket.queue.get_nowait()
        self._abort_transport(socket)

    def abort_all(self) -> None:
        """Cut every socket that is left, known or not."""
        for socket in list(self.eio.sockets.values()):
            self._abort_transport(socket)
        for line in list(self.raw_connections.values()):
            line.abort()

    async def disconnect(self, sid: str, namespace: str | None = None, ignore_queue: bool = False) -> None:
        """Tell the client to leave for good; one that stays all the same is a stranger from now on."""
        if (line := self.raw_connections.get(sid)) is not None:
            line.close("gone")
            return
        eio_sid = self.manager.eio_sid_from_sid(sid, NAMESPACE)
        await super().disconnect(sid, namespace=namespace, ignore_queue=ignore_queue)
        if eio_sid is not None:
            self._start_auth_timeout(eio_sid)

    def _close_gracefully(self, socket: Any) -> None:
        if socket.upgraded:
            socket.queue.put_nowait(None)
            return
        # A poll would take the bare None for an error; and only a next poll, which may never come, would read it.
        socket.queue.put_nowait(EnginePacket(CLOSE))
        socket.queue.put_nowait(None)
        asyncio.get_running_loop().call_later(_CLOSE_TIMEOUT_S, self._abort_transport, socket)

    def _abort_transport(self, socket: Any) -> None:
        socket.queue.put_nowait(None)
        transport = getattr(socket, "transport", None)
        if transport is not None:
            transport.abort()
        if not socket.upgraded and not socket.closed:
            task = asyncio.ensure_future(self._forget(socket))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _forget(self, socket: Any) -> None:
        await socket.close(wait=False, abort=True, reason=self.reason.TRANSPORT_CLOSE)
        self.eio.sockets.pop(socket.sid, None)

    def forget(self, sid: str) -> None:
        """The connection is gone; the manager says so for each."""
        self._by_sid.pop(sid, None)

    def _socket(self, sid: str) -> Any:
        socket = self._by_sid.get(sid)
        if socket is None:
            socket = self.eio.sockets.get(self.manager.eio_sid_from_sid(sid, NAMESPACE))
            if socket is not None:
                self._by_sid[sid] = socket
        return None if socket is None or socket.closed or socket.closing else socket

    # -- in ----------------------------------------------------------------------------------------------------------

    @staticmethod
    def _start_background_task(target: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **named: Any) -> Any:
        """Start one of the library's tasks. A socket's next ping is kept with it, to end when it ends: otherwise every
        closed socket would live on for a whole ping interval."""
        task = asyncio.ensure_future(target(*args, **named))
        if target.__name__ == "_send_ping":
            target.__self__.ping_task = task  # type: ignore[attr-defined]
        return task

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> object:
        if not self.on_accept(environ):
            return {"code": "rate_limited"}  # the body of a 401; clients come back by themselves
        socket = self.eio.sockets[eio_sid]
        socket.handle_post_request = functools.partial(self._handle_post, socket)
        strangers = max(1.0, self._frames_per_second * _STRANGERS_SHARE)
        socket.frames = Bucket(strangers, 8 * strangers)
        socket.pause_s = 0.0
        socket.requests = 0
        socket.sent_bad_body = False
        self.opened += 1
        await super()._handle_eio_connect(eio_sid, environ)
        self._start_auth_timeout(eio_sid)
        return None

    async def _pause(self, socket: Any) -> None:
        """After each frame, of whatever kind: wait where the connection has sent more than we read at once."""
        socket.frames.spend(1)
        pause_s = max(socket.pause_s, min(_PAUSE_MAX_S, socket.frames.owed_s()))
        if pause_s:
            socket.pause_s = 0.0
            await asyncio.sleep(pause_s)

    def knows(self, eio_sid: str) -> bool:
        """Whether there is a socket of this id."""
        return eio_sid in self.eio.sockets

    async def _handle_http(self, request: web.Request) -> web.StreamResponse:
        """The library's door. What it answers with an exception is a 400: a socket that is just closing, numbers in
        the query that are none."""
        socket = self.eio.sockets.get(request.query.get("sid", ""))
        if socket is None:
            return await self._answer_by_library(request)
        if socket.requests >= _REQUESTS_AT_ONCE:  # a client has two: from now on each counts for its address
            self._abort_transport(socket)
            return web.Response(status=400)
        socket.requests += 1
        sid = self.manager.sid_from_eio_sid(socket.sid, NAMESPACE)
        try:
            if sid is not None:
                self.on_carries(request, True)
                socket.pause_s = max(socket.pause_s, self.on_poll(sid))
            await self._pause(socket)
            response = await self._answer_by_library(request)
            return web.Response(status=400) if socket.sent_bad_body else response
        finally:
            socket.requests -= 1
            if sid is not None:
                self.on_carries(request, False)

    async def _answer_by_library(self, request: web.Request) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await type(self.eio).handle_request(self.eio, request)
        except (KeyError, ValueError):
            return web.Response(status=400)
        return response

    async def _handle_post(self, socket: Any, environ: dict[str, Any]) -> None:
        """A poll's packets. The library takes what it cannot read in silence, or waits for its own goodbye to be
        read; such a client is closed and told. So is one whose packets do not come."""
        try:
            length = int(environ.get("CONTENT_LENGTH", "0"))
            if length <= PACKET_MAX_BYTES:  # whole: the library would take what has come already for all of it
                async with asyncio.timeout(_BODY_S):
                    environ["wsgi.input"] = _Body(await environ["wsgi.input"].readexactly(length))
            await type(socket).handle_post_request(socket, environ)
        except (EngineIOError, ValueError, TypeError, IndexError, RecursionError, TimeoutError, EOFError):
            socket.sent_bad_body = True
            self._close_gracefully(socket)

    def _start_auth_timeout(self, eio_sid: str) -> None:
        """Whoever has not been let in when the time is up is gone by then: asked to leave before, cut at its end."""
        asyncio.get_running_loop().call_later(0.95 * self._handshake_s, self._close_unauthenticated, eio_sid)

    def _close_unauthenticated(self, eio_sid: str) -> None:
        socket = self.eio.sockets.get(eio_sid)
        if socket is None or socket.closed or eio_sid in self.admins:
            return
        sid = self.manager.sid_from_eio_sid(eio_sid, NAMESPACE)
        loop = asyncio.get_running_loop()
        if sid is not None:
            if not self.manager.is_connected(sid, NAMESPACE):  # it is being looked at, or is just leaving
                loop.call_later(_AUTH_RECHECK_S, self._close_unauthenticated, eio_sid)
        elif socket.upgraded:
            socket.queue.put_nowait(None)
            loop.call_later(0.05 * self._handshake_s, self._abort_transport, socket)
        else:
            self._abort_transport(socket)

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: Any) -> None:
        if self._is_connected(eio_sid) or (namespace or NAMESPACE) not in (NAMESPACE, ADMIN):
            await self._refuse_connect(eio_sid, (namespace or NAMESPACE)[:64])
            return
        if namespace == ADMIN:
            await self._connect_admin(eio_sid, data)
            return
        await super()._handle_connect(eio_sid, namespace, data)
        socket = self.eio.sockets.get(eio_sid)
        if socket is None or socket.closed:  # it left while it was let in: nobody else would clean up
            await self._handle_disconnect(eio_sid, NAMESPACE, self.reason.TRANSPORT_CLOSE)
            self.environ.pop(eio_sid, None)
            return
        sid = self.manager.sid_from_eio_sid(eio_sid, NAMESPACE)
        if sid is not None and self.manager.is_connected(sid, NAMESPACE):
            socket.frames = Bucket(self._frames_per_second, 2 * self._frames_per_second)
            if socket.upgraded:
                self.on_carries(self.environ[eio_sid]["aiohttp.request"], True)
            self.on_connected(sid)
        else:  # refused, and told so
            self._count_refusal(socket)

    def _is_connected(self, eio_sid: str) -> bool:
        return eio_sid in self.admins or self.manager.sid_from_eio_sid(eio_sid, NAMESPACE) is not None

    async def _connect_admin(self, eio_sid: str, auth: object) -> None:
        if self.on_admin is None:
            await self._refuse_connect(eio_sid, ADMIN)
            return
        refusal = await self.on_admin(self.environ[eio_sid]["aiohttp.request"], auth)
        socket = self.eio.sockets.get(eio_sid)
        if socket is None or socket.closed:
            return
        if refusal is not None or self._is_connected(eio_sid):
            await self._refuse_connect(eio_sid, ADMIN, refusal)
            return
        self.admins.add(eio_sid)
        welcome = self.packet_class(socketio_packet.CONNECT, data={"sid": self.eio.generate_id()}, namespace=ADMIN)
        await self._send_packet(eio_sid, welcome)
        self.on_admin_connected(eio_sid)

    async def _refuse_connect(self, eio_sid: str, namespace: str, refusal: Mapping[str, Any] | None = None) -> None:
        """A second CONNECT, a namespace that does not exist or is not for everybody: nothing is registered for any of
        them, and whoever goes on asking is closed."""
        socket = self.eio.sockets.get(eio_sid)
        if socket is None:
            return
        if self._count_refusal(socket) >= _REFUSALS_MAX:
            return
        no_such = {"code": "session_invalid", "message": "There is one namespace: /.", "retryable": False}
        packet = self.packet_class(socketio_packet.CONNECT_ERROR, data=refusal or no_such, namespace=namespace)
        await self._send_packet(eio_sid, packet)

    def _count_refusal(self, socket: Any) -> int:
        socket.refusals = getattr(socket, "refusals", 0) + 1
        if socket.refusals == _REFUSALS_MAX:
            self._reject(socket.sid)
        refusals: int = socket.refusals
        return refusals

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        socket = self.eio.sockets.get(eio_sid)
        ping = getattr(socket, "ping_task", None)
        if ping is not None and ping is not asyncio.current_task():
            ping.cancel()
        self.admins.discard(eio_sid)
        self.closed += 1
        await super()._handle_eio_disconnect(eio_sid, reason)
        if socket is not None and reason == self.reason.PING_TIMEOUT:
            # The library says goodbye and waits for it to be read, which whoever is silent may never do.
            asyncio.get_running_loop().call_later(_CLOSE_TIMEOUT_S, self._abort_transport, socket)

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        sid = self.manager.sid_from_eio_sid(eio_sid, NAMESPACE)
        size = len(data) if isinstance(data, str) else 0
        if size > AUTH_MAX_BYTES and data[0] == "0":  # before it is parsed: nobody has shown a token yet
            told = "The auth payload is too long."
            refused = {"code": "auth_invalid", "message": told, "retryable": False}
            await self._refuse_connect(eio_sid, NAMESPACE, {"message": told, "data": refused})
            return
        try:
            kind, ack_id, args = _decode(data)
        except MalformedFrame:
            if sid is not None:
                self._read_later(eio_sid, self.on_malformed(sid, size))
            else:
                self._reject(eio_sid)
            return
        if kind == socketio_packet.CONNECT:
            await self._handle_connect(eio_sid, args[0], args[1])
        elif kind == socketio_packet.DISCONNECT:
            self.admins.discard(eio_sid)
            await self._handle_disconnect(eio_sid, NAMESPACE, self.reason.CLIENT_DISCONNECT)
            self._start_auth_timeout(eio_sid)
        elif kind == socketio_packet.EVENT:
            if sid is not None and self.manager.is_connected(sid, NAMESPACE):
                self._read_later(eio_sid, self.on_event(sid, args[0], args[1:], ack_id, size))
            else:
                self._reject(eio_sid)  # an event before CONNECT: such a client is none

    def _read_later(self, eio_sid: str, pause_s: float | None) -> None:
        socket = self.eio.sockets.get(eio_sid) if pause_s else None
        if socket is not None:
            socket.pause_s = pause_s or 0.0

    def _reject(self, eio_sid: str) -> None:
        socket = self.eio.sockets.get(eio_sid)
        if socket is not None and not socket.closed:
            self._close_gracefully(socket)


def _held(socket: Any) -> int:
    """What waits in the queue, in the writer's hands and in the transport."""
    transport = getattr(socket, "transport", None)
    unsent: int = transport.get_write_buffer_size() if transport is not None else 0
    queued: int = socket.queue.buffered_bytes
    return queued + unsent


def is_writable(queue: SendQueue, transport: Any) -> bool:
    """Whether a frame can go straight to the transport: nothing waits before it, and the client reads."""
    return queue.is_idle and transport.get_write_buffer_size() < _STRAIGHT_MAX_BYTES and not transport.is_closing()


def _decode(data: Any) -> tuple[int, int | None, list[Any]]:
    """`(kind, ack id, arguments)` of a client's Socket.IO packet; of a CONNECT `[namespace, auth]`.

    Refuses whatever the protocol has no use for: binary, other namespaces, ids that are not plain digits.
    """
    if isinstance(data, dict | list | int | float | bool):  # Engine.IO has taken the text for JSON
        raise MalformedFrame
    if not isinstance(data, str) or not data:
        raise MalformedFrame
    kind, rest = data[0], data[1:]
    if kind == "0":
        return socketio_packet.CONNECT, None, list(_connect(rest))
    if kind == "1":
        return socketio_packet.DISCONNECT, None, []
    if kind == "3":  # we ask for no acknowledgements
        return socketio_packet.ACK, None, []
    if kind != "2":
        raise MalformedFrame
    if rest.startswith("/,"):
        rest = rest[2:]
    digits = len(rest) - len(rest.lstrip("0123456789"))
    if digits > 15:
        raise MalformedFrame
    try:
        args = orjson.loads(rest[digits:])
    except ValueError:
        raise MalformedFrame from None
    if not isinstance(args, list) or not args or not isinstance(args[0], str):
        raise MalformedFrame
    return socketio_packet.EVENT, int(rest[:digits]) if digits else None, args


def _connect(rest: str) -> tuple[str, Any]:
    namespace = NAMESPACE
    if rest.startswith("/"):
        namespace, _, rest = rest.partition(",")
        namespace = namespace.partition("?")[0]
    try:
        return namespace, orjson.loads(rest) if rest else None
    except ValueError:
        raise MalformedFrame from None
