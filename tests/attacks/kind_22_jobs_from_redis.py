"""Somebody can write to Redis, and puts jobs into the queue that run code where they are unpacked.

Jobs are JSON of a fixed shape. Whatever else is in the queue is dropped unread and holds up nobody's jobs.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

from arq.constants import job_key_prefix
from redis.asyncio import Redis

from tests.attacks.site import Site
from tests.waiting import eventually
from twin_sio.jobs.queue import QUEUE

BEFORE = "code of the attacker's ran in the worker"


class _Armed:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


async def attack(site: Site, until: float) -> str:
    count = 0
    async with Redis(port=site.cluster.redis.port) as redis:
        while time.monotonic() < until:
            for data in _jobs(_path(site)):
                name = f"armed-{site.mark}-{count}"
                await redis.set(job_key_prefix + name, data, ex=300)
                await redis.zadd(QUEUE, {name: time.time() * 1000})
                count += 1
            await asyncio.sleep(0.1)
    return f"{count} jobs written into the queue"


async def check(site: Site) -> list[str]:
    async with Redis(port=site.cluster.redis.port) as redis:
        try:
            await eventually(lambda: _is_empty(redis), 60)
        except TimeoutError:
            return ["the jobs are still in the queue"]
    broken = ["code from Redis ran"] if os.path.exists(_path(site)) else []  # noqa: ASYNC240
    if not site.cluster.worker.alive:
        return [*broken, "the worker died"]
    user = site.user()
    async with site.cluster.device(user, 0) as device:
        await site.cluster.teach(device)  # others' jobs are done
    return broken


def _path(site: Site) -> str:
    return str(site.cluster.folder / f"touched-{site.mark}")


def _jobs(path: str) -> list[bytes]:
    call = {"t": 1, "f": "learn", "a": (_Armed(path),), "k": {}, "et": 1}
    wrong = {"t": 1, "f": "os.system", "a": [{"x": 1}], "k": {"trace": []}, "et": "now"}
    return [pickle.dumps(call), json.dumps(wrong).encode(), b"\x80", b"[" * 10_000, b"", b"{}"]


async def _is_empty(redis: Redis) -> bool:
    return not [name async for name, _ in redis.zscan_iter(QUEUE, match="armed-*")]
