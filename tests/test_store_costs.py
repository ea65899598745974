"""What the store's operations cost MongoDB of a user who has written much: its profiler says what each looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import pytest

from tests.test_store import turn
from twin_sio.clock import now
from twin_sio.runtime.dev_engines.engines import Mongod
from twin_sio.store import mongo

MANY = 2_500


@pytest.fixture(scope="module")
async def db(mongod: Mongod) -> AsyncIterator[mongo.Database]:
    client, database = mongo.connect(mongod.url, "cost_tests", 5000)
    await mongo.create_indexes(database)
    yield database
    client.close()


@asynccontextmanager
async def profiled(db: mongo.Database) -> AsyncIterator[list[dict[str, Any]]]:
    """What MongoDB did meanwhile, an entry a command; there once it is over."""
    entries: list[dict[str, Any]] = []
    await db.command("profile", 0)
    await db["system.profile"].drop()
    await db.command("profile", 2)
    try:
        yield entries
    finally:
        await db.command("profile", 0)
    entries += [one async for one in db["system.profile"].find({"ns": {"$not": {"$regex": "system"}}})]


def examined(entries: Sequence[dict[str, Any]]) -> int:
    """How much the costliest of them looked at."""
    assert entries
    return max(max(one.get("docsExamined", 0), one.get("keysExamined", 0)) for one in entries)


async def _close_turns(db: mongo.Database, user: str) -> None:
    done = asdict(turn(user)) | {"state": "complete", "unfinished": False}
    ids = [f"old-{n}" for n in range(MANY)]
    await db["turns"].insert_many([{**done, "turn_id": one, "message_id": one, "conversation_id": one} for one in ids])


async def test_a_stop_looks_at_what_is_owed_alone(db: mongo.Database, user: str) -> None:
    turns = mongo.MongoTurns(db, now)
    await _close_turns(db, user)
    await turns.ensure(turn(user, "t2", 2.0))
    await turns.ensure(turn(user, "t1", 1.0))
    async with profiled(db) as entries:
        stopped = await turns.request_stop(user, "t2")
        assert await turns.request_stop(user, "old-7") is None
        assert await turns.request_stop(user, "none") is None
    assert stopped is not None
    assert (stopped.turn_id, stopped.stop_requested) == ("t2", True)
    assert examined(entries) <= 10
