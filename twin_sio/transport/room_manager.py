"""python-socketio's Redis manager across instances, as this service uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import socketio
import structlog

from twin_sio.transport import NAMESPACE, ConnectionRegistry
from twin_sio.transport.frames import EncodedFrame

log = structlog.get_logger("room_manager")

STOCK_CHANNEL = "socketio"
"""The channel on which every manager of the library publishes, where it is given no other."""
_STOCK_MAX_BYTES = 256 * 1024  # of a message of another program's; what is longer is dropped
_USER_ROOM = "user:"


def user_room(user_id: str) -> str:
    """The Socket.IO room of all of a user's sessions."""
    return f"{_USER_ROOM}{user_id}"


class RoomManager(socketio.AsyncRedisManager):  # type: ignore[misc]
    """The client manager of `SocketServer`, and the library's way for other processes to reach its clients.

    Used of `socketio.AsyncRedisManager` as its documentation has it:

    - rooms: `enter_room`, `leave_room`, `rooms`, `close_room`; every session is in the room `user:<user id>`;
    - `emit(event, data, room=...)`: to a user's room, a room of your own, or one connection, on every instance;
    - the write-only form: `RoomManager` in a worker, or a stock `socketio.AsyncRedisManager(url, write_only=True)` or
      `socketio.RedisManager(url, write_only=True)` in any process, reaches the same sessions by `emit` and
      `disconnect`.

    Replaced, and why:

    - publishing and listening (`_publish`, `_listen`, `initialize`): the service has one pair of Redis connections for
      everything, which notice within two seconds that Redis is away (`delivery.pubsub`). The library would hold a
      second pair and one listener that decodes what concerns no client here.
    - the channel of `user:` rooms: a channel for each user with a session on an instance, so that an instance receives
      no other user's events. What stock managers publish comes over the library's own channel, to every instance.
    - writing: a frame is encoded once and written straight to each connection. The library starts a task for each.
    - forgetting a connection takes a time that does not grow with the number of rooms.

    Not supported: acknowledgements of clients (`callback`), binary data, other namespaces, an emit to everybody
    (without a room), and changes of rooms from another process. What comes over the stock channel is JSON of a bounded
    size or it is dropped, is ephemeral, and is written only to connections that read: durable events come from the log
    alone.
    """

    def __init__(
        self,
        url: str,
        connections: ConnectionRegistry,
        *,
        write: Callable[[str, EncodedFrame], None],
        publish: Callable[[str, bytes], None],
        publish_to_user: Callable[[str, EncodedFrame, str | None], None],
        write_only: bool = False,
    ) -> None:
        """`write(sid, frame)` writes something ephemeral to a connection of this instance; `publish(channel, payload)`
        sends to the other instances; `publish_to_user(user_id, frame, skip)` on the channel of a user."""
        super().__init__(url, write_only=write_only)
        self._connections = connections
        # From `delivery`: its bounds for slow clients and its Redis connections are the only ones.
        self._write_to = write
        self._publish_on = publish
        self._publish_to_user = publish_to_user
        # Every room by connection: the library would search all rooms for a connection that leaves.
        self._rooms_of: dict[str, set[Any]] = {}
        self.dropped = 0
        """Messages on the stock channel that were not understood."""

    def initialize(self) -> None:
        """The library's hook before its first connection: would start its listener."""

    # -- rooms -------------------------------------------------------------------------------------------------------

    def add(self, sid: str) -> None:
        """A connection over another transport than Socket.IO, so that it can be in rooms."""
        # The room None holds every connection; the library looks up there what its Engine.IO socket is.
        self.basic_enter_room(sid, NAMESPACE, None, eio_sid=f"other-{sid}")

    def remove(self, sid: str) -> None:
        """The connection has ended."""
        self.basic_disconnect(sid, NAMESPACE)

    def members(self, room: str) -> Iterator[str]:
        """The connections of this instance that are in the room."""
        for sid, _ in self.get_participants(NAMESPACE, room):
            yield sid

    def room_of_user(self, sid: str) -> str | None:
        """The user's room that the connection is in."""
        return next((name for name in self._rooms_of.get(sid, ()) if name and name.startswith(_USER_ROOM)), None)

    def basic_enter_room(self, sid: str, namespace: str, room: Any, eio_sid: str | None = None) -> None:
        super().basic_enter_room(sid, namespace, room, eio_sid=eio_sid)
        self._rooms_of.setdefault(sid, set()).add(room)

    def basic_disconnect(self, sid: str, namespace: str, **_: Any) -> None:
        for name in self._rooms_of.pop(sid, ()):
            self.basic_leave_room(sid, namespace, name)
        # The rest of what the library holds of a connection; it would look for it in all rooms.
        self.callbacks.pop(sid, None)
        for pending in (self.pending_connect, self.pending_disconnect):
            waiting = pending.get(namespace)
            if waiting is not None and sid in waiting:
                waiting.remove(sid)
                if not waiting:
                    del pending[namespace]

    async def disconnect(self, sid: str, namespace: str, **_: Any) -> None:
        """Forget a connection of this instance; the server calls it when a client has left."""
        self.basic_disconnect(sid, namespace)

    # -- emit --------------------------------------------------------------------------------------------------------

    async def emit(
        self,
        event: str,
        data: Any,
        namespace: str | None = None,
        room: str | None = None,
        skip_sid: Any = None,
        callback: Any = None,
        to: str | None = None,
        **_: Any,
    ) -> None:
        """An ephemeral event to a room, on every instance. Raises `ValueError` for what is not supported."""
        room = to or room
        if callback is not None or room is None or (namespace or NAMESPACE) != NAMESPACE:
            raise ValueError("emit needs a room of the namespace / and has no callback")
        args = list(data) if isinstance(data, tuple) else [] if data is None else [data]
        skip = skip_sid if isinstance(skip_sid, list) else [skip_sid] if skip_sid else []
        frame = _frame(event, args)
        self._write_local(room, frame, skip)
        if room.startswith(_USER_ROOM) and len(skip) <= 1:
            self._publish_to_user(room.removeprefix(_USER_ROOM), frame, skip[0] if skip else None)
        elif room not in self._connections:  # a connection of this instance is on no other
            await self._publish(
                {
                    "method": "emit",
                    "event": event,
                    "data": args,
                    "binary": False,
                    "namespace": NAMESPACE,
                    "room": room,
                    "skip_sid": skip,
                    "callback": None,
                    "host_id": self.host_id,
                }
            )

    def _write_local(self, room: str, frame: EncodedFrame, skip: list[str]) -> None:
        if room in self._connections:
            self._write_to(room, frame)
            return
        for sid in list(self.members(room)):  # a copy: a write may end a connection
            if sid not in skip:
                self._write_to(sid, frame)

    # -- the stock channel -------------------------------------------------------------------------------------------

    async def _publish(self, data: Any) -> None:
        self._publish_on(STOCK_CHANNEL, orjson.dumps(data))

    def on_stock_message(self, payload: bytes) -> None:
        """A message on the library's channel, from a stock manager or from another instance. Never raises."""
        try:
            if len(payload) > _STOCK_MAX_BYTES:
                raise ValueError("too large")
            message = orjson.loads(payload)  # a pickle, as the library published before 5.13, is no JSON
            if message["host_id"] == self.host_id or message.get("namespace", NAMESPACE) != NAMESPACE:
                return
            self._on_method(message)
        except (ValueError, TypeError, KeyError):
            self.dropped += 1
            log.warning("stock_message_dropped", bytes=len(payload))

    def _on_method(self, message: Any) -> None:
        match message:
            case {"method": "emit", "event": str(event), "data": data, "room": str(room)} if not message.get("binary"):
                skip = message.get("skip_sid")
                args = data if isinstance(data, list) else [data]
                self._write_local(room, _frame(event, args), skip if isinstance(skip, list) else [skip])
            case {"method": "disconnect", "sid": str(sid)}:
                self._connections.close(sid, "gone")
            case _:
                raise ValueError("not supported")


def _frame(event: str, args: list[Any]) -> EncodedFrame:
    return EncodedFrame(b"2" + orjson.dumps([event, *args]))
