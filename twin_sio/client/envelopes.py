"""What a client writes into envelopes and reads from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from twin_sio.client.changes import Message, PendingApproval
from twin_sio.clock import iso, new_id, now
from twin_sio.domain import DEFAULT_CONVERSATION, Json
from twin_sio.errors import InvalidMessage, ServiceError, TooLarge
from twin_sio.protocol import ENVELOPE_MAX_BYTES, error_payload

REPLIES: Mapping[str, frozenset[str]] = {
    "user_message": frozenset({"message_received"}),
    "context_update": frozenset({"message_received"}),
    "feedback": frozenset({"message_received"}),
    "host_tools": frozenset({"message_received"}),
    "tool_result": frozenset({"message_received"}),
    "approval": frozenset({"message_received"}),
    "history": frozenset({"history"}),
    "conversations": frozenset({"conversations"}),
    "search": frozenset({"search"}),
    "auth_refresh": frozenset({"auth_refreshed"}),
    "heartbeat": frozenset({"heartbeat_ack"}),
    "profile_get": frozenset({"profile"}),
    "profile_correct": frozenset({"profile_update", "profile", "message_received"}),
    "regenerate": frozenset({"message_received", "twin_thinking", "twin_message_chunk", "twin_message"}),
}
"""The events that reply to a request, by the type of the request; an `error` replies to any."""

NEEDS_ANSWER = frozenset(REPLIES)


def without_none(fields: Json) -> dict[str, Any]:
    """The fields that have a value."""
    return {key: value for key, value in fields.items() if value is not None}


def new_envelope(type: str, payload: Json, message_id: str, conversation_id: str = DEFAULT_CONVERSATION) -> Json:
    """An envelope to send."""
    metadata = {"timestamp": iso(now()), "message_id": message_id, "conversation_id": conversation_id}
    return {"type": type, "payload": payload, "metadata": metadata}


def size_of(envelope: Json) -> int:
    """Its bytes on the wire; raises `InvalidMessage` where it cannot be written as JSON, and `TooLarge`."""
    try:
        size = len(orjson.dumps(envelope))
    except TypeError:  # half of a surrogate pair, bytes, what contains itself
        raise InvalidMessage("What was given cannot be written as JSON text.", field="payload") from None
    if size > ENVELOPE_MAX_BYTES:
        raise TooLarge(f"An envelope has at most {ENVELOPE_MAX_BYTES} bytes.")
    return size


def refusal(envelope: Json, error: ServiceError) -> Json:
    """The `error` with which a server would answer an envelope that it is not sent."""
    about = envelope["metadata"]
    metadata = {"timestamp": iso(now()), "message_id": new_id(), "in_response_to": about["message_id"]}
    return {"type": "error", "payload": error_payload(error), "metadata": metadata}


@dataclass(frozen=True, slots=True)
class Head:
    """The parts of an envelope that every rule reads."""

    type: str
    payload: Json
    message_id: str
    seq: int | None
    session_id: str | None
    in_response_to: str | None
    conversation_id: str
    timestamp: str | None

    @classmethod
    def of(cls, envelope: Json) -> Head:
        meta = envelope.get("metadata", {})
        return cls(
            envelope.get("type", ""),
            envelope.get("payload", {}),
            meta.get("message_id", ""),
            meta.get("seq"),
            meta.get("session_id"),
            meta.get("in_response_to"),
            meta.get("conversation_id", DEFAULT_CONVERSATION),
            meta.get("timestamp"),
        )


def user_message(head: Head) -> Message:
    """A message of the user, as a `user_message` event has it."""
    return Message(
        head.message_id,
        "user",
        head.payload.get("text", ""),
        head.conversation_id,
        head.seq,
        head.timestamp,
        head.session_id,
    )


def twin_message(head: Head, joined_matches: bool | None) -> Message:
    """An answer of the twin, as a `twin_message` event has it."""
    payload = head.payload
    return Message(
        head.message_id,
        "twin",
        payload.get("text", ""),
        head.conversation_id,
        head.seq,
        head.timestamp,
        head.session_id,
        head.in_response_to,
        payload.get("status"),
        payload.get("generation_id"),
        payload.get("model"),
        tuple(payload.get("used_traits", ())),
        finish=payload.get("finish"),
        error=payload.get("error"),
        joined_matches=joined_matches,
        **_work_of(payload),
    )


def history_message(entry: Json, conversation_id: str) -> Message:
    """A message as a page of the history has it."""
    return Message(
        entry["message_id"],
        entry["role"],
        entry["text"],
        conversation_id,
        entry.get("seq"),
        entry.get("timestamp"),
        entry.get("session_id"),
        entry.get("in_response_to"),
        entry.get("status"),
        entry.get("generation_id"),
        entry.get("model"),
        tuple(entry.get("used_traits") or ()),
        rating_of(entry["feedback"]) if entry.get("feedback") else None,
        entry.get("finish"),
        entry.get("error"),
        **_work_of(entry),
    )


def _work_of(answer: Json) -> dict[str, Any]:
    """What a `twin_message`, or its line of the history, says of how the answer was made."""
    return {
        "steps": tuple(answer.get("steps") or ()),
        "reasoning": answer.get("reasoning"),
        "steered_by": tuple(answer.get("steered_by") or ()),
        "stopped_by": answer.get("stopped_by"),
    }


def pending_approval(fields: Json, conversation_id: str, in_response_to: str | None) -> PendingApproval:
    """An approval as an `approval_requested`, or a page of the history, has it."""
    return PendingApproval(
        fields["approval_id"],
        conversation_id,
        in_response_to,
        fields["call_id"],
        fields["tool"],
        fields["title"],
        fields["arguments"],
        fields["expires_at"],
    )


def rating_of(feedback: Json) -> Json:
    """A rating without the id of its message."""
    return {key: value for key, value in feedback.items() if key != "message_id" and value is not None}
