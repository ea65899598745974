"""Bare aiohttp WebSockets: the least that Python can do. Rooms are a dict, nothing is promised."""

from __future__ import annotations

from collections import defaultdict

import orjson
from aiohttp import web

from bench.contestants import chunk, obey, run


async def main() -> None:
    rooms: dict[str, set[web.WebSocketResponse]] = defaultdict(set)

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        room = rooms[request.query["user"]]
        room.add(socket)
        async for message in socket:
            await socket.send_str(message.data)
        room.discard(socket)
        return socket

    async def send(user: str, index: int, text: str) -> None:
        frame = orjson.dumps(["twin_message_chunk", chunk(user, index, text)]).decode()
        for socket in rooms[user]:
            await socket.send_str(frame)

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    await obey(runner.addresses[0][1], send, lambda: sum(map(len, rooms.values())))


run(main)
