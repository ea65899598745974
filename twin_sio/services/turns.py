"""Answers: each message once, one at a time per conversation, in order, whoever dies.

A turn is stored before it is acknowledged. Whichever instance holds the conversation's lease answers its turns, the
oldest first; when the lease runs out another takes over under a fresh generation. `settle` decides an answer, once;
only then does it enter the log and reach the devices. One of the product's two catch-alls is here: a turn that fails
for an unknown reason ends as `failed`, and the next one is answered.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

import structlog
from structlog.contextvars import bound_contextvars

from twin_sio.agent import Agent, AgentRequest, Delta, Done, Stage
from twin_sio.clock import Clock, NewId, monotonic
from twin_sio.domain import Caller, Event, Generation, NewEvent, Outcome, Turn
from twin_sio.errors import Busy, ModelUnavailable, ServiceError, StorageUnavailable
from twin_sio.observability.tracing import span
from twin_sio.protocol import Outgoing, error_payload
from twin_sio.services.limits import Limits
from twin_sio.services.ports import Delivery, Jobs
from twin_sio.services.user_slots import UserSlots
from twin_sio.store.ports import Log, Turns

log = structlog.get_logger("turns")

_TAKE_OVERS = 2
_LOSSES = 2  # generations that ended with their instance: whatever it is that a turn does to one, no third meets it
_SWEEP_S = 2.0
_FRESH_S = 0.1  # for which a turn counts as it was read: after a longer wait it may have been stopped
_ELSEWHERE_S = 1.0  # between two looks whether the user's answers on other instances leave room for one more
_TERMINAL_STATES = ("complete", "stopped", "interrupted", "failed")
Key = tuple[str, str]


class LeaseLost(Exception):
    """Another instance may answer now: say nothing more."""


@dataclass(slots=True)
class TurnStats:
    """For the operator: what was counted, and whoever hears of times, in seconds."""

    finished: dict[str, int] = field(default_factory=dict)
    poisonous: int = 0
    take_overs: int = 0
    on_first_token: Callable[[float], None] = lambda _: None
    on_chunk_gap: Callable[[float], None] = lambda _: None


class TurnRunner:
    """Answers the turns of the conversations whose lease this instance holds."""

    def __init__(
        self,
        *,
        owner: str,
        turns: Turns,
        messages: Log,
        agent: Agent,
        delivery: Delivery,
        jobs: Jobs,
        limits: Limits,
        clock: Clock,
        new_id: NewId,
        lease_s: float = 10.0,
        waiting_max: int = 8,
        owed_max: int = 100,
        concurrency: int = 64,
        concurrency_per_user: int = 4,
    ) -> None:
        self._owner = owner
        self._turns = turns
        self._messages = messages
        self._agent = agent
        self._delivery = delivery
        self._jobs = jobs
        self._limits = limits
        self._clock = clock
        self._new_id = new_id
        self._lease_s = lease_s
        self._waiting_max = waiting_max
        self._owed_max = owed_max
        self._per_user = concurrency_per_user
        self._slots = asyncio.Semaphore(concurrency)
        self._places = UserSlots(concurrency_per_user)
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._waiting: set[Key] = set()  # of those that run: until their user's other answers leave room
        self._again: set[Key] = set()
        self._stops: dict[tuple[str, str], asyncio.Event] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._draining = False
        self.stats = TurnStats()

    # -- what handlers ask -------------------------------------------------------------------------------------------

    async def check_capacity(self, user_id: str, conversation_id: str) -> int:
        """How many answers of the conversation are owed already; raises `Busy` where it or its user has too many."""
        owed = await self._turns.pending_counts(user_id, self._owed_max)
        here = owed.get(conversation_id, 0)
        if here > self._waiting_max or sum(owed.values()) >= self._owed_max:
            raise Busy(retry_after_ms=2_000)
        return here

    async def ensure(self, turn: Turn) -> Turn:
        """Store the turn unless it is there, and see to it that it is answered."""
        stored = await self._turns.ensure(turn)
        if stored.state not in _TERMINAL_STATES:
            self.schedule(turn.user_id, turn.conversation_id)
        return stored

    async def find(self, user_id: str, turn_id: str) -> Turn | None:
        """The turn of this request, if it was stored."""
        return await self._turns.get(user_id, turn_id)

    def schedule(self, user_id: str, conversation_id: str) -> None:
        """Look after the conversation's turns, in the background; safe to call at any time."""
        key = (user_id, conversation_id)
        if self._draining:  # the others look after it now; without the word their sweep would, some seconds later
            self._delivery.broadcast(kind="owed", user_id=user_id, conversation_id=conversation_id)
            return
        if key in self._running:
            self._again.add(key)
            return
        # In a context of its own: it also answers what others asked, and goes on after whoever kicked it is done.
        task = asyncio.create_task(self._drain(key), context=contextvars.Context())
        self._running[key] = task
        task.add_done_callback(lambda _: self._drained(key))

    def _drained(self, key: Key) -> None:
        self._running.pop(key, None)
        if key in self._again or self._draining:
            self._again.discard(key)
            self.schedule(*key)

    async def stop(self, caller: Caller, message_id: str) -> bool:
        """End the answer to this message, wherever it runs; false where none is owed."""
        turn = await self._turns.request_stop(caller.user_id, message_id)
        if turn is None:
            return False
        self._delivery.broadcast(kind="stop", user_id=turn.user_id, turn_id=turn.turn_id)
        self.schedule(turn.user_id, turn.conversation_id)
        return True

    def on_stop(self, user_id: str, turn_id: str) -> None:
        """The control channel asks whoever answers this turn to end it."""
        if event := self._stops.get((user_id, turn_id)):
            event.set()

    def on_owed(self, user_id: str, conversation_id: str) -> None:
        """An instance that goes away leaves this conversation to the others."""
        if not self._draining:
            self.schedule(user_id, conversation_id)

    def on_erased(self, user_id: str) -> None:
        """The user was erased: end what is being said to them. It cannot be settled, so nothing of it is kept."""
        for (owner, _), event in list(self._stops.items()):
            if owner == user_id:
                event.set()

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look for answers that nobody works on."""
        self._sweeper = asyncio.create_task(self._sweep_forever())

    async def drain(self, patience_s: float) -> None:
        """Finish what runs within `patience_s`; hand the rest over by giving up its leases."""
        self._draining = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        for key, task in list(self._running.items()):
            if key in self._waiting:  # whoever stays looks after it at once
                task.cancel()
        if self._running and patience_s > 0:
            await asyncio.wait(list(self._running.values()), timeout=patience_s)
        left = dict(self._running)
        for task in left.values():
            task.cancel()
        await asyncio.gather(*left.values(), return_exceptions=True)
        for user_id, conversation_id in left:
            self._delivery.broadcast(kind="turns", user_id=user_id, conversation_id=conversation_id)

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S * (0.5 + random.random()))
            with suppress(StorageUnavailable):
                await self.sweep()

    async def sweep(self) -> int:
        """Take over what others have left behind; how many conversations that concerns."""
        found = await self._turns.abandoned(self._lease_s, 100)
        for user_id, conversation_id in found:
            self.schedule(user_id, conversation_id)
        return len(found)

    @property
    def running(self) -> int:
        """Conversations this instance answers in; those that wait for their user's others do not count."""
        return len(self._running) - len(self._waiting)

    @property
    def waiting(self) -> int:
        """Conversations that wait until their user's other answers leave room."""
        return len(self._waiting)

    @property
    def generating(self) -> int:
        """Answers that this instance has the model at work on; what else it answers in waits for its turn."""
        return len(self._stops)

    # -- one conversation --------------------------------------------------------------------------------------------

    async def _drain(self, key: Key) -> None:
        try:
            while (turn := await self._turns.next(*key)) is not None and not self._draining:
                read_at = monotonic()
                if self._places.are_taken(key[0]):
                    self._waiting.add(key)
                async with self._places.place(key[0]) as given_back:
                    if not await self._take(key, turn.epoch, given_back):
                        return  # whoever holds it looks once more after letting go
                    await self._answer_all(key, turn if monotonic() - read_at < _FRESH_S else None)
        except StorageUnavailable:
            log.warning("turns_postponed", conversation=key[1])  # the sweep comes back to it
        finally:
            self._waiting.discard(key)

    async def _take(self, key: Key, epoch: int, given_back: asyncio.Event) -> bool:
        """Take the conversation's lease, once the user's answers on all instances leave room; false where another
        instance has it."""
        async with self._places.asking(key[0]):
            try:
                while True:
                    given_back.clear()
                    if not await self._turns.acquire(*key, self._owner, self._lease_s, epoch):
                        return False
                    if await self._turns.answering(key[0]) <= self._per_user:
                        self._waiting.discard(key)
                        return True
                    self._waiting.add(key)
                    await self._turns.release(*key, self._owner)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_ELSEWHERE_S * (0.5 + random.random())):
                            await given_back.wait()
            except asyncio.CancelledError:  # it may have been granted meanwhile
                with suppress(StorageUnavailable):
                    await asyncio.shield(self._turns.release(*key, self._owner))
                raise

    async def _answer_all(self, key: Key, first: Turn | None) -> None:
        """Answer what is owed, beginning with `first`, which was the oldest just before the lease was taken."""
        lost = asyncio.Event()
        renewing = asyncio.create_task(self._renew(key, lost))
        try:
            turn = first or await self._turns.next(*key)
            while turn is not None and not lost.is_set() and not self._draining:
                async with self._slots:
                    await self._answer(turn, lost)
                turn = await self._turns.next(*key)
        except LeaseLost:
            log.warning("lease_lost", conversation=key[1])
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            if not lost.is_set():
                with suppress(StorageUnavailable):
                    await asyncio.shield(self._turns.release(*key, self._owner))

    async def _renew(self, key: Key, lost: asyncio.Event) -> None:
        """Hold the lease; when it cannot be renewed in time, it counts as lost before others can take it."""
        good_until = monotonic() + self._lease_s * 0.9
        while monotonic() < good_until:
            await asyncio.sleep(min(self._lease_s / 3, max(0.05, (good_until - monotonic()) / 3)))
            asked_at = monotonic()
            with suppress(StorageUnavailable):
                if not await self._turns.renew(*key, self._owner, self._lease_s):
                    break
                good_until = asked_at + self._lease_s * 0.9
        lost.set()

    # -- one turn ----------------------------------------------------------------------------------------------------

    async def _answer(self, turn: Turn, lost: asyncio.Event) -> None:
        ids = {"user": turn.user_id, "turn": turn.turn_id, "message": turn.message_id}
        with bound_contextvars(**ids), span("turn", parent=turn.trace, **ids) as under_way:
            decided = await self._turns.outcome(turn) if turn.state == "settled" else None
            if decided is None:
                decided = await self._settle(turn, lost)
            if decided is not None:
                under_way.set(status=decided.status, generation=decided.generation_id, tokens=_tokens(decided))
                await self._publish_answer(turn, decided)

    async def _settle(self, turn: Turn, lost: asyncio.Event) -> Outcome | None:
        """An outcome that has been settled; None where somebody else's counts."""
        if turn.stop_requested or turn.attempts > _TAKE_OVERS or turn.lost >= _LOSSES:
            outcome = await self._ended(turn)
            return outcome if await self._turns.settle(turn, outcome) else None
        asked, begun = await asyncio.gather(
            self._messages.get(turn.user_id, turn.message_id), self._turns.begin(turn, self._new_id())
        )
        if asked is None:  # erased since: there is nothing to answer
            await self._turns.close(turn, "failed")
            return None
        if begun is None:
            return None
        if begun.attempts > 1:
            self.stats.take_overs += 1
            log.info("turn_taken_over", attempt=begun.attempts)
        with bound_contextvars(generation=begun.generation_id):
            try:
                outcome = await self._generate(begun, asked, lost)
            except asyncio.CancelledError:
                if self._draining and not lost.is_set():  # handed over, which is no sign of anything
                    with suppress(StorageUnavailable):
                        await asyncio.shield(self._turns.hand_over(begun))
                raise
        while True:
            try:
                if await self._turns.settle(begun, outcome):
                    return outcome
                self._delivery.drop_generation(turn.user_id, _generation(begun))  # somebody was first, or erased it
                return None
            except StorageUnavailable:
                if lost.is_set():
                    raise LeaseLost from None
                await asyncio.sleep(0.2)

    async def _ended(self, turn: Turn) -> Outcome:
        """How a turn ends that is not begun again, with what its last generation has shown."""
        shown = await self._delivery.partial(turn.user_id, turn.generation_id) if turn.generation_id else ""
        text, generation_id = max(turn.partial, shown, key=len), turn.generation_id or self._new_id()
        if turn.stop_requested:
            return Outcome("stopped", text, generation_id, "")
        if turn.lost >= _LOSSES:
            self.stats.poisonous += 1
            log.error("turn_given_up", code=ServiceError.code, lost=turn.lost, attempts=turn.attempts)
            return Outcome("failed", text, generation_id, "", error=ServiceError.code)
        return Outcome("interrupted", text, generation_id, "")

    async def _generate(self, turn: Turn, asked: Event, lost: asyncio.Event) -> Outcome:
        """Stream one answer to the devices. Raises `LeaseLost`; every other ending is an outcome."""
        generation = _generation(turn)
        attempt = _Attempt(self, turn, asked, generation)
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
            self.send_status(turn, "done")

    async def _checkpoint_loop(self, turn: Turn, generation: Generation, stop: asyncio.Event) -> None:
        """Now and then store what was said so far, and hear of a stop that the control channel has lost."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            with suppress(StorageUnavailable):
                stored = await self._turns.checkpoint(turn, "".join(generation.texts))
                if stored is not None and stored.stop_requested:
                    stop.set()

    async def _publish_answer(self, turn: Turn, outcome: Outcome) -> None:
        """Log the decided answer and show it. Done again after a crash, it changes nothing."""
        payload: dict[str, object] = {
            "text": outcome.text,
            "generation_id": outcome.generation_id,
            "status": outcome.status,
            "model": outcome.model,
            "used_traits": list(outcome.used_traits),
        }
        if outcome.usage is not None:
            payload["usage"] = dict(outcome.usage)
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
            self._tell_error(turn, outcome.error)
        self._delivery.publish(stored.event)
        if not await self._turns.close(turn, outcome.status):  # erased while it was answered
            await self._messages.remove(stored.event)
            return
        self.stats.finished[outcome.status] = self.stats.finished.get(outcome.status, 0) + 1
        log.info("answered", status=outcome.status, generation=outcome.generation_id, attempt=turn.attempts)
        if outcome.status in ("complete", "stopped") and turn.turn_id == turn.message_id:
            await self._jobs.learn(turn.user_id, turn.turn_id)
        await self._limits.record_tokens(turn.user_id, _tokens(outcome))
        if outcome.text:
            await self._jobs.remember(turn.user_id, turn.turn_id)

    def _tell_error(self, turn: Turn, code: str) -> None:
        error = _ERRORS.get(code, ServiceError)()
        self._delivery.to_user(turn.user_id, self._event(turn, "error", error_payload(error)))

    def send_status(self, turn: Turn, state: str) -> None:
        """Tell the devices where the answer stands."""
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
    """One run of the agent, relayed as it comes."""

    def __init__(self, runner: TurnRunner, turn: Turn, asked: Event, generation: Generation) -> None:
        self._runner = runner
        self._turn = turn
        self._asked = asked
        self._generation = generation
        self._done: Done | None = None

    async def run(self) -> Outcome:
        try:
            await self._stream()
        except ModelUnavailable as error:
            return self.outcome("failed", error.code)
        except StorageUnavailable as error:
            return self.outcome("failed", error.code)
        except Exception:
            error_id = self._runner._new_id()
            log.exception("turn_failed", error_id=error_id)
            return self.outcome("failed", "internal")
        return self.outcome("complete")

    async def _stream(self) -> None:
        turn, delivery = self._turn, self._runner._delivery
        ask = AgentRequest(
            turn.user_id, turn.conversation_id, turn.message_id, self._asked.seq, str(self._asked.payload["text"])
        )
        stats, at = self._runner.stats, monotonic()
        async with aclosing(self._runner._agent.answer(ask)) as steps:
            async for step in steps:
                match step:
                    case Stage(state):
                        self._runner.send_status(turn, state)
                    case Delta(text):
                        before, at = at, monotonic()
                        (stats.on_chunk_gap if self._generation.texts else stats.on_first_token)(at - before)
                        delivery.chunk(turn.user_id, self._generation, text)
                    case Done():
                        self._done = step

    def outcome(self, status: str, error: str | None = None) -> Outcome:
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
        )


def _generation(turn: Turn) -> Generation:
    return Generation(turn.generation_id or "", turn.conversation_id, turn.message_id, turn.session_id, monotonic())


def _tokens(outcome: Outcome) -> int:
    """What the answer took of the model: as it told, or four characters each where it was cut before it did."""
    told = (outcome.usage or {}).get("total_tokens")
    return told if isinstance(told, int) and told >= 0 else -(-len(outcome.text) // 4)


def _errors(kinds: Sequence[type[ServiceError]]) -> dict[str, type[ServiceError]]:
    return {kind.code: kind for kind in kinds}


_ERRORS = _errors([ModelUnavailable, *ModelUnavailable.__subclasses__(), StorageUnavailable])


def answer_id(turn: Turn) -> str:
    """The id of the answer to a turn: the same for every attempt, so that the log takes only one."""
    return "twin-" + hashlib.sha256(f"{turn.user_id}\x1e{turn.turn_id}".encode()).hexdigest()[:32]
