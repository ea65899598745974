"""The embedded engines: a real MongoDB, a real Redis and a real model beside the server, on a developer's machine.

`DevEngines` starts what has no URL and stops exactly that. `start_mongod`, `start_redis` and `start_model` give single
engines, which can also be killed, paused and restarted, as the tests of faults do. Every child

- is looked for on PATH first, then in a pip wheel; where it is in neither, `EngineMissing` names the variable to set;
- runs in a session of its own, so that a terminal's Ctrl-C reaches the server only;
- dies with this process, even where this one is killed with -9;
- listens on 127.0.0.1, on a port chosen when it starts.

    EngineError
    ├── EngineMissing    found nowhere, or cannot run on this platform
    ├── EngineFailed     was started and did not become ready
    ├── DataDirLocked     another server has its engines in this folder
    └── DataDirUnusable   nothing can be written there
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout
from pydantic import SecretStr

from twin_sio.clock import monotonic
from twin_sio.config import GROUPS, Settings, variable_of
from twin_sio.runtime.dev_engines.engines import (
    MODEL_NAME,
    MODEL_PROMPT_TOKENS,
    Engine,
    Model,
    Mongod,
    RedisServer,
    find_model,
    find_mongod,
    find_redis,
)
from twin_sio.runtime.dev_engines.process import EngineError

Print = Callable[[str], None]


class DataDirLocked(EngineError):
    """Another server keeps its engines' data in the same folder."""


class DataDirUnusable(EngineError):
    """The folder of the engines' data cannot be made, or not be written."""


class DevEngines:
    """The engines that the settings name no URL for; an async context manager that stops what it started.

    Entering raises `EngineError`. Where all have URLs nothing is started and nothing touched.
    """

    def __init__(self, settings: Settings, say: Print) -> None:
        self._given = settings
        self._say = say
        self._engines: list[Engine] = []
        # What the engines filled in: the group, the field, its value.
        self._filled: dict[tuple[str, str], Any] = {}
        self._exit = AsyncExitStack()

    @property
    def settings(self) -> Settings:
        """The settings given, with the URLs, the model's name and key, and a prompt that the model reads in time."""
        groups: dict[str, dict[str, Any]] = {}
        for (group, field), value in self._filled.items():
            groups.setdefault(group, {})[field] = value
        return self._given.changed(**groups)

    @property
    def environment(self) -> dict[str, str]:
        """What another process needs in its environment to use the same engines."""
        return {
            variable_of(GROUPS[group], field): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for (group, field), value in self._filled.items()
        }

    async def __aenter__(self) -> Self:
        engines = self._needed()
        async with AsyncExitStack() as stack:
            if engines:
                stack.enter_context(_folder_lock(self._given.process.data_dir))
            stack.push_async_callback(self._stop)
            self._engines = engines
            await asyncio.gather(*(self._start(engine) for engine in engines))
            for engine in engines:
                self._fill(engine)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    async def wait_for_exit(self) -> str:
        """Which engine ended without our doing, and how (`Child.exit_summary`); waits as long as all live."""
        watched = {asyncio.create_task(engine.wait()): engine for engine in self._engines}
        try:
            while watched:
                ended, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
                for engine in [watched.pop(task) for task in ended]:
                    if not engine.was_stopped:
                        return engine.exit_summary()
        finally:
            for task in watched:
                task.cancel()
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    def _needed(self) -> list[Engine]:
        given, folder = self._given, self._given.process.data_dir
        engines: list[Engine] = []
        if not given.storage.mongodb_url:
            engines.append(Mongod(find_mongod(folder / "mongodb"), folder / "mongodb"))
        if not given.storage.redis_url:
            engines.append(RedisServer(find_redis(folder / "redis"), folder / "redis"))
        if not given.model.base_url and not given.model.api_key.get_secret_value():
            engines.append(Model(find_model(), folder / "model"))
        return engines

    async def _start(self, engine: Engine) -> None:
        self._say(f"{engine.name}: starting")
        began = monotonic()
        await asyncio.to_thread(engine.start)
        self._say(
            f"{engine.name}: ready in {monotonic() - began:.1f} s on port {engine.port}, files in {engine.folder}"
        )
        if isinstance(engine, Mongod) and (others := engine.other_data):
            self._say(f"{engine.name}: data of another MongoDB is left alone: {', '.join(map(str, others))}")

    async def _stop(self) -> None:
        # The stores last: what ends before them may still write.
        for engine in reversed(self._engines):
            lived = engine.alive
            await asyncio.to_thread(engine.stop)
            if lived:
                self._say(f"{engine.name}: stopped")

    def _fill(self, engine: Engine) -> None:
        filled, model = self._filled, self._given.model
        if isinstance(engine, Mongod):
            filled["storage", "mongodb_url"] = engine.url
        elif isinstance(engine, RedisServer):
            filled["storage", "redis_url"] = engine.url
        else:
            filled["model", "base_url"] = engine.url
            filled["model", "api_key"] = SecretStr("embedded")
            filled["model", "name"] = model.name or MODEL_NAME
            if "background" not in model.model_fields_set:
                filled["model", "background"] = False
            if "prompt_budget_tokens" not in model.model_fields_set:
                filled["model", "prompt_budget_tokens"] = MODEL_PROMPT_TOKENS


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this server's engines; the kernel releases it when the process dies. `DataDirLocked`,
    `DataDirUnusable`."""
    holder = folder / "lock.pid"  # beside the lock, which every attempt to take it empties
    lock = FileLock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        holder.write_text(f"{os.getpid()}\n")
    except Timeout:
        pid = holder.read_text().strip() if holder.exists() else ""
        raise DataDirLocked(
            f"Another server (process {pid or 'unknown'}) has its engines in {folder}: stop it, or set "
            "TWIN_DATA_DIR to another folder."
        ) from None
    except OSError as error:
        lock.release()
        raise DataDirUnusable(
            f"The embedded engines cannot keep their data in {folder} ({error.strerror or type(error).__name__}): set "
            "TWIN_DATA_DIR to a folder that can be written, or TWIN_MONGODB_URL and TWIN_REDIS_URL to engines of your "
            "own."
        ) from None
    try:
        yield
    finally:
        lock.release()
