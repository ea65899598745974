"""Two server processes on one MongoDB and Redis: a user's devices converge, wherever they are connected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.processes import Process, environment, started, token_of
from tests.raw import RawSocket, the_one_that_stays
from tests.scripted_model import ScriptedModel
from twin_sio.client import TwinClient
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer

pytestmark = pytest.mark.xdist_group("instances")  # two servers are enough


@pytest.fixture(scope="module")
async def servers(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[list[Process]]:
    folder: Path = tmp_path_factory.mktemp("servers")
    env = environment(
        mongod.url, redis_server.url, model.base_url, TWIN_MONGODB_DATABASE="instances", tuning={"turn_lease_s": 4}
    )
    running = [Process("server", folder, env) for _ in range(2)]
    try:
        await asyncio.gather(*(started(one) for one in running))
        yield running
    finally:
        for one in running:
            one.stop()


async def test_an_answer_streams_to_devices_on_both_instances(
    servers: list[Process], model: ScriptedModel, user: str
) -> None:
    model.script(contains=f"both {user}", token_delay_s=0.03, count=30)
    chunks: dict[int, list[str]] = {0: [], 1: []}

    def keep(index: int):
        def hook(way: str, envelope: dict) -> None:
            if envelope["type"] == "twin_message_chunk":
                chunks[index].append(envelope["payload"]["text"])

        return hook

    async with (
        TwinClient(servers[0].url, token_of(user), on_envelope=keep(0)) as phone,
        TwinClient(servers[1].url, token_of(user), on_envelope=keep(1)) as tablet,
    ):
        answer = await phone.ask(f"both {user}")
        await tablet.until(lambda state: state.last_seq == 2)
        transcripts = [[(m.seq, m.text) for m in one.state.transcript()] for one in (phone, tablet)]
        assert transcripts[0] == transcripts[1]
        assert len(chunks[1]) > 3
        assert "".join(chunks[0]) == "".join(chunks[1]) == answer.text


async def test_joining_another_instance_shows_the_text(servers: list[Process], model: ScriptedModel, user: str) -> None:
    """A device that joins another instance while the model pauses sees what was said so far."""
    text = f"pause {user}"
    model.script(contains=text, tokens=("one ", "two ", "three"), hold_after=2)
    async with TwinClient(servers[0].url, token_of(user)) as phone:
        message_id = await phone.send(text)
        await phone.until(lambda state: (g := state.generation_of(message_id)) and g.text == "one two ")
        async with TwinClient(servers[1].url, token_of(user)) as tablet:
            await tablet.until(lambda state: (g := state.generation_of(message_id)) and g.text == "one two ")
            model.release(text)
            assert (await tablet.answer(message_id)).text == "one two three"


async def test_one_session_on_two_instances_keeps_one(servers: list[Process], user: str) -> None:
    """Of two connections of one session that come at once to two instances one stays."""
    for turn in range(20):
        pair = [RawSocket(one.url, token_of(f"{user}-{turn}"), session_id="same") for one in servers]
        async with the_one_that_stays(pair) as stays:
            for _ in range(3):
                assert (await stays.ask("heartbeat", {}))["type"] == "heartbeat_ack"
            assert not stays.leave


async def test_one_message_over_two_instances_at_once_is_answered_once(
    servers: list[Process], model: ScriptedModel, user: str
) -> None:
    text = f"twice {user}"
    async with (
        TwinClient(servers[0].url, token_of(user)) as phone,
        TwinClient(servers[1].url, token_of(user)) as tablet,
    ):
        await asyncio.gather(*(one.send(text, message_id="one") for one in (phone, tablet)))
        receipts = [await one.receipt("one") for one in (phone, tablet)]
        await asyncio.gather(*(one.answer("one") for one in (phone, tablet)))
        assert receipts[0].seq == receipts[1].seq
        assert sum(text in str(one["messages"][-1]) for one in model.requests) == 1


async def test_stop_reaches_the_instance_that_generates(
    servers: list[Process], model: ScriptedModel, user: str
) -> None:
    model.script(contains=f"endless {user}", token_delay_s=0.05, count=2000)
    async with (
        TwinClient(servers[0].url, token_of(user)) as phone,
        TwinClient(servers[1].url, token_of(user)) as tablet,
    ):
        message_id = await phone.send(f"endless {user}")
        await tablet.until(lambda state: (g := state.generation_of(message_id)) and g.text)
        await tablet.stop(message_id)
        assert (await phone.answer(message_id)).status == "stopped"


async def test_the_answer_of_a_killed_instance_is_taken_over(
    servers: list[Process], model: ScriptedModel, user: str
) -> None:
    text = f"take over {user}"
    model.script(contains=text, token_delay_s=0.1, count=200, times=1)
    async with TwinClient(servers[1].url, token_of(user)) as tablet:
        async with TwinClient(servers[0].url, token_of(user)) as phone:
            message_id = await phone.send(text)
            await phone.receipt(message_id)
            await tablet.until(lambda state: (g := state.generation_of(message_id)) and g.text)
            servers[0].kill()
            answer = await tablet.answer(message_id, timeout=30)
        assert answer.status == "complete"
        assert answer.text == model.answer_to(text)
        assert model.peak_by_text[text] == 1
    servers[0] = await started(servers[0])
