"""One connection to a server, used once; and every failure that a client's user can see.

ClientError
├── Unreachable          nothing that speaks the protocol answers at the address
├── TokenFailed          the app's function that gives the token raised something
├── HandshakeRefused     the server refused the connection, by code
├── RequestFailed        the server answered a request with an error, by code
├── ResponseTimeout      no reply within the given time
└── SessionClosed        the session has ended for good
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import socketio
from socketio.packet import Packet

from twin_sio.client.envelopes import size_of
from twin_sio.domain import Json
from twin_sio.errors import ServiceError
from twin_sio.protocol import error_payload
from twin_sio.protocol.json_codec import OrjsonCodec

_NOT_TAKEN = frozenset({1003, 1007, 1008, 1009})
_DISCONNECT = "1"  # Socket.IO's packet, as Engine.IO sends it: the server then tells a leave from a lost connection
SENT_AWAY = "io server disconnect"
_LOG = logging.getLogger("twin_sio.client")
_LOG.addHandler(logging.NullHandler())
_FAULTS = (socketio.exceptions.SocketIOError, aiohttp.ClientError, OSError, TimeoutError, ValueError, TypeError)


# -- failures ----------------------------------------------------------------------------------------------------------


class ClientError(Exception):
    """Any failure between this client and its server; the text can be shown to a person."""


class Unreachable(ClientError):
    def __init__(self, url: str) -> None:
        super().__init__(f"Nothing that speaks the twin protocol answers at {url}.")


class TokenFailed(ClientError):
    pass


class _Coded(ClientError):
    """A failure that the server names: `code`, `message`, `retryable`, `retry_after_ms` (None: not given)."""

    def __init__(self, error: Json) -> None:
        self.code = str(error.get("code", "unavailable"))
        self.message = str(error.get("message", ""))
        self.retryable = bool(error.get("retryable", False))
        self.retry_after_ms: int | None = error.get("retry_after_ms")
        self.field: str | None = error.get("field")
        super().__init__(f"{self.code}: {self.message}" + (f" ({self.field})" if self.field else ""))


class HandshakeRefused(_Coded):
    pass


class RequestFailed(_Coded):
    pass


class ResponseTimeout(ClientError):
    pass


class SessionClosed(ClientError):
    pass


# -- one connection ----------------------------------------------------------------------------------------------------


class _JsonPacket(Packet):  # type: ignore[misc]
    # On a subclass, because the library's `json=` option would change every client and server of the process.
    uses_binary_events = False
    json = OrjsonCodec


class Connection:
    """One connection, used once. `lost` is done when it has ended, with the reason."""

    def __init__(self, http: aiohttp.ClientSession, on_envelope: Callable[[Json], None]) -> None:
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = loop.create_future()
        # What `session_ended` said, the event before the server disconnects for good; "" without one.
        self.why_ended = ""
        # Done when `session_ready` has arrived.
        self._ready: asyncio.Future[str] = loop.create_future()
        # Done when the handshake was refused, with the server's error.
        self._refused: asyncio.Future[Json] = loop.create_future()
        # The library's `connect`, which may outlive `open`.
        self._connecting: asyncio.Future[Any] | None = None
        self._on_envelope = on_envelope
        self._sio = socketio.AsyncClient(
            reconnection=False,
            logger=_LOG,
            engineio_logger=_LOG,
            handle_sigint=False,
            http_session=http,
            serializer=_JsonPacket,
        )
        # Handlers are plain functions: a coroutine would be a task, and tasks may overtake each other.
        self._sio.on("*", self._on_event)
        self._sio.on("connect_error", self._on_refusal)
        self._sio.on("disconnect", self._on_disconnect)

    async def open(self, url: str, auth: Json, transports: Sequence[str], timeout: float) -> None:
        """Connect, and wait for `session_ready`. Raises `HandshakeRefused` or `Unreachable`, and is closed then."""
        try:
            size_of(auth)
        except ServiceError as error:
            raise HandshakeRefused(error_payload(error)) from None
        try:
            async with asyncio.timeout(timeout):
                await self._connect(url, auth, transports, timeout)
                ends: set[asyncio.Future[Any]] = {self._ready, self._refused, self.lost}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except _FAULTS as fault:
            await self.close()
            raise self._failure(url) from fault
        except asyncio.CancelledError:
            await self.close()
            raise
        if not self._ready.done():
            await self.close()
            raise self._failure(url)

    async def _connect(self, url: str, auth: Json, transports: Sequence[str], timeout: float) -> None:
        below = urlsplit(url).path.rstrip("/")  # the library drops the path of an address
        # A refusal counts as soon as it arrives: over polling the library would first wait for its pending poll to end,
        # and ignores a cancellation meanwhile; its task ends with the reader, in `close`.
        self._connecting = asyncio.ensure_future(
            self._sio.connect(
                url,
                auth=auth,
                transports=list(transports),
                namespaces=["/"],
                socketio_path=f"{below}/socket.io",
                wait_timeout=timeout,
            )
        )
        ends: set[asyncio.Future[Any]] = {self._connecting, self._refused}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self._connecting.done():
            await self._connecting

    async def emit(self, envelope: Json, on_ack: Callable[[Json], None] | None) -> None:
        """Put into the socket's queue. On a lost connection nothing happens: the outbox sends again."""
        with suppress(socketio.exceptions.SocketIOError):
            await self._sio.emit(envelope["type"], envelope, callback=on_ack)

    async def close(self) -> None:
        """End the connection and every task of it, within about a second even where the other side is silent."""
        eio = self._sio.eio
        with suppress(*_FAULTS):
            async with asyncio.timeout(1.0):
                if eio.state == "connected":
                    if self._sio.connected:  # the library's own disconnect packet is lost as it closes the socket
                        await eio.send(_DISCONNECT)
                    await eio.queue.join()
                await self._sio.disconnect()
        for task in (eio.read_loop_task, eio.write_loop_task, self._connecting):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self.drop()
        self._mark_lost("closed")

    async def drop(self) -> None:
        """Close the WebSocket without a Socket.IO packet, as a lost network does."""
        ws = self._sio.eio.ws
        if ws is not None and not ws.closed:
            with suppress(*_FAULTS):
                async with asyncio.timeout(1.0):
                    await ws.close()

    @property
    def is_not_taken(self) -> bool:
        """Whether it was closed because of what was sent: the close code says so (RFC 6455, 7.4.1)."""
        ws = self._sio.eio.ws
        return ws is not None and ws.close_code in _NOT_TAKEN

    def leave(self) -> None:
        self._mark_lost("draining")

    def _failure(self, url: str) -> ClientError:
        return HandshakeRefused(self._refused.result()) if self._refused.done() else Unreachable(url)

    def _on_event(self, _: str, envelope: object = None, *__: object) -> None:
        if not isinstance(envelope, dict):
            return
        self._on_envelope(envelope)
        if envelope.get("type") == "session_ready" and not self._ready.done():
            self._ready.set_result("ready")
        elif envelope.get("type") == "session_ended":
            payload = envelope.get("payload")
            self.why_ended = str(payload.get("message", "")) if isinstance(payload, dict) else ""

    def _on_refusal(self, data: object = None) -> None:
        if isinstance(data, dict) and not self._refused.done():
            reason = data.get("data")
            self._refused.set_result(reason if isinstance(reason, dict) else data)

    def _on_disconnect(self, reason: str) -> None:
        # A Socket.IO disconnect (do not reconnect) and an Engine.IO close (reconnect) have the same reason; in the
        # first case the transport is still up.
        final = reason == self._sio.reason.SERVER_DISCONNECT and self._sio.eio.state == "connected"
        self._mark_lost(SENT_AWAY if final else "transport close")

    def _mark_lost(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
