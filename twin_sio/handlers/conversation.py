"""Messages to the twin, and what follows them: stop, regenerate, feedback."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from uuid import NAMESPACE_OID, uuid5

from twin_sio.clock import Clock, NewId
from twin_sio.domain import Caller, Event, Evidence, MessageMode, NewEvent, Turn
from twin_sio.errors import InvalidMessage, NotFound, RateLimited, StorageUnavailable
from twin_sio.handlers import Receipts, Reply
from twin_sio.handlers.context import HostContext
from twin_sio.observability.tracing import current_traceparent
from twin_sio.protocol import Feedback, Incoming, Outgoing, Regenerate, StopGeneration, UserMessage
from twin_sio.services.answers import answer_id
from twin_sio.services.limits import Limits
from twin_sio.services.ports import Delivery, Jobs
from twin_sio.services.profile import ProfileService
from twin_sio.services.turns import TurnService
from twin_sio.store.ports import Log


class Conversation:
    """Stores first, publishes second, acknowledges only what is stored; a repeat has no second effect."""

    def __init__(
        self,
        *,
        messages: Log,
        turns: TurnService,
        delivery: Delivery,
        context: HostContext,
        profile: ProfileService,
        jobs: Jobs,
        limits: Limits,
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self._messages = messages
        self._turns = turns
        self._delivery = delivery
        self._context = context
        self._profile = profile
        self._jobs = jobs
        self._limits = limits
        self._clock = clock
        self._receipts = Receipts(clock, new_id)

    async def user_message(self, caller: Caller, sent: Incoming[UserMessage]) -> Reply:
        """Store, publish to every device, answer in the background. A repeat is stored and answered once."""
        message_id = sent.required_id
        # At once, because each is a round trip to the store. A repeat is accepted also where the queue is full.
        known, owed, full = await asyncio.gather(
            self._messages.get(caller.user_id, message_id),
            self._turns.find(caller.user_id, message_id),
            self._turns.check_capacity(caller.user_id, sent.conversation_id),
            return_exceptions=True,
        )
        if isinstance(known, BaseException):
            raise known
        if isinstance(owed, BaseException):
            raise owed
        if known is None:
            if owed is not None and owed.message_id != message_id:  # by a `regenerate` of this id
                raise _used_otherwise()
            if isinstance(full, BaseException):
                raise full
            await self._limits.message(caller.user_id)
        draft = self._draft(caller, sent, "user_message", {"text": sent.payload.text})
        if known is not None:
            return await self._repeat(caller, draft, known, sent.payload.mode)
        if sent.payload.context is not None:
            await self._context.merge(caller, sent.payload.context)
        stored = await self._messages.append(draft)
        if not stored.is_new:
            return await self._repeat(caller, draft, stored.event, sent.payload.mode)
        turn = await self._owed(caller, stored.event, sent.payload.mode)
        await self._act_on_mode(turn)
        receipt = self._receipt(draft, stored.event.seq, "accepted")
        is_waiting = turn.state == "queued" and isinstance(full, int) and full > 0
        return Reply(receipt, publish=stored.event, then=partial(self._send_queued, turn) if is_waiting else None)

    async def _owed(self, caller: Caller, asked: Event, mode: MessageMode) -> Turn:
        """The turn of a message that is stored."""
        turn = await self._turns.ensure(self._turn(caller, asked, mode=mode))
        if turn.message_id == asked.message_id:
            return turn
        # A `regenerate` on another instance took the id in the same moment. A repeat finds this one again.
        other = uuid5(NAMESPACE_OID, asked.message_id).hex
        return await self._turns.ensure(self._turn(caller, asked, turn_id=other, mode=mode))

    async def _send_queued(self, turn: Turn) -> None:
        self._turns.send_status(turn, "queued")

    async def _act_on_mode(self, turn: Turn) -> None:
        """Do what the message is to do to the answer that is being made; doing it again changes nothing."""
        if turn.mode == "queue" or turn.state != "queued":
            return
        if turn.mode == "interrupt":
            await self._turns.interrupt(turn)
        else:
            await self._turns.steer(turn)

    async def _repeat(self, caller: Caller, draft: NewEvent, known: Event, mode: MessageMode) -> Reply:
        """The same message again: the same receipt, then its answer, to the caller alone, if there is one."""
        _same(draft, known)
        turn = await self._owed(caller, known, mode)  # repairs a crash between message and turn
        await self._act_on_mode(turn)
        draft = replace(draft, conversation_id=known.conversation_id)  # where the message stands
        receipt = self._receipt(draft, known.seq, "duplicate")
        answer = await self._messages.get(known.user_id, answer_id(turn))
        return Reply(receipt, then=partial(self._send_again, caller, answer) if answer is not None else None)

    async def _send_again(self, caller: Caller, answer: Event) -> None:
        self._delivery.to_session_in_order(caller, Outgoing.of(answer))

    async def stop_generation(self, caller: Caller, sent: Incoming[StopGeneration]) -> None:
        """End the running or waiting answer to a message; its instance publishes that it was stopped."""
        if not await self._turns.stop(caller, sent.payload.message_id):
            raise NotFound("No answer to this message is being made.")

    async def regenerate(self, caller: Caller, sent: Incoming[Regenerate]) -> Reply:
        """Answer a message anew; the older answer stays as an alternative."""
        asked = await self._messages.get(caller.user_id, sent.payload.message_id)
        if asked is None or asked.type != "user_message":
            raise NotFound("There is no message of yours with this id.")
        turn_id = sent.required_id
        used = await self._messages.get(caller.user_id, turn_id)
        if used is not None:
            raise _used_otherwise()
        known = await self._turns.find(caller.user_id, turn_id)
        if known is not None and known.message_id != asked.message_id:
            raise InvalidMessage("The message_id was used for another message.", field="metadata.message_id")
        if known is None:
            await self._turns.check_capacity(caller.user_id, asked.conversation_id)
            await self._limits.message(caller.user_id)
        # Turns are answered in the order of their seq. A repeat has none of its own: it comes after all that is stored,
        # and before what is stored next.
        order = await self._messages.head(caller.user_id) + 0.5
        await self._turns.ensure(self._turn(caller, asked, turn_id=turn_id, order=order))
        draft = self._draft(caller, sent, "regenerate", {})
        return Reply(self._receipt(draft, None, "duplicate" if known else "accepted"))

    async def feedback(self, caller: Caller, sent: Incoming[Feedback]) -> Reply:
        """Keep a rating of one of the twin's messages; the newest counts. The receipt names the traits that changed:
        of those that the answer used, and no others. A `correction` is learnt from in the background."""
        about, known = await asyncio.gather(
            self._messages.get(caller.user_id, sent.payload.message_id),
            self._messages.get(caller.user_id, sent.required_id),
        )
        if about is None or about.type != "twin_message":
            raise NotFound("There is no message of the twin with this id.")
        if known is None:
            await self._limits.write(caller.user_id)
        payload = sent.payload.model_dump(exclude_none=True)
        draft = self._draft(caller, sent, "feedback", payload, conversation_id=about.conversation_id)
        async with self._profile.turn(caller.user_id):
            stored = await self._messages.append(draft)
            if not stored.is_new:
                _same(draft, stored.event)
            evidence, traits = await self._profile.rate(stored.event, about)  # also repairs a crash after the append
        status = "accepted" if stored.is_new else "duplicate"
        receipt = self._receipt(draft, stored.event.seq, status, traits=traits)
        learn = partial(self._learn_from, draft, evidence, has_correction=bool(sent.payload.correction))
        return Reply(receipt, publish=stored.event if stored.is_new else None, then=learn)

    async def _learn_from(self, feedback: NewEvent, evidence: Sequence[Evidence], *, has_correction: bool) -> None:
        if has_correction:
            await self._jobs.correct(feedback.user_id, feedback.message_id)
        with suppress(StorageUnavailable, RateLimited):  # the evidence is stored: the next scoring counts it
            async with self._profile.turn(feedback.user_id):
                await self._profile.refresh(feedback.user_id, evidence, feedback.message_id, epoch=feedback.epoch)

    def _draft(
        self,
        caller: Caller,
        sent: Incoming[UserMessage] | Incoming[Feedback] | Incoming[Regenerate],
        type: str,
        payload: dict[str, object],
        conversation_id: str | None = None,
    ) -> NewEvent:
        return NewEvent(
            caller.user_id,
            type,
            sent.required_id,
            conversation_id or sent.conversation_id,
            self._clock(),
            payload,
            caller.session_id,
            epoch=caller.epoch,
        )

    def _turn(
        self,
        caller: Caller,
        asked: Event,
        turn_id: str | None = None,
        order: float | None = None,
        mode: MessageMode = "queue",
    ) -> Turn:
        return Turn(
            user_id=asked.user_id,
            turn_id=turn_id or asked.message_id,
            message_id=asked.message_id,
            conversation_id=asked.conversation_id,
            session_id=caller.session_id,
            order=float(asked.seq) if order is None else order,
            state="queued",
            generation_id=None,
            attempts=0,
            stop_requested=False,
            partial="",
            created_at=self._clock(),
            trace=current_traceparent(),
            epoch=caller.epoch,
            mode=mode,
            persona=caller.identity.persona,
        )

    def _receipt(self, draft: NewEvent, seq: int | None, status: str, **more: object) -> Outgoing:
        return self._receipts.of(
            draft.session_id, draft.message_id, status, conversation_id=draft.conversation_id, seq=seq, **more
        )


def _used_otherwise() -> InvalidMessage:
    return InvalidMessage("The message_id was used for something else.", field="metadata.message_id")


def _same(draft: NewEvent, known: Event) -> None:
    if known.type != draft.type or known.payload != draft.payload:
        raise InvalidMessage("The message_id was used for another message.", field="metadata.message_id")
