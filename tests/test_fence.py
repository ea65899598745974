"""The fence of an erasure: no late write of earlier data survives it, on any clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pymongo.errors import PyMongoError

from tests.test_store import draft, evidence, turn
from tests.waiting import eventually
from twin_sio.clock import new_id, now
from twin_sio.domain import Profile
from twin_sio.errors import StorageUnavailable, TooLate
from twin_sio.runtime.dev_engines.engines import Mongod
from twin_sio.store import mongo
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.ids import Ids
from twin_sio.store.mongo.fence import PERSONAL, Fence, owner
from twin_sio.store.mongo.keys import load_ids


@pytest.fixture(scope="module")
async def db(mongod: Mongod) -> AsyncIterator[mongo.Database]:
    client, database = mongo.connect(mongod.url, "fence_tests", 5000)
    await mongo.create_indexes(database)
    yield database
    client.close()


@pytest.fixture
async def ids(db: mongo.Database) -> Ids:
    return await load_ids(db, FieldCipher())


class Instance:
    """The stores of one instance, with a fence of its own: it learns of erasures from the store alone."""

    def __init__(self, db: mongo.Database, ids: Ids) -> None:
        self.fence = Fence(db, ids)
        self.log = mongo.MongoLog(db, None, self.fence)
        self.turns = mongo.MongoTurns(db, now, None, self.fence)
        self.contexts = mongo.MongoContexts(db, now, 60, None, self.fence)
        self.outbox = mongo.MongoOutbox(db, now, None, self.fence)
        self.profiles = mongo.MongoProfiles(db, None, self.outbox, self.fence)
        self.statistics = mongo.MongoStatistics(db, None, self.fence)
        self.personal = mongo.MongoPersonalData(db, None, self.fence)
        self.snapshots = mongo.MongoConnectSnapshots(db, self.fence)

    async def write_all(self, user: str, epoch: int = 0) -> None:
        """A document of every kind."""
        await self.log.append(replace(draft(user), epoch=epoch))
        await self.turns.ensure(replace(turn(user, new_id()), epoch=epoch))
        await self.turns.acquire(user, "main", "owner", 5, epoch)
        await self.log.mark_read(user, "other", 1, epoch)
        await self.contexts.put(user, "s", {"page": 1}, epoch)
        await self.profiles.add_evidence([evidence(user, new_id())], epoch)
        version = (await self.profiles.get(user)).profile.version
        await self.profiles.replace(Profile(user, version, ()), [], epoch)
        answers = await self.statistics.answers(user)
        await self.statistics.put(user, now(), {}, answers, None, epoch)


async def _left(db: mongo.Database, user: str) -> dict[str, int]:
    counted = {name: await db[name].count_documents(owner(name, user)) for name in PERSONAL.values()}
    return {name: count for name, count in counted.items() if count}


async def test_late_writes_of_an_instance_are_removed(
    db: mongo.Database, ids: Ids, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data written by an instance that does not know of the erasure is removed again."""
    monkeypatch.setattr("twin_sio.store.mongo.fence._LOOK_S", 2.5)  # all of it is written before the first look
    monkeypatch.setattr("twin_sio.store.mongo.fence._LAST_LOOK_S", 20)
    here, there = Instance(db, ids), Instance(db, ids)
    await here.write_all(user)
    await there.write_all(user)
    await here.personal.erase(user)
    assert await _left(db, user) == {}
    await there.write_all(user)  # of before: it began when the epoch was 0
    await there.fence.close()
    assert await _left(db, user) == {}
    with pytest.raises(TooLate):
        await there.log.append(draft(user))


async def test_nobody_is_let_in_before_it_is_done(db: mongo.Database, ids: Ids, user: str) -> None:
    here, there = Instance(db, ids), Instance(db, ids)
    await here.write_all(user)
    erased = await here.personal.erase(user)
    assert (await there.snapshots.of(user)).is_erasing
    await here.personal.allow_connections(user, erased.epoch - 1)  # of another erasure
    assert (await there.snapshots.of(user)).is_erasing
    await here.personal.allow_connections(user, erased.epoch)
    assert not (await there.snapshots.of(user)).is_erasing


async def test_what_is_counted_is_of_one_epoch(db: mongo.Database, ids: Ids, user: str) -> None:
    here = Instance(db, ids)
    await here.write_all(user)
    await here.log.append(replace(draft(user), type="twin_message", payload={"text": "hi", "status": "complete"}))
    assert ((await here.statistics.answers(user)).count, (await here.statistics.answers(user, 1)).count) == (1, 0)


async def test_no_clock_decides_what_is_of_before(db: mongo.Database, ids: Ids, user: str) -> None:
    here = Instance(db, ids)
    ahead, behind = (replace(draft(user), at=now() + timedelta(seconds=s)) for s in (5, -3600))
    await here.log.append(ahead)
    erased = await here.personal.erase(user)
    assert await _left(db, user) == {}
    await here.log.append(replace(behind, epoch=erased.epoch))
    await here.fence.close()
    assert await _left(db, user) == {"events": 1}


async def test_a_head_before_the_erasure_is_void(db: mongo.Database, ids: Ids, user: str) -> None:
    """A head of before the erasure is not believed after it."""
    here, there = Instance(db, ids), Instance(db, ids)
    await there.log.append(draft(user))  # it remembers: the head is 1
    for _ in range(4):
        await here.log.append(draft(user))
    erased = await here.personal.erase(user)
    stored = await there.log.append(replace(draft(user), epoch=erased.epoch))
    assert stored.event.seq == 6
    assert (await there.snapshots.of(user)).epoch == 1


async def test_a_late_event_takes_no_seq(db: mongo.Database, ids: Ids, user: str) -> None:
    """A late event takes neither the seq nor the id of what came after."""
    here, there = Instance(db, ids), Instance(db, ids)
    erased = await here.personal.erase(user)
    await there.log.append(draft(user, "same"))
    stored = await here.log.append(replace(draft(user, "same", "after"), epoch=erased.epoch))
    assert stored.is_new
    assert stored.event.payload == {"text": "after"}
    await asyncio.gather(here.fence.close(), there.fence.close())
    assert await _left(db, user) == {"events": 1}
    assert (await here.log.append(replace(draft(user), epoch=erased.epoch))).event.seq > stored.event.seq


async def test_a_late_learner_replaces_nothing(db: mongo.Database, ids: Ids, user: str) -> None:
    """A late learner neither sees nor replaces what was learnt after."""
    here, there = Instance(db, ids), Instance(db, ids)
    erased = await here.personal.erase(user)
    await here.profiles.add_evidence([evidence(user, "new")], erased.epoch)
    await here.profiles.replace(Profile(user, 0, ()), [], erased.epoch)
    await there.profiles.add_evidence([evidence(user, "old")], 0)
    assert [piece.value for piece in await here.profiles.evidence(user, erased.epoch)] == ["new"]
    assert await there.profiles.replace(Profile(user, 1, ()), [], 0) is False


async def test_the_second_pass_removes_leftovers(db: mongo.Database, ids: Ids, user: str) -> None:
    """What died on its way is removed when the erasure is carried out again."""
    here = Instance(db, ids)
    erased = await here.personal.erase(user)
    await mongo.MongoLog(db).append(draft(user))  # nobody looks at it again
    named = {"_id": ids.user(user)}
    for _ in range(2):
        await db["erasures"].update_one(named, {"$set": {"due_at": now() - timedelta(seconds=1)}})
        assert (user, erased.epoch) in await here.personal.erasures_due(100)
        await here.personal.erase_late(user, erased.epoch)
        await here.personal.erased(user, erased.epoch)
    assert await _left(db, user) == {}
    assert await db["erasures"].find_one(named) is None


async def test_an_erasure_whose_process_died_is_carried_out(
    db: mongo.Database, ids: Ids, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it died before anything but the plan was written."""
    here = Instance(db, ids)
    await here.write_all(user)

    class Dead:
        async def find_one_and_update(self, *_: Any, **__: Any) -> None:
            raise PyMongoError

    monkeypatch.setattr(here.personal, "_users", Dead())
    with pytest.raises(StorageUnavailable):
        await here.personal.erase(user)
    monkeypatch.undo()
    await db["erasures"].update_one({"_id": ids.user(user)}, {"$set": {"due_at": now() - timedelta(seconds=1)}})
    assert (user, 1) in await here.personal.erasures_due(100)
    await here.personal.erase_late(user, 1)
    assert (await here.fence.epoch(user), await _left(db, user)) == (1, {})


async def test_what_remains_of_a_user_names_nobody(db: mongo.Database, ids: Ids, user: str) -> None:
    here = Instance(db, ids)
    await here.write_all(user)
    await here.personal.erase(user)
    await here.personal.erase(user)
    await here.fence.close()
    found = str([[doc async for doc in db[name].find({})] for name in await db.list_collection_names()])
    assert user not in found
    assert await db["users"].find_one({"_id": ids.user(user)}) is not None


async def test_id_keys_outlast_a_rotation(mongod: Mongod, user: str) -> None:
    """The keys of ids are made once and outlast a rotation."""
    client, db = mongo.connect(mongod.url, f"keys_{user[-6:]}", 5000)
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    plain = await load_ids(db, FieldCipher())
    one, other = await asyncio.gather(*(load_ids(db, FieldCipher([old])) for _ in range(2)))
    rewritten: list[Any] = []
    await mongo.reencrypt(db, FieldCipher([new, old]), lambda *received: rewritten.append(received))
    after = await load_ids(db, FieldCipher([new]))
    for made in (other, after):
        assert made.subject(user) == one.subject(user) != user
        assert made.evidence(user, "e") == one.evidence(user, "e") != plain.evidence(user, "e")
        assert made.user(user) == plain.user(user)
    client.close()


async def test_a_look_outlasts_a_store_that_is_away(db: mongo.Database, ids: Ids, user: str) -> None:
    here, there = Instance(db, ids), Instance(db, ids)
    await here.personal.erase(user)
    look_at, failed = there.fence._look_at, []

    async def away_once(written: Any) -> None:
        if not failed:
            failed.append(written)
            raise PyMongoError
        await look_at(written)

    there.fence._look_at = away_once  # type: ignore[method-assign]
    await there.log.append(draft(user))
    await eventually(lambda: _is_empty(db, user))
    assert failed


async def _is_empty(db: mongo.Database, user: str) -> bool:
    return not await _left(db, user)
