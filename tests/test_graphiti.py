"""Facts in a real FalkorDB, by Graphiti's own classes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from redis.asyncio import Redis

from tests.conftest import FalkorServer
from twin_sio.domain import Fact
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.graphiti import GraphitiFacts
from twin_sio.store.ports import GraphUnavailable

pytestmark = pytest.mark.xdist_group("graph")  # the library takes seconds to import

AT = datetime(2026, 1, 1, 12, 30, 15, 123000, tzinfo=UTC)


def fact(value: str = "Berlin", trait_id: str = "trait-1") -> Fact:
    return Fact(trait_id, "location.city", value, AT, None, AT, None)


@pytest.fixture
async def facts(falkordb: FalkorServer) -> AsyncIterator[GraphitiFacts]:
    graph = GraphitiFacts(falkordb.url, FieldCipher())
    yield graph
    await graph.close()


async def graphs(falkordb: FalkorServer) -> list[str]:
    async with Redis.from_url(falkordb.url, decode_responses=True) as redis:
        return await redis.execute_command("GRAPH.LIST")


async def everything(falkordb: FalkorServer) -> str:
    """All that the graphs hold."""
    async with Redis.from_url(falkordb.url, decode_responses=True) as redis:
        query = "MATCH (n) OPTIONAL MATCH (n)-[e]->() RETURN labels(n), properties(n), properties(e)"
        return str([await redis.execute_command("GRAPH.RO_QUERY", name, query) for name in await graphs(falkordb)])


async def test_what_was_written_is_read_whatever_it_holds(facts: GraphitiFacts, user: str) -> None:
    written = [fact("Zażółć \"' 🌙 {x} \\ $y\n--", "trait-1"), fact("Lisbon", "trait-2")]
    await facts.write(user, written, (), ())
    assert sorted(await facts.read(user), key=lambda one: one.trait_id) == written


async def test_writing_again_writes_once(facts: GraphitiFacts, user: str) -> None:
    """Writing it again writes it once and an end can come and go."""
    ended = replace(fact(), invalid_at=AT + timedelta(days=9), expired_at=AT + timedelta(days=10))
    for written in (fact(), fact(), ended):
        await facts.write(user, [written], (), ())
    assert await facts.read(user) == [ended]
    await facts.write(user, [fact()], (), ())
    assert await facts.read(user) == [fact()]


async def test_what_is_gone_leaves_no_word_behind(facts: GraphitiFacts, falkordb: FalkorServer, user: str) -> None:
    canary, kept = f"canary {user}", fact("kept", "trait-2")
    await facts.write(user, [fact(canary), kept], (), ())
    assert canary in await everything(falkordb)
    await facts.write(user, [], [fact(canary)], ["trait-1"])
    assert canary not in await everything(falkordb)
    assert await facts.read(user) == [kept]


async def test_users_have_graphs_of_their_own_and_asking_makes_none(
    facts: GraphitiFacts, falkordb: FalkorServer, user: str
) -> None:
    before = await graphs(falkordb)
    assert await facts.read(user) == []
    await facts.write(f"{user}-other", [fact("theirs")], (), ())
    assert await facts.read(user) == []
    assert len(await graphs(falkordb)) == len(before) + 1
    assert user not in str(await graphs(falkordb))


async def test_an_erasure_leaves_no_graph_and_nothing_brings_it_back(
    facts: GraphitiFacts, falkordb: FalkorServer, user: str
) -> None:
    before = await graphs(falkordb)
    await facts.write(user, [fact()], (), ())
    await facts.erase(user)
    await facts.erase(user)
    assert await facts.read(user) == []
    await asyncio.sleep(0.1)  # what a background task of the library would need
    assert await graphs(falkordb) == before


async def test_where_there_is_a_key_the_graph_holds_no_word(falkordb: FalkorServer, user: str) -> None:
    keys = [Fernet.generate_key().decode()]
    facts = GraphitiFacts(falkordb.url, FieldCipher(keys))
    canary = f"canary {user}"
    await facts.write(user, [fact(canary)], (), ())
    assert await facts.read(user) == [fact(canary)]
    assert canary not in await everything(falkordb)
    await facts.close()


async def test_a_graph_outage_is_reported_in_time(folder: Path, user: str) -> None:
    """A graph that is away or hangs is reported in time."""
    server = FalkorServer(folder)
    server.start()
    facts = GraphitiFacts(server.url, FieldCipher())
    try:
        await facts.write(user, [fact()], (), ())
        server.pause()
        began = time.monotonic()
        for failing in (facts.read(user), facts.write(user, [fact()], (), ()), facts.erase(user)):
            with pytest.raises(GraphUnavailable):
                await failing
        assert time.monotonic() - began < 5
        server.resume()
        server.kill()
        with pytest.raises(GraphUnavailable):
            await facts.read(user)
        server.restart()
        await facts.write(user, [fact()], (), ())
        assert await facts.read(user) == [fact()]
    finally:
        await facts.close()
        server.stop()


def test_the_graph_library_stays_silent(folder: Path) -> None:
    """The library reads no env file reports to nobody and logs no words."""
    (folder / ".env").write_text("TWIN_LEAKED=yes\n")
    received = (
        "import logging, os; from twin_sio.store.graphiti import _library; _library();"
        "print('TWIN_LEAKED' in os.environ, 'PYTHON_DOTENV_DISABLED' in os.environ,"
        "logging.getLogger('graphiti_core.driver.falkordb_driver').isEnabledFor(logging.CRITICAL), end=' ');"
        "import graphiti_core.telemetry.telemetry as t; print(t.is_telemetry_enabled())"
    )
    env = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    env["PYTHONPATH"] = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", received], env=env, cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False", "False", "False"]


def test_nobody_who_has_no_graph_loads_the_library() -> None:
    received = "import sys, twin_sio.runtime, worker; print('graphiti_core' in sys.modules, 'wordllama' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", received], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
