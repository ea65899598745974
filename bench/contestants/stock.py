"""python-socketio as it comes, on aiohttp: `python -m bench.contestants.stock [redis url]`."""

from __future__ import annotations

import sys
from urllib.parse import parse_qs

import socketio
from aiohttp import web

from bench.contestants import chunk, obey, run


async def main() -> None:
    manager = socketio.AsyncRedisManager(sys.argv[1]) if len(sys.argv) > 1 else None
    server = socketio.AsyncServer(async_mode="aiohttp", client_manager=manager)

    @server.event  # type: ignore[misc]
    async def connect(sid: str, environ: dict[str, str], auth: object = None) -> None:  # noqa: ARG001
        await server.enter_room(sid, parse_qs(environ["QUERY_STRING"])["user"][0])

    @server.event  # type: ignore[misc]
    async def message(sid: str, data: object) -> object:
        await server.emit("message_received", data, to=sid)
        return data

    async def send(user: str, index: int, text: str) -> None:
        await server.emit("twin_message_chunk", chunk(user, index, text), room=user)

    app = web.Application()
    server.attach(app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    await obey(runner.addresses[0][1], send, lambda: len(server.eio.sockets))


run(main)
