"""Pages of a conversation, and the list of conversations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from twin_sio.clock import Clock, NewId, iso
from twin_sio.domain import Caller, Event, Json
from twin_sio.errors import NotFound
from twin_sio.handlers import Reply
from twin_sio.protocol import Conversations, History, Incoming, Outgoing, Search
from twin_sio.services.approvals import ApprovalService
from twin_sio.services.compute_budget import ComputeBudget
from twin_sio.services.limits import Limits
from twin_sio.services.search import MessageSearch
from twin_sio.store.ports import ConversationSummary, Log

PAGE_BYTES = 256 * 1024
"""Of a page as it is sent: a fourth of what a connection may hold before it is cut."""

# What a list of conversations costs the database: an index entry is read for each event, and each line is put together.
_S_AN_EVENT = 1.5e-6
_S_A_LINE = 2e-4
_BEGINNING = 200  # characters of the last message, in the list of conversations
# Of a stored answer, as far as it has them: older ones have fewer.
_TWIN_FIELDS = (
    "status",
    "generation_id",
    "model",
    "usage",
    "used_traits",
    "finish",
    "error",
    "steps",
    "reasoning",
    "steered_by",
    "stopped_by",
)


class HistoryHandlers:
    """Reads the log as people see it."""

    def __init__(
        self,
        messages: Log,
        searched: MessageSearch,
        approvals: ApprovalService,
        limits: Limits,
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self._approvals = approvals
        self._messages = messages
        self._searched = searched
        self._limits = limits
        self._clock = clock
        self._new_id = new_id
        # The database looks at every message of the user to find the last of each conversation.
        self._budget = ComputeBudget()

    async def history(self, caller: Caller, sent: Incoming[History]) -> Reply:
        """A page next to a message, oldest first; its neighbours never change. It holds no more than fits into a frame:
        the messages that are nearest to the one that was asked about."""
        forward = sent.payload.after is not None and sent.payload.before is None
        page = await self._messages.page(
            caller.user_id,
            sent.conversation_id,
            before=await self._seq(caller, sent.payload.before),
            after=await self._seq(caller, sent.payload.after),
            limit=sent.payload.limit,
            characters=PAGE_BYTES,
        )
        rated = await self._messages.feedback(caller.user_id, [event.message_id for event in page.events])
        # Where not all fit into the frame, those next to the message that was asked about stay.
        nearest = page.events if forward else page.events[::-1]
        lines = _fitting(_line(event, rated.get(event.message_id)) for event in nearest)
        payload = {
            "messages": lines if forward else lines[::-1],
            "has_more": page.has_more or len(lines) < len(nearest),
            "conversation_id": sent.conversation_id,
        }
        if pending := await self._approvals.pending(caller.user_id, sent.conversation_id):
            payload["approvals"] = pending
        return self._reply(caller, "history", payload, sent.message_id, sent.conversation_id)

    async def _seq(self, caller: Caller, message_id: str | None) -> int | None:
        if message_id is None:
            return None
        event = await self._messages.get(caller.user_id, message_id)
        if event is None:
            raise NotFound("There is no message of yours with this id.")
        return event.seq

    async def conversations(self, caller: Caller, sent: Incoming[Conversations]) -> Reply:
        """The user's conversations, the one with the newest message first, as many as fit into a frame. Of the last
        message the beginning."""
        limit = sent.payload.limit
        async with self._budget.turn(caller.user_id):
            # One more than is asked for, to know whether there are more.
            found = await self._messages.conversations(caller.user_id, before=sent.payload.before, limit=limit + 1)
            newest = max((one.last.seq for one in found if one.last is not None), default=sent.payload.before or 0)
            self._budget.spend(caller.user_id, newest * _S_AN_EVENT + len(found) * _S_A_LINE)
        listed = _fitting(_summary(one) for one in found[:limit])
        payload: dict[str, Any] = {"conversations": listed, "has_more": len(found) > len(listed)}
        if payload["has_more"] and (last := found[len(listed) - 1].last) is not None:
            payload["next"] = last.seq
        return self._reply(caller, "conversations", payload, sent.message_id, None)

    async def search(self, caller: Caller, sent: Incoming[Search]) -> Reply:
        """Messages of all the user's conversations that have to do with the words, the best first."""
        await self._limits.request(caller.user_id)
        payload = await self._searched.read(caller.user_id, sent.payload.text, sent.payload.limit)
        return self._reply(caller, "search", payload, sent.message_id, None)

    def _reply(
        self, caller: Caller, type: str, payload: Json, in_response_to: str | None, conversation_id: str | None
    ) -> Reply:
        outgoing = Outgoing(
            type, payload, self._new_id(), self._clock(), caller.session_id, in_response_to, conversation_id
        )
        return Reply(outgoing)


def _fitting(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first of them that fit into a frame together; one at least."""
    fitting: list[dict[str, Any]] = []
    left = PAGE_BYTES
    for line in lines:
        left -= len(orjson.dumps(line))  # as bytes on the wire: characters say little of their size
        if left < 0 and fitting:
            break
        fitting.append(line)
    return fitting


def _summary(one: ConversationSummary) -> dict[str, Any]:
    line = _line(one.last, None) if one.last is not None else None
    if line is not None:
        line["text"] = line["text"][:_BEGINNING]
    return {"conversation_id": one.conversation_id, "title": one.title, "last_message": line, "unread": one.unread}


def _line(event: Event, feedback: Json | None) -> dict[str, Any]:
    is_twin = event.type == "twin_message"
    line: dict[str, Any] = {
        "message_id": event.message_id,
        "role": "twin" if is_twin else "user",
        "text": event.payload["text"],
        "timestamp": iso(event.at),
        "seq": event.seq,
    }
    if event.session_id is not None:
        line["session_id"] = event.session_id
    if is_twin:
        line["in_response_to"] = event.in_response_to
        line.update({name: event.payload[name] for name in _TWIN_FIELDS if name in event.payload})
    if feedback is not None:
        line["feedback"] = feedback
    return line
