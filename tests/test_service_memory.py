"""Memory over time: what a prompt holds of the past, and what is erased with its messages."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from arq import Retry

from tests.conftest import Connect, settings_for, url_of
from tests.scripted_model import ScriptedModel
from tests.test_service_data import erase, export
from tests.waiting import eventually
from twin_sio.agent import prompts
from twin_sio.client import TwinClient
from twin_sio.clock import now
from twin_sio.jobs.functions import remember, sweep
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import Service, service


def asked_for_title(text: str) -> str:
    """What stands in a request for the title of a conversation that begins with `text`, and in no other."""
    return '{"lines": [{"person": "' + text


def asked_for_summary(user: str) -> str:
    """What stands in a request for a summary of points about `user`."""
    return f'{{"points": ["about {user}'


def prompt_of(model: ScriptedModel, text: str) -> str:
    """The system message of the newest answer's request for `text`."""
    return str(model.asked_to_answer(text)[0]["content"])


async def title_of(client: TwinClient, conversation: str = "main") -> str:
    listed = await client.conversations()
    return next((one["title"] for one in listed if one["conversation_id"] == conversation), "")


@pytest.fixture(scope="module")
async def small(mongod: Mongod, redis_server: RedisServer, model: ScriptedModel) -> AsyncIterator[Service]:
    """A server whose prompts hold little; its jobs are run by the tests themselves."""
    settings = settings_for(
        mongod.url,
        redis_server.url,
        model.base_url,
        storage__mongodb_database="memory_tests",
        model__prompt_budget_tokens=800,
        storage__retention_messages_days=30,
        tuning__recall_ms=2000,  # the local model is loaded within the first
    )
    async with service(settings) as running:
        yield running


async def remembered(running: Service, user: str, message_id: str) -> None:
    await remember({"deps": running.services.job_deps()}, user, message_id)


async def test_a_conversation_gets_a_title(connect: Connect, model: ScriptedModel, worker: None, user: str) -> None:
    """A conversation gets a title and until then has its first words."""
    text = f"What shall I cook tonight, asks {user}?"
    model.script(contains=asked_for_title(text), json_answer='{"title": "Cooking tonight"}', first_delay_s=0.3)
    client = await connect()
    await client.ask(text)
    assert await title_of(client) == text[:60]
    await eventually(lambda: _titled(client, "Cooking tonight"))
    await client.ask("And tomorrow?")
    assert await title_of(client) == "Cooking tonight"


async def _titled(client: TwinClient, wanted: str) -> bool:
    return await title_of(client) == wanted


async def test_without_a_model_only_titles_are_missing(
    small: Service, connect: Connect, model: ScriptedModel, user: str
) -> None:
    """A model that is away costs a title and nothing else."""
    text = f"unnamed {user}"
    model.script(contains=asked_for_title(text), status=500)
    client = await connect(url_of(small))
    answer = await client.ask(text)
    with pytest.raises(Retry):
        await remembered(small, user, answer.in_response_to)
    assert await title_of(client) == text


async def _long_talk(small: Service, client: TwinClient, model: ScriptedModel, user: str) -> list[str]:
    """Five exchanges that outgrow what a prompt holds; the texts."""
    texts = [f"{n} {user} " + "tell me about the sea " * 12 for n in range(5)]
    for text in texts:
        answer = await client.ask(text)
        await remembered(small, user, answer.in_response_to)
        assert text not in str(_summaries(model, user))  # the newest is never folded
    return texts


def _summaries(model: ScriptedModel, user: str) -> list[dict[str, Any]]:
    """What the requests for summaries of this user held."""
    asked = [one["messages"][-1]["content"] for one in model.requests if "response_format" in one]
    return [json.loads(one) for one in asked if one.startswith('{"points"') and user in one]


async def test_older_messages_become_a_summary(
    small: Service, connect: Connect, model: ScriptedModel, user: str
) -> None:
    """Every line is folded once, in order, but for the newest; a job that runs again folds nothing."""
    model.script(
        contains=f'{{"points": [], "lines": [{{"person": "0 {user}', json_answer=f'{{"points": ["about {user} 1"]}}'
    )
    model.script(contains=asked_for_summary(user), json_answer=f'{{"points": ["about {user} 1", "about {user} 2"]}}')
    client = await connect(url_of(small))
    texts = await _long_talk(small, client, model, user)
    folds = _summaries(model, user)
    assert len(folds) >= 2
    assert folds[1]["points"] == [f"about {user} 1"]
    folded = [line["person"] for fold in folds for line in fold["lines"] if "person" in line]
    assert folded == texts[: len(folded)]
    last = await client.ask(f"so? {user}")
    system = prompt_of(model, f"so? {user}")
    assert prompts.SUMMARY_HEADING in system
    assert f'["about {user} 1", "about {user} 2"]' in system
    await remembered(small, user, last.in_response_to)
    await remembered(small, user, last.in_response_to)
    assert len(_summaries(model, user)) - len(folds) <= 1


async def test_nothing_falls_between_summary_and_history(
    small: Service, connect: Connect, model: ScriptedModel, user: str
) -> None:
    """After each exchange, whatever is not folded stands in the next prompt."""
    model.script(
        contains=f'{{"points": [], "lines": [{{"person": "0 {user}', json_answer=f'{{"points": ["about {user}"]}}'
    )
    model.script(contains=asked_for_summary(user), json_answer=f'{{"points": ["about {user}"]}}')
    client = await connect(url_of(small))
    texts = await _long_talk(small, client, model, user)
    await client.ask(f"so? {user}")
    request = next(one for one in model.requests if one["messages"][-1]["content"] == f"so? {user}")
    received = [message["content"] for message in request["messages"]]
    folded = [line["person"] for fold in _summaries(model, user) for line in fold["lines"] if "person" in line]
    assert set(texts) <= {*folded, *received}


async def test_summaries_hold_the_newest_answer(
    small: Service, connect: Connect, model: ScriptedModel, user: str
) -> None:
    """An answer made anew replaces the older in what is folded."""
    text = f"0 {user} first"
    model.script(contains=text, tokens=("the old answer",), times=1)
    model.script(contains=text, tokens=("the new answer",), times=1)
    model.script(
        contains=f'{{"points": [], "lines": [{{"person": "0 {user}', json_answer=f'{{"points": ["about {user}"]}}'
    )
    client = await connect(url_of(small))
    asked = await client.ask(text)
    await client.regenerate(asked.in_response_to)
    for n in range(3):
        answer = await client.ask(f"{n} {user} " + "go on about the sea " * 20)
    await remembered(small, user, answer.in_response_to)
    received = str(_summaries(model, user)[0]["lines"])
    assert ("the new answer" in received, "the old answer" in received) == (True, False)


async def test_a_model_that_cannot_summarise_leaves_the_messages_unfolded(
    small: Service, connect: Connect, model: ScriptedModel, user: str
) -> None:
    client = await connect(url_of(small))
    await _long_talk(small, client, model, user)
    assert await small.services.db["conversations"].count_documents({"user_id": user, "summary_upto": {"$gt": 0}}) == 0
    assert (await client.ask(f"so? {user}")).status == "complete"
    assert prompts.SUMMARY_HEADING not in prompt_of(model, f"so? {user}")


async def test_recall_is_dated_and_private(small: Service, connect: Connect, model: ScriptedModel, user: str) -> None:
    """What was said elsewhere is recalled with its date and only to its user."""
    client = await connect(url_of(small))
    other = await connect(url_of(small), sub=f"{user}-other")
    received = await client.ask("My golden retriever Bruno is afraid of thunder", conversation_id="pets")
    await client.ask("The quarterly tax declaration is due", conversation_id="money")
    arrived = await other.ask("My golden retriever Rex is afraid of thunder", conversation_id="pets")
    await remembered(small, user, received.in_response_to)
    await remembered(small, f"{user}-other", arrived.in_response_to)
    question = f"Was my golden retriever afraid of thunder? {user}"
    await client.ask(question)
    system = prompt_of(model, question)
    assert prompts.RELATED_HEADING in system
    assert f'{{"on": "{now():%Y-%m-%d}", "they said": "My golden retriever Bruno is afraid of thunder"}}' in system
    assert "Rex" not in system
    assert "tax" not in system


async def test_what_the_conversation_holds_is_not_recalled_twice(
    small: Service, connect: Connect, model: ScriptedModel, user: str
) -> None:
    client = await connect(url_of(small))
    received = await client.ask("My golden retriever Bruno is afraid of thunder")
    await remembered(small, user, received.in_response_to)
    question = f"Was my golden retriever afraid of thunder? {user}"
    await client.ask(question)
    assert prompts.RELATED_HEADING not in prompt_of(model, question)


@pytest.fixture(scope="module")
async def endpoint() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as running:
        yield running


async def test_a_hung_embeddings_endpoint_delays_no_answer(
    mongod: Mongod,
    redis_server: RedisServer,
    model: ScriptedModel,
    endpoint: ScriptedModel,
    connect: Connect,
    user: str,
) -> None:
    """An embeddings endpoint serves recall; without it, words do, and a hung one delays no answer."""
    settings = settings_for(
        mongod.url,
        redis_server.url,
        model.base_url,
        storage__mongodb_database="memory_tests",
        embeddings__url=endpoint.base_url,
        embeddings__model="bag",
        tuning__embeddings_floor=0.5,
        tuning__recall_ms=400,
    )
    async with service(settings) as running:
        client = await connect(url_of(running))
        received = await client.ask("Bruno is afraid of thunder", conversation_id="pets")
        await remembered(running, user, received.in_response_to)
        question = f"Bruno is afraid of thunder still {user}"
        await client.ask(question)
        assert "Bruno is afraid of thunder" in prompt_of(model, question).partition(prompts.RELATED_HEADING)[2]
        endpoint.script(contains="hanging", hang=True)
        began = time.monotonic()
        answer = await client.ask(f"hanging, and Bruno? {user}")
        assert 0.1 <= time.monotonic() - began < 2.0
        assert answer.status == "complete"
        related = prompt_of(model, f"hanging, and Bruno? {user}").partition(prompts.RELATED_HEADING)[2]
        assert "Bruno is afraid of thunder" in related  # by its words
        model.script(contains=asked_for_title(question), json_answer='{"title": "Hanging"}')
        endpoint.reset()
        endpoint.script(status=500, times=1)
        with pytest.raises(Retry):  # for the vectors, later
            await remembered(running, user, answer.in_response_to)
        assert await title_of(client) == "Hanging"
        await client.close()


async def test_a_late_title_does_not_come_back_after_an_erasure(
    small: Service, connect: Connect, model: ScriptedModel, user: str
) -> None:
    text = f"secret plan {user}"
    model.script(contains=asked_for_title(text), json_answer='{"title": "Secret plan"}', first_delay_s=0.7)
    client = await connect(url_of(small))
    answer = await client.ask(text)
    job = asyncio.create_task(remembered(small, user, answer.in_response_to))
    await model.until(lambda m: any(asked_for_title(text) in one["messages"][-1]["content"] for one in m.requests))
    await erase(url_of(small), user)
    fresh = await connect(url_of(small))
    await fresh.ask("a new beginning")
    await job
    assert await title_of(fresh) == "a new beginning"
    assert "ecret plan" not in str(await export(url_of(small), user))


async def test_titles_and_summaries_are_exported_and_vectors_are_not(
    small: Service, connect: Connect, model: ScriptedModel, user: str
) -> None:
    text = f"to be exported {user}"
    model.script(contains=asked_for_title(text), json_answer='{"title": "An export"}')
    client = await connect(url_of(small))
    await remembered(small, user, (await client.ask(text)).in_response_to)
    lines = await export(url_of(small), user)
    assert [line["title"] for line in lines if line["kind"] == "conversation"] == ["An export"]
    assert not any("vector" in line or "vector_of" in line for line in lines)
    assert await small.services.db["events"].count_documents({"user_id": user, "vector": {"$exists": True}}) == 2


async def test_what_was_made_of_messages_ends_with_them(
    small: Service, connect: Connect, model: ScriptedModel, user: str
) -> None:
    text = f"an old story {user}"
    model.script(contains=asked_for_title(text), json_answer='{"title": "An old story"}')
    client = await connect(url_of(small))
    await remembered(small, user, (await client.ask(text)).in_response_to)
    assert await title_of(client) == "An old story"
    old = {"$set": {"since": now() - timedelta(days=31)}}  # as if the first message had been sent then
    await small.services.db["conversations"].update_many({"user_id": user}, old)
    await sweep({"deps": small.services.job_deps()})
    assert await title_of(client) == text
