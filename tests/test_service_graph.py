"""The graph beside the profile: it follows, it tells what was, and nothing depends on it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.commands import output_of
from tests.conftest import Connect, FalkorServer, settings_for, url_of, working
from tests.scripted_model import ScriptedModel
from tests.test_graphiti import everything
from tests.test_service_data import erase, export
from tests.test_service_learning import candidates, likes
from tests.test_service_lives import MIA, Life
from tests.test_service_memory import prompt_of
from tests.waiting import eventually
from twin_sio.agent import prompts
from twin_sio.agent.traits import WEIGHTS
from twin_sio.client import TwinClient
from twin_sio.clock import now
from twin_sio.config import Settings
from twin_sio.domain import Fact
from twin_sio.jobs.functions import learn, project, sweep
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import Service, service
from twin_sio.services.graph_projection import GraphProjectionService
from twin_sio.services.trait_ids import TraitIds
from twin_sio.store import mongo
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.graphiti import GraphitiFacts
from twin_sio.store.ports import GraphUnavailable

pytestmark = pytest.mark.xdist_group("graph")  # the library takes seconds to import

DATABASE = "graph_tests"


@pytest.fixture(scope="module")
def graph_settings(mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, falkordb: FalkorServer) -> Settings:
    return settings_for(
        mongod.url,
        redis_server.url.removesuffix("0") + "3",  # a queue that no other test's worker works off
        model.base_url,
        storage__mongodb_database=DATABASE,
        storage__graph_url=falkordb.url,
        tuning__recall_ms=3000,  # the library is loaded within the first
    )


@pytest.fixture(scope="module")
async def graphed(graph_settings: Settings) -> AsyncIterator[Service]:
    """A server with a graph; its jobs are run by the tests themselves."""
    async with service(graph_settings) as running:
        yield running


@pytest.fixture
async def facts(falkordb: FalkorServer) -> AsyncIterator[GraphitiFacts]:
    graph = GraphitiFacts(falkordb.url, FieldCipher())
    yield graph
    await graph.close()


async def says(running: Service, client: TwinClient, model: ScriptedModel, city: str, kind: str, user: str) -> str:
    """The user says where they live, and it is learnt; the trait's id."""
    quote = f"I {'moved to' if kind == 'change' else 'live in'} {city}"
    text = f"{quote}, {user}"
    model.script(contains=f'"message": "{text}', json_answer=candidates(likes(city, quote, kind, "location.city")))
    answer = await client.ask(text)

    async def learnt() -> int:
        """Nothing before the turn is closed, which is after its answer is sent."""
        return await learn({"deps": running.services.job_deps()}, user, answer.in_response_to) or 0

    assert await eventually(learnt) == 1
    traits = (await client.profile())["traits"]
    return next(str(trait["trait_id"]) for trait in traits if trait["value"] == city)


async def moved(running: Service, client: TwinClient, model: ScriptedModel, user: str) -> str:
    """From Berlin to Lisbon; the id of what was."""
    was = await says(running, client, model, "Berlin", "explicit", user)
    await says(running, client, model, "Lisbon", "change", user)
    return was


async def projected(running: Service, user: str) -> int:
    return await project({"deps": running.services.job_deps()}, user)


def later(running: Service, facts: GraphitiFacts, minutes: float) -> GraphProjectionService:
    """A projector for which it is some minutes later."""

    def then():
        return now() + timedelta(minutes=minutes)

    db = running.services.db
    outbox = mongo.MongoOutbox(db, then, None, running.services.fence)
    return GraphProjectionService(outbox, facts, mongo.MongoProfiles(db), now, WEIGHTS, TraitIds())


def received(held: Sequence[Fact]) -> list[tuple[str, bool]]:
    """`(value, whether it still holds)`, the oldest first."""
    return [(one.value, one.invalid_at is None) for one in sorted(held, key=lambda one: one.valid_at)]


async def test_former_facts_are_in_the_prompt(
    graphed: Service, connect: Connect, model: ScriptedModel, facts: GraphitiFacts, user: str
) -> None:
    """What held before stands in the prompt with its dates and is named."""
    client = await connect(url_of(graphed))
    was = await moved(graphed, client, model, user)
    assert await projected(graphed, user) == 2
    assert await projected(graphed, user) == 0
    assert received(await facts.read(user)) == [("Berlin", False), ("Lisbon", True)]
    answer = await client.ask(f"Where did I live? {user}", conversation_id="elsewhere")
    before = prompt_of(model, f"Where did I live? {user}").partition(prompts.FORMER_HEADING)[2].splitlines()[2]
    month = f"{now():%Y-%m}"
    fact = {"what": "location.city", "value": "Berlin", "known_since": month, "told_over": month}
    assert json.loads(before) == [fact]
    assert was in answer.used_traits


async def test_a_rejection_leaves_graph_and_prompt(
    graphed: Service, connect: Connect, model: ScriptedModel, facts: GraphitiFacts, user: str
) -> None:
    """What is rejected leaves the graph and at once the prompt."""
    client = await connect(url_of(graphed))
    was = await moved(graphed, client, model, user)
    await projected(graphed, user)
    await client.correct(was, "reject")
    question = f"Where was I? {user}"
    await client.ask(question, conversation_id="elsewhere")
    assert "Berlin" not in prompt_of(model, question)
    await projected(graphed, user)
    assert received(await facts.read(user)) == [("Lisbon", True)]


async def test_the_worker_finds_unprojected_versions(
    graphed: Service, graph_settings: Settings, connect: Connect, model: ScriptedModel, facts: GraphitiFacts, user: str
) -> None:
    client = await connect(url_of(graphed))
    await moved(graphed, client, model, user)
    async with working(graph_settings):
        await sweep({"deps": graphed.services.job_deps()})
        await eventually(lambda: _tells(facts, user, 2))


async def _tells(facts: GraphitiFacts, user: str, count: int) -> bool:
    return len(await facts.read(user)) == count


async def test_a_graph_outage_leaves_chat_unchanged(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, connect: Connect, folder: Path, user: str
) -> None:
    """With the graph down the chat is unchanged and it catches up."""
    server = FalkorServer(folder)
    server.start()
    server.kill()
    settings = settings_for(
        mongod.url,
        redis_server.url,
        model.base_url,
        storage__mongodb_database=DATABASE,
        storage__graph_url=server.url,
        tuning__recall_ms=3000,
    )
    facts = GraphitiFacts(server.url, FieldCipher())
    try:
        async with service(settings) as running:
            client = await connect(url_of(running))
            await moved(running, client, model, user)
            assert await projected(running, user) == 0
            assert await running.services.job_deps().graph_projection.due(1000) == []  # type: ignore[union-attr]
            answer = await client.ask(f"All well? {user}")
            assert answer.status == "complete"
            assert '"value": "Berlin"' in prompt_of(model, f"All well? {user}")  # the profile itself tells what was
            assert await later(running, facts, 0.05).project(user) == 0  # not due before its time
            server.restart()
            behind = later(running, facts, 2)
            assert user in await behind.due(1000)
            assert await behind.project(user) == 2
            assert received(await facts.read(user)) == [("Berlin", False), ("Lisbon", True)]
            await client.close()
    finally:
        await facts.close()
        server.stop()


async def test_a_hung_graph_delays_no_answer(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, connect: Connect, folder: Path, user: str
) -> None:
    """A hung graph delays no answer by more than its patience."""
    server = FalkorServer(folder)
    server.start()
    settings = settings_for(
        mongod.url,
        redis_server.url,
        model.base_url,
        storage__mongodb_database=DATABASE,
        storage__graph_url=server.url,
        tuning__recall_ms=300,
    )
    try:
        async with service(settings) as running:
            client = await connect(url_of(running))
            await client.ask(f"warm {user}")
            server.pause()
            took = []
            for _ in range(3):
                began = time.monotonic()
                assert (await client.ask(f"hung {user}")).status == "complete"
                took.append(time.monotonic() - began)
            assert 0.3 <= min(took) < 0.9  # its own client would give up after a second
            await client.close()
    finally:
        server.resume()
        server.stop()


async def test_an_erasure_leaves_no_graph_and_looks_again(
    graphed: Service, connect: Connect, model: ScriptedModel, facts: GraphitiFacts, falkordb: FalkorServer, user: str
) -> None:
    client = await connect(url_of(graphed))
    await moved(graphed, client, model, user)
    kinds = [line["kind"] for line in await export(url_of(graphed), user)]
    assert kinds.count("projection") == 2
    await projected(graphed, user)
    assert await facts.read(user) != []
    await erase(url_of(graphed), user)
    await (await connect(url_of(graphed))).ask(f"Where did I live? {user}")
    assert await facts.read(user) != []  # no worker has come to it, and no prompt holds it
    assert prompts.FORMER_HEADING not in prompt_of(model, f"Where did I live? {user}")
    await erase(url_of(graphed), user)
    await projected(graphed, user)
    assert await facts.read(user) == []
    # A worker that hung has written late: it is gone after the second look.
    await facts.write(user, [Fact("t", "location.city", f"late {user}", now(), None, now(), None)], (), ())
    await projected(graphed, user)  # not due yet
    again = later(graphed, facts, 2)
    assert user in await again.due(1000)
    await again.project(user)
    assert f"late {user}" not in await everything(falkordb)
    assert user not in await later(graphed, facts, 9).due(1000)
    assert (await export(url_of(graphed), user))[-1] == {"kind": "end", "lines": 0}


class Slow(GraphitiFacts):
    """A graph that takes its time to write."""

    def __init__(self, url: str) -> None:
        super().__init__(url, FieldCipher())
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def write(self, *received) -> None:
        self.asked.set()
        await self.go.wait()
        await super().write(*received)


async def test_a_late_graph_write_is_erased_again(
    graphed: Service, connect: Connect, model: ScriptedModel, facts: GraphitiFacts, falkordb: FalkorServer, user: str
) -> None:
    """Who was writing while its user was erased has it erased again."""
    client = await connect(url_of(graphed))
    await says(graphed, client, model, "Berlin", "explicit", user)
    slow = Slow(falkordb.url)
    writing = asyncio.create_task(later(graphed, slow, 0).project(user))
    await slow.asked.wait()
    await erase(url_of(graphed), user)
    await projected(graphed, user)
    slow.go.set()
    await writing
    assert await facts.read(user) != []
    await projected(graphed, user)
    assert await facts.read(user) == []
    await slow.close()


async def test_a_graph_can_be_made_anew_from_the_evidence(
    graphed: Service, graph_settings: Settings, connect: Connect, model: ScriptedModel, facts: GraphitiFacts, user: str
) -> None:
    client = await connect(url_of(graphed))
    await moved(graphed, client, model, user)
    await says(graphed, client, model, "Berlin", "change", user)
    await projected(graphed, user)
    before = [replace(one, created_at=now(), expired_at=None) for one in await facts.read(user)]
    await facts.erase(user)
    variables = {
        "TWIN_MONGODB_URL": graph_settings.storage.mongodb_url,
        "TWIN_MONGODB_DATABASE": DATABASE,
        "TWIN_GRAPH_URL": graph_settings.storage.graph_url,
    }
    env = {**os.environ, **variables}
    code, out, err = await output_of("twin_sio.admin", "graph-rebuild", "--user", user, env=env)
    assert (code, out) == (0, b"3 facts held\n"), err
    assert b"users: 1 of 1" in err
    after = await facts.read(user)
    assert received(after) == [("Berlin", False), ("Lisbon", False), ("Berlin", True)]
    known = {one.fact_id: (one.valid_at, one.invalid_at) for one in before}
    assert {one.fact_id: (one.valid_at, one.invalid_at) for one in after} == known


async def test_an_end_ends_the_fact_at_its_time(graphed: Service, facts: GraphitiFacts, user: str) -> None:
    """And what is known of others stands in the graph as theirs."""
    life = Life(graphed, user)
    known, end = life.said("possession.car", "volvo"), life.said("possession.car", "the volvo", "ended")
    mia = life.said("interests.likes", "football", of=MIA)
    ill = life.said("health.condition", "asthma"), life.said("health.condition", "asthma", "ended")
    for piece in (known, end, mia, *ill):
        await life.learn(piece)
    await projected(graphed, user)
    held = {fact.value: fact for fact in await facts.read(user)}
    assert set(held) == {"volvo", "football"}
    ended = held["volvo"].invalid_at
    assert ended is not None
    assert abs(ended - end.observed_at) < timedelta(milliseconds=1)
    assert (held["football"].about, held["football"].invalid_at) == ("Mia, daughter", None)


async def test_version_and_outbox_are_written_together(graphed: Service, user: str) -> None:
    """Writers that meet leave as many versions as entries, in order, and one that fails leaves neither."""
    profiles, outbox = graphed.services.profiles, mongo.MongoOutbox(graphed.services.db, now)
    for version in range(3):
        profile = (await profiles.get(user)).profile
        assert profile.version == version
        wins = await asyncio.gather(*(profiles.replace(profile, []) for _ in range(4)))
        assert sum(wins) == 1
    versions = []
    while (entry := await outbox.take(user)) is not None:
        assert await outbox.take(user) is None  # for one alone
        versions.append(entry.version)
        assert await outbox.done(entry) is True
        assert await outbox.done(entry) is False
    assert versions == [1, 2, 3]


async def test_what_fails_is_tried_ever_later(graphed: Service, user: str) -> None:
    class Broken(GraphitiFacts):
        async def read(self, user_id: str) -> Sequence[Fact]:
            raise GraphUnavailable

    await graphed.services.profiles.replace((await graphed.services.profiles.get(user)).profile, [])
    broken = Broken("redis://127.0.0.1:9", FieldCipher())
    waits = []
    for hour in range(1, 11):
        await later(graphed, broken, 60 * hour).project(user)
        entry = await graphed.services.db["outbox"].find_one({"user_id": user})
        waits.append(round((entry["due_at"] - now() - timedelta(hours=hour)).total_seconds()))
    assert waits == [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]
    await graphed.services.db["outbox"].delete_many({"user_id": user})
    await broken.close()
