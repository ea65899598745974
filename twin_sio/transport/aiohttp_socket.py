"""What both transports need of aiohttp: the token of a request, its TCP connection, control frames."""

from __future__ import annotations

import contextlib
import socket as socket_module
from collections.abc import Callable
from typing import Any

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from twin_sio.pasted import strip_pasted

_UNSENT_MAX_BYTES = 128 * 1024  # that the kernel buffers for one client


def bearer(request: web.BaseRequest) -> str | None:
    """The token of `Authorization: Bearer`, as it was sent."""
    kind, _, token = strip_pasted(request.headers.get("Authorization", "")).partition(" ")
    return token if kind.lower() == "bearer" else None


def mark_message_read(request: web.BaseRequest) -> None:
    """A message was read: its TCP connection may send as much again; see `http.connections`."""
    if hasattr(request.protocol, "unread_bytes"):
        request.protocol.unread_bytes = 0


def when_lost(request: web.BaseRequest, call: Callable[[], None] | None) -> None:
    """Call this when its TCP connection is lost: what waits for something to send would not notice."""
    if hasattr(request.protocol, "on_lost"):
        request.protocol.on_lost = call


def read_no_more(request: web.BaseRequest) -> None:
    """Its WebSocket is about to be closed: whatever its client sends on does not hold that up."""
    if hasattr(request.protocol, "read_no_more"):
        request.protocol.read_no_more()


class BoundedWebSocket(web.WebSocketResponse):
    """A WebSocket whose client is told of a frame over `max_msg_size`: `on_too_long` is called before the close frame
    is written. Nothing of such a frame is kept, so nobody can say which event it was."""

    def __init__(self, on_too_long: Callable[[], None], **options: Any) -> None:
        super().__init__(**options)
        self._on_too_long = on_too_long

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        if code == WSCloseCode.MESSAGE_TOO_BIG:
            self._on_too_long()
        return await super().close(code=code, message=message, drain=drain)


async def handle_control_frame(socket: web.WebSocketResponse, message: WSMessage) -> bool:
    """Whether this is a ping, which is answered here, or a pong. aiohttp would answer all that have arrived in one step
    of the loop and count none; the callers count them as frames."""
    if message.type is WSMsgType.PING:
        await socket.pong(message.data)
        return True
    return message.type is WSMsgType.PONG


def limit_send_buffer(transport: Any) -> None:
    """Let the kernel buffer little more than the network carries: megabytes in the kernel are memory as well, and would
    hide for seconds that a client has stopped reading."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is not None and hasattr(socket_module, "TCP_NOTSENT_LOWAT"):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket_module.IPPROTO_TCP, socket_module.TCP_NOTSENT_LOWAT, _UNSENT_MAX_BYTES)
