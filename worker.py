"""The worker process: arq jobs and the sweep."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from typing import Any

from arq import cron
from arq.connections import RedisSettings
from arq.worker import create_worker

from twin_sio.app import configure_logs, core
from twin_sio.config import ConfigError, Settings
from twin_sio.jobs import QUEUE, TRIES, learn, sweep

_SWEEP_SECONDS = set(range(0, 60, 5))


def worker_settings(settings: Settings) -> dict[str, Any]:
    """What arq needs to work off our queue."""

    async def on_startup(ctx: dict[str, Any]) -> None:
        stack = ctx["stack"] = AsyncExitStack()
        ctx["desk"] = (await stack.enter_async_context(core(settings, listen=False))).desk

    async def on_shutdown(ctx: dict[str, Any]) -> None:
        await ctx["desk"].runner.drain(0)
        await ctx["stack"].aclose()

    return {
        "functions": [learn],
        "cron_jobs": [cron(sweep, second=_SWEEP_SECONDS, timeout=settings.job_timeout_s, keep_result=0, max_tries=1)],
        "queue_name": QUEUE,
        "redis_settings": RedisSettings.from_dsn(settings.redis_url),
        "on_startup": on_startup,
        "on_shutdown": on_shutdown,
        "job_timeout": settings.job_timeout_s,
        "job_completion_wait": min(10, settings.job_timeout_s),
        "max_tries": TRIES,
        "keep_result": 0,
        "poll_delay": 0.1,
    }


def main() -> int:
    """Run until SIGTERM or Ctrl-C; the exit code."""
    try:
        settings = Settings.from_environment()
        if not settings.redis_url or not settings.mongodb_url:
            raise ConfigError(
                "The worker needs TWIN_MONGODB_URL and TWIN_REDIS_URL; in dev server.py starts one itself."
            )
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    configure_logs(settings.log_level, for_people=settings.is_dev)
    create_worker(worker_settings(settings)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
