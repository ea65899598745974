"""The AG-UI transport: `POST /ag-ui` takes a `RunAgentInput` and streams its run as server-sent events.

Each run is a connection of its own, with the same gateway, limits and delivery as a socket: so it gets the user's
events on any instance, and its end does not end the answer. A run that is sent again finds the answer where it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

import orjson
from ag_ui.core import BaseEvent
from ag_ui.encoder import EventEncoder
from aiohttp import web

from twin_sio.clock import NewId
from twin_sio.errors import HandshakeRefused, InvalidMessage, ServiceError
from twin_sio.protocol import error_payload
from twin_sio.transport import CloseReason, ConnectionRegistry, ConnectRequest, RequestTransport, TransportHooks
from twin_sio.transport.ag_ui_run import AgUiRun, RunInput
from twin_sio.transport.aiohttp_socket import bearer, limit_send_buffer, when_lost
from twin_sio.transport.frames import EncodedFrame
from twin_sio.transport.origins import Origins
from twin_sio.transport.room_manager import RoomManager
from twin_sio.transport.send_queue import SendQueue

PATH = "/ag-ui"
BODY_MAX_BYTES = 1_000_000
"""Of a `RunAgentInput`: a client sends the whole conversation, of which the last message is used."""
_BODY_S = 10.0
_FEATURES = ["approvals"]
_STATUS = {"auth_forbidden": 403, "too_many_sessions": 429, "rate_limited": 429, "session_invalid": 400}
_STATUS_RETRYABLE, _STATUS_REFUSED = 503, 401
_CLOSED: dict[CloseReason, tuple[str, str]] = {
    "draining": ("draining", "This server goes away: send the run again."),
    "expired": ("auth_expired", "The token has expired."),
    "slow": ("too_slow", "The events were read too slowly: send the run again."),
    "gone": ("gone", "The session has ended."),
}


class AgUiConnection:
    """The connection of one run. What is written to it is told by `next`, in order."""

    def __init__(self, transport: Any) -> None:
        """`transport` is the TCP connection."""
        self.queue = SendQueue()
        self.queue.writer_attached = True
        self._transport = transport
        self._is_closing = False

    def write(self, frame: EncodedFrame, *, unless_over: int | None = None) -> int:
        if self._is_closing:
            return -1
        buffered = self.buffered_bytes()
        if unless_over is None or buffered <= unless_over:
            self.queue.put_nowait(frame)
        return self.buffered_bytes()

    def buffered_bytes(self) -> int:
        unsent: int = self._transport.get_write_buffer_size()
        return self.queue.buffered_bytes + unsent

    def close(self, reason: CloseReason) -> None:
        """End the run with the reason's error after what is queued; a second call changes nothing."""
        if not self._is_closing:
            self._is_closing = True
            self.queue.put_nowait(reason)

    def abort(self) -> None:
        """Drop what is queued, and the TCP connection."""
        while not self.queue.empty():
            self.queue.get_nowait()
        self.close("slow")
        self._transport.abort()

    async def next(self) -> EncodedFrame | CloseReason:
        """What comes next: a frame, or why the connection is closed."""
        item: EncodedFrame | CloseReason = await self.queue.get()
        return item

    def sent(self) -> None:
        """What `next` gave was sent."""
        self.queue.sent()
        self.queue.task_done()


class AgUiEndpoint(RequestTransport):
    """Authenticates runs, calls the hooks with what they ask for, and keeps their connections in the registry."""

    def __init__(
        self,
        hooks: TransportHooks,
        connections: ConnectionRegistry,
        rooms: RoomManager,
        *,
        new_id: NewId,
        origins: Origins,
        ping_s: float,
        on_carries: Callable[[web.BaseRequest, bool], None] = lambda _, __: None,
    ) -> None:
        """`on_carries(request, True)` is called when the TCP connection of this request begins to carry a run, with
        False when that is over."""
        super().__init__()
        self._hooks = hooks
        self._connections = connections
        self._rooms = rooms
        self._new_id = new_id
        self._origins = origins
        self._ping_s = ping_s
        self._on_carries = on_carries
        self._encoder = EventEncoder()

    def routes(self) -> list[web.RouteDef]:
        """The routes of the HTTP application."""
        return [web.post(PATH, self._with_origin(self._serve)), web.options(PATH, self._with_origin(self._preflight))]

    # -- pages of other origins ----------------------------------------------------------------------------------------

    def _with_origin(
        self, handler: Callable[[web.Request, dict[str, str]], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def serve(request: web.Request) -> web.StreamResponse:
            if not self._origins.allows(request):
                return web.Response(status=403)
            origin = request.headers.get("Origin")
            headers = {"Vary": "Origin"} | ({"Access-Control-Allow-Origin": origin} if origin is not None else {})
            return await handler(request, headers)

        return serve

    async def _preflight(self, _: web.Request, headers: dict[str, str]) -> web.StreamResponse:
        allowed = {
            "Access-Control-Allow-Methods": "POST",
            "Access-Control-Allow-Headers": "Authorization, Content-Type, X-Session-ID",
            "Access-Control-Max-Age": "600",
        }
        return web.Response(status=204, headers=headers | allowed)

    # -- a run ---------------------------------------------------------------------------------------------------------

    async def _serve(self, request: web.Request, headers: dict[str, str]) -> web.StreamResponse:
        if not self._hooks.allow_connection(request):
            return web.Response(status=429, headers=headers)
        sid = self._new_id()
        session_id = request.headers.get("X-Session-ID") or sid
        auth = {"session_id": session_id, "features": _FEATURES, "device": {"name": "AG-UI"}}
        try:
            await self._hooks.admit(sid, ConnectRequest(request, auth, bearer(request)))
        except HandshakeRefused as refused:  # before anything of the body is read
            status = _STATUS.get(refused.reason, _STATUS_RETRYABLE if refused.may_retry else _STATUS_REFUSED)
            return _error(refused.as_data(), status, headers)
        self._on_carries(request, True)
        try:
            run = await self._read(request, sid)
            return await self._run(sid, request, run, headers)
        except ServiceError as error:
            return _error(error_payload(error), 400, headers)
        except ConnectionError:  # the client has gone before the run began
            return web.Response(status=400)
        finally:
            await self._hooks.on_disconnect(sid, "transport close")
            self._rooms.remove(sid)
            self._connections.pop(sid, None)
            self._on_carries(request, False)

    async def _read(self, request: web.Request, sid: str) -> AgUiRun:
        try:
            async with asyncio.timeout(_BODY_S):
                body = await request.content.read()  # not kept with the request, which lives as long as the run
        except TimeoutError:
            raise InvalidMessage("The body did not come in time.", field="body") from None
        await asyncio.sleep(self._hooks.on_poll(sid, len(body)))  # reading it costs, whatever it says
        return AgUiRun(RunInput.read(body), self._new_id)

    async def _run(self, sid: str, request: web.Request, run: AgUiRun, headers: dict[str, str]) -> web.StreamResponse:
        content = {"Content-Type": self._encoder.get_content_type(), "Cache-Control": "no-store"}
        response = web.StreamResponse(headers={**headers, **content, "X-Accel-Buffering": "no"})
        await response.prepare(request)
        if request.transport is None:
            raise ConnectionResetError
        limit_send_buffer(request.transport)
        connection = AgUiConnection(request.transport)
        self._open.add(connection)
        self._connections[sid] = connection
        self._rooms.add(sid)
        when_lost(request, lambda: connection.close("gone"))
        try:
            self._hooks.on_connected(sid)
            await self._send_events(sid, connection, response, run)
        finally:
            when_lost(request, None)
            self._open.discard(connection)
        return response

    async def _send_events(
        self, sid: str, connection: AgUiConnection, response: web.StreamResponse, run: AgUiRun
    ) -> None:
        """Write the run's events until it is over, or its client has gone."""
        with suppress(ConnectionError):
            while not run.is_over:
                try:
                    async with asyncio.timeout(self._ping_s):
                        item = await connection.next()
                except TimeoutError:  # a comment: it keeps proxies from closing, and finds clients that have gone
                    await response.write(b": ping\n\n")
                    continue
                if isinstance(item, EncodedFrame):
                    events: Iterable[BaseEvent] = run.take(orjson.loads(item.envelope))
                else:
                    events = run.fail(*_CLOSED[item])
                if encoded := "".join(self._encoder.encode(event) for event in events):
                    await response.write(encoded.encode())
                connection.sent()
                while run.requests:
                    asked = run.requests.popleft()
                    self._hooks.on_event(sid, asked["type"], [asked], None, len(orjson.dumps(asked)))
            await response.write_eof()


def _error(payload: Any, status: int, headers: dict[str, str]) -> web.Response:
    return web.Response(
        body=orjson.dumps(payload),
        status=status,
        content_type="application/json",
        headers={**headers, "Cache-Control": "no-store"},
    )
