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

from twin_sio import server_events as said
from twin_sio.clock import iso
from twin_sio.domain import DEFAULT_CONVERSATION, Event
from twin_sio.errors import InvalidMessage, ServiceError, TooLarge, UnknownType

PROTOCOL_VERSION = 1
TEXT_MAX = 8_000
ENVELOPE_MAX_BYTES = 64 * 1024
DEPTH_MAX = 16
PAGE_MAX = 200
PAGE_DEFAULT = 50
ID_PATTERN = r"^[A-Za-z0-9._:-]{1,128}$"
_INT_MAX = 2**53 - 1


def _clean(value: str) -> str:
    """Text that every store and every encoder can hold: no NUL, no lone surrogate."""
    if "\x00" in value:
        raise ValueError("NUL")
    value.encode("utf-8")
    return value


def _clean_json(value: dict[str, Any]) -> dict[str, Any]:
    _walk(value, "context", 2)
    return value


Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=TEXT_MAX), AfterValidator(_clean)]
Short = Annotated[str, StringConstraints(max_length=200), AfterValidator(_clean)]
Context = Annotated[dict[str, Any], AfterValidator(_clean_json)]
Timestamp = Annotated[AwareDatetime, Field(strict=False)]


class Wire(BaseModel):
    """Base of every payload: frozen, strict about types, lenient about unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Metadata(Wire):
    """What a client may say around its payload; the server stamps its own time."""

    timestamp: Timestamp | None = None
    session_id: Id | None = None
    message_id: Id | None = None
    conversation_id: Id = DEFAULT_CONVERSATION


# -- client -> server ------------------------------------------------------------------------------------------------


class UserMessage(Wire):
    text: Text
    context: Context | None = None


class ContextUpdate(Wire):
    context: Context
    mode: Literal["merge", "replace"] = "merge"


class Feedback(Wire):
    message_id: Id
    rating: Literal["up", "down", "none"]
    comment: Annotated[str, StringConstraints(max_length=2_000), AfterValidator(_clean)] | None = None
    tags: Annotated[list[Short], Field(max_length=20)] | None = None
    correction: Annotated[str, StringConstraints(max_length=TEXT_MAX), AfterValidator(_clean)] | None = None


class TypingIndicator(Wire):
    is_typing: bool


class ReadReceipt(Wire):
    message_id: Id


class Heartbeat(Wire):
    pass


class Resume(Wire):
    last_seq: Annotated[int, Field(ge=0, le=_INT_MAX)]


class StopGeneration(Wire):
    message_id: Id


class Regenerate(Wire):
    message_id: Id


class History(Wire):
    before: Id | None = None
    after: Id | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT


class Conversations(Wire):
    pass


class AuthRefresh(Wire):
    token: Annotated[str, StringConstraints(min_length=1, max_length=16_384)]


class ProfileGet(Wire):
    pass


class ProfileCorrect(Wire):
    trait_id: Id
    action: Literal["confirm", "reject", "edit"]
    value: Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_clean)] | None = None


class DeviceInfo(Wire):
    name: Short | None = None
    platform: Short | None = None
    app_version: Short | None = None


class Auth(Wire):
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
    """What a client may send under a name: its payload, whether an id is required, the scope it takes, and the event
    that answers it where one does."""

    payload: type[Wire]
    answer: str | None = None
    needs_id: bool = False
    scope: Scope | None = "twin:chat"


CLIENT_EVENTS: Mapping[str, ClientEvent] = {
    "user_message": ClientEvent(UserMessage, "message_received", needs_id=True),
    "context_update": ClientEvent(ContextUpdate, "message_received"),
    "feedback": ClientEvent(Feedback, "message_received", needs_id=True),
    "typing_indicator": ClientEvent(TypingIndicator),
    "read_receipt": ClientEvent(ReadReceipt),
    "heartbeat": ClientEvent(Heartbeat, "heartbeat_ack", scope=None),
    "resume": ClientEvent(Resume, "resumed"),
    "stop_generation": ClientEvent(StopGeneration),
    "regenerate": ClientEvent(Regenerate, "message_received", needs_id=True),
    "history": ClientEvent(History, "history"),
    "conversations": ClientEvent(Conversations, "conversations"),
    "auth_refresh": ClientEvent(AuthRefresh, "auth_refreshed", scope=None),
    "profile_get": ClientEvent(ProfileGet, "profile", scope="twin:profile"),
    "profile_correct": ClientEvent(ProfileCorrect, "profile_update", needs_id=True, scope="twin:profile"),
}

# -- server -> client ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """What the server says under a name. `is_durable`: it carries a `seq` and can be resumed."""

    payload: type[said.Said]
    meaning: str
    is_durable: bool = False


SERVER_EVENTS: Mapping[str, ServerEvent] = {
    "session_ready": ServerEvent(
        said.SessionReady, "First on every connection: who you are, where the log stands, the limits."
    ),
    "message_received": ServerEvent(
        said.MessageReceived, "What you sent is stored. `status` is accepted or duplicate."
    ),
    "user_message": ServerEvent(said.UserMessageSent, "Another of the user's devices said something.", is_durable=True),
    "twin_thinking": ServerEvent(said.TwinThinking, "Where the answer stands: queued, recalling, thinking, done."),
    "twin_message_chunk": ServerEvent(said.TwinMessageChunk, "The next piece of an answer."),
    "twin_message": ServerEvent(said.TwinMessage, "A whole answer, and how it ended.", is_durable=True),
    "profile_update": ServerEvent(
        said.ProfileUpdate, "What the twin now believes otherwise, and why.", is_durable=True
    ),
    "profile": ServerEvent(said.ProfileShown, "The profile as it stands."),
    "typing_indicator": ServerEvent(said.TypingSeen, "Another device is typing."),
    "read_receipt": ServerEvent(said.ReadSeen, "Another device has read up to here.", is_durable=True),
    "feedback": ServerEvent(said.FeedbackSeen, "Another device rated an answer.", is_durable=True),
    "context_update": ServerEvent(said.ContextSeen, "Another device changed the host context."),
    "presence": ServerEvent(said.Presence, "A device joined or left."),
    "heartbeat_ack": ServerEvent(said.HeartbeatAck, "The server's time and the newest seq."),
    "resumed": ServerEvent(said.Resumed, "All that was missed has been sent."),
    "resync": ServerEvent(said.Resync, "Live delivery had a gap: send resume."),
    "history": ServerEvent(said.HistoryPage, "A page of the conversation, oldest first."),
    "conversations": ServerEvent(said.ConversationList, "The user's conversations, newest first."),
    "auth_refreshed": ServerEvent(said.AuthRefreshed, "The fresh token is in force."),
    "auth_expiring": ServerEvent(said.AuthExpiring, "The token ends soon."),
    "server_draining": ServerEvent(said.ServerDraining, "This server goes away: reconnect after the time given."),
    "error": ServerEvent(said.ErrorTold, "What failed, by code."),
}
EPHEMERAL_EVENTS = frozenset({"typing_indicator"})
DURABLE_EVENTS = frozenset(name for name, event in SERVER_EVENTS.items() if event.is_durable)

P = TypeVar("P", bound=Wire)


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

    Raises `UnknownType`, `TooLarge` (over 64 KiB) or `InvalidMessage` with the field's path; the texts never hold
    what the client sent.
    """
    known = CLIENT_EVENTS.get(event)
    if known is None:
        raise UnknownType()
    if len(args) != 1 or not isinstance(args[0], dict):
        raise InvalidMessage("An event carries exactly one argument: the envelope, an object.", field="envelope")
    envelope = args[0]
    data = _encoded(envelope)
    if data is None or _is_odd(data):
        _walk(envelope, "", 1)
    if data is None or len(data) > ENVELOPE_MAX_BYTES:
        raise TooLarge(f"An envelope has at most {ENVELOPE_MAX_BYTES} bytes.")
    if envelope.get("type", event) != event:
        raise InvalidMessage("The type must equal the event's name.", field="type")
    metadata = _validated(Metadata, envelope.get("metadata", {}), "metadata")
    if known.needs_id and metadata.message_id is None:
        raise InvalidMessage("A message_id is required.", field="metadata.message_id")
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
    _walk(auth, "auth", 1)
    return _validated(Auth, auth, "auth")


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
    """None: it cannot be encoded, for a reason that `_walk` names, or there is too much of it."""
    try:
        return orjson.dumps(envelope)
    except TypeError:
        return None


def _is_odd(data: bytes) -> bool:
    """Whether something may be in it that `_walk` refuses: deep nesting, NUL, large numbers. A look over the bytes
    costs a tenth of the walk, and as a rule there is nothing."""
    return data.count(b"{") + data.count(b"[") >= DEPTH_MAX or _ODD.search(data) is not None


def _walk(value: object, path: str, depth: int) -> None:
    """Refuse what cannot be stored or re-encoded: too deep, not finite, too large a number, NUL, lone surrogates."""
    stack: list[tuple[object, str, int]] = [(value, path, depth)]
    while stack:
        item, where, level = stack.pop()
        if level > DEPTH_MAX:
            raise InvalidMessage(f"Values nest at most {DEPTH_MAX} deep.", field=where[:200] or "envelope")
        if isinstance(item, str):
            _storable(item, where)
        elif isinstance(item, bool) or item is None:
            continue
        elif isinstance(item, int | float):
            if not math.isfinite(item) or (abs(item) > _INT_MAX and isinstance(item, int)):
                raise InvalidMessage("A number is out of range.", field=where[:200])
        elif isinstance(item, dict):
            for key, inner in item.items():
                _storable(key, where)
                stack.append((inner, f"{where}.{key}" if where else key, level + 1))
        elif isinstance(item, list):
            stack.extend((inner, f"{where}.{index}", level + 1) for index, inner in enumerate(item))
        else:
            raise InvalidMessage("Only JSON values are taken, no binary.", field=where[:200] or "envelope")


def _storable(text: str, where: str) -> None:
    try:
        _clean(text)
    except ValueError:
        raise InvalidMessage("Text holds a character that cannot be stored.", field=where[:200] or "envelope") from None


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
