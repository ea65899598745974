"""TCP connections of every port: deadlines, limits for each address, refusals before anything is read.

A connection is a *session's* while it carries a session that has shown a token: a WebSocket, or a poll that is being
answered. All others have little time, and little room: of one address, and of all together.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from twin_sio.clock import NewId
from twin_sio.http.tcp_connection import TcpConnection
from twin_sio.observability.limited_log import LimitedLog
from twin_sio.rate_limit import Bucket, BucketCache
from twin_sio.transport import PACKET_MAX_BYTES, ag_ui
from twin_sio.transport.client_address import TrustedProxies

log = structlog.get_logger("connections")

SPARE_DESCRIPTORS = 100
OTHERS_OF_ADDRESS = 256
OTHERS_MAX = 4096
"""Limits of connections without a session, for one address and for all."""
_PROXY_IDLE_S = 3630.0  # longer than a proxy of ours: it must be the one that closes
_TLS_S = 10.0  # for the handshake
_BODY_MAX_BYTES = 4096  # of a request that needs none; it is not read
_LONG_BODIES = {ag_ui.PATH: ag_ui.BODY_MAX_BYTES}  # read once the token is known
_LINGER_S = 1.0
_PARSING = 0.05, 0.05
"""CPU that the frames of an address may take to parse: seconds per second, and at once. Messages take a hundredth."""
_SOCKETS = "/socket.io/"
_CONTINUE = "100-continue"
_OPEN_MAX = 10_240  # the descriptors that macOS gives a process at most

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def raise_descriptor_limit() -> None:
    """Raise this process's limit of file descriptors to the hard limit, or as near to it as the system takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # macOS names no hard limit, and takes no more than OPEN_MAX
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, _OPEN_MAX), hard))


class Connections:
    """All connections of a port, and the limits of each address."""

    def __init__(self, peers: TrustedProxies, *, per_minute: int) -> None:
        """`per_minute`: connects and requests per address; 0: unlimited."""
        self._peers = peers
        self._per_minute = per_minute
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Connections that this process can hold; the rest of its descriptors is for the stores, the model and files.
        self._room = max(64, soft - SPARE_DESCRIPTORS)
        # Of those without a session: they must not take the room of those that have one.
        self._others_max = min(OTHERS_MAX, self._room // 4)
        # By address: connections opened, requests refused or without a session, CPU for parsing.
        self._arrivals = BucketCache()
        self._requests = BucketCache()
        self._parsing = BucketCache()
        self._others: dict[TcpConnection, None] = {}  # oldest first
        # The same by address, so that one address closes its own oldest and nobody else's.
        self._others_of: dict[str, dict[TcpConnection, None]] = {}
        self.open = 0  # all of them
        self.cut = 0  # closed by us for the sake of others; for /metrics
        self._near = LimitedLog("connections", "descriptors_near_limit")
        self.malformed = LimitedLog("connections", "malformed_requests")
        self.failed = LimitedLog("connections", "http_failed", logging.ERROR)

    def share(self) -> float:
        """The share of the connections for sessions that is in use; see `OverloadMonitor`."""
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

    def opened(self, connection: TcpConnection, peer: str) -> bool:
        """Register a connection; False if its address has too many."""
        self.open += 1
        is_proxy = self._peers.is_proxy(peer)
        connection.address = "" if is_proxy or not self._per_minute else self._peers.address(peer, "")
        if connection.address:
            # A connect may take a second one, when it is upgraded from polling.
            most = 2 * self._per_minute
            if self._arrivals.of(connection.address, most / 60, most).take() is not None:
                return False
        if is_proxy:
            connection.idle_s = _PROXY_IDLE_S
        self.is_other(connection)
        # In time for an operator to raise the limit: at the limit nothing can be accepted any more.
        if self.open > 0.8 * self._room:
            self._near(open=self.open, limit=self._room + SPARE_DESCRIPTORS)
        return True

    def parsed(self, connection: TcpConnection, cpu_s: float) -> float:
        """Count the CPU that frames took to parse; the seconds until more may be parsed of this address."""
        bucket = self._parsing.of(connection.address or str(id(connection)), *_PARSING)
        bucket.spend(cpu_s)
        return bucket.owed_s()

    def is_other(self, connection: TcpConnection) -> None:
        """It has no session, or no longer one. If there are too many of these, the oldest is closed."""
        self._others[connection] = None
        mine: dict[TcpConnection, None] = {}
        if connection.address:
            mine = self._others_of.setdefault(connection.address, {})
            mine[connection] = None
        if len(mine) > OTHERS_OF_ADDRESS:
            self._end(next(iter(mine)))
        elif len(self._others) > self._others_max:
            self._end(next(iter(self._others)))

    def is_session(self, connection: TcpConnection) -> None:
        """It has an authenticated session."""
        self._others.pop(connection, None)
        mine = self._others_of.get(connection.address)
        if mine is not None:
            mine.pop(connection, None)
            if not mine:
                del self._others_of[connection.address]

    def closed(self, connection: TcpConnection) -> None:
        self.open -= 1
        self.is_session(connection)

    def _end(self, connection: TcpConnection) -> None:
        self.cut += 1
        self.is_session(connection)
        connection.abort()

    def carries_session(self, request: web.BaseRequest, is_so: bool) -> None:
        """The connection of this request has a session from now on, or no longer."""
        connection = request.protocol
        if isinstance(connection, TcpConnection) and connection.transport is not None:
            (self.is_session if is_so else self.is_other)(connection)


class _Server(web.Server):
    """The library's server, which makes a `TcpConnection` for each client."""

    def __init__(self, connections: Connections, new_id: NewId, made: web.Server) -> None:
        """`made`: the library's own protocol."""
        # Of the server that the library has made: its settings are private, and are taken over whole.
        self._handle = made.request_handler
        super().__init__(self._unless_odd, request_factory=made.request_factory, loop=made._loop, **made._kwargs)
        self._of = connections
        self._new_id = new_id

    async def _unless_odd(self, request: web.BaseRequest) -> web.StreamResponse:
        """The library answers an unknown `Expect` before any middleware, and echoes it."""
        if request.headers.get("Expect", _CONTINUE).lower() == _CONTINUE:
            return await self._handle(request)
        self._of.malformed(error="Expect")
        response = web.Response(status=417, text=HTTPStatus(417).phrase)
        response.force_close()
        return response

    def __call__(self) -> RequestHandler:
        return TcpConnection(self._of, self._new_id, self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application behind these limits."""

    __slots__ = ("_connections", "_new_id")

    def __init__(self, app: web.Application, connections: Connections, new_id: NewId, **named: Any) -> None:
        # No access log: paths hold ids of users. No decompression: a small body could become a large one.
        super().__init__(app, access_log=None, auto_decompress=False, lingering_time=_LINGER_S, **named)
        self._connections = connections
        self._new_id = new_id

    async def _make_server(self) -> web.Server:
        return _Server(self._connections, self._new_id, await super()._make_server())


class Site(web.TCPSite):
    """A port; a client that does not finish the TLS handshake is disconnected. `::` is every address of this machine,
    those of IPv4, too."""

    __slots__ = ()

    async def start(self) -> None:
        await web.BaseSite.start(self)
        server = self._runner.server
        assert server is not None  # noqa: S101 - the runner has been set up
        host, loop = (self._host or "").strip("[]"), asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if self._ssl_context is not None:
            tls = {"ssl": self._ssl_context, "ssl_handshake_timeout": _TLS_S}
        if host == "::" and socket.has_dualstack_ipv6():
            both = socket.create_server(
                (host, self._port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=self._backlog
            )
            both.setblocking(False)
            self._server = await loop.create_server(server, sock=both, backlog=self._backlog, **tls)
        else:
            self._server = await loop.create_server(server, host or None, self._port, backlog=self._backlog, **tls)


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
        except web.HTTPMethodNotAllowed as error:
            refused = _refusal(request, error.status, "not_found", "This address takes no such method.", close=False)
            refused.headers["Allow"] = error.headers["Allow"]
            return refused
        except web.HTTPNotFound as error:
            return _refusal(request, error.status, "not_found", "There is nothing at this address.", close=False)
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
    most = _BODY_MAX_BYTES
    if request.method == "POST":
        most = PACKET_MAX_BYTES if is_socket else _LONG_BODIES.get(request.path, most)
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
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and isinstance(request.protocol, TcpConnection):
            request.protocol.end_without_reading()
    return response
