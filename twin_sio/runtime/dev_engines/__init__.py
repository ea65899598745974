"""The embedded engines: a real MongoDB, a real Redis and a real model beside the server, on a developer's machine.

`Embedded` starts what has no URL and stops exactly that. `start_mongod`, `start_redis` and `start_model` give single
engines, which can also be killed, paused and restarted, as the tests of faults do. Every child

- is looked for on PATH first, then in a pip wheel; where it is in neither, `EngineMissing` names the variable to set;
- runs in a session of its own, so that a terminal's Ctrl-C reaches the server only;
- dies with this process, even where this one is killed with -9 (on Linux);
- listens on 127.0.0.1, on a port chosen when it starts.

    EngineError
    ├── EngineMissing    found nowhere, or cannot run on this platform
    ├── EngineFailed     was started and did not become ready
    └── FolderInUse      another server has its engines in this folder
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import SecretStr

from twin_sio.clock import monotonic
from twin_sio.config import Settings
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

Say = Callable[[str], None]


class DataDirLocked(EngineError):
    """Another server keeps its engines' data in the same folder."""


class DevEngines:
    """The engines that the settings name no URL for; an async context manager that stops what it started.

    Entering raises `EngineError`. Where all have URLs nothing is started and nothing touched.
    """

    def __init__(self, settings: Settings, say: Say) -> None:
        self._given = settings
        self._say = say
        self._engines: list[Engine] = []
        self._filled: dict[str, Any] = {}
        self._exit = AsyncExitStack()

    @property
    def settings(self) -> Settings:
        """The settings given, with the URLs, the model's name and key, and a prompt that the model reads in time."""
        return self._given.model_copy(update=self._filled)

    @property
    def environment(self) -> dict[str, str]:
        """What another process needs in its environment to use the same engines."""
        variables = {
            "mongodb_url": "TWIN_MONGODB_URL",
            "redis_url": "TWIN_REDIS_URL",
            "openai_base_url": "OPENAI_BASE_URL",
            "openai_api_key": "OPENAI_API_KEY",
            "model": "TWIN_MODEL",
            "prompt_budget_tokens": "TWIN_PROMPT_BUDGET_TOKENS",
            "model_background": "TWIN_MODEL_BACKGROUND",
        }
        return {
            variables[field]: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for field, value in self._filled.items()
        }

    async def __aenter__(self) -> Self:
        engines = self._needed()
        async with AsyncExitStack() as stack:
            if engines:
                stack.enter_context(_FolderLock(self._given.data_dir))
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
        """Which engine ended without our doing, and how (`Child.obituary`); waits as long as all live."""
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
        given, folder = self._given, self._given.data_dir
        engines: list[Engine] = []
        if not given.mongodb_url:
            engines.append(Mongod(find_mongod(folder / "mongodb"), folder / "mongodb"))
        if not given.redis_url:
            engines.append(RedisServer(find_redis(folder / "redis"), folder / "redis"))
        if not given.openai_base_url and not given.openai_api_key.get_secret_value():
            engines.append(Model(find_model(), folder / "model"))
        return engines

    async def _start(self, engine: Engine) -> None:
        self._say(f"{engine.name}: starting")
        began = monotonic()
        await asyncio.to_thread(engine.start)
        self._say(
            f"{engine.name}: ready in {monotonic() - began:.1f} s on port {engine.port}, files in {engine.folder}"
        )

    async def _stop(self) -> None:
        # The stores last: what ends before them may still write.
        for engine in reversed(self._engines):
            lived = engine.alive
            await asyncio.to_thread(engine.stop)
            if lived:
                self._say(f"{engine.name}: stopped")

    def _fill(self, engine: Engine) -> None:
        if isinstance(engine, Mongod):
            self._filled["mongodb_url"] = engine.url
        elif isinstance(engine, RedisServer):
            self._filled["redis_url"] = engine.url
        else:
            self._filled |= {"openai_base_url": engine.url, "openai_api_key": SecretStr("embedded")}
            self._filled["model"] = self._given.model or MODEL_NAME
            if "model_background" not in self._given.model_fields_set:
                self._filled["model_background"] = False
            if "prompt_budget_tokens" not in self._given.model_fields_set:
                self._filled["prompt_budget_tokens"] = MODEL_PROMPT_TOKENS


class _FolderLock:
    """Held by the one server that runs engines in a folder; the kernel lets go of it when that server dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = -1

    def __enter__(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._file, 20).decode(errors="replace").strip()
            os.close(self._file)
            raise DataDirLocked(
                f"Another server (process {holder or 'unknown'}) has its engines in {self._folder}: stop it, or set "
                "TWIN_DATA_DIR to another folder."
            ) from None
        os.truncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
