"""Frames that no client sends: the server stays up, says nothing of its inside, keeps nothing."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import examples, token_of
from tests.processes import Process, environment, started
from tests.processes import token_of as real_token_of
from tests.raw import RawSocket
from tests.scripted_model import ScriptedModel
from tests.waiting import eventually
from twin_sio.protocol import CLIENT_EVENTS
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.serve import Service

BAD_FRAMES = 100_000
NAMES = st.sampled_from([*CLIENT_EVENTS, "connect", "disconnect", "connect_error", "*", "", "\U0001f600"])
BODIES = st.one_of(
    st.text(max_size=40),
    st.builds(lambda name, rest: f"[{json.dumps(name)},{rest}", NAMES, st.text(max_size=40)),
    st.builds(
        lambda name, rest: json.dumps([name, *rest]), NAMES, st.lists(st.none() | st.integers() | st.text(), max_size=3)
    ),
)
FRAMES = st.builds(
    "".join, st.tuples(st.text("0123456", min_size=0, max_size=3), st.text("0123٣-/,", max_size=4), BODIES)
)
ONE_BY_ONE = settings(
    max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None
)


@pytest.fixture
async def neighbour(url: str, user: str) -> AsyncIterator[RawSocket]:
    async with RawSocket(url, token_of(user)) as raw:
        yield raw


async def test_random_frames_affect_nobody_else(neighbour: RawSocket, url: str, user: str, instance: Service) -> None:
    """No frame of one client is felt by another or leaves anything."""
    before = len(instance.sockets.eio.sockets)

    @given(frames=st.lists(FRAMES, min_size=1, max_size=8))
    @ONE_BY_ONE
    async def send(frames: list[str]) -> None:
        async with RawSocket(url, token_of(f"{user}-fuzz")) as raw:
            for frame in frames:
                if not raw.closed.is_set():
                    await raw.send(frame.encode(errors="replace").decode())
            assert (await neighbour.ask("heartbeat", {}))["type"] == "heartbeat_ack"
            for event in raw.events:
                assert event.get("payload", {}).get("code") != "internal"
                assert "Traceback" not in json.dumps(event)

    await examples(send)
    await eventually(lambda: len(instance.sockets.eio.sockets) <= before)


@pytest.mark.parametrize("query", ["j=x", "EIO=3", "transport=smoke", "sid=nobody", "EIO=4&EIO=5", "sid=%00", "j=1e9"])
async def test_no_query_makes_a_server_error(query: str, url: str) -> None:
    poll = f"{url}/socket.io/?EIO=4&transport=polling&{query}"
    async with aiohttp.ClientSession() as http, http.get(poll) as got:
        assert got.status in (200, 400)


async def test_no_body_of_a_poll_makes_a_server_error(url: str, user: str) -> None:
    poll = f"{url}/socket.io/?EIO=4&transport=polling"

    @given(body=st.one_of(st.lists(FRAMES, max_size=6).map("\x1e".join), st.binary(max_size=60)))
    @ONE_BY_ONE
    async def post(body: str | bytes) -> None:
        async with aiohttp.ClientSession() as http:
            async with http.get(poll) as opened:
                sid = json.loads((await opened.text())[1:])["sid"]
            raw = body if isinstance(body, bytes) else body.encode(errors="replace")
            for sent in (raw, b"1", b"2", b"1"):
                async with http.post(f"{poll}&sid={sid}", data=sent) as got:
                    assert got.status in (200, 400)
                    assert "Traceback" not in await got.text()

    await examples(post)


async def test_memory_is_flat_after_a_hundred_thousand_bad_frames(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, folder: Path, user: str
) -> None:
    env = environment(mongod.url, redis_server.url, model.base_url, TWIN_MONGODB_DATABASE=f"fuzz_{user[-6:]}")
    server = await started(Process("server", folder, env))
    try:
        frames = _bad_frames(random.Random(4))
        await _send_all(server.url, user, frames, BAD_FRAMES // 10)
        before = _resident_mb(server.pid)
        await _send_all(server.url, user, frames, BAD_FRAMES)
        assert _resident_mb(server.pid) - before < 8
        async with RawSocket(server.url, real_token_of(user)) as raw:
            assert (await raw.ask("heartbeat", {}))["type"] == "heartbeat_ack"
        assert "Traceback" not in server.printed()
    finally:
        await asyncio.to_thread(server.stop)


def _bad_frames(chance: random.Random) -> list[str]:
    """Frames that are answered, refused or ignored, but close nothing."""
    heads = ["42", "42", "421", "43", "45", "451-", "450-", "46", "47", "44", "4"]
    bodies = ['["user_message"', '["*",{}]', '["connect",{}]', "[NaN]", "{}", "[[[[", '["\\ud800"]', "٣[]", ""]
    made = [chance.choice(heads) + chance.choice(bodies) + "x" * chance.randrange(200) for _ in range(500)]
    return [*made, "3", "5", "6", "2"]


async def _send_all(url: str, user: str, frames: list[str], count: int) -> None:
    sent = 0
    while sent < count:
        async with RawSocket(url, real_token_of(user)) as raw:
            for frame in frames * 20:
                if raw.closed.is_set() or sent == count:
                    break
                await raw.send(frame)
                sent += 1
                if sent % 100 == 0:
                    await asyncio.sleep(0)  # what is answered wants to be read
                    raw.events.clear()
            if not raw.closed.is_set():
                ack = await raw.emit("heartbeat", {})
                await raw.until(lambda raw=raw, ack=ack: raw.closed.is_set() or ack in raw.acks, timeout=60)


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
