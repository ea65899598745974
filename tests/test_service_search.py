"""A user searches their own conversations: over sockets, HTTP and both clients, and nobody else's."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from tests.conftest import Connect, settings_for, token_of, url_of
from tests.raw import RawSocket
from tests.scripted_model import ScriptedModel
from tests.test_service_data import erase
from tests.test_service_memory import prompt_of
from tests.waiting import eventually
from twin_sio.admin import revoke
from twin_sio.agent import prompts
from twin_sio.config import Settings
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import Service, service


async def over_http(url: str, user: str, **asked: Any) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token_of(user)}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(f"{url}/v1/search", params=asked) as got:
        return got.status, await got.json()


async def test_messages_of_all_conversations_are_found(url: str, user: str, connect: Connect) -> None:
    """By their stems, of both sides, and nothing that only stands beside; the socket and HTTP say the same."""
    client = await connect()
    await client.ask("My brother Rafael has adopted two kittens", conversation_id="family")
    await client.ask("The weather stays fine", conversation_id="family")
    await client.ask("The tax declaration is due", conversation_id="money")
    found = await client.search("did my brother adopt a kitten?")
    first = found["messages"][0]
    assert found["complete"] is True
    assert (first["conversation_id"], first["role"], first["seq"]) == ("family", "user", 1)
    assert first["excerpt"] == "My brother Rafael has adopted two kittens"
    assert first["message_id"] in client.state.messages
    assert all("brother" in one["excerpt"] for one in found["messages"])
    assert await over_http(url, user, text="did my brother adopt a kitten?") == (200, found)
    assert (await over_http(url, user, text="kittens", limit=1))[1]["messages"] == [first]
    assert (await over_http(url, f"{user}-other", text="kittens"))[1] == {"messages": [], "complete": True}


async def test_an_excerpt_is_around_what_was_found(url: str, user: str, connect: Connect) -> None:
    client = await connect()
    await client.receipt(await client.send("lorem ipsum " * 100 + "the Kittens sleep " + "dolor sit " * 100))
    (message,) = (await client.search("kittens", limit=1))["messages"]
    assert "the Kittens sleep" in message["excerpt"]
    assert message["excerpt"].startswith("…")
    assert message["excerpt"].endswith("…")
    assert len(message["excerpt"]) < 300


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "query.text"),
        ({"text": ""}, "query.text"),
        ({"text": "x" * 501}, "query.text"),
        ({"text": "a\x00b"}, "query.text"),
        ({"text": "x", "limit": 0}, "query.limit"),
        ({"text": "x", "limit": 51}, "query.limit"),
        ({"text": "x", "limit": "many"}, "query.limit"),
    ],
)
async def test_a_bad_query_names_its_field(url: str, user: str, asked: dict[str, Any], field: str) -> None:
    status, answer = await over_http(url, user, **asked)
    assert (status, answer["code"], answer["field"]) == (400, "invalid_message", field)


async def test_searches_are_limited(mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, user: str) -> None:
    """Over HTTP and sockets together."""
    settings = settings_for(mongod.url, redis_server.url, model.base_url, limits__requests_per_minute=3)
    async with service(settings) as running, RawSocket(url_of(running), token_of(user)) as device:
        asked = {"payload": {"text": "hello"}}
        answers = [(await device.ask("search", asked))["type"] for _ in range(2)]
        assert (await over_http(url_of(running), user, text="hello"))[0] == 200
        refused = await device.ask("search", asked)
        assert (answers, refused["type"]) == (["search", "search"], "error")
        assert refused["payload"]["code"] == "rate_limited"
        assert refused["payload"]["retry_after_ms"] > 0
        assert (await over_http(url_of(running), user, text="hello"))[0] == 429


async def test_what_is_erased_is_found_no_more(instance: Service, url: str, user: str, connect: Connect) -> None:
    client = await connect()
    await client.ask(f"My secret kitten {user}")
    assert (await client.search("kitten"))["messages"] != []
    await erase(url, user)
    indexes = instance.services.indexes
    await eventually(lambda: user not in indexes._entries and user not in indexes._updating)
    fresh = await connect()
    assert await fresh.search("kitten") == {"messages": [], "complete": True}


async def test_a_revocation_takes_the_text_out_of_memory(
    instance: Service, settings: Settings, user: str, connect: Connect
) -> None:
    client = await connect()
    await client.receipt(await client.send("My kitten"))
    assert len((await client.search("kitten"))["messages"]) == 1
    assert user in instance.services.indexes._entries
    await revoke(settings, user, None, 600)
    await eventually(lambda: user not in instance.services.indexes._entries)


async def test_recall_finds_words_without_vectors(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, user: str, connect: Connect
) -> None:
    """What was said elsewhere is in the prompt before a job has made a vector of it, and however often it was asked."""
    patient = settings_for(mongod.url, redis_server.url, model.base_url, tuning__recall_ms=2000)
    async with service(patient) as running:
        client = await connect(url_of(running))
        await client.ask("My brother is called Rafael", conversation_id="family")
        question = f"So what is my brother called? {user}"
        for number in range(12):
            await client.ask(question, conversation_id=f"c{number}")
        related = prompt_of(model, question).partition(prompts.RELATED_HEADING)[2]
        assert "My brother is called Rafael" in related
        await client.close()
