"""What is wrong with an engine, in the log, at the start and at /readyz: one sentence each, and what to do."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pymongo
import pytest
import redis

from tests.commands import output_of
from tests.conftest import settings_for, url_of
from tests.processes import Process, environment, token_of
from tests.scripted_model import ScriptedModel
from tests.test_service_redis import SentinelServer, whole_way
from tests.waiting import eventually
from twin_sio.client import TwinClient
from twin_sio.redis_connection import REDIS_ERRORS, client
from twin_sio.redis_connection.failures import SENTENCES as REDIS_SENTENCES
from twin_sio.redis_connection.failures import explain
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer, find_redis, start_redis
from twin_sio.runtime.serve import service
from twin_sio.store.mongo.failures import SENTENCES as MONGODB_SENTENCES

PASSWORD = "kanarienvogel"
ACL = ("ACL", "SETUSER", "ada", "on", f">{PASSWORD}")


@pytest.fixture
def own_redis(folder: Path) -> Iterator[RedisServer]:
    engine = start_redis(folder / "own")
    yield engine
    engine.stop()


def _asked(engine: RedisServer, *words: str) -> None:
    with redis.Redis(port=engine.port) as one:
        one.execute_command(*words)  # type: ignore[no-untyped-call]


async def _why(url: str) -> dict[str, str]:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/readyz") as response:
        body = await response.json()
        assert response.status == (200 if body["ready"] else 503)
        why: dict[str, str] = body.get("why", {})
        return why


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("MOVED 1234 10.0.0.1:6379", "is_cluster"),
        ("CROSSSLOT Keys in request don't hash to the same slot", "is_cluster"),
        ("ERR SELECT is not allowed in cluster mode", "is_cluster"),
        ("CLUSTERDOWN Hash slot not served", "no_quorum"),
        ("NOREPLICAS Not enough good replicas to write.", "no_quorum"),
        ("DENIED Redis is running in protected mode because protected mode is enabled", "protected"),
        ("ERR max number of clients reached", "too_many_clients"),
        ("ERR max daily request limit exceeded. Limit: 10000", "used_up"),
        ("ERR DB index is out of range", "no_database"),
        ("MISCONF Redis is configured to save RDB snapshots", "no_disk"),
        ("NOAUTH HELLO must be called with the client already authenticated", "no_password"),
        ("ERR unknown command 'SET'", "other"),
    ],
)
async def test_a_refusal_of_redis_is_told_by_its_code(reply: str, kind: str) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(f"-{reply}\r\n".encode() * 3)
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        redis_client = client(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(REDIS_ERRORS) as caught:
            await redis_client.set("a", "b")
        assert explain(caught.value).kind == kind
        await redis_client.aclose()


@pytest.mark.parametrize(
    ("setup", "login", "why"),
    [
        (("CONFIG", "SET", "requirepass", PASSWORD), "", "asks for a password"),
        (("ACL", "SETUSER", "ada", "on", f">{PASSWORD}", "~*", "&*", "+@all"), "ada:wrong@", "refuses the user or the"),
        (
            ("ACL", "SETUSER", "ada", "on", f">{PASSWORD}", "~*", "+@all", "resetchannels"),
            f"ada:{PASSWORD}@",
            "channels",
        ),
        (("ACL", "SETUSER", "ada", "on", f">{PASSWORD}", "~x", "&*", "+@all"), f"ada:{PASSWORD}@", "keys"),
        (("PING",), f":{PASSWORD}@", "has none"),
    ],
)
async def test_why_redis_refuses_is_told(
    setup: tuple[str, ...],
    login: str,
    why: str,
    own_redis: RedisServer,
    mongod: Mongod,
    model: ScriptedModel,
    user: str,
) -> None:
    """/readyz is not ready from the start on, and says what to do."""
    _asked(own_redis, *setup)
    url = own_redis.url.replace("://", f"://{login}")
    async with service(settings_for(mongod.url, url, model.base_url, storage__mongodb_database=user)) as running:
        assert "redis" in await _why(url_of(running))
        said = await eventually(lambda: why in running.services.delivery.channels.problem and running)
        told = (await _why(url_of(said)))["redis"]
        assert why in told
        assert "TWIN_REDIS_URL" in told
        assert PASSWORD not in told


async def test_a_redis_that_takes_no_writes_is_told(
    own_redis: RedisServer, mongod: Mongod, model: ScriptedModel, user: str
) -> None:
    """Out of memory: not ready until there is room again."""
    settings = settings_for(mongod.url, own_redis.url, model.base_url, storage__mongodb_database=user)
    async with service(settings) as running:
        channels = running.services.delivery.channels
        await eventually(lambda: not channels.problem)
        _asked(own_redis, "CONFIG", "SET", "maxmemory", "1")
        await eventually(lambda: "out of memory" in channels.problem)
        assert not channels.healthy
        assert "maxmemory" in (await _why(url_of(running)))["redis"]
        _asked(own_redis, "CONFIG", "SET", "maxmemory", "0")
        await eventually(lambda: not channels.problem)
        assert await _why(url_of(running)) == {}


@pytest.mark.parametrize("module", ["server", "worker"])
async def test_a_wrong_password_is_logged_once(
    module: str, own_redis: RedisServer, mongod: Mongod, model: ScriptedModel, folder: Path, user: str
) -> None:
    """A server and a worker say it once, live on, and stop when they are told to."""
    _asked(own_redis, "CONFIG", "SET", "requirepass", "another")
    url = own_redis.url.replace("://", f"://:{PASSWORD}@")
    process = Process(
        module, folder, environment(mongod.url, url, model.base_url, TWIN_MONGODB_DATABASE=user, TWIN_DRAIN_S=0)
    )
    process.start()
    await eventually(lambda: "refuses the user or the password of TWIN_REDIS_URL" in process.printed(), timeout=30)
    await asyncio.sleep(1.5)  # several tries
    assert process.alive
    printed = process.printed()
    assert printed.count("refuses the user or the password") <= 2
    assert PASSWORD not in printed
    await asyncio.to_thread(process.stop)
    assert "Traceback" not in process.printed()
    assert "KeyError" not in process.printed()


class GuardedMongod(Mongod):
    """Has a user with rights on the database `own` alone."""

    def _command(self) -> list[str]:
        key = self.folder / "key"
        if not self.guarded:
            return super()._command()
        key.write_text("akeyofthereplicaset0")
        key.chmod(0o600)
        return [*super()._command(), "--keyFile", str(key)]

    guarded = False


@pytest.fixture(scope="module")
def guarded(mongod: Mongod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedMongod]:
    engine = GuardedMongod(mongod._argv[0], tmp_path_factory.mktemp("guarded"))
    engine.start()
    with pymongo.MongoClient[dict[str, Any]](engine.url) as client:
        client.admin.command("createUser", "ada", pwd=PASSWORD, roles=[{"role": "readWrite", "db": "own"}])
    engine.stop()
    engine.guarded = True
    engine._is_ready = lambda: _listens(engine.port)  # type: ignore[method-assign]
    engine.restart()
    yield engine
    engine.stop()


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


class LoneMongod(Mongod):
    """No replica set."""

    def _command(self) -> list[str]:
        words = super()._command()
        at = words.index("--replSet")
        return words[:at] + words[at + 2 :]

    def _is_ready(self) -> bool:
        return _listens(self.port)


@pytest.fixture(scope="module")
def lone(mongod: Mongod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoneMongod]:
    engine = LoneMongod(mongod._argv[0], tmp_path_factory.mktemp("lone"))
    engine.start()
    yield engine
    engine.stop()


async def _refused_start(folder: Path, env: dict[str, str]) -> str:
    """What a server prints whose start is refused: one line."""
    process = Process("server", folder, env)
    process.start()
    assert await process.wait() == 1
    printed = process.printed()
    assert "Traceback" not in printed
    assert PASSWORD not in printed
    return printed


@pytest.mark.parametrize(
    ("login", "options", "why"),
    [
        ("ada:wrong", "&authSource=admin", "refuses the user or the password of TWIN_MONGODB_URL"),
        (f"ada:{PASSWORD}", "&authSource=admin", "has no rights on the database"),
        ("", "", "asks for a user and a password"),
    ],
)
async def test_why_mongodb_refuses_is_told(
    login: str, options: str, why: str, guarded: GuardedMongod, redis_server: RedisServer, model: ScriptedModel,
    folder: Path,
) -> None:  # fmt: skip
    """A wrong password is not a missing right, and neither is an address that nobody listens at."""
    at = f"{login}@" if login else ""
    url = guarded.url.replace("://", f"://{at}") + options
    env = environment(url, redis_server.url, model.base_url, TWIN_MONGODB_TIMEOUT_MS=2000)
    assert why in await _refused_start(folder, env)


async def test_a_user_of_one_database_is_enough(
    guarded: GuardedMongod, redis_server: RedisServer, model: ScriptedModel
) -> None:
    """The database that the URL names is used, without a setting of its own."""
    address = guarded.url.replace("://", f"://ada:{PASSWORD}@").replace("/?", "/own?") + "&authSource=admin"
    settings = settings_for(address, redis_server.url, model.base_url)
    async with service(settings) as running:
        assert running.services.db.name == "own"
        assert "mongodb" not in await _why(url_of(running))


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("mongodb://127.0.0.1:{lone}/?replicaSet=twin", "is no replica set"),
        ("mongodb://127.0.0.1:{mongod}/?replicaSet=other", "is no replica set"),
        ("mongodb://127.0.0.1:{mongod}/?replicaSet=twin&tls=true", "do not agree on TLS"),
        ("mongodb://nowhere.invalid/?replicaSet=twin", "has no address"),
        ("mongodb+srv://nowhere.invalid/", "has no address"),
        ("mongodb://127.0.0.1:9/?replicaSet=twin", "Nobody listens at TWIN_MONGODB_URL"),
    ],
)
async def test_a_mongodb_that_cannot_be_used_is_told(
    address: str, why: str, lone: LoneMongod, mongod: Mongod, redis_server: RedisServer, model: ScriptedModel,
    folder: Path,
) -> None:  # fmt: skip
    url = address.format(lone=lone.port, mongod=mongod.port)
    env = environment(url, redis_server.url, model.base_url, TWIN_MONGODB_TIMEOUT_MS=1500)
    assert why in await _refused_start(folder, env)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "SOCKS proxy"),
        ({"HTTPS_PROXY": f"nonsense://{PASSWORD}"}, "no URL of a proxy"),
        ({"SSL_CERT_FILE": "/nowhere.pem"}, "SSL_CERT_FILE"),
        ({"PORT": "{taken}"}, "set PORT to a free one"),
        ({"TWIN_HOST": "192.0.2.1"}, "TWIN_HOST must be an address of this machine"),
        ({"TWIN_HOST": "nowhere.invalid"}, "TWIN_HOST must be an address of this machine"),
    ],
)
async def test_a_start_says_what_it_fails_of(
    more: dict[str, str], why: str, mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, folder: Path
) -> None:
    """ "Cannot listen" is said where it is that, and nowhere else."""
    given = {name: value.format(taken=redis_server.port) for name, value in more.items()}
    printed = await _refused_start(folder, environment(mongod.url, redis_server.url, model.base_url, **given))
    assert why in printed
    assert ("Cannot listen" in printed) == ("PORT" in more or "TWIN_HOST" in more)


async def test_no_engine_is_started_for_a_port_that_is_taken(redis_server: RedisServer, folder: Path) -> None:
    env = {"TWIN_ENV": "dev", "PORT": str(redis_server.port), "TWIN_DATA_DIR": str(folder / "data")}
    printed = await _refused_start(folder, env)
    assert "set PORT to a free one" in printed
    assert "starting" not in printed
    assert not (folder / "data").exists()


async def test_without_a_home_it_goes_without_vectors(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the local model cannot be used the service starts, and says what is missing."""
    program = "import pathlib, sys\nfrom server import main\n" + (
        "def homeless(): raise RuntimeError('Could not determine home directory.')\n"
        "pathlib.Path.home = homeless\nsys.exit(main())\n"
    )
    (folder / "homeless.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).parents[1]}")
    monkeypatch.delenv("HOME", raising=False)
    process = Process("homeless", folder, environment(mongod.url, redis_server.url, model.base_url))
    process.start()
    await process.listening()
    assert "local_embeddings_unavailable" in process.printed()
    await asyncio.to_thread(process.stop)


class ReadOnly(Process):
    """Sees a file system of which nothing can be written."""

    def __init__(self, module: str, folder: Path, env: dict[str, str]) -> None:
        super().__init__(module, folder, {"HOME": "/", **env})
        script = 'mount --rbind / / && mount -o remount,bind,ro / && cd / && exec "$@"'
        self._argv = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", *self._argv]


def _can_be_read_only() -> bool:
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c", "mount --rbind / / && mount -o remount,bind,ro /"]
    return (
        shutil.which("unshare") is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0
    )


def _reads(body: dict[str, Any], text: str) -> bool:
    """Whether a request is about what was said, and no answer to it."""
    return not body.get("stream") and text in json.dumps(body)


read_only = pytest.mark.skipif(not _can_be_read_only(), reason="no namespaces of one's own here")


@read_only
async def test_nothing_has_to_be_written(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, folder: Path, user: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """On a read-only root file system server and worker do all they do; what they cannot is said."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    env = environment(mongod.url, redis_server.url, model.base_url)
    processes = [ReadOnly("server", folder, env), ReadOnly("worker", folder, env)]
    for process in processes:
        process.start()
    try:
        await processes[0].listening()
        await eventually(processes[0].is_ready, timeout=30.0)
        async with TwinClient(processes[0].url, token_of(user)) as client:
            assert (await client.ask("I live in Tromso")).status == "complete"
            # And the worker reads it.
            await model.until(lambda seen: any(_reads(body, "Tromso") for body in seen.requests))
        for process in processes:
            assert "Traceback" not in process.printed()
            assert process.alive
    finally:
        for process in processes:
            await asyncio.to_thread(process.stop)


@read_only
async def test_own_engines_need_a_folder(model: ScriptedModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For development, where they keep their data."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    env = {"PORT": "0", "OPENAI_BASE_URL": model.base_url, "TWIN_MODEL": "scripted", "TWIN_DATA_DIR": "/twin-data"}
    process = ReadOnly("server", folder, env)
    process.start()
    assert await process.wait() == 1
    printed = process.printed()
    assert "Traceback" not in printed
    assert "TWIN_DATA_DIR" in printed


class GuardedSentinel(SentinelServer):
    """Has a password of its own."""

    def _command(self) -> list[str]:
        words = super()._command()
        with (self.folder / "sentinel.conf").open("a") as written:
            written.write(f"requirepass {PASSWORD}\n")
        return words

    @property
    def url(self) -> str:
        return f"{super().url}&sentinel_password={PASSWORD}"

    def _is_ready(self) -> bool:
        return _listens(self.port)


@pytest.fixture
async def guarded_sentinel(folder: Path, own_redis: RedisServer) -> AsyncIterator[GuardedSentinel]:
    engine = GuardedSentinel(find_redis(folder), folder / "guarded", own_redis.port)
    await asyncio.to_thread(engine.start)
    yield engine
    await asyncio.to_thread(engine.stop)


async def test_a_sentinel_may_have_a_password_of_its_own(
    guarded_sentinel: GuardedSentinel, mongod: Mongod, model: ScriptedModel, user: str
) -> None:
    await whole_way(mongod, guarded_sentinel.url, model, user)


async def test_a_sentinel_without_its_password_is_named(
    guarded_sentinel: GuardedSentinel, mongod: Mongod, model: ScriptedModel, user: str
) -> None:
    url = guarded_sentinel.url.partition("&")[0]
    async with service(settings_for(mongod.url, url, model.base_url, storage__mongodb_database=user)) as running:
        channels = running.services.delivery.channels
        await eventually(lambda: "sentinel_password" in channels.problem)


async def doctor_of(**env: str) -> tuple[int | None, dict[str, str]]:
    """The exit code of what `twin-sio doctor --server --json` runs, and what it says of each check that fails."""
    variables = {**os.environ, "TWIN_ENV": "production", **env}
    code, out, _ = await output_of("twin_sio.runtime.engine_check", env=variables)
    lines = [orjson.loads(line) for line in out.splitlines()]
    assert PASSWORD not in out.decode()
    return code, {line["check"]: line["text"] for line in lines if not line["ok"]}


async def test_the_doctor_notes_a_misspelt_setting(
    own_redis: RedisServer, mongod: Mongod, model: ScriptedModel
) -> None:
    """The server would start all the same: it is not said to be well, and fails nothing."""
    env = environment(mongod.url, own_redis.url, model.base_url, TWIN_PERSONNA="You are calm.")
    code, out, _ = await output_of("twin_sio.cli", "doctor", "--server", env={**os.environ, **env})
    assert code == 0
    (line, advice) = out.decode().splitlines()[1:3]
    assert line == "note    variable    TWIN_PERSONNA is no setting and is ignored"
    assert advice.strip() == "Is it TWIN_PERSONA?"


async def test_the_doctor_finds_what_is_wrong_with_the_agent(
    own_redis: RedisServer, mongod: Mongod, model: ScriptedModel
) -> None:
    """A module that is not there, and a server of tools that cannot be reached."""
    servers = {
        "time": {"command": sys.executable, "args": ["-m", "mcp_server_time"]},
        "gone": {"url": "http://127.0.0.1:9"},
    }
    good = environment(mongod.url, own_redis.url, model.base_url, TWIN_AGENT="examples.own_agent:agent")
    assert await doctor_of(**good) == (0, {})
    code, found = await doctor_of(**{**good, "TWIN_AGENT": "no.such:agent", "TWIN_MCP_SERVERS": json.dumps(servers)})
    assert (code, list(found)) == (1, ["agent", "mcp"])
    assert "the module no is not found" in found["agent"]
    assert found["mcp"] == "gone: it cannot be reached, or has no tools"
    code, found = await doctor_of(**{**good, "TWIN_GRAPH": "examples.own_agent:agent"})
    assert (code, list(found)) == (1, ["agent"])
    assert "both set" in found["agent"]


async def test_the_doctor_finds_what_is_wrong_with_an_engine(
    own_redis: RedisServer, mongod: Mongod, model: ScriptedModel
) -> None:
    """In the server's environment: settings, MongoDB and Redis, each with its sentence."""
    good = environment(mongod.url, own_redis.url, model.base_url, TWIN_MONGODB_TIMEOUT_MS=1500)
    assert await doctor_of(**good) == (0, {})
    code, found = await doctor_of(**{**good, "TWIN_REDIS_URL": f"redis://:{PASSWORD}/x@h:1/0"})
    assert (code, list(found)) == (1, ["settings"])
    assert "percent-encoded" in found["settings"]
    code, found = await doctor_of(**{**good, "TWIN_MONGODB_URL": "mongodb://127.0.0.1:9/"})
    assert (code, list(found)) == (1, ["mongodb"])
    assert "Nobody listens" in found["mongodb"]
    _asked(own_redis, *ACL, "~*", "+@all", "resetchannels")
    login = own_redis.url.replace("://", f"://ada:{PASSWORD}@")
    code, found = await doctor_of(**{**good, "TWIN_REDIS_URL": login})
    assert (code, list(found)) == (1, ["redis"])
    assert "channels" in found["redis"]


def test_the_page_has_every_sentence_of_an_engine() -> None:
    page = (Path(__file__).parents[1] / "docs" / "troubleshooting.md").read_text()
    for heading, sentences in (("## Redis", REDIS_SENTENCES), ("## MongoDB", MONGODB_SENTENCES)):
        section = page.split(f"{heading}\n")[1].split("\n## ")[0]
        assert dict(re.findall(r"^- `(\w+)`: (.+)$", section, re.MULTILINE)) == sentences
