"""The messages between instances: what is published on a user's channel and on the control channel.

On a user's channel: a JSON list `[instance, kind, fields..., version]`, a line feed, then the client's frame as it goes
out. On the control channel: `[instance, {"kind": ..., fields...}, version]`. The build before and the build after run
beside each other in a rolling restart; the rules by which messages may change are in `docs/decisions/014`.

`decode_user` and `decode_control` return None for what this build does not know: another kind, a newer version, fields
that are missing, bytes that are no message. Nothing is lost by that for good: durable events are read from the log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

CONTROL_CHANNEL = "twin:control"
VERSION = 1
"""Written with each message. Messages of builds before there was a version have none, and count as version 1."""

_USER_CHANNEL = "twin:user:"


def user_channel(user_id: str) -> str:
    """The channel that the instances with connections of this user subscribe to."""
    return f"{_USER_CHANNEL}{user_id}"


def user_of(channel: str) -> str:
    """The user whose channel this is."""
    return channel.removeprefix(_USER_CHANNEL)


# No message is changed once it is made; the classes are not frozen because that would double what one costs.

# -- on a user's channel ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class DurableEvent:
    """`d`: an event was stored. Receivers send it in the order of `seq`, and read from the log what is missing."""

    seq: int
    generation_id: str | None  # of the answer that this event is,
    in_response_to: str | None  # and the message that it answers
    frame: bytes


@dataclass(slots=True)
class AnswerChunk:
    """`c`: the next piece of a running answer. `meta` describes the generation (`chunks.generation_of`)."""

    generation_id: str
    index: int
    meta: str
    frame: bytes


@dataclass(slots=True)
class EphemeralEvent:
    """`e`: an event that is sent once, to all of the user's connections but `skip`."""

    skip: str | None
    frame: bytes


@dataclass(slots=True)
class SessionEvent:
    """`s`: an event that is sent once, to one session."""

    session_id: str
    frame: bytes


@dataclass(slots=True)
class CloseOlderConnections:
    """`r`: the session has a new connection, `keep`; its earlier ones are to be closed. On the user's channel, because
    only instances that have connections of this user need to decode it."""

    user_id: str
    session_id: str
    keep: str


UserMessage = DurableEvent | AnswerChunk | EphemeralEvent | SessionEvent | CloseOlderConnections

# -- on the control channel ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class StopTurn:
    """`stop`: end the answer to this turn, on the instance that generates it."""

    user_id: str
    turn_id: str


@dataclass(slots=True)
class TurnsPending:
    """`owed`: the conversation has turns that the sender does not answer, because it is shutting down."""

    user_id: str
    conversation_id: str


@dataclass(slots=True)
class TurnChanged:
    """`turn`: something was stored that the answer being made in this conversation asks for: a message that steers it,
    or the result of an app's tool."""

    user_id: str
    conversation_id: str


@dataclass(slots=True)
class UserErased:
    """`erased`: everything of this user before `epoch` was erased."""

    user_id: str
    epoch: int


@dataclass(slots=True)
class Reconcile:
    """`look`: the sender could not publish for a while. Compare every stream with the log."""


ControlMessage = StopTurn | TurnsPending | TurnChanged | UserErased | Reconcile
Broadcast = ControlMessage | CloseOlderConnections
"""What an instance acts upon as a whole, the one that sends it included."""

# -- bytes -----------------------------------------------------------------------------------------------------------


def own_prefix(instance: str) -> bytes:
    """How every message of this instance begins, so that it can skip its own without decoding them."""
    return b'["%s"' % instance.encode()


def encode_user(instance: str, message: UserMessage) -> bytes:
    """The bytes to publish on the user's channel."""
    header: list[Any]
    frame = b""
    match message:
        case AnswerChunk(generation_id, index, meta, frame):
            header = [instance, "c", generation_id, index, meta, VERSION]
        case DurableEvent(seq, generation_id, in_response_to, frame):
            header = [instance, "d", seq, generation_id, in_response_to, VERSION]
        case EphemeralEvent(skip, frame):
            header = [instance, "e", skip, VERSION]
        case SessionEvent(session_id, frame):
            header = [instance, "s", session_id, VERSION]
        case CloseOlderConnections(user_id, session_id, keep):
            fields = {"kind": "replace", "user_id": user_id, "session_id": session_id, "keep": keep}
            header = [instance, "r", fields, VERSION]
    return orjson.dumps(header) + b"\n" + frame


def decode_user(payload: bytes) -> UserMessage | None:
    """The message that another instance has published on a user's channel."""
    header, _, frame = payload.partition(b"\n")
    try:
        _, kind, *fields = orjson.loads(header)
        decode, count = _USER_KINDS[kind]
        return decode(fields, frame) if len(fields) == count or _is_known(fields[count]) else None
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def _durable_event(fields: list[Any], frame: bytes) -> DurableEvent | None:
    seq, generation_id, in_response_to = fields[:3]
    is_valid = isinstance(seq, int) and all(isinstance(name, _TEXT_OR_NONE) for name in (generation_id, in_response_to))
    return DurableEvent(seq, generation_id, in_response_to, frame) if is_valid else None


def _answer_chunk(fields: list[Any], frame: bytes) -> AnswerChunk | None:
    generation_id, index, meta = fields[:3]
    is_valid = isinstance(generation_id, str) and isinstance(index, int) and isinstance(meta, str)
    return AnswerChunk(generation_id, index, meta, frame) if is_valid else None


def _ephemeral_event(fields: list[Any], frame: bytes) -> EphemeralEvent | None:
    return EphemeralEvent(fields[0], frame) if isinstance(fields[0], _TEXT_OR_NONE) else None


def _session_event(fields: list[Any], frame: bytes) -> SessionEvent | None:
    return SessionEvent(fields[0], frame) if isinstance(fields[0], str) else None


def _close_older(fields: list[Any], _frame: bytes) -> CloseOlderConnections | None:
    match fields[0]:
        case {"kind": "replace", "user_id": str(user_id), "session_id": str(session_id), "keep": str(keep)}:
            return CloseOlderConnections(user_id, session_id, keep)
    return None


_TEXT_OR_NONE = (str, type(None))
# By kind: how its fields are read, and how many there are before the version. Calls instead of patterns, because a
# pattern costs 3 us for each chunk of an answer.
_USER_KINDS: dict[str, tuple[Callable[[list[Any], bytes], UserMessage | None], int]] = {
    "c": (_answer_chunk, 3),
    "d": (_durable_event, 3),
    "e": (_ephemeral_event, 1),
    "s": (_session_event, 1),
    "r": (_close_older, 1),
}


def encode_control(instance: str, message: ControlMessage) -> bytes:
    """The bytes to publish on the control channel."""
    fields: dict[str, Any]
    match message:
        case StopTurn(user_id, turn_id):
            fields = {"kind": "stop", "user_id": user_id, "turn_id": turn_id}
        case TurnsPending(user_id, conversation_id):
            fields = {"kind": "owed", "user_id": user_id, "conversation_id": conversation_id}
        case TurnChanged(user_id, conversation_id):
            fields = {"kind": "turn", "user_id": user_id, "conversation_id": conversation_id}
        case UserErased(user_id, epoch):
            fields = {"kind": "erased", "user_id": user_id, "epoch": epoch}
        case Reconcile():
            fields = {"kind": "look"}
    return orjson.dumps([instance, fields, VERSION])


def decode_control(payload: bytes) -> ControlMessage | None:
    """The message that another instance has published on the control channel."""
    try:
        words = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    match words:
        case [str(), dict(fields)]:
            return _control(fields)
        case [str(), dict(fields), version, *_] if _is_known(version):
            return _control(fields)
    return None


def _control(fields: dict[str, Any]) -> ControlMessage | None:
    match fields:
        case {"kind": "stop", "user_id": str(user_id), "turn_id": str(turn_id)}:
            return StopTurn(user_id, turn_id)
        # Builds before there was a version wrote `turns` where they handed over what they had begun.
        case {"kind": "owed" | "turns", "user_id": str(user_id), "conversation_id": str(conversation_id)}:
            return TurnsPending(user_id, conversation_id)
        case {"kind": "turn", "user_id": str(user_id), "conversation_id": str(conversation_id)}:
            return TurnChanged(user_id, conversation_id)
        case {"kind": "erased", "user_id": str(user_id), "epoch": int(epoch)}:
            return UserErased(user_id, epoch)
        case {"kind": "look"}:
            return Reconcile()
    return None


def _is_known(version: object) -> bool:
    """Whether this build can read messages of this version. What follows the version was added by a later build that
    still writes for this one."""
    return isinstance(version, int) and version <= VERSION
