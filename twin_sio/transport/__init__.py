"""Everything that knows python-socketio, engineio, WebSocket frames or AG-UI; a client connects over one transport.

`socketio` (on `engineio`) serves Socket.IO clients, `websocket` plain WebSockets, `ag_ui` the runs of AG-UI clients.
Each puts one `Connection` for every client into the `ConnectionRegistry` and calls the `TransportHooks` that it was
given. No other package asks which transport a connection came over. May import the protocol and what lies below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from aiohttp import web

from twin_sio.clock import monotonic
from twin_sio.domain import Identity
from twin_sio.transport.frames import EncodedFrame
from twin_sio.transport.send_queue import SendQueue

NAMESPACE = "/"
"""The one Socket.IO namespace of clients."""
PACKET_MAX_BYTES = 100_000
"""The largest frame that is read from a client, over any transport."""

CloseReason = Literal["draining", "expired", "slow", "gone"]
"""Why the server closes a connection, and when its client connects again:

`draining`  this instance shuts down       at once, to another instance
`expired`   the token has expired          with a fresh token
`slow`      it did not read fast enough    at once; it resumes with its last seq
`gone`      replaced, revoked or erased    not by itself: only when its user asks for it
"""


class Connection(Protocol):
    """One client's connection. Nothing here waits, and nothing raises for a client that has left."""

    queue: SendQueue
    """What waits to be written, by bytes; empty while the client reads."""

    def write(self, frame: EncodedFrame, *, unless_over: int | None = None) -> int:
        """Write a whole frame, or queue it where the client does not read fast enough; return the bytes now buffered
        (-1: closed). Where more than `unless_over` bytes are buffered nothing is written."""
        ...

    def buffered_bytes(self) -> int:
        """Bytes that wait for the client, in the queue and in the transport."""
        ...

    def close(self, reason: CloseReason) -> None:
        """Close after what is queued was written."""
        ...

    def abort(self) -> None:
        """Drop what is queued and close the TCP connection now, as `slow`."""
        ...


class ConnectionRegistry(dict[str, Connection]):
    """The authenticated connections of this instance, by connection id. Transports add and remove them."""

    def write(self, sid: str, frame: EncodedFrame, *, unless_over: int | None = None) -> int:
        """`Connection.write`; -1 for one that is not here."""
        connection = self.get(sid)
        return -1 if connection is None else connection.write(frame, unless_over=unless_over)

    def buffered_bytes(self, sid: str) -> int:
        """`Connection.buffered_bytes`; 0 for one that is not here."""
        connection = self.get(sid)
        return 0 if connection is None else connection.buffered_bytes()

    def close(self, sid: str, reason: CloseReason) -> None:
        """`Connection.close`; nothing for one that is not here."""
        if (connection := self.get(sid)) is not None:
            connection.close(reason)

    def abort(self, sid: str) -> None:
        """`Connection.abort`; nothing for one that is not here."""
        if (connection := self.get(sid)) is not None:
            connection.abort()

    # The two that `delivery` asks twice a second, to find slow clients.

    def stalled(self, for_s: float) -> list[str]:
        """Connections with queued bytes of which none has been written for longer than this."""
        before = monotonic() - for_s
        # Reads the queues and calls nothing: it passes over every connection twice a second, and most have none queued.
        return [
            sid
            for sid, connection in self.items()
            if connection.queue.buffered_bytes and connection.queue.moved_at < before
        ]

    def backlog(self) -> dict[str, int]:
        """Buffered bytes by connection, of those with a queue that is not empty."""
        return {sid: connection.buffered_bytes() for sid, connection in self.items() if connection.queue.buffered_bytes}


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """What a client sends to be let in: `auth` as it came, the token of its headers, or an identity that was checked
    before (by a ticket)."""

    request: web.Request
    auth: object
    token: str | None
    identity: Identity | None = None


class TransportHooks(Protocol):
    """What a transport calls; `gateway.Gateway` implements it. A method that returns seconds says for how long nothing
    more is to be read from that connection."""

    def allow_connection(self, request: web.Request) -> bool:
        """Whether a socket may be opened at all, before anything of it is read."""
        ...

    async def admit(self, sid: str, asked: ConnectRequest) -> None:
        """Authenticate; raise `HandshakeRefused` where the client is not let in."""
        ...

    def on_connected(self, sid: str) -> None:
        """The client knows that it is connected, and its connection is in the registry."""
        ...

    def on_event(self, sid: str, name: str, args: list[Any], ack_id: int | None, size: int) -> float:
        """An event of `size` bytes, in the order of arrival. Must not wait."""
        ...

    def on_malformed(self, sid: str, size: int, args: Sequence[object] = (), ack_id: int | None = None) -> float:
        """A frame that is no event, or one with binary in it, of which `args` and `ack_id` could be read; in the order
        of arrival. Must not wait."""
        ...

    def on_too_long(self, sid: str) -> None:
        """A frame was over the bound, and the connection is about to be closed for it."""
        ...

    def on_poll(self, sid: str, size: int = 0) -> float:
        """An HTTP request of a connected client, a ping, or bytes: it costs something and carries no event."""
        ...

    async def on_disconnect(self, sid: str, reason: object) -> None:
        """The connection has ended, for whatever reason. Called once, for whom `admit` has let in."""
        ...


class Transport(Protocol):
    """What metrics and shutdown need of each transport."""

    @property
    def open_sockets(self) -> int:
        """Sockets of this transport, authenticated or not."""
        ...

    @property
    def total_buffered_bytes(self) -> int:
        """Bytes that wait for all of its clients together."""
        ...

    def abort_all(self) -> None:
        """Close every socket that is left, now."""
        ...


class RequestTransport(Transport):
    """A transport each of whose connections is one HTTP request: the base of plain WebSockets and of AG-UI."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()  # those of the registry that are this transport's

    @property
    def open_sockets(self) -> int:
        return len(self._open)

    @property
    def total_buffered_bytes(self) -> int:
        return sum(connection.buffered_bytes() for connection in self._open)

    def abort_all(self) -> None:
        for connection in list(self._open):
            connection.abort()
