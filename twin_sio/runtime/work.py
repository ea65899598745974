"""The worker process: background jobs off the queue, what comes due, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from arq import cron
from arq.connections import ArqRedis

from twin_sio.config import Settings, refused_as
from twin_sio.errors import StorageUnavailable
from twin_sio.jobs.functions import TRIES, JobStats, correct, learn, project, remember, sweep, update_statistics
from twin_sio.jobs.queue import QUEUE, SERIALIZERS
from twin_sio.jobs.worker import ReconnectingWorker
from twin_sio.observability.durations import JobDurations
from twin_sio.observability.limited_log import LimitedLog
from twin_sio.observability.logging import configure_logs
from twin_sio.redis_connection import HASH_TAG, pool
from twin_sio.runtime.metrics import WorkerMetrics
from twin_sio.runtime.ports import probe_server
from twin_sio.runtime.serve import traced_process
from twin_sio.runtime.services import Services
from twin_sio.runtime.wiring import build_services
from twin_sio.store import mongo

_log_unavailable = LimitedLog("worker", "mongodb_unavailable")

_SWEEP_SECONDS = set(range(0, 60, 5))
_STATISTICS_SECOND = 33
_READ_LIMIT = 500  # jobs read from the queue at once: those of one user do not hide the others
_RETRY_S = 0.5
_READ_TIMEOUT_S = 5.0  # without it, the old connection would hang for ever after a failover


@asynccontextmanager
async def _once_available(services: Callable[[], AbstractAsyncContextManager[Services]]) -> AsyncIterator[Services]:
    """The services, once MongoDB can be reached."""
    async with AsyncExitStack() as stack:
        while True:
            try:
                entered = await stack.enter_async_context(services())
            except StorageUnavailable as error:
                failure = mongo.explain(error)
                _log_unavailable(failure.kind, meaning=failure.sentence)
                await asyncio.sleep(_RETRY_S)
            else:
                break
        yield entered


def worker_settings(settings: Settings) -> dict[str, Any]:
    """The arguments of `ReconnectingWorker`. Raises `ConfigError` for a Redis URL that cannot be used."""

    async def on_startup(ctx: dict[str, Any]) -> None:
        stack = ctx["stack"] = AsyncExitStack()
        stack.enter_context(traced_process(settings, "worker"))
        services = await stack.enter_async_context(_once_available(lambda: build_services(settings)))
        durations = JobDurations()
        ctx["deps"] = services.job_deps(JobStats(on_begin=durations.begin, on_end=durations.end))
        if settings.server.worker_port:
            metrics = WorkerMetrics(services, durations)
            await stack.enter_async_context(probe_server(settings, metrics))

    async def on_shutdown(ctx: dict[str, Any]) -> None:
        if "deps" in ctx:  # not where it was stopped while it started
            await ctx["deps"].runner.drain(0)
        if "stack" in ctx:
            await ctx["stack"].aclose()

    with refused_as("TWIN_REDIS_URL"):
        redis = ArqRedis(
            connection_pool=pool(settings.storage.redis_url, timeout_s=_READ_TIMEOUT_S),
            default_queue_name=QUEUE,
            **SERIALIZERS,
        )
    job_timeout_s = settings.tuning.job_timeout_s
    cron_jobs = (("sweep", sweep, _SWEEP_SECONDS), ("count", update_statistics, _STATISTICS_SECOND))
    return {
        "functions": [learn, correct, remember, project],
        "cron_jobs": [
            cron(job, name=f"{HASH_TAG}:{name}", second=second, timeout=job_timeout_s, keep_result=0, max_tries=1)
            for name, job, second in cron_jobs
        ],
        "queue_name": QUEUE,
        "redis_pool": redis,
        **SERIALIZERS,
        "on_startup": on_startup,
        "on_shutdown": on_shutdown,
        "job_timeout": job_timeout_s,
        "job_completion_wait": min(10, job_timeout_s),
        "max_tries": TRIES,
        "queue_read_limit": _READ_LIMIT,
        "keep_result": 0,
        "poll_delay": 0.1,
    }


def process_settings(settings: Settings) -> dict[str, Any]:
    """`worker_settings` for a process of its own: with its logs."""
    arguments = worker_settings(settings)

    async def on_startup(ctx: dict[str, Any]) -> None:
        configure_logs(settings.process.log_level, for_people=settings.is_dev)  # arq's command has configured its own
        await arguments["on_startup"](ctx)

    return {**arguments, "on_startup": on_startup}


def work(settings: Settings) -> None:
    """Do jobs until SIGTERM or Ctrl-C. Raises `ConfigError`."""
    ReconnectingWorker(**process_settings(settings)).run()
