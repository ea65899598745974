"""The private methods and attributes of python-engineio that `transport.engineio` relies on."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import engineio
import engineio.async_socket
import pytest
from engineio.packet import Packet
from engineio.payload import Payload


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        # overridden
        (engineio.AsyncServer, "create_queue", ["self", "args", "kwargs"]),
        (engineio.AsyncServer, "start_background_task", ["self", "target", "args", "kwargs"]),
        (engineio.AsyncServer, "handle_request", ["self", "args", "kwargs"]),
        (engineio.async_socket.AsyncSocket, "handle_post_request", ["self", "environ"]),
        (Packet, "encode", ["self", "b64"]),
        # called, or called by the library on what is ours
        (engineio.AsyncServer, "generate_id", ["self"]),
        (engineio.async_socket.AsyncSocket, "_send_ping", ["self"]),
        (engineio.async_socket.AsyncSocket, "_websocket_handler", ["self", "ws"]),
        (engineio.async_socket.AsyncSocket, "close", ["self", "wait", "abort", "reason"]),
    ],
)
def test_signature(owner: Any, name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


def test_driver_has_a_websocket_to_replace() -> None:
    assert {"websocket", "create_route", "translate_request"} <= engineio.AsyncServer(
        async_mode="aiohttp"
    )._async.keys()


def test_a_poll_has_a_bound_of_packets() -> None:
    assert isinstance(Payload.max_decode_packets, int)


async def test_attributes_of_a_socket() -> None:
    """What the transport reads and sets of each socket."""
    server = engineio.AsyncServer(async_mode="aiohttp")
    socket = engineio.async_socket.AsyncSocket(server, "sid")
    states = (socket.connected, socket.upgrading, socket.upgraded, socket.closing, socket.closed)
    assert states == (False, False, False, False, False)
    assert isinstance(socket.queue, asyncio.Queue)
    assert (socket.sid, socket.server, server.sockets) == ("sid", server, {})
