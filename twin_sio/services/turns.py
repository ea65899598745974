"""Turns: each message is answered once, one at a time per conversation, in order, whichever instance dies.

A turn is stored before its message is acknowledged. The instance that holds the conversation's lease answers its turns,
the oldest first; when the lease runs out another instance takes over under a fresh generation id. How one turn is
answered: `answers.AnswerService`.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from contextlib import suppress

import structlog

from twin_sio.agent import Agent
from twin_sio.clock import Clock, NewId, monotonic
from twin_sio.delivery.messages import StopTurn, TurnChanged, TurnsPending
from twin_sio.domain import Caller, Turn
from twin_sio.errors import Busy, StorageUnavailable
from twin_sio.services.answers import AnswerService, LeaseLost
from twin_sio.services.approvals import ApprovalService
from twin_sio.services.attempt import TurnStats
from twin_sio.services.limits import Limits
from twin_sio.services.ports import Delivery, Jobs
from twin_sio.services.runs import RunServices
from twin_sio.services.user_slots import UserSlots
from twin_sio.store.ports import Log, Turns

log = structlog.get_logger("turns")

_SWEEP_S = 2.0
_LEASE_SAFE_SHARE = 0.9  # of a lease, from before it was asked for: then it counts as lost, before others can take it
_FRESH_S = 0.1  # a turn that was read longer ago is read again: it may have been stopped meanwhile
_ELSEWHERE_S = 1.0  # between two looks at how many answers other instances are making for the user
_TERMINAL_STATES = ("complete", "stopped", "interrupted", "failed", "absorbed")
Key = tuple[str, str]


class TurnService:
    """Has the turns answered of the conversations whose lease this instance holds."""

    def __init__(
        self,
        *,
        owner: str,
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
        lease_s: float = 10.0,
        waiting_max: int = 8,
        owed_max: int = 100,
        concurrency: int = 64,
        concurrency_per_user: int = 4,
        stats: TurnStats | None = None,
    ) -> None:
        self._owner = owner
        self._turns = turns
        self._runs = runs.store
        self._clock = clock
        self._delivery = delivery
        self._answers = AnswerService(
            turns=turns,
            messages=messages,
            agent=agent,
            runs=runs,
            approvals=approvals,
            delivery=delivery,
            jobs=jobs,
            limits=limits,
            clock=clock,
            new_id=new_id,
            lease_s=lease_s,
            stats=stats or TurnStats(),
        )
        self._lease_s = lease_s
        self._waiting_max = waiting_max
        self._owed_max = owed_max
        self._per_user = concurrency_per_user
        self._slots = asyncio.Semaphore(concurrency)  # of this instance, for calls of the model
        self._user_slots = UserSlots(concurrency_per_user)
        # One task per conversation that this instance looks after.
        self._running: dict[Key, asyncio.Task[None]] = {}
        # Those of `_running` that wait until their user's other answers leave room.
        self._waiting: set[Key] = set()
        # Scheduled while its task was running: the task may have read the store before the new turn was there.
        self._again: set[Key] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._draining = False

    @property
    def stats(self) -> TurnStats:
        """Counts and hooks for the operator."""
        return self._answers.stats

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
        if self._draining:  # another instance takes it; without this message its sweep would, seconds later
            self._delivery.broadcast(TurnsPending(user_id, conversation_id))
            return
        if key in self._running:
            self._again.add(key)
            return
        # In a context of its own: the task also answers other requests, and outlives the one that scheduled it.
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
        self._delivery.broadcast(StopTurn(turn.user_id, turn.turn_id))
        self.schedule(turn.user_id, turn.conversation_id)
        return True

    async def interrupt(self, turn: Turn) -> None:
        """End the answer that is being made in the turn's conversation, or that waits for its user, for this turn's
        message; wherever it runs."""
        ended = await self._runs.interrupt(turn.user_id, turn.conversation_id, turn.message_id)
        if ended is not None:
            self._delivery.broadcast(StopTurn(ended.user_id, ended.turn_id))
            self.schedule(ended.user_id, ended.conversation_id)

    async def steer(self, turn: Turn) -> None:
        """Have the answer that is being made in the turn's conversation take in this turn's message, at its next step;
        an answer without steps ends for it, and one that waits for its user as well."""
        if await self._runs.suspended(turn.user_id, turn.conversation_id) is not None:
            await self.interrupt(turn)
        else:
            self.changed(turn)

    def changed(self, turn: Turn) -> None:
        """Something was stored that the answer being made in the turn's conversation asks for."""
        self._delivery.broadcast(TurnChanged(turn.user_id, turn.conversation_id))

    def send_status(self, turn: Turn, state: str) -> None:
        """Send the devices the stage that the answer has reached."""
        self._answers.send_stage(turn, state)

    def on_stop(self, user_id: str, turn_id: str) -> None:
        """The control channel: the instance that answers this turn ends it."""
        self._answers.stop(user_id, turn_id)

    def on_changed(self, user_id: str, conversation_id: str) -> None:
        """The control channel: the answer in this conversation looks at what was stored for it."""
        self._answers.on_changed(user_id, conversation_id)

    def on_owed(self, user_id: str, conversation_id: str) -> None:
        """The control channel: an instance that drains leaves this conversation to the others."""
        if not self._draining:
            self.schedule(user_id, conversation_id)

    def on_erased(self, user_id: str, epoch: int) -> None:
        """All of before this epoch was erased: end the answers that began before it. None can be settled, or kept."""
        self._answers.stop_user(user_id, epoch)

    # -- start and end -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look for turns whose lease has run out."""
        self._sweeper = asyncio.create_task(self._sweep_forever())

    async def drain(self, timeout_s: float) -> None:
        """Finish running answers within `timeout_s`; hand the others over by releasing their leases."""
        self._draining = self._answers.draining = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        for key, task in list(self._running.items()):
            if key in self._waiting:  # another instance takes it at once
                task.cancel()
        if self._running and timeout_s > 0:
            await asyncio.wait(list(self._running.values()), timeout=timeout_s)
        left = dict(self._running)
        for task in left.values():
            task.cancel()
        await asyncio.gather(*left.values(), return_exceptions=True)
        for user_id, conversation_id in left:
            self._delivery.broadcast(TurnsPending(user_id, conversation_id))

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S * (0.5 + random.random()))
            with suppress(StorageUnavailable):
                await self.sweep()

    async def sweep(self) -> int:
        """Schedule the conversations whose lease has run out; returns how many."""
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
        """Answers for which this instance calls the model; `running - generating` conversations wait for a slot."""
        return self._answers.generating

    # -- one conversation --------------------------------------------------------------------------------------------

    async def _drain(self, key: Key) -> None:
        try:
            while (turn := await self._next(key)) is not None and not self._draining:
                read_at = monotonic()
                if self._user_slots.are_taken(key[0]):
                    self._waiting.add(key)
                async with self._user_slots.place(key[0]) as given_back:
                    good_until = await self._take(key, turn.epoch, given_back)
                    if good_until is None:
                        return  # the instance that holds it looks once more after its release
                    await self._answer_all(key, turn if monotonic() - read_at < _FRESH_S else None, good_until)
        except StorageUnavailable:
            # The sweep comes back to it. Without the conversation: its id may be words of the user.
            log.warning("turns_postponed")
        finally:
            self._waiting.discard(key)

    async def _next(self, key: Key) -> Turn | None:
        """The oldest turn that is to be answered; None where there is none, or it waits for its user: the ones behind
        it wait as well."""
        turn = await self._turns.next(*key)
        if turn is None or turn.state != "suspended" or turn.stop_requested:
            return turn
        return turn if turn.due_at is not None and turn.due_at <= self._clock() else None

    async def _take(self, key: Key, epoch: int, given_back: asyncio.Event) -> float | None:
        """Take the conversation's lease, once the user's answers on all instances leave room; until when it holds
        (`monotonic`), None where another instance has it."""
        async with self._user_slots.asking(key[0]):
            try:
                while True:
                    given_back.clear()
                    asked_at = monotonic()
                    if not await self._turns.acquire(*key, self._owner, self._lease_s, epoch):
                        return None
                    if await self._turns.answering(key[0]) <= self._per_user:
                        self._waiting.discard(key)
                        return asked_at + self._lease_s * _LEASE_SAFE_SHARE
                    self._waiting.add(key)
                    await self._turns.release(*key, self._owner)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_ELSEWHERE_S * (0.5 + random.random())):
                            await given_back.wait()
            except asyncio.CancelledError:  # it may have been granted meanwhile
                with suppress(StorageUnavailable):
                    await asyncio.shield(self._turns.release(*key, self._owner))
                raise

    async def _answer_all(self, key: Key, first: Turn | None, good_until: float) -> None:
        """Answer what is owed, beginning with `first`, which was the oldest just before the lease was taken. It holds
        until `good_until`, which may have passed while the store was away."""
        lost = asyncio.Event()
        if monotonic() >= good_until:
            lost.set()
        renewing = asyncio.create_task(self._renew(key, lost, good_until))
        try:
            turn = first or await self._next(key)
            while turn is not None and not lost.is_set() and not self._draining:
                async with self._slots:
                    if lost.is_set():  # while it waited: the turn is another instance's
                        return
                    await self._answers.answer(turn, lost)
                turn = await self._next(key)
        except LeaseLost:
            log.warning("lease_lost")
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            if not lost.is_set():
                with suppress(StorageUnavailable):
                    await asyncio.shield(self._turns.release(*key, self._owner))

    async def _renew(self, key: Key, lost: asyncio.Event, good_until: float) -> None:
        """Hold the lease; when it cannot be renewed in time, it counts as lost before others can take it."""
        while monotonic() < good_until:
            await asyncio.sleep(min(self._lease_s / 3, max(0.05, (good_until - monotonic()) / 3)))
            asked_at = monotonic()
            with suppress(StorageUnavailable):
                if not await self._turns.renew(*key, self._owner, self._lease_s):
                    break
                good_until = asked_at + self._lease_s * _LEASE_SAFE_SHARE
        lost.set()
