"""What stands in deploy/ works: the balancers' configurations in front of real servers, the rest as far as it can be
checked without a container engine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.balancers import Balancer, HAProxy, Nginx
from tests.commands import output_of
from tests.processes import Process, environment, started, token_of
from tests.scripted_model import ScriptedModel
from tests.waiting import eventually
from twin_sio.client import RequestFailed, TwinClient
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer, free_port

pytestmark = pytest.mark.xdist_group("faults")  # three servers are enough, and clusters beside each other too many

Make = Callable[[Path, list[int]], Balancer]
STICKY: dict[str, Make] = {
    "haproxy": lambda folder, ports: HAProxy("haproxy.cfg", folder, ports),
    "nginx": lambda folder, ports: Nginx("nginx.conf.template", folder, ports),
}
LOOSE: dict[str, Make] = {
    "haproxy": lambda folder, ports: HAProxy("haproxy-websocket.cfg", folder, ports),
    "nginx": lambda folder, ports: Nginx("nginx-websocket.conf.template", folder, ports),
}


@pytest.fixture(scope="module")
async def servers(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[list[Process]]:
    """Three servers on ports of their own that they keep."""
    folder = tmp_path_factory.mktemp("behind")
    running = []
    for _ in range(3):
        more = {"PORT": free_port(), "TWIN_MONGODB_DATABASE": "behind", "TWIN_TRUSTED_PROXIES": "127.0.0.1"}
        running.append(
            Process("server", folder, environment(mongod.url, redis_server.url, model.base_url, TWIN_DRAIN_S=2, **more))
        )
    try:
        await asyncio.gather(*(started(one) for one in running))
        yield running
    finally:
        await asyncio.gather(*(asyncio.to_thread(one.stop) for one in running))


@pytest.fixture
async def behind(request: pytest.FixtureRequest, servers: list[Process], tmp_path: Path) -> AsyncIterator[Balancer]:
    """The balancer that `request.param` makes, in front of the three."""
    balancer = request.param(tmp_path / "balancer", [one.port for one in servers])
    await asyncio.to_thread(balancer.start)
    yield balancer
    await asyncio.to_thread(balancer.stop)


sticky = pytest.mark.parametrize("behind", STICKY.values(), ids=STICKY, indirect=True)
loose = pytest.mark.parametrize("behind", LOOSE.values(), ids=LOOSE, indirect=True)


class Whereabouts:
    """The instances that a client was let in by."""

    def __init__(self) -> None:
        self.instances: list[str] = []

    def note(self, way: str, envelope: dict[str, Any]) -> None:
        if way == "in" and envelope["type"] == "session_ready":
            self.instances.append(envelope["payload"]["server"]["instance"])


class Polling:
    """A client that polls and never upgrades; its cookies are kept as a browser keeps them."""

    def __init__(self, url: str, user: str) -> None:
        self._at = f"{url}/socket.io/?EIO=4&transport=polling"
        self._token = token_of(user)
        self.events: list[list[Any]] = []

    async def __aenter__(self) -> Polling:
        self._http = aiohttp.ClientSession()
        self._at += f"&sid={json.loads((await self._get())[0][1:])['sid']}"
        await self.send("40" + json.dumps({"token": self._token}))
        self._polls = asyncio.create_task(self._poll())
        await eventually(lambda: self.of("session_ready"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._polls.cancel()
        (ended,) = await asyncio.gather(self._polls, return_exceptions=True)
        async with self._http:
            if isinstance(ended, asyncio.CancelledError):  # it still polled
                await self.send("1")  # otherwise it is missed only after 45 s

    async def send(self, packet: str) -> None:
        async with self._http.post(self._at, data=packet) as answer:
            assert answer.status == 200

    async def _get(self) -> list[str]:
        async with self._http.get(self._at) as answer:
            assert answer.status == 200, await answer.text()
            return (await answer.text()).split("\x1e")

    async def _poll(self) -> None:
        while True:
            for packet in await self._get():
                if packet == "2":
                    await self.send("3")
                elif packet.startswith("42"):
                    self.events.append(json.loads(packet[2:]))

    def failed(self) -> bool:
        """Whether a poll was refused, as by a server that it does not belong to."""
        return self._polls.done()

    def of(self, name: str) -> list[dict[str, Any]]:
        return [envelope for one, envelope in self.events if one == name]


@pytest.mark.parametrize("config", ["haproxy.cfg", "haproxy-websocket.cfg"])
async def test_a_busy_server_is_not_down(config: str, tmp_path: Path) -> None:
    """One that answers its health checks late keeps its clients."""
    checks: list[str] = []

    async def busy(request: web.Request) -> web.Response:
        if request.path == "/readyz":
            await asyncio.sleep(0.8)
            checks.append(request.path)
        return web.Response(text="here")

    app = web.Application()
    app.router.add_get("/{path:.*}", busy)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    balancer = HAProxy(config, tmp_path / "balancer", [runner.addresses[0][1]] * 3)
    try:
        await asyncio.to_thread(balancer.start)
        await eventually(lambda: len(checks) >= 6)
        async with aiohttp.ClientSession() as http, http.get(balancer.url) as answer:
            assert (answer.status, await answer.text()) == (200, "here")
    finally:
        await asyncio.to_thread(balancer.stop)
        await runner.cleanup()


@sticky
async def test_long_polling_is_sticky(behind: Balancer, model: ScriptedModel, user: str) -> None:
    """Long polling clients stay at their server through a whole answer."""
    text = f"poll {user}"
    model.script(contains=text, count=30, token_delay_s=0.03)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Polling(behind.url, f"{user}-{number}")) for number in range(6)]
        for one in clients:
            said = {"payload": {"text": text}, "metadata": {"message_id": "m-1"}}
            await one.send("42" + json.dumps(["user_message", said]))
        await eventually(lambda: all(one.of("twin_message") or one.failed() for one in clients), timeout=60)
        assert not any(one.failed() for one in clients)
        for one in clients:
            chunks = "".join(chunk["payload"]["text"] for chunk in one.of("twin_message_chunk"))
            assert chunks == one.of("twin_message")[0]["payload"]["text"]


@loose
async def test_websockets_need_no_stickiness(behind: Balancer, user: str) -> None:
    """Without stickiness websockets work and long polling is refused at once."""
    at = Whereabouts()
    for _ in range(6):
        async with TwinClient(behind.url, token_of(user), on_envelope=at.note) as client:
            await client.ask("hello")
    assert len(set(at.instances)) > 1
    polling = f"{behind.url}/socket.io/?EIO=4&transport=polling"
    async with aiohttp.ClientSession() as http, http.get(polling) as refused:
        assert refused.status == 400


async def test_the_service_is_found_below_a_path(servers: list[Process], tmp_path: Path, user: str) -> None:
    """A proxy that takes the path away: the client over both transports, the routes, the page and the command line."""
    proxy = Nginx("nginx.conf.template", tmp_path / "balancer", [one.port for one in servers], below="/any/twin")
    await asyncio.to_thread(proxy.start)
    try:
        for url in (f"{proxy.url}/any/twin", f" {proxy.url}/any/twin/ "):
            for transport in ("websocket", "polling"):
                async with TwinClient(url, token_of(user), transports=[transport]) as client:
                    assert (await client.ask("hello")).status == "complete"
                    with pytest.raises(RequestFailed, match="not_found"):
                        await client.why("no-such-trait")
        env = {**os.environ, "TWIN_TOKEN": token_of(user)}
        words = ("chat", "--url", f"{proxy.url}/any/twin/")
        code, said, _ = await output_of("twin_sio.cli", *words, given=b"hello\n", env=env)
        assert code == 0
        assert b"hello" in said
    finally:
        await asyncio.to_thread(proxy.stop)


@pytest.mark.parametrize("behind", [*STICKY.values(), *LOOSE.values()], indirect=True)
async def test_operators_routes_are_not_public(behind: Balancer) -> None:
    """What is for operators alone is not shown to the public."""
    async with aiohttp.ClientSession() as http:
        for path in ("/metrics", "/readyz", "/healthz"):
            async with http.get(behind.url + path) as answer:
                assert answer.status == 404, path
        async with http.get(f"{behind.url}/v1/profile") as answer:
            assert answer.status == 401


@pytest.mark.parametrize("behind", [STICKY["haproxy"], LOOSE["nginx"]], ids=["haproxy", "nginx"], indirect=True)
async def test_a_drained_client_gets_its_answer_elsewhere(
    behind: Balancer, servers: list[Process], model: ScriptedModel, user: str
) -> None:
    """Who is at a server that drains comes back at another and gets the answer."""
    model.script(contains=user, count=40, token_delay_s=0.05)
    at = Whereabouts()
    await eventually(lambda: _all_left(servers))
    async with TwinClient(behind.url, token_of(user), on_envelope=at.note) as client:
        await client.send(f"long {user}", message_id="m-1")
        await client.until(lambda state: state.last_seq >= 1)
        (server,) = await eventually(lambda: _connected(servers))  # a metric may be 50 ms old
        server.send_signal(signal.SIGTERM)
        answer = await client.answer("m-1", timeout=20)
        assert answer.status == "complete"
        await eventually(lambda: len(at.instances) == 2)
        assert at.instances[0] != at.instances[1]
        assert await server.wait() == 0
    await started(server)
    await eventually(server.is_ready)


async def _connections(server: Process) -> float:
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/metrics") as response:
        found = re.search(r"^twin_connections (\S+)$", await response.text(), re.MULTILINE)
    return float(found.group(1)) if found else 0.0


async def _connected(servers: list[Process]) -> list[Process]:
    return [one for one in servers if await _connections(one)]


async def _all_left(servers: list[Process]) -> bool:
    return not any([await _connections(one) for one in servers])
