"""One user's jobs hold up nobody else's: one of each user's runs at a time, over all workers."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

from arq import Worker

from twin_sio.jobs.queue import user_of
from twin_sio.redis_connection import HASH_TAG, REDIS_ERRORS

_LATER_MS = 100  # for each job of the user's that is before it
_LATER_MOST_MS = 10_000


class FairWorker(Worker):
    """An arq worker that puts a user's jobs behind everybody else's while one of theirs runs. None is lost: a job that
    has to wait stays in the queue, to be looked at again."""

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
        # The first job of a user whom another worker has taken may be the one that it is about to start: it stays.
        mine = {user: job_id for user, job_id in chosen.items() if user in free}
        await super().start_jobs([*jobs, *mine.values()])
        unused = [user for user, job_id in mine.items() if job_id.decode() not in self.tasks]
        if unused:
            await self.pool.delete(*map(_key, unused))
        await self._put_back(waiting)

    async def _reserved(self, users: list[str]) -> set[str]:
        """The users of whom no worker runs a job; from now on this one does, until it is done or was killed."""
        if not users:
            return set()
        pipe = self.pool.pipeline(transaction=False)
        for user in users:
            pipe.set(_key(user), b"1", nx=True, px=int(self.in_progress_timeout_s * 1000))
        answers = await pipe.execute()
        return {user for user, taken in zip(users, answers, strict=True) if taken}

    async def _put_back(self, job_ids: list[bytes]) -> None:
        """Have these looked at later, in their order, so that they do not stand before the jobs of others."""
        before: dict[str | None, int] = {}
        due: dict[bytes, float] = {}
        at = time.time() * 1000  # noqa: TID251 - arq's scores
        for job_id in job_ids:
            user = user_of(job_id.decode())
            before[user] = before.get(user, 0) + 1
            due[job_id] = at + min(_LATER_MOST_MS, _LATER_MS * before[user])
        if due:
            await self.pool.zadd(self.queue_name, due, xx=True)

    async def run_job(self, job_id: str, score: int) -> None:
        try:
            await super().run_job(job_id, score)
        finally:
            if (user := user_of(job_id)) is not None:
                await asyncio.shield(self._release(user))

    async def _release(self, user: str) -> None:
        with suppress(*REDIS_ERRORS):  # then it ends by itself
            await self.pool.delete(_key(user))


def _key(user: str) -> Any:
    return f"{HASH_TAG}:busy:{user}"
