"""Clients for the conformance kit: `python -m tests.conformant ours|naive URL TOKEN`.

`ours` is the Python client. `naive` is what one writes first: it comes back by itself, appends what it gets, and knows
nothing of seq, generations or an outbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import Any

import socketio

from twin_sio.client import Ended, MessageChanged, TwinClient
from twin_sio.clock import new_id
from twin_sio.conformance import COUNT_TOOL
from twin_sio.domain import Json


async def ours(url: str, token: str, kind: type[TwinClient] = TwinClient, **options: Any) -> None:
    async def fresh() -> str:
        return token

    runs = 0

    async def run(name: str, _: Json) -> int:
        nonlocal runs
        runs += 1
        return runs

    client = kind(url, fresh, **options)
    changes = client.changes()
    await client.connect(timeout=10)
    await client.send("hello")
    await client.offer_tools([{"name": COUNT_TOOL, "description": "How often it was run."}], run)
    async for change in changes:
        match change:
            case MessageChanged(message, True) if (
                message.conversation_id == "report" and message.session_id is not None
            ):
                shown = [one.text for one in client.state.transcript()]
                unfinished = [one.text for one in client.state.generations.values()]
                await client.send(json.dumps([*shown, *unfinished]), conversation_id="report")
            case Ended():
                break
    await client.close()


async def naive(url: str, token: str) -> None:
    socket = socketio.AsyncClient(reconnection_delay=0.1, reconnection_delay_max=0.2)
    shown: list[str] = []
    said = False

    async def say(text: str, conversation_id: str) -> None:
        metadata = {"message_id": new_id(), "conversation_id": conversation_id}
        await socket.emit("user_message", {"payload": {"text": text}, "metadata": metadata})

    @socket.on("user_message")
    async def _(envelope: dict[str, Any]) -> None:
        nonlocal said
        if envelope["metadata"]["conversation_id"] == "report":
            return await say(json.dumps(shown), "report")
        shown.append(envelope["payload"]["text"])
        if not said:
            said = True
            shown.append("hello")
            await say("hello", "main")
        return None

    @socket.on("twin_message_chunk")
    async def _(envelope: dict[str, Any]) -> None:
        if envelope["payload"]["chunk_index"]:
            shown[-1] += envelope["payload"]["text"]
        else:
            shown.append(envelope["payload"]["text"])

    @socket.on("twin_message")
    async def _(envelope: dict[str, Any]) -> None:
        shown[-1] = envelope["payload"]["text"]

    while not socket.connected:
        with contextlib.suppress(socketio.exceptions.ConnectionError):
            await socket.connect(url, auth={"token": token}, transports=["websocket"])
        await asyncio.sleep(0.05)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run({"ours": ours, "naive": naive}[sys.argv[1]](*sys.argv[2:]))
