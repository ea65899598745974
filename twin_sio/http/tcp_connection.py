"""One TCP connection: what its client sends is read at a bounded rate, and what it does not read closes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from time import thread_time
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from twin_sio.clock import NewId
from twin_sio.observability.logging import place_of

if TYPE_CHECKING:
    from twin_sio.http.connections import Connections

HEAD_S = 15.0
"""Seconds for the head of a request, since the connection opened or the last response; also how long it may be idle."""
STUCK_S = 20.0
"""Seconds that a client has to read while the network accepts no more."""
_UNREAD_MAX_BYTES = 512 * 1024
"""Of a WebSocket, without a message that could be read. The library holds 128 KiB and reads on only then; a message has
100 kB at most. What sends more sends fragments without an end, or without anything in them."""
_LAST_BYTES = 4 * 1024
"""Of a WebSocket that is being closed: the rest is not read."""
_SLICE_BYTES = 8 * 1024
"""Of what a WebSocket received, parsed at a time: at worst a thousand frames with nothing in them."""
_MEASURED_BYTES = 1024  # less is parsed at once: to measure it would cost more than it does


class TcpConnection(RequestHandler):
    """One TCP connection."""

    __slots__ = (
        "_connections",
        "_going_on",
        "_is_malformed",
        "_new_id",
        "_stuck",
        "_unparsed",
        "address",
        "idle_s",
        "on_lost",
        "unread_bytes",
    )

    def __init__(self, connections: Connections, new_id: NewId, *args: Any, **named: Any) -> None:
        super().__init__(*args, keepalive_timeout=HEAD_S, **named)
        self._connections = connections
        self._new_id = new_id
        self._stuck: asyncio.TimerHandle | None = None  # aborts it; runs while the network takes nothing
        self._unparsed = bytearray()
        """Received over its WebSocket, and not parsed yet: until `_going_on`, nothing more is received."""
        self._going_on: asyncio.TimerHandle | None = None
        self._is_malformed = False  # what came is no HTTP: nothing more is parsed, and that answer is the last
        self.address = ""  # whose limits count for it; empty for a trusted proxy, which has many clients
        # How long it may wait for its next request; longer behind a proxy, which keeps connections
        self.idle_s = HEAD_S
        self.on_lost: Callable[[], None] | None = None  # of the socket that it carries, where it carries one
        self.unread_bytes = 0
        """Bytes received over its WebSocket since the last complete message."""

    def data_received(self, data: bytes) -> None:
        if self._payload_parser is None:
            self._parse_request(data)
            return
        self.unread_bytes += len(data)
        if self.unread_bytes > _UNREAD_MAX_BYTES:
            self.abort()
        # In its order behind what waits already; the transport is paused, but what it had read comes all the same.
        elif self._going_on is not None:
            self._unparsed += data
        elif len(data) < _MEASURED_BYTES:
            super().data_received(data)
        else:
            self._unparsed += data
            self._parse()

    def _parse_request(self, data: bytes) -> None:
        if self._is_malformed:
            return
        super().data_received(data)
        newest = self._messages[-1][0] if self._messages else None
        if isinstance(newest, _ErrInfo):
            self._is_malformed = True
            # Its frames hold the data, and it: a circle of up to 256 KiB that only the collector would find.
            newest.exc.__traceback__ = newest.exc.__context__ = newest.exc.__cause__ = None

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        """The library's hook: it is a WebSocket from now on. What came with the request is parsed as all else."""
        # The library would give it to the parser whole, past `data_received` and its bounds.
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
            # CPU of this thread, not time: what others did meanwhile is not the client's to pay for.
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
        # What waits would have to be parsed before the closing frame of the client is seen.
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
        if self.on_lost is not None:
            self.on_lost()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        # The network takes no more: from here on the client has so long to read.
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
        # The library would read a refused body to its end, for as long as the client likes to send.
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
            self._connections.malformed(error=type(exc).__name__)
        elif not isinstance(exc, ConnectionError):  # whose client has gone
            self._connections.failed(f"{type(exc).__name__} {place_of(exc)}", error_id=self._new_id(), exc_info=exc)
        if request.writer.output_size > 0:  # there is no way back: it has begun to answer
            raise ConnectionError
        response = web.Response(status=status, text=HTTPStatus(status).phrase)
        response.force_close()
        return response
