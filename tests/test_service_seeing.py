"""What an operator sees of a running server and worker: metrics that move, log lines with ids, one trace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.processes import Process, environment, started, token_of
from tests.raw import RawSocket
from tests.scripted_model import ScriptedModel
from tests.test_service_learning import candidates, likes
from tests.waiting import eventually
from twin_sio.client import TwinClient
from twin_sio.clock import new_id
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer, free_port

pytestmark = pytest.mark.xdist_group("watched")  # one server and one worker are enough


@dataclass
class Collector:
    """An OTLP collector over HTTP that keeps what it is sent."""

    url: str = ""
    spans: list[dict[str, Any]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest()
        sent.ParseFromString(await request.read())
        for resource in sent.resource_spans:
            service = next(one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
            for span in (one for scope in resource.scope_spans for one in scope.spans):
                self.spans.append(
                    {
                        "service": service,
                        "name": span.name,
                        "trace": span.trace_id.hex(),
                        "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "text": str(span),
                        "failed": span.status.code == 2,
                    }
                )
        return web.Response(body=b"")

    def named(self, name: str) -> list[dict[str, Any]]:
        return [one for one in self.spans if one["name"] == name]


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield collector
    await runner.cleanup()


@dataclass
class Watched:
    """A server and a worker with everything switched on that an operator can switch on."""

    server: Process
    worker: Process
    worker_url: str
    collector: Collector

    async def works(self) -> bool:
        """Whether the worker can be asked."""
        try:
            async with aiohttp.ClientSession() as http, http.get(f"{self.worker_url}/healthz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    def lines(self) -> list[dict[str, Any]]:
        """The log lines of both, as JSON."""
        printed = (self.server.printed() + self.worker.printed()).splitlines()
        return [json.loads(line) for line in printed if line.startswith("{")]

    async def metrics(self, url: str = "") -> dict[str, float]:
        async with aiohttp.ClientSession() as http, http.get(f"{url or self.server.url}/metrics") as response:
            lines = (await response.text()).splitlines()
        return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines if not x.startswith("#"))}


@pytest.fixture(scope="module")
async def watched(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Watched]:
    folder: Path = tmp_path_factory.mktemp("watched")
    port = free_port()
    async with collecting() as collector:
        env = environment(
            mongod.url,
            redis_server.url.removesuffix("0") + "3",
            model.base_url,
            TWIN_MONGODB_DATABASE=f"watched_{new_id()[:8]}",
            TWIN_LOG_LEVEL="debug",
            TWIN_WORKER_PORT=port,
            TWIN_LIMIT_EVENTS_PER_SECOND=30,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_BSP_SCHEDULE_DELAY=100,
        )
        server, worker = await started(Process("server", folder, env)), Process("worker", folder, env)
        worker.start()
        try:
            running = Watched(server, worker, f"http://127.0.0.1:{port}", collector)
            await eventually(running.works, timeout=30)
            yield running
        finally:
            await asyncio.gather(*(asyncio.to_thread(one.stop) for one in (server, worker)))


async def learnt(watched: Watched, model: ScriptedModel, user: str, message_id: str) -> None:
    """A conversation that goes the whole way, to a `profile_update`."""
    text = f"I prefer tea, {user}"
    model.script(contains=text, json_answer=candidates(likes("tea", "I prefer tea", key="preferences.drink")))
    async with TwinClient(watched.server.url, token_of(user)) as client:
        await client.ask(text, message_id=message_id)
        await client.until(lambda state: state.profile_version == 1, timeout=30)


async def test_one_trace_spans_event_to_profile_update(watched: Watched, model: ScriptedModel, user: str) -> None:
    """One trace leads from the event over graph model store and job to the profile update."""
    await learnt(watched, model, user, f"m-{user}")
    collector = watched.collector
    (event,) = await eventually(lambda: [one for one in collector.named("user_message") if user in one["text"]])

    def mine() -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in collector.spans if one["trace"] == event["trace"]}

    way = {
        "user_message": "server",
        "store MongoTurns.begin": "server",
        "turn": "server",
        "recall": "server",
        "model answer": "server",
        "enqueue learn": "server",
        "job learn": "worker",
        "extract": "worker",
        "model profile_candidates": "worker",
        "store MongoProfiles.add_evidence": "worker",
        "profile_update": "worker",
        "job remember": "worker",
    }
    found = await eventually(lambda: (it := mine()) and way.keys() <= it.keys() and it)
    assert {name: found[name]["service"] for name in way} == {n: f"twin-sio-{role}" for n, role in way.items()}
    by_id = {one["id"]: one for one in collector.spans}
    at, passed = found["profile_update"], []
    while at["parent"]:
        at = by_id[at["parent"]]
        passed.append(at["name"])
    assert passed == ["job learn", "turn", "user_message"]
    assert not any("tea" in one["text"] for one in collector.spans)


async def test_a_waiting_turn_keeps_its_trace(watched: Watched, model: ScriptedModel, user: str) -> None:
    """The turn of a message that had to wait is in the trace of that message."""
    model.script(contains=user, count=20, token_delay_s=0.02)
    async with TwinClient(watched.server.url, token_of(user)) as client:
        for name in ("first", "second"):
            await client.send(f"{name} {user}", message_id=f"{name}-{user}")
        await client.answer(f"second-{user}")
    collector = watched.collector

    def mine() -> list[dict[str, Any]]:
        return [one for one in collector.named("turn") if user in one["text"]]

    turns = await eventually(lambda: len(mine()) == 2 and mine())
    events = {one["id"]: one for one in collector.named("user_message")}
    for turn, name in zip(turns, ("first", "second"), strict=True):
        assert f"{name}-{user}" in turn["text"]
        assert f"{name}-{user}" in events[turn["parent"]]["text"]


async def test_log_lines_carry_their_ids(watched: Watched, model: ScriptedModel, user: str) -> None:
    """A log line names the user the message the turn and the generation it is about."""
    await learnt(watched, model, user, f"m-{user}")
    lines = [one for one in watched.lines() if one.get("user") == user]
    (answered,) = [one for one in lines if one["event"] == "answered"]
    assert answered["turn"] == answered["message"] == f"m-{user}"
    assert {"generation", "status", "level", "timestamp"} <= answered.keys()
    (learned,) = await eventually(
        lambda: [one for one in watched.lines() if one["event"] == "learned" and one["turn"] == f"m-{user}"]
    )
    assert learned["job"].endswith(f"learn:m-{user}")
    (connected,) = [one for one in lines if one["event"] == "connected"]
    assert {"session", "connection"} <= connected.keys()


async def test_every_metric_moves_with_what_it_counts(watched: Watched, model: ScriptedModel, user: str) -> None:
    before = await watched.metrics()
    jobs = await watched.metrics(watched.worker_url)
    model.script(contains=f"slowly {user}", count=12, token_delay_s=0.05)
    await learnt(watched, model, user, "m-1")
    async with TwinClient(watched.server.url, token_of(user), last_seq=0) as client:
        message_id = await client.send(f"slowly {user}")
        await client.until(lambda state: state.generation_of(message_id))
        connected = await watched.metrics()
        await client.answer(message_id)
    async with RawSocket(watched.server.url, token_of(f"{user}-eager")) as raw:
        for _ in range(100):
            await raw.send('42["heartbeat",{}]')
        await raw.until(lambda: raw.of("error"))
    after = before

    def grew(name: str, by: float = 1) -> bool:
        return after.get(name, 0) >= before.get(name, 0) + by

    async with asyncio.timeout(20):  # an answer is counted once it is closed, which its device does not wait for
        while not grew('twin_turns_total{status="complete"}', 2):
            after = await watched.metrics()

    assert connected["twin_connections"] == before["twin_connections"] + 1
    assert connected["twin_users"] == before["twin_users"] + 1
    assert connected["twin_turns_generating"] == connected["twin_conversations_answering"] == 1
    assert after["twin_turns_generating"] == 0
    assert grew('twin_turns_total{status="complete"}', 2)
    assert grew('twin_resumes_total{complete="yes"}')
    assert grew("twin_first_token_seconds_count", 2)
    assert grew("twin_chunk_gap_seconds_count", 5)
    assert grew("twin_chunk_gap_seconds_sum", 0.3)
    assert grew('twin_limits_hit_total{limit="events"}')
    assert grew('twin_events_total{type="user_message"}', 2)
    assert grew('twin_errors_total{code="rate_limited"}')
    assert grew('twin_model_tokens_total{kind="written",purpose="answer"}', 10)
    assert grew('twin_profile_reads_total{cached="no"}')
    assert after["twin_publish_lag_seconds_count"] > 0
    assert after["twin_redis_healthy"] == 1
    learned = await eventually(lambda: _learned(watched, jobs))
    assert learned['twin_job_seconds_count{name="learn"}'] > 0
    assert learned['twin_job_wait_seconds_count{name="learn"}'] > 0
    assert learned['twin_model_tokens_total{kind="written",purpose="profile_candidates"}'] > 0


async def _learned(watched: Watched, before: dict[str, float]) -> dict[str, float] | None:
    name = 'twin_jobs_total{name="learn",result="done"}'
    found = await watched.metrics(watched.worker_url)
    return found if found.get(name, 0) > before.get(name, 0) else None
