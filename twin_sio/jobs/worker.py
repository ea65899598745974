"""The worker process's loop: arq's, with fairness between users, and over outages of Redis."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

from arq import Worker
from arq.connections import log_redis_info

from twin_sio.jobs.queue import user_of
from twin_sio.observability.limited_log import LimitedLog
from twin_sio.redis_connection import HASH_TAG, REDIS_ERRORS
from twin_sio.redis_connection.failures import explain

_log_unavailable = LimitedLog("worker", "redis_unavailable")

_RETRY_S = 0.5  # between two looks for a Redis that is away
_DELAY_MS = 100  # for each job of the same user that is before it
_DELAY_MAX_MS = 10_000


class FairWorker(Worker):
    """An arq worker that delays a user's jobs while one of theirs runs, on whichever worker. A delayed job stays in the
    queue, with a later time."""

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        busy = {user_of(job_id) for job_id, task in self.tasks.items() if not task.done()}
        chosen: dict[str, bytes] = {}
        jobs: list[bytes] = []
        waiting: list[bytes] = []
        for job_id in job_ids:
            user = user_of(job_id.decode())
            if user is None:
                jobs.append(job_id)
            elif user in busy or user in chosen:
                waiting.append(job_id)
            else:
                chosen[user] = job_id
        free = await self._reserved(list(chosen))
        # A user's first job may be the one that another worker is about to start: its time is left alone.
        mine = {user: job_id for user, job_id in chosen.items() if user in free}
        await super().start_jobs([*jobs, *mine.values()])
        unused = [user for user, job_id in mine.items() if job_id.decode() not in self.tasks]
        if unused:
            await self.pool.delete(*map(_key, unused))
        await self._put_back(waiting)

    async def _reserved(self, users: list[str]) -> set[str]:
        """Those of the users for whom no worker runs a job. They are reserved for this worker until the job ends; where
        the worker dies, until the key expires."""
        if not users:
            return set()
        pipe = self.pool.pipeline(transaction=False)
        for user in users:
            pipe.set(_key(user), b"1", nx=True, px=int(self.in_progress_timeout_s * 1000))
        replies = await pipe.execute()
        return {user for user, is_reserved in zip(users, replies, strict=True) if is_reserved}

    async def _put_back(self, job_ids: list[bytes]) -> None:
        """Give these a later time, in their order, so that they do not come before the jobs of others."""
        before: dict[str | None, int] = {}
        due: dict[bytes, float] = {}
        at = time.time() * 1000  # noqa: TID251 - arq's scores
        for job_id in job_ids:
            user = user_of(job_id.decode())
            before[user] = before.get(user, 0) + 1
            due[job_id] = at + min(_DELAY_MAX_MS, _DELAY_MS * before[user])
        if due:
            await self.pool.zadd(self.queue_name, due, xx=True)

    async def run_job(self, job_id: str, score: int) -> None:
        try:
            await super().run_job(job_id, score)
        finally:
            if (user := user_of(job_id)) is not None:
                await asyncio.shield(self._release(user))

    async def close(self) -> None:
        """End the jobs and close Redis' connections. arq's own ends at the first job that was cancelled outside its
        function: `on_shutdown` would not be called, and the connections would stay open."""
        if not self._handle_signals:  # otherwise the signal has cancelled them, or they end of themselves
            for task in self.tasks.values():
                task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        self.tasks.clear()
        await super().close()

    async def _release(self, user: str) -> None:
        with suppress(*REDIS_ERRORS):  # then it expires
            await self.pool.delete(_key(user))


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


def _key(user: str) -> Any:
    return f"{HASH_TAG}:busy:{user}"
