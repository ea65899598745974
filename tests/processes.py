"""Servers, workers and models as processes of their own, to be killed, paused and restarted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from tests.fork_server import Forked, can_fork
from tests.waiting import eventually
from twin_sio.dev_tokens import create_token
from twin_sio.runtime.dev_engines.process import Child

SECRET = "a secret of the tests, longer than thirty-two bytes"


def environment(
    mongodb_url: str, redis_url: str, model_url: str, *, tuning: Mapping[str, Any] | None = None, **more: Any
) -> dict[str, str]:
    """The environment of a production server or worker over these engines; `tuning` overrides constants."""
    variables = {
        "TWIN_ENV": "production",
        "PORT": 0,
        "TWIN_MONGODB_URL": mongodb_url,
        "TWIN_REDIS_URL": redis_url,
        "OPENAI_BASE_URL": model_url,
        "OPENAI_API_KEY": "scripted",
        "TWIN_MODEL": "scripted",
        "TWIN_EXTRACTION": "model",  # the scripted model says what it is told, and would pass no test
        "TWIN_JWT_SECRET": SECRET,
        "TWIN_LIMIT_MESSAGES_PER_MINUTE": 100_000,
        "TWIN_LIMIT_EVENTS_PER_SECOND": 10_000,
        "TWIN_LIMIT_WRITES_PER_MINUTE": 0,
        "TWIN_LIMIT_CONNECTS_PER_MINUTE": 0,
        "TWIN_LIMIT_CONNECTS_PER_ADDRESS": 0,
        "TWIN_HEARTBEAT_INTERVAL_MS": 1000,
        "TWIN_TEST_TUNING": json.dumps({"turn_lease_s": 2, **(tuning or {})}),
        **more,
    }
    return {name: str(value) for name, value in variables.items()}


def token_of(user: str) -> str:
    return create_token(user, SECRET, ttl_s=7200)


class Process(Child):
    """A Python module as a process (`fork_server`); `port` is what its first line said."""

    def __init__(
        self,
        module: str,
        folder: Path,
        env: dict[str, str] | None = None,
        *args: str,
        python: Path = Path(sys.executable),
    ) -> None:
        log = folder / f"{module}-{id(self):x}.log"
        # -P with another environment's Python: the installed package, and not the one in this folder.
        safe = [] if str(python) == sys.executable else ["-P"]
        super().__init__(module, [str(python), *safe, "-m", module, *args], log=log, env=env)
        self._log = log
        self.port = 0

    async def listening(self) -> None:
        """Wait for the line that tells the port."""
        # To import the service takes seconds of a core, and several start at once.
        self.port = int((await eventually(self._announced, timeout=90.0)).group(1))

    def _fork(self) -> subprocess.Popen[bytes]:
        command = self._command()
        # What Python reads before it runs anything comes too late for a fork.
        is_plain = command[:2] == [sys.executable, "-m"] and not any(name.startswith("PYTHON") for name in self._env)
        if not (is_plain and can_fork() and (self.name in {"server", "worker"} or self.name.startswith("tests."))):
            return super()._fork()
        with self._open_log(self._log) as out, Path(os.devnull).open("rb") as nothing:
            streams = (nothing.fileno(), out.fileno(), out.fileno())
            return Forked(self.name, command[3:], {**os.environ, **self._env}, streams)

    def _announced(self) -> re.Match[str] | None:
        return re.search(r"listening (?:on http://\S+:)?(\d+)", self.printed())

    def printed(self) -> str:
        """All it has printed since it was started."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def is_ready(self) -> bool:
        """Whether `/readyz` says so."""
        try:
            async with aiohttp.ClientSession() as http, http.get(f"{self.url}/readyz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False


async def started(process: Process) -> Process:
    """Start it and wait until it listens; one that never does is gone."""
    process.start()
    try:
        await process.listening()
    except BaseException:
        process.kill()
        raise
    return process
