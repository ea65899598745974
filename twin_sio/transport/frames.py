"""Frames as they go over a WebSocket, built once for all who get them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from engineio.packet import MESSAGE
from engineio.packet import Packet as EnginePacket
from socketio import packet as socketio_packet

from twin_sio.protocol.json_codec import OrjsonCodec


class SocketIOPacket(socketio_packet.Packet):  # type: ignore[misc]
    """A packet that is never searched for binary values."""

    uses_binary_events = False  # otherwise the library walks through every payload to look for bytes
    json = OrjsonCodec


class EncodedFrame(EnginePacket):  # type: ignore[misc]
    """A Socket.IO text, built once for all who get it: as the Engine.IO packet that queues hold, and as the WebSocket
    frame that it becomes."""

    packet_type = MESSAGE
    binary = False

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        # The WebSocket frames, each built for the first connection that needs it.
        self._as_socketio: bytes | None = None
        self._as_websocket_text: bytes | None = None

    @property
    def data(self) -> str:
        return self.raw.decode()

    def encode(self, b64: bool = False) -> str:  # noqa: ARG002 - the library's signature
        """As it leaves a queue: for pollers, and for WebSockets that were not ready for `as_socketio`."""
        return "4" + self.data

    @property
    def as_socketio(self) -> bytes:
        """The whole WebSocket frame for Socket.IO clients."""
        if self._as_socketio is None:
            self._as_socketio = _websocket_frame(b"4" + self.raw)
        return self._as_socketio

    @property
    def as_websocket_text(self) -> bytes:
        """The whole WebSocket frame for clients without Socket.IO: the envelope alone."""
        if self._as_websocket_text is None:
            self._as_websocket_text = _websocket_frame(self.envelope)
        return self._as_websocket_text

    @property
    def envelope(self) -> bytes:
        """The JSON of an event's envelope, out of `2["name",{...}]`; of an event that is no envelope (see
        `room_manager`) one is made."""
        _, _, args = self.raw.partition(b",")
        return args[:-1] if args.startswith(b'{"type":') else _enveloped(self.raw)


def _enveloped(raw: bytes) -> bytes:
    name, *args = orjson.loads(raw[1:])
    return orjson.dumps({"type": name, "payload": args[0] if len(args) == 1 else args, "metadata": {}})


def _websocket_frame(data: bytes) -> bytes:
    """A final, unmasked text frame (RFC 6455, 5.2)."""
    size = len(data)
    if size < 126:
        return b"\x81" + size.to_bytes(1, "big") + data
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + data
    return b"\x81\x7f" + size.to_bytes(8, "big") + data


def event_frame(name: str, envelope: Mapping[str, Any]) -> EncodedFrame:
    """An event as clients get it."""
    return EncodedFrame(b'2["%s",%s]' % (name.encode(), orjson.dumps(envelope)))


def ack_frame(ack_id: int, envelope: Mapping[str, Any] | None) -> EncodedFrame:
    """An acknowledgement with one argument, or none."""
    return EncodedFrame(b"3%d[%s]" % (ack_id, orjson.dumps(envelope) if envelope is not None else b""))


def acknowledging(ack_id: int, event: EncodedFrame) -> EncodedFrame:
    """An acknowledgement with the envelope of an event that was encoded already."""
    return EncodedFrame(b"3%d[%s]" % (ack_id, event.envelope))
