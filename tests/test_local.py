"""The embedded engines are real: what is started here is a real mongod, redis-server and model."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pymongo
import pytest
import redis
from pydantic import SecretStr

from tests.factories import make_settings
from twin_sio.clock import monotonic
from twin_sio.runtime import dev_engines
from twin_sio.runtime.dev_engines import DataDirLocked, DevEngines, engines, process
from twin_sio.runtime.dev_engines.engines import Engine
from twin_sio.runtime.dev_engines.process import Child, EngineMissing

NO_MODEL = {"model__base_url": "http://127.0.0.1:9/v1"}


def quiet(_: str) -> None:
    pass


@contextmanager
def mongo(url: str) -> Iterator[Any]:
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(url, serverSelectionTimeoutMS=10_000)
    try:
        yield client.get_database("test")
    finally:
        client.close()


def is_gone(pid: int) -> bool:
    """Whether no process has the id; one that is dead and not yet waited for counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = monotonic() + 20
    while not holds():
        assert monotonic() < deadline, what
        time.sleep(0.02)


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return orjson.loads(answer.read())


async def test_what_has_no_url_is_started_and_serves(tmp_path: Path) -> None:
    said: list[str] = []
    async with DevEngines(make_settings(process__data_dir=tmp_path), said.append) as embedded:
        settings = embedded.settings
        with mongo(settings.storage.mongodb_url) as database:
            with database.client.start_session() as session, session.start_transaction():
                database.notes.insert_one({"_id": 1}, session=session)
            assert database.notes.count_documents({}) == 1
        with redis.Redis.from_url(settings.storage.redis_url) as client:
            assert client.incr("n") == 1
        models = await asyncio.to_thread(get, f"{settings.model.base_url}/models")
        assert models["data"][0]["id"] == settings.model.name
        assert settings.model.api_key.get_secret_value()
        assert embedded.environment["TWIN_MONGODB_URL"] == settings.storage.mongodb_url
        assert (settings.model.background, embedded.environment["TWIN_MODEL_BACKGROUND"]) == (
            False,
            "False",
        )  # it invents
    for name in ("mongod", "redis-server", "model"):
        assert any(line.startswith(f"{name}: ready in ") for line in said)
        assert f"{name}: stopped" in said


def test_each_slot_of_the_model_holds_the_longest_prompt(tmp_path: Path) -> None:
    model = engines.start_model(tmp_path)
    try:
        slots = get(model.url.replace("/v1", "/slots"))
        assert [slot["n_ctx"] for slot in slots] == [engines.MODEL_SLOT_TOKENS] * engines.MODEL_SLOTS
    finally:
        model.stop()


async def test_data_outlives_a_start_on_other_ports(tmp_path: Path) -> None:
    """The data is found again at the next start on other ports."""
    settings = make_settings(process__data_dir=tmp_path, **NO_MODEL)
    async with DevEngines(settings, quiet) as first:
        urls = {first.settings.storage.mongodb_url, first.settings.storage.redis_url}
        with mongo(first.settings.storage.mongodb_url) as database:
            database.notes.insert_one({"text": "kept"})
        with redis.Redis.from_url(first.settings.storage.redis_url) as client:
            client.set("note", "kept")
    async with DevEngines(settings, quiet) as second:
        assert urls.isdisjoint({second.settings.storage.mongodb_url, second.settings.storage.redis_url})
        with mongo(second.settings.storage.mongodb_url) as database:
            assert database.notes.find_one()["text"] == "kept"
        with redis.Redis.from_url(second.settings.storage.redis_url) as client:
            assert client.get("note") == b"kept"


async def test_what_has_a_url_is_neither_started_nor_changed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    settings = make_settings(
        process__data_dir=folder,
        storage__mongodb_url="mongodb://db.example/?replicaSet=rs0",
        storage__redis_url="redis://cache.example/0",
        model__api_key=SecretStr("a key"),
    )
    async with DevEngines(settings, quiet) as embedded:
        assert embedded.settings == settings
        assert embedded.environment == {}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(embedded.wait_for_exit(), 0.05)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["mongod", "redis-server"])
async def test_an_engine_killed_from_outside_is_noticed_and_named(tmp_path: Path, name: str) -> None:
    async with DevEngines(make_settings(process__data_dir=tmp_path, **NO_MODEL), quiet) as embedded:
        death = asyncio.create_task(embedded.wait_for_exit())
        victim = next(engine for engine in embedded._engines if engine.name == name)
        os.kill(victim.pid, signal.SIGKILL)
        received = await asyncio.wait_for(death, 10)
    assert received == f"{name} was killed from outside (signal 9); its log: {victim.log}"
    assert victim.log is not None
    assert victim.log.is_file()


async def test_stopping_ends_what_was_started_and_nothing_else(tmp_path: Path) -> None:
    neighbour = engines.start_redis(tmp_path / "neighbour")
    try:
        async with DevEngines(make_settings(process__data_dir=tmp_path / "data", **NO_MODEL), quiet) as embedded:
            pids = [engine.pid for engine in embedded._engines]
            assert len(pids) == 2
            assert not any(is_gone(pid) for pid in pids)
        assert all(is_gone(pid) for pid in pids)
        with redis.Redis.from_url(neighbour.url) as client:
            assert client.ping()
    finally:
        neighbour.stop()


async def test_a_start_that_fails_leaves_nothing_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Engine] = []
    fork = Engine._fork

    def recorded(self: Engine) -> Any:
        started.append(self)
        return fork(self)

    monkeypatch.setattr(Engine, "_fork", recorded)
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "appendonlydir").write_text("not a folder")
    with pytest.raises(process.EngineFailed, match=r"redis-server ended by itself \(exit code 1\); its log: "):
        async with DevEngines(make_settings(process__data_dir=tmp_path, **NO_MODEL), quiet):
            pytest.fail("It must not come up.")
    assert {engine.name for engine in started} == {"mongod", "redis-server"}
    assert not any(engine.alive for engine in started)
    with dev_engines._folder_lock(tmp_path):  # the folder is free again
        pass


async def test_a_second_server_in_the_folder_is_refused(tmp_path: Path) -> None:
    """A second server in the same folder is refused with the owner's name."""
    settings = make_settings(process__data_dir=tmp_path, **NO_MODEL)
    async with DevEngines(settings, quiet):
        with pytest.raises(DataDirLocked, match=rf"process {os.getpid()}\).*TWIN_DATA_DIR"):
            await DevEngines(settings, quiet).__aenter__()


@pytest.mark.parametrize(
    ("find", "variable"),
    [
        (engines.find_mongod, "TWIN_MONGODB_URL"),
        (engines.find_redis, "TWIN_REDIS_URL"),
        (lambda _: engines.find_model(), "OPENAI_BASE_URL"),
    ],
)
def test_a_missing_engine_names_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, find: Callable[[Path], object], variable: str
) -> None:
    """An engine that is found nowhere names the variable to set."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_hooks", [])
    with pytest.raises(EngineMissing, match=f"set {variable} to the URL"):
        find(tmp_path)


@pytest.mark.parametrize(
    ("system", "machine", "said"),
    [
        ("Darwin", "arm64", "make run"),
        ("Linux", "aarch64", "make run"),
        ("Linux", "x86_64", "make run"),
        ("Darwin", "x86_64", "no wheel with it for Darwin x86_64"),
        ("Windows", "AMD64", "no wheel with it for Windows AMD64"),
    ],
)
def test_a_platform_without_wheels_is_named(
    system: str, machine: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_hooks", [])
    with pytest.raises(EngineMissing, match=said):
        engines.find_mongod(tmp_path)


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        (
            "error while loading shared libraries: libcurl.so.4: cannot open shared object file: No such file",
            r"libcurl\.so\.4 is missing \(Debian's package libcurl4\).*TWIN_MONGODB_URL",
        ),
        (
            "dyld[71]: Library not loaded: /opt/homebrew/opt/openssl@3/lib/libssl.3.dylib\n  Referenced from: ...",
            r"/opt/homebrew/opt/openssl@3/lib/libssl\.3\.dylib is missing\. Install it, or set TWIN_MONGODB_URL",
        ),
    ],
)
def test_an_engine_whose_library_is_missing_says_which(printed: str, said: str, tmp_path: Path) -> None:
    program = tmp_path / "mongod"
    program.write_text(f"#!/bin/sh\necho '{printed}' >&2\nexit 127\n")
    program.chmod(0o755)
    with pytest.raises(EngineMissing, match=said):
        engines.Mongod(str(program), tmp_path).start()


def test_each_release_of_mongodb_has_a_data_folder_of_its_own(tmp_path: Path) -> None:
    """No MongoDB opens the data of one that is two releases older or newer."""
    mongod = engines.start_mongod(tmp_path)
    try:
        with mongo(mongod.url) as database:
            version = database.client.server_info()["version"]
            database.notes.insert_one({"text": "kept"})
    finally:
        mongod.stop()
    (folder,) = tmp_path.glob("data*")
    assert version.startswith(folder.name.removeprefix("data-") + ".")

    folder.rename(tmp_path / "data")  # as an earlier build named it
    (tmp_path / "data-4.4").mkdir()
    (tmp_path / "data-4.4" / "storage.bson").write_text("of another release")
    mongod = engines.start_mongod(tmp_path)
    try:
        assert mongod.other_data == [tmp_path / "data-4.4"]
        with mongo(mongod.url) as database:
            assert database.notes.find_one()["text"] == "kept"
    finally:
        mongod.stop()


def test_a_program_without_its_run_bit_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program without its run bit gets it or is copied."""
    program = tmp_path / "site-packages" / "engine"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o644)
    assert engines._runnable(program, tmp_path / "data") == program
    assert os.access(program, os.X_OK)

    program.chmod(0o644)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    chmod = Path.chmod
    monkeypatch.setattr(
        Path, "chmod", lambda path, mode: refused() if path == program else chmod(path, mode)
    )  # root is refused nothing
    copy = engines._runnable(program, tmp_path / "data")
    assert copy == tmp_path / "data" / "engine"
    assert subprocess.run([copy], check=True).returncode == 0


def test_mongod_comes_back_on_its_port_with_what_it_acknowledged(tmp_path: Path) -> None:
    mongod = engines.start_mongod(tmp_path)
    try:
        with mongo(mongod.url) as database:
            database.notes.insert_one({"_id": 1})
            url = mongod.url
            mongod.kill()
            assert not mongod.alive
            mongod.restart()
            assert mongod.url == url
            assert database.notes.count_documents({}) == 1
    finally:
        mongod.stop()


def test_a_paused_redis_answers_nothing_until_it_is_resumed(tmp_path: Path) -> None:
    server = engines.start_redis(tmp_path)
    try:
        with redis.Redis.from_url(server.url, socket_timeout=0.2) as client:
            assert client.ping()
            server.pause()
            with pytest.raises(redis.TimeoutError):
                client.ping()
            server.resume()
            assert client.ping()
        server.pause()
        assert server.stop() == 0
    finally:
        server.stop()


@pytest.mark.parametrize("has_death_signal", [True, False])
def test_children_die_with_a_parent_that_is_killed(tmp_path: Path, has_death_signal: bool) -> None:
    """By the kernel's signal (Linux), and without it (macOS)."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom twin_sio.runtime.dev_engines import engines, process\n"
        f"process.HAS_DEATH_SIGNAL = {has_death_signal}\n"
        "server = engines.start_redis(Path(sys.argv[1]))\n"
        "print(server.pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not is_gone(child)
        parent.kill()
    until(lambda: is_gone(child), "the engine outlived the process that started it")


def test_without_a_death_signal_a_child_is_supervised_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps its id, can be paused, killed and started again, and what watches it leaves with it."""
    monkeypatch.setattr(process, "HAS_DEATH_SIGNAL", False)
    server = engines.start_redis(tmp_path)
    try:
        watchers = []
        for end in (server.kill, server.stop, server.stop):
            with redis.Redis.from_url(server.url, socket_timeout=0.2) as client:
                assert client.info()["process_id"] == server.pid
                server.pause()
                with pytest.raises(redis.TimeoutError):
                    client.ping()
                server.resume()
            watchers += _children(server.pid)
            end()
            server.restart()
        assert len(watchers) == 3
        until(lambda: all(map(is_gone, watchers)), "what watches a child outlived it")
        assert server.alive
    finally:
        server.stop()


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_terminals_interrupt_does_not_reach_children(tmp_path: Path) -> None:
    server = engines.start_redis(tmp_path)
    try:
        assert os.getsid(server.pid) == server.pid
    finally:
        server.stop()


async def test_a_childs_end_names_it(tmp_path: Path) -> None:
    """A child is named when it ends and its environment is ours and more."""
    show = "import os; print(os.environ['TWIN_A'], 'PATH' in os.environ); raise SystemExit(3)"
    child = Child("worker", [sys.executable, "-c", show], log=tmp_path / "worker.log", env={"TWIN_A": "a value"})
    child.start()
    assert await asyncio.wait_for(child.wait(), 20) == 3
    assert child.exit_summary() == f"worker ended by itself (exit code 3); its log: {tmp_path / 'worker.log'}"
    assert (tmp_path / "worker.log").read_text() == "a value True\n"


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    log = tmp_path / "log"
    child = Child("stubborn", [sys.executable, "-c", stubborn], log=log)
    child.start()
    until(lambda: log.read_text() == "up\n", "it did not start")
    assert child.stop(grace_s=0.1) == -signal.SIGKILL
    assert child.exit_summary() == f"stubborn was stopped; its log: {log}"
