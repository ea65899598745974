"""Sessions of clients as they were, frame by frame, to be sent to every later server.

`python -m tests.recorded` records anew what the Python client of today sends, `python -m tests.recorded js` what the
TypeScript client does; do so where what they send has changed, under a new name, and leave the older ones as they are.
A line is a frame that the client sent, or what the server had said before the next one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web

from tests.conftest import settings_for, token_of, url_of, working
from tests.raw import RawSocket
from tests.scripted_model import ScriptedModel
from twin_sio.client import TwinClient
from twin_sio.clock import new_id
from twin_sio.config import Settings
from twin_sio.runtime.dev_engines.engines import start_mongod, start_redis
from twin_sio.runtime.serve import service

_TYPESCRIPT = Path(__file__).parents[1] / "clients" / "js" / "tools" / "record.mjs"
FOLDER = Path(__file__).parent / "data" / "sessions"
USER = "recorded"  # the ids of answers and traits follow from it
LEARNT = {"key": "preferences.drink", "value": "tea", "kind": "explicit", "polarity": "support"}
SAID = "I prefer tea, and this is recorded"
_TOKEN = "THE-TOKEN"
_LOSABLE = {"twin_message_chunk", "twin_thinking", "presence", "resync", "auth_expiring"}
_SCOPE = "twin:chat twin:profile twin:data"
Play = Callable[[str, list[str]], Awaitable[None]]


def script(model: ScriptedModel) -> None:
    """Have the model answer as it did when the sessions were recorded."""
    model.script(contains=SAID, json_answer=json.dumps({"candidates": [{**LEARNT, "quote": "I prefer tea"}]}))
    model.script(contains="stop this", count=400, token_delay_s=0.05)


def sessions() -> dict[str, list[dict[str, Any]]]:
    """Every recorded session by its name."""
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in FOLDER.glob("*.jsonl")}


async def replay(url: str, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Send a session's frames as they are, each when the server has said what it had said then; all it says now."""
    token = token_of(USER, scope=_SCOPE)
    sockets: list[RawSocket] = []
    wanted = Counter[str]()
    async with AsyncExitStack() as stack:
        for line in lines:
            if line.get("client", "").startswith("40"):  # a connection of its own
                raw, wanted = await stack.enter_async_context(Unconnected(url, None)), Counter()
                sockets.append(raw)
            if "client" in line:
                await raw.send(line["client"].replace(_TOKEN, token))
                continue
            wanted.update(line["server"])
            await raw.until(lambda raw=raw, wanted=wanted: wanted <= Counter(one["type"] for one in raw.events), 20)
    return [one for raw in sockets for one in raw.events]


class Unconnected(RawSocket):
    """A socket that leaves it to the recorded frames to connect."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self


class Tap:
    """A proxy for one WebSocket that keeps the client's frames and the types of the server's events."""

    def __init__(self, url: str) -> None:
        self._url = url.replace("http", "ws", 1)
        self.lines: list[dict[str, Any]] = []

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        client = web.WebSocketResponse()
        await client.prepare(request)
        async with aiohttp.ClientSession() as http, http.ws_connect(self._url + request.path_qs) as server:
            down = asyncio.create_task(self._down(server, client))
            async for message in client:
                if message.data[:1] == "4":
                    self.lines.append({"client": message.data})
                await server.send_str(message.data)
            down.cancel()
        return client

    async def _down(self, server: aiohttp.ClientWebSocketResponse, client: web.WebSocketResponse) -> None:
        async for message in server:
            if message.data.startswith("42") and (name := json.loads(message.data[2:])[0]) not in _LOSABLE:
                if not self.lines or "client" in self.lines[-1]:
                    self.lines.append({"server": []})
                self.lines[-1]["server"].append(name)
            await client.send_str(message.data)


async def a_full_session(url: str, tokens: list[str]) -> None:
    """Every event that a client can send."""
    token = tokens[-1]
    device = {"name": "Recorder", "platform": "test", "app_version": "1"}
    async with TwinClient(url, token, session_id="recorder", device=device, context={"page": "start"}) as client:
        answer = await client.ask(SAID, message_id="m-1")
        await client.until(lambda state: state.profile_version == 1, timeout=20)
        await client.typing(True)
        await client.read(answer.message_id)
        await client.feedback(answer.message_id, "up")
        await client.update_context({"page": "next"})
        await client.regenerate("m-1")
        await client.send("stop this", message_id="m-2")
        await client.until(lambda state: state.last_seq >= 6)
        await client.stop("m-2")
        await client.answer("m-2")
        (trait,) = (await client.profile())["traits"]
        await client.correct(trait["trait_id"], "confirm")
        await client.history(limit=10)
        await client.conversations()
        await client.search("tea")
        await client.heartbeat()
        await client.refresh(token)
    async with RawSocket(url, token, session_id="recorder", last_seq=3) as raw:  # comes back, and asks for acks
        await raw.until(lambda: raw.of("resumed"))
        await raw.ask("resume", {"payload": {"last_seq": 0}})
        await raw.ask("user_message", {"payload": {"text": SAID}, "metadata": {"message_id": "m-1"}})  # a repeat


async def a_session_of_typescript(url: str, tokens: list[str]) -> None:
    """What an app does over the TypeScript client, and what that sends by itself."""
    received = json.dumps({"url": url, "tokens": tokens, "said": SAID})
    node = await asyncio.create_subprocess_exec("node", _TYPESCRIPT, received)
    if await node.wait():
        sys.exit("Nothing was recorded.")


async def record(name: str, play: Play) -> None:
    """Write a full session of one of today's clients."""
    with tempfile.TemporaryDirectory() as folder:
        mongod, redis = start_mongod(Path(folder) / "mongod"), start_redis(Path(folder) / "redis")
        try:
            async with ScriptedModel() as model:
                await _record(settings_for(mongod.url, redis.url, model.base_url), model, name, play)
        finally:
            redis.stop()
            mongod.stop()


async def _record(settings: Settings, model: ScriptedModel, name: str, play: Play) -> None:
    script(model)
    async with service(settings) as running, working(settings):
        tap = Tap(url_of(running))
        app = web.Application()
        app.router.add_get("/socket.io/", tap.serve)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        tokens = [token_of(USER, scope=_SCOPE, ttl_s=62), token_of(USER, scope=_SCOPE)]
        await play(f"http://127.0.0.1:{runner.addresses[0][1]}", tokens)
        await runner.cleanup()
    text = "".join(json.dumps(line) + "\n" for line in tap.lines)
    for token in tokens:
        text = text.replace(token, _TOKEN)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.jsonl").write_text(text)


if __name__ == "__main__":
    logging.disable()
    play = a_session_of_typescript if sys.argv[1:] == ["js"] else a_full_session
    asyncio.run(record(f"new-{new_id()[:6]}", play))
