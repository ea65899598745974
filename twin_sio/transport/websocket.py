"""The WebSocket transport, for clients without Socket.IO: the same envelopes as JSON text, the same gateway.

`GET /ws/chat/{user_id}` with `Authorization: Bearer` and `X-Session-ID`; where no headers can be set (browsers) the
token comes as the subprotocol `bearer.<JWT>` beside `twin.v1`, or a ticket of `POST /v1/ticket` as `?ticket=`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import orjson
from aiohttp import WSMsgType, web

from twin_sio.clock import NewId
from twin_sio.domain import Identity
from twin_sio.errors import HandshakeRefused, StorageUnavailable
from twin_sio.protocol.json_codec import loads_leniently
from twin_sio.transport import (
    PACKET_MAX_BYTES,
    CloseReason,
    ConnectionRegistry,
    ConnectRequest,
    RequestTransport,
    TransportHooks,
)
from twin_sio.transport.aiohttp_socket import (
    BoundedWebSocket,
    bearer,
    handle_control_frame,
    limit_send_buffer,
    mark_message_read,
    read_no_more,
)
from twin_sio.transport.frames import EncodedFrame
from twin_sio.transport.origins import Origins
from twin_sio.transport.room_manager import RoomManager
from twin_sio.transport.send_queue import STRAIGHT_MAX_BYTES, SendQueue

PATH = "/ws/chat/{user_id}"
PROTOCOL = "twin.v1"
_BEARER = "bearer."
_SEQ = re.compile("[0-9]{1,16}")
_CLOSE_TIMEOUT_S = 1.0  # that a client has to answer a close frame
_YIELD_EVERY = 16
CLOSE_CODES: dict[CloseReason, int] = {"expired": 4001, "slow": 4008, "draining": 1012, "gone": 4010}
"""The WebSocket close code for each reason; see `CloseReason` for when a client connects again."""
REFUSED_TOKEN, CLOSE_TRY_AGAIN_LATER = 4003, 1013


class RawWebSocketConnection:
    """The connection of one client without Socket.IO."""

    def __init__(self, socket: web.WebSocketResponse, request: web.Request) -> None:
        self.queue = SendQueue()
        self.queue.writer_attached = True  # `run`, for as long as the connection lasts
        self._socket = socket
        self._request = request
        self._transport: Any = request.transport  # the TCP connection
        self._closing: asyncio.Task[None] | None = None  # set by the first `close`; nothing is written after it

    def write(self, frame: EncodedFrame, *, unless_over: int | None = None) -> int:
        if self._closing is not None:
            return -1
        unsent: int = self._transport.get_write_buffer_size()
        if self.queue.is_idle and unsent < STRAIGHT_MAX_BYTES and not self._transport.is_closing():
            data = frame.as_websocket_text
            self._transport.write(data)
            return unsent + len(data)
        if unless_over is not None and (buffered := self.buffered_bytes()) > unless_over:
            return buffered
        self.queue.put_nowait(frame)
        return self.buffered_bytes()

    def buffered_bytes(self) -> int:
        unsent: int = self._transport.get_write_buffer_size()
        return self.queue.buffered_bytes + unsent

    def close(self, reason: CloseReason) -> None:
        """Close with the reason's code after what is queued; a second call changes nothing."""
        if self._closing is None:
            self.queue.put_nowait(None)
            self._closing = asyncio.create_task(self._close(reason))

    def abort(self) -> None:
        """Drop what is queued and close as too slow, without waiting for that to be read."""
        # The close frame waits behind what is in the TCP transport already; `_close` gives that a second.
        while not self.queue.empty():
            self.queue.get_nowait()
        self.close("slow")

    async def _close(self, reason: CloseReason) -> None:
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                if reason != "slow":
                    await self.queue.join()
                read_no_more(self._request)
                await self._socket.close(code=CLOSE_CODES[reason])
                return
        self._transport.abort()

    async def run(self) -> None:
        """Write what is queued until `close`; ends by itself where the client has gone."""
        with suppress(ConnectionError):
            while (frame := await self.queue.get()) is not None:
                await self._socket.send_str(frame.envelope.decode())
                self.queue.sent()
                self.queue.task_done()
            self.queue.task_done()

    async def wait_closed(self) -> None:
        """Wait until a `close` that has begun is done."""
        if self._closing is not None:
            await asyncio.gather(self._closing, return_exceptions=True)


class RawWebSocketEndpoint(RequestTransport):
    """Authenticates clients, calls the hooks with their envelopes, and keeps their connections in the registry."""

    def __init__(
        self,
        hooks: TransportHooks,
        connections: ConnectionRegistry,
        rooms: RoomManager,
        *,
        redeem: Callable[[str], Awaitable[Identity | None]],
        new_id: NewId,
        origins: Origins,
        ping_s: float,
        on_carries: Callable[[web.BaseRequest, bool], None] = lambda _, __: None,
    ) -> None:
        """`redeem(ticket)` is the identity that a ticket was made for; `on_carries(request, True)` is called
        when the TCP connection of this request begins to carry an authenticated client."""
        super().__init__()
        self._hooks = hooks
        self._connections = connections
        self._rooms = rooms  # the library knows its own connections only: these have to be added
        self._redeem = redeem
        self._origins = origins
        self._new_id = new_id
        self._ping_s = ping_s
        self._on_carries = on_carries

    def route(self) -> web.RouteDef:
        """The route of the HTTP application."""
        return web.get(PATH, self._serve)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if not self._hooks.allow_connection(request):
            return web.Response(status=429)
        if not self._origins.allows(request):
            return web.Response(status=403)
        version = request.headers.get("Sec-WebSocket-Version", "")
        if not version.isascii():  # the library would fail to say that it does not know it
            return web.Response(status=400)
        sid = self._new_id()
        socket = BoundedWebSocket(
            lambda: self._hooks.on_too_long(sid),
            protocols=(PROTOCOL,),
            heartbeat=self._ping_s,
            autoping=False,
            max_msg_size=PACKET_MAX_BYTES,
            compress=False,
        )
        # Before authentication: a refusal is a frame and a close code, because a browser's script sees no HTTP status.
        await socket.prepare(request)
        limit_send_buffer(request.transport)
        try:
            await self._hooks.admit(sid, await self._connect_request(request))
        except HandshakeRefused as refused:
            with suppress(ConnectionError):  # the client has gone meanwhile
                await socket.send_str(_refusal(refused))
            code = REFUSED_TOKEN if refused.reason.startswith(("auth_", "session_")) else CLOSE_TRY_AGAIN_LATER
            code = {"auth_expired": CLOSE_CODES["expired"], "draining": CLOSE_CODES["draining"]}.get(
                refused.reason, code
            )
            read_no_more(request)
            await socket.close(code=code, message=refused.reason.encode())
            return socket
        self._on_carries(request, True)
        await self._run(sid, socket, request)
        return socket

    async def _connect_request(self, request: web.Request) -> ConnectRequest:
        offered = [one.strip() for one in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        token = next((one.removeprefix(_BEARER) for one in offered if one.startswith(_BEARER)), None)
        ticket = request.query.get("ticket")
        auth: dict[str, Any] = {
            "user_id": request.match_info["user_id"],
            "session_id": request.headers.get("X-Session-ID"),
        }
        for name in ("session_id", "last_seq", "features"):
            if name in request.query:
                given = request.query[name]
                auth[name] = int(given) if name == "last_seq" and _SEQ.fullmatch(given) else given
        identity = await self._identity_of(ticket) if ticket else None
        return ConnectRequest(request, auth, token or bearer(request), identity)

    async def _identity_of(self, ticket: str) -> Identity:
        try:
            identity = await self._redeem(ticket)
        except StorageUnavailable:
            raise HandshakeRefused("unavailable", "Tickets cannot be checked right now.", retryable=True) from None
        if identity is None:
            raise HandshakeRefused("auth_invalid", "The ticket is not accepted.")
        return identity

    async def _run(self, sid: str, socket: web.WebSocketResponse, request: web.Request) -> None:
        connection = RawWebSocketConnection(socket, request)
        self._open.add(connection)
        self._connections[sid] = connection
        self._rooms.add(sid)
        writing = asyncio.create_task(connection.run())
        try:
            self._hooks.on_connected(sid)
            count = 0
            async for message in socket:
                mark_message_read(request)
                if await handle_control_frame(socket, message):
                    pause_s = self._hooks.on_poll(sid)
                elif message.type is WSMsgType.TEXT:
                    pause_s = self._on_text(sid, message.data)
                elif message.type is WSMsgType.BINARY:
                    pause_s = self._hooks.on_malformed(sid, len(message.data))
                else:
                    break
                count += 1
                if pause_s or count % _YIELD_EVERY == 0:  # what has arrived is read without a pause otherwise
                    await asyncio.sleep(pause_s)
        finally:
            read_no_more(request)
            # Before it is forgotten: what is published meanwhile finds a connection that is closed.
            await self._hooks.on_disconnect(sid, "transport close")
            self._rooms.remove(sid)
            self._connections.pop(sid, None)
            self._open.discard(connection)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            await connection.wait_closed()

    def _on_text(self, sid: str, text: str) -> float:
        try:
            envelope = loads_leniently(text)
        except ValueError:
            envelope = None
        name = envelope.get("type") if isinstance(envelope, dict) else None
        if isinstance(name, str):
            return self._hooks.on_event(sid, name, [envelope], None, len(text))
        return self._hooks.on_malformed(sid, len(text))


def _refusal(refused: HandshakeRefused) -> str:
    return orjson.dumps({"type": "connect_error", "payload": refused.as_data(), "metadata": {}}).decode()
