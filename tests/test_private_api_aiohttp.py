"""What the service relies on in aiohttp beside its documentation."""

from __future__ import annotations

import asyncio
import inspect
import struct
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web_protocol import RequestHandler


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        # overridden in `http.connections`
        (RequestHandler, "data_received", ["self", "data"]),
        (RequestHandler, "set_parser", ["self", "parser", "data_received_cb"]),
        (RequestHandler, "finish_response", ["self", "request", "resp", "start_time"]),
        (RequestHandler, "_pause_reading_for_buffer", ["self"]),
        (RequestHandler, "_resume_reading_for_buffer", ["self"]),
        (RequestHandler, "connection_made", ["self", "transport"]),
        (RequestHandler, "connection_lost", ["self", "exc"]),
        (RequestHandler, "pause_writing", ["self"]),
        (RequestHandler, "resume_writing", ["self"]),
        (RequestHandler, "handle_error", ["self", "request", "status", "exc", "message"]),
        (web.AppRunner, "_make_server", ["self"]),
        (web.TCPSite, "start", ["self"]),
        # called
        (web.BaseSite, "start", ["self"]),
    ],
)
def test_signature(owner: Any, name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


async def test_attributes_of_a_server_and_its_connections() -> None:
    """What `http.connections` reads and sets of them."""
    runner = web.AppRunner(web.Application(), access_log=None)
    await runner.setup()
    server = runner.server
    assert server is not None
    assert {"request_handler", "request_factory", "_loop", "_kwargs"} <= set(dir(server))
    connection = server()
    assert {
        "_payload_parser",
        "_message_tail",
        "_buffer_paused",
        "_keepalive_timeout",
        "_lingering_time",
        "_loop",
    } <= set(dir(connection))
    site = web.TCPSite(runner, "127.0.0.1", 0)
    assert {"_ssl_context", "_runner", "_server", "_host", "_port", "_backlog"} <= set(dir(site))
    await runner.cleanup()


async def test_frames_written_past_the_response_arrive_in_order() -> None:
    """Transports write whole WebSocket frames to `request.transport`, between those that aiohttp writes."""

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        assert request.transport is not None
        for number in range(20):
            if number % 2:
                await socket.send_str(str(number))
            else:
                data = str(number).encode()
                request.transport.write(struct.pack("!BB", 0x81, len(data)) + data)
        assert request.transport.get_write_buffer_size() >= 0
        await socket.close()
        return socket

    app = web.Application()
    app.router.add_get("/", serve)
    async with TestClient(TestServer(app)) as client, client.ws_connect("/") as socket:
        seen = [message.data async for message in socket if message.type is WSMsgType.TEXT]
    assert seen == [str(number) for number in range(20)]


async def test_pings_reach_a_reader_that_answers_them_itself() -> None:
    """With `autoping=False` a ping is a message, so that it is counted."""
    kinds: asyncio.Queue[WSMsgType] = asyncio.Queue()

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        async for message in socket:
            kinds.put_nowait(message.type)
        return socket

    app = web.Application()
    app.router.add_get("/", serve)
    async with TestClient(TestServer(app)) as client, client.ws_connect("/") as socket:
        await socket.ping()
        assert await asyncio.wait_for(kinds.get(), 5) is WSMsgType.PING
