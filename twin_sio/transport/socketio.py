"""The Socket.IO transport: python-socketio's server with one order, an answer to every frame, and counted buffers.

All that leans on python-socketio's private methods is in this file and in `room_manager`;
`tests/test_private_api_socketio.py` holds their signatures.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import orjson
import socketio
from aiohttp import web
from socketio import packet as socketio_packet
from socketio.exceptions import ConnectionRefusedError as SocketRefused

from twin_sio.background import BackgroundTasks
from twin_sio.errors import HandshakeRefused
from twin_sio.protocol import AUTH_MAX_BYTES
from twin_sio.transport import (
    NAMESPACE,
    PACKET_MAX_BYTES,
    CloseReason,
    ConnectionRegistry,
    ConnectRequest,
    TransportHooks,
)
from twin_sio.transport.aiohttp_socket import bearer
from twin_sio.transport.engineio import CLOSE_TIMEOUT_S, EngineServer
from twin_sio.transport.frames import EncodedFrame, SocketIOPacket
from twin_sio.transport.origins import Origins
from twin_sio.transport.packets import MalformedFrame, decode
from twin_sio.transport.send_queue import STRAIGHT_MAX_BYTES

ADMIN_NAMESPACE = "/admin"
_REFUSALS_MAX = 16  # CONNECTs that are refused on one socket before it is closed
_AUTH_RECHECK_S = 1.0  # where a token is being checked just when the time is up
_ADMIN_BUFFER_MAX_BYTES = 64 * 1024  # over which a client of /admin misses what is sent
_MANY_FRAMES = 40_000  # no bound that anybody reaches: for a server without settings

# The library logs what clients sent. This service logs itself, and never that.
_silent = logging.getLogger("twin_sio.silent")
_silent.disabled = True  # and no record is made only to be dropped


class AdminHooks(Protocol):
    """Who may connect to the namespace /admin; `transport.admin_ui.AdminUi` implements it."""

    async def refusal(self, request: web.Request, auth: object) -> Mapping[str, Any] | None:
        """Why a client may not connect to /admin, as the CONNECT_ERROR has it; None: it may."""
        ...

    def greeting(self) -> tuple[str, Mapping[str, Any]]:
        """The first event for a client that may."""
        ...


class SocketIOConnection:
    """The connection of one Socket.IO client: over a WebSocket, over polling, or in the middle of the upgrade."""

    __slots__ = ("_server", "_sid", "_socket", "queue")

    def __init__(self, server: SocketServer, sid: str, socket: Any) -> None:
        self.queue = socket.queue
        self._server = server
        self._sid = sid
        self._socket = socket  # the library's

    def write(self, frame: EncodedFrame, *, unless_over: int | None = None) -> int:
        """Straight to the transport where nothing waits before it: the frame is built once for all clients, and neither
        a task nor the queue has a part in it."""
        # Without a call that is not needed: this runs for every frame and device.
        socket, queue = self._socket, self.queue
        if queue.is_idle and socket.upgraded and not socket.closed:
            transport = socket.transport
            unsent: int = transport.get_write_buffer_size()
            if unsent < STRAIGHT_MAX_BYTES and not transport.is_closing():
                data = frame.as_socketio
                transport.write(data)
                return unsent + len(data)
        if socket.closed or socket.closing:
            return -1
        if unless_over is not None and (buffered := _buffered(socket)) > unless_over:
            return buffered
        queue.put_nowait(frame)
        return _buffered(socket)

    def buffered_bytes(self) -> int:
        return 0 if self._socket.closed or self._socket.closing else _buffered(self._socket)

    def close(self, reason: CloseReason) -> None:
        """Where the client is to connect again by itself the socket is closed plainly; for `gone` a Socket.IO
        disconnect keeps it from doing so."""
        if reason == "gone":
            self._server.background.start(self._server.disconnect(self._sid))
        elif not self._socket.closed and not self._socket.closing:
            self._server.eio.close_socket(self._socket)

    def abort(self) -> None:
        if self._socket.closed or self._socket.closing:
            return
        # The library would first write all that waits, to a client that does not read.
        while not self.queue.empty():
            self.queue.get_nowait()
        self._server.eio.abort_socket(self._socket)


class SocketServer(socketio.AsyncServer):  # type: ignore[misc]
    """An AsyncServer that gives whole frames to sockets without a task per recipient, handles events in the order of
    arrival and answers every malformed frame.

    A socket is in one namespace only. A client of /admin is in no room and has no `Connection`: it gets what
    `send_to_admin` sends, and an event from it closes it.
    """

    def __init__(
        self,
        manager: Any,
        hooks: TransportHooks,
        connections: ConnectionRegistry,
        *,
        origins: Origins,
        ping_interval_s: float,
        ping_timeout_s: float,
        handshake_s: float,
        frames_per_second: int = _MANY_FRAMES,
        on_carries: Callable[[web.BaseRequest, bool], None] = lambda _, __: None,
        admin: AdminHooks | None = None,
    ) -> None:
        """`frames_per_second`: of any kind that are read from one socket; before authentication a fiftieth of it. The
        rest waits in the network, which slows the sender down. `on_carries(request, is_so)` is called when
        the TCP connection of this request begins, or ceases, to carry an authenticated client."""
        super().__init__(
            async_mode="aiohttp",
            client_manager=manager,
            serializer=SocketIOPacket,
            # Events of a connection in the order of arrival: the library would start a task for each.
            async_handlers=False,
            cors_allowed_origins=origins.for_library(),
            ping_interval=ping_interval_s,
            ping_timeout=ping_timeout_s,
            max_http_buffer_size=PACKET_MAX_BYTES,
            http_compression=False,
            logger=_silent,
            engineio_logger=_silent,
            # What follows is for `EngineServer`.
            take_message=self._handle_eio_message,
            on_too_long=self._too_long,
            connection_id=self._connection_id,
            on_poll=hooks.on_poll,
            on_carries=on_carries,
            frames_per_second=frames_per_second,
        )
        self._hooks = hooks
        self._connections = connections
        self._handshake_s = handshake_s  # from the opening of a socket to its authentication
        self._on_carries = on_carries
        self._admin = admin
        self.background = BackgroundTasks()
        self.admins: set[str] = set()
        """Engine.IO ids of the clients in /admin."""
        self.opened = 0  # Engine.IO sockets, since the start
        self.closed = 0
        self.on("connect", self._admit)
        self.on("disconnect", self._ended)

    def _engineio_server_class(self) -> type[EngineServer]:
        return EngineServer

    @property
    def open_sockets(self) -> int:
        """Engine.IO sockets of this instance, authenticated or not."""
        return len(self.eio.sockets)

    @property
    def polling(self) -> int:
        """Engine.IO sockets without a WebSocket, for now or for good."""
        return sum(not socket.upgraded for socket in self.eio.sockets.values())

    @property
    def total_buffered_bytes(self) -> int:
        """Bytes that wait for all of these sockets together."""
        return sum(_buffered(socket) for socket in self.eio.sockets.values())

    def is_open(self, eio_sid: str) -> bool:
        """Whether there is a socket of this id."""
        return eio_sid in self.eio.sockets

    def abort_all(self) -> None:
        """Close every socket that is left, now."""
        for socket in list(self.eio.sockets.values()):
            self.eio.abort_socket(socket)

    async def disconnect(self, sid: str, namespace: str | None = None, ignore_queue: bool = False) -> None:
        """Keep the client from connecting again by itself; a socket that stays open all the same counts as one that has
        not authenticated."""
        eio_sid = self.manager.eio_sid_from_sid(sid, NAMESPACE)
        await super().disconnect(sid, namespace=namespace, ignore_queue=ignore_queue)
        if eio_sid is not None:
            self._start_auth_timeout(eio_sid)

    def _connection_id(self, eio_sid: str) -> str | None:
        sid: str | None = self.manager.sid_from_eio_sid(eio_sid, NAMESPACE)
        return sid

    # -- connecting --------------------------------------------------------------------------------------------------

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> object:
        if not self._hooks.allow_connection(environ["aiohttp.request"]):
            return {"code": "rate_limited"}  # the body of a 401; clients connect again by themselves
        self.eio.prepare(self.eio.sockets[eio_sid])
        self.opened += 1
        await super()._handle_eio_connect(eio_sid, environ)
        self._start_auth_timeout(eio_sid)
        return None

    def _start_auth_timeout(self, eio_sid: str) -> None:
        """A socket that is not authenticated in time is gone by then: asked to close before, aborted at its end."""
        asyncio.get_running_loop().call_later(0.95 * self._handshake_s, self._close_unauthenticated, eio_sid)

    def _close_unauthenticated(self, eio_sid: str) -> None:
        socket = self.eio.sockets.get(eio_sid)
        if socket is None or socket.closed or eio_sid in self.admins:
            return
        sid = self._connection_id(eio_sid)
        loop = asyncio.get_running_loop()
        if sid is not None:
            if not self.manager.is_connected(sid, NAMESPACE):  # being authenticated, or just leaving
                loop.call_later(_AUTH_RECHECK_S, self._close_unauthenticated, eio_sid)
        elif socket.upgraded:
            socket.queue.put_nowait(None)
            loop.call_later(0.05 * self._handshake_s, self.eio.abort_socket, socket)
        else:
            self.eio.abort_socket(socket)

    async def _admit(self, sid: str, environ: dict[str, Any], auth: object = None) -> None:
        request = environ["aiohttp.request"]
        try:
            await self._hooks.admit(sid, ConnectRequest(request, auth, bearer(request)))
        except HandshakeRefused as refused:
            # With data: all SDKs can read that, and a text alone tells them nothing of when to come back.
            raise SocketRefused(refused.message, refused.as_data()) from None

    async def _ended(self, sid: str, reason: object) -> None:
        try:
            await self._hooks.on_disconnect(sid, reason)
        finally:
            self._connections.pop(sid, None)

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: Any) -> None:
        # A second CONNECT would run the admission again, with another identity, for a connection that has one.
        if self._is_connected(eio_sid) or (namespace or NAMESPACE) not in (NAMESPACE, ADMIN_NAMESPACE):
            await self._refuse_connect(eio_sid, (namespace or NAMESPACE)[:64])
            return
        if namespace == ADMIN_NAMESPACE:
            await self._connect_admin(eio_sid, data)
            return
        await super()._handle_connect(eio_sid, namespace, data)
        socket = self.eio.sockets.get(eio_sid)
        if socket is None or socket.closed:  # it left while it was being authenticated: the library forgets nothing
            await self._handle_disconnect(eio_sid, NAMESPACE, self.reason.TRANSPORT_CLOSE)
            self.environ.pop(eio_sid, None)
            return
        sid = self._connection_id(eio_sid)
        if sid is not None and self.manager.is_connected(sid, NAMESPACE):
            self.eio.authenticated(socket)
            if socket.upgraded:
                self._on_carries(self.environ[eio_sid]["aiohttp.request"], True)
            self._connections[sid] = SocketIOConnection(self, sid, socket)
            self._hooks.on_connected(sid)
        else:  # refused, and the client knows
            self._count_refusal(socket)

    def _is_connected(self, eio_sid: str) -> bool:
        return eio_sid in self.admins or self._connection_id(eio_sid) is not None

    async def _refuse_connect(self, eio_sid: str, namespace: str, refusal: Mapping[str, Any] | None = None) -> None:
        """A second CONNECT, a namespace that does not exist or is not for everybody: nothing is registered for any of
        them, and a client that goes on asking is closed."""
        socket = self.eio.sockets.get(eio_sid)
        if socket is None:
            return
        if self._count_refusal(socket) >= _REFUSALS_MAX:
            return
        no_such = {"code": "session_invalid", "message": "There is one namespace: /.", "retryable": False}
        packet = self.packet_class(socketio_packet.CONNECT_ERROR, data=refusal or no_such, namespace=namespace)
        await self._send_packet(eio_sid, packet)

    def _count_refusal(self, socket: Any) -> int:
        socket.refusals += 1
        if socket.refusals == _REFUSALS_MAX:
            self._reject(socket.sid)
        refusals: int = socket.refusals
        return refusals

    # -- the admin namespace -----------------------------------------------------------------------------------------

    async def _connect_admin(self, eio_sid: str, auth: object) -> None:
        if self._admin is None:
            await self._refuse_connect(eio_sid, ADMIN_NAMESPACE)
            return
        refusal = await self._admin.refusal(self.environ[eio_sid]["aiohttp.request"], auth)
        socket = self.eio.sockets.get(eio_sid)
        if socket is None or socket.closed:
            return
        if refusal is not None or self._is_connected(eio_sid):
            await self._refuse_connect(eio_sid, ADMIN_NAMESPACE, refusal)
            return
        self.admins.add(eio_sid)
        data = {"sid": self.eio.generate_id()}
        await self._send_packet(
            eio_sid, self.packet_class(socketio_packet.CONNECT, data=data, namespace=ADMIN_NAMESPACE)
        )
        self.send_to_admin(eio_sid, *self._admin.greeting())

    def send_to_admin(self, eio_sid: str, name: str, payload: Mapping[str, Any]) -> None:
        """An event to one client of /admin; aborted where it does not read."""
        socket = self.eio.sockets.get(eio_sid)
        if socket is None or socket.closed:
            return
        namespace = ADMIN_NAMESPACE.encode()
        socket.queue.put_nowait(EncodedFrame(b'2%s,["%s",%s]' % (namespace, name.encode(), orjson.dumps(payload))))
        if _buffered(socket) > _ADMIN_BUFFER_MAX_BYTES:
            self.eio.abort_socket(socket)

    # -- receiving ---------------------------------------------------------------------------------------------------

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        sid = self._connection_id(eio_sid)
        size = len(data)
        if isinstance(data, bytes) and sid is not None:  # an attachment: its event was refused before
            self._pause_reading(eio_sid, self._hooks.on_poll(sid, size))
            return
        if size > AUTH_MAX_BYTES and data[0] == "0":  # before it is parsed: no token was checked yet
            text = "The auth payload is too long."
            refused = {"code": "auth_invalid", "message": text, "retryable": False}
            await self._refuse_connect(eio_sid, NAMESPACE, {"message": text, "data": refused})
            return
        try:
            kind, ack_id, args = decode(data)
        except MalformedFrame:
            if sid is not None:
                self._pause_reading(eio_sid, self._hooks.on_malformed(sid, size))
            else:
                self._reject(eio_sid)
            return
        if kind == socketio_packet.CONNECT:
            await self._handle_connect(eio_sid, args[0], args[1])
        elif kind == socketio_packet.DISCONNECT:
            self.admins.discard(eio_sid)
            await self._handle_disconnect(eio_sid, NAMESPACE, self.reason.CLIENT_DISCONNECT)
            self._start_auth_timeout(eio_sid)
        elif kind == socketio_packet.BINARY_EVENT and sid is not None:
            self._pause_reading(eio_sid, self._hooks.on_malformed(sid, size, args[1:], ack_id))
        elif kind in (socketio_packet.EVENT, socketio_packet.BINARY_EVENT):
            if sid is not None and self.manager.is_connected(sid, NAMESPACE):
                self._pause_reading(eio_sid, self._hooks.on_event(sid, args[0], args[1:], ack_id, size))
            else:
                self._reject(eio_sid)  # an event before CONNECT: no client of the protocol sends one

    def _too_long(self, eio_sid: str) -> None:
        sid = self._connection_id(eio_sid)
        if sid is not None:
            self._hooks.on_too_long(sid)

    def _pause_reading(self, eio_sid: str, pause_s: float) -> None:
        socket = self.eio.sockets.get(eio_sid) if pause_s else None
        if socket is not None:
            socket.pause_s = pause_s

    def _reject(self, eio_sid: str) -> None:
        socket = self.eio.sockets.get(eio_sid)
        if socket is not None and not socket.closed:
            self.eio.close_socket(socket)

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        socket = self.eio.sockets.get(eio_sid)
        ping = getattr(socket, "ping_task", None)
        if ping is not None and ping is not asyncio.current_task():
            ping.cancel()
        self.admins.discard(eio_sid)
        self.closed += 1
        await super()._handle_eio_disconnect(eio_sid, reason)
        if socket is not None and reason == self.reason.PING_TIMEOUT:
            # The library sends a close packet and waits for it to be read, which a silent client may never do.
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self.eio.abort_socket, socket)


def _buffered(socket: Any) -> int:
    """Bytes in the queue, with the writer and in the transport."""
    transport = getattr(socket, "transport", None)
    unsent: int = transport.get_write_buffer_size() if transport is not None else 0
    queued: int = socket.queue.buffered_bytes
    return queued + unsent
