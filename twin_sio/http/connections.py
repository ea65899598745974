"""TCP connections of every port: deadlines, limits for each address, refusals before anything is read.

A connection is a *session's* while it carries a session that has shown a token: a WebSocket, or a poll that is being
answered. All others have little time, and little room: of one address, and of all together.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from time import thread_time
from typing import Any

import orjson
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from twin_sio.clock import NewId
from twin_sio.observability.limited_log import LimitedLog
from twin_sio.rate_limit import Bucket, BucketCache
from twin_sio.transport import PACKET_MAX_BYTES
from twin_sio.transport.client_address import TrustedProxies

log = structlog.get_logger("connections")

HEAD_S = 15.0
"""Seconds for the head of a request, since the connection opened or the last response; also how long it may be idle."""
STUCK_S = 20.0
"""Seconds that a client has to read while the network accepts no more."""
SPARE_DESCRIPTORS = 100
OTHERS_OF_ADDRESS = 256
OTHERS_MAX = 4096
"""Limits of connections without a session, for one address and for all."""
_PROXY_IDLE_S = 3630.0  # longer than a proxy of ours: it must be the one that closes
_TLS_S = 10.0
_BODY_MAX_BYTES = 4096  # of a request that needs none; it is not read
_LINGER_S = 1.0
_UNREAD_MAX_BYTES = 512 * 1024
"""Of a WebSocket, without a message that could be read. The library holds 128 KiB and reads on only then; a message has
100 kB at most. What sends more sends fragments without an end, or without anything in them."""
_LAST_BYTES = 4 * 1024
"""Of a WebSocket that is being closed: the rest is not read."""
_SLICE_BYTES = 8 * 1024
"""Of what a WebSocket received, parsed at a time: at worst a thousand frames with nothing in them."""
_MEASURED_BYTES = 1024
_PARSING = 0.05, 0.05
"""CPU that the frames of an address may take to parse: seconds per second, and at once. Messages take a hundredth."""
_SOCKETS = "/socket.io/"
_CONTINUE = "100-continue"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def raise_descriptor_limit() -> None:
    """Raise this process's limit of file descriptors to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Connections:
    """All connections of a port, and the limits of each address."""

    def __init__(self, peers: TrustedProxies, *, per_minute: int) -> None:
        """`per_minute`: connects and requests per address; 0: unlimited."""
        self._peers = peers
        self._per_minute = per_minute
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._room = max(64, soft - SPARE_DESCRIPTORS)
        self._others_max = min(OTHERS_MAX, self._room // 4)
        self._arrivals = BucketCache()
        self._requests = BucketCache()
        self._parsing = BucketCache()
        self._others: dict[_Connection, None] = {}  # oldest first
        self._others_of: dict[str, dict[_Connection, None]] = {}
        self.open = 0
        self.cut = 0
        self._near = LimitedLog("connections", "descriptors_near_limit")
        self.malformed = LimitedLog("connections", "malformed_requests")

    def share(self) -> float:
        """The share of the connections for sessions that is in use; see `OverloadMonitor.also`."""
        return (self.open - len(self._others)) / (self._room - self._others_max)

    def may_request(self, request: web.BaseRequest, *, count: bool = True) -> bool:
        """Whether this address may send a request. `count=False`: do not count it yet."""
        bucket = self._bucket(request)
        return bucket is None or (bucket.take() if count else bucket.wait_ms() or None) is None

    def count(self, request: web.BaseRequest) -> None:
        """Count a request that was refused."""
        if (bucket := self._bucket(request)) is not None:
            bucket.spend(1)

    def is_proxy(self, request: web.BaseRequest) -> bool:
        return self._peers.is_proxy(request.remote)

    def _bucket(self, request: web.BaseRequest) -> Bucket | None:
        if not self._per_minute:
            return None
        return self._requests.of(self._peers.of(request), self._per_minute / 30, max(20, self._per_minute / 4))

    # -- of a connection ---------------------------------------------------------------------------------------------

    def opened(self, connection: _Connection, peer: str) -> bool:
        """Register a connection; False if its address has too many."""
        self.open += 1
        is_proxy = self._peers.is_proxy(peer)
        connection.address = "" if is_proxy or not self._per_minute else self._peers.address(peer, "")
        if connection.address:
            most = 2 * self._per_minute
            if self._arrivals.of(connection.address, most / 60, most).take() is not None:
                return False
        if is_proxy:
            connection.idle_s = _PROXY_IDLE_S
        self.is_other(connection)
        if self.open > 0.8 * self._room:
            self._near(open=self.open, limit=self._room + SPARE_DESCRIPTORS)
        return True

    def parsed(self, connection: _Connection, cpu_s: float) -> float:
        """Count the CPU that frames took to parse; the seconds until more may be parsed of this address."""
        bucket = self._parsing.of(connection.address or str(id(connection)), *_PARSING)
        bucket.spend(cpu_s)
        return bucket.owed_s()

    def is_other(self, connection: _Connection) -> None:
        """It has no session, or no longer one. If there are too many of these, the oldest is closed."""
        self._others[connection] = None
        mine: dict[_Connection, None] = {}
        if connection.address:
            mine = self._others_of.setdefault(connection.address, {})
            mine[connection] = None
        if len(mine) > OTHERS_OF_ADDRESS:
            self._end(next(iter(mine)))
        elif len(self._others) > self._others_max:
            self._end(next(iter(self._others)))

    def is_session(self, connection: _Connection) -> None:
        """It has an authenticated session."""
        self._others.pop(connection, None)
        mine = self._others_of.get(connection.address)
        if mine is not None:
            mine.pop(connection, None)
            if not mine:
                del self._others_of[connection.address]

    def closed(self, connection: _Connection) -> None:
        self.open -= 1
        self.is_session(connection)

    def _end(self, connection: _Connection) -> None:
        self.cut += 1
        self.is_session(connection)
        connection.abort()

    def carries_session(self, request: web.BaseRequest, is_so: bool) -> None:
        """The connection of this request has a session from now on, or no longer."""
        connection = request.protocol
        if isinstance(connection, _Connection) and connection.transport is not None:
            (self.is_session if is_so else self.is_other)(connection)


class _Connection(RequestHandler):
    """One TCP connection."""

    __slots__ = (
        "_connections",
        "_going_on",
        "_new_id",
        "_stuck",
        "_unparsed",
        "address",
        "idle_s",
        "unread_bytes",
    )

    def __init__(self, connections: Connections, new_id: NewId, *args: Any, **named: Any) -> None:
        super().__init__(*args, keepalive_timeout=HEAD_S, **named)
        self._connections = connections
        self._new_id = new_id
        self._stuck: asyncio.TimerHandle | None = None
        self._unparsed = bytearray()
        """Received over its WebSocket, and not parsed yet: until `_going_on`, nothing more is received."""
        self._going_on: asyncio.TimerHandle | None = None
        self.address = ""
        self.idle_s = HEAD_S
        self.unread_bytes = 0
        """Bytes received over its WebSocket since the last complete message."""

    def data_received(self, data: bytes) -> None:
        if self._payload_parser is None:
            super().data_received(data)
            return
        self.unread_bytes += len(data)
        if self.unread_bytes > _UNREAD_MAX_BYTES:
            self.abort()
        elif self._going_on is not None:
            self._unparsed += data
        elif len(data) < _MEASURED_BYTES:
            super().data_received(data)
        else:
            self._unparsed += data
            self._parse()

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        """The library's hook: it is a WebSocket from now on. What came with the request is parsed as all else."""
        came, self._message_tail = self._message_tail, b""
        super().set_parser(parser, data_received_cb)
        if came:
            self.data_received(came)

    def _parse(self) -> None:
        """Parse what was received, slice by slice, and no faster than the address may; see `_PARSING`."""
        self._going_on = None
        while self._unparsed:
            data = bytes(self._unparsed[:_SLICE_BYTES])
            del self._unparsed[:_SLICE_BYTES]
            began = thread_time()
            super().data_received(data)
            owed_s = self._connections.parsed(self, thread_time() - began)
            if self.transport is None or self.transport.is_closing():
                self._unparsed.clear()
            elif self._unparsed or owed_s:
                if self._going_on is None and not self._buffer_paused:
                    self._pause_reading_for_buffer()
                self._going_on = self._loop.call_later(owed_s, self._parse)
                return
        if self._buffer_paused:
            self._resume_reading_for_buffer()

    def read_no_more(self) -> None:
        """Its WebSocket is being closed: read what its client still has to say if that is little, else abort it now."""
        if self._unparsed or self._reading_paused:
            self.abort()
        self.unread_bytes = max(self.unread_bytes, _UNREAD_MAX_BYTES - _LAST_BYTES)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        if not self._connections.opened(self, peer[0] if isinstance(peer, tuple) else ""):
            transport.abort()  # type: ignore[attr-defined]
            return
        self._keepalive_timeout = self.idle_s
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.closed(self)
        for timer in (self._stuck, self._going_on):
            if timer is not None:
                timer.cancel()
        self._unparsed.clear()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self._loop.call_later(STUCK_S, self.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """The library's hook: what came for a WebSocket that was refused is no request."""
        if self._message_tail and self._payload_parser is None:
            self._message_tail = b""
            resp.force_close()
        return await super().finish_response(request, resp, start_time)

    def abort(self) -> None:
        """Abort it now."""
        if self.transport is not None:
            self.transport.abort()

    def end_without_reading(self) -> None:
        """Do not read the rest of the request; close the connection after the response."""
        self._lingering_time = 0.0

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - the library's, which quotes the request
    ) -> web.StreamResponse:
        """The library's hook: count requests that cannot be parsed, log failures by kind and place."""
        if isinstance(exc, HttpProcessingError) or status < HTTPStatus.INTERNAL_SERVER_ERROR:
            self._connections.malformed(kind=type(exc).__name__)
        else:
            log.error("http_failed", error_id=self._new_id(), exc_info=exc)
        if request.writer.output_size > 0:  # there is no way back: it has begun to answer
            raise ConnectionError
        response = web.Response(status=status, text=HTTPStatus(status).phrase)
        response.force_close()
        return response


class _Server(web.Server):
    """The library's server, which makes a `_Connection` for each client."""

    def __init__(self, connections: Connections, new_id: NewId, made: web.Server) -> None:
        """`made`: the library's own protocol."""
        self._handle = made.request_handler
        super().__init__(self._unless_odd, request_factory=made.request_factory, loop=made._loop, **made._kwargs)
        self._of = connections
        self._new_id = new_id

    async def _unless_odd(self, request: web.BaseRequest) -> web.StreamResponse:
        """The library answers an unknown `Expect` before any middleware, and echoes it."""
        if request.headers.get("Expect", _CONTINUE).lower() == _CONTINUE:
            return await self._handle(request)
        self._of.malformed(kind="Expect")
        response = web.Response(status=417, text=HTTPStatus(417).phrase)
        response.force_close()
        return response

    def __call__(self) -> RequestHandler:
        return _Connection(self._of, self._new_id, self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application behind these limits."""

    __slots__ = ("_connections", "_new_id")

    def __init__(self, app: web.Application, connections: Connections, new_id: NewId, **named: Any) -> None:
        super().__init__(app, access_log=None, auto_decompress=False, lingering_time=_LINGER_S, **named)
        self._connections = connections
        self._new_id = new_id

    async def _make_server(self) -> web.Server:
        return _Server(self._connections, self._new_id, await super()._make_server())


class Site(web.TCPSite):
    """A port; a client that does not finish the TLS handshake is disconnected."""

    __slots__ = ()

    async def start(self) -> None:
        if self._ssl_context is None:
            await super().start()
            return
        await web.BaseSite.start(self)
        server = self._runner.server
        assert server is not None  # noqa: S101 - the runner has been set up
        self._server = await asyncio.get_running_loop().create_server(
            server,
            self._host,
            self._port,
            ssl=self._ssl_context,
            backlog=self._backlog,
            ssl_handshake_timeout=_TLS_S,
        )


def guard(connections: Connections, is_known: Callable[[str], bool]) -> Any:
    """The middleware that checks every request first, also those without a route. `is_known(sid)`: whether there is
    such a socket: its requests count for its connection and user, not for its address."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_socket = request.path == _SOCKETS
        if is_socket and is_known(request.query.get("sid", "")):
            return _refused_body(request, is_socket=True) or await handler(request)
        # Who opens a socket is counted where that is done; here only what is asked for in vain.
        if not connections.may_request(request, count=not is_socket):
            return _refusal(
                request,
                429,
                "rate_limited",
                "Too many requests: wait.",
                retry=True,
                close=not connections.is_proxy(request),
            )
        refused = _refused_body(request, is_socket=is_socket)
        if refused is not None:
            return refused
        try:
            response = await handler(request)
        except web.HTTPException as error:
            error.text = HTTPStatus(error.status).phrase  # the library's own may repeat the request
            raise
        if is_socket and response.status >= HTTPStatus.BAD_REQUEST:
            connections.count(request)
        return response

    return check


def _refused_body(request: web.Request, *, is_socket: bool) -> web.Response | None:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        return _refusal(request, 415, "invalid_message", "Bodies are not compressed.")
    if not request.body_exists:
        return None
    most = PACKET_MAX_BYTES if is_socket and request.method == "POST" else _BODY_MAX_BYTES
    if request.content_length is None or request.content_length > most:
        return _refusal(request, 413, "too_large", f"A body has a length, of at most {most} bytes here.")
    return None


def _refusal(
    request: web.Request, status: int, code: str, message: str, *, retry: bool = False, close: bool = True
) -> web.Response:
    error = {"code": code, "message": message, "retryable": retry}
    if retry:
        error["retry_after_ms"] = 1_000
    response = web.Response(
        body=orjson.dumps(error), status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )
    if close:
        response.force_close()
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and isinstance(request.protocol, _Connection):
            request.protocol.end_without_reading()
    return response
