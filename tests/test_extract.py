"""What the extractor keeps of a model's proposals, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from tests.scripted_model import ScriptedModel
from twin_sio.agent.extract import ModelExtractor
from twin_sio.agent.model import OpenAIModel
from twin_sio.domain import Evidence, Exchange
from twin_sio.errors import ModelTimeout, ModelUnavailable

TEXT = "I moved to Munich last week. My doctor says I have asthma, and I love jazz."
EXCHANGE = Exchange("u1", "m1", "main", "s1", datetime(2026, 1, 1, tzinfo=UTC), TEXT, "Welcome to Munich!")


def candidate(**fields: object) -> dict[str, object]:
    plain = {
        "key": "location.city",
        "value": "Munich",
        "polarity": "support",
        "kind": "change",
        "quote": "I moved to Munich",
    }
    return {**plain, **fields}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as running:
        yield running


@pytest.fixture
async def extractor(server: ScriptedModel) -> AsyncIterator[ModelExtractor]:
    model = OpenAIModel(base_url=server.base_url, api_key="", model="tiny", complete_s=2, backoff_s=0.001)
    yield ModelExtractor(model)
    await model.close()


async def kept(server: ScriptedModel, extractor: ModelExtractor, *candidates: object) -> list[Evidence]:
    server.script(json_answer=json.dumps({"candidates": candidates}))
    return list(await extractor.candidates(EXCHANGE))


async def test_a_candidate_in_the_users_own_words_becomes_evidence(server, extractor):
    assert await kept(server, extractor, candidate()) == [
        Evidence(
            user_id="u1",
            key="location.city",
            value="Munich",
            polarity=1,
            kind="change",
            observed_at=EXCHANGE.at,
            session_id="s1",
            message_id="m1",
            quote="I moved to Munich",
            extractor="model/tiny@1",
        )
    ]


async def test_the_model_is_asked_under_the_schema(server, extractor):
    await extractor.candidates(EXCHANGE)
    assert server.requests[0]["response_format"]["json_schema"]["strict"] is True


async def test_opposing_candidates_oppose(server, extractor):
    assert [piece.polarity for piece in await kept(server, extractor, candidate(polarity="oppose"))] == [-1]


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "hypothetical"},
        {"kind": "third_person"},
        {"kind": "quoted"},
        {"kind": "confirmed"},
        {"kind": "rejected"},
        {"kind": None},
        {"polarity": "maybe"},
        {"quote": "Welcome to Munich!"},
        {"quote": "I moved to munich"},
        {"quote": " "},
        {"quote": 5},
        {"key": "city"},
        {"key": "location."},
        {"key": "a.b.c"},
        {"key": "$where.x"},
        {"key": "x" * 40 + ".y"},
        {"value": "x" * 201},
        {"value": "  "},
        {"value": ["Munich"]},
        {"key": "health.condition", "value": "asthma", "kind": "inferred", "quote": "I have asthma"},
        {"key": "identity.religion", "kind": "inferred"},
    ],
    ids=lambda fields: ",".join(f"{name}={str(value)[:20]}" for name, value in fields.items()),
)
async def test_what_does_not_hold_is_dropped_and_the_rest_is_kept(server, extractor, fields):
    jazz = candidate(key="interests.likes", value="jazz", kind="explicit", quote="I love jazz")
    pieces = await kept(server, extractor, candidate(**fields), jazz)
    assert [piece.value for piece in pieces] == ["jazz"]


async def test_sensitive_things_that_are_plainly_said_are_kept(server, extractor):
    said = candidate(key="health.condition", value="asthma", kind="explicit", quote="I have asthma")
    assert [piece.key for piece in await kept(server, extractor, said)] == ["health.condition"]


async def test_no_more_than_twelve_candidates_are_read(server, extractor):
    many = [candidate(value=f"v{n}") for n in range(20)]
    assert [piece.value for piece in await kept(server, extractor, *many)] == [f"v{n}" for n in range(12)]


async def test_the_same_candidate_twice_is_one_piece(server, extractor):
    assert len(await kept(server, extractor, candidate(), candidate(quote="moved to Munich"))) == 1


@pytest.mark.parametrize(
    "answer", ["no idea", "[]", "{}", '{"candidates": 5}', '{"candidates": [5, null, [], "x"]}', ""]
)
async def test_unusable_output_is_no_evidence_and_no_error(server, extractor, answer):
    server.script(json_answer=answer)
    assert list(await extractor.candidates(EXCHANGE)) == []


async def test_a_model_that_fails_is_told_as_such(server, extractor):
    server.script(status=400)
    with pytest.raises(ModelUnavailable):
        await extractor.candidates(EXCHANGE)
    server.script(hang=True)
    with pytest.raises(ModelTimeout):
        await extractor.candidates(EXCHANGE)
