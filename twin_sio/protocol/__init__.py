"""The wire: every event, payload, limit and envelope of protocol version 1.

The event's name is the envelope's `type`. `parse` turns what a client sent into a typed `Incoming` or raises
`InvalidMessage` naming the field's path; `Outgoing` is what the service sends. Unknown fields are ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from twin_sio.clock import iso
from twin_sio.domain import DEFAULT_CONVERSATION, Event
from twin_sio.errors import InvalidMessage, ServiceError, TooLarge, UnknownType
from twin_sio.protocol import server_events as said

PROTOCOL_VERSION = 1
TEXT_MAX = 8_000
ENVELOPE_MAX_BYTES = 64 * 1024
DEPTH_MAX = 16
PAGE_MAX = 200
PAGE_DEFAULT = 50
AUTH_MAX_BYTES = 40 * 1024
"""Of the handshake's `auth`, as it came: a token and a context of 16 KiB each, and the rest."""
SMALL_MAX_BYTES = 4 * 1024
"""Of an event whose payload has nothing long in it."""
RESERVED_ID_PREFIXES = ("twin-", "profile-")
"""Under which the service stores events of its own."""
ID_PATTERN = r"^[A-Za-z0-9._:-]{1,128}$"
_INT_MAX = 2**53 - 1


def _clean(value: str) -> str:
    """Text that every store and every encoder can hold: no NUL, no lone surrogate."""
    if "\x00" in value:
        raise ValueError("NUL")
    value.encode("utf-8")
    return value


Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=TEXT_MAX), AfterValidator(_clean)]
Short = Annotated[str, StringConstraints(max_length=200), AfterValidator(_clean)]
# What is in it has been looked at with the whole: by `parse`, and by `parse_auth`.
Context = dict[str, Any]
Timestamp = Annotated[AwareDatetime, Field(strict=False)]


class Payload(BaseModel):
    """Base of every payload: frozen, strict about types, lenient about unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Metadata(Payload):
    """What a client may say around its payload; the server stamps its own time."""

    timestamp: Timestamp | None = None
    session_id: Id | None = None
    message_id: Id | None = None
    conversation_id: Id = DEFAULT_CONVERSATION


# -- client -> server ------------------------------------------------------------------------------------------------


class UserMessage(Payload):
    text: Text
    context: Context | None = None


class ContextUpdate(Payload):
    context: Context
    mode: Literal["merge", "replace"] = "merge"


class Feedback(Payload):
    message_id: Id
    rating: Literal["up", "down", "none"]
    comment: Annotated[str, StringConstraints(max_length=2_000), AfterValidator(_clean)] | None = None
    tags: Annotated[list[Short], Field(max_length=20)] | None = None
    correction: Annotated[str, StringConstraints(max_length=TEXT_MAX), AfterValidator(_clean)] | None = None


class TypingIndicator(Payload):
    is_typing: bool


class ReadReceipt(Payload):
    message_id: Id


class Heartbeat(Payload):
    pass


class Resume(Payload):
    last_seq: Annotated[int, Field(ge=0, le=_INT_MAX)]


class StopGeneration(Payload):
    message_id: Id


class Regenerate(Payload):
    message_id: Id


class History(Payload):
    before: Id | None = None
    after: Id | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT


class Conversations(Payload):
    before: Annotated[int, Field(ge=1, le=_INT_MAX)] | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT


class AuthRefresh(Payload):
    token: Annotated[str, StringConstraints(min_length=1, max_length=16_384)]


class ProfileGet(Payload):
    pass


class ProfileCorrect(Payload):
    trait_id: Id
    action: Literal["confirm", "reject", "edit"]
    value: Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_clean)] | None = None


class DeviceInfo(Payload):
    name: Short | None = None
    platform: Short | None = None
    app_version: Short | None = None


class Auth(Payload):
    """The Socket.IO `auth` payload of a connect."""

    token: Annotated[str, StringConstraints(max_length=16_384)] | None = None
    session_id: Id | None = None
    user_id: Annotated[str, StringConstraints(max_length=255)] | None = None
    last_seq: Annotated[int, Field(ge=0, le=_INT_MAX)] | None = None
    context: Context | None = None
    device: DeviceInfo = Field(default_factory=DeviceInfo)


Scope = Literal["twin:chat", "twin:profile", "twin:data"]


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """What a client may send under a name: its payload, whether an id is required, the scope it takes, the event that
    answers it where one does, how long its envelope may be, and what it costs us (`cost_of`)."""

    payload: type[Payload]
    answer: str | None = None
    needs_id: bool = False
    scope: Scope | None = "twin:chat"
    max_bytes: int = SMALL_MAX_BYTES
    weight: int = 1


CLIENT_EVENTS: Mapping[str, ClientEvent] = {
    "user_message": ClientEvent(
        UserMessage, "message_received", needs_id=True, max_bytes=ENVELOPE_MAX_BYTES, weight=10
    ),
    "context_update": ClientEvent(ContextUpdate, "message_received", max_bytes=ENVELOPE_MAX_BYTES, weight=10),
    "feedback": ClientEvent(Feedback, "message_received", needs_id=True, max_bytes=ENVELOPE_MAX_BYTES, weight=10),
    "typing_indicator": ClientEvent(TypingIndicator, weight=2),
    "read_receipt": ClientEvent(ReadReceipt, weight=10),
    "heartbeat": ClientEvent(Heartbeat, "heartbeat_ack", scope=None),
    "resume": ClientEvent(Resume, "resumed", weight=10),
    "stop_generation": ClientEvent(StopGeneration, weight=5),
    "regenerate": ClientEvent(Regenerate, "message_received", needs_id=True, weight=10),
    "history": ClientEvent(History, "history", weight=20),
    "conversations": ClientEvent(Conversations, "conversations", weight=20),
    "auth_refresh": ClientEvent(AuthRefresh, "auth_refreshed", scope=None, max_bytes=AUTH_MAX_BYTES, weight=5),
    "profile_get": ClientEvent(ProfileGet, "profile", scope="twin:profile", weight=20),
    "profile_correct": ClientEvent(ProfileCorrect, "profile_update", needs_id=True, scope="twin:profile", weight=20),
}

_BYTES_A_UNIT = 1024


def cost_of(name: str, size: int) -> float:
    """What an event of `size` bytes costs us, in units of about 0.1 ms of a core. A user has so many of them a second,
    over all connections: so whoever sends what is costly sends less of it."""
    known = CLIENT_EVENTS.get(name)
    return (known.weight if known is not None else 1) + size / _BYTES_A_UNIT


# -- server -> client ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """What the server says under a name. `is_durable`: it carries a `seq` and can be resumed."""

    payload: type[said.ServerPayload]
    meaning: str
    is_durable: bool = False


SERVER_EVENTS: Mapping[str, ServerEvent] = {
    "session_ready": ServerEvent(
        said.SessionReadyPayload, "First on every connection: who you are, where the log stands, the limits."
    ),
    "message_received": ServerEvent(
        said.MessageReceivedPayload, "What you sent is stored. `status` is accepted or duplicate."
    ),
    "user_message": ServerEvent(
        said.UserMessagePayload, "Another of the user's devices said something.", is_durable=True
    ),
    "twin_thinking": ServerEvent(
        said.TwinThinkingPayload, "Where the answer stands: queued, recalling, thinking, done."
    ),
    "twin_message_chunk": ServerEvent(said.TwinMessageChunkPayload, "The next piece of an answer."),
    "twin_message": ServerEvent(said.TwinMessagePayload, "A whole answer, and how it ended.", is_durable=True),
    "profile_update": ServerEvent(
        said.ProfileUpdatePayload, "What the twin now believes otherwise, and why.", is_durable=True
    ),
    "profile": ServerEvent(said.ProfilePayload, "The profile as it stands."),
    "typing_indicator": ServerEvent(said.TypingIndicatorPayload, "Another device is typing."),
    "read_receipt": ServerEvent(said.ReadReceiptPayload, "Another device has read up to here.", is_durable=True),
    "feedback": ServerEvent(said.FeedbackPayload, "Another device rated an answer.", is_durable=True),
    "context_update": ServerEvent(said.ContextUpdatePayload, "Another device changed the host context."),
    "presence": ServerEvent(said.PresencePayload, "A device joined or left."),
    "heartbeat_ack": ServerEvent(said.HeartbeatAckPayload, "The server's time and the newest seq."),
    "resumed": ServerEvent(said.ResumedPayload, "All that was missed has been sent."),
    "resync": ServerEvent(said.ResyncPayload, "Live delivery had a gap: send resume."),
    "history": ServerEvent(said.HistoryPagePayload, "A page of the conversation, oldest first."),
    "conversations": ServerEvent(said.ConversationListPayload, "The user's conversations, newest first."),
    "auth_refreshed": ServerEvent(said.AuthRefreshedPayload, "The fresh token is in force."),
    "auth_expiring": ServerEvent(said.AuthExpiringPayload, "The token ends soon."),
    "server_draining": ServerEvent(
        said.ServerDrainingPayload, "This server goes away: reconnect after the time given."
    ),
    "error": ServerEvent(said.ErrorPayload, "What failed, by code."),
}
EPHEMERAL_EVENTS = frozenset({"typing_indicator"})
DURABLE_EVENTS = frozenset(name for name, event in SERVER_EVENTS.items() if event.is_durable)

P = TypeVar("P", bound=Payload)


@dataclass(frozen=True, slots=True)
class Incoming(Generic[P]):
    """A client's event that has passed validation."""

    type: str
    payload: P
    message_id: str | None
    conversation_id: str
    session_id: str | None
    raw: Mapping[str, Any]

    @property
    def required_id(self) -> str:
        """The id of an event whose type requires one; `parse` has seen to it."""
        if self.message_id is None:
            raise InvalidMessage("A message_id is required.", field="metadata.message_id")
        return self.message_id


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event on its way to clients. `message_id` and `at` are stamped by whoever makes it."""

    type: str
    payload: Mapping[str, Any]
    message_id: str
    at: datetime
    session_id: str | None = None
    in_response_to: str | None = None
    conversation_id: str | None = None
    seq: int | None = None

    @classmethod
    def of(cls, event: Event) -> Outgoing:
        """A durable event as every device sees it, live or resumed."""
        return cls(
            event.type,
            event.payload,
            event.message_id,
            event.at,
            event.session_id,
            event.in_response_to,
            event.conversation_id,
            event.seq,
        )

    def envelope(self) -> dict[str, Any]:
        """The wire's form; fields without a value are left out."""
        metadata: dict[str, Any] = {"timestamp": iso(self.at), "message_id": self.message_id}
        if self.session_id is not None:
            metadata["session_id"] = self.session_id
        if self.in_response_to is not None:
            metadata["in_response_to"] = self.in_response_to
        if self.conversation_id is not None:
            metadata["conversation_id"] = self.conversation_id
        if self.seq is not None:
            metadata["seq"] = self.seq
        return {"type": self.type, "payload": self.payload, "metadata": metadata}


def error_payload(error: ServiceError, error_id: str | None = None) -> dict[str, Any]:
    """`{code, message, retryable, retry_after_ms?, field?, error_id?}`."""
    payload: dict[str, Any] = {"code": error.code, "message": error.message, "retryable": error.retryable}
    if error.retry_after_ms is not None:
        payload["retry_after_ms"] = error.retry_after_ms
    if error.field is not None:
        payload["field"] = error.field
    if error_id is not None:
        payload["error_id"] = error_id
    return payload


def parse(event: str, args: Sequence[object]) -> Incoming[Any]:
    """What a client sent under `event`, typed.

    Raises `UnknownType`, `TooLarge` (over 64 KiB, or 4 KiB where the event needs no more) or `InvalidMessage` with the
    field's path; the texts never hold what the client sent.
    """
    known = CLIENT_EVENTS.get(event)
    if known is None:
        raise UnknownType()
    if len(args) != 1 or not isinstance(args[0], dict):
        raise InvalidMessage("An event carries exactly one argument: the envelope, an object.", field="envelope")
    envelope = args[0]
    data = _encoded(envelope)
    if data is not None and len(data) > known.max_bytes:  # before the values are looked at: that takes ten times longer
        raise TooLarge(f"An envelope of this event has at most {known.max_bytes} bytes.")
    if data is None or _needs_full_check(data):
        _check_values(envelope, "", 1)
    if data is None:
        raise TooLarge(f"An envelope of this event has at most {known.max_bytes} bytes.")
    if envelope.get("type", event) != event:
        raise InvalidMessage("The type must equal the event's name.", field="type")
    metadata = _validated(Metadata, envelope.get("metadata", {}), "metadata")
    if known.needs_id and metadata.message_id is None:
        raise InvalidMessage("A message_id is required.", field="metadata.message_id")
    if metadata.message_id is not None and metadata.message_id.startswith(RESERVED_ID_PREFIXES):
        raise InvalidMessage("Ids that begin so are the service's own.", field="metadata.message_id")
    # Events without a payload may leave it out; where one is needed its fields are found missing.
    payload = _validated(known.payload, envelope.get("payload", {}), "payload")
    return Incoming(
        event,
        payload,
        metadata.message_id,
        metadata.conversation_id,
        metadata.session_id,
        envelope.get("payload", {}),
    )


def parse_auth(auth: object) -> Auth:
    """The handshake's `auth`; nothing at all counts as an empty object. Raises `InvalidMessage`."""
    if auth is None:
        return Auth()
    if not isinstance(auth, dict):
        raise InvalidMessage("The auth payload must be an object.", field="auth")
    data = _encoded(auth)
    if data is not None and len(data) > AUTH_MAX_BYTES:
        raise InvalidMessage(f"The auth payload has at most {AUTH_MAX_BYTES} bytes.", field="auth")
    if data is None or _needs_full_check(data):
        _check_values(auth, "auth", 1)
    return _validated(Auth, auth, "auth")


def token_of(auth: object) -> str | None:
    """The token of a handshake's `auth`, before anything else in it is looked at. Raises `InvalidMessage`."""
    if auth is None:
        return None
    token = auth.get("token") if isinstance(auth, dict) else 0
    if token is not None and not isinstance(token, str):
        raise InvalidMessage("The auth payload must be an object, its token a text.", field="auth")
    return token


def is_id(text: str) -> bool:
    """Whether the text fits an id field."""
    return re.fullmatch(ID_PATTERN, text) is not None and not text.endswith("\n")


M = TypeVar("M", bound=BaseModel)


def _validated(model: type[M], value: object, where: str) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        # Only the path and the kind of the fault: the error's own text quotes the user.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join([where, *(str(part) for part in first["loc"])])
        raise InvalidMessage(f"The field is refused: {first['type']}.", field=path[:200]) from None


_ODD = re.compile(rb"\\u0000|[0-9]{16}|[eE][+-]?[0-9]{3}")


def _encoded(envelope: object) -> bytes | None:
    """None: it cannot be encoded, for a reason that `_check_values` names."""
    try:
        return orjson.dumps(envelope)
    except TypeError:
        return None


def _needs_full_check(data: bytes) -> bool:
    """Whether something may be in it that `_check_values` refuses: deep nesting, NUL, large numbers. A look over the
    bytes costs a tenth of that, and as a rule there is nothing."""
    return data.count(b"{") + data.count(b"[") >= DEPTH_MAX or _ODD.search(data) is not None


# A dict or list on the way to a value: itself, its depth, the step above it and its key or index there. So the path of
# a value is written down where the value is refused, and never otherwise.
_Step = tuple[Any, int, Any, object]


def _check_values(value: dict[str, Any], name: str, depth: int) -> None:
    """Refuse what cannot be stored or encoded again: too deep, not finite, too large a number, NUL, lone surrogates.

    Linear, and some 50 ns for each value.
    """
    todo: list[_Step] = [(value, depth, None, name)]
    while todo:
        step = todo.pop()
        found, level = step[0], step[1]
        if level >= DEPTH_MAX and found:
            first = next(iter(found)) if type(found) is dict else 0
            raise _refused_value(f"Values nest at most {DEPTH_MAX} deep.", step, first)
        if type(found) is dict:
            for key in found:
                if "\x00" in key or not (key.isascii() or _is_storable(key)):
                    raise _refused_value("Text holds a character that cannot be stored.", step)
        for key, child in found.items() if type(found) is dict else enumerate(found):
            kind = type(child)
            if kind is str:
                if "\x00" in child or not (child.isascii() or _is_storable(child)):
                    raise _refused_value("Text holds a character that cannot be stored.", step, key)
            elif kind is int:
                if not -_INT_MAX <= child <= _INT_MAX:
                    raise _refused_value("A number is out of range.", step, key)
            elif kind is dict or kind is list:
                if child:
                    todo.append((child, level + 1, step, key))
            elif kind is float:
                if not math.isfinite(child):
                    raise _refused_value("A number is out of range.", step, key)
            elif kind is not bool and child is not None:
                raise _refused_value("Only JSON values are taken, no binary.", step, key)


def _refused_value(text: str, step: _Step, *key: object) -> InvalidMessage:
    parts = [str(one) for one in reversed(key)]
    at: _Step | None = step
    while at is not None:
        parts.append(str(at[3]))
        at = at[2]
    return InvalidMessage(text, field=".".join(part for part in reversed(parts) if part)[:200] or "envelope")


def _is_storable(text: str) -> bool:
    try:
        _clean(text)
    except ValueError:
        return False
    return True


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386 JSON Merge Patch; neither argument is changed."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result
