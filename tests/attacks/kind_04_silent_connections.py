"""TCP connections that say nothing, half a request or one header after the other, and connections kept idle.

A request's head, its body and the time between two requests have a deadline; of one address there are so many
connections without a session, and the oldest ends for the newest.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from asyncio import StreamReader, StreamWriter

from tests.attacks.site import Site
from tests.conftest import eventually
from tests.processes import Process

BEFORE = "400 descriptors of one address shut the server to newcomers, for ever"
BEGINNINGS = (
    b"",
    b"GET /heal",
    b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: ",
    b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /v1/ticket HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n",
    b"GET /ws/chat/x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n",
)
_AT_ONCE = 600
_OF_ADDRESS = 256 + 16  # and what is just being cut


async def attack(site: Site, until: float) -> str:
    held: list[tuple[StreamReader, StreamWriter]] = []
    opened, most = 0, 0
    try:
        while time.monotonic() < until:
            if len(held) >= _AT_ONCE:
                held = _living(held)
            with contextlib.suppress(OSError):
                reader, writer = await site.tcp()
                writer.write(random.choice(BEGINNINGS))
                held.append((reader, writer))
                opened += 1
            if opened % 50 == 0:
                most = max(most, descriptors(site.cluster.servers[0]))
            await asyncio.sleep(0.002)
        return f"{opened} connections opened, the server had {most} descriptors at most"
    finally:
        for _, writer in held:
            writer.close()


async def check(site: Site) -> list[str]:
    server = site.cluster.servers[0]
    before = descriptors(server)
    held = [await site.tcp() for _ in range(_AT_ONCE)]
    try:
        await eventually(lambda: descriptors(server) <= before + _OF_ADDRESS, 5)
    except TimeoutError:
        return [f"one address holds {descriptors(server) - before} descriptors"]
    finally:
        for _, writer in held:
            writer.close()
    return []


def descriptors(server: Process) -> int:
    """How many the process has."""
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def _living(held: list[tuple[StreamReader, StreamWriter]]) -> list[tuple[StreamReader, StreamWriter]]:
    living = []
    for reader, writer in held:
        if reader.at_eof() or reader.exception() is not None:
            writer.close()
        else:
            living.append((reader, writer))
    return living[100:]
