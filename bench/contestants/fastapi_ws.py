"""FastAPI's WebSockets on uvicorn: rooms are a dict, nothing is promised."""

from __future__ import annotations

import asyncio
import socket as sockets
from collections import defaultdict
from collections.abc import Sequence

import orjson
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from bench.contestants import chunk, obey, run


async def main() -> None:
    rooms: dict[str, set[WebSocket]] = defaultdict(set)
    app = FastAPI()

    @app.websocket("/")
    async def serve(socket: WebSocket, user: str) -> None:
        await socket.accept()
        rooms[user].add(socket)
        try:
            while True:
                await socket.send_text(await socket.receive_text())
        except WebSocketDisconnect:
            rooms[user].discard(socket)

    async def emit(users: Sequence[str], rounds: int) -> None:
        for index in range(rounds):
            for user in users:
                text = orjson.dumps(["twin_message_chunk", chunk(user, index)]).decode()
                for socket in rooms[user]:
                    await socket.send_text(text)
            await asyncio.sleep(0)

    listening = sockets.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws_per_message_deflate=False, backlog=4096))
    serving = asyncio.create_task(server.serve([listening]))
    await obey(listening.getsockname()[1], emit, lambda: sum(map(len, rooms.values())))
    server.should_exit = True
    await serving


run(main)
