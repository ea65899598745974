"""The job functions that a worker runs. Each may run twice, and then changes nothing the second time."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import structlog
from arq import Retry
from structlog.contextvars import bound_contextvars

from twin_sio.agent import Extractor, Unreadable
from twin_sio.agent.extraction.prompts import MAX_MESSAGES
from twin_sio.agent.traits import RATINGS
from twin_sio.clock import monotonic, now
from twin_sio.domain import Evidence, Exchange
from twin_sio.errors import ModelContextTooLong, ModelRefused, ModelUnavailable, StorageUnavailable, TooLate
from twin_sio.jobs.exchanges import ExchangeReader, known_values
from twin_sio.jobs.failures import JobFailures
from twin_sio.jobs.queue import Queue
from twin_sio.observability.limited_log import LimitedLog
from twin_sio.observability.tracing import span
from twin_sio.services.erasure import ErasureService
from twin_sio.services.graph_projection import GraphProjectionService
from twin_sio.services.memory import MemoryService
from twin_sio.services.migration import MigrationService
from twin_sio.services.model_budget import OverBudget, background_of
from twin_sio.services.profile import ProfileService
from twin_sio.services.statistics import StatisticsService
from twin_sio.services.turns import TurnService
from twin_sio.store.ports import Log, Profiles, Turns

log = structlog.get_logger("jobs")
_log_left_out = LimitedLog("jobs", "sweep_part_left_out")

TRIES = 5
T = TypeVar("T")
_SWEEP_AFTER_S = 60.0
_WAIT_S = 3600  # that an endpoint may ask for at most
_COUNTED_AT_ONCE = 500  # users, once a minute
_PROJECTED_AT_ONCE = 200  # users, every five seconds


@dataclass(slots=True)
class JobStats:
    """Called with a job's name as it begins (seconds that it waited) and as it ends (its result, seconds it took)."""

    on_begin: Callable[[str, float], None] = lambda *_: None
    on_end: Callable[[str, str, float], None] = lambda *_: None


@dataclass(frozen=True, slots=True)
class JobDeps:
    """What the job functions work with; in arq's context under `deps`."""

    messages: Log
    turns: Turns
    exchanges: ExchangeReader
    profiles: Profiles
    runner: TurnService
    profile_service: ProfileService
    memory: MemoryService
    statistics_service: StatisticsService
    extractor: Extractor
    queue: Queue
    graph_projection: GraphProjectionService | None
    erasure: ErasureService
    migration: MigrationService
    job_timeout_s: float
    stats: JobStats = field(default_factory=JobStats)


def _job(work: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., Coroutine[Any, Any, T | None]]:
    """A job function: counted, its ids in every log line, in the trace of the request that enqueued it. It returns None
    where its user was erased meanwhile, or it was given up.

    Its use of the model counts against its user's budget. It has a timeout; a job that fails twice for the same reason,
    or during which two workers have died, is given up: it is not tried again, and holds up no other.
    """
    name = work.__name__

    @functools.wraps(work)
    async def run(ctx: Mapping[str, Any], *about: str, trace: str = "") -> T | None:
        stats: JobStats = ctx["deps"].stats
        began, result = monotonic(), "failed"
        if "enqueue_time" in ctx:
            stats.on_begin(name, max(0.0, (now() - ctx["enqueue_time"]).total_seconds()))
        ids: dict[str, Any] = {"user": about[0], "job": ctx.get("job_id", name), "attempt": ctx.get("job_try", 1)}
        failures = JobFailures(ctx["redis"]) if "redis" in ctx else None
        job_id = ids["job"]
        with bound_contextvars(**ids), span(f"job {name}", parent=trace, **ids), background_of(about[0]):
            try:
                if failures is not None and not await failures.begin(job_id):
                    result = "given_up"
                    await _give_up(ctx["deps"], name, about, "worker_lost")
                    return None
                async with asyncio.timeout(ctx["deps"].job_timeout_s):
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
                await _give_up(ctx["deps"], name, about, code)
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


async def _give_up(deps: JobDeps, name: str, about: Sequence[str], code: str) -> None:
    """Mark its work as done, so that the sweep does not enqueue it again."""
    log.error("job_given_up", kind=name, code=code)
    with suppress(StorageUnavailable, TooLate):
        if name == "learn":
            await deps.turns.learned(*about)
        elif name == "correct":
            await deps.messages.corrected(*about)


@_job
async def learn(ctx: Mapping[str, Any], user_id: str, turn_id: str) -> int:
    """Learn from an exchange, together with those after it in its conversation that wait; running it twice adds
    nothing. Returns how many pieces of evidence they held.

    After a failure each is read alone, so that one that cannot be read holds up no other.
    """
    deps: JobDeps = ctx["deps"]
    count = 0
    with _retry_when_unavailable(ctx, turn_id):
        turn = await deps.turns.get(user_id, turn_id)
        if turn is None:
            return 0
        batch = await deps.exchanges.batch(turn, 1 if await _has_failed(ctx) else MAX_MESSAGES)
        exchanges = [exchange for _, exchange in batch if exchange is not None]
        evidence = await _evidence(deps, exchanges) if exchanges else ()
        for exchange in exchanges:
            count += await _learn(deps, exchange, [one for one in evidence if one.message_id == exchange.message_id])
        for one, _ in batch:  # also what was erased since, or is kept no longer
            await deps.turns.learned(user_id, one.turn_id)
    log.info("learned", turn=turn_id, exchanges=len(batch), evidence=count)
    return count


async def _has_failed(ctx: Mapping[str, Any]) -> bool:
    """Whether an earlier try of the job came to nothing, be it arq or the sweep that has it tried again."""
    if int(ctx.get("job_try", 1)) > 1:
        return True
    return "redis" in ctx and await JobFailures(ctx["redis"]).has_failed(ctx["job_id"])


async def _learn(deps: JobDeps, exchange: Exchange, evidence: Sequence[Evidence]) -> int:
    """Store what an exchange held; how many pieces. Most hold nothing: then the profile, which may be large, is left
    alone. Raises `TooLate` where the message was erased while the model read it."""
    if evidence:
        if await deps.messages.get(exchange.user_id, exchange.message_id) is None:
            raise TooLate
        await deps.profile_service.learn(
            exchange.user_id, evidence, in_response_to=exchange.message_id, epoch=exchange.epoch
        )
    return len(evidence)


@_job
async def correct(ctx: Mapping[str, Any], user_id: str, message_id: str) -> int:
    """Learn from what the user wrote to put an answer right; running it twice adds nothing. Returns how many pieces.

    A correction is meant to be believed: what would only be inferred from another message counts as stated.
    """
    deps: JobDeps = ctx["deps"]
    with _retry_when_unavailable(ctx, message_id):
        exchange = await deps.exchanges.correction(user_id, message_id)
        if exchange is None:  # erased since it was queued
            return 0
        found = await _evidence(deps, [exchange])
        evidence = [replace(piece, kind="explicit") if piece.kind == "inferred" else piece for piece in found]
        await _learn(deps, exchange, evidence)
        await deps.messages.corrected(user_id, message_id)
    log.info("corrected", feedback=message_id, evidence=len(evidence))
    return len(evidence)


@_job
async def remember(ctx: Mapping[str, Any], user_id: str, turn_id: str) -> None:
    """Bring the memory of the turn's conversation up to date; running it twice changes nothing."""
    deps: JobDeps = ctx["deps"]
    with _retry_when_unavailable(ctx, turn_id):
        turn = await deps.turns.get(user_id, turn_id)
        if turn is not None:  # not erased since it was queued
            try:
                await deps.memory.remember(user_id, turn.conversation_id)
            except OverBudget:  # the next turn makes up for it
                log.warning("job_over_budget", kind="remember")
            except ModelRefused as error:  # asked again it would refuse again: the next turn makes up for it, too
                log.warning("job_refused", kind="remember", code=error.code)


@contextmanager
def _retry_when_unavailable(ctx: Mapping[str, Any], about: str) -> Iterator[None]:
    """Have arq run the job again later where a store or the model cannot be reached."""
    try:
        yield
    except TooLate:
        raise
    except (ModelUnavailable, StorageUnavailable) as error:
        log.warning("job_postponed", code=error.code, about=about)
        wanted_s = -(-(error.retry_after_ms or 0) // 1000)
        raise Retry(defer=min(max(2 ** int(ctx.get("job_try", 1)), wanted_s), _WAIT_S)) from None


async def update_statistics(ctx: Mapping[str, Any]) -> int:
    """Update the statistics of users who have changed since the last time; how many there were."""
    deps: JobDeps = ctx["deps"]
    with suppress(StorageUnavailable):
        return await deps.statistics_service.count_due(_COUNTED_AT_ONCE)
    return 0


@_job
async def project(ctx: Mapping[str, Any], user_id: str) -> int:
    """Bring the user's graph up to date; how many versions of the profile were sent to it."""
    deps: JobDeps = ctx["deps"]
    with _retry_when_unavailable(ctx, "graph"):
        return await deps.graph_projection.project(user_id) if deps.graph_projection is not None else 0


async def sweep(ctx: Mapping[str, Any]) -> None:
    """Take over answers that no instance works on, enqueue what was answered but never learned from, and delete what
    is due. A part for which the store takes too long stops no other."""
    deps: JobDeps = ctx["deps"]
    parts: Mapping[str, Callable[[], Awaitable[object]]] = {
        "answers": deps.runner.sweep,
        "unlearned": lambda: _enqueue_unlearned(deps),
        "memory": deps.memory.expire,
        "erasure": deps.erasure.again,
        "migration": deps.migration.step,
        "graph": lambda: _enqueue_projections(deps),
    }
    for name, part in parts.items():
        try:
            await part()
        except StorageUnavailable:
            _log_left_out(name, meaning="this part of the sweep was left out: MongoDB did not answer in time")


async def _enqueue_unlearned(deps: JobDeps) -> None:
    for user_id, turn_id in await deps.turns.unlearned(_SWEEP_AFTER_S, 100):
        await deps.queue.learn(user_id, turn_id)
    for user_id, message_id in await deps.messages.to_correct(_SWEEP_AFTER_S, 100):
        await deps.queue.correct(user_id, message_id)


async def _enqueue_projections(deps: JobDeps) -> None:
    for user_id in await deps.graph_projection.due(_PROJECTED_AT_ONCE) if deps.graph_projection is not None else ():
        await deps.queue.project(user_id)


async def _evidence(deps: JobDeps, exchanges: Sequence[Exchange]) -> Sequence[Evidence]:
    """What the model finds in the exchanges of one user, without what the rules have already found in them. While the
    model is away, the rules' evidence is learned at once and the job runs again; where it refuses, the rules' is all.
    """
    user_id = exchanges[0].user_id
    try:
        with span("extract", exchanges=len(exchanges)):
            known = known_values((await deps.profiles.get(user_id)).profile)
            found = await deps.extractor.candidates(exchanges, known)
    except OverBudget:  # use the rules: waiting would only pile up more for the model
        log.warning("job_over_budget", kind="extract")
        return [piece for exchange in exchanges for piece in await deps.extractor.extract_by_rules(exchange)]
    except ModelContextTooLong:
        if len(exchanges) > 1:  # the next try reads each alone
            raise
        return await deps.extractor.extract_by_rules(exchanges[0])
    except ModelRefused as error:  # use the rules: asked again it would refuse again
        log.warning("job_refused", kind="extract", code=error.code)
        return [piece for exchange in exchanges for piece in await deps.extractor.extract_by_rules(exchange)]
    except ModelUnavailable:
        for exchange in exchanges:
            await _learn(deps, exchange, await deps.extractor.extract_by_rules(exchange))
        raise
    held = await deps.profiles.evidence(user_id) if found else ()
    ids = {exchange.message_id for exchange in exchanges}
    earlier = [piece for piece in held if piece.message_id in ids and piece.kind not in RATINGS]
    return deps.extractor.without_duplicates(found, earlier)
