"""What the store's operations cost MongoDB of a user who has written much: its profiler says what each looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pymongo import ASCENDING, IndexModel

from tests.test_store import draft, turn
from twin_sio.clock import new_id, now
from twin_sio.runtime.dev_engines.engines import Mongod
from twin_sio.store import mongo
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.ids import Ids
from twin_sio.store.mongo.fence import PERSONAL, Fence, owner
from twin_sio.store.mongo.keys import load_ids
from twin_sio.store.mongo.migrations import MongoMigrations
from twin_sio.store.ports import SCORING_VERSION

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


async def test_leases_are_found_among_those_that_are_held(db: mongo.Database, user: str) -> None:
    turns = mongo.MongoTurns(db, lambda: now() + timedelta(seconds=60))
    free = {"user_id": user, "owner": None, "leased": False, "lease_until": now(), "epoch": 0}
    await db["conversations"].insert_many([{**free, "conversation_id": f"c{n}"} for n in range(MANY)])
    await _close_turns(db, user)
    await turns.acquire(user, "held", "alive", 60)
    await turns.acquire(user, "expired", "dead", 0.0)
    await turns.ensure(turn(user, "waiting", conversation="unowned"))
    async with profiled(db) as entries:
        assert await turns.answering(user) == 1
        found = await turns.abandoned(5, 1000)
    assert [one for whose, one in found if whose == user] == ["expired", "unowned"]
    assert examined(entries) <= 20


async def test_of_many_ratings_the_newest_alone_is_looked_at(db: mongo.Database, user: str) -> None:
    log = mongo.MongoLog(db, FieldCipher([Fernet.generate_key().decode()]))
    rated = replace(draft(user), type="feedback", payload={"message_id": "often", "rating": "up"})
    first = (await log.append(rated)).event
    (doc,) = await db["events"].find({"user_id": user}).to_list(1)
    del doc["_id"]
    await db["events"].insert_many([{**doc, "seq": first.seq + n, "message_id": new_id()} for n in range(1, MANY)])
    log = mongo.MongoLog(db, log._sealer)
    for message_id, rating in (("often", "down"), ("once", "none"), ("unasked", "up")):
        await log.append(replace(rated, message_id=new_id(), payload={"message_id": message_id, "rating": rating}))
    said = replace(draft(user), payload={"message_id": "unrated", "text": "no rating"})
    await log.append(said)
    async with profiled(db) as entries:
        asked = ["often", "once", "unrated", *(f"other-{n}" for n in range(47))]
        found = await log.feedback(user, asked)
        assert await log.feedback(user, ["unrated"]) == {}
        assert await log.feedback("somebody-else", ["often"]) == {}
    assert {one: payload["rating"] for one, payload in found.items()} == {"often": "down", "once": "none"}
    assert examined(entries) <= 2 * len(asked)


async def test_much_is_erased_in_short_commands(db: mongo.Database, user: str) -> None:
    log = mongo.MongoLog(db)
    first = (await log.append(draft(user))).event
    (doc,) = await db["events"].find({"user_id": user}).to_list(1)
    del doc["_id"]
    await db["events"].insert_many([{**doc, "seq": first.seq + n, "message_id": new_id()} for n in range(1, MANY)])
    later = {"seq": MANY + 1, "message_id": new_id(), "epoch": 5}
    await db["events"].insert_one({**doc, **later})
    await db["profiles"].insert_one({"_id": user, "version": 1})
    fence = Fence(db, await load_ids(db, FieldCipher()))
    async with profiled(db) as entries:
        counts = await fence.remove(user, 5)
    assert counts == dict.fromkeys(PERSONAL.values(), 0) | {"events": MANY, "profiles": 1}
    assert [one["seq"] async for one in db["events"].find(owner("events", user))] == [MANY + 1]
    removed = [one["ndeleted"] for one in entries if one.get("ndeleted")]
    assert sum(removed) == MANY + 1
    assert max(removed) <= 1_000


@pytest.mark.parametrize("sealer", [FieldCipher(), FieldCipher([Fernet.generate_key().decode()])])
async def test_many_answers_are_counted_in_pages_without_their_texts(
    db: mongo.Database, user: str, sealer: FieldCipher
) -> None:
    plain = {"text": "w" * 200, "status": "complete", "generation_id": "g", "model": "m", "used_traits": ["a"]}
    kinds = [plain, {**plain, "status": "failed"}, {**plain, "used_traits": []}, sealer.seal(plain)]
    said = {"user_id": user, "type": "twin_message", "conversation_id": "main"}
    docs = [
        {**said, "seq": n + 1, "message_id": new_id(), "payload": kinds[n % 4 if n > 100 else 0]} for n in range(MANY)
    ]
    await db["events"].insert_many(docs)
    async with profiled(db) as entries:
        counted = await mongo.MongoStatistics(db, sealer).answers(user)
    failed = sum(n % 4 == 1 for n in range(101, MANY))
    bare = sum(n % 4 == 2 for n in range(101, MANY))
    assert asdict(counted) == {"through_seq": MANY, "count": MANY - failed, "using": MANY - failed - bare}
    assert max(one.get("nreturned", 0) for one in entries) <= 1_000
    if not sealer.seals:
        assert max(one.get("responseLength", 0) for one in entries) <= 150 * 1_000


async def test_indexes_of_before_are_replaced(mongod: Mongod) -> None:
    client, db = mongo.connect(mongod.url, f"before_{new_id()[:8]}", 5000)
    try:
        await db["conversations"].insert_one({"user_id": "u", "conversation_id": "c", "leased": True})
        leases = IndexModel([("lease_until", ASCENDING)], name="leases", partialFilterExpression={"leased": True})
        await db["conversations"].create_indexes([leases])
        about = [("user_id", ASCENDING), ("payload.message_id", ASCENDING), ("seq", ASCENDING)]
        ratings = IndexModel(about, name="feedback", partialFilterExpression={"type": "feedback"})
        await db["events"].create_indexes([ratings])
        for _ in range(2):
            await mongo.create_indexes(db)
        for name, models in mongo.INDEXES.items():
            made = set(await db[name].index_information()) - {"_id_"}
            assert made == {model.document["name"] for model in models}
    finally:
        await client.drop_database(db.name)
        client.close()


async def test_the_heads_of_logs_are_read_without_the_logs(db: mongo.Database) -> None:
    users = [f"kim{new_id()}" for _ in range(3)]
    for user in users:
        plain = {"epoch": 0, "user_id": user, "type": "read_receipt", "conversation_id": "main", "at": now()}
        await db["events"].insert_many([{**plain, "message_id": f"{user}-{n}", "seq": n + 1} for n in range(500)])
    async with profiled(db) as entries:
        heads = await mongo.MongoLog(db).heads(users)
    assert heads == dict.fromkeys(users, 500)
    assert examined(entries) <= 10


async def test_a_migration_looks_at_what_is_not_done_alone(db: mongo.Database, user: str) -> None:
    done = [{"_id": f"{user}-{n}", "reading": SCORING_VERSION, "keyed": True, "traits": []} for n in range(MANY)]
    await db["profiles"].insert_many([*done, {"_id": f"{user}-old", "reading": SCORING_VERSION - 1, "traits": []}])
    migrations = MongoMigrations(db, FieldCipher(), Fence(db, Ids(names=bytes(32))))
    async with profiled(db) as entries:
        found = await migrations.profiles_to_score(10), await migrations.profiles_to_rename(10)
    assert found == ([f"{user}-old"], [f"{user}-old"])
    assert examined(entries) <= 10
