"""FastAPI's WebSockets on uvicorn: rooms are a dict, nothing is promised."""

from __future__ import annotations

import asyncio
import socket as sockets
from collections import defaultdict

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

    async def send(user: str, index: int, text: str) -> None:
        frame = orjson.dumps(["twin_message_chunk", chunk(user, index, text)]).decode()
        for socket in rooms[user]:
            await socket.send_text(frame)

    listening = sockets.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws_per_message_deflate=False, backlog=4096))
    serving = asyncio.create_task(server.serve([listening]))
    await obey(listening.getsockname()[1], send, lambda: sum(map(len, rooms.values())))
    server.should_exit = True
    await serving


run(main)
