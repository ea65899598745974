"""SIGTERM as a rolling deployment sends it: nobody new is taken, everybody comes back elsewhere, no answer is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import socketio

from tests.processes import Process, environment, started, token_of
from tests.raw import RawSocket
from tests.scripted_model import ScriptedModel
from tests.waiting import eventually
from twin_sio.client import TwinClient
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer

Start = Callable[..., Any]


@pytest.fixture
async def start(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, tmp_path: Path
) -> AsyncIterator[Start]:
    """`await start(drain_s)` gives a server process, which is stopped at the end."""
    async with AsyncExitStack() as stack:

        async def one(drain_s: float = 25.0) -> Process:
            more = {"TWIN_MONGODB_DATABASE": "drain", "TWIN_DRAIN_S": drain_s}
            env = environment(mongod.url, redis_server.url, model.base_url, tuning={"turn_lease_s": 30}, **more)
            running = await started(Process("server", tmp_path, env))
            stack.push_async_callback(asyncio.to_thread, running.stop, 1.0)
            return running

        yield one


@asynccontextmanager
async def answering(server: Process, model: ScriptedModel, user: str, **script: Any) -> AsyncIterator[RawSocket]:
    """A client of the server in the middle of an answer to `m-1`."""
    model.script(contains=user, **script)
    async with RawSocket(server.url, token_of(user)) as raw:
        await raw.ask("user_message", {"payload": {"text": f"talk to {user}"}, "metadata": {"message_id": "m-1"}})
        await raw.until(lambda: raw.of("twin_message_chunk"))
        yield raw


async def status(server: Process) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/readyz") as response:
        return response.status


async def test_a_draining_server_refuses_newcomers(start: Start, model: ScriptedModel, user: str) -> None:
    """A draining server is not ready and refuses newcomers while it finishes its answers."""
    server = await start()
    async with answering(server, model, user, count=60, token_delay_s=0.1) as raw:
        assert await status(server) == 200
        server.send_signal(signal.SIGTERM)
        signalled_at = time.monotonic()
        await eventually(lambda: _is(server, 503))
        assert time.monotonic() - signalled_at < 1
        async with RawSocket(server.url, token_of("newcomer")) as newcomer:
            received = newcomer.refusal["data"]
            assert (received["code"], received["retryable"], received["retry_after_ms"] > 0) == ("draining", True, True)
        assert newcomer.of("session_ready") == []
        await raw.until(raw.closed.is_set)
        assert raw.leave is None  # closed plainly
        (word,) = raw.of("server_draining")
        assert 0 < word["payload"]["reconnect_after_ms"] <= 5000
        assert await server.wait() == 0
        assert time.monotonic() - signalled_at < 30
    heir = await start()
    async with TwinClient(heir.url, token_of(user), last_seq=0) as back:
        answer = await back.answer("m-1", timeout=10)
        assert answer.status == "complete"
        assert sum(user in str(one["messages"][-1]) for one in model.requests) == 1


async def _is(server: Process, wanted: int) -> bool:
    return await status(server) == wanted


async def test_unfinished_answers_are_handed_over(start: Start, model: ScriptedModel, user: str) -> None:
    """What cannot be finished in time is handed over and completed at once."""
    server, heir = await asyncio.gather(start(1.0), start())
    async with (
        TwinClient(heir.url, token_of(user)) as tablet,
        answering(server, model, user, count=400, token_delay_s=0.1, times=1),
    ):
        server.send_signal(signal.SIGTERM)
        signalled_at = time.monotonic()
        assert await server.wait() == 0
        assert time.monotonic() - signalled_at < 8
        answer = await tablet.answer("m-1", timeout=10)  # the lease would hold it for 30 s
        assert answer.status == "complete"
        assert answer.text == model.answer_to(f"talk to {user}")
        assert model.peak_by_text[f"talk to {user}"] == 1


async def test_a_waiting_message_is_answered_elsewhere(start: Start, model: ScriptedModel, user: str) -> None:
    """A message that waits behind the running answer is answered elsewhere."""
    server, heir = await asyncio.gather(start(10.0), start())
    async with (
        TwinClient(heir.url, token_of(user)) as tablet,
        answering(server, model, user, count=20, token_delay_s=0.1, times=1) as raw,
    ):
        await raw.ask("user_message", {"payload": {"text": "and then?"}, "metadata": {"message_id": "m-2"}})
        server.send_signal(signal.SIGTERM)
        answers = [await tablet.answer(one, timeout=15) for one in ("m-1", "m-2")]
        assert [one.status for one in answers] == ["complete", "complete"]
        assert answers[0].seq < answers[1].seq
        assert await server.wait() == 0


async def test_draining_spreads_reconnects(start: Start, user: str) -> None:
    """Clients are let go with jitter and not all at once."""
    server = await start()
    async with AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(RawSocket(server.url, token_of(user))) for _ in range(15)]
        server.send_signal(signal.SIGTERM)
        await asyncio.gather(*(raw.until(raw.closed.is_set) for raw in raws))
        waits = {raw.of("server_draining")[0]["payload"]["reconnect_after_ms"] for raw in raws}
        assert len(waits) > 5
        assert await server.wait() == 0


async def test_a_stock_client_finds_the_next_server(start: Start, user: str) -> None:
    """A stock client comes back to the next server by itself."""
    server = await start()
    client = socketio.AsyncClient(reconnection_delay=0.1, randomization_factor=0.5)
    reasons: list[str] = []
    ready: list[str] = []
    client.on("disconnect", reasons.append)
    client.on("session_ready", lambda envelope: ready.append(envelope["payload"]["server"]["instance"]))
    try:
        await client.connect(server.url, auth={"token": token_of(user)}, transports=["websocket"])
        await eventually(lambda: ready)
        server.send_signal(signal.SIGTERM)
        await server.wait()
        heir = await start()
        client.connection_url = heir.url  # what a load balancer does
        await eventually(lambda: len(ready) == 2, timeout=20)
        assert reasons[:1] != ["client disconnect"]
        assert ready[0] != ready[1]
    finally:
        await client.disconnect()


async def test_a_second_sigterm_ends_it_at_once(start: Start, model: ScriptedModel, user: str) -> None:
    server = await start()
    async with answering(server, model, user, count=400, token_delay_s=0.1):
        server.send_signal(signal.SIGTERM)
        await eventually(lambda: _is(server, 503))
        signalled_at = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert await server.wait() == 130
        assert time.monotonic() - signalled_at < 2


async def test_a_hanging_store_does_not_hold_up_the_end(
    start: Start, model: ScriptedModel, user: str, mongod: Mongod, redis_server: RedisServer
) -> None:
    server = await start(1.0)
    async with answering(server, model, user, count=400, token_delay_s=0.1):
        mongod.pause()
        redis_server.pause()
        try:
            server.send_signal(signal.SIGTERM)
            signalled_at = time.monotonic()
            await server.wait()
            assert time.monotonic() - signalled_at < 8
        finally:
            mongod.resume()
            redis_server.resume()


@pytest.mark.parametrize(
    ("module", "imported"),
    [("server", "uvloop"), ("server", "langgraph"), ("worker", "pydantic"), ("worker", "langgraph")],
)
async def test_ctrl_c_during_the_imports_ends_without_a_trace(
    module: str, imported: str, mongod: Mongod, redis_server: RedisServer, model: ScriptedModel
) -> None:
    env = environment(mongod.url, redis_server.url, model.base_url)
    command = [sys.executable, "-X", "importtime", "-m", module]  # a line on stderr for each import as it is done
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **env}, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    while imported.encode() not in await process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    said = await process.stderr.read()
    assert await process.wait() == 130
    assert b"Traceback" not in said
