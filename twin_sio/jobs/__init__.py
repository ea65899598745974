"""Work for later, on an arq queue: what is enqueued, and the job functions. Jobs carry ids only."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import orjson
import structlog
from arq import Retry
from arq.connections import ArqRedis
from arq.constants import job_key_prefix, retry_key_prefix
from redis.asyncio import Redis
from structlog.contextvars import bound_contextvars

from twin_sio.agent import Extractor, Unreadable
from twin_sio.agent.traits import RATINGS
from twin_sio.clock import Clock, monotonic, now
from twin_sio.domain import Event, Evidence, Exchange, Turn
from twin_sio.errors import ModelUnavailable, StorageUnavailable, TooLate
from twin_sio.handlers.budget import OverBudget, background_of
from twin_sio.jobs.failures import JobFailures
from twin_sio.observability.tracing import current_traceparent, span
from twin_sio.redis_connection import HASH_TAG, REDIS_ERRORS
from twin_sio.services.answers import answer_id
from twin_sio.services.erasure import ErasureService
from twin_sio.services.graph_projection import GraphProjectionService
from twin_sio.services.memory import MemoryService
from twin_sio.services.migration import MigrationService
from twin_sio.services.profile import ProfileService
from twin_sio.services.statistics import StatisticsService
from twin_sio.services.turns import TurnService
from twin_sio.store.ports import Log, Profiles, Turns

log = structlog.get_logger("jobs")

QUEUE = f"{HASH_TAG}:jobs"
TRIES = 5
T = TypeVar("T")
_SWEEP_AFTER_S = 60.0
_COUNTED_AT_ONCE = 500
_PROJECTED = 200  # users at a time


def packed(job: Mapping[str, Any]) -> bytes:
    """A job as the queue holds it: JSON, since whoever can write to Redis must not have code run by what he writes."""
    return orjson.dumps(job, default=lambda value: type(value).__name__)


def unpacked(data: bytes) -> dict[str, Any]:
    """What `packed` has made; raises `ValueError` for all else. A job of an earlier version (a pickle) is dropped with
    it: the sweep finds what was to be done."""
    try:
        job = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise ValueError("No job.") from None
    match job:
        case {"t": int() | None, "f": str(), "a": [*args], "k": {**named}, "et": int()} if all(
            isinstance(one, str) for one in (*args, *named.values())
        ):
            return {**job, "a": tuple(args)}
    raise ValueError("No job.")


SERIALIZERS: Mapping[str, Any] = {"job_serializer": packed, "job_deserializer": unpacked}


class Queue:
    """Enqueues. What Redis does not take is found by the sweep, in the turns themselves."""

    def __init__(self, redis: Redis, clock: Clock, healthy: Callable[[], bool], name: Callable[[str], str]) -> None:
        """`name`: what stands for a user in Redis (`store.ids.Ids.redis`)."""
        self._name = name
        self._redis = ArqRedis(redis.connection_pool, default_queue_name=QUEUE, **SERIALIZERS)
        self._clock = clock
        self._healthy = healthy

    async def learn(self, user_id: str, turn_id: str) -> None:
        """Learn from the exchange, once, however often this is asked."""
        await self._enqueue("learn", user_id, turn_id)

    async def correct(self, user_id: str, message_id: str) -> None:
        """Learn from the correction in a feedback, once, however often this is asked."""
        await self._enqueue("correct", user_id, message_id)

    async def remember(self, user_id: str, turn_id: str) -> None:
        """Bring the memory of the turn's conversation up to date."""
        await self._enqueue("remember", user_id, turn_id)

    async def project(self, user_id: str) -> None:
        """Bring the user's graph up to date; asked again while that is under way, it is not queued."""
        await self._enqueue("project", user_id)

    async def _enqueue(self, job: str, user_id: str, *about: str) -> None:
        if not self._healthy():  # a hung Redis must not hold up the next answer
            return
        with suppress(*REDIS_ERRORS):
            job_id = ":".join((f"{self._prefix(user_id)}{job}", *about))
            trace: dict[str, Any] = {"trace": point} if (point := current_traceparent()) else {}
            with span(f"enqueue {job}"):
                await self._redis.enqueue_job(job, user_id, *about, _job_id=job_id, **trace)

    async def erase(self, user_id: str) -> int:
        """Take the user's jobs out of the queue; how many there were. Redis away: they find nothing when they run."""
        update_statistics = 0
        with suppress(*REDIS_ERRORS):
            # The queue alone: what else Redis holds may be far more.
            async for job_id, _ in self._redis.zscan_iter(QUEUE, match=f"{self._prefix(user_id)}*", count=1000):
                update_statistics += await self._redis.zrem(QUEUE, job_id)
                name = job_id.decode()
                await self._redis.delete(f"{job_key_prefix}{name}", f"{retry_key_prefix}{name}")
        return update_statistics

    def _prefix(self, user_id: str) -> str:
        # Hashed: the id of another user can neither begin so nor be a pattern. Tagged: arq asks for several at once.
        return f"{_OF_A_USER}{self._name(user_id)}:"

    async def lag_s(self) -> float:
        """For how long the oldest job that is due has waited; 0 where none waits or Redis is away."""
        with suppress(*REDIS_ERRORS):
            oldest = await self._redis.zrange(QUEUE, 0, 0, withscores=True)
            if oldest:
                return max(0.0, self._clock().timestamp() - float(oldest[0][1]) / 1000)
        return 0.0


_OF_A_USER = f"{HASH_TAG}:user:"


def user_of(job_id: str) -> str | None:
    """What stands for the user whose job this is; None for a job of nobody's."""
    return job_id[len(_OF_A_USER) :].partition(":")[0] if job_id.startswith(_OF_A_USER) else None


@dataclass(slots=True)
class JobStats:
    """Whoever hears of jobs: what they waited, and how they ended after how long, in seconds."""

    on_begin: Callable[[str, float], None] = lambda *_: None
    on_end: Callable[[str, str, float], None] = lambda *_: None


@dataclass(frozen=True, slots=True)
class JobDeps:
    """What the job functions work with; stands in arq's context under `desk`."""

    messages: Log
    turns: Turns
    profiles: Profiles
    runner: TurnService
    keeper: ProfileService
    memory: MemoryService
    statistician: StatisticsService
    extractor: Extractor
    queue: Queue
    projector: GraphProjectionService | None
    eraser: ErasureService
    migrator: MigrationService
    job_timeout_s: float
    stats: JobStats = field(default_factory=JobStats)


def _job(work: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., Coroutine[Any, Any, T | None]]:
    """A job that an operator can follow: counted, its ids in every log line, in the trace of whoever asked for it.
    None: its user was erased while it ran, or it was given up.

    What it asks of a model counts as its user's. It ends in time; one that fails twice for the same reason, or has
    taken two workers with it, is given up: it is not tried again, and holds up no other.
    """
    name = work.__name__

    @functools.wraps(work)
    async def run(ctx: Mapping[str, Any], *about: str, trace: str = "") -> T | None:
        stats: JobStats = ctx["desk"].stats
        began, result = monotonic(), "failed"
        if "enqueue_time" in ctx:
            stats.on_begin(name, max(0.0, (now() - ctx["enqueue_time"]).total_seconds()))
        ids: dict[str, Any] = {"user": about[0], "job": ctx.get("job_id", name), "attempt": ctx.get("job_try", 1)}
        failures, job_id = JobFailures(ctx["redis"]) if "redis" in ctx else None, ids["job"]
        with bound_contextvars(**ids), span(f"job {name}", parent=trace, **ids), background_of(about[0]):
            try:
                if failures is not None and not await failures.begin(job_id):
                    result = "given_up"
                    await _give_up(ctx["desk"], name, about, "worker_lost")
                    return None
                async with asyncio.timeout(ctx["desk"].job_timeout_s):
                    found = await work(ctx, *about)
                result = "done"
                return found
            except Retry:
                result = "postponed"
                raise
            except TooLate:
                result = "erased"
                return None
            except Exception as error:
                code = _code(error)
                log.exception("job_failed", code=code)
                if failures is None or not await failures.again(job_id, code):
                    raise
                result = "given_up"
                await _give_up(ctx["desk"], name, about, code)
                return None
            finally:
                if failures is not None:
                    await asyncio.shield(failures.end(job_id))
                stats.on_end(name, result, monotonic() - began)

    return run


def _code(error: Exception) -> str:
    if isinstance(error, Unreadable):
        return error.code
    return "timeout" if isinstance(error, TimeoutError) else type(error).__name__


async def _give_up(desk: JobDeps, name: str, about: Sequence[str], code: str) -> None:
    """See to it that the sweep does not find it again."""
    log.error("job_given_up", kind=name, code=code)
    with suppress(StorageUnavailable, TooLate):
        if name == "learn":
            await desk.turns.learned(*about)
        elif name == "correct":
            await desk.messages.corrected(*about)


@_job
async def learn(ctx: Mapping[str, Any], user_id: str, turn_id: str) -> int:
    """Learn from one exchange; running it twice adds nothing. Returns how many pieces of evidence it held."""
    desk: JobDeps = ctx["desk"]
    with _retry_when_unavailable(ctx, turn_id):
        turn = await desk.turns.get(user_id, turn_id)
        exchange = await _exchange(desk, turn) if turn is not None else None
        if exchange is None:  # erased since it was queued, or kept no longer
            if turn is not None:
                await desk.turns.learned(user_id, turn_id)
            return 0
        evidence = await _evidence(desk, exchange)
        await desk.keeper.learn(user_id, evidence, in_response_to=exchange.message_id, epoch=exchange.epoch)
        await desk.turns.learned(user_id, turn_id)
    log.info("learned", turn=turn_id, evidence=len(evidence))
    return len(evidence)


@_job
async def correct(ctx: Mapping[str, Any], user_id: str, message_id: str) -> int:
    """Learn from what the user wrote to put an answer right; running it twice adds nothing. Returns how many pieces.

    They wrote it in order to be believed: what would only be inferred from another message counts as stated.
    """
    desk: JobDeps = ctx["desk"]
    with _retry_when_unavailable(ctx, message_id):
        exchange = await _correction(desk, await desk.messages.get(user_id, message_id))
        if exchange is None:  # erased since it was queued
            return 0
        found = await _evidence(desk, exchange)
        evidence = [replace(piece, kind="explicit") if piece.kind == "inferred" else piece for piece in found]
        await desk.keeper.learn(user_id, evidence, in_response_to=message_id, epoch=exchange.epoch)
        await desk.messages.corrected(user_id, message_id)
    log.info("corrected", feedback=message_id, evidence=len(evidence))
    return len(evidence)


@_job
async def remember(ctx: Mapping[str, Any], user_id: str, turn_id: str) -> None:
    """Bring the memory of the turn's conversation up to date; running it twice changes nothing."""
    desk: JobDeps = ctx["desk"]
    with _retry_when_unavailable(ctx, turn_id):
        turn = await desk.turns.get(user_id, turn_id)
        if turn is not None:  # not erased since it was queued
            try:
                await desk.memory.remember(user_id, turn.conversation_id)
            except OverBudget:  # the next turn makes up for it
                log.warning("job_over_budget", kind="remember")


@contextmanager
def _retry_when_unavailable(ctx: Mapping[str, Any], about: str) -> Iterator[None]:
    """Have the job run again, later, where a store or the model cannot be reached."""
    try:
        yield
    except TooLate:
        raise
    except (ModelUnavailable, StorageUnavailable) as error:
        log.warning("job_postponed", code=error.code, about=about)
        raise Retry(defer=2 ** int(ctx.get("job_try", 1))) from None


async def update_statistics(ctx: Mapping[str, Any]) -> int:
    """Count what has been learnt of users since they were counted last; how many there were."""
    desk: JobDeps = ctx["desk"]
    with suppress(StorageUnavailable):
        return await desk.statistician.count_due(_COUNTED_AT_ONCE)
    return 0


@_job
async def project(ctx: Mapping[str, Any], user_id: str) -> int:
    """Bring the user's graph up to date; how many versions of the profile it was told."""
    desk: JobDeps = ctx["desk"]
    with _retry_when_unavailable(ctx, "graph"):
        return await desk.projector.project(user_id) if desk.projector is not None else 0


async def sweep(ctx: Mapping[str, Any]) -> None:
    """Take over answers that nobody works on, queue what was answered but never learned from, forget what is due."""
    desk: JobDeps = ctx["desk"]
    with suppress(StorageUnavailable):
        await desk.runner.sweep()
        for user_id, turn_id in await desk.turns.unlearned(_SWEEP_AFTER_S, 100):
            await desk.queue.learn(user_id, turn_id)
        for user_id, message_id in await desk.messages.to_correct(_SWEEP_AFTER_S, 100):
            await desk.queue.correct(user_id, message_id)
        await desk.memory.expire()
        await desk.eraser.again()
        await desk.migrator.step()
        for user_id in await desk.projector.due(_PROJECTED) if desk.projector is not None else ():
            await desk.queue.project(user_id)


async def _evidence(desk: JobDeps, exchange: Exchange) -> Sequence[Evidence]:
    """The model's reading, less what was read of this message while no model could be had; that is learnt at once."""
    try:
        with span("extract"):
            found = await desk.extractor.candidates(exchange)
    except OverBudget:  # done by the rules: waiting would only pile up what is asked of the model
        log.warning("job_over_budget", kind="extract")
        found = await desk.extractor.extract_by_rules(exchange)
    except ModelUnavailable:
        plain = await desk.extractor.extract_by_rules(exchange)
        await desk.keeper.learn(exchange.user_id, plain, in_response_to=exchange.message_id, epoch=exchange.epoch)
        raise
    held = await desk.profiles.evidence(exchange.user_id) if found else ()
    read = [piece for piece in held if piece.message_id == exchange.message_id and piece.kind not in RATINGS]
    return desk.extractor.without_duplicates(found, read)


async def _exchange(desk: JobDeps, turn: Turn) -> Exchange | None:
    asked = await desk.messages.get(turn.user_id, turn.message_id)
    answered = await desk.messages.get(turn.user_id, answer_id(turn))
    if asked is None or asked.type != "user_message":
        return None
    return Exchange(
        user_id=turn.user_id,
        message_id=asked.message_id,
        conversation_id=asked.conversation_id,
        session_id=asked.session_id or "",
        at=asked.at,
        text=str(asked.payload["text"]),
        answer=str(answered.payload["text"]) if answered is not None else "",
        epoch=asked.epoch,
    )


async def _correction(desk: JobDeps, feedback: Event | None) -> Exchange | None:
    if feedback is None or feedback.type != "feedback" or not feedback.payload.get("correction"):
        return None
    answered = await desk.messages.get(feedback.user_id, feedback.payload["message_id"])
    return Exchange(
        user_id=feedback.user_id,
        message_id=feedback.message_id,
        conversation_id=feedback.conversation_id,
        session_id=feedback.session_id or "",
        at=feedback.at,
        text=feedback.payload["correction"],
        answer=str(answered.payload["text"]) if answered is not None else "",
        epoch=feedback.epoch,
    )
