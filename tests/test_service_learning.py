"""What the twin learns: a real arq worker, from the user's words, told to every device, safe to run again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.conftest import Connect, eventually
from tests.processes import Process, environment, started, token_of
from tests.scripted_model import ScriptedModel
from twin_sio.client import TwinClient
from twin_sio.local import Mongod, RedisServer


def candidates(*found: dict) -> str:
    return json.dumps({"candidates": list(found)})


def likes(value: str, quote: str, kind: str = "explicit", key: str = "preferences.language") -> dict:
    return {"key": key, "value": value, "polarity": "support", "kind": kind, "quote": quote}


async def test_what_the_user_said_becomes_a_trait_on_every_device(
    connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    text = f"I prefer TypeScript, says {user}"
    model.script(contains=text, json_answer=candidates(likes("TypeScript", "I prefer TypeScript")))
    phone, tablet = await connect(), await connect()
    await phone.ask(text)
    for device in (phone, tablet):
        await device.until(lambda state: state.profile_version == 1)
    profile = await tablet.profile()
    trait = profile["traits"][0]
    assert (trait["key"], trait["value"], trait["status"]) == ("preferences.language", "TypeScript", "applied")
    assert round(trait["confidence"], 2) == 0.90


async def test_what_the_user_did_not_say_is_not_learned(
    connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    text = f"Nothing to learn here, {user}"
    true = likes("reading", "Nothing to learn", key="hobbies.activity")
    model.script(contains=text, json_answer=candidates(likes("Rust", "I love Rust"), true))
    client = await connect()
    await client.ask(text)
    await client.until(lambda state: state.profile_version == 1)
    assert [trait["value"] for trait in (await client.profile())["traits"]] == ["reading"]


async def test_an_applied_trait_stands_in_the_next_prompt_and_is_named(
    connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    text = f"I live in Lisbon, {user}"
    model.script(contains=text, json_answer=candidates(likes("Lisbon", "I live in Lisbon", key="location.city")))
    client = await connect()
    await client.ask(text)
    await client.until(lambda state: state.profile_version == 1)
    trait = (await client.profile())["traits"][0]
    answer = await client.ask(f"Where do I live, {user}?")
    prompt = next(one for one in reversed(model.requests) if f"Where do I live, {user}?" in str(one["messages"][-1]))
    assert "Lisbon" in prompt["messages"][0]["content"]
    assert list(answer.used_traits) == [trait["trait_id"]]


async def test_a_rejected_trait_leaves_the_prompt(
    connect: Connect, model: ScriptedModel, worker: None, user: str
) -> None:
    text = f"I live in Porto, {user}"
    model.script(contains=text, json_answer=candidates(likes("Porto", "I live in Porto", key="location.city")))
    client = await connect()
    await client.ask(text)
    await client.until(lambda state: state.profile_version == 1)
    trait = (await client.profile())["traits"][0]
    await client.correct(trait["trait_id"], "reject")
    assert [one["status"] for one in (await client.profile())["traits"]] == ["rejected"]
    answer = await client.ask(f"Do you know my city, {user}?", conversation_id="elsewhere")
    prompt = next(
        one for one in reversed(model.requests) if f"Do you know my city, {user}?" in str(one["messages"][-1])
    )
    assert "Porto" not in prompt["messages"][0]["content"]
    assert list(answer.used_traits) == []


async def test_a_job_killed_in_the_middle_runs_again_and_adds_nothing_twice(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, folder: Path, user: str
) -> None:
    text = f"I prefer tea, {user}"
    answer = candidates(likes("tea", "I prefer tea", key="preferences.drink"))
    asked_to_learn = f'"message": "{text}'  # as the extraction's prompt quotes it
    model.script(contains=asked_to_learn, json_answer=answer, first_delay_s=30, times=1)
    env = environment(
        mongod.url,
        redis_server.url.removesuffix("0") + "1",  # a queue that no other test's worker works off
        model.base_url,
        TWIN_MONGODB_DATABASE=f"killed_{user[-6:]}",
        TWIN_JOB_TIMEOUT_S=2,
    )
    server = await started(Process("server", folder, env))
    first = Process("worker", folder, env)
    second = Process("worker", folder, env)
    try:
        async with TwinClient(server.url, token_of(user)) as client:
            await client.ask(text)
            first.start()
            await eventually(lambda: _asked_for_traits(model, text) == 1, timeout=30)
            first.kill()
            model.script(contains=asked_to_learn, json_answer=answer)
            second.start()
            await client.until(lambda state: state.profile_version == 1, timeout=60)
            trait = (await client.profile())["traits"][0]
            assert (trait["value"], trait["supporting"]) == ("tea", 8.0)
    finally:
        for process in (first, second, server):
            await asyncio.to_thread(process.stop, 5)  # the loop is everybody's


def _asked_for_traits(model: ScriptedModel, text: str) -> int:
    return sum(f'"message": "{text}' in one["messages"][-1]["content"] for one in model.requests)
