"""Turns that have cost two instances their lease, and answers from which nothing can be learnt, lie in the store.

A turn that cost two instances their lease ends as `failed` and meets no third; a job that fails twice for the same
reason is given up, and none holds up another user's.
"""

from __future__ import annotations

import asyncio
import time

from tests.attacks.profiles import database
from tests.attacks.site import Site
from tests.waiting import eventually
from twin_sio.clock import new_id, now
from twin_sio.domain import NewEvent, Turn
from twin_sio.store import mongo

BEFORE = "what blocked one instance followed to the next, and again"
_TURNS = 20
_users: dict[str, list[str]] = {}


async def attack(site: Site, until: float) -> str:
    users = _users[site.mark] = [site.user() for _ in range(_TURNS)]
    async with database(site) as db:
        messages, turns = mongo.MongoLog(db), mongo.MongoTurns(db, now)
        for user in users:
            await messages.append(NewEvent(user, "user_message", "poison", "main", now(), {"text": "poison"}, "s"))
            turn = Turn(user, "poison", "poison", "main", "s", 1.0, "queued", None, 0, False, "", now())
            begun = await turns.ensure(turn)
            await turns.acquire(user, "main", "an instance that is gone", 0.1)
            for _ in range(3):
                begun = await turns.begin(begun, new_id()) or begun
            for n in range(20):  # and what can never be read: its message is not there
                other = Turn(user, f"t{n}", f"t{n}", "main", "s", 2.0, "queued", None, 0, False, "", now())
                await turns.close(await turns.ensure(other), "complete")
    await asyncio.sleep(max(0.0, until - time.monotonic()))
    return f"{_TURNS} turns that were lost twice, {20 * _TURNS} that cannot be read"


async def check(site: Site) -> list[str]:
    async with database(site) as db:
        turns = mongo.MongoTurns(db, now)

        async def ended() -> bool:
            found = [await turns.get(user, "poison") for user in _users[site.mark]]
            return all(one is not None and one.state == "failed" for one in found)

        try:
            await eventually(ended, 30)
        except TimeoutError:
            return ["a turn that was lost twice has not ended"]
    return [] if site.logs().count('"turn_given_up"') >= _TURNS else ["no line of the log says so"]
