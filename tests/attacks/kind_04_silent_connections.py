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
from tests.processes import Process
from tests.waiting import eventually

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
    left: list[tuple[StreamReader, StreamWriter]] = []  # no longer held, and closed at the end
    opened, most = 0, 0
    try:
        while time.monotonic() < until:
            if len(held) >= _AT_ONCE:
                living = [one for one in held if not one[0].at_eof() and one[0].exception() is None]
                held, gone = living[100:], [one for one in held if one not in living[100:]]
                left += gone
                for _, writer in gone:
                    writer.close()
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
        await _close([*held, *left])


async def check(site: Site) -> list[str]:
    server = site.cluster.servers[0]
    before = descriptors(server)
    held = [await site.tcp() for _ in range(_AT_ONCE)]
    try:
        await eventually(lambda: descriptors(server) <= before + _OF_ADDRESS, 5)
    except TimeoutError:
        return [f"one address holds {descriptors(server) - before} descriptors"]
    finally:
        await _close(held)
    return []


async def _close(held: list[tuple[StreamReader, StreamWriter]]) -> None:
    for _, writer in held:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in held), return_exceptions=True)


def descriptors(server: Process) -> int:
    """How many the process has."""
    return len(os.listdir(f"/proc/{server.pid}/fd"))
