"""The worker process: arq jobs and the sweep."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
from arq import cron
from arq.connections import ArqRedis

from twin_sio.config import ConfigError, Settings, refused_as
from twin_sio.errors import StorageUnavailable
from twin_sio.jobs import QUEUE, SERIALIZERS, TRIES, correct, learn, project, remember, sweep, update_statistics
from twin_sio.jobs.fairness import FairWorker
from twin_sio.observability.logging import configure_logs, tell_deaths_without_texts
from twin_sio.redis_connection import HASH_TAG, REDIS_ERRORS, pool
from twin_sio.runtime.metrics import WorkerMetrics
from twin_sio.runtime.serve import probe_server, traced_process
from twin_sio.runtime.wiring import Services, build_services

log = structlog.get_logger("worker")

_SWEEP_SECONDS = set(range(0, 60, 5))
_COUNT_SECOND = 33
_READ = 500  # jobs that are looked at at once: those of one user do not hide the others
_RETRY_S = 0.5
_READ_TIMEOUT_S = 5.0  # without an answer; where another has taken its place, nobody would tell


class ReconnectingWorker(FairWorker):
    """An arq worker that outlives its Redis. arq's own ends with the first command that fails."""

    async def main(self) -> None:
        while not await self._redis_is_up():  # noqa: ASYNC110 - nobody could set an event
            await asyncio.sleep(_RETRY_S)
        await super().main()

    async def _redis_is_up(self) -> bool:
        try:
            return bool(await self.pool.ping())
        except REDIS_ERRORS as error:
            log.warning("redis_away", error=type(error).__name__)
            return False

    async def _poll_iteration(self) -> None:
        try:
            await super()._poll_iteration()
        except REDIS_ERRORS as error:
            # A job whose end could not be noted runs again, which changes nothing.
            log.warning("redis_away", error=type(error).__name__)
            await asyncio.sleep(_RETRY_S)
            # A job that could not be fetched to its end keeps its slot in arq's count: give back what nobody uses.
            for _ in range(self.job_counter - sum(not task.done() for task in self.tasks.values())):
                self._release_sem_dec_counter_on_complete()

    async def close(self) -> None:
        try:
            await super().close()
        except REDIS_ERRORS:  # arq has stopped on its way to `on_shutdown`
            if self.on_shutdown is not None:
                await self.on_shutdown(self.ctx)


@asynccontextmanager
async def _patient(parts: Callable[[], AbstractAsyncContextManager[Services]]) -> AsyncIterator[Services]:
    """The shared parts, once MongoDB can be reached."""
    async with AsyncExitStack() as stack:
        while True:
            try:
                entered = await stack.enter_async_context(parts())
            except StorageUnavailable:
                log.warning("mongodb_away")
                await asyncio.sleep(_RETRY_S)
            else:
                break
        yield entered


def worker_settings(settings: Settings) -> dict[str, Any]:
    """What arq needs to work off our queue."""

    async def on_startup(ctx: dict[str, Any]) -> None:
        stack = ctx["stack"] = AsyncExitStack()
        parts = await stack.enter_async_context(_patient(lambda: build_services(settings, listen=False)))
        desk = ctx["desk"] = parts.desk
        if settings.server.worker_port:
            metrics = WorkerMetrics(parts.watched, desk.stats)
            await stack.enter_async_context(probe_server(settings, metrics))

    async def on_shutdown(ctx: dict[str, Any]) -> None:
        if "desk" in ctx:  # otherwise it has not come so far
            await ctx["desk"].runner.drain(0)
        if "stack" in ctx:
            await ctx["stack"].aclose()

    with refused_as("TWIN_REDIS_URL"):
        redis = ArqRedis(
            connection_pool=pool(settings.storage.redis_url, timeout_s=_READ_TIMEOUT_S),
            default_queue_name=QUEUE,
            **SERIALIZERS,
        )
    return {
        "functions": [learn, correct, remember, project],
        "cron_jobs": [
            cron(
                job,
                name=f"{HASH_TAG}:{name}",
                second=second,
                timeout=settings.tuning.job_timeout_s,
                keep_result=0,
                max_tries=1,
            )
            for name, job, second in (("sweep", sweep, _SWEEP_SECONDS), ("count", update_statistics, _COUNT_SECOND))
        ],
        "queue_name": QUEUE,
        "redis_pool": redis,
        **SERIALIZERS,
        "on_startup": on_startup,
        "on_shutdown": on_shutdown,
        "job_timeout": settings.tuning.job_timeout_s,
        "job_completion_wait": min(10, settings.tuning.job_timeout_s),
        "max_tries": TRIES,
        "queue_read_limit": _READ,
        "keep_result": 0,
        "poll_delay": 0.1,
    }


def main() -> int:
    """Run until SIGTERM or Ctrl-C; the exit code."""
    tell_deaths_without_texts()
    try:
        settings = Settings.from_environment()
        if not settings.storage.redis_url or not settings.storage.mongodb_url:
            raise ConfigError(
                "The worker needs TWIN_MONGODB_URL and TWIN_REDIS_URL; in dev server.py starts one itself."
            )
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    configure_logs(settings.process.log_level, for_people=settings.is_dev)
    try:
        with traced_process(settings, "worker"):
            ReconnectingWorker(**worker_settings(settings)).run()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
