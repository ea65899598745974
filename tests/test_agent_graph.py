"""The twin's graph over a real model server: what it yields, when, and how it ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from tests.scripted_model import ScriptedModel
from twin_sio.agent import (
    AgentRequest,
    AnswerPart,
    ChatMessage,
    Delta,
    Done,
    ProfileContext,
    RecalledMemory,
    Stage,
)
from twin_sio.agent.graph import TwinAgent
from twin_sio.agent.loop import Loop
from twin_sio.agent.model import OpenAIModel, RequestedCall
from twin_sio.agent.profile_prompt import known
from twin_sio.domain import Json, Profile, Trait
from twin_sio.errors import ModelTimeout, ModelUnavailable, ServiceError, StorageUnavailable

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ASK = AgentRequest("u1", "main", "m1", 1, "Where do I live?")
CITY = Trait("trait-city", "location.city", "Berlin", "applied", 0.9, 8, 0, NOW, None, NOW)


@dataclass
class RememberedInPlace:
    """A `Memory` over plain values."""

    said: Sequence[ChatMessage] = ()
    traits: tuple[Trait, ...] = (CITY,)
    host: Json | None = field(default_factory=lambda: {"page": "map"})
    failure: ServiceError | None = None

    async def history(self, ask: AgentRequest, limit: int) -> Sequence[ChatMessage]:
        return self.said[-limit:]

    async def known(self, user_id: str) -> ProfileContext:
        if self.failure is not None:
            raise self.failure
        return known(Profile(user_id, 1, self.traits), budget_tokens=1000)

    async def context(self, user_id: str) -> Json | None:
        return self.host

    async def past(self, ask: AgentRequest) -> RecalledMemory:
        return RecalledMemory(("they are moving",))


@pytest.fixture
async def server() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as running:
        yield running


@pytest.fixture
async def model(server: ScriptedModel) -> AsyncIterator[OpenAIModel]:
    model = OpenAIModel(base_url=server.base_url, api_key="", model="tiny", backoff_s=0.001)
    yield model
    await model.close()


@pytest.fixture
async def hasty(server: ScriptedModel) -> AsyncIterator[OpenAIModel]:
    """It gives up after a second of silence."""
    model = OpenAIModel(base_url=server.base_url, api_key="", model="tiny", stall_s=1)
    yield model
    await model.close()


def twin(model: OpenAIModel, memory: RememberedInPlace | None = None, interval_ms: int = 40) -> TwinAgent:
    return TwinAgent(memory or RememberedInPlace(), model, budget_tokens=1000, chunk_interval_ms=interval_ms)


async def steps_of(agent: TwinAgent, ask: AgentRequest = ASK) -> list[AnswerPart]:
    async with aclosing(agent.answer(ask)) as steps:
        return [step async for step in steps]


async def broken(agent: TwinAgent) -> tuple[str, ServiceError]:
    """The text that came before the failure, and the failure."""
    said: list[str] = []
    try:
        async for step in agent.answer(ASK):
            said += [step.text] if isinstance(step, Delta) else []
    except ServiceError as failure:
        return "".join(said), failure
    raise AssertionError("the answer did not fail")


async def test_an_answer_is_stages_then_deltas_then_one_done(server, model):
    steps = await steps_of(twin(model))
    assert steps[:2] == [Stage("recalling"), Stage("thinking")]
    assert all(isinstance(step, Delta) and step.text for step in steps[2:-1])
    assert "".join(step.text for step in steps if isinstance(step, Delta)) == server.answer_to(ASK.text)
    assert isinstance(steps[-1], Done)
    assert (steps[-1].model, steps[-1].used_traits) == ("tiny", ("trait-city",))
    assert steps[-1].usage["completion_tokens"] > 0


async def test_the_prompt_holds_what_was_recalled(server, model):
    await steps_of(twin(model, RememberedInPlace(said=[ChatMessage("user", "Hi"), ChatMessage("assistant", "Hello")])))
    received = server.requests[0]["messages"]
    assert [message["role"] for message in received] == ["system", "user", "assistant", "user"]
    assert "Berlin" in received[0]["content"]
    assert '{"page": "map"}' in received[0]["content"]
    assert '["they are moving"]' in received[0]["content"]
    assert received[-1]["content"] == ASK.text


async def test_the_first_delta_comes_at_once_and_the_rest_gathered(server, model):
    """With an interval longer than the answer there are two deltas: the first token, and all others."""
    server.script(tokens=tuple("abcdefgh"), token_delay_s=0.002)
    steps = await steps_of(twin(model, interval_ms=60_000))
    assert [step.text for step in steps if isinstance(step, Delta)] == ["a", "bcdefgh"]


async def test_gathered_text_is_sent_during_silence(server, model):
    """A token that waits for company leaves after the interval, long before the model stalls."""
    server.script(tokens=("a", "b", "c"), hang_after=2)
    async with aclosing(twin(model, interval_ms=20).answer(ASK)) as steps:
        said = []
        async for step in steps:
            said += [step.text] if isinstance(step, Delta) else []
            if said == ["a", "b"]:
                assert server.running == 1
                break


async def test_without_an_interval_every_token_is_a_delta(server, model):
    server.script(tokens=("a", "b", "c"))
    steps = await steps_of(twin(model, interval_ms=0))
    assert [step.text for step in steps if isinstance(step, Delta)] == ["a", "b", "c"]


@pytest.mark.parametrize("interval_ms", [0, 40, 60_000])
async def test_a_failure_comes_after_all_that_was_said(server, model, interval_ms):
    server.script(tokens=("a", "b", "c"), rubbish_after=3)
    said, failure = await broken(twin(model, interval_ms=interval_ms))
    assert (said, type(failure)) == ("abc", ModelUnavailable)


async def test_a_model_that_stalls_is_model_timeout(server, hasty):
    server.script(tokens=("a", "b", "c"), hang_after=2)
    said, failure = await broken(twin(hasty))
    assert (said, type(failure)) == ("ab", ModelTimeout)


async def test_a_failing_store_calls_no_model(server, model):
    """A failing store is reported and the model is not asked."""
    said, failure = await broken(twin(model, RememberedInPlace(failure=StorageUnavailable())))
    assert (said, type(failure), server.requests) == ("", StorageUnavailable, [])


async def test_closing_the_answer_ends_the_models_call_at_once(server, model):
    server.script(count=10_000, token_delay_s=0.01)
    async with aclosing(twin(model).answer(ASK)) as steps:
        async for step in steps:
            if isinstance(step, Delta):
                break
    await server.until(lambda seen: seen.cancelled == 1 and seen.running == 0)


class Watched:
    """The real model, and how many of its streams are open."""

    def __init__(self, model: OpenAIModel) -> None:
        self.model, self.name, self.open = model, model.name, 0

    async def stream(self, messages, tools=()):
        self.open += 1
        try:
            async with aclosing(self.model.stream(messages, tools)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self.open -= 1


async def test_once_the_answer_is_closed_nothing_of_it_runs_on(server, model):
    """Closing waits for the graph, so that no second generation can begin beside the remains of the first."""
    server.script(count=10_000, token_delay_s=0.01)
    watched = Watched(model)
    async with aclosing(twin(watched).answer(ASK)) as steps:
        async for step in steps:
            if isinstance(step, Delta):
                assert watched.open == 1
                break
    assert watched.open == 0


async def test_cancelling_the_reader_ends_the_models_call_at_once(server, model):
    server.script(hang=True)
    reader = asyncio.create_task(steps_of(twin(model)))
    await server.until(lambda seen: seen.running == 1)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await server.until(lambda seen: seen.cancelled == 1 and seen.running == 0)


async def test_answers_run_beside_each_other_and_do_not_mix(server, model):
    agent = twin(model)
    asks = [AgentRequest(f"u{n}", "main", f"m{n}", 1, f"question {n}") for n in range(8)]
    server.default = server.default.of(token_delay_s=0.002)
    answers = await asyncio.gather(*(steps_of(agent, ask) for ask in asks))
    for ask, steps in zip(asks, answers, strict=True):
        assert "".join(step.text for step in steps if isinstance(step, Delta)) == server.answer_to(ask.text)
    assert server.peak > 1


async def test_answers_in_a_row_share_a_connection(server, model):
    """Each is read to its end: a connection costs more than an answer's prompt."""
    for _ in range(3):
        await steps_of(twin(model))
    assert server.connections == 1


def test_nothing_is_traced_whatever_the_environment_says():
    """LangSmith would be sent every prompt if the environment asked for it."""
    received = (
        "import twin_sio.agent.graph; from langsmith.utils import tracing_is_enabled; print(tracing_is_enabled())"
    )
    asked = {**os.environ, "LANGSMITH_TRACING": "true", "LANGCHAIN_TRACING_V2": "true"}
    done = subprocess.run([sys.executable, "-c", received], env=asked, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_came_with_a_call_goes_back_with_it() -> None:
    """Gemini's signatures, and what DeepSeek has thought: without them the next step is refused."""
    loop = Loop()
    ask: Any = SimpleNamespace(digest=lambda *_: "0123456789abcdef")
    loop.add_answer(ask, "", [RequestedCall("look", "{}", {"google": 1}), RequestedCall("look", "{}")], "hm")
    (message,) = loop.messages
    assert message["reasoning_content"] == "hm"
    assert [call.get("extra_content") for call in message["tool_calls"]] == [{"google": 1}, None]
    loop.add_answer(ask, "", [RequestedCall("look", "{}")])
    assert "reasoning_content" not in loop.messages[1]
