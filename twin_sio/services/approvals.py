"""Approvals: a turn waits for its user, in the store alone, and goes on wherever it is decided.

A request is a durable event, and so is its decision. In this order, so that doing any of it again repairs what a crash
has left: the request into the log, the turn suspended, the request published; the decision kept (once), into the log,
taken from what the turn waits for, published.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

import structlog

from twin_sio.agent.tools.schemas import refused_edit
from twin_sio.clock import Clock, iso
from twin_sio.domain import ApprovalRequest, Caller, Decision, Event, Json, NewEvent, Turn
from twin_sio.errors import AlreadyDecided, InvalidMessage, NotFound, StorageUnavailable
from twin_sio.protocol import Approval
from twin_sio.services.ports import Delivery
from twin_sio.store.ports import Log, Runs, Turns

log = structlog.get_logger("approvals")


class ApprovalService:
    """Asks users for decisions, and takes them; `wait_s` is how long a turn waits for them at most."""

    def __init__(
        self, *, messages: Log, turns: Turns, runs: Runs, delivery: Delivery, clock: Clock, wait_s: float
    ) -> None:
        self._messages = messages
        self._turns = turns
        self._runs = runs
        self._delivery = delivery
        self._clock = clock
        self._wait_s = wait_s

    async def suspend(self, turn: Turn, requests: Sequence[ApprovalRequest], partial: str) -> Turn | None:
        """Ask for decisions, and have the running turn wait for them; the turn as it stands. It waits for none where it
        was stopped meanwhile; None: another attempt has taken over. Raises `StorageUnavailable`; then all of it may be
        done again."""
        expires_at = self._clock() + timedelta(seconds=self._wait_s)
        asked = [await self._append(turn, one.approval_id, _request(one, iso(expires_at))) for one in requests]
        waiting = await self._runs.suspend(turn, [one.approval_id for one in requests], self._wait_s, partial)
        for event in asked:
            self._delivery.publish(event)
        if waiting is None:
            current = await self._turns.get(turn.user_id, turn.turn_id)
            if current is None or not current.stop_requested:
                return None
            await self._resolve(current, [one.approval_id for one in requests], Decision("cancelled"))
            return current
        log.info("turn_suspended", approvals=len(requests))
        return waiting

    async def close(self, turn: Turn, decision: Literal["expired", "cancelled"]) -> None:
        """Whatever the turn still waits for is decided so. Raises `StorageUnavailable`."""
        await self._resolve(turn, turn.awaiting, Decision(decision))

    async def _resolve(self, turn: Turn, approval_ids: Sequence[str], decision: Decision) -> None:
        for approval_id in approval_ids:
            counted = await self._runs.decide(turn, approval_id, decision)
            await self._publish(turn, approval_id, counted, None)

    async def decide(self, caller: Caller, wanted: Approval) -> tuple[Turn | None, bool]:
        """The user's decision; the turn, where it can go on now, and whether this decided it (else it is a repeat).

        Raises `NotFound`, `AlreadyDecided`, `InvalidMessage`, `StorageUnavailable`.
        """
        user_id, approval_id = caller.user_id, wanted.approval_id
        decision = _decision(wanted)
        request = await self._messages.get(user_id, approval_id)
        if request is None or request.type != "approval_requested":
            raise NotFound("There is no request of your twin with this id.")
        # In this order: a decision is in the log before its turn waits no more.
        turn = await self._runs.waiting_for(user_id, approval_id)
        resolved = await self._messages.get(user_id, _resolved_id(approval_id))
        if turn is None:
            if resolved is None:  # it is being asked for, or being stopped, at this moment
                raise StorageUnavailable("It cannot be decided just now: send it again.")
            if resolved.payload != _resolution(approval_id, decision):
                raise AlreadyDecided
            return None, False
        if turn.stop_requested:
            raise AlreadyDecided
        if decision.arguments is not None and resolved is None:
            await self._check_edit(turn, request, decision.arguments)
        counted = await self._runs.decide(turn, approval_id, decision)
        current = await self._publish(turn, approval_id, counted, caller.session_id)
        if counted != decision:
            raise AlreadyDecided
        return current, resolved is None

    async def _check_edit(self, turn: Turn, request: Event, arguments: Json) -> None:
        """Arguments that the tool would refuse decide nothing: the approval goes on waiting."""
        saved = await self._runs.load(turn)
        agent = (saved.state or {}).get("agent")
        if (wrong := refused_edit(agent, request.payload["tool"], arguments)) is not None:
            raise InvalidMessage(wrong, field="payload.arguments")

    async def _publish(self, turn: Turn, approval_id: str, decision: Decision, session_id: str | None) -> Turn | None:
        """Store the decision in the log, publish it, and take it from what the turn waits for; the turn as it
        stands."""
        payload = _resolution(approval_id, decision)
        event = await self._append(turn, _resolved_id(approval_id), payload, "approval_resolved", session_id)
        current = await self._runs.decided(turn, approval_id)
        self._delivery.publish(event)
        return current

    async def pending(self, user_id: str, conversation_id: str) -> Sequence[dict[str, Any]]:
        """What the conversation's answer waits for, as `history` has it."""
        turn = await self._runs.suspended(user_id, conversation_id)
        found = [await self._messages.get(user_id, one) for one in turn.awaiting] if turn is not None else []
        return [
            {**event.payload, "in_response_to": event.in_response_to, "seq": event.seq}
            for event in found
            if event is not None
        ]

    async def _append(
        self,
        turn: Turn,
        message_id: str,
        payload: dict[str, Any],
        type: str = "approval_requested",
        session_id: str | None = None,
    ) -> Event:
        draft = NewEvent(
            turn.user_id,
            type,
            message_id,
            turn.conversation_id,
            self._clock(),
            payload,
            session_id or turn.session_id,
            turn.message_id,
            turn.epoch,
        )
        return (await self._messages.append(draft)).event


def _resolved_id(approval_id: str) -> str:
    return f"{approval_id}.decided"


def _request(one: ApprovalRequest, expires_at: str) -> dict[str, Any]:
    return {
        "approval_id": one.approval_id,
        "call_id": one.call_id,
        "tool": one.tool,
        "title": one.title,
        "arguments": dict(one.arguments),
        "expires_at": expires_at,
    }


def _decision(wanted: Approval) -> Decision:
    if wanted.decision == "edit" and wanted.arguments is None:
        raise InvalidMessage("An edit has the arguments.", field="payload.arguments")
    arguments = wanted.arguments if wanted.decision == "edit" else None
    return Decision(wanted.decision, arguments, wanted.comment or None)


def _resolution(approval_id: str, decision: Decision) -> dict[str, Any]:
    payload: dict[str, Any] = {"approval_id": approval_id, "decision": decision.decision}
    if decision.arguments is not None:
        payload["arguments"] = dict(decision.arguments)
    if decision.comment is not None:
        payload["comment"] = decision.comment
    return payload
