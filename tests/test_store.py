"""The store's guarantees, over a real MongoDB."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.waiting import eventually
from twin_sio.clock import new_id, now
from twin_sio.domain import Evidence, NewEvent, Outcome, Profile, Trait, Turn
from twin_sio.runtime.dev_engines.engines import Mongod
from twin_sio.store import mongo
from twin_sio.store.cache import CachedProfiles
from twin_sio.store.ports import ConnectSnapshot, MessageVector, StoredLine, Summary, Thread


@pytest.fixture(scope="module")
async def db(mongod: Mongod) -> AsyncIterator[mongo.Database]:
    client, database = mongo.connect(mongod.url, "store_tests", 5000)
    await mongo.create_indexes(database)
    await mongo.create_indexes(database)  # idempotent
    yield database
    client.close()


def draft(user: str, message_id: str | None = None, text: str = "hi", conversation: str = "main") -> NewEvent:
    return NewEvent(user, "user_message", message_id or new_id(), conversation, now(), {"text": text})


async def test_seqs_are_dense_whoever_writes_at_the_same_time(db: mongo.Database, user: str) -> None:
    writers = [mongo.MongoLog(db) for _ in range(3)]
    stored = await asyncio.gather(*(writers[index % 3].append(draft(user)) for index in range(60)))
    assert sorted(one.event.seq for one in stored) == list(range(1, 61))
    read = await writers[0].read(user, 0, 100)
    assert [event.seq for event in read] == list(range(1, 61))
    assert await writers[1].head(user) == 60


async def test_a_connection_learns_in_one_trip_where_everything_stands(db: mongo.Database, user: str) -> None:
    snapshots, log, turns = mongo.MongoConnectSnapshots(db), mongo.MongoLog(db), mongo.MongoTurns(db, now)
    assert await snapshots.of(user) == ConnectSnapshot(head=0, profile_version=0, is_owed=False)
    event = (await log.append(draft(user, "t1"))).event
    begun = await turns.begin(await turns.ensure(turn(user)), "g1")
    assert begun is not None
    await mongo.MongoProfiles(db).replace(Profile(user, 0, ()), [])
    assert await snapshots.of(user) == ConnectSnapshot(head=1, profile_version=1, is_owed=True)
    await turns.settle(begun, Outcome("complete", "text", "g1", "m"))
    await turns.close(begun, "complete")
    await log.remove(event)
    assert await snapshots.of(user) == ConnectSnapshot(head=1, profile_version=1, is_owed=False)


async def test_one_id_is_stored_once_whoever_writes_it(db: mongo.Database, user: str) -> None:
    writers = [mongo.MongoLog(db) for _ in range(3)]
    stored = await asyncio.gather(*(writers[index % 3].append(draft(user, "same")) for index in range(20)))
    assert sum(one.is_new for one in stored) == 1
    assert {one.event.seq for one in stored} == {1}


async def test_what_was_read_back_is_what_was_stored(db: mongo.Database, user: str) -> None:
    log = mongo.MongoLog(db)
    stored = await log.append(draft(user, text="Zażółć 🌙 <b>"))
    assert await log.get(user, stored.event.message_id) == stored.event
    assert await log.get("somebody-else", stored.event.message_id) is None


async def test_an_outdated_head_leaves_no_gap(db: mongo.Database, user: str) -> None:
    """A head that is out of date costs a second try and no gap."""
    log = mongo.MongoLog(db)
    await log.append(draft(user, "first"))
    log._heads[user] = replace(log._heads[user], seq=0)  # another instance has written since
    assert (await log.append(draft(user, "second"))).event.seq == 2


def turn(user: str, turn_id: str = "t1", order: float = 1.0, conversation: str = "main") -> Turn:
    return Turn(user, turn_id, turn_id, conversation, "s", order, "queued", None, 0, False, "", now())


async def test_old_unlearned_turns_block_no_newer(mongod: Mongod, user: str) -> None:
    """Turns that are never learned from do not stand in the way of newer ones."""
    client, database = mongo.connect(mongod.url, "unlearned_tests", 5000)
    begun = now() - timedelta(hours=1)
    for minute in range(4):
        turns = mongo.MongoTurns(database, lambda minute=minute: begun + timedelta(minutes=minute))
        stored = await turns.ensure(turn(user, f"t{minute}"))
        await turns.close(stored, "complete")
    newest = await mongo.MongoTurns(database, now).unlearned(60, 2)
    client.close()
    assert newest == [(user, "t3"), (user, "t2")]


async def test_a_lease_has_one_owner_until_it_runs_out(db: mongo.Database, user: str) -> None:
    turns = mongo.MongoTurns(db, now)
    wins = await asyncio.gather(*(turns.acquire(user, "main", f"owner-{n}", 0.4) for n in range(10)))
    assert sum(wins) == 1
    owner = f"owner-{wins.index(True)}"
    assert await turns.acquire(user, "main", "later", 5) is False
    assert await turns.renew(user, "main", owner, 0.2) is True
    await eventually(lambda: turns.acquire(user, "main", "later", 5))
    assert await turns.renew(user, "main", owner, 5) is False
    await turns.release(user, "main", owner)  # not its own any more
    assert await turns.acquire(user, "main", "third", 5) is False
    await turns.release(user, "main", "later")
    assert await turns.acquire(user, "main", "third", 5) is True


async def test_only_the_newest_generation_may_settle_and_only_once(db: mongo.Database, user: str) -> None:
    turns = mongo.MongoTurns(db, now)
    queued = await turns.ensure(turn(user))
    assert await turns.ensure(turn(user)) == queued
    first = await turns.begin(queued, "g1")
    assert first is not None
    second = await turns.begin(first, "g2")
    assert second is not None
    assert second.attempts == 2
    assert await turns.begin(first, "g3") is None
    outcome = Outcome("complete", "text", "g2", "m", {"total_tokens": 3}, ("t-1",))
    assert await turns.checkpoint(first, "half") is None
    assert await turns.settle(first, replace(outcome, generation_id="g1")) is False
    assert await turns.settle(second, outcome) is True
    assert await turns.settle(second, outcome) is False
    assert await turns.outcome(second) == outcome
    await turns.close(second, "complete")
    assert await turns.next(user, "main") is None


async def test_turns_come_in_their_order_and_what_waits_is_counted(db: mongo.Database, user: str) -> None:
    turns = mongo.MongoTurns(db, now)
    for turn_id, order in (("b", 2.0), ("a", 1.0), ("c", 2.5)):
        await turns.ensure(turn(user, turn_id, order))
    assert await turns.pending_counts(user, 10) == {"main": 3}
    oldest = await turns.next(user, "main")
    assert oldest is not None
    assert oldest.turn_id == "a"


async def test_what_nobody_works_on_is_found(db: mongo.Database, user: str) -> None:
    turns = mongo.MongoTurns(db, lambda: now() + timedelta(seconds=60))
    await turns.ensure(turn(user, "waiting", conversation="unowned"))
    await turns.acquire(user, "expired", "dead", 0.0)
    await turns.acquire(user, "held", "alive", 60)
    found = await turns.abandoned(5, 1000)
    assert {(user, "unowned"), (user, "expired")} <= set(found)
    assert (user, "held") not in found


def evidence(user: str, value: str = "tea") -> Evidence:
    return Evidence(user, "preferences.drink", value, 1, "explicit", now(), "s", "m", "I like tea", "test")


async def test_the_same_evidence_counts_once(db: mongo.Database, user: str) -> None:
    profiles = mongo.MongoProfiles(db)
    assert await profiles.add_evidence([evidence(user), evidence(user, "coffee")]) == 2
    assert await profiles.add_evidence([evidence(user)]) == 0
    assert {piece.value for piece in await profiles.evidence(user)} == {"tea", "coffee"}


async def test_a_profile_is_replaced_by_one_writer_per_version(db: mongo.Database, user: str) -> None:
    profiles = mongo.MongoProfiles(db)
    for version in range(3):
        wins = await asyncio.gather(*(profiles.replace(Profile(user, version, ()), []) for _ in range(5)))
        assert sum(wins) == 1
    assert (await profiles.get(user)).profile.version == 3


async def _thread(db: mongo.Database, user: str) -> Thread:
    await mongo.MongoTurns(db, now).acquire(user, "main", "owner", 5)  # makes the conversation
    thread = await mongo.MongoMemories(db).thread(user, "main")
    assert thread is not None
    return thread


async def test_titles_and_summaries_are_written_once(db: mongo.Database, user: str) -> None:
    """A title and a fold are written once whoever writes them."""
    memories, thread = mongo.MongoMemories(db), await _thread(db, user)
    assert sorted(await asyncio.gather(*(memories.set_title(thread, f"t{n}", now()) for n in range(3)))) == [0, 0, 1]
    folds = await asyncio.gather(*(memories.set_summary(thread, Summary((f"p{n}",), 4, now())) for n in range(3)))
    assert sorted(folds) == [0, 0, 1]
    stored = await memories.thread(user, "main")
    assert stored is not None
    assert await memories.set_summary(stored, Summary(("next",), 8, now())) is True
    assert await memories.set_summary(stored, Summary(("late",), 6, now())) is False
    assert (await memories.thread(user, "main")).summary.points == ("next",)  # type: ignore[union-attr]


async def test_writes_to_an_erased_conversation_are_dropped(db: mongo.Database, user: str) -> None:
    """What is written to a conversation that was erased is dropped."""
    memories, thread = mongo.MongoMemories(db), await _thread(db, user)
    await mongo.MongoPersonalData(db).erase(user)
    assert (await _thread(db, user)).key != thread.key  # another of the same id has begun
    assert await memories.set_title(thread, "late", now()) is False
    assert await memories.set_summary(thread, Summary(("late",), 4, now())) is False
    await memories.embed(user, "bag", [MessageVector("gone", b"1")])
    assert [line["kind"] async for line in mongo.MongoPersonalData(db).export(user)] == ["conversation"]


async def test_what_draws_on_messages_that_are_too_old_is_dropped(db: mongo.Database, user: str) -> None:
    memories, thread = mongo.MongoMemories(db), await _thread(db, user)
    await memories.set_title(thread, "title", now())
    await memories.set_summary(thread, Summary(("point",), 4, now() - timedelta(days=40)))
    await memories.expire(now() - timedelta(days=50))
    assert (await memories.thread(user, "main")).title == "title"  # type: ignore[union-attr]
    await memories.expire(now() - timedelta(days=30))
    assert await memories.thread(user, "main") == thread
    assert await memories.set_summary(thread, Summary(("anew",), 6, now())) is True


async def test_vectors_are_their_messages_and_models(db: mongo.Database, user: str) -> None:
    log, memories = mongo.MongoLog(db), mongo.MongoMemories(db)
    for name in ("a", "b", "c"):
        await log.append(draft(user, name, f"text {name}"))
    await memories.embed(user, "bag", [MessageVector("a", b"1"), MessageVector("b", b"2")])
    assert [event.message_id for event in await memories.without_vector(user, "bag", 10)] == ["c"]
    assert [event.message_id for event in await memories.without_vector(user, "other", 2)] == ["b", "c"]
    a, b, c = (StoredLine(seq, "main", True, f"text {name}", vector) for seq, name, vector in
               ((1, "a", b"1"), (2, "b", b"2"), (3, "c", None)))  # fmt: skip
    assert await memories.lines(user, "bag", 10) == [c, b, a]
    assert await memories.lines(user, "bag", 1) == [c]
    assert await memories.lines(user, "bag", 10, after=1, before=3) == [b]
    assert [line.vector for line in await memories.lines(user, "other", 10)] == [None] * 3
    assert [event.message_id for event in await memories.messages(user, [1, 9])] == ["a"]
    assert await memories.messages("somebody-else", [1]) == []
    assert (await memories.oldest(user), await memories.oldest("nobody")) == (1, 0)


async def test_a_context_is_its_sessions_and_the_newest_counts(db: mongo.Database, user: str) -> None:
    at = [now()]
    contexts = mongo.MongoContexts(db, lambda: at[0], ttl_s=60)
    await contexts.put(user, "phone", {"page": 1})
    at[0] += timedelta(seconds=1)
    await contexts.put(user, "tablet", {"page": 2})
    assert await contexts.get(user, "phone") == {"page": 1}
    assert await contexts.newest(user) == {"page": 2}
    at[0] += timedelta(seconds=59.5)
    assert await contexts.get(user, "phone") == {}
    at[0] += timedelta(seconds=1)
    assert await contexts.newest(user) is None


# -- profiles in memory


async def test_a_profile_is_made_once_and_again_after_every_write(db: mongo.Database, user: str) -> None:
    profiles = mongo.MongoProfiles(db)
    made: list[int] = []
    cache = CachedProfiles(profiles, lambda profile: made.append(profile.version) or profile.version)
    for version in range(3):
        await profiles.replace(Profile(user, version, ()), [])
        assert [await cache.get(user) for _ in range(3)] == [version + 1] * 3
    assert (made, cache.hits, cache.misses) == ([1, 2, 3], 6, 3)


async def test_a_profile_after_erasure_is_a_new_one(db: mongo.Database, user: str) -> None:
    """A profile that was erased and grew anew is not taken for the old."""
    profiles = mongo.MongoProfiles(db)
    cache = CachedProfiles(profiles, lambda profile: profile.traits)
    await profiles.replace(Profile(user, 0, (a_trait("old"),)), [])
    assert [one.value for one in await cache.get(user)] == ["old"]
    await mongo.MongoPersonalData(db).erase(user)
    await profiles.replace(Profile(user, 0, (a_trait("new"),)), [], epoch=1)
    assert [one.value for one in await cache.get(user)] == ["new"]
    await mongo.MongoPersonalData(db).erase(user)
    assert await cache.get(user) == ()


async def test_memory_holds_so_many_traits_and_the_users_seen_last(db: mongo.Database, user: str) -> None:
    profiles = mongo.MongoProfiles(db)
    cache = CachedProfiles(profiles, lambda profile: profile.user_id, traits_max=6)
    users = [f"{user}-{n}" for n in range(3)]
    for one in users:
        await profiles.replace(Profile(one, 0, (a_trait("a"), a_trait("b"))), [])
    for one in (users[0], users[1], users[0], users[2], users[0]):
        await cache.get(one)
    assert (cache.hits, cache.misses) == (2, 3)
    await cache.get(users[1])
    assert cache.misses == 4


def a_trait(value: str) -> Trait:
    at = now()
    return Trait(f"trait-{value}", "interests.likes", value, "applied", 0.9, 8, 0, at, None, at)
