"""The model client against servers that speak the API in their own ways: each alone, and in pairs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.dialects import MANNERS, REFUSALS, WRAPPINGS
from tests.scripted_model import ScriptedModel
from tests.test_agent_model import ASKED, opened
from twin_sio.agent.model import Finished, OpenAIModel

TOKENS = ("Hel", "lo", " 👋🏽 ünd", " 日本語", "\n", "[ok]\u2028")
SCHEMA = {"type": "object", "required": ["title"], "properties": {"title": {"type": "string"}}}
OBJECT = '{"title": "Der 👋🏽, \\"so\\", [x], {y}"}'
LEARNT = [name for name in REFUSALS if name not in ("turns", "small")]  # `turns` is kept from the first


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel(tokens=TOKENS, json_answer=OBJECT) as running:
        yield running


async def answered(model: OpenAIModel) -> str:
    pieces = [piece async for piece in model.stream(ASKED)]
    assert isinstance(pieces[-1], Finished)
    assert pieces[-1].reason == "stop"
    return "".join(piece for piece in pieces if isinstance(piece, str))


async def check(server: ScriptedModel, *dialects: str) -> None:
    """Answers and objects are whole, and what was refused once is asked so no more."""
    server.reset()
    server.dialects = dialects
    async with opened(server.base_url, first_token_s=5, stall_s=2) as model:
        await check_answers(model)
        if refused := server.refused:
            await check_answers(model)
        assert server.refused == refused


async def check_answers(model: OpenAIModel) -> None:
    assert await answered(model) == "".join(TOKENS)
    assert await model.complete_json(ASKED, SCHEMA, name="title") == {"title": 'Der 👋🏽, "so", [x], {y}'}


@pytest.mark.parametrize("name", [*REFUSALS, *WRAPPINGS, *MANNERS])
async def test_each_dialect_is_understood(server, name):
    await check(server, name)
    assert bool(server.refused) == (name in LEARNT)


def speakable(first: str, second: str) -> bool:
    """Whether one server could be both, and answers what is understood: calls are not, in pieces."""
    pair = {first, second}
    one_of = [{"max_completion_tokens", "no_length"}, {"developer", "no_instructions"}, {"json_object", "no_json"}]
    in_pieces = "streams_always" in pair and pair & {"tool_call", "function_call", "parsed"}
    return pair not in one_of and not in_pieces and not ("quoted" in pair and pair <= {*WRAPPINGS})


BESIDE = ("think", "halves", "crlf", "crumbs", "parts", "streams_always")  # what goes with every manner


@pytest.mark.parametrize("first", [*REFUSALS, *WRAPPINGS, *BESIDE])
async def test_dialects_are_understood_together(server, first):
    """Refusals with one another, wrappings too, and of the manners those that change most with all."""
    seconds = {*REFUSALS} if first in REFUSALS else {*WRAPPINGS} if first in WRAPPINGS else {*WRAPPINGS, *MANNERS}
    for second in sorted(seconds - {first}):
        if (first in BESIDE or first < second) and speakable(first, second):
            await check(server, first, second)
