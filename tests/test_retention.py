"""What is too old: removed wherever it stands, and not believed for a moment longer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.conftest import settings_for
from tests.scripted_model import ScriptedModel
from tests.test_service_profile import evidence_of
from tests.test_store import turn
from twin_sio.clock import now
from twin_sio.domain import Outcome
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import Service, service
from twin_sio.store import mongo

DAYS = 30


@pytest.fixture
async def kept(mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, user: str) -> AsyncIterator[Service]:
    settings = settings_for(
        mongod.url,
        redis_server.url,
        model.base_url,
        storage__mongodb_database=f"kept_{user[-6:]}",
        storage__retention_messages_days=DAYS,
        storage__retention_evidence_days=DAYS,
    )
    async with service(settings) as running:
        yield running


async def test_every_collection_with_words_has_an_end(kept: Service) -> None:
    db = kept.services.db
    for name in mongo.SEALED_FIELDS.keys() - {"conversations", "profiles", "keys"}:
        ends = [one for one in (await db[name].index_information()).values() if "expireAfterSeconds" in one]
        assert ends, name


async def test_a_closed_turn_keeps_no_partial_text(kept: Service, user: str) -> None:
    """An answer that is over keeps nothing of how it was made."""
    turns = kept.services.turns
    begun = await turns.begin(await turns.ensure(turn(user)), "g1")
    assert begun is not None
    await turns.checkpoint(begun, "half an answer")
    await turns.settle(begun, Outcome("complete", "a whole answer", "g1", "model"))
    await turns.close(begun, "complete")
    assert "an answer" not in str(await kept.services.db["turns"].find_one({"user_id": user}))


async def test_expired_evidence_does_not_count(kept: Service, user: str) -> None:
    """Evidence that is too old counts no more whatever the database has removed."""
    parts = kept.services
    old = evidence_of(user, "explicit", at=now() - timedelta(days=DAYS, seconds=-5))
    await parts.profile_service.learn(user, [old])
    assert "tea" in str(await parts.profile_cache.get(user))
    assert len((await parts.profile_service.read(user))["traits"]) == 1
    for part in (parts.profiles, parts.profile_cache, parts.profile_service):
        part._clock = lambda: now() + timedelta(seconds=10)
    assert "tea" not in str(await parts.profile_cache.get(user))
    assert (await parts.profile_service.read(user))["traits"] == []
    received = (await parts.messages.read(user, 0, 10))[-1]
    assert [change["status"] for change in received.payload["changes"]] == ["unused"]
    assert "tea" not in str(await parts.profile_cache.get(user))
    assert await parts.profiles.get(user) == await parts.profiles.get(user)


async def test_newer_evidence_keeps_a_trait(kept: Service, user: str) -> None:
    """A trait that newer evidence holds stays and nothing is published."""
    parts = kept.services
    old = evidence_of(user, "explicit", at=now() - timedelta(days=DAYS, seconds=-5))
    await parts.profile_service.learn(user, [old, evidence_of(user, "confirmed")])
    await parts.profile_cache.get(user)
    before = await parts.profiles.get(user)
    for part in (parts.profiles, parts.profile_cache, parts.profile_service):
        part._clock = lambda: now() + timedelta(seconds=10)
    assert "tea" in str(await parts.profile_cache.get(user))
    after = await parts.profiles.get(user)
    assert (after.profile.version, after.revision == before.revision) == (before.profile.version, False)
    hits = parts.profile_cache.hits
    await parts.profile_cache.get(user)
    assert parts.profile_cache.hits == hits + 1  # once is enough
