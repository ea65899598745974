"""A user's data as a whole: exported, erased for good, and nobody else's touched."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from pymongo.read_concern import ReadConcern

from tests.conftest import Connect, settings_for, token_of, url_of
from tests.scripted_model import ScriptedModel
from tests.test_service_learning import candidates, likes
from tests.waiting import eventually
from twin_sio.agent.extraction.prompts import DOUBT_NAME
from twin_sio.client import TwinClient
from twin_sio.clock import now
from twin_sio.config import Settings
from twin_sio.jobs.functions import learn
from twin_sio.runtime.dev_engines.engines import RedisServer, start_mongod
from twin_sio.runtime.serve import Service, service
from twin_sio.store import mongo


def data_token(user: str) -> str:
    return token_of(user, scope="twin:chat twin:profile twin:data")


async def export(url: str, user: str) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {data_token(user)}"}
    async with aiohttp.ClientSession() as http, http.get(f"{url}/v1/export", headers=headers) as response:
        assert response.status == 200
        return [orjson.loads(line) for line in (await response.text()).splitlines()]


async def erase(url: str, user: str) -> dict[str, int]:
    headers = {"Authorization": f"Bearer {data_token(user)}"}
    async with aiohttp.ClientSession() as http, http.delete(f"{url}/v1/data", headers=headers) as response:
        assert response.status == 200
        return (await response.json())["erased"]


async def _talked(connect: Connect, model: ScriptedModel, user: str) -> TwinClient:
    text = f"I prefer tea, {user}"
    model.script(contains=text, json_answer=candidates(likes("tea", "I prefer tea", key="preferences.drink")))
    client = await connect(sub=user, context={"page": f"/of/{user}"})
    await client.ask(text)
    await client.until(lambda state: state.profile_version == 1)
    return client


async def test_an_export_holds_everything_and_nothing_of_others(
    url: str, connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    await _talked(connect, model, user)
    await _talked(connect, model, f"{user}-other")
    lines = await export(url, user)
    kinds = {line["kind"] for line in lines}
    assert kinds - {"statistics"} == {"event", "turn", "context", "evidence", "profile", "conversation", "end"}
    assert lines[-1] == {"kind": "end", "lines": len(lines) - 1}
    assert f"{user}-other" not in str(lines)
    assert [line["payload"]["text"] for line in lines if line.get("type") == "user_message"] == [
        f"I prefer tea, {user}"
    ]


async def test_an_erasure_removes_everything_and_ends_sessions(
    url: str, connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    """An erasure removes everything ends the sessions and again returns zeros."""
    client = await _talked(connect, model, user)
    other = await _talked(connect, model, f"{user}-other")
    counts = await erase(url, user)
    assert {name for name, count in counts.items() if count} >= {"events", "turns", "contexts", "evidence", "profiles"}
    await eventually(lambda: not client.is_connected)
    assert other.is_connected
    await eventually(lambda: _nothing_left(url, user))
    assert set((await erase(url, user)).values()) == {0}
    assert len((await other.history())["messages"]) == 2


async def _nothing_left(url: str, user: str) -> bool:
    return await export(url, user) == [{"kind": "end", "lines": 0}]


async def test_seqs_continue_after_an_erasure(url: str, connect: Connect, model: ScriptedModel, user: str) -> None:
    """Seqs go on after an erasure so that no device mistakes new for old."""
    client = await connect()
    await client.ask("before")
    await erase(url, user)
    fresh = await connect()
    message_id = await fresh.send("after")
    assert (await fresh.receipt(message_id)).seq == 3


async def test_an_answer_that_is_being_made_leaves_nothing_behind(
    url: str, connect: Connect, model: ScriptedModel, user: str
) -> None:
    model.script(contains=f"long {user}", token_delay_s=0.05, count=2000)
    client = await connect()
    message_id = await client.send(f"long {user}")
    await client.until(lambda state: (g := state.generation_of(message_id)) and g.text)
    before = model.cancelled
    await erase(url, user)
    await model.until(lambda m: m.cancelled > before)
    await eventually(lambda: _nothing_left(url, user))


async def test_an_erasure_drops_what_is_cached(
    url: str, instance: Service, connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    """What was kept in memory for the prompt is dropped too."""
    client = await _talked(connect, model, user)
    await client.ask("What do I drink?")
    known = instance.services.profile_cache
    assert user in known._entries
    await erase(url, user)
    assert user not in known._entries


async def test_counts_written_during_an_erasure_are_removed(
    url: str, instance: Service, connect: Connect, model: ScriptedModel, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts that are written while their user is erased are taken back."""
    await (await connect()).ask("count me")
    statistics = instance.services.statistics
    put = statistics.put

    async def erased_before(*values: Any) -> None:
        await erase(url, user)
        await put(*values)

    monkeypatch.setattr(type(statistics), "put", lambda _, *values: erased_before(*values))
    await instance.services.statistics_service.read(user)
    assert await _nothing_left(url, user)


async def test_a_late_job_brings_nothing_back(
    url: str, instance: Service, connect: Connect, model: ScriptedModel, settings: Settings, user: str
) -> None:
    text = f"I prefer mate, {user}"
    answer = candidates(likes("mate", "I prefer mate", key="preferences.drink"))
    model.script(contains=f'"message": "{text}', json_answer=answer, first_delay_s=1.0)
    client = await connect()
    message_id = await client.send(text)
    await client.answer(message_id)
    job = asyncio.create_task(learn({"deps": instance.services.job_deps()}, user, message_id))
    await model.until(lambda m: any(f'"message": "{text}' in one["messages"][-1]["content"] for one in m.requests))
    await erase(url, user)
    await job
    assert await _nothing_left(url, user)


async def test_a_worker_that_was_not_told_publishes_nothing_of_before(
    url: str, connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    """Its model takes its time while all is erased: the device that comes next hears of nothing."""
    text = f"I prefer mate, {user}"
    answer = candidates(likes("mate", "I prefer mate", key="preferences.drink"))
    model.script(contains=f'"message": "{text}', json_answer=answer, first_delay_s=2.5, times=1)
    await (await connect()).ask(text)
    await model.until(lambda m: any(f'"message": "{text}' in one["messages"][-1]["content"] for one in m.requests))
    await erase(url, user)
    seen: list[dict[str, Any]] = []
    device = await connect(on_envelope=lambda way, envelope: seen.append(envelope))
    await model.until(lambda m: any(text in str(one) and DOUBT_NAME in str(one) for one in m.requests))
    await device.ask("hello again")
    assert not [one for one in seen if one["type"] == "profile_update"]
    assert (await device.profile())["traits"] == []


async def test_retention_tells_a_device_of_the_gap(
    redis_server: RedisServer, model: ScriptedModel, connect: Connect, folder: Path, user: str
) -> None:
    """What is too old is removed and a device learns that there is a gap."""
    mongod = start_mongod(folder, ttl_monitor_s=1)
    client, db = mongo.connect(mongod.url, "retained", 5000)
    try:
        settings = settings_for(
            mongod.url,
            redis_server.url,
            model.base_url,
            storage__mongodb_database="retained",
            storage__retention_messages_days=30,
        )
        async with service(settings) as running:
            device = await connect(url_of(running))
            await device.ask("long ago")
            await device.ask("not so long ago")
            await device.close()
            await db["events"].update_many({"seq": {"$lte": 2}}, {"$set": {"at": now() - timedelta(days=31)}})
            await eventually(lambda: _count(db, 2), timeout=30)
            seen: list[dict] = []
            back = await connect(url_of(running), last_seq=1, on_envelope=lambda way, envelope: seen.append(envelope))
            await eventually(lambda: [one for one in seen if one["type"] == "resumed"])
            resumed = next(one["payload"] for one in seen if one["type"] == "resumed")
            assert resumed == {"through_seq": 4, "complete": False}
            await back.close()
            await db["events"].update_many({}, {"$set": {"at": now() - timedelta(days=31)}})
            await eventually(lambda: _count(db, 0), timeout=30)
        kept_for_ever = settings.changed(storage={"retention_messages_days": 0})
        async with service(kept_for_ever) as running:
            device = await connect(url_of(running))
            assert device.state.last_seq == 4
            assert "retention" not in await db["events"].index_information()
            await device.close()
    finally:
        client.close()
        mongod.stop()


async def _count(db: mongo.Database, wanted: int) -> bool:
    events = db["events"].with_options(read_concern=ReadConcern("majority"))  # as the log is read
    return await events.count_documents({}) == wanted


async def test_the_data_routes_take_their_scope_and_no_other(url: str, user: str) -> None:
    tokens = {None: 401, "not.a.token": 401, token_of(user): 403, token_of(user, ttl_s=-60): 401}
    async with aiohttp.ClientSession() as http:
        for token, status in tokens.items():
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            async with http.get(f"{url}/v1/export", headers=headers) as got:
                assert got.status == status
                assert (await got.json())["code"] in {"auth_missing", "auth_invalid", "auth_expired", "forbidden"}
            async with http.delete(f"{url}/v1/data", headers=headers) as deleted:
                assert deleted.status == status
