"""What an answer remembers, over a real MongoDB."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet

from tests.test_store import draft
from tests.waiting import eventually
from twin_sio.agent import AgentRequest
from twin_sio.clock import now
from twin_sio.domain import NewEvent
from twin_sio.errors import StorageUnavailable
from twin_sio.runtime.dev_engines.engines import Mongod
from twin_sio.services.recall import Recall
from twin_sio.services.search import MessageSearch
from twin_sio.store import mongo
from twin_sio.store.cache import LineIndexes
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.ports import MessageVector, StoredLine

NOBODY: Any = None  # it does not come to ask anybody


@pytest.fixture(scope="module")
async def db(mongod: Mongod) -> AsyncIterator[mongo.Database]:
    client, database = mongo.connect(mongod.url, "recall_tests", 5000)
    await mongo.create_indexes(database)
    yield database
    client.close()


async def test_an_early_stop_leaves_no_task() -> None:
    """An answer that is stopped at its very begin leaves nothing unawaited."""
    recall = Recall(NOBODY, NOBODY, NOBODY, NOBODY, NOBODY, None, patience_s=1.0)
    ask = AgentRequest("u", "main", "m", 1, "text")
    recalling = asyncio.create_task(recall.past(ask))
    await asyncio.sleep(0)
    recalling.cancel()
    with suppress(asyncio.CancelledError):
        await recalling
    del recalling
    gc.collect()  # warnings are errors here, and a coroutine that was never awaited warns when it goes
    assert not recall.late


@pytest.mark.parametrize("asked", [5, 6])
async def test_history_before_any_message_is_whole(db: mongo.Database, user: str, asked: int) -> None:
    """As many lines are recalled before the newest message as before one in the middle."""
    log = mongo.MongoLog(db)
    for number in range(1, 7):
        await log.append(draft(user, f"m-{number}", str(number)))
    recall = Recall(log, NOBODY, NOBODY, NOBODY, NOBODY, None, patience_s=1.0)
    said = await recall.history(AgentRequest(user, "main", f"m-{asked}", asked, str(asked)), 3)
    assert [one.text for one in said] == [str(number) for number in range(asked - 3, asked)]


class Instance:
    """One instance's search over the store."""

    def __init__(self, db: mongo.Database, sealer: FieldCipher | None = None, **bounds: int) -> None:
        self.log = mongo.MongoLog(db, sealer)
        self.memories = Slow(db, sealer)
        self.indexes = LineIndexes(self.memories, None, 0.3, **bounds)
        self.search = MessageSearch(self.memories, self.indexes, None)

    async def say(self, user: str, text: str, conversation: str = "main", *, twin: bool = False, days: int = 0) -> int:
        kind = "twin_message" if twin else "user_message"
        one = draft(user, text=text, conversation=conversation)
        event = NewEvent(user, kind, one.message_id, conversation, now() - timedelta(days=days), one.payload)
        return (await self.log.append(event)).event.seq

    async def find(self, user: str, text: str, most: int = 10, *, patience_s: float = 5.0) -> list[str]:
        found = await self.search.find(user, text, most, patience_s=patience_s)
        return [event.payload["text"] for event in found.events]


class Slow(mongo.MongoMemories):
    """Counts the lines that are read, and waits with them until it may go on."""

    def __init__(self, db: mongo.Database, sealer: FieldCipher | None = None) -> None:
        super().__init__(db, sealer)
        self.read, self.go, self.fails = 0, asyncio.Event(), False
        self.go.set()

    async def lines(
        self, user_id: str, model: str | None, limit: int, *, after: int = 0, before: int | None = None
    ) -> Sequence[StoredLine]:
        await self.go.wait()
        if self.fails:
            raise StorageUnavailable
        found = await super().lines(user_id, model, limit, after=after, before=before)
        self.read += len(found)
        return found


async def test_the_whole_log_is_searched_and_then_what_came_since(db: mongo.Database, user: str) -> None:
    here = Instance(db)
    await here.say(user, "my brother is called Rafael")
    docs = [
        {"user_id": user, "seq": n, "type": "user_message", "message_id": f"m{n}", "conversation_id": "main",
         "session_id": None, "in_response_to": None, "at": now(), "payload": {"text": f"line {n}"}, "epoch": 0}
        for n in range(2, 1_300)
    ]  # fmt: skip
    await db["events"].insert_many(docs)
    assert (await here.find(user, "what is my brother called?"))[0] == "my brother is called Rafael"
    assert here.memories.read == 1_299
    await here.say(user, "my sister is called Ana")
    assert (await here.find(user, "sister"))[0] == "my sister is called Ana"
    assert here.memories.read == 1_300


async def test_what_another_instance_stored_is_found(db: mongo.Database, user: str) -> None:
    here, there = Instance(db), Instance(db)
    await here.say(user, "my brother is called Rafael")
    assert await here.find(user, "brother") == await there.find(user, "brother") == ["my brother is called Rafael"]
    await there.say(user, "my brother moved to Porto", "other")
    assert sorted(await here.find(user, "brother")) == ["my brother is called Rafael", "my brother moved to Porto"]


async def test_an_erasure_is_forgotten_at_once(db: mongo.Database, user: str) -> None:
    """What is erased is found no more, on an instance too that nobody told; what comes after it is."""
    here, there = Instance(db), Instance(db)
    for instance in (here, there):
        await instance.say(user, "my brother is called Rafael")
        await instance.find(user, "brother")
    await mongo.MongoPersonalData(db).erase(user)
    here.indexes.forget(user)
    assert here.indexes.held_bytes == 0
    assert await here.find(user, "brother") == await there.find(user, "brother") == []
    assert there.indexes.held_bytes == 0
    event = draft(user, text="a brother again")
    await here.log.append(NewEvent(user, event.type, event.message_id, "main", event.at, event.payload, epoch=1))
    assert await here.find(user, "brother") == await there.find(user, "brother") == ["a brother again"]


async def test_what_is_kept_no_longer_is_not_found(db: mongo.Database, user: str) -> None:
    """What retention, or a late look of an erasure, removes one by one leaves the index as well."""
    here = Instance(db)
    seqs = [await here.say(user, f"my brother number {n}") for n in range(4)]
    assert len(await here.find(user, "brother")) == 4
    await db["events"].delete_many({"user_id": user, "seq": {"$in": [seqs[0], seqs[2]]}})
    assert sorted(await here.find(user, "brother")) == ["my brother number 1", "my brother number 3"]
    index, is_complete = await here.indexes.get(user, 5.0)
    assert (index.count, is_complete) == (2, True)


async def test_sealed_text_is_found_and_others_lines_are_not(db: mongo.Database, user: str) -> None:
    sealed = Instance(db, FieldCipher([Fernet.generate_key().decode()]))
    await sealed.say(user, "my brother is called Rafael")
    await sealed.say(f"{user}-other", "my brother is called Tom")
    assert await sealed.find(user, "brother") == ["my brother is called Rafael"]
    stored = await db["events"].find_one({"user_id": user})
    assert stored is not None
    assert "Rafael" not in str(stored)


async def test_a_late_index_is_searched_as_far_as_it_is(db: mongo.Database, user: str) -> None:
    """It goes on and serves the next time; one that was forgotten meanwhile does not."""
    here = Instance(db)
    await here.say(user, "my brother is called Rafael")
    for forgotten in (True, False):
        here.memories.go.clear()
        found = await here.search.find(user, "brother", 5, patience_s=0.02)
        assert (found.events, found.is_complete) == ([], False)
        if forgotten:
            here.indexes.forget(user)
        here.memories.go.set()
        await eventually(lambda: here.memories.read == (1 if forgotten else 2))  # noqa: B023
        if forgotten:
            assert here.indexes.held_bytes == 0
    await eventually(lambda: here.indexes.held_bytes > 0)
    assert await here.find(user, "brother") == ["my brother is called Rafael"]


async def test_a_failed_read_leaves_no_gap(db: mongo.Database, user: str) -> None:
    here = Instance(db)
    await here.say(user, "my brother is called Rafael")
    assert len(await here.find(user, "brother")) == 1
    await here.say(user, "my brother moved to Porto")
    here.memories.fails = True
    with pytest.raises(StorageUnavailable):
        await here.find(user, "brother")
    here.memories.fails = False
    assert len(await here.find(user, "brother")) == 2


async def test_memory_holds_so_many_lines_and_the_users_seen_last(db: mongo.Database, user: str) -> None:
    here = Instance(db, lines_max=500)
    docs = [
        {"user_id": user, "seq": n, "type": "user_message", "message_id": f"m{n}", "conversation_id": "main",
         "session_id": None, "in_response_to": None, "at": now(), "payload": {"text": f"line word{n}"}, "epoch": 0}
        for n in range(1, 1_500)
    ]  # fmt: skip
    await db["events"].insert_many(docs)
    assert await here.find(user, "word1499") != []
    assert await here.find(user, "word5") == []
    small = Instance(db, bytes_max=here.indexes.held_bytes + 40_000)
    for one in (user, f"{user}-2", user, f"{user}-3"):
        await small.say(one, "a brother")
        await small.find(one, "brother")
    assert 0 < small.indexes.held_bytes <= here.indexes.held_bytes + 40_000


async def test_late_vectors_are_read_and_old_lines_are_not(db: mongo.Database, user: str) -> None:
    log, memories = mongo.MongoLog(db), Slow(db)
    indexes = LineIndexes(memories, "bag", 0.3)
    for n in range(150):
        await log.append(draft(user, f"m{n}"))
    await memories.embed(user, "bag", [MessageVector(f"m{n}", b"\x00\x3c\x00\x00") for n in range(150) if n != 140])
    index, _ = await indexes.get(user, 5.0)
    assert index.complete_to == 140
    await memories.embed(user, "bag", [MessageVector("m140", b"\x00\x00\x00\x3c")])
    memories.read = 0
    index, _ = await indexes.get(user, 5.0)
    assert (index.complete_to, memories.read) == (150, 10)
    assert index.search("", b"\x00\x00\x00\x3c", 5) == [141]
