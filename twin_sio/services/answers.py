"""One answer: begun, streamed to the devices, settled once, stored and published.

`settle` decides an answer, once, whichever instances are at it; only then does it enter the log and reach the devices
as a `twin_message`. A turn that fails for an unforeseen reason ends as `failed`, and the next one is answered.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

import structlog
from structlog.contextvars import bound_contextvars

from twin_sio.agent import Agent, AgentRequest, Delta, Done, Stage
from twin_sio.clock import Clock, NewId, monotonic
from twin_sio.domain import Event, Generation, NewEvent, Outcome, Turn
from twin_sio.errors import ModelUnavailable, ServiceError, StorageUnavailable
from twin_sio.observability.tracing import span
from twin_sio.protocol import Outgoing, error_payload
from twin_sio.services.limits import Limits
from twin_sio.services.ports import Delivery, Jobs
from twin_sio.store.ports import Log, Turns

log = structlog.get_logger("turns")

_TAKE_OVERS_MAX = 2  # generations that are begun after the first one
_LOSSES_MAX = 2  # generations that cost their instance the lease: what a turn did to two instances, no third one meets
_SETTLE_RETRY_S = 0.2


class LeaseLost(Exception):
    """Another instance may hold the conversation's lease now: this one sends nothing more."""


@dataclass(slots=True)
class TurnStats:
    """Counts for the operator, and hooks that receive times in seconds."""

    finished: dict[str, int] = field(default_factory=dict)  # answers by their status
    given_up: int = 0  # turns that cost two instances their lease
    take_overs: int = 0  # generations begun in place of another instance's
    on_first_token: Callable[[float], None] = lambda _: None
    on_chunk_gap: Callable[[float], None] = lambda _: None


class AnswerService:
    """Answers one turn at a time for the instance that holds its conversation's lease."""

    def __init__(
        self,
        *,
        turns: Turns,
        messages: Log,
        agent: Agent,
        delivery: Delivery,
        jobs: Jobs,
        limits: Limits,
        clock: Clock,
        new_id: NewId,
        lease_s: float,
        stats: TurnStats,
    ) -> None:
        self._turns = turns
        self._messages = messages
        self._agent = agent
        self._delivery = delivery
        self._jobs = jobs
        self._limits = limits
        self._clock = clock
        self._new_id = new_id
        self._checkpoint_s = lease_s / 3
        # By (user id, turn id), for each generation of this instance: set, it ends as `stopped`.
        self._stops: dict[tuple[str, str], asyncio.Event] = {}
        # Set while this instance hands its answers over: an answer that is cancelled then says nothing about the turn.
        self.draining = False
        self.stats = stats

    @property
    def generating(self) -> int:
        """Answers for which this instance is calling the model now."""
        return len(self._stops)

    def stop(self, user_id: str, turn_id: str) -> None:
        """End the turn's answer if this instance generates it."""
        if event := self._stops.get((user_id, turn_id)):
            event.set()

    def stop_user(self, user_id: str) -> None:
        """End all answers to this user; used by an erasure, after which none of them can be settled."""
        for (owner, _), event in list(self._stops.items()):
            if owner == user_id:
                event.set()

    async def answer(self, turn: Turn, lost: asyncio.Event) -> None:
        """Answer the turn, or finish what another attempt has decided. Raises `LeaseLost` once `lost` is set."""
        ids = {"user": turn.user_id, "turn": turn.turn_id, "message": turn.message_id}
        with bound_contextvars(**ids), span("turn", parent=turn.trace, **ids) as under_way:
            decided = await self._turns.outcome(turn) if turn.state == "settled" else None
            if decided is None:
                decided = await self._settle(turn, lost)
            if decided is not None:
                under_way.set(status=decided.status, generation=decided.generation_id, tokens=_tokens(decided))
                await self._publish_answer(turn, decided)

    async def _settle(self, turn: Turn, lost: asyncio.Event) -> Outcome | None:
        """The outcome that this instance has settled; None where another instance's counts."""
        if turn.stop_requested or turn.attempts > _TAKE_OVERS_MAX or turn.lost >= _LOSSES_MAX:
            outcome = await self._ended(turn)
            return outcome if await self._turns.settle(turn, outcome) else None
        question, begun = await asyncio.gather(
            self._messages.get(turn.user_id, turn.message_id), self._turns.begin(turn, self._new_id())
        )
        if question is None:  # erased since: there is nothing to answer
            await self._turns.close(turn, "failed")
            return None
        if begun is None:
            return None
        if begun.attempts > 1:
            self.stats.take_overs += 1
            log.info("turn_taken_over", attempt=begun.attempts)
        with bound_contextvars(generation=begun.generation_id):
            try:
                outcome = await self._generate(begun, question, lost)
            except asyncio.CancelledError:
                if self.draining and not lost.is_set():  # handed over: this does not count as a loss
                    with suppress(StorageUnavailable):
                        await asyncio.shield(self._turns.hand_over(begun))
                raise
        while True:
            try:
                if await self._turns.settle(begun, outcome):
                    return outcome
                self._delivery.drop_generation(
                    turn.user_id, _generation(begun)
                )  # another instance was first, or an erasure
                return None
            except StorageUnavailable:
                if lost.is_set():
                    raise LeaseLost from None
                await asyncio.sleep(_SETTLE_RETRY_S)

    async def _ended(self, turn: Turn) -> Outcome:
        """The end of a turn that is not begun again, with the text that its last generation has sent."""
        shown = await self._delivery.partial(turn.user_id, turn.generation_id) if turn.generation_id else ""
        text, generation_id = max(turn.partial, shown, key=len), turn.generation_id or self._new_id()
        if turn.stop_requested:
            return Outcome("stopped", text, generation_id, "")
        if turn.lost >= _LOSSES_MAX:
            self.stats.given_up += 1
            log.error("turn_given_up", code=ServiceError.code, lost=turn.lost, attempts=turn.attempts)
            return Outcome("failed", text, generation_id, "", error=ServiceError.code)
        return Outcome("interrupted", text, generation_id, "")

    async def _generate(self, turn: Turn, question: Event, lost: asyncio.Event) -> Outcome:
        """Stream one answer to the devices. Raises `LeaseLost`; every other ending is an outcome."""
        generation = _generation(turn)
        attempt = _Attempt(
            turn, question, generation, self._agent, self._delivery, self.stats, self._new_id, self.send_stage
        )
        stop = self._stops[turn.user_id, turn.turn_id] = asyncio.Event()
        work = asyncio.create_task(attempt.run())
        keep = asyncio.create_task(self._checkpoint_loop(turn, generation, stop))
        watch = [asyncio.create_task(stop.wait()), asyncio.create_task(lost.wait())]
        self._delivery.begin_generation(turn.user_id, generation)
        try:
            await asyncio.wait([work, *watch], return_when=asyncio.FIRST_COMPLETED)
            if lost.is_set() and not work.done():
                raise LeaseLost
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
                outcome = attempt.outcome("stopped")
            else:
                outcome = work.result()
            self._delivery.chunk(turn.user_id, generation, "", is_last=True)
            return outcome
        finally:
            self._stops.pop((turn.user_id, turn.turn_id), None)
            for task in (work, keep, *watch):
                task.cancel()
            await asyncio.gather(work, keep, *watch, return_exceptions=True)
            self._delivery.end_generation(generation)
            self.send_stage(turn, "done")

    async def _checkpoint_loop(self, turn: Turn, generation: Generation, stop: asyncio.Event) -> None:
        """Store the text so far from time to time, and read a stop that the control channel has lost."""
        while True:
            await asyncio.sleep(self._checkpoint_s)
            with suppress(StorageUnavailable):
                stored = await self._turns.checkpoint(turn, "".join(generation.texts))
                if stored is not None and stored.stop_requested:
                    stop.set()

    async def _publish_answer(self, turn: Turn, outcome: Outcome) -> None:
        """Store the settled answer and publish it. A repeat after a crash changes nothing."""
        payload: dict[str, object] = {
            "text": outcome.text,
            "generation_id": outcome.generation_id,
            "status": outcome.status,
            "model": outcome.model,
            "used_traits": list(outcome.used_traits),
        }
        if outcome.usage is not None:
            payload["usage"] = dict(outcome.usage)
        if outcome.cut is not None:
            payload["finish"] = outcome.cut
        if outcome.error is not None:
            payload["error"] = outcome.error
        draft = NewEvent(
            turn.user_id,
            "twin_message",
            answer_id(turn),
            turn.conversation_id,
            self._clock(),
            payload,
            turn.session_id,
            turn.message_id,
            turn.epoch,
        )
        stored = await self._messages.append(draft)
        if outcome.error is not None:
            self._send_error(turn, outcome.error, outcome.retry_after_ms)
        self._delivery.publish(stored.event)
        if not await self._turns.close(turn, outcome.status):  # erased while it was answered
            await self._messages.remove(stored.event)
            return
        self.stats.finished[outcome.status] = self.stats.finished.get(outcome.status, 0) + 1
        more = {"code": outcome.error} if outcome.error is not None else {}
        log.info("answered", status=outcome.status, generation=outcome.generation_id, attempt=turn.attempts, **more)
        if outcome.status in ("complete", "stopped") and turn.turn_id == turn.message_id:
            await self._jobs.learn(turn.user_id, turn.turn_id)
        await self._limits.record_tokens(turn.user_id, _tokens(outcome))
        if outcome.text:
            await self._jobs.remember(turn.user_id, turn.turn_id)

    def _send_error(self, turn: Turn, code: str, retry_after_ms: int | None) -> None:
        error = _ERRORS.get(code, ServiceError)(retry_after_ms=retry_after_ms)
        self._delivery.to_user(turn.user_id, self._event(turn, "error", error_payload(error)))

    def send_stage(self, turn: Turn, state: str) -> None:
        """Send the devices the stage that the answer has reached."""
        self._delivery.to_user(turn.user_id, self._event(turn, "twin_thinking", {"state": state}))

    def _event(self, turn: Turn, type: str, payload: dict[str, object]) -> Outgoing:
        return Outgoing(
            type,
            payload,
            self._new_id(),
            self._clock(),
            turn.session_id,
            turn.message_id,
            turn.conversation_id,
        )


class _Attempt:
    """One run of the agent, relayed to the devices as it comes."""

    def __init__(
        self,
        turn: Turn,
        question: Event,
        generation: Generation,
        agent: Agent,
        delivery: Delivery,
        stats: TurnStats,
        new_id: NewId,
        send_stage: Callable[[Turn, str], None],
    ) -> None:
        self._turn = turn
        self._question = question
        self._generation = generation
        self._agent = agent
        self._delivery = delivery
        self._stats = stats
        self._new_id = new_id
        self._send_stage = send_stage
        self._done: Done | None = None  # the agent's last word: model, usage, traits

    async def run(self) -> Outcome:
        """Stream to the end. Never raises: a failure is an outcome."""
        try:
            await self._stream()
        except (ModelUnavailable, StorageUnavailable) as error:
            return self.outcome("failed", error.code, error.retry_after_ms)
        except Exception:
            error_id = self._new_id()
            log.exception("turn_failed", error_id=error_id)
            return self.outcome("failed", "internal")
        return self.outcome("complete")

    async def _stream(self) -> None:
        turn, question = self._turn, self._question
        request = AgentRequest(
            turn.user_id, turn.conversation_id, turn.message_id, question.seq, str(question.payload["text"])
        )
        at = monotonic()
        async with aclosing(self._agent.answer(request)) as steps:
            async for step in steps:
                match step:
                    case Stage(state):
                        self._send_stage(turn, state)
                    case Delta(text):
                        before, at = at, monotonic()
                        self._record_time(at - before)
                        self._delivery.chunk(turn.user_id, self._generation, text)
                    case Done():
                        self._done = step

    def _record_time(self, seconds: float) -> None:
        if self._generation.texts:
            self._stats.on_chunk_gap(seconds)
        else:
            self._stats.on_first_token(seconds)

    def outcome(self, status: str, error: str | None = None, retry_after_ms: int | None = None) -> Outcome:
        """How it ended, with the text as the devices have seen it."""
        done = self._done or Done("", ())
        return Outcome(
            status,  # type: ignore[arg-type]
            "".join(self._generation.texts),
            self._generation.generation_id,
            done.model,
            done.usage,
            done.used_traits,
            error,
            retry_after_ms,
            done.cut,
        )


def _generation(turn: Turn) -> Generation:
    return Generation(turn.generation_id or "", turn.conversation_id, turn.message_id, turn.session_id, monotonic())


def _tokens(outcome: Outcome) -> int:
    """The model tokens of an answer: as the endpoint reported them, else one for every four characters."""
    reported = (outcome.usage or {}).get("total_tokens")
    return reported if isinstance(reported, int) and reported >= 0 else -(-len(outcome.text) // 4)


def _kinds(kind: type[ServiceError]) -> list[type[ServiceError]]:
    return [*(deeper for below in kind.__subclasses__() for deeper in _kinds(below)), kind]


# By their codes; a kind stands behind those below it that have the same one.
_ERRORS = {kind.code: kind for top in (ModelUnavailable, StorageUnavailable) for kind in _kinds(top)}


def answer_id(turn: Turn) -> str:
    """The id of the answer to a turn: the same for every attempt, so that the log takes only one."""
    return "twin-" + hashlib.sha256(f"{turn.user_id}\x1e{turn.turn_id}".encode()).hexdigest()[:32]
