"""What an earlier version has named otherwise: brought up to date beside the service, and understood meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet

from tests.conftest import Connect, settings_for, url_of, working
from tests.scripted_model import ScriptedModel
from tests.test_service_learning import candidates, likes
from tests.test_store import draft, evidence
from tests.waiting import eventually
from twin_sio.agent.traits import trait_id
from twin_sio.clock import now
from twin_sio.domain import Profile
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import service
from twin_sio.services.migration import MigrationService
from twin_sio.services.trait_ids import TraitIds
from twin_sio.store import mongo
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.mongo.fence import Fence
from twin_sio.store.mongo.keys import load_ids
from twin_sio.store.mongo.migrations import MongoMigrations
from twin_sio.store.ports import SCORING_VERSION

KEY = Fernet.generate_key().decode()


@pytest.fixture
async def db(mongod: Mongod, user: str) -> AsyncIterator[mongo.Database]:
    client, database = mongo.connect(mongod.url, f"migrated_{user[-6:]}", 5000)
    await mongo.create_indexes(database)
    yield database
    client.close()


async def _migrator(db: mongo.Database, sealer: FieldCipher, outbox: bool = False) -> tuple[MigrationService, Fence]:
    fence = Fence(db, await load_ids(db, sealer))
    graphed = mongo.MongoOutbox(db, now, sealer, fence) if outbox else None
    profiles = mongo.MongoProfiles(db, sealer, None, fence)
    migrations = MongoMigrations(db, sealer, fence, graphed)
    return MigrationService(migrations, profiles, TraitIds(fence.ids.subject), _rescore), fence


async def _rescore(user_id: str) -> None:
    raise AssertionError(f"{user_id} has no profile")


async def test_migrated_users_keep_their_seqs(db: mongo.Database, user: str) -> None:
    """A user named by an earlier version is named by a hash and keeps their seqs."""
    at = now() - timedelta(minutes=5)
    await db["users"].insert_one({"_id": user, "erased_at": at, "floor": 7, "graph_erased_at": at, "graph_due_at": at})
    migrator, fence = await _migrator(db, FieldCipher(), outbox=True)
    log = mongo.MongoLog(db, None, fence)
    assert (await log.append(draft(user))).event.seq == 8  # before
    while await migrator.step():
        pass
    assert await db["users"].find_one({"_id": user}) is None
    await log.remove((await log.append(draft(user))).event)
    assert (await mongo.MongoLog(db, None, fence).append(draft(user))).event.seq == 10  # and after
    assert await mongo.MongoOutbox(db, now, None, fence).due(10) == [user]


async def test_evidence_is_named_by_the_key_and_counts_once_meanwhile(db: mongo.Database, user: str) -> None:
    sealer = FieldCipher([KEY])
    pieces = [evidence(user, f"value {number}") for number in range(5)]
    await mongo.MongoProfiles(db, sealer).add_evidence(pieces)  # as an earlier version named it
    migrator, fence = await _migrator(db, sealer)
    profiles = mongo.MongoProfiles(db, sealer, None, fence)
    await profiles.add_evidence(pieces[:2])  # a job of before runs again
    while await migrator.step():
        pass
    names = {doc["_id"] async for doc in db["evidence"].find({"user_id": user})}
    assert names == {fence.ids.evidence(user, piece.evidence_id) for piece in pieces}
    assert await profiles.add_evidence(pieces) == 0
    assert sorted(piece.value for piece in await profiles.evidence(user)) == [piece.value for piece in pieces]


async def test_no_id_can_be_guessed_without_the_key(db: mongo.Database, user: str) -> None:
    sealer = FieldCipher([KEY])
    piece = evidence(user, "guess me")
    trait = trait_id(user, piece.key, piece.value)
    guesses = {trait, hashlib.sha256(f"{user}\x1e{piece.evidence_id}".encode()).hexdigest()}
    fence = Fence(db, await load_ids(db, sealer))
    await mongo.MongoProfiles(db, sealer, None, fence).add_evidence([piece])
    found = str([[doc async for doc in db[name].find({})] for name in await db.list_collection_names()])
    assert not [guess for guess in guesses if guess in found]
    assert TraitIds(fence.ids.subject).of(user, piece.key, piece.value) != trait


async def test_old_trait_ids_are_understood(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, connect: Connect, db: mongo.Database, user: str
) -> None:
    """A client that holds an id of before is understood before and after the migration."""
    text = f"I prefer tea, {user}"
    model.script(contains=text, json_answer=candidates(likes("tea", "I prefer tea", key="preferences.drink")))
    settings = settings_for(mongod.url, redis_server.url, model.base_url, storage__mongodb_database=db.name)
    async with service(settings) as before, working(settings):
        client = await connect(url_of(before))
        await client.ask(text)
        await client.until(lambda state: state.profile_version == 1)
        answer = await client.ask("What do I drink?")
        (old,) = client.state.traits
        assert old == trait_id(user, "preferences.drink", "tea")
        await client.close()
    sealed = settings.changed(storage={"encryption_keys": settings.storage.encryption_keys.__class__(KEY)})
    async with service(sealed) as after:
        parts = after.services
        client = await connect(url_of(after))
        (shown,) = (await client.profile())["traits"]
        assert (await client.why(old))["trait_id"] == shown["trait_id"] != old
        rated = await client.feedback(answer.message_id, "up")  # of an answer that names the old id
        assert [trait["trait_id"] for trait in rated] == [shown["trait_id"]]
        while await parts.job_deps().migration.step():
            pass
        (trait,) = (await parts.profiles.get(user)).profile.traits
        assert trait.trait_id == shown["trait_id"]
        assert (await client.why(old))["trait_id"] == trait.trait_id
        corrected = await client.correct(old, "confirm")
        assert [change["trait_id"] for change in corrected["changes"]] == [trait.trait_id]
        await client.close()


async def test_a_broken_profile_stops_no_other(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, db: mongo.Database, user: str
) -> None:
    """Those that can be read are renamed, scored and counted, whatever stands before them."""
    storage = {"storage__encryption_keys": KEY, "storage__mongodb_database": db.name}
    profiles = db["profiles"]
    await profiles.insert_many([{"_id": f"0-{user}"}, {"_id": f"1-{user}", "version": 1, "traits": 7, "untold": []}])
    async with service(settings_for(mongod.url, redis_server.url, model.base_url, **storage)) as after:
        parts = after.services
        await parts.profile_service.learn(user, [evidence(user)])
        await profiles.update_one({"_id": user}, {"$unset": {"keyed": 1, "reading": 1, "counted_at": 1}})
        await parts.job_deps().migration.step()
        assert await profiles.count_documents({"_id": user, "keyed": True, "reading": SCORING_VERSION}) == 1
        await parts.statistics_service.count_due(10)
        assert await profiles.count_documents({"_id": user, "counted_at": {"$ne": None}}) == 1


async def test_many_broken_documents_starve_nobody(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, db: mongo.Database, user: str, logged: list[Any]
) -> None:
    """More than a step looks at, in front of a good one: of no shape, too many, and sealed with a key that is lost."""
    lost = FieldCipher([Fernet.generate_key().decode()])
    of_before = {"version": 1, "stamp": "s", "untold": lost.seal([])}
    await db["profiles"].insert_many([
        *({"_id": f"0-{user}-{nth}", "version": 1, "traits": 7, "untold": []} for nth in range(250)),
        *({"_id": f"1-{user}-{nth}", "traits": lost.seal([]), **of_before} for nth in range(250)),
    ])  # fmt: skip
    await db["evidence"].insert_many([
        *({"_id": f"0{nth}", "user_id": f"0-{user}", "piece": {"odd": nth}} for nth in range(250)),
        *({"_id": f"1{nth}", "user_id": f"1-{user}", "piece": lost.seal({})} for nth in range(250)),
    ])  # fmt: skip
    await db["users"].insert_many([{"_id": f"0-{user}-{nth}", "floor": "no number"} for nth in range(250)])
    await mongo.MongoProfiles(db, FieldCipher([KEY])).add_evidence([evidence(user)])  # as an earlier version named it
    await db["users"].insert_one({"_id": user, "floor": 7})
    storage = {"storage__encryption_keys": KEY, "storage__mongodb_database": db.name}
    async with service(settings_for(mongod.url, redis_server.url, model.base_url, **storage)) as after:
        parts = after.services
        await parts.profile_service.refresh(user, [evidence(user)])
        await db["profiles"].update_one({"_id": user}, {"$unset": {"keyed": 1, "reading": 1, "counted_at": 1}})
        migration = parts.job_deps().migration
        while await migration.step():
            pass
        assert await db["profiles"].count_documents({"_id": user, "keyed": True, "reading": SCORING_VERSION}) == 1
        assert await db["users"].count_documents({"_id": user}) == 0
        assert await db["evidence"].count_documents({"user_id": user, "_id": {"$gt": "k"}}) == 1
        while await parts.statistics_service.count_due(100):
            pass
        assert await db["profiles"].count_documents({"_id": user, "counted_at": {"$ne": None}}) == 1
    reasons = {line.get("reason", "") for line in logged if line["event"] == "user_skipped"}
    assert "The store is sealed with a key that is not set." in reasons


async def test_what_was_broken_is_tried_again_ever_later(db: mongo.Database, user: str) -> None:
    sealer = FieldCipher([KEY])
    await db["profiles"].insert_one({"_id": user, "version": 1, "traits": 7, "untold": [], "reading": SCORING_VERSION})
    migrator, fence = await _migrator(db, sealer)
    waits = []
    for _ in range(3):
        assert await migrator.step() == 1
        assert await MongoMigrations(db, sealer, fence).profiles_to_rename(10) == []
        found = await db["profiles"].find_one({"_id": user})
        assert found is not None
        waits.append(round((found["postponed"]["rename_traits"]["until"] - now()).total_seconds() / 60))
        await db["profiles"].update_one({"_id": user}, {"$set": {"postponed.rename_traits.until": now()}})
    assert waits == [1, 2, 4]
    await db["profiles"].update_one({"_id": user}, {"$set": {"traits": []}})  # mended
    assert await migrator.step() == 1
    assert await db["profiles"].count_documents({"_id": user, "keyed": True}) == 1


async def test_a_profile_without_anything_to_count_is_due_once(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, db: mongo.Database, user: str
) -> None:
    """Users of whom all evidence has ended stand in nobody's way."""
    await mongo.MongoProfiles(db).replace(Profile(user, 0, ()), [])
    settings = settings_for(mongod.url, redis_server.url, model.base_url, storage__mongodb_database=db.name)
    async with service(settings) as running:
        assert await running.services.statistics_service.count_due(10) == 1
        assert await running.services.statistics_service.count_due(10) == 0


async def test_a_profile_that_is_written_meanwhile_is_not_put_back(db: mongo.Database, user: str) -> None:
    sealer = FieldCipher([KEY])
    await mongo.MongoProfiles(db, sealer).replace(Profile(user, 0, ()), [])
    _, fence = await _migrator(db, sealer)
    profiles = mongo.MongoProfiles(db, sealer, None, fence)
    migrations = MongoMigrations(db, sealer, fence)
    assert await migrations.profiles_to_rename(10) == [user]
    stored = await profiles.get(user)
    assert await profiles.replace(Profile(user, 1, ()), [])
    await migrations.rename_traits(user, stored, ())
    assert (await profiles.get(user)).profile.version == 2
    await eventually(lambda: _is_renamed(migrations))


async def _is_renamed(migrations: MongoMigrations) -> bool:
    return await migrations.profiles_to_rename(10) == []
