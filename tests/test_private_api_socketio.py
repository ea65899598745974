"""The private methods of python-socketio that `transport.socketio` and `transport.room_manager` override or call."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import socketio
from socketio import packet


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        # overridden
        (socketio.AsyncServer, "_engineio_server_class", ["self"]),
        (socketio.AsyncServer, "_handle_eio_connect", ["self", "eio_sid", "environ"]),
        (socketio.AsyncServer, "_handle_eio_message", ["self", "eio_sid", "data"]),
        (socketio.AsyncServer, "_handle_eio_disconnect", ["self", "eio_sid", "reason"]),
        (socketio.AsyncServer, "_handle_connect", ["self", "eio_sid", "namespace", "data"]),
        (socketio.AsyncServer, "disconnect", ["self", "sid", "namespace", "ignore_queue"]),
        (socketio.AsyncRedisManager, "initialize", ["self"]),
        (socketio.AsyncRedisManager, "_publish", ["self", "data"]),
        (socketio.AsyncRedisManager, "disconnect", ["self", "sid", "namespace", "kwargs"]),
        (
            socketio.AsyncRedisManager,
            "emit",
            ["self", "event", "data", "namespace", "room", "skip_sid", "callback", "to", "kwargs"],
        ),
        (socketio.AsyncManager, "basic_enter_room", ["self", "sid", "namespace", "room", "eio_sid"]),
        (socketio.AsyncManager, "basic_disconnect", ["self", "sid", "namespace", "kwargs"]),
        # called
        (socketio.AsyncServer, "_handle_disconnect", ["self", "eio_sid", "namespace", "reason"]),
        (socketio.AsyncServer, "_send_packet", ["self", "eio_sid", "pkt"]),
        (socketio.AsyncManager, "eio_sid_from_sid", ["self", "sid", "namespace"]),
        (socketio.AsyncManager, "sid_from_eio_sid", ["self", "eio_sid", "namespace"]),
        (socketio.AsyncManager, "is_connected", ["self", "sid", "namespace"]),
        (socketio.AsyncManager, "basic_leave_room", ["self", "sid", "namespace", "room"]),
        (socketio.AsyncManager, "get_participants", ["self", "namespace", "room"]),
        (packet.Packet, "__init__", ["self", "packet_type", "data", "namespace", "id", "binary", "encoded_packet"]),
    ],
)
def test_signature(owner: Any, name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


def test_attributes_of_a_manager() -> None:
    """`RoomManager.basic_disconnect` removes a connection from these tables."""
    manager = socketio.AsyncRedisManager("redis://127.0.0.1:1", write_only=True)
    for name in ("rooms", "eio_to_sid", "callbacks", "pending_connect", "pending_disconnect"):
        assert getattr(manager, name) == {}
    assert (manager.channel, manager.write_only, manager.connected) == ("socketio", True, False)
    assert isinstance(manager.host_id, str)


def test_attributes_of_a_server() -> None:
    server = socketio.AsyncServer(async_mode="aiohttp")
    assert server.environ == {}
    assert server.packet_class is packet.Packet
    reasons = {name for name in vars(server.reason) if name.isupper()}
    assert reasons >= {"CLIENT_DISCONNECT", "SERVER_DISCONNECT", "TRANSPORT_CLOSE", "PING_TIMEOUT"}


def test_a_stock_manager_publishes_json() -> None:
    """What `RoomManager.on_stock_message` reads."""
    for manager in (socketio.AsyncRedisManager, socketio.RedisManager):
        assert "self.json.dumps(data)" in inspect.getsource(manager._publish)
