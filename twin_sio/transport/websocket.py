"""The other door: plain WebSockets for clients without Socket.IO. The same envelopes as JSON text, the same gateway.

`GET /ws/chat/{user_id}` with `Authorization: Bearer` and `X-Session-ID`; where no headers can be set (browsers) the
token comes as the subprotocol `bearer.<JWT>` beside `twin.v1`, or a ticket of `POST /v1/ticket` as `?ticket=`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import orjson
from aiohttp import WSMsgType, web

from twin_sio.clock import NewId, monotonic
from twin_sio.domain import Identity
from twin_sio.errors import HandshakeRefused, StorageUnavailable
from twin_sio.gateway import ConnectRequest, Gateway
from twin_sio.store.ports import Tickets
from twin_sio.transport.frames import EncodedFrame
from twin_sio.transport.send_queue import SendQueue
from twin_sio.transport.socketio import (
    PACKET_MAX_BYTES,
    CloseReason,
    Transport,
    bearer,
    has_read,
    is_control,
    is_writable,
    limit_send_buffer,
)

PATH = "/ws/chat/{user_id}"
PROTOCOL = "twin.v1"
_BEARER = "bearer."
_SEQ = re.compile("[0-9]{1,16}")
_FAREWELL_S = 1.0
_FAIR_AFTER = 16
CLOSE_CODES: dict[CloseReason, int] = {"expired": 4001, "slow": 4008, "draining": 1012, "gone": 4010}
"""How a connection ends by the server's will; after `gone` the client is not to come back by itself."""
REFUSED_TOKEN, CLOSE_TRY_AGAIN_LATER = 4003, 1013


class RawWebSocketConnection:
    """One connection as delivery and gateway see it: frames in, in order, counted until they are written."""

    def __init__(self, socket: web.WebSocketResponse, transport: Any) -> None:
        self._socket = socket
        self._transport = transport
        self._outbox = SendQueue()
        self._outbox.writer_attached = True
        self._ending: asyncio.Task[None] | None = None

    def write(self, packet: EncodedFrame) -> int:
        """Write a whole frame, or queue it; the bytes now held for it."""
        if self._ending is None and is_writable(self._outbox, self._transport):
            self._transport.write(packet.as_websocket_text)
        else:
            self._outbox.put_nowait(packet)
        return self.buffered_bytes()[0]

    def buffered_bytes(self) -> tuple[int, float]:
        """Bytes held, and for how many seconds nothing of it has moved."""
        queued: int = self._outbox.buffered_bytes
        return queued + self._transport.get_write_buffer_size(), monotonic() - self._outbox.moved_at if queued else 0.0

    def close(self, why: CloseReason) -> None:
        """Say goodbye after what is queued; a second word changes nothing."""
        if self._ending is None:
            self._outbox.put_nowait(None)
            self._ending = asyncio.create_task(self._farewell(why))

    def abort(self) -> None:
        """Drop what is queued and say that it was too slow, without waiting for that to be read."""
        while not self._outbox.empty():
            self._outbox.get_nowait()
        self.close("slow")

    async def _farewell(self, why: CloseReason) -> None:
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(_FAREWELL_S):
                if why != "slow":
                    await self._outbox.join()
                await self._socket.close(code=CLOSE_CODES[why])
                return
        self._transport.abort()

    async def run(self) -> None:
        """Write what is queued until the goodbye; ends by itself where the client has gone."""
        with suppress(ConnectionError):
            while (packet := await self._outbox.get()) is not None:
                await self._socket.send_str(packet.envelope.decode())
                self._outbox.sent()
                self._outbox.task_done()
            self._outbox.task_done()

    async def end(self) -> None:
        """The connection is over: so is what was being said."""
        if self._ending is not None:
            await asyncio.gather(self._ending, return_exceptions=True)


class RawWebSocketEndpoint:
    """Lets clients in, hands their envelopes to the gateway, and keeps their lines where delivery finds them."""

    def __init__(
        self,
        gateway: Gateway,
        lines: dict[str, Transport],
        tickets: Tickets,
        new_id: NewId,
        *,
        origins: Collection[str],
        ping_s: float,
        carries: Callable[[web.BaseRequest, bool], None] = lambda _, __: None,
    ) -> None:
        """`carries(request, is_so)` is told that the TCP connection of this request carries a session from now on."""
        self._gateway = gateway
        self._lines = lines
        self._tickets = tickets
        self._origins = origins
        self._new_id = new_id
        self._ping_s = ping_s
        self._carries = carries

    def route(self) -> web.RouteDef:
        return web.get(PATH, self._serve)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if not self._gateway.allow_connection(request):
            return web.Response(status=429)
        if not self._is_allowed_origin(request):
            return web.Response(status=403)
        socket = web.WebSocketResponse(
            protocols=(PROTOCOL,),
            heartbeat=self._ping_s,
            autoping=False,
            max_msg_size=PACKET_MAX_BYTES,
            compress=False,
        )
        await socket.prepare(request)
        limit_send_buffer(request.transport)
        sid = self._new_id()
        try:
            await self._gateway.admit(sid, await self._knock(request))
        except HandshakeRefused as refused:
            await socket.send_str(_refusal(refused))
            code = REFUSED_TOKEN if refused.reason.startswith(("auth_", "session_")) else CLOSE_TRY_AGAIN_LATER
            code = {"auth_expired": CLOSE_CODES["expired"], "draining": CLOSE_CODES["draining"]}.get(
                refused.reason, code
            )
            await socket.close(code=code, message=refused.reason.encode())
            return socket
        self._carries(request, True)
        await self._run(sid, socket, request)
        return socket

    async def _knock(self, request: web.Request) -> ConnectRequest:
        offered = [one.strip() for one in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        token = next((one.removeprefix(_BEARER) for one in offered if one.startswith(_BEARER)), None)
        ticket = request.query.get("ticket")
        auth: dict[str, Any] = {
            "user_id": request.match_info["user_id"],
            "session_id": request.headers.get("X-Session-ID"),
        }
        for name in ("session_id", "last_seq"):
            if name in request.query:
                given = request.query[name]
                auth[name] = int(given) if name == "last_seq" and _SEQ.fullmatch(given) else given
        return ConnectRequest(request, auth, token or bearer(request), await self._redeemed(ticket) if ticket else None)

    async def _redeemed(self, ticket: str) -> Identity:
        try:
            identity = await self._tickets.redeem(ticket)
        except StorageUnavailable:
            raise HandshakeRefused("unavailable", "Tickets cannot be checked right now.", retryable=True) from None
        if identity is None:
            raise HandshakeRefused("auth_invalid", "The ticket is not accepted.")
        return identity

    def _is_allowed_origin(self, request: web.Request) -> bool:
        """Whether a browser's page may connect; what is no browser sends no Origin."""
        origin = request.headers.get("Origin")
        if origin is None or origin in self._origins:
            return True
        scheme, _, host = origin.partition("://")
        if host != request.host or scheme not in ("http", "https"):
            return False
        # Whoever can change a page on its way must not come in through one that is not encrypted. A page cannot set
        # this header itself; a proxy without it leaves the question open.
        proxied = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
        return scheme == "https" or (proxied or request.scheme) != "https"

    async def _run(self, sid: str, socket: web.WebSocketResponse, request: web.Request) -> None:
        line = RawWebSocketConnection(socket, request.transport)
        self._lines[sid] = line
        writing = asyncio.create_task(line.run())
        try:
            self._gateway.on_connected(sid)
            taken = 0
            async for message in socket:
                has_read(request)
                if await is_control(socket, message):
                    pause_s = self._gateway.polled(sid)
                elif message.type is WSMsgType.TEXT:
                    pause_s = self._take(sid, message.data)
                else:
                    break
                taken += 1
                if pause_s or taken % _FAIR_AFTER == 0:  # what has come already is read without a pause otherwise
                    await asyncio.sleep(pause_s)
        finally:
            await self._gateway.on_disconnect(sid, "transport close")
            self._lines.pop(sid, None)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            await line.end()

    def _take(self, sid: str, text: str) -> float:
        try:
            envelope = orjson.loads(text)
        except ValueError:
            envelope = None
        name = envelope.get("type") if isinstance(envelope, dict) else None
        if isinstance(name, str):
            return self._gateway.on_event(sid, name, [envelope], None, len(text))
        return self._gateway.malformed(sid, len(text))


def _refusal(refused: HandshakeRefused) -> str:
    return orjson.dumps({"type": "connect_error", "payload": refused.as_data(), "metadata": {}}).decode()
