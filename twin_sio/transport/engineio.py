"""The Engine.IO server: python-engineio with our send queue, our WebSocket reader and bounds on what is read.

All that leans on engineio's private methods and attributes is in this file; `tests/test_private_api_engineio.py` holds
their signatures.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import engineio
from aiohttp import WSMsgType, web
from engineio.exceptions import EngineIOError
from engineio.packet import CLOSE
from engineio.packet import Packet as EnginePacket
from engineio.payload import Payload

from twin_sio.rate_limit import Bucket
from twin_sio.transport import PACKET_MAX_BYTES
from twin_sio.transport.aiohttp_socket import (
    BoundedWebSocket,
    handle_control_frame,
    limit_send_buffer,
    mark_message_read,
    read_no_more,
)
from twin_sio.transport.send_queue import SendQueue

POLL_PACKETS = 512  # an offline queue being flushed over polling sends many at once
CLOSE_TIMEOUT_S = 2.0  # that a client has to answer a close frame
_INVALID_PACKET = "49"  # a message whose Socket.IO type there is not: it becomes one coded error
_YIELD_EVERY = 16  # messages read in a row
_UPGRADE_S = 10.0  # for each of the two packets of an upgrade
_BODY_S = 20.0  # for the body of a poll to arrive
_REQUESTS_AT_ONCE = 8  # of one socket; a client has a poll and a post
_PAUSE_MAX_S = 1.0  # so that a ping is still answered in time
_UNAUTHENTICATED_SHARE = 1 / 50  # of the frames that an authenticated client may send


class EngineServer(engineio.AsyncServer):  # type: ignore[misc]
    """Adds to each socket of the library what it lacks:

    `transport`      the TCP transport of its WebSocket, to write to and to abort
    `frames`         the bucket of frames that may be read from it; `pause_s` what its events add to the pause
    `requests`       HTTP requests of it that are being answered
    `sent_bad_body`  its last POST was not readable
    `ping_task`      the library's task that sends the next ping
    `refusals`       CONNECTs of it that were refused
    """

    def __init__(
        self,
        *,
        take_message: Callable[[str, str | bytes], Awaitable[None]],
        on_too_long: Callable[[str], None],
        connection_id: Callable[[str], str | None],
        on_poll: Callable[[str], float],
        on_carries: Callable[[web.BaseRequest, bool], None],
        frames_per_second: int,
        **options: Any,
    ) -> None:
        """`take_message(eio_sid, data)` gets each message of a WebSocket, `on_too_long(eio_sid)` is called where one is
        over the bound and closes it; `connection_id(eio_sid)` is the authenticated
        connection of a socket; `on_carries(request, is_so)` is called when the TCP connection of this request begins,
        or ceases, to carry an authenticated client."""
        super().__init__(**options)
        self.take_message = take_message
        self.on_too_long = on_too_long
        self._connection_id = connection_id
        self._on_poll = on_poll
        self._on_carries = on_carries
        self._frames_per_second = frames_per_second
        self._closing: set[asyncio.Future[None]] = set()  # sockets being forgotten: asyncio holds tasks weakly
        # A copy: the library's table is one for all servers of the process.
        self._async: dict[str, Any] = {**self._async, "websocket": WebSocket}
        # A class attribute of the library's: there is no other way to set it.
        Payload.max_decode_packets = POLL_PACKETS

    def create_queue(self, *_: Any, **__: Any) -> SendQueue:
        return SendQueue()

    def start_background_task(self, target: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **named: Any) -> Any:
        """Start one of the library's tasks. A socket's next ping is kept with it, to end when it ends: otherwise every
        closed socket would live on for a whole ping interval."""
        task = asyncio.ensure_future(target(*args, **named))
        if target.__name__ == "_send_ping":
            target.__self__.ping_task = task  # type: ignore[attr-defined]
        return task

    # -- bounds on reading -------------------------------------------------------------------------------------------

    def prepare(self, socket: Any) -> None:
        """A socket was opened: bound what is read from it until its client is authenticated."""
        socket.handle_post_request = functools.partial(self._handle_post, socket)
        rate = max(1.0, self._frames_per_second * _UNAUTHENTICATED_SHARE)
        socket.frames = Bucket(rate, 8 * rate)
        socket.pause_s = 0.0
        socket.requests = 0
        socket.refusals = 0
        socket.sent_bad_body = False

    def authenticated(self, socket: Any) -> None:
        """The client of this socket was let in: read as much as any client may send."""
        socket.frames = Bucket(self._frames_per_second, 2 * self._frames_per_second)

    async def pause(self, socket: Any) -> None:
        """After each frame, of whatever kind: wait where the connection has sent more than is read at once."""
        socket.frames.spend(1)
        pause_s = max(socket.pause_s, min(_PAUSE_MAX_S, socket.frames.owed_s()))
        if pause_s:
            socket.pause_s = 0.0
            await asyncio.sleep(pause_s)

    # -- HTTP --------------------------------------------------------------------------------------------------------

    async def handle_request(self, request: web.Request) -> web.StreamResponse:
        """Handle an HTTP request. Where the library raises it is a 400: for a socket that is just closing, or numbers
        in the query that are none."""
        socket = self.sockets.get(request.query.get("sid", ""))
        if socket is None:
            return await self._handle_by_library(request)
        if socket.requests >= _REQUESTS_AT_ONCE:  # a client has two: from now on each counts for its address
            self.abort_socket(socket)
            return web.Response(status=400)
        socket.requests += 1
        sid = self._connection_id(socket.sid)
        try:
            if sid is not None:
                self._on_carries(request, True)
                socket.pause_s = max(socket.pause_s, self._on_poll(sid))
            await self.pause(socket)
            response = await self._handle_by_library(request)
            return web.Response(status=400) if socket.sent_bad_body else response
        finally:
            socket.requests -= 1
            if sid is not None:
                self._on_carries(request, False)

    async def _handle_by_library(self, request: web.Request) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await super().handle_request(request)
        except (KeyError, ValueError):
            return web.Response(status=400)
        return response

    async def _handle_post(self, socket: Any, environ: dict[str, Any]) -> None:
        """A poll's packets. The library ignores in silence what it cannot read, or waits for its own close packet to be
        read; here such a client is closed, and gets a 400. So is one whose packets do not arrive."""
        try:
            length = int(environ.get("CONTENT_LENGTH", "0"))
            if length <= PACKET_MAX_BYTES:  # whole: the library would take what has arrived so far for all of it
                async with asyncio.timeout(_BODY_S):
                    # From here on the library reads what is there already.
                    environ["wsgi.input"] = _Body(await environ["wsgi.input"].readexactly(length))
            await type(socket).handle_post_request(socket, environ)
        except (EngineIOError, ValueError, TypeError, IndexError, RecursionError, TimeoutError, EOFError):
            socket.sent_bad_body = True
            self.close_socket(socket)

    # -- closing -----------------------------------------------------------------------------------------------------

    def close_socket(self, socket: Any) -> None:
        """Close after what is queued, without a Socket.IO disconnect: the client connects again by itself."""
        if socket.upgraded:
            socket.queue.put_nowait(None)
            return
        # A poll would take the bare None for an error; and only a next poll, which may never come, would read it.
        socket.queue.put_nowait(EnginePacket(CLOSE))
        socket.queue.put_nowait(None)
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self.abort_socket, socket)

    def abort_socket(self, socket: Any) -> None:
        """Close the TCP connection now; one that polls has none and is forgotten."""
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
        self.sockets.pop(socket.sid, None)


class WebSocket:
    """The WebSocket of one Engine.IO socket: no compression, text only, its transport within reach."""

    def __init__(self, handler: Callable[[WebSocket], Awaitable[None]], server: Any) -> None:
        self._handler = handler
        self._socket: Any = handler.__self__  # type: ignore[attr-defined]
        self._max = server.max_http_buffer_size  # bytes of a message

    async def __call__(self, environ: dict[str, Any]) -> web.WebSocketResponse:
        request: web.Request = environ["aiohttp.request"]
        self._ws = BoundedWebSocket(self._too_long, max_msg_size=self._max, compress=False, autoping=False)
        self._request = request
        await self._ws.prepare(request)
        # The library keeps the dict as long as the socket, and reads nothing else of it any more.
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

    def _too_long(self) -> None:
        self._socket.server.on_too_long(self._socket.sid)

    async def close(self) -> None:
        """Close with a close frame; abort where the client does not answer it, or has not read what came before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                read_no_more(self._request)
                await self._ws.close()
                return
        if self._transport is not None:
            self._transport.abort()

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            await self._ws.send_str(message)
            self._socket.queue.sent()

    async def wait(self) -> str:
        """The next packet that the library has to see. Messages, which most packets are, go straight to `take_message`:
        the library would make two tasks and a timer for each."""
        count = 0
        while True:
            data = await self._next()
            if data[0] != "4" or not self._socket.upgraded:
                await self._socket.server.pause(self._socket)
                return self._for_library(data)
            await self._socket.server.take_message(self._socket.sid, data[1:])
            await self._socket.server.pause(self._socket)
            count += 1
            if count % _YIELD_EVERY == 0:  # what has arrived already is read without a pause: let others run
                await asyncio.sleep(0)

    async def _next(self) -> str:
        # The library bounds the wait for a packet of an open WebSocket, but not for the two of an upgrade.
        count = 0
        try:
            while True:
                message = await self._ws.receive(timeout=None if self._socket.upgraded else _UPGRADE_S)
                mark_message_read(self._request)
                if message.type is WSMsgType.BINARY and self._socket.upgraded:
                    await self._socket.server.take_message(self._socket.sid, message.data)
                elif not await handle_control_frame(self._ws, message):
                    break
                await self._socket.server.pause(self._socket)
                count += 1
                if count % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)
        except TimeoutError:
            raise OSError from None
        if message.type is not WSMsgType.TEXT or not message.data or message.data[0] not in "0123456":
            raise OSError  # closed, or no Engine.IO packet: the reader ends, and with it the socket
        data: str = message.data
        return data

    def _for_library(self, data: str) -> str:
        if data[0] == "5":  # the upgrade is done: from here on a writer sends what leaves the queue
            self._socket.queue.writer_attached = True
        if data[0] != "4":
            return data[: len("2probe")]
        # The library parses what does not begin with a digit as JSON, and may die of its depth.
        return data if data[1:2] in ("0", "1", "2", "3") else _INVALID_PACKET


class _Body:
    """The body of a request, read."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, _: int) -> bytes:
        return self._data
