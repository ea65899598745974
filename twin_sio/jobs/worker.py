"""The worker process's loop: arq's, with fairness between users, and over outages of Redis."""

from __future__ import annotations

import asyncio

import structlog

from twin_sio.jobs.fairness import FairWorker
from twin_sio.redis_connection import REDIS_ERRORS

log = structlog.get_logger("worker")

_RETRY_S = 0.5


class ReconnectingWorker(FairWorker):
    """An arq worker that survives an outage of Redis; arq's own ends with the first command that fails."""

    async def main(self) -> None:
        while not await self._redis_is_up():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(_RETRY_S)
        await super().main()

    async def _redis_is_up(self) -> bool:
        try:
            return bool(await self.pool.ping())
        except REDIS_ERRORS as error:
            log.warning("redis_unavailable", error=type(error).__name__)
            return False

    async def _poll_iteration(self) -> None:
        try:
            await super()._poll_iteration()
        except REDIS_ERRORS as error:
            # A job whose end could not be written runs again, which changes nothing.
            log.warning("redis_unavailable", error=type(error).__name__)
            await asyncio.sleep(_RETRY_S)
            # A job whose start failed halfway keeps its slot in arq's count: release the slots that no task uses.
            for _ in range(self.job_counter - sum(not task.done() for task in self.tasks.values())):
                self._release_sem_dec_counter_on_complete()

    async def close(self) -> None:
        try:
            await super().close()
        except REDIS_ERRORS:  # arq has stopped on its way to `on_shutdown`
            if self.on_shutdown is not None:
                await self.on_shutdown(self.ctx)
