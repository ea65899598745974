"""arq: `arq worker.WorkerSettings` works off jobs, and what is used of arq beyond its documentation is still there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import arq.worker
import pytest
from arq.constants import abort_jobs_ss, job_key_prefix, retry_key_prefix
from arq.worker import Worker

from tests.conftest import settings_for
from tests.processes import Process, environment
from tests.scripted_model import ScriptedModel
from tests.test_store import draft, turn
from tests.waiting import eventually
from twin_sio.clock import new_id
from twin_sio.jobs.worker import FairWorker, ReconnectingWorker
from twin_sio.redis_connection import HASH_TAG, slot_of
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.wiring import build_services

_FOLDER = str(Path(__file__).parent.parent)


async def test_the_arq_command_works_off_a_job(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, user: str, tmp_path: Path
) -> None:
    """As arq's documentation starts a worker. The log shows that it is ours, and that it closes down in order."""
    # A queue and a database of its own: the workers of other tests must not be faster.
    urls, database = (mongod.url, redis_server.url.removesuffix("0") + "7", model.base_url), f"arq-{new_id()}"
    env = environment(*urls, TWIN_WORKER_PORT=0, TWIN_MONGODB_DATABASE=database)
    process = Process("arq", tmp_path, env | {"PYTHONPATH": _FOLDER}, "worker.WorkerSettings")
    async with build_services(settings_for(*urls, storage__mongodb_database=database)) as services:
        await services.messages.append(draft(user, "t1", "I live in Lisbon"))
        await services.turns.close(await services.turns.ensure(turn(user)), "complete")
        await services.queue.learn(user, "t1")
        process.start()
        try:

            async def is_learned() -> bool:
                return (user, "t1") not in await services.turns.unlearned(-1, 10_000)

            await eventually(is_learned, 30)
        finally:
            code = process.stop(15)
    assert '"event": "learned"' in process.printed()  # in the format of our logs
    assert code == 0


def test_the_worker_module_needs_no_environment() -> None:
    import worker

    assert callable(worker.main)


def test_worker_settings_without_an_environment_say_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import worker

    monkeypatch.setenv("TWIN_ENV", "production")
    monkeypatch.delenv("TWIN_REDIS_URL", raising=False)
    with pytest.raises(SystemExit):
        _ = worker.WorkerSettings
    assert "TWIN_" in capsys.readouterr().err


def test_the_arq_command_makes_our_worker(
    mongod: Mongod, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """arq's command calls `create_worker`, which makes an `arq.worker.Worker`: `worker.py` puts ours in its place."""
    import worker

    monkeypatch.setattr(arq.worker, "Worker", Worker)  # so that it is put back
    for name, value in environment(mongod.url, redis_server.url, "http://127.0.0.1:1").items():
        monkeypatch.setenv(name, value)
    made = arq.worker.create_worker(worker.WorkerSettings, handle_signals=False)
    assert type(made) is ReconnectingWorker
    assert {*made.functions} >= {"learn", "correct", "remember", "project"}


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (Worker.main, ["self"]),
        (Worker.close, ["self"]),
        (Worker._poll_iteration, ["self"]),
        (Worker._release_sem_dec_counter_on_complete, ["self"]),
        (Worker.start_jobs, ["self", "job_ids"]),
        (Worker.run_job, ["self", "job_id", "score"]),
        (arq.worker.get_kwargs, ["settings_cls"]),
        (arq.worker.create_worker, ["settings_cls", "kwargs"]),
    ],
)
def test_private_methods_of_arq_are_as_they_were(method: Callable[..., object], parameters: list[str]) -> None:
    assert list(inspect.signature(method).parameters) == parameters


def test_private_attributes_of_arq_are_as_they_were() -> None:
    """What `FairWorker` and `ReconnectingWorker` read of a worker."""
    made = FairWorker(functions=[is_nothing], handle_signals=False, redis_pool=None)
    assert (made.job_counter, made.tasks, made.queue_name) == (0, {}, "arq:queue")
    assert made.in_progress_timeout_s > 0
    assert (job_key_prefix, retry_key_prefix) == ("arq:job:", "arq:retry:")


async def is_nothing(_: object) -> None:
    """A job function."""


def test_the_hash_tag_is_in_the_slot_of_arqs_abort_key() -> None:
    """In a cluster, arq touches `arq:abort` in one transaction with the job's keys, and its name cannot be set."""
    assert abort_jobs_ss == "arq:abort"
    assert slot_of(HASH_TAG) == slot_of(abort_jobs_ss)
