"""The whole service over servers that speak the API in their own ways: answers, traits and titles are complete."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import combinations

import pytest

from tests.conftest import settings_for, token_of, url_of, working
from tests.dialects import MANNERS, REFUSALS, SMALL, WRAPPINGS
from tests.scripted_model import ScriptedModel
from tests.test_service_tools import Device, calls, made, results, town  # noqa: F401 - a fixture
from tests.waiting import eventually
from twin_sio.client import TwinClient
from twin_sio.clock import new_id
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import service

THREE = ("max_completion_tokens", "no_json", "think")


def redis_of(server: RedisServer, number: int) -> str:
    """A database of its own: a worker takes jobs from whichever service."""
    return f"{server.url.removesuffix('0')}{number}"


@pytest.fixture
async def opened(mongod: Mongod, redis_server: RedisServer) -> Callable[..., object]:
    """Makes a service with a worker and a model of its own."""

    @asynccontextmanager
    async def opened(*dialects: str, **more: object) -> AsyncIterator[tuple[ScriptedModel, str]]:
        async with AsyncExitStack() as stack:
            model = await stack.enter_async_context(ScriptedModel())
            model.dialects = dialects
            database = f"dialects-{new_id()[:12]}"
            settings = settings_for(
                mongod.url, redis_of(redis_server, 8), model.base_url, storage__mongodb_database=database, **more
            )
            running = await stack.enter_async_context(service(settings))
            await stack.enter_async_context(working(settings))
            yield model, url_of(running)

    return opened


async def live_a_little(model: ScriptedModel, url: str) -> None:
    """Say something: it is answered, learnt from, and gives the conversation its title."""
    user = f"kim{new_id()[:12]}"
    text = f"I prefer TypeScript 👋🏽, says {user}"
    title = json.dumps({"title": "Languages 👋🏽"})
    found = {"key": "preferences.language", "value": "TypeScript", "kind": "explicit", "quote": "I prefer TypeScript"}
    model.script(contains=f'{{"lines": [{{"person": "{text}', json_answer=title)
    model.script(contains=text, json_answer=json.dumps({"candidates": [{"polarity": "support", **found}]}))
    async with TwinClient(url, token_of(user)) as client:
        answer = await client.ask(text)
        assert (answer.status, answer.finish) == ("complete", None)
        assert answer.text == model.answer_to(text)
        await client.until(lambda state: state.profile_version == 1)
        (trait,) = (await client.profile())["traits"]
        assert (trait["value"], trait["status"]) == ("TypeScript", "applied")

        async def titled() -> bool:
            return [one["title"] for one in await client.conversations()] == ["Languages 👋🏽"]

        await eventually(titled)


@pytest.fixture(scope="module")
async def shared(mongod: Mongod, redis_server: RedisServer) -> AsyncIterator[tuple[ScriptedModel, str]]:
    """One service for all that an endpoint may answer, of which nothing is learnt."""
    async with ScriptedModel() as model:
        settings = settings_for(
            mongod.url, redis_of(redis_server, 9), model.base_url, storage__mongodb_database=f"dialects-{new_id()[:12]}"
        )
        async with service(settings) as running, working(settings):
            yield model, url_of(running)


@pytest.mark.parametrize("manner", [*WRAPPINGS, *MANNERS])
async def test_a_twin_lives_whatever_answers_are_like(shared, manner):
    model, url = shared
    model.reset()
    model.dialects = (manner,)
    await live_a_little(model, url)


async def test_thoughts_that_no_mark_begins_are_no_part_of_an_answer(opened):
    """The first time they are shown meanwhile, as nobody can know; then not at all."""
    thought = "The user greets me."
    async with opened(agent__shows_reasoning=True) as (model, url):
        user = f"kim{new_id()[:12]}"
        async with TwinClient(url, token_of(user)) as client:
            for nth in range(2):
                model.script(contains=f"hi {nth}", streams=True, tokens=(thought, "\n</think>", "\n\nHel", "lo."))
                answer = await client.ask(f"hi {nth}")
                assert (answer.status, answer.text) == ("complete", "Hello.")
                assert (answer.reasoning or "").strip() == thought
                assert answer.joined_matches is (nth == 1)
            assert [one["text"] for one in (await client.history())["messages"]][1::2] == ["Hello.", "Hello."]
        said = [one for body in model.requests if body.get("stream") for one in body["messages"]]
        assert thought not in json.dumps(said)


@pytest.mark.parametrize("refusal", [name for name in REFUSALS if name not in ("small", "no_tools")])
async def test_a_twin_lives_whatever_is_refused(opened, refusal):
    """And each of the two processes learns of each form once."""
    async with opened(refusal) as (model, url):
        await live_a_little(model, url)
        refused = model.refused
        await live_a_little(model, url)
        assert model.refused == refused <= 8


@pytest.mark.parametrize("pair", [*combinations(THREE, 2)], ids="+".join)
async def test_a_twin_lives_with_pairs_of_dialects(opened, pair):
    async with opened(*pair) as (model, url):
        await live_a_little(model, url)


async def test_what_was_learnt_outlives_the_process(mongod, redis_server):
    async with ScriptedModel() as model:
        model.dialects = ("max_completion_tokens", "developer")
        settings = settings_for(
            mongod.url, redis_server.url, model.base_url, storage__mongodb_database=f"dialects-{new_id()[:12]}"
        )
        for _ in range(2):
            async with service(settings) as running, TwinClient(url_of(running), token_of("ada")) as client:
                assert (await client.ask("hello")).status == "complete"
        assert model.refused == 2


async def test_a_long_conversation_goes_on_in_turns(opened):
    """Where an answer failed, and where the history was cut, too."""
    async with opened("turns", model__prompt_budget_tokens=300) as (model, url):
        async with TwinClient(url, token_of("ada")) as client:
            model.script(contains="this one fails", status=500, streams=True)
            for number in range(9):
                text = f"{'this one fails' if number == 2 else 'say'} {number} {'word ' * 30}"
                answer = await client.ask(text)
                assert (answer.status == "complete") == (number != 2)
        assert model.refused == 0


async def test_a_small_context_is_met_by_a_shorter_history(opened):
    async with (
        opened("small", model__prompt_budget_tokens=2400) as (model, url),
        TwinClient(url, token_of("ada")) as client,
    ):
        for number in range(24):
            answer = await client.ask(f"{number} {'word ' * 60}")
            assert answer.status == "complete"
        assert model.refused
        answer = await client.ask("x" * (SMALL + 1))
        assert (answer.status, answer.error) == ("failed", "model_context_too_long")


async def test_an_answer_that_was_cut_says_so_on_every_device(opened):
    async with opened() as (model, url):
        model.script(contains="tell me", tokens=("once", " upon"), reason="length", streams=True)
        async with TwinClient(url, token_of("ada")) as client:
            answer = await client.ask("tell me all")
            assert (answer.status, answer.text, answer.finish) == ("complete", "once upon", "length")
            page = await client.history()
            assert page["messages"][-1]["finish"] == "length"


@pytest.mark.parametrize("rest", ["", "whole", "crumbs", "think"])
async def test_a_call_in_the_text_is_made_and_never_shown(opened, town, rest):  # noqa: F811
    """Not by a chunk, not in the answer, not in the history; a broken one is told to the model, which goes on."""
    dialects = ("calls_in_text", rest) if rest else ("calls_in_text",)
    tools = {"agent__factory": "tests.test_service_tools:agent", "model__extraction": "rules"}
    async with opened(*dialects, **tools) as (model, url):
        said = f"the weather in {town}"
        broken = [{"name": "weather", "arguments": "{not json"}]
        model.script(contains=said, streams=True, answered=0, calls=broken)
        model.script(contains=said, streams=True, answered=1, tokens=("I look.",), calls=calls("weather", city=town))
        model.script(contains=said, streams=True, answered=2, tokens=("It rains.",))
        async with Device(url, token_of("ada"), features=["approvals"], session_id=new_id()) as one:
            answer = await one.answered(await one.say(said))
            page = await one.ask("history", {"payload": {}})
            seen = json.dumps([*one.events, page])
        assert (answer["text"], answer["status"]) == ("I look.\n\nIt rains.", "complete")
        assert [step["state"] for step in answer["steps"]] == ["failed", "done"]
        told = results(model, said)
        assert ("no JSON" in told[0], told[1]) == (True, f"It rains in {town}.")
        assert made(town) == 1
        assert "tool_call>" not in seen


async def test_a_refused_key_is_said_and_not_tried_again(opened):
    """The user is told, the rules learn, and nobody asks the endpoint over and over."""
    async with opened() as (model, url):
        model.default = model.default.of(status=401)
        async with TwinClient(url, token_of("ada")) as client:
            answer = await client.ask("I live in Lisbon.")
            assert (answer.status, answer.error) == ("failed", "model_key_refused")
            failure = client.failure(answer.in_response_to)
            assert (failure.code, failure.retryable) == ("model_key_refused", False)
            page = await client.history()
            assert page["messages"][-1]["error"] == "model_key_refused"
        assert len(model.requests) == 1


async def test_who_refuses_to_read_is_asked_once_a_message(opened):
    """The rules learn at once what is plain, and no job asks again."""
    async with opened() as (model, url):
        model.script(contains='"message"', status=400)
        model.script(contains='{"lines"', status=400)
        async with TwinClient(url, token_of("ada")) as client:
            assert (await client.ask("I live in Lisbon.")).status == "complete"
            await client.until(lambda state: state.profile_version == 1)
            await eventually(lambda: len([one for one in model.requests if not one.get("stream")]) == 2)  # read, titled
            assert (await client.ask("And my name is Ada.")).status == "complete"
            await client.until(lambda state: state.profile_version == 2)
        bodies = [json.dumps(body) for body in model.requests if not body.get("stream")]
        assert len(bodies) == len({*bodies}) <= 4
