"""The servers that are measured, each a process that takes commands as JSON lines on standard input:

    {"do": "emit", "rounds": n, "users": [...]}   n chunks to each of these users' rooms
    {"do": "cpu"}                                 nothing more

Each is answered by `{"cpu_us": ..., "rss_kib": ..., "sockets": ...}` once it is done.

It prints `{"port": n}` first. A device is a WebSocket that names its user in the address (`?user=`) or, where it is a
Socket.IO server, also in the query of the handshake.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop

TEXT = " and so the story goes on"
Emit = Callable[[Sequence[str], int], Awaitable[None]]


def chunk(generation: str, index: int) -> dict[str, Any]:
    """What everybody sends: as large as a chunk of ours."""
    return {
        "type": "twin_message_chunk",
        "payload": {"text": TEXT, "generation_id": generation, "chunk_index": index, "is_last_chunk": False},
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


async def obey(port: int, emit: Emit, sockets: Callable[[], int], more: dict[str, Any] | None = None) -> None:
    """Say the port, then do as standard input says until it ends."""
    say({"port": port, **(more or {})})
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        if command["do"] == "emit":
            await emit(command["users"], command["rounds"])
        say({"cpu_us": cpu_us(), "rss_kib": rss_kib(), "sockets": sockets()})


def say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run on uvloop, as the product does."""

    async def started() -> None:
        await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(started())
