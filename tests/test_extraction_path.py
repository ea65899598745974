"""Which extractor reads: the model where it passes the test, else the rules; the verdict is kept."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from tests.commands import output_of
from tests.scripted_model import ScriptedModel
from twin_sio.agent.extraction.fitness import count
from twin_sio.agent.extraction.model import ModelExtractor
from twin_sio.agent.extraction.rule_extractor import RulesExtractor
from twin_sio.agent.extraction.slots import table
from twin_sio.agent.model import OpenAIModel
from twin_sio.domain import Exchange
from twin_sio.errors import ModelUnavailable
from twin_sio.runtime.dev_engines.engines import Mongod
from twin_sio.services.extraction_path import ExtractionPath, ExtractionStats, model_id
from twin_sio.store import mongo

ROOT = Path(__file__).parent.parent
EXCHANGE = Exchange("u1", "m1", "main", "s1", datetime(2026, 1, 1, tzinfo=UTC), "I live in Lisbon.", "")


@pytest.fixture
async def server() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as running:
        yield running


@pytest.fixture
async def verdicts(mongod: Mongod, user: str) -> AsyncIterator[mongo.MongoModelVerdicts]:
    client, database = mongo.connect(mongod.url, f"verdicts_{user[-6:]}", 5000)
    yield mongo.MongoModelVerdicts(database)
    await client.drop_database(database.name)
    client.close()


def reads_well(server: ScriptedModel, *, missing: int = 0) -> None:
    """Have the model find every fact of the test but `missing`, and fall into no trap."""
    for item in table("fitness.toml")["facts"][missing:]:
        found = {"n": 1, "kind": "explicit", "affirms": item.get("before", ""), "quote": item["text"], **item}
        fact = {name: found[name] for name in ("n", "key", "value", "kind", "affirms", "quote")}
        server.script(
            contains=json.dumps(item["text"], ensure_ascii=False), json_answer=json.dumps({"candidates": [fact]})
        )


def falls_for(server: ScriptedModel, what: str) -> None:
    """Have the model find all facts, and take these messages for plain facts about their writer, too."""
    reads_well(server)
    for item in table("fitness.toml")[what]:
        lured = {"n": 1, "key": "life.fact", "value": item["text"], "kind": "explicit", "quote": item["text"]}
        server.script(
            contains=json.dumps(item["text"], ensure_ascii=False), json_answer=json.dumps({"candidates": [lured]})
        )


Made = Callable[[datetime], tuple[ExtractionPath, ExtractionStats]]


@pytest.fixture
async def path(server: ScriptedModel, verdicts: mongo.MongoModelVerdicts) -> AsyncIterator[Made]:
    """Makes the path of a process that runs at a time, and what an operator sees of it."""
    model = OpenAIModel(base_url=server.base_url, api_key="", model="tiny", complete_s=2, backoff_s=0.001)
    rules, name = RulesExtractor(), model_id(server.base_url, "tiny")

    def made(at: datetime) -> tuple[ExtractionPath, ExtractionStats]:
        stats = ExtractionStats()
        by_model = ModelExtractor(model, rules, stats.calls)
        return ExtractionPath(by_model, rules, ModelExtractor(model, rules), verdicts, name, lambda: at, stats), stats

    yield made
    await model.close()


NOW = datetime(2026, 6, 1, tzinfo=UTC)


async def test_a_fit_model_reads(server, path):
    reads_well(server, missing=2)
    extractor, stats = path(NOW)
    city = {"n": 1, "key": "location.city", "value": "Lisbon", "kind": "explicit", "quote": "I live in Lisbon"}
    server.script(contains="I live in Lisbon.", json_answer=json.dumps({"candidates": [city]}))
    (piece,) = await extractor.candidates([EXCHANGE])
    assert piece.extractor.startswith("model/tiny")
    assert stats.path == "model"


@pytest.mark.parametrize(
    "make_unfit",
    [
        lambda server: reads_well(server, missing=3),
        lambda server: None,
        lambda server: falls_for(server, "traps"),
        lambda server: falls_for(server, "orders"),
    ],
)
async def test_an_unfit_model_is_not_asked(server, path, make_unfit):
    make_unfit(server)
    extractor, stats = path(NOW)
    (piece,) = await extractor.candidates([EXCHANGE])
    assert piece.extractor.startswith("rules")
    assert stats.path == "rules"
    assert not any("I live in Lisbon" in str(request) for request in server.requests)


async def test_a_model_is_examined_once(server, path):
    """The verdict is kept for every process; of an unfit model for a week."""
    for at, examined in [(NOW, count()), (NOW, 0), (NOW + timedelta(days=6), 0), (NOW + timedelta(days=8), count())]:
        server.reset()
        await path(at)[0].candidates([EXCHANGE])
        assert len(server.requests) == examined
    reads_well(server)
    extractor, _ = path(NOW + timedelta(days=20))
    await asyncio.gather(*(extractor.candidates([EXCHANGE]) for _ in range(5)))
    server.reset()
    later, stats = path(NOW + timedelta(days=400))
    await later.candidates([EXCHANGE])
    assert (stats.path, len(server.requests)) == ("model", 1)


async def test_a_model_that_is_away_is_not_judged(server, path):
    server.default = server.default.of(status=503)
    extractor, stats = path(NOW)
    with pytest.raises(ModelUnavailable):
        await extractor.candidates([EXCHANGE])
    assert stats.path == "undecided"
    server.default = server.default.of()
    await extractor.candidates([EXCHANGE])
    assert stats.path == "rules"


def test_other_endpoints_are_other_models():
    ids = {model_id("http://a/v1", "m"), model_id("http://b/v1", "m"), model_id("http://a/v1", "n")}
    assert len(ids) == 3
    assert not any("http" in one for one in ids)


# -- doctor --model


async def doctor(base_url: str, *command: str) -> tuple[int | None, dict[str, object]]:
    """The exit code of the command, or of what `twin-sio doctor --model` runs, and what it finds."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TWIN_", "OPENAI_"))}
    more = {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "secret-key", "TWIN_MODEL": "tiny"} if base_url else {}
    code, out, err = await output_of(*command or ["twin_sio.runtime.model_check"], env={**env, **more})
    assert b"secret-key" not in out + err
    *progress, check = map(orjson.loads, out.splitlines())
    assert all("progress" in line for line in progress)
    assert not (command and progress)
    return code, check


async def test_the_doctor_examines_the_model(server):
    reads_well(server)
    code, check = await doctor(server.base_url, "twin_sio.cli", "doctor", "--model", "--json")
    assert (code, check["ok"]) == (0, True)
    assert "learned 7 of 7 facts and fell into 0 of 11 traps: it is fit" in str(check["text"])


@pytest.mark.parametrize(
    ("break_it", "text"),
    [
        (lambda server: None, "it is not fit"),
        (lambda server: setattr(server, "default", server.default.of(status=401)), "it refuses the key (HTTP 401)"),
    ],
)
async def test_the_doctor_says_what_a_model_lacks(server, break_it, text):
    break_it(server)
    code, check = await doctor(server.base_url)
    assert (code, check["ok"]) == (1, False)
    assert text in str(check["text"])
    assert check["advice"]


async def test_without_an_endpoint_the_doctor_says_so():
    code, check = await doctor("")
    assert (code, check["text"]) == (1, "no endpoint is set")
