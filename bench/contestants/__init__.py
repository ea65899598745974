"""The servers that are measured, each a process that takes commands as JSON lines on standard input:

    {"do": "emit", "users": [...], "rounds": n}                     n chunks to each of these users, at once
    {"do": "stream", "users": [...], "tokens": n, "rate": per_s}    n chunks to each, paced as a model's tokens
    {"do": "cpu"}                                                   nothing more

Each is answered by `{"cpu_us": ..., "rss_kib": ..., "sockets": ...}` once it is done. A process prints `{"port": n}`
first. A device is a WebSocket that names its user in the query.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop

TEXT = " and so the story goes on"
Send = Callable[[str, int, str], Awaitable[None]]
"""`send(user, index, text)`: one chunk to all of a user's devices."""


def chunk(generation: str, index: int, text: str) -> dict[str, Any]:
    """What everybody sends: as large as a chunk of ours."""
    return {
        "type": "twin_message_chunk",
        "payload": {"text": text, "generation_id": generation, "chunk_index": index, "is_last_chunk": False},
        "metadata": {
            "timestamp": "2026-06-12T14:22:31.123Z",
            "message_id": "0123456789abcdef0123456789abcdef",
            "session_id": "session-0123456789",
            "in_response_to": "fedcba9876543210fedcba9876543210",
            "conversation_id": "main",
        },
    }


def cpu_us() -> int:
    """The CPU time of this process, user and system, in microseconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return int((used.ru_utime + used.ru_stime) * 1e6)


def rss_kib() -> int:
    """What this process holds in memory, in KiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


async def obey(port: int, send: Send, sockets: Callable[[], int]) -> None:
    """Say the port, then do as standard input says until it ends."""
    say({"port": port})
    reader = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        if command["do"] == "emit":
            await _emit(send, command["users"], command["rounds"])
        elif command["do"] == "stream":
            await _stream(send, command["users"], command["tokens"], command["rate"])
        say({"cpu_us": cpu_us(), "rss_kib": rss_kib(), "sockets": sockets()})


async def _emit(send: Send, users: Sequence[str], rounds: int) -> None:
    for index in range(rounds):
        for user in users:
            await send(user, index, TEXT)
        await asyncio.sleep(0)


async def _stream(send: Send, users: Sequence[str], tokens: int, rate: float) -> None:
    """Every user's tokens at their own pace, the users spread evenly over a token's time."""
    began = time.monotonic()

    async def one(user: str, offset: float) -> None:
        for index in range(tokens):
            due = began + offset + index / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await send(user, index, f"{time.monotonic():.6f}")

    await asyncio.gather(*(one(user, n / rate / len(users)) for n, user in enumerate(users)))


def say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run on uvloop, as the product does."""

    async def started() -> None:
        await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(started())
