"""An account stores so much that what lists it no longer fits into a frame, and nobody can read it any more.

Pages are bounded by bytes and go on where they end, lists hold no whole texts, and a resume waits for its reader.
"""

from __future__ import annotations

import json
from typing import Any

from tests.attacks.site import Site
from tests.faults.cluster import DATABASE
from tests.raw import RawSocket
from twin_sio.clock import new_id, now
from twin_sio.domain import NewEvent
from twin_sio.store import mongo

BEFORE = "400 conversations, or a page of 100 long messages, cut every reader for good"
_FRAME_MAX = 512 * 1024
_TEXT = "\U0001f4a3" * 8_000  # 32 KB, and more as JSON
_PAGES_MAX = 200


async def attack(site: Site, until: float) -> str:
    user = site.user()
    conversations, messages = (400, 100) if site.is_full else (120, 60)
    await _stored(site, user, conversations, messages)
    async with site.socket(user, last_seq=0) as device:
        await device.until(lambda: device.of("resumed"), 60)
        resumed = len(device.of("user_message"))
        pages = await _listed(device) + await _paged(device)
        largest = max(len(json.dumps(one, ensure_ascii=False).encode()) for one in device.events)
        cut = device.closed.is_set()
    read = f"{resumed} of {conversations + messages} resumed, {pages} pages of at most {largest // 1024} KiB"
    return f"{read}{', and cut' if cut else ''}"


async def check(site: Site) -> list[str]:
    user = site.user()
    await _stored(site, user, 120, 60)
    broken = []
    async with site.socket(user, last_seq=0) as device:
        await device.until(lambda: device.of("resumed"), 60)
        if len(device.of("user_message")) != 180 or not device.of("resumed")[0]["payload"]["complete"]:
            broken.append("a resume is not whole")
        await _listed(device)
        listed = {
            line["conversation_id"] for one in device.of("conversations") for line in one["payload"]["conversations"]
        }
        await _paged(device)
        shown = {line["message_id"] for one in device.of("history") for line in one["payload"]["messages"]}
        if len(listed) != 121:
            broken.append(f"{len(listed)} of 121 conversations are listed")
        if len(shown) != 60:
            broken.append(f"{len(shown)} of 60 messages are shown")
        if (largest := max(len(json.dumps(one, ensure_ascii=False).encode()) for one in device.events)) > _FRAME_MAX:
            broken.append(f"a frame of {largest // 1024} KiB")
        if device.closed.is_set():
            broken.append("the reader was cut")
    return broken


async def _listed(device: RawSocket) -> int:
    asked: dict[str, Any] = {"limit": 200}
    for page in range(1, _PAGES_MAX):
        received = (await device.ask("conversations", {"payload": asked, "metadata": {}}))["payload"]
        if not received.get("has_more"):
            return page
        asked["before"] = received["next"]
    return _PAGES_MAX


async def _paged(device: RawSocket) -> int:
    asked: dict[str, Any] = {"limit": 200}
    for page in range(1, _PAGES_MAX):
        received = (await device.ask("history", {"payload": asked, "metadata": {}}))["payload"]
        if not received["has_more"]:
            return page
        asked["before"] = received["messages"][0]["message_id"]
    return _PAGES_MAX


async def _stored(site: Site, user: str, conversations: int, messages: int) -> None:
    client, db = mongo.connect(site.cluster.mongod.url, DATABASE, 20_000)
    log = mongo.MongoLog(db)
    names = [*(f"c{number}" for number in range(conversations)), *(["main"] * messages)]
    try:
        for name in names:
            await log.append(NewEvent(user, "user_message", new_id(), name, now(), {"text": _TEXT}))
    finally:
        client.close()
