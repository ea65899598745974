"""Somebody erases everything while six of their devices write, on three servers, one of them five seconds ahead.

Redis stands still every other moment, and an answer is being made. Erased is what began before the erasure, by a number
that the database keeps and every document carries; the clocks of servers decide nothing. What is written late is found
within moments, and again a minute later; what Redis keeps of an answer has an end from its first word.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import aiohttp
import pymongo
from redis.asyncio import Redis

from tests.attacks.site import Site
from tests.faults.cluster import DATABASE
from tests.processes import SECRET
from tests.raw import RawSocket
from tests.waiting import eventually
from twin_sio.dev_tokens import create_token
from twin_sio.jobs.queue import QUEUE

BEFORE = "words in Redis for 10 minutes; 8 of 12 a key without an end, 7 of 12 events, all of a clock 3 s ahead"
SHORT, FULL = 3, 100
_DEVICES = 6
_PAUSE_S = 0.3


async def attack(site: Site, until: float) -> str:
    user = site.user()
    async with site.socket(user) as device:
        await device.ask("user_message", _message("m1", f"words of {user}"))
    status = await _erase(site, site.url, user)
    return f"erased with {status}; the erasures in mid-answer are judged afterwards"


async def check(site: Site) -> list[str]:
    count = FULL if site.is_full else SHORT
    broken: list[str] = []
    async with _three_servers(site) as servers, _slow_redis(site):
        for number in range(count):
            broken += await _erased_in_mid_answer(site, servers, number)
    return broken


async def _erased_in_mid_answer(site: Site, servers: list[str], number: int) -> list[str]:
    user = site.user("erased")
    word = f"words-{user}"
    await site.cluster.script(word, tokens=[f"{word} "] * 400, token_delay_s=0.02)
    async with AsyncExitStack() as stack:
        devices = [RawSocket(servers[index % len(servers)], site.token(user)) for index in range(_DEVICES)]
        for device in devices:
            await stack.enter_async_context(device)
        busy = [asyncio.create_task(_busy(device, word, index)) for index, device in enumerate(devices)]
        await devices[number % _DEVICES].until(lambda: devices[number % _DEVICES].of("twin_message_chunk"), 30)
        status = await _erase(site, servers[number % len(servers)], user)
        _, writing = await asyncio.wait(busy, timeout=20)
        for one in writing:
            one.cancel()
    if writing:
        return [f"after erasure {number} {len(writing)} devices were not let go"]
    if status != 200:
        return [f"erasure {number} was answered with {status}"]
    try:
        await eventually(lambda: _none_left(site, user, word), 15)
    except TimeoutError:
        return [f"after erasure {number}: {'; '.join(await _left(site, user, word))}"]
    return []


async def _busy(device: RawSocket, word: str, index: int) -> None:
    """Write all that a device can, as fast as it may, until the server lets it go."""
    with suppress(aiohttp.ClientError, ConnectionError):
        for turn in itertools.count():
            if device.closed.is_set() or device.leave is not None:
                return
            await device.emit("user_message", _message(f"m-{index}-{turn}", f"{word} {index} {turn}"))
            about = {"message_id": f"m-{index}-{turn}"}
            await device.emit("read_receipt", {"payload": about, "metadata": {}})
            await device.emit("context_update", {"payload": {"context": {word: turn}}, "metadata": {}})
            await asyncio.sleep(0.1)


def _message(message_id: str, text: str) -> dict[str, Any]:
    return {"payload": {"text": text}, "metadata": {"message_id": message_id}}


async def _erase(site: Site, url: str, user: str) -> int:
    token = create_token(user, SECRET, scope="twin:chat twin:profile twin:data")
    async with site.http.delete(f"{url}/v1/data", headers={"Authorization": f"Bearer {token}"}) as response:
        return response.status


async def _none_left(site: Site, user: str, word: str) -> bool:
    return not await _left(site, user, word)


async def _left(site: Site, user: str, word: str) -> list[str]:
    """What names the user or holds a word of theirs, wherever it is, and what has no end."""
    found = await _in_mongodb(site, user) + await _in_redis(site, user)
    for path in site.cluster.folder.rglob("*.log"):
        if word in path.read_text(errors="replace"):
            found.append(f"words in {path.name}")
    return found


async def _in_mongodb(site: Site, user: str) -> list[str]:
    async with pymongo.AsyncMongoClient[dict[str, Any]](site.cluster.mongod.url) as client:
        db = client[DATABASE]
        return [
            f"{name}: {sorted(doc)}"
            for name in await db.list_collection_names()
            async for doc in db[name].find({})
            if user in str(doc)
        ]


async def _in_redis(site: Site, user: str) -> list[str]:
    found = []
    async with Redis(port=site.cluster.redis.port, socket_timeout=5) as redis:
        async for key in redis.scan_iter(count=1000):
            name = key.decode()
            if name != QUEUE and await redis.ttl(key) == -1:
                found.append(f"Redis: {name.replace(user, 'USER')} has no end")
            if user in name or user in await _value(redis, key):
                found.append(f"Redis: {name.replace(user, 'USER')}")
    return found


async def _value(redis: Redis, key: bytes) -> str:
    match await redis.type(key):
        case b"string":
            return str(await redis.get(key))
        case b"list":
            return str(await redis.lrange(key, 0, -1))
        case b"hash":
            return json.dumps(str(await redis.hgetall(key)))
        case b"zset":
            return str(await redis.zrange(key, 0, -1))
    return ""


@asynccontextmanager
async def _three_servers(site: Site) -> AsyncIterator[list[str]]:
    async with site.cluster.one_more() as second:
        ahead = await site.cluster.process("tests.attacks.server_ahead")
        try:
            yield [site.url, site.cluster.servers[second].url, ahead.url]
        finally:
            await asyncio.to_thread(ahead.stop, 3.0)


@asynccontextmanager
async def _slow_redis(site: Site) -> AsyncIterator[None]:
    """Redis stands still for moments, again and again."""

    async def slow() -> None:
        while True:
            site.cluster.redis.pause()
            try:
                await asyncio.sleep(_PAUSE_S)
            finally:
                site.cluster.redis.resume()
            await asyncio.sleep(_PAUSE_S)

    slowing = asyncio.create_task(slow())
    try:
        yield
    finally:
        slowing.cancel()
        await asyncio.gather(slowing, return_exceptions=True)
