"""One connection to a server, used once; and every failure that a client's user can see.

ClientError
├── Unreachable          nothing that speaks the protocol answers at the address
├── HandshakeRefused     the server refused the connection, by code
├── RequestFailed        the server answered a request with an error, by code
├── NoAnswer             the time that was given is up
└── Gone                 the connection has ended for good
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import aiohttp
import orjson
import socketio
from socketio.packet import Packet

from twin_sio.domain import Json

TOLD_TO_LEAVE = "io server disconnect"
_LOG = logging.getLogger("twin_sio.client")
_LOG.addHandler(logging.NullHandler())
_FAULTS = (socketio.exceptions.SocketIOError, aiohttp.ClientError, OSError, TimeoutError, ValueError, TypeError)


# -- failures ----------------------------------------------------------------------------------------------------------


class ClientError(Exception):
    """Whatever goes wrong between this client and its server; the text is fit to show to a person."""


class Unreachable(ClientError):
    def __init__(self, url: str) -> None:
        super().__init__(f"Nothing that speaks the twin protocol answers at {url}.")


class _Coded(ClientError):
    """A failure that the server names: `code`, `message`, `retryable`, `retry_after_ms` (None: not said)."""

    def __init__(self, told: Json) -> None:
        self.code = str(told.get("code", "unavailable"))
        self.message = str(told.get("message", ""))
        self.retryable = bool(told.get("retryable", False))
        self.retry_after_ms: int | None = told.get("retry_after_ms")
        self.field: str | None = told.get("field")
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


class _Orjson:
    """orjson in the shape that socketio expects of a JSON module."""

    @staticmethod
    def dumps(value: object, **_: object) -> str:
        return orjson.dumps(value).decode()

    loads = staticmethod(orjson.loads)


class _JsonPacket(Packet):  # type: ignore[misc]
    # On a subclass, because the library's `json=` option would change every client and server of the process.
    uses_binary_events = False
    json = _Orjson


class Connection:
    """One connection, used once. `lost` is done when it has ended, with the reason."""

    def __init__(self, http: aiohttp.ClientSession, on_envelope: Callable[[Json], None]) -> None:
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = loop.create_future()
        self._ready: asyncio.Future[str] = loop.create_future()
        self._refused: asyncio.Future[Json] = loop.create_future()
        self._entering: asyncio.Future[Any] | None = None
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
            async with asyncio.timeout(timeout):
                await self._enter(url, auth, transports, timeout)
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

    async def _enter(self, url: str, auth: Json, transports: Sequence[str], timeout: float) -> None:
        # A refusal counts as soon as it is here: over polling the library would first wait for its pending poll to end,
        # and takes no notice of being cancelled meanwhile; it ends with its reader, in `close`.
        self._entering = asyncio.ensure_future(
            self._sio.connect(url, auth=auth, transports=list(transports), namespaces=["/"], wait_timeout=timeout)
        )
        ends: set[asyncio.Future[Any]] = {self._entering, self._refused}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self._entering.done():
            await self._entering

    async def emit(self, envelope: Json, on_ack: Callable[[Json], None] | None) -> None:
        """Hand over to the socket's queue. On a connection that has gone nothing happens: the outbox sends again."""
        with suppress(socketio.exceptions.SocketIOError):
            await self._sio.emit(envelope["type"], envelope, callback=on_ack)

    async def close(self) -> None:
        """End the connection and every task of it, within about a second even where the other side is silent."""
        eio = self._sio.eio
        with suppress(*_FAULTS):
            async with asyncio.timeout(1.0):
                if eio.state == "connected":
                    await eio.queue.join()
                await self._sio.disconnect()
        for task in (eio.read_loop_task, eio.write_loop_task, self._entering):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self.drop()
        self._note_lost("closed")

    async def drop(self) -> None:
        """Close the WebSocket without a word of Socket.IO, as a network that goes away does."""
        ws = self._sio.eio.ws
        if ws is not None and not ws.closed:
            with suppress(*_FAULTS):
                async with asyncio.timeout(1.0):
                    await ws.close()

    def leave(self) -> None:
        self._note_lost("draining")

    def _failure(self, url: str) -> ClientError:
        return HandshakeRefused(self._refused.result()) if self._refused.done() else Unreachable(url)

    def _on_event(self, _: str, envelope: object = None, *__: object) -> None:
        if not isinstance(envelope, dict):
            return
        self._on_envelope(envelope)
        if envelope.get("type") == "session_ready" and not self._ready.done():
            self._ready.set_result("ready")

    def _on_refusal(self, data: object = None) -> None:
        if isinstance(data, dict) and not self._refused.done():
            told = data.get("data")
            self._refused.set_result(told if isinstance(told, dict) else data)

    def _on_disconnect(self, reason: str) -> None:
        # The same reason stands for a Socket.IO disconnect ("do not come back") and for an Engine.IO close (come
        # back); in the first case the transport is still up.
        final = reason == self._sio.reason.SERVER_DISCONNECT and self._sio.eio.state == "connected"
        self._note_lost(TOLD_TO_LEAVE if final else "transport close")

    def _note_lost(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
