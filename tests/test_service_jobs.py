"""Background jobs: nobody's hold up another's, none is tried for ever, and all count against their user."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.worker import func

from tests.conftest import settings_for
from tests.scripted_model import ScriptedModel
from tests.test_store import draft, turn
from tests.waiting import eventually
from twin_sio.agent import Unreadable
from twin_sio.clock import new_id
from twin_sio.domain import Evidence, Exchange
from twin_sio.errors import RateLimited, StorageUnavailable
from twin_sio.jobs.failures import JobFailures
from twin_sio.jobs.functions import learn, remember, sweep
from twin_sio.jobs.queue import SERIALIZERS, user_of
from twin_sio.jobs.worker import FairWorker
from twin_sio.redis_connection import HASH_TAG, pool
from twin_sio.runtime.dev_engines.engines import Mongod, RedisServer
from twin_sio.runtime.wiring import Services, build_services
from twin_sio.services import limits
from twin_sio.store.ports import Quota


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[ArqRedis]:
    one = ArqRedis(connection_pool=pool(redis_server.url, timeout_s=5), **SERIALIZERS)
    yield one
    await one.aclose(close_connection_pool=True)


async def test_jobs_are_fair_between_users(redis_server: RedisServer, redis: ArqRedis, user: str) -> None:
    """One users jobs hold up nobody elses and none is lost."""
    queue, release = f"{HASH_TAG}:test:{new_id()}", asyncio.Event()
    running: Counter[str] = Counter()
    peak: Counter[str] = Counter()
    done: list[str] = []

    async def work(_: dict[str, Any], whose: str) -> None:
        running[whose] += 1
        peak[whose] = max(peak[whose], running[whose])
        if whose == "busy":
            await release.wait()
        running[whose] -= 1
        done.append(whose)

    for n in range(30):  # far more of one user than both workers have places
        await redis.enqueue_job("work", "busy", _job_id=f"{HASH_TAG}:user:busy-{user}:{n}", _queue_name=queue)
    for n in range(6):
        await redis.enqueue_job("work", f"other-{n}", _job_id=f"{HASH_TAG}:user:o{n}-{user}:1", _queue_name=queue)
    workers = [
        FairWorker(
            functions=[func(work, name="work")],
            queue_name=queue,
            redis_pool=ArqRedis(connection_pool=pool(redis_server.url, timeout_s=5), **SERIALIZERS),
            max_jobs=3,
            poll_delay=0.02,
            keep_result=0,
            handle_signals=False,
            **SERIALIZERS,
        )
        for _ in range(2)
    ]
    tasks = [asyncio.create_task(worker.async_run()) for worker in workers]
    try:
        await eventually(lambda: sum(whose.startswith("other") for whose in done) == 6)
        assert (peak["busy"], done.count("busy")) == (1, 0)
        release.set()
        await eventually(lambda: done.count("busy") == 30, 60)
        assert peak["busy"] == 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for worker in workers:
            await worker.close()


async def test_a_worker_closes_though_a_job_was_cut_off(redis_server: RedisServer) -> None:
    """What is to be closed with the worker is closed, and none of its connections to Redis stays open."""
    closed = asyncio.Event()

    async def on_shutdown(_: dict[str, Any]) -> None:
        closed.set()

    redis = ArqRedis(connection_pool=pool(redis_server.url, timeout_s=5), **SERIALIZERS)
    worker = FairWorker(
        functions=[func(_nothing, name="work")],
        queue_name=f"{HASH_TAG}:test:{new_id()}",
        redis_pool=redis,
        on_shutdown=on_shutdown,
        handle_signals=False,
        **SERIALIZERS,
    )
    await redis.ping()
    worker.tasks["job"] = asyncio.create_task(asyncio.Event().wait())  # as a job that waits for Redis' answer
    await worker.close()
    assert closed.is_set()
    assert not any(connection.is_connected for connection in redis.connection_pool._available_connections)


async def _nothing(_: dict[str, Any]) -> None:
    """A job function."""


def test_job_ids_name_their_users() -> None:
    assert (user_of(f"{HASH_TAG}:user:abc:learn:x"), user_of("cron:sweep:1")) == ("abc", None)


@pytest.fixture
async def parts(mongod: Mongod, redis_server: RedisServer, model: ScriptedModel) -> AsyncIterator[Services]:
    async with build_services(settings_for(mongod.url, redis_server.url, model.base_url)) as made:
        yield made


async def _answered(parts: Services, user: str, text: str) -> None:
    await parts.messages.append(draft(user, "t1", text))
    await parts.turns.close(await parts.turns.ensure(turn(user)), "complete")


async def _is_due(parts: Services, user: str) -> bool:
    return (user, "t1") in await parts.turns.unlearned(-1, 10_000)


async def test_two_equal_failures_end_a_job(
    parts: Services, redis: ArqRedis, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that fails twice for the same reason is given up."""
    await _answered(parts, user, "I live in Lisbon")

    async def failing(*_: object) -> list[Any]:
        raise Unreadable("too_slow")

    monkeypatch.setattr(parts.extractor, "candidates", failing)
    ctx = {"deps": parts.job_deps(), "redis": redis, "job_id": f"{HASH_TAG}:user:{user}:learn:t1"}
    with pytest.raises(Unreadable):
        await learn(ctx, user, "t1")
    assert await _is_due(parts, user)
    assert await learn(ctx, user, "t1") is None
    assert not await _is_due(parts, user)


async def test_a_message_that_cannot_be_read_holds_up_no_other(
    parts: Services, redis: ArqRedis, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those that were read together with it either: the sweep enqueues their jobs anew, each for its first try."""
    for n in range(1, 5):
        await parts.messages.append(draft(user, f"t{n}", "poison" if n == 3 else f"I love thing{n}"))
        await parts.turns.close(await parts.turns.ensure(turn(user, f"t{n}", float(n))), "complete")
    plain = parts.extractor.extract_by_rules

    async def candidates(exchanges: Sequence[Exchange], *_: object) -> list[Evidence]:
        if any(one.text == "poison" for one in exchanges):
            raise Unreadable("too_slow")
        return [piece for one in exchanges for piece in await plain(one)]

    monkeypatch.setattr(parts.extractor, "candidates", candidates)
    for _ in range(3):  # sweeps
        for n in range(1, 5):
            ctx = {"deps": parts.job_deps(), "redis": redis, "job_id": f"{HASH_TAG}:user:{user}:learn:t{n}"}
            with contextlib.suppress(Unreadable):
                await learn(ctx, user, f"t{n}")
    learnt = {piece.value for piece in await parts.profiles.evidence(user)}
    assert learnt == {"thing1", "thing2", "thing4"}
    assert not [one for one in await parts.turns.unlearned(-1, 10_000) if one[0] == user]


async def test_a_part_of_the_sweep_that_fails_stops_no_other(
    parts: Services, user: str, monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, Any]]
) -> None:
    async def away(*_: object) -> int:
        raise StorageUnavailable

    monkeypatch.setattr(parts.runner, "sweep", away)
    monkeypatch.setattr(parts.migration, "step", away)
    asked = asyncio.Event()

    async def again() -> None:
        asked.set()

    monkeypatch.setattr(parts.erasure, "again", again)
    await sweep({"deps": parts.job_deps()})
    assert asked.is_set()
    left_out = [one for one in logged if one["event"] == "sweep_part_left_out"]
    assert [one["kind"] for one in left_out] == ["answers", "migration"]


async def test_two_lost_workers_end_a_job(parts: Services, redis: ArqRedis, model: ScriptedModel, user: str) -> None:
    """A job that takes two workers with it meets no third."""
    await _answered(parts, user, f"I live in Lisbon, {user}")
    ctx = {"deps": parts.job_deps(), "redis": redis, "job_id": f"{HASH_TAG}:user:{user}:learn:t1"}
    for _ in range(2):  # workers that were killed
        assert await JobFailures(redis).begin(ctx["job_id"])
    assert not [key async for key in redis.scan_iter(match=f"*failures*{user}*")]  # they outlive an erasure
    assert await learn(ctx, user, "t1") is None
    assert not any(user in str(request) for request in model.requests)
    assert not await _is_due(parts, user)


async def test_a_long_job_is_ended(
    parts: Services, redis: ArqRedis, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that takes too long is ended, and reported as a timeout."""
    await _answered(parts, user, "I live in Lisbon")
    monkeypatch.setattr(parts.extractor, "candidates", lambda *_: asyncio.sleep(60))
    object.__setattr__(parts, "job_timeout_s", 0.2)
    ctx = {"deps": parts.job_deps(), "redis": redis, "job_id": f"{HASH_TAG}:user:{user}:learn:t1"}
    with pytest.raises(TimeoutError):
        await learn(ctx, user, "t1")
    assert await learn(ctx, user, "t1") is None


async def test_over_budget_the_rules_learn_and_a_title_waits(
    parts: Services, model: ScriptedModel, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_BACKGROUND", Quota("background", 1, 3_600))
    await _answered(parts, user, f"I live in Lisbon. Do you know {user}?")
    await parts.messages.mark_read(user, "main", 1)  # now there is a conversation to give a title
    ctx = {"deps": parts.job_deps()}
    await learn(ctx, user, "t1")  # which takes what there is
    asked = len([one for one in model.requests if user in str(one)])
    await parts.messages.append(draft(user, "t2", f"I love jazz. Do you know {user}?"))
    await parts.turns.close(await parts.turns.ensure(turn(user, "t2")), "complete")
    assert await learn(ctx, user, "t2") == 1
    await remember(ctx, user, "t2")
    assert len([one for one in model.requests if user in str(one)]) == asked == 1
    held = {piece.value: piece.extractor for piece in await parts.profiles.evidence(user)}
    assert held["jazz"] == "rules@10"
    assert parts.limits.hit["background"] == 2


async def test_jobs_count_against_the_days_tokens(
    mongod: Mongod, redis_server: RedisServer, model: ScriptedModel, user: str
) -> None:
    """What jobs take of the model counts against the tokens of the day."""
    settings = settings_for(mongod.url, redis_server.url, model.base_url, limits__tokens_per_day=1)
    async with build_services(settings) as parts:
        await _answered(parts, user, f"I live in Lisbon. Do you know {user}?")
        await parts.limits.message(user)
        await learn({"deps": parts.job_deps()}, user, "t1")
        with pytest.raises(RateLimited):
            await parts.limits.message(user)
        assert await parts.limits.background(user) is not None


async def test_a_turn_is_learned_though_another_has_its_place(parts: Services, user: str) -> None:
    """What is not learned is enqueued again and again."""
    for n in range(2):
        await parts.turns.close(await parts.turns.ensure(turn(user, f"same-{n}")), "complete")
    await learn({"deps": parts.job_deps()}, user, "same-1")
    assert [turn_id for whose, turn_id in await parts.turns.unlearned(-1, 10_000) if whose == user] == ["same-0"]


async def test_one_users_backlog_hides_nobody(parts: Services, user: str) -> None:
    """Who has many turns to learn from does not hide the others."""
    other = f"{user}-other"
    await _answered(parts, other, "hi")
    for n in range(30):
        await parts.turns.close(await parts.turns.ensure(turn(user, f"many-{n}")), "complete")
    found = await parts.turns.unlearned(-1, 10_000)
    assert (other, "t1") in found
    assert 0 < sum(whose == user for whose, _ in found) <= 10
