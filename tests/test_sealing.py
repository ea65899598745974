"""Text at rest: nothing readable in the database, readable before and after a rotation."""

from __future__ import annotations

import os

import pytest
from cryptography.fernet import Fernet

from tests.commands import output_of
from tests.conftest import Connect, settings_for, url_of
from tests.factories import make_settings
from tests.scripted_model import ScriptedModel
from tests.test_store import draft, evidence, turn
from twin_sio.clock import now
from twin_sio.config import ConfigError
from twin_sio.domain import Outcome, Profile, Trait
from twin_sio.errors import StorageUnavailable
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import service
from twin_sio.runtime.wiring import sealer_of
from twin_sio.store import mongo
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.ports import MessageVector, Summary

CANARY = "canary-7f3a"
OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


async def _dump(db: mongo.Database) -> str:
    return str([[doc async for doc in db[name].find({})] for name in await db.list_collection_names()])


async def _write_all(db: mongo.Database, sealer: FieldCipher, user: str) -> None:
    log, turns = mongo.MongoLog(db, sealer), mongo.MongoTurns(db, now, sealer)
    await log.append(draft(user, "m1", CANARY))
    begun = await turns.begin(await turns.ensure(turn(user)), "g1")
    assert begun is not None
    await turns.checkpoint(begun, CANARY)
    await turns.settle(begun, Outcome("complete", CANARY, "g1", "model"))
    await mongo.MongoContexts(db, now, 60, sealer).put(user, "s", {"page": CANARY})
    profiles = mongo.MongoProfiles(db, sealer)
    await profiles.add_evidence([evidence(user, CANARY)])
    outbox = mongo.MongoOutbox(db, now, sealer)
    await mongo.MongoProfiles(db, sealer, outbox).replace(Profile(user, 0, (_trait(),)), [])
    memories = mongo.MongoMemories(db, sealer)
    await turns.acquire(user, "main", "owner", 1)  # makes the conversation
    thread = await memories.thread(user, "main")
    assert thread is not None
    await memories.set_title(thread, CANARY, now())
    await memories.set_summary(thread, Summary((CANARY,), 1, now()))
    await memories.embed(user, "bag", [MessageVector("m1", CANARY.encode())])


async def _read_all(db: mongo.Database, sealer: FieldCipher, user: str) -> list[object]:
    log, turns = mongo.MongoLog(db, sealer), mongo.MongoTurns(db, now, sealer)
    stored = await turns.get(user, "t1")
    assert stored is not None
    outcome = await turns.outcome(stored)
    event = await log.get(user, "m1")
    return [
        event and event.payload["text"],
        (await log.conversations(user))[0].title,
        stored.partial,
        outcome and outcome.text,
        await mongo.MongoContexts(db, now, 60, sealer).get(user, "s"),
        [piece.value for piece in await mongo.MongoProfiles(db, sealer).evidence(user)],
        (await mongo.MongoMemories(db, sealer).thread(user, "main")).summary.points,  # type: ignore[union-attr]
        [one.vector for one in await mongo.MongoMemories(db, sealer).lines(user, "bag", 10) if one.vector is not None],
        [trait.value for trait in (await mongo.MongoProfiles(db, sealer).get(user)).profile.traits],
        [sealer.open(doc["traits"])[0]["value"] async for doc in db["outbox"].find({"user_id": user})],
    ]


def _trait() -> Trait:
    return Trait("t", "hobbies.sport", CANARY, "applied", 0.9, 8, 0, now(), None, now())


EXPECTED = [
    CANARY,
    CANARY,
    CANARY,
    CANARY,
    {"page": CANARY},
    [CANARY],
    (CANARY,),
    [CANARY.encode()],
    [CANARY],
    [CANARY],
]


async def test_sealed_text_is_not_in_the_database(mongod: Mongod, user: str) -> None:
    """What is sealed is readable to us and not in the database."""
    client, db = mongo.connect(mongod.url, f"sealed_{user[-6:]}", 5000)
    sealer = FieldCipher([OLD])
    await _write_all(db, sealer, user)
    assert await _read_all(db, sealer, user) == EXPECTED
    assert CANARY not in await _dump(db)
    with pytest.raises(StorageUnavailable):
        await _read_all(db, FieldCipher([NEW]), user)
    client.close()


async def test_a_rotation_keeps_everything_readable_without_the_old_key(mongod: Mongod, user: str) -> None:
    database = f"rotated_{user[-6:]}"
    client, db = mongo.connect(mongod.url, database, 5000)
    await _write_all(db, FieldCipher(), f"{user}-open")  # from before there was a key
    await _write_all(db, FieldCipher([OLD]), user)
    variables = {"TWIN_MONGODB_URL": mongod.url, "TWIN_MONGODB_DATABASE": database}
    env = {**os.environ, **variables, "TWIN_ENCRYPTION_KEYS": f"{NEW} {OLD}"}
    code, out, err = await output_of("twin_sio.admin", "reseal", env=env)
    assert (code, out) == (0, b"22 values rewritten\n"), err
    for name in (user, f"{user}-open"):
        assert await _read_all(db, FieldCipher([NEW]), name) == EXPECTED
    assert CANARY not in await _dump(db)
    client.close()


async def test_text_that_looks_sealed_is_text(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, connect: Connect, user: str
) -> None:
    """A sealed service talks and what looks sealed is only text."""
    settings = settings_for(
        mongod.url,
        redis_server.url,
        model.base_url,
        storage__encryption_keys=OLD,
        storage__mongodb_database=f"talk_{user[-6:]}",
    )
    async with service(settings) as running:
        client = await connect(url_of(running))
        answer = await client.ask('{"sealed": "' + CANARY)
        await client.feedback(answer.message_id, "up", comment=CANARY)
        lines = (await client.history())["messages"]
        await client.close()
    assert lines[0]["text"] == '{"sealed": "' + CANARY
    assert lines[1]["feedback"]["comment"] == CANARY
    found, db = mongo.connect(mongod.url, settings.storage.mongodb_database, 5000)
    assert CANARY not in await _dump(db)
    found.close()


def test_an_invalid_key_names_its_variable() -> None:
    """A key that is none is refused by the variables name."""
    with pytest.raises(ConfigError, match="TWIN_ENCRYPTION_KEYS"):
        sealer_of(make_settings(storage__encryption_keys="not-a-key"))
