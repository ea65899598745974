"""Parses the Socket.IO packets of clients, more strictly than the library does."""

from __future__ import annotations

from typing import Any

from socketio import packet as socketio_packet

from twin_sio.protocol.json_codec import loads_leniently
from twin_sio.transport import NAMESPACE

_ACK_DIGITS = 15


class MalformedFrame(Exception):
    """A frame that is no Socket.IO event of ours."""


def decode(data: Any) -> tuple[int, int | None, list[Any]]:
    """`(kind, ack id, arguments)` of a client's packet; of a CONNECT `[namespace, auth]`.

    A BINARY_EVENT is read so far that it can be refused by its id. Raises `MalformedFrame` for what else the protocol
    has no use for: bytes, other namespaces, ids that are not plain digits.
    """
    if not isinstance(data, str) or not data:  # Engine.IO may have parsed the text as JSON already
        raise MalformedFrame
    kind, rest = data[0], data[1:]
    if kind == "0":
        return socketio_packet.CONNECT, None, list(_connect(rest))
    if kind == "1":
        return socketio_packet.DISCONNECT, None, []
    if kind == "3":  # the server asks for no acknowledgements
        return socketio_packet.ACK, None, []
    if kind == "5":  # as an event, with the number of its attachments before it
        rest = rest.partition("-")[2]
    elif kind != "2":
        raise MalformedFrame
    if rest.startswith("/,"):
        rest = rest[2:]
    digits = len(rest) - len(rest.lstrip("0123456789"))
    if digits > _ACK_DIGITS:
        raise MalformedFrame
    try:
        args = loads_leniently(rest[digits:])
    except ValueError:
        raise MalformedFrame from None
    if not isinstance(args, list) or not args or not isinstance(args[0], str):
        raise MalformedFrame
    event = socketio_packet.EVENT if kind == "2" else socketio_packet.BINARY_EVENT
    return event, int(rest[:digits]) if digits else None, args


def _connect(rest: str) -> tuple[str, Any]:
    namespace = NAMESPACE
    if rest.startswith("/"):
        namespace, _, rest = rest.partition(",")
        namespace = namespace.partition("?")[0]
    try:
        return namespace, loads_leniently(rest) if rest else None
    except ValueError:
        raise MalformedFrame from None
