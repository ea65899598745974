"""One answer: begun, streamed to the devices (`services.attempt`), settled once, stored and published.

`settle` decides an answer, once, whichever instances are at it; only then does it enter the log and reach the devices
as a `twin_message`. A turn that fails for an unforeseen reason ends as `failed`, and the next one is answered.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import replace

import structlog
from structlog.contextvars import bound_contextvars

from twin_sio.agent import Agent
from twin_sio.background import BackgroundTasks
from twin_sio.clock import Clock, NewId
from twin_sio.domain import Event, Generation, NewEvent, Outcome, Turn
from twin_sio.errors import ModelUnavailable, ServiceError, StorageUnavailable
from twin_sio.observability.tracing import span
from twin_sio.protocol import Outgoing, error_payload
from twin_sio.services.approvals import ApprovalService
from twin_sio.services.attempt import Attempt, TurnStats, ended_steps, generation_of, step_payload
from twin_sio.services.limits import Limits
from twin_sio.services.ports import Delivery, Jobs
from twin_sio.services.runs import RunServices
from twin_sio.store.ports import Log, Turns

log = structlog.get_logger("turns")

_TAKE_OVERS_MAX = 2  # generations that are begun after the first one
_LOSSES_MAX = 2  # generations that cost their instance the lease: what a turn did to two instances, no third one meets
_SETTLE_RETRY_S = 0.2


class LeaseLost(Exception):
    """Another instance may hold the conversation's lease now: this one sends nothing more."""


class AnswerService:
    """Answers one turn at a time for the instance that holds its conversation's lease."""

    def __init__(
        self,
        *,
        turns: Turns,
        messages: Log,
        agent: Agent,
        runs: RunServices,
        approvals: ApprovalService,
        delivery: Delivery,
        jobs: Jobs,
        limits: Limits,
        clock: Clock,
        new_id: NewId,
        lease_s: float,
        stats: TurnStats,
    ) -> None:
        self._turns = turns
        self._runs = runs
        self._approvals = approvals
        self._messages = messages
        self._agent = agent
        self._delivery = delivery
        self._jobs = jobs
        self._limits = limits
        self._clock = clock
        self._new_id = new_id
        self._checkpoint_s = lease_s / 3
        # By (user id, turn id), for each generation of this instance: set, it ends as `stopped`; and the turn's epoch.
        self._stops: dict[tuple[str, str], tuple[asyncio.Event, int]] = {}
        # By (user id, conversation id): what this instance generates there.
        self._attempts: dict[tuple[str, str], Attempt] = {}
        # Set while this instance hands its answers over: an answer that is cancelled then says nothing about the turn.
        self.draining = False
        self.stats = stats
        self._background = BackgroundTasks()

    @property
    def generating(self) -> int:
        """Answers for which this instance is calling the model now."""
        return len(self._stops)

    def stop(self, user_id: str, turn_id: str) -> None:
        """End the turn's answer if this instance generates it."""
        if found := self._stops.get((user_id, turn_id)):
            found[0].set()

    def stop_user(self, user_id: str, epoch: int) -> None:
        """End all answers to this user of before an epoch; used by an erasure, after which none can be settled."""
        for (owner, _), (event, began) in list(self._stops.items()):
            if owner == user_id and began < epoch:
                event.set()

    def on_changed(self, user_id: str, conversation_id: str) -> None:
        """A message wants to steer the answer in this conversation, or the result of an app's tool has come."""
        if (attempt := self._attempts.get((user_id, conversation_id))) is not None:
            attempt.on_changed()

    async def answer(self, turn: Turn, lost: asyncio.Event) -> None:
        """Answer the turn, or finish what another attempt has decided. A turn that waits for its user, and whose time
        is over, goes on without. Raises `LeaseLost` once `lost` is set."""
        ids = {"user": turn.user_id, "turn": turn.turn_id, "message": turn.message_id}
        with bound_contextvars(**ids), span("turn", parent=turn.trace, **ids) as under_way:
            decided = await self._turns.outcome(turn) if turn.state == "settled" else None
            if decided is None:
                decided = await self._settle(turn, lost)
            if decided is not None:
                under_way.set(status=decided.status, generation=decided.generation_id, tokens=_tokens(decided))
                await self._publish_answer(turn, decided)

    async def _settle(self, turn: Turn, lost: asyncio.Event) -> Outcome | None:
        """The outcome that this instance has settled; None where another instance's counts, or the turn waits for its
        user."""
        if turn.state == "suspended":
            await self._approvals.close(turn, "cancelled" if turn.stop_requested else "expired")
            turn = await self._turns.get(turn.user_id, turn.turn_id) or turn
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
                ended = await self._generate(begun, question, lost)
            except asyncio.CancelledError:
                if self.draining and not lost.is_set():  # handed over: this does not count as a loss
                    with suppress(StorageUnavailable):
                        await asyncio.shield(self._turns.hand_over(begun))
                raise
        while True:
            try:
                if isinstance(ended, Attempt):
                    return await self._suspend(begun, ended)
                if _goes_on(begun, ended):
                    await self._turns.hand_over(begun)  # once the store is back
                    self._delivery.drop_generation(turn.user_id, generation_of(begun))
                    return None
                if await self._turns.settle(begun, ended):
                    return ended
                self._delivery.drop_generation(
                    turn.user_id, generation_of(begun)
                )  # another instance was first, or an erasure
                return None
            except StorageUnavailable:
                if lost.is_set():
                    raise LeaseLost from None
                await asyncio.sleep(_SETTLE_RETRY_S)

    async def _suspend(self, begun: Turn, attempt: Attempt) -> Outcome | None:
        """Have the turn wait for its user; where it was stopped meanwhile, its outcome."""
        current = await self._approvals.suspend(begun, attempt.requests, attempt.text)
        if current is None:
            return None
        if not current.stop_requested:
            self.stats.suspended += 1
            return None
        outcome = attempt.outcome("stopped", stopped_by=current.stopped_by)
        return outcome if await self._turns.settle(begun, outcome) else None

    async def _ended(self, turn: Turn) -> Outcome:
        """The end of a turn that is not begun again, with the text and the steps that its last generation has sent."""
        run = await self._runs.begin(turn)
        outcome = await self._ending(turn)
        steps, by = ended_steps(run.steps), turn.stopped_by
        return replace(outcome, steps=steps, steered_by=run.steered, stopped_by=by, asked=run.asked)

    async def _ending(self, turn: Turn) -> Outcome:
        shown = await self._delivery.partial(turn.user_id, turn.generation_id) if turn.generation_id else ""
        text = max(turn.partial, shown, key=len)
        generation_id = turn.generation_id or self._new_id()
        if turn.stop_requested:
            return Outcome("stopped", text, generation_id, "")
        if turn.lost >= _LOSSES_MAX:
            self.stats.given_up += 1
            log.error("turn_given_up", code=ServiceError.code, lost=turn.lost, attempts=turn.attempts)
            return Outcome("failed", text, generation_id, "", error=ServiceError.code)
        return Outcome("interrupted", text, generation_id, "")

    async def _generate(self, turn: Turn, question: Event, lost: asyncio.Event) -> Outcome | Attempt:
        """Stream one answer to the devices; an attempt that has to wait for its user comes back itself. Raises
        `LeaseLost`; every other ending is an outcome."""
        generation = generation_of(turn)
        run = await self._runs.begin(turn)
        stop = asyncio.Event()
        self._stops[turn.user_id, turn.turn_id] = stop, turn.epoch
        attempt = Attempt(
            turn,
            question,
            generation,
            run,
            self._agent,
            self._delivery,
            self.stats,
            self._new_id,
            self._send,
            lambda: self._background.start(self._interrupt(turn, stop)),
        )
        place = (turn.user_id, turn.conversation_id)
        self._attempts[place] = attempt
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
                outcome = attempt.outcome("stopped", stopped_by=await self._stopped_by(turn))
            elif attempt.requests:
                await run.save_steps()  # a stop finds them, while the turn waits
                return attempt
            else:
                outcome = work.result()
            if not _goes_on(turn, outcome):
                self._delivery.chunk(turn.user_id, generation, "", is_last=True)
            return outcome
        finally:
            self._stops.pop((turn.user_id, turn.turn_id), None)
            self._attempts.pop(place, None)
            for task in (work, keep, *watch):
                task.cancel()
            await asyncio.gather(work, keep, *watch, return_exceptions=True)
            self._delivery.end_generation(generation)
            self.send_stage(turn, "done")

    async def _stopped_by(self, turn: Turn) -> str | None:
        """The message that has ended the turn, if it was one."""
        with suppress(StorageUnavailable):
            current = await self._turns.get(turn.user_id, turn.turn_id)
            return current.stopped_by if current is not None else None
        return None

    async def _interrupt(self, turn: Turn, stop: asyncio.Event) -> None:
        """A message is to steer an answer that has no steps: that ends."""
        with suppress(StorageUnavailable):
            by = await self._runs.store.waiting_to_steer(turn.user_id, turn.conversation_id)
            if by is not None and await self._runs.store.interrupt(turn.user_id, turn.conversation_id, by) is not None:
                stop.set()

    async def _checkpoint_loop(self, turn: Turn, generation: Generation, stop: asyncio.Event) -> None:
        """Store the text so far from time to time, and read a stop that the control channel has lost."""
        while True:
            await asyncio.sleep(self._checkpoint_s)
            with suppress(StorageUnavailable):
                stored = await self._turns.checkpoint(turn, "".join(generation.texts))
                # None: the turn was erased, or another instance has it; then this answer cannot be settled.
                if stored is None or stored.stop_requested:
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
        payload.update(_more(outcome))
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
        for message_id in outcome.steered_by:
            await self._jobs.learn(turn.user_id, message_id)
        await self._limits.record_tokens(turn.user_id, _tokens(outcome))
        if outcome.text:
            await self._jobs.remember(turn.user_id, turn.turn_id)

    def _send_error(self, turn: Turn, code: str, retry_after_ms: int | None) -> None:
        error = _ERRORS.get(code, ServiceError)(retry_after_ms=retry_after_ms)
        self._delivery.to_user(turn.user_id, self._event(turn, "error", error_payload(error)))

    def send_stage(self, turn: Turn, state: str) -> None:
        """Send the devices the stage that the answer has reached."""
        self._send(turn, "twin_thinking", {"state": state})

    def _send(self, turn: Turn, type: str, payload: dict[str, object]) -> None:
        self._delivery.to_user(turn.user_id, self._event(turn, type, payload))

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


def _goes_on(turn: Turn, ended: Outcome) -> bool:
    """Whether another attempt goes on from what this one has saved: it ended as the store was away."""
    return ended.error == StorageUnavailable.code and turn.attempts <= _TAKE_OVERS_MAX


def _more(outcome: Outcome) -> dict[str, object]:
    """What only some answers have."""
    found: dict[str, object] = {}
    if outcome.steps:
        found["steps"] = [step_payload(step) for step in outcome.steps]
    if outcome.reasoning:
        found["reasoning"] = outcome.reasoning
    if outcome.steered_by:
        found["steered_by"] = list(outcome.steered_by)
    if outcome.stopped_by is not None:
        found["stopped_by"] = outcome.stopped_by
    return found


def _tokens(outcome: Outcome) -> int:
    """The model tokens of an answer: as the endpoint reported them, else one for every four characters, of what it was
    sent as well."""
    reported = (outcome.usage or {}).get("total_tokens")
    characters = outcome.asked + len(outcome.text) + len(outcome.reasoning or "")
    return reported if isinstance(reported, int) and reported >= 0 else -(-characters // 4)


def _kinds(kind: type[ServiceError]) -> list[type[ServiceError]]:
    return [*(deeper for below in kind.__subclasses__() for deeper in _kinds(below)), kind]


# By their codes; a kind stands behind those below it that have the same one.
_ERRORS = {kind.code: kind for top in (ModelUnavailable, StorageUnavailable) for kind in _kinds(top)}


def answer_id(turn: Turn) -> str:
    """The id of the answer to a turn: the same for every attempt, so that the log takes only one."""
    return "twin-" + hashlib.sha256(f"{turn.user_id}\x1e{turn.turn_id}".encode()).hexdigest()[:32]
