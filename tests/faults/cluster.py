"""The service as it is deployed: servers, a worker, MongoDB, Redis and a model, each a process, to be broken."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pymongo

from tests.faults.figures import Figures, Scale
from tests.faults.record import Json, Record, Sum, judged
from tests.faults.stock_clients import StockClients
from tests.faults.tcp_proxy import TcpProxy
from tests.processes import Process, environment, started, token_of
from tests.waiting import eventually
from twin_sio.client import Backoff, Message, TwinClient
from twin_sio.clock import new_id
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer, free_port, start_mongod, start_redis

DATABASE = "faults"
Fault = Callable[["Cluster", Scale], Awaitable[Figures]]


class Device(TwinClient):
    """A client that is sent to whichever server lives when it connects again; `record` is all that it was sent."""

    def __init__(self, cluster: Cluster, user: str, server: int, **more: Any) -> None:
        self._cluster = cluster
        self._next: int | None = server
        self.server = server
        self.user = user
        self.record = Record(f"{user}/{server}")
        super().__init__("", token_of(user), on_envelope=self.record.hook, backoff=Backoff(0.2, 1.0), **more)

    @property
    def url(self) -> str:
        """Read once by every attempt: of the server that was chosen for it, or that a load balancer would choose."""
        self.server = self._cluster.any_server() if self._next is None else self._next
        self._next = None
        return self._cluster.servers[self.server].url

    @url.setter
    def url(self, _: str) -> None:
        """The servers are the cluster's."""

    def goes_to(self, server: int) -> None:
        """Where the next attempt leads."""
        self._next = server

    async def move(self, server: int) -> None:
        """Leave, come back at another server and be resumed there."""
        had = len(self.record.resumed_at)
        self.goes_to(server)
        await self.drop()
        await eventually(lambda: len(self.record.resumed_at) > had and self.is_connected, 20.0)


class Cluster:
    """What is running. A fault restores what it breaks; its users are its own."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._turn = 0
        self._mongo: pymongo.AsyncMongoClient[Json]
        self._http: aiohttp.ClientSession
        self.mongod: Mongod
        self.redis: RedisServer
        self.model: Process
        self.servers: list[Process] = []
        self.worker: Process
        self.balancer: TcpProxy
        """A load balancer before all servers, for clients that know one address."""

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self, servers: int, variables: dict[str, Any]) -> None:
        engines = await asyncio.gather(
            asyncio.to_thread(start_mongod, self.folder / "mongod"),
            asyncio.to_thread(start_redis, self.folder / "redis"),
        )
        self.mongod, self.redis = engines
        for engine in engines:
            self._stack.push_async_callback(asyncio.to_thread, engine.stop)
        self.model = await self.process("tests.scripted_model")
        self._http = await self._stack.enter_async_context(aiohttp.ClientSession())
        self._mongo = pymongo.AsyncMongoClient(self.mongod.url, timeoutMS=20_000)
        self._stack.push_async_callback(self._mongo.close)
        self.environment = environment(
            self.mongod.url,
            self.redis.url,
            f"{self.model.url}/v1",
            TWIN_MONGODB_DATABASE=DATABASE,
            TWIN_LOG_LEVEL="warning",
            **{"TWIN_LIMIT_SESSIONS": 500, **variables},
        )
        self.servers = list(await asyncio.gather(*(self.process("server") for _ in range(servers))))
        self.worker = self.one_more_worker()
        self.balancer = await self._stack.enter_async_context(
            TcpProxy(lambda: [one.port for one in self.servers if one.alive])
        )

    async def attach(self, mongodb_port: int, model_port: int, server_ports: Sequence[int]) -> None:
        """Use what another process has started, instead of `start`."""
        self._http = await self._stack.enter_async_context(aiohttp.ClientSession())
        self.mongod = Mongod("", self.folder)
        self.mongod.port = mongodb_port
        self.model, *self.servers = (Process("", self.folder) for _ in range(1 + len(server_ports)))
        for process, port in zip([self.model, *self.servers], [model_port, *server_ports], strict=True):
            process.port = port

    async def process(self, module: str, *args: str, **variables: Any) -> Process:
        """One more process, listening; stopped with the cluster. `variables` override the environment."""
        env = {**getattr(self, "environment", {}), **{name: str(value) for name, value in variables.items()}}
        running = Process(module, self.folder, env, *args)
        self._stack.push_async_callback(asyncio.to_thread, running.stop, 3.0)  # also where it never listens
        return await started(running)

    def one_more_worker(self) -> Process:
        """A worker, started, with its metrics at its `port`; stopped with the cluster."""
        port = free_port()
        worker = Process("worker", self.folder, {**self.environment, "TWIN_WORKER_PORT": str(port)})
        worker.port = port
        worker.start()
        self._stack.push_async_callback(asyncio.to_thread, worker.stop)
        return worker

    @asynccontextmanager
    async def one_more(self, **variables: Any) -> AsyncIterator[int]:
        """Another server, with an environment of its own, for a while; its number."""
        extra = await self.process("server", **variables)
        self.servers.append(extra)
        try:
            yield len(self.servers) - 1
        finally:
            self.servers.remove(extra)
            await asyncio.to_thread(extra.stop, 3.0)

    async def restart(self, server: int) -> None:
        """Start a killed server again, on another port, and wait until it is ready."""
        process = self.servers[server]
        process.start()
        await process.listening()
        await self.until_ready(server)

    async def until_ready(self, *servers: int, timeout: float = 20.0) -> None:
        """Wait until these servers (none named: all) say that they are ready."""
        for index in servers or range(len(self.servers)):
            await eventually(self.servers[index].is_ready, timeout)

    async def is_ready(self, server: int) -> bool:
        """What `/readyz` says, over a connection that is kept: good for asking very often."""
        async with self._http.get(f"{self.servers[server].url}/readyz") as response:
            return response.status == 200

    # -- clients -----------------------------------------------------------------------------------------------------

    def any_server(self) -> int:
        """One that lives, in turns."""
        living = [index for index, one in enumerate(self.servers) if one.alive and one.port]
        self._turn += 1
        return living[self._turn % len(living)] if living else 0

    def user(self, name: str = "user") -> str:
        return f"{name}-{new_id()[:10]}"

    def device(self, user: str, server: int = 0, **more: Any) -> Device:
        """A client of ours, not yet connected: `async with` it."""
        return Device(self, user, server, **more)

    def stock(self) -> StockClients:
        """Stock JavaScript clients behind the load balancer, in a process of their own: `async with` it."""
        return StockClients(self.balancer.url)

    # -- the model ---------------------------------------------------------------------------------------------------

    async def script(self, contains: str, **fields: Any) -> None:
        """How the model answers messages that hold `contains` (`tests.scripted_model.Script`)."""
        await self.tell_model(scripts=[{"contains": contains, **fields}])

    async def tell_model(self, **body: Any) -> None:
        """What else its `/control` takes: a `default` for all messages, to `forget` what it has seen."""
        async with self._http.post(f"{self.model.url}/control", json=body) as response:
            response.raise_for_status()

    async def model_seen(self) -> Json:
        """The model's counters: `peak_by_text`, `requests` and others."""
        async with self._http.get(f"{self.model.url}/control") as response:
            seen: Json = await response.json()
            return seen

    async def teach(self, device: Device) -> Message:
        """Say what the worker learns a first trait from, and wait until the device knows of it; the answer."""
        text = f"I prefer tea, {device.user}"
        trait = {"key": "preferences.drink", "value": "tea", "quote": "I prefer tea"}
        found = {"candidates": [{**trait, "kind": "explicit", "polarity": "support"}]}
        await self.script(text, json_answer=json.dumps(found))
        answer = await device.ask(text, timeout=30)
        await device.until(lambda state: state.profile_version > 0, 60)
        return answer

    # -- the truth ---------------------------------------------------------------------------------------------------

    async def log(self, user: str) -> list[Json]:
        """The user's durable events, read from MongoDB past all our code."""
        return await self._mongo[DATABASE]["events"].find({"user_id": user}).sort("seq", 1).to_list()

    async def turns(self, user: str) -> list[Json]:
        return await self._mongo[DATABASE]["turns"].find({"user_id": user}).sort("order", 1).to_list()

    async def judge(self, records: Sequence[Record], user: str) -> Sum:
        """Compare what one user's devices were sent with the log."""
        return judged(records, await self.log(user))

    async def settle(self, records: Mapping[str, Sequence[Record]], timeout: float = 20.0) -> Sum:
        """Wait until every user's devices have come to the end of the log, then judge them all. What was sent without
        an acknowledgement must be in the log by now."""
        total = Sum()
        for user, devices in records.items():
            log = await self.log(user)
            with suppress(TimeoutError):  # then something is lost, and judged so
                await eventually(lambda d=devices, end=log[-1]["seq"]: all((r.last or 0) >= end for r in d), timeout)
            total += judged(devices, await self.log(user))
        return total

    async def ghosts(self, users: Iterable[str]) -> int:
        """How many answers a device that comes now is shown as running, on any server, although none runs."""
        found = 0
        for user in users:
            for index in range(len(self.servers)):
                async with self.device(user, index, last_seq=0, heartbeat=False) as fresh:
                    await fresh.until(lambda _, r=fresh.record: bool(r.resumed_at), 10.0)
                    found += len(fresh.record.generations)
        return found

    async def metrics(self, server: int) -> dict[str, float]:
        """The server's plain gauges and counters."""
        return await self.metrics_of(self.servers[server])

    async def metrics_of(self, process: Process) -> dict[str, float]:
        """Of any server or worker."""
        async with self._http.get(f"{process.url}/metrics") as response:
            lines = [line.rpartition(" ") for line in (await response.text()).splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}


@asynccontextmanager
async def cluster(folder: Path, servers: int = 3, **variables: Any) -> AsyncIterator[Cluster]:
    """A running cluster; `variables` go into the environment of servers and worker."""
    async with AsyncExitStack() as stack:
        running = Cluster(folder, stack)
        await running.start(servers, variables)
        yield running


def chooser(scale: Scale, fault: str) -> random.Random:
    """The fault's own source of choices, the same for the same seed."""
    return random.Random(f"{scale.seed}:{fault}")
