"""The worker process's loop: arq's, with fairness between users, and over outages of Redis."""

from __future__ import annotations

import asyncio

from arq.connections import log_redis_info

from twin_sio.jobs.fairness import FairWorker
from twin_sio.observability.limited_log import LimitedLog
from twin_sio.redis_connection import REDIS_ERRORS
from twin_sio.redis_connection.failures import explain

_log_unavailable = LimitedLog("worker", "redis_unavailable")

_RETRY_S = 0.5  # between two looks for a Redis that is away


class ReconnectingWorker(FairWorker):
    """An arq worker that survives an outage of Redis; arq's own ends with the first command that fails."""

    async def main(self) -> None:
        # arq asks once and ends: the worker would have to be started after Redis, each time.
        while not await self._redis_is_up():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(_RETRY_S)
        await super().main()

    async def _redis_is_up(self) -> bool:
        try:
            await log_redis_info(self.pool, lambda _: None)  # arq asks so at the start, and ends where it is refused
        except REDIS_ERRORS as error:
            _log_lost(error)
            return False
        return True

    async def _poll_iteration(self) -> None:
        try:
            await super()._poll_iteration()
        except REDIS_ERRORS as error:
            # A job whose end could not be written runs again, which changes nothing.
            _log_lost(error)
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


def _log_lost(error: BaseException) -> None:
    failure = explain(error)
    _log_unavailable(failure.kind, meaning=failure.sentence)
