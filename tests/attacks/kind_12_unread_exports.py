"""Accounts ask for everything that is stored about them, a hundred times over, and read none of it.

An export holds one piece at a time and is let go where nobody reads it for ten seconds; a user has one at a time and
an instance sixteen.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress

from tests.attacks.site import Site
from tests.faults.cluster import DATABASE
from tests.processes import SECRET
from twin_sio.clock import new_id, now
from twin_sio.dev_tokens import create_token
from twin_sio.domain import NewEvent
from twin_sio.http.exports import WRITE_S
from twin_sio.store import mongo

BEFORE = "110 unread exports held 1.8 GB, for ever"
_CONNECTIONS = 110
_TEXT = "\U0001f4a3" * 8_000  # 32 KB


async def attack(site: Site, until: float) -> str:
    users = [site.user() for _ in range(20 if site.is_full else 3)]
    await _filled(site, users, 300 if site.is_full else 200)
    received: Counter[str] = Counter()
    opened = []
    for number in range(_CONNECTIONS):
        opened.append(await _asked(site, users[number % len(users)]))
    await asyncio.sleep(max(0.0, until - time.monotonic()))
    for reader, writer in opened:
        head = b""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(0.2):
                head = await reader.readline()
        received[head.split(b" ")[1].decode() if head else "cut"] += 1
        writer.close()
    return f"{_CONNECTIONS} exports that nobody reads: " + ", ".join(f"{n} x {code}" for code, n in received.items())


async def check(site: Site) -> list[str]:
    """The places are free again, and who reads gets everything."""
    user = site.user("reader")
    await _filled(site, [user], 20)
    deadline = time.monotonic() + WRITE_S + 20
    while True:
        async with site.http.get(f"{site.url}/v1/export", headers=_headers(user)) as response:
            if response.status == 200:
                lines = (await response.text()).splitlines()
                return [] if len(lines) == 21 and '"end"' in lines[-1] else [f"{len(lines)} lines"]
        if time.monotonic() > deadline:
            return [f"who reads gets {response.status}"]
        await asyncio.sleep(7)


async def _filled(site: Site, users: list[str], count: int) -> None:
    client, db = mongo.connect(site.cluster.mongod.url, DATABASE, 20_000)
    log = mongo.MongoLog(db)
    try:
        for user in users:
            for _ in range(count):
                await log.append(NewEvent(user, "user_message", new_id(), "main", now(), {"text": _TEXT}))
    finally:
        client.close()


def _headers(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {create_token(user, SECRET, scope='twin:data', ttl_s=600)}"}


async def _asked(site: Site, user: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    _, writer = opened = await site.tcp()
    # The least that the kernel takes, so that little is on its way.
    lines = ["GET /v1/export HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in _headers(user).items())]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    return opened
